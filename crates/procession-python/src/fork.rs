//! Forking the interpreter: what `os.fork` does, with a seat in the family for the child.
//!
//! `os.fork` also counts the threads of the process, to warn of those that won't exist in the child;
//! it can't tell the engine's own, which hold nothing that a child needs, from the program's.

#![expect(
    unsafe_code,
    reason = "the interpreter's own steps around a fork are C functions without a safe form"
)]

use std::os::fd::{IntoRawFd, RawFd};

use procession_engine as engine;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::error::OrRaise;
use crate::family;

/// Forks; the child has the seat. Returns (pid, pidfd) of the child, and in the child 0 and a pidfd of its
/// parent, or -1 if it can't be had: then [`pidfd_of_parent`] says why.
///
/// OSError if there can be no more processes, or if no descriptor is left for the pidfd; then the
/// seat is still the caller's to cancel.
#[pyfunction]
pub(crate) fn fork(py: Python<'_>, seat: u64) -> PyResult<(u32, RawFd)> {
    let seat = family::seat(seat)?;
    let parent = std::process::id();
    // SAFETY: the interpreter is held. What this locks is let go of by one of the two calls below.
    unsafe { ffi::PyOS_BeforeFork() };
    let forked = engine::fork_child(seat);
    if let Ok(None) = forked {
        // SAFETY: this is the child, and its only thread is the one that called PyOS_BeforeFork.
        unsafe { ffi::PyOS_AfterFork_Child() };
        let pidfd = engine::process::pidfd_of_parent(parent);
        // An error here would be raised in the midst of what only the parent is to do.
        return Ok((0, pidfd.map_or(-1, IntoRawFd::into_raw_fd)));
    }
    // SAFETY: this is the parent, or nothing was forked; it is the thread of PyOS_BeforeFork.
    unsafe { ffi::PyOS_AfterFork_Parent() };
    let child = forked.or_raise(py)?;
    Ok(child.map_or((0, -1), |(pid, pidfd)| (pid, pidfd.into_raw_fd())))
}

/// A pidfd of our parent; one that says it has ended, if it has.
#[pyfunction]
pub(crate) fn pidfd_of_parent(py: Python<'_>, parent: u32) -> PyResult<RawFd> {
    let pidfd = engine::process::pidfd_of_parent(parent).or_raise(py)?;
    Ok(pidfd.into_raw_fd())
}
