//! `Lock`.

use procession_engine::{Lock as RawLock, NotHeld, WaitError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::owner_death::{Held, OnOwnerDeath};
use super::quick::{Originals, Quick};
use crate::arguments::{HandleBytes, Timeout, Truth};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, handle_bytes, reduce};
use crate::wait;

/// A lock between processes. Any process or thread may release it.
///
/// If its owner ends without releasing it, the next one to acquire it gets it and is told:
/// `on_owner_death` is "warn" (`OwnerDiedWarning`), "raise" (`OwnerDiedError`) or "ignore".
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Lock {
    inner: Inner<RawLock>,
    on_owner_death: OnOwnerDeath,
}

impl Lock {
    #[inline]
    fn raw(&self) -> PyResult<&RawLock> {
        self.inner.get::<Lock>()
    }

    #[inline]
    fn take(&self, py: Python<'_>, timeout: Timeout, held: Held) -> PyResult<bool> {
        let lock = self.raw()?;
        if lock.try_take() {
            return Ok(true);
        }
        self.take_slowly(py, lock, timeout, held)
    }

    #[cold]
    fn take_slowly(
        &self,
        py: Python<'_>,
        lock: &RawLock,
        timeout: Timeout,
        held: Held,
    ) -> PyResult<bool> {
        let quick = lock.acquire(&mut Timeout::ZERO.patience());
        let acquired = match quick {
            Err(WaitError::TimedOut) if !timeout.is_zero() => {
                if wait::spin(|| lock.try_take().then_some(())).is_some() {
                    return Ok(true);
                }
                // What is raised meanwhile must not leave it locked: not acquired then.
                wait::blocking_or_undo(
                    py,
                    timeout,
                    |patience| lock.acquire(patience),
                    |_| undo(lock),
                )?
            }
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
}

impl Lock {
    /// Acquires it again after a wait. It is held when this returns, whatever it raises.
    pub(super) fn acquire_again(&self, py: Python<'_>) -> PyResult<()> {
        let lock = self.raw()?;
        let mut raised = None;
        loop {
            match wait::blocking(py, Timeout::FOREVER, |patience| lock.acquire(patience)) {
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
fn undo(lock: &RawLock) {
    // It is held: that can't fail, unless another process has released it meanwhile.
    let _ = lock.release();
}

static ORIGINALS: Originals = Originals::new();

impl Quick for Lock {
    const ORIGINALS: &'static Originals = &ORIGINALS;
    type Error = NotHeld;

    #[inline]
    fn take_quickly(&self) -> bool {
        self.inner.get_opt().is_some_and(RawLock::try_take)
    }

    #[inline]
    fn release_quickly(&self) -> Option<Result<(), NotHeld>> {
        self.inner.get_opt().map(RawLock::release)
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(*, on_owner_death='warn')")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Lock {
        Lock {
            inner: Inner::new(),
            on_owner_death: OnOwnerDeath::new(),
        }
    }

    #[pyo3(signature = (*, on_owner_death="warn"))]
    fn __init__(&self, py: Python<'_>, on_owner_death: &str) -> PyResult<()> {
        self.on_owner_death.set(on_owner_death)?;
        self.inner.make(|| RawLock::new().or_raise(py))
    }

    /// Acquires the lock and returns True; returns False if it is not to be had in the time given.
    #[pyo3(signature = (block=Truth(true), timeout=Timeout::FOREVER), text_signature = "($self, block=True, timeout=None)")]
    fn acquire(&self, py: Python<'_>, block: Truth, timeout: Timeout) -> PyResult<bool> {
        self.take(py, timeout.if_blocking(block), Held::IfAskedFor)
    }

    /// Releases the lock, whoever acquired it. ValueError if nobody did.
    pub(super) fn release(&self, py: Python<'_>) -> PyResult<()> {
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
    fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyBytes>> {
        Ok(handle_bytes(py, self.raw()?.handle()))
    }

    /// Whether the calling thread acquired it.
    fn _is_owned(&self) -> PyResult<bool> {
        let thread = rustix::thread::gettid()
            .as_raw_nonzero()
            .get()
            .unsigned_abs();
        let owner = self.raw()?.owner();
        Ok(owner.is_some_and(|owner| owner.thread == thread && owner.pid == std::process::id()))
    }

    fn _release_save(&self, py: Python<'_>) -> PyResult<u32> {
        self.release(py).map(|()| 1)
    }

    #[pyo3(signature = (_saved=1))]
    fn _acquire_restore(&self, py: Python<'_>, _saved: u32) -> PyResult<()> {
        self.acquire_again(py)
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
        self.inner.adopt(py, &handle, RawLock::from_handle)
    }
}
