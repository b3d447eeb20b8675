//! `Semaphore` and `BoundedSemaphore`.

use procession_engine::{Semaphore as RawSemaphore, WaitError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::arguments::{HandleBytes, Timeout, Truth};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, handle_bytes, reduce};
use crate::wait::{self, Awaited};

const MAX_VALUE: i128 = i32::MAX as i128;

fn checked_value(value: i128) -> PyResult<u32> {
    if (0..=MAX_VALUE).contains(&value) {
        // Between 0 and 2^31: fits.
        return Ok(value as u32);
    }
    Err(PyValueError::new_err(format!(
        "a semaphore can't start at {value}: from 0 to {MAX_VALUE} it can"
    )))
}

fn checked_count(count: i128) -> PyResult<u32> {
    if (1..=MAX_VALUE).contains(&count) {
        return Ok(count as u32);
    }
    Err(PyValueError::new_err(format!(
        "a semaphore can't be released {count} times: n must be from 1 to {MAX_VALUE}"
    )))
}

/// Gives back what was acquired a moment ago.
fn undo(semaphore: &RawSemaphore) {
    // It is held: that can't fail, unless another process has released it meanwhile.
    let _ = semaphore.release(1);
}

#[inline]
fn take(py: Python<'_>, semaphore: &RawSemaphore, timeout: Timeout) -> PyResult<bool> {
    let quick = semaphore.acquire(&mut Timeout::ZERO.patience());
    let acquired = if quick == Err(WaitError::TimedOut) && !timeout.is_zero() {
        take_slowly(py, semaphore, timeout)?
    } else {
        quick
    };
    match acquired {
        Ok(()) => Ok(true),
        Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
    }
}

#[cold]
fn take_slowly(
    py: Python<'_>,
    semaphore: &RawSemaphore,
    timeout: Timeout,
) -> PyResult<Result<(), WaitError>> {
    if wait::spin(|| semaphore.acquire(&mut Timeout::ZERO.patience()).ok()).is_some() {
        return Ok(Ok(()));
    }
    let awaited = Awaited::new(semaphore.handle(), "release this semaphore");
    wait::blocking_for(
        py,
        timeout,
        awaited,
        |patience| semaphore.acquire(patience),
        |()| undo(semaphore),
    )
}

macro_rules! semaphore_class {
    ($(#[$doc:meta])* $name:ident, $make:path) => {
        $(#[$doc])*
        #[pyclass(frozen, subclass, module = "procession._procession")]
        pub(crate) struct $name(Inner<RawSemaphore>);

        impl $name {
            #[inline]
            fn raw(&self) -> PyResult<&RawSemaphore> {
                self.0.get::<$name>()
            }
        }

        #[pymethods]
        impl $name {
            #[new]
            #[pyo3(signature = (*_args, **_kwargs), text_signature = "(value=1)")]
            fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> $name {
                $name(Inner::new())
            }

            #[pyo3(signature = (value=1))]
            fn __init__(&self, py: Python<'_>, value: i128) -> PyResult<()> {
                let value = checked_value(value)?;
                self.0.make(|| $make(value).or_raise(py))
            }

            /// Takes a permit and returns True; returns False if none is to be had in the time given.
            #[pyo3(
                signature = (block=Truth(true), timeout=Timeout::FOREVER),
                text_signature = "($self, block=True, timeout=None)"
            )]
            fn acquire(&self, py: Python<'_>, block: Truth, timeout: Timeout) -> PyResult<bool> {
                take(py, self.raw()?, timeout.if_blocking(block))
            }

            /// Gives `n` permits. ValueError if there would be too many; then none is given.
            #[pyo3(signature = (n=1))]
            fn release(&self, py: Python<'_>, n: i128) -> PyResult<()> {
                self.raw()?.release(checked_count(n)?).or_raise(py)
            }

            /// How many permits are free.
            fn get_value(&self) -> PyResult<u32> {
                Ok(self.raw()?.value())
            }

            /// Whether no permit is free.
            fn locked(&self) -> PyResult<bool> {
                Ok(self.raw()?.value() == 0)
            }

            /// How many sleep waiting for a permit, about.
            fn waiters(&self) -> PyResult<u32> {
                Ok(self.raw()?.waiters())
            }

            fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
                take(py, self.raw()?, Timeout::FOREVER)
            }

            #[pyo3(signature = (_exc_type=None, _exc_value=None, _exc_tb=None))]
            fn __exit__(
                &self,
                py: Python<'_>,
                _exc_type: Option<&Bound<'_, PyAny>>,
                _exc_value: Option<&Bound<'_, PyAny>>,
                _exc_tb: Option<&Bound<'_, PyAny>>,
            ) -> PyResult<()> {
                self.raw()?.release(1).or_raise(py)
            }

            /// The name of the semaphore in the family, 16 bytes.
            #[getter]
            fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
                Ok(handle_bytes(py, self.raw()?.handle()))
            }

            fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
                reduce(slf.as_any(), slf.get().raw()?.handle(), 0)
            }

            fn _adopt(&self, py: Python<'_>, handle: HandleBytes, _own: u8) -> PyResult<()> {
                self.0.adopt(py, &handle, RawSemaphore::from_handle)
            }
        }
    };
}

semaphore_class! {
    /// A counter of permits between processes. It may be used for signalling, so the permits of a
    /// process that dies are not given back.
    Semaphore, RawSemaphore::new
}

semaphore_class! {
    /// A counter of permits between processes that never has more than it started with. The permits
    /// of a process that dies go to whoever waits.
    BoundedSemaphore, RawSemaphore::bounded
}
