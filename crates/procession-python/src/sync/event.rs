//! `Event`.

use procession_engine::{Event as RawEvent, WaitError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments::{HandleBytes, Timeout};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, reduce};
use crate::wait::{self, Awaited};

/// A flag between processes, to wait for.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Event(Inner<RawEvent>);

impl Event {
    fn raw(&self) -> PyResult<&RawEvent> {
        self.0.get::<Event>()
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Event {
        Event(Inner::new())
    }

    fn __init__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.make(|| RawEvent::new().or_raise(py))
    }

    /// Whether the flag is set.
    fn is_set(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_set())
    }

    /// Sets the flag and lets everybody through who waits.
    fn set(&self) -> PyResult<()> {
        self.raw()?.set();
        Ok(())
    }

    /// Clears the flag.
    fn clear(&self) -> PyResult<()> {
        self.raw()?.clear();
        Ok(())
    }

    /// Waits until the flag is set and returns True; returns False if it is not in the time given.
    #[pyo3(signature = (timeout=Timeout::FOREVER), text_signature = "($self, timeout=None)")]
    fn wait(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let event = self.raw()?;
        if event.is_set()
            || (!timeout.is_zero() && wait::spin(|| event.is_set().then_some(())).is_some())
        {
            return Ok(true);
        }
        if timeout.is_zero() {
            return Ok(false);
        }
        let awaited = Awaited::new(event.handle(), "set this event");
        match wait::blocking_for(py, timeout, awaited, |patience| event.wait(patience), drop)? {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        reduce(slf.as_any(), slf.get().raw()?.handle(), 0)
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, _own: u8) -> PyResult<()> {
        self.0.adopt(py, &handle, RawEvent::from_handle)
    }
}
