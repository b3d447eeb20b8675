//! `Barrier`, less the action, which the Python class runs between `begin` and `finish`.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use procession_engine::{Arrival, Barrier as RawBarrier, WaitError};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments::{HandleBytes, Timeout};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, reduce};
use crate::wait;

/// A meeting point for a fixed number of threads of any processes. If one of them dies that has
/// arrived, the barrier is broken.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Barrier {
    inner: Inner<RawBarrier>,
    /// The leader's arrival, until it calls `finish`. Locked for a moment with the interpreter held,
    /// so never across a fork.
    leading: Mutex<Option<Arrival>>,
}

impl Barrier {
    fn raw(&self) -> PyResult<&RawBarrier> {
        self.inner.get::<Barrier>()
    }
}

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(parties)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Barrier {
        Barrier {
            inner: Inner::new(),
            leading: Mutex::new(None),
        }
    }

    fn __init__(&self, py: Python<'_>, parties: i128) -> PyResult<()> {
        let wrong = || {
            PyValueError::new_err(format!(
                "a barrier can't be for {parties} parties: it takes at least 1, and less than 2**24"
            ))
        };
        let parties = u32::try_from(parties)
            .ok()
            .filter(|&parties| parties < 1 << 24)
            .and_then(NonZeroU32::new)
            .ok_or_else(wrong)?;
        self.inner.make(|| RawBarrier::new(parties).or_raise(py))
    }

    /// Arrives and waits for the others. Returns the place (0 for the last to arrive) and whether
    /// this is the leader: it does not wait, and must call `finish` or `abort`.
    #[pyo3(signature = (timeout=Timeout::FOREVER), text_signature = "($self, timeout=None)")]
    fn begin(&self, py: Python<'_>, timeout: Timeout) -> PyResult<(u32, bool)> {
        let barrier = self.raw()?;
        let arrival =
            wait::blocking(py, timeout, |patience| barrier.arrive(patience))?.or_raise(py)?;
        if arrival.leader {
            *self.leading.lock().unwrap_or_else(PoisonError::into_inner) = Some(arrival);
        }
        Ok((arrival.index, arrival.leader))
    }

    /// Arrives and waits for the others; the leader calls `action` first. Returns the place, 0 for the
    /// first to arrive. In one step, so that no signal's handler comes between the leader's arrival
    /// and the others' release.
    #[pyo3(signature = (timeout=Timeout::FOREVER, action=None), text_signature = "($self, timeout=None, action=None)")]
    fn _pass(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        action: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u32> {
        let barrier = self.raw()?;
        let arrival =
            wait::blocking(py, timeout, |patience| barrier.arrive(patience))?.or_raise(py)?;
        if arrival.leader {
            if let Some(action) = action
                && let Err(error) = action.call0()
            {
                barrier.abort();
                return Err(error);
            }
            barrier.finish(&arrival).or_raise(py)?;
        }
        Ok(barrier.parties() - 1 - arrival.index)
    }

    /// The leader lets the others through.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        let arrival = self
            .leading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let arrival = arrival.ok_or_else(|| {
            PyRuntimeError::new_err("finish() is for the leader of the barrier, after begin()")
        })?;
        self.raw()?.finish(&arrival).or_raise(py)
    }

    /// Breaks the barrier: who waits, and who comes, gets BrokenBarrierError.
    fn abort(&self) -> PyResult<()> {
        self.raw()?.abort();
        Ok(())
    }

    /// Empties the barrier and makes it whole: who waits gets BrokenBarrierError, who comes does not.
    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        let barrier = self.raw()?;
        match wait::blocking(py, Timeout::FOREVER, |patience| barrier.reset(patience))? {
            Ok(()) | Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(()),
        }
    }

    /// How many it takes.
    #[getter]
    fn parties(&self) -> PyResult<u32> {
        Ok(self.raw()?.parties())
    }

    /// How many wait in it now.
    #[getter]
    fn n_waiting(&self) -> PyResult<u32> {
        Ok(self.raw()?.waiting())
    }

    /// Whether it is broken.
    #[getter]
    fn broken(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_broken())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        reduce(slf.as_any(), slf.get().raw()?.handle(), 0)
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, _own: u8) -> PyResult<()> {
        self.inner.adopt(py, &handle, RawBarrier::from_handle)
    }
}
