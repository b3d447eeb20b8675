//! Locks, semaphores, events, barriers, and what conditions are made of.
//!
//! Each method first tries with the interpreter held, without building anything; only one that has
//! to wait lets go of it.

mod barrier;
mod event;
mod lock;
mod owner_death;
mod rlock;
mod semaphore;
mod wait_queue;

pub(crate) use barrier::Barrier;
pub(crate) use event::Event;
pub(crate) use lock::Lock;
pub(crate) use rlock::RLock;
pub(crate) use semaphore::{BoundedSemaphore, Semaphore};
pub(crate) use wait_queue::WaitQueue;
