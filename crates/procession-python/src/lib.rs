//! `procession._procession`: the engine of Procession for the Python package.
//!
//! Waiting, locking and lifetimes are here and below; what is pickled, and how, is decided in Python.
//! Nothing here holds the interpreter while it waits, runs Python code while a lock in shared memory
//! is held, or panics across the boundary.

#![allow(missing_debug_implementations, reason = "these are Python classes")]

use pyo3::prelude::*;

mod arguments;
mod block;
mod buffer;
mod connection;
#[cfg(feature = "crash-points")]
mod crash;
mod descriptor;
mod diagnostics;
mod error;
mod family;
mod fork;
mod frozen;
mod imported;
mod pickler;
mod pickling;
mod pool;
mod pool_items;
mod pool_job;
mod pool_reply;
mod pool_result;
mod pool_worker;
mod queue;
mod shared;
mod sync;
mod wait;
mod watch;

#[pymodule(gil_used = true)]
fn _procession(module: &Bound<'_, PyModule>) -> PyResult<()> {
    for function in [
        wrap_pyfunction!(family::arena_fd, module)?,
        wrap_pyfunction!(family::join_family, module)?,
        wrap_pyfunction!(family::prepare_child, module)?,
        wrap_pyfunction!(family::cancel_child, module)?,
        wrap_pyfunction!(family::child_started, module)?,
        wrap_pyfunction!(family::fork_with, module)?,
        wrap_pyfunction!(family::fork_spare, module)?,
        wrap_pyfunction!(family::lend_to, module)?,
        wrap_pyfunction!(family::take_seat, module)?,
        wrap_pyfunction!(family::fork_done, module)?,
        wrap_pyfunction!(fork::fork, module)?,
        wrap_pyfunction!(fork::pidfd_of_parent, module)?,
        wrap_pyfunction!(family::leave, module)?,
        wrap_pyfunction!(family::reap, module)?,
        wrap_pyfunction!(family::note_exit, module)?,
        wrap_pyfunction!(family::exit_status, module)?,
        wrap_pyfunction!(family::die_with, module)?,
        wrap_pyfunction!(family::members, module)?,
        wrap_pyfunction!(family::spawn, module)?,
        wrap_pyfunction!(pickler::set_pickler_maker, module)?,
        wrap_pyfunction!(pickler::forget_pickler_maker, module)?,
        wrap_pyfunction!(diagnostics::set_deadlock_timeout, module)?,
        wrap_pyfunction!(diagnostics::deadlock_timeout, module)?,
        wrap_pyfunction!(pickling::set_pickler, module)?,
        wrap_pyfunction!(pickling::note_handle, module)?,
        wrap_pyfunction!(pickling::pack, module)?,
        wrap_pyfunction!(pickling::freeze, module)?,
        wrap_pyfunction!(pickling::unpack, module)?,
        wrap_pyfunction!(connection::pipe, module)?,
        wrap_pyfunction!(shared::_rebuild, module)?,
    ] {
        module.add_function(function)?;
    }
    #[cfg(feature = "crash-points")]
    for function in [
        wrap_pyfunction!(crash::_crash_points, module)?,
        wrap_pyfunction!(crash::_arm_crash_point, module)?,
    ] {
        module.add_function(function)?;
    }
    diagnostics::install();
    module.add_class::<block::Block>()?;
    module.add_class::<connection::Connection>()?;
    module.add_class::<pickling::Parcel>()?;
    module.add_class::<pool::PoolCore>()?;
    module.add_class::<pool::PoolFunction>()?;
    module.add_class::<pool_items::ReadyItems>()?;
    module.add_class::<pool_job::JobCore>()?;
    module.add_class::<pool_result::ApplyResult>()?;
    module.add_class::<pool_worker::WorkerCore>()?;
    module.add_class::<queue::Queue>()?;
    module.add_class::<sync::Barrier>()?;
    module.add_class::<sync::BoundedSemaphore>()?;
    module.add_class::<sync::Event>()?;
    module.add_class::<sync::Guarded>()?;
    module.add_class::<sync::Lock>()?;
    module.add_class::<sync::RLock>()?;
    module.add_class::<sync::Semaphore>()?;
    module.add_class::<sync::WaitQueue>()?;
    sync::make_quick(module.py())?;
    queue::make_quick(module.py())?;
    // Made by adding; what is private is said by its name here.
    module.delattr("__all__")
}
