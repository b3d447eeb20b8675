//! `RLock`.

use procession_engine::{NotOwner, RLock as RawRLock, WaitError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::owner_death::{Held, OnOwnerDeath};
use super::quick::{Originals, Quick};
use crate::arguments::{HandleBytes, Timeout, Truth};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, handle_bytes, reduce};
use crate::wait;

/// A lock between processes that the thread which holds it may acquire again. Only that thread can
/// release it.
///
/// If its owner ends without releasing it, the next one to acquire it gets it and is told:
/// `on_owner_death` is "warn" (`OwnerDiedWarning`), "raise" (`OwnerDiedError`) or "ignore".
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct RLock {
    inner: Inner<RawRLock>,
    on_owner_death: OnOwnerDeath,
}

impl RLock {
    #[inline]
    fn raw(&self) -> PyResult<&RawRLock> {
        self.inner.get::<RLock>()
    }

    #[inline]
    fn take(&self, py: Python<'_>, timeout: Timeout, held: Held) -> PyResult<bool> {
        let lock = self.raw()?;
        let acquired = match lock.acquire(&mut Timeout::ZERO.patience()) {
            Err(WaitError::TimedOut) if !timeout.is_zero() => Self::take_slowly(py, lock, timeout)?,
            quick => quick,
        };
        match acquired {
            Ok(acquired) => {
                self.on_owner_death
                    .report(py, acquired, held, || undo(lock))?;
                Ok(true)
            }
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
        }
    }

    #[cold]
    fn take_slowly(
        py: Python<'_>,
        lock: &RawRLock,
        timeout: Timeout,
    ) -> PyResult<Result<procession_engine::Acquired, WaitError>> {
        if let Some(acquired) = wait::spin(|| lock.acquire(&mut Timeout::ZERO.patience()).ok()) {
            return Ok(Ok(acquired));
        }
        wait::blocking_or_undo(
            py,
            timeout,
            |patience| lock.acquire(patience),
            |_| undo(lock),
        )
    }
}

impl RLock {
    /// Undoes all acquires of the calling thread and says how many there were.
    pub(super) fn release_all(&self, py: Python<'_>) -> PyResult<u32> {
        self.raw()?.release_all().or_raise(py)
    }

    /// Acquires it as often as it was before a wait. It is held when this returns, whatever it raises.
    pub(super) fn acquire_again(&self, py: Python<'_>, times: u32) -> PyResult<()> {
        let lock = self.raw()?;
        let mut raised = None;
        loop {
            match wait::blocking(py, Timeout::FOREVER, |patience| {
                lock.acquire_times(times, patience)
            }) {
                Ok(Ok(acquired)) => {
                    self.on_owner_death
                        .report(py, acquired, Held::Always, || ())?;
                    return raised.map_or(Ok(()), Err);
                }
                Ok(Err(WaitError::TimedOut | WaitError::Interrupted)) => {}
                // A signal's handler raised: that is for when the lock is held again.
                Err(error) => raised = Some(error),
            }
        }
    }
}

/// Gives back what was acquired a moment ago.
fn undo(lock: &RawRLock) {
    // It is held: that can't fail, unless another process has released it meanwhile.
    let _ = lock.release();
}

static ORIGINALS: Originals = Originals::new();

impl Quick for RLock {
    const ORIGINALS: &'static Originals = &ORIGINALS;
    type Error = NotOwner;

    #[inline]
    fn take_quickly(&self) -> bool {
        self.inner.get_opt().is_some_and(RawRLock::try_take)
    }

    #[inline]
    fn release_quickly(&self) -> Option<Result<(), NotOwner>> {
        self.inner.get_opt().map(RawRLock::release)
    }
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(*, on_owner_death='warn')")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> RLock {
        RLock {
            inner: Inner::new(),
            on_owner_death: OnOwnerDeath::new(),
        }
    }

    #[pyo3(signature = (*, on_owner_death="warn"))]
    fn __init__(&self, py: Python<'_>, on_owner_death: &str) -> PyResult<()> {
        self.on_owner_death.set(on_owner_death)?;
        self.inner.make(|| RawRLock::new().or_raise(py))
    }

    /// Acquires the lock, or once more, and returns True; returns False if it is not to be had in
    /// the time given.
    #[pyo3(signature = (block=Truth(true), timeout=Timeout::FOREVER), text_signature = "($self, block=True, timeout=None)")]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Timeout) -> PyResult<bool> {
        self.take(py, timeout.if_blocking(block), Held::IfAskedFor)
    }

    /// Undoes one acquire. AssertionError if the calling thread does not hold the lock.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.raw()?.release().or_raise(py)
    }

    /// Whether anybody holds it.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_locked())
    }

    /// Who holds it: process id, thread id (`threading.get_native_id()`), process name. None if nobody.
    fn owner(&self) -> PyResult<Option<(u32, u32, String)>> {
        Ok(self
            .raw()?
            .owner()
            .map(|owner| (owner.pid, owner.thread, owner.name)))
    }

    /// How many sleep waiting for it, about.
    fn waiters(&self) -> PyResult<u32> {
        Ok(self.raw()?.waiters())
    }

    /// What happens when it is acquired after its owner has died: "warn", "raise" or "ignore".
    #[getter]
    fn on_owner_death(&self) -> &'static str {
        self.on_owner_death.name()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, Timeout::FOREVER, Held::Never)
    }

    #[pyo3(signature = (_exc_type=None, _exc_value=None, _exc_tb=None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _exc_type: Option<&Bound<'_, PyAny>>,
        _exc_value: Option<&Bound<'_, PyAny>>,
        _exc_tb: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        self.release(py)
    }

    /// The name of the lock in the family, 16 bytes.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(handle_bytes(py, self.raw()?.handle()))
    }

    /// Whether the calling thread holds it.
    fn _is_owned(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_mine())
    }

    /// How many times its owner has acquired it.
    fn _count(&self) -> PyResult<u32> {
        Ok(self.raw()?.count())
    }

    fn _release_save(&self, py: Python<'_>) -> PyResult<u32> {
        self.release_all(py)
    }

    #[pyo3(signature = (saved=1))]
    fn _acquire_restore(&self, py: Python<'_>, saved: u32) -> PyResult<()> {
        self.acquire_again(py, saved)
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let this = slf.get();
        reduce(
            slf.as_any(),
            this.raw()?.handle(),
            this.on_owner_death.number(),
        )
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, own: u8) -> PyResult<()> {
        self.on_owner_death.set_number(own);
        self.inner.adopt(py, &handle, RawRLock::from_handle)
    }
}
