//! Descriptors that Python code hands over as numbers.

#![allow(
    unsafe_code,
    reason = "a number says nothing about who owns the descriptor"
)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Takes over a descriptor of the caller's. `None` if the number is of no open one.
///
/// # Errors
/// `ValueError` for a number below zero.
pub(crate) fn take_over(number: RawFd) -> PyResult<Option<OwnedFd>> {
    if number < 0 {
        return Err(PyValueError::new_err(format!(
            "{number} is not a file descriptor"
        )));
    }
    // SAFETY: not -1; only asked for its flags, which fails if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::io::fcntl_getfd(borrowed).is_err() {
        return Ok(None);
    }
    // SAFETY: it is open, and the caller's contract, as that of `socket.socket(fileno=)`, is that it
    // belongs to it and now to us.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(number) }))
}
