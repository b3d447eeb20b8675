//! Locks, semaphores, events, barriers, and what conditions are made of.
//!
//! Each method first tries with the interpreter held, without building anything; only one that has
//! to wait lets go of it.

use pyo3::prelude::*;

use crate::imported::Name;

mod barrier;
mod event;
mod guarded;
mod lock;
mod owner_death;
pub(crate) mod quick;
mod rlock;
mod semaphore;
mod wait_queue;

pub(crate) use barrier::Barrier;
pub(crate) use event::Event;
pub(crate) use guarded::Guarded;
pub(crate) use lock::Lock;
pub(crate) use rlock::RLock;
pub(crate) use semaphore::{BoundedSemaphore, Semaphore};
pub(crate) use wait_queue::WaitQueue;

/// Has the calls of locks that need not wait made without PyO3. To be called once, when the classes are
/// there.
pub(crate) fn make_quick(py: Python<'_>) -> PyResult<()> {
    static NEW: Name = Name::new("__new__");
    // Of instances that are not made: nothing is shared yet.
    let lock = py.get_type::<Lock>();
    let lock = lock.call_method1(NEW.get(py), (&lock,))?;
    quick::install(lock.cast::<Lock>()?)?;
    let lock = py.get_type::<RLock>();
    let lock = lock.call_method1(NEW.get(py), (&lock,))?;
    quick::install(lock.cast::<RLock>()?)
}
