//! Arguments as Python's own functions take them: anything may be true or false, a time-out is
//! `None` or a number.

use std::time::{Duration, Instant};

use procession_engine::{Handle, Patience};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// Any object, by its truth.
#[derive(Clone, Copy)]
pub(crate) struct Truth(pub(crate) bool);

impl<'py> FromPyObject<'_, 'py> for Truth {
    type Error = PyErr;

    #[inline]
    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Truth> {
        object.is_truthy().map(Truth)
    }
}

/// Seconds to wait; `None` is for ever, less than nothing is nothing.
#[derive(Clone, Copy)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl Timeout {
    pub(crate) const FOREVER: Timeout = Timeout(None);
    pub(crate) const ZERO: Timeout = Timeout(Some(Duration::ZERO));

    /// What a call with `block` and `timeout` is to wait.
    pub(crate) fn if_blocking(self, block: Truth) -> Timeout {
        if block.0 { self } else { Timeout::ZERO }
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == Some(Duration::ZERO)
    }

    /// What is left of it, if it began then.
    pub(crate) fn after(self, begun: Instant) -> Timeout {
        Timeout(self.0.map(|all| all.saturating_sub(begun.elapsed())))
    }

    pub(crate) fn patience<'a>(self) -> Patience<'a> {
        Patience::from_option(self.0)
    }
}

impl<'py> FromPyObject<'_, 'py> for Timeout {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Timeout> {
        if object.is_none() {
            return Ok(Timeout::FOREVER);
        }
        let seconds: f64 = object.extract()?;
        if seconds.is_nan() {
            return Err(PyValueError::new_err(
                "a time-out must be a number of seconds, not nan",
            ));
        }
        if seconds <= 0.0 {
            return Ok(Timeout::ZERO);
        }
        // What is too long to be expressed is for ever.
        Ok(Timeout(Duration::try_from_secs_f64(seconds).ok()))
    }
}

/// A handle as its 16 bytes.
pub(crate) struct HandleBytes(pub(crate) Handle);

impl<'py> FromPyObject<'_, 'py> for HandleBytes {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<HandleBytes> {
        let bytes = object.cast::<PyBytes>()?;
        let bytes: [u8; 16] = bytes.as_bytes().try_into().map_err(|_| {
            PyValueError::new_err(format!(
                "a handle has 16 bytes, not {}",
                bytes.as_bytes().len()
            ))
        })?;
        Ok(HandleBytes(Handle::from_bytes(bytes)))
    }
}

/// A path or an argument of a program: `str`, as the system encodes it, or `bytes`.
pub(crate) struct SystemText(pub(crate) std::ffi::OsString);

impl<'py> FromPyObject<'_, 'py> for SystemText {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<SystemText> {
        use std::os::unix::ffi::OsStringExt;
        if let Ok(bytes) = object.cast::<PyBytes>() {
            return Ok(SystemText(std::ffi::OsString::from_vec(
                bytes.as_bytes().to_vec(),
            )));
        }
        if object.cast::<PyString>().is_ok() {
            return object.extract().map(SystemText);
        }
        Err(PyTypeError::new_err(format!(
            "expected str or bytes, not {}",
            object.get_type().name()?
        )))
    }
}
