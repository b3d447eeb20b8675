//! `WaitQueue`: what a condition is made of, beside its lock.

use procession_engine::{Ticket, WaitError, WaitQueue as RawWaitQueue};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::arguments::{HandleBytes, Timeout};
use crate::error::OrRaise;
use crate::shared::{Inner, Reduced, reduce};
use crate::sync::{Lock, RLock};
use crate::wait::{self, Awaited};

/// Those who wait for a condition, the longest-waiting first. One that is killed costs no wake-up.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct WaitQueue(Inner<RawWaitQueue>);

impl WaitQueue {
    fn raw(&self) -> PyResult<&RawWaitQueue> {
        self.0.get::<WaitQueue>()
    }
}

/// The place is kept if it was notified, and given up if not.
fn wait_at(
    py: Python<'_>,
    queue: &RawWaitQueue,
    ticket: Ticket,
    timeout: Timeout,
) -> PyResult<Result<(), WaitError>> {
    let awaited = Awaited::new(queue.handle(), "notify this condition");
    wait::blocking_for(
        py,
        timeout,
        awaited,
        |patience| queue.wait(ticket, patience),
        // A signal's handler has raised: it is another's.
        |()| queue.give_up(ticket, false),
    )
}

#[pymethods]
impl WaitQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> WaitQueue {
        WaitQueue(Inner::new())
    }

    fn __init__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.make(|| RawWaitQueue::new().or_raise(py))
    }

    /// Joins the queue; to be called while the condition's lock is held. The ticket must be waited on.
    fn enqueue(&self) -> PyResult<u32> {
        Ok(self.raw()?.enqueue().to_raw())
    }

    /// Waits to be notified, without the lock, and gives the place up; False if the time has passed.
    #[pyo3(signature = (ticket, timeout=Timeout::FOREVER), text_signature = "($self, ticket, timeout=None)")]
    fn wait(&self, py: Python<'_>, ticket: u32, timeout: Timeout) -> PyResult<bool> {
        let queue = self.raw()?;
        let ticket = Ticket::from_raw(ticket);
        match wait_at(py, queue, ticket, timeout)? {
            Ok(()) => {
                queue.give_up(ticket, true);
                Ok(true)
            }
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
        }
    }

    /// Waits with the lock let go, as often as it was acquired, and held again when this returns or
    /// raises. It must be held by the calling thread. In one step, so that no signal's handler comes
    /// in between and leaves a place in the queue that nobody waits at.
    #[pyo3(signature = (lock, timeout=Timeout::FOREVER), text_signature = "($self, lock, timeout=None)")]
    fn _wait_releasing(
        &self,
        py: Python<'_>,
        lock: &Bound<'_, PyAny>,
        timeout: Timeout,
    ) -> PyResult<bool> {
        let queue = self.raw()?;
        let wait = |ticket| wait_at(py, queue, ticket, timeout);
        // Should this process die while it waits for the lock, another one is notified.
        let heard = |ticket, waited: PyResult<Result<(), WaitError>>| {
            if matches!(waited, Ok(Ok(()))) {
                queue.give_up(ticket, true);
            }
            waited
        };
        let waited = if let Ok(lock) = lock.cast::<RLock>() {
            let ticket = queue.enqueue();
            let times = lock.get().release_all(py)?;
            let waited = wait(ticket);
            let again = lock.get().acquire_again(py, times);
            let waited = heard(ticket, waited);
            again.and(waited)?
        } else {
            let lock = lock.cast::<Lock>()?;
            let ticket = queue.enqueue();
            lock.get().release(py)?;
            let waited = wait(ticket);
            let again = lock.get().acquire_again(py);
            let waited = heard(ticket, waited);
            again.and(waited)?
        };
        match waited {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
        }
    }

    /// Lets the `n` longest-waiting go on, and returns how many there were; to be called while the
    /// condition's lock is held.
    fn notify(&self, n: u32) -> PyResult<u32> {
        Ok(self.raw()?.notify(n))
    }

    /// How many wait.
    fn waiters(&self) -> PyResult<u32> {
        Ok(self.raw()?.waiters())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        reduce(slf.as_any(), slf.get().raw()?.handle(), 0)
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, _own: u8) -> PyResult<()> {
        self.0.adopt(py, &handle, RawWaitQueue::from_handle)
    }
}
