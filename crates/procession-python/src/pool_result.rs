//! `ApplyResult`: the result of one call, to come.
//!
//! There may be very many of these, and to make one and to ask it is most of what a short task costs who
//! submits it: no Python code runs for either. A call with callbacks is **reported**: a thread of the pool runs
//! them, and until then nobody sees the result.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use procession_engine::WaitError;
use procession_engine::pool::Job;
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::arguments::{Timeout, Truth};
use crate::error;
use crate::imported::Imported;
use crate::pickling::Encoded;
use crate::pool::{self, PoolFunction};
use crate::pool_reply::{self, DONE, Told};
use crate::wait;

/// Who waits for another thread of this process looks for signals this often.
const SLICE: Duration = Duration::from_millis(50);

/// The result of one call, to come.
#[pyclass(subclass, frozen, dict, weakref, module = "procession.pool")]
pub(crate) struct ApplyResult {
    /// `None` in the base of something else.
    job: Option<Job>,
    /// Locked with the interpreter held, always: a child that a thread forks finds it free.
    held: Mutex<Held>,
    /// How often there was something new for who waits for another thread.
    news: AtomicU32,
    /// Threads that do. A notification that nobody waits for is a system call all the same.
    waiting: AtomicU32,
    gate: Mutex<()>,
    opened: Condvar,
}

/// Zeros are `Held::default()`: with Python 3.11 a collection may look at an object of which there are only zeros
/// yet, while its dictionary is made.
#[derive(Default)]
struct Held {
    /// Kept until the result is here: a pool ends its workers when it is collected.
    pool: Option<Py<PyAny>>,
    function: Option<Py<PyAny>>,
    success: bool,
    /// The result, or what the call has raised.
    value: Option<Py<PyAny>>,
    /// Callbacks are to run before anybody sees the outcome.
    reported: bool,
}

impl Held {
    /// Whether the call was successful, and the value.
    fn outcome(&self, py: Python<'_>) -> Option<(bool, Py<PyAny>)> {
        let value = self.value.as_ref()?;
        Some((self.success, value.clone_ref(py)))
    }
}

impl ApplyResult {
    pub(crate) fn new(job: Job, pool: Py<PyAny>, function: Py<PyAny>) -> ApplyResult {
        ApplyResult::with(
            Some(job),
            Held {
                pool: Some(pool),
                function: Some(function),
                ..Held::default()
            },
        )
    }

    /// Of a call that has come to nothing in this process.
    pub(crate) fn failed(job: Job, exception: Py<PyAny>) -> ApplyResult {
        job.seal();
        ApplyResult::with(
            Some(job),
            Held {
                value: Some(exception),
                ..Held::default()
            },
        )
    }

    fn with(job: Option<Job>, held: Held) -> ApplyResult {
        ApplyResult {
            job,
            held: Mutex::new(held),
            news: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            gate: Mutex::default(),
            opened: Condvar::new(),
        }
    }

    /// Submits the call.
    pub(crate) fn submit(
        &self,
        py: Python<'_>,
        function: &PoolFunction,
        what: u32,
        task: &Encoded<'_>,
    ) -> PyResult<()> {
        let job = self.job()?;
        function.task(what, task, |task, size| {
            pool::submit(py, size, || job.submit_only(task))
        })
    }

    fn job(&self) -> PyResult<&Job> {
        self.job.as_ref().ok_or_else(|| {
            PyRuntimeError::new_err(
                "there is no call of which this is the result: only a pool makes them",
            )
        })
    }

    /// Locked for a moment, and nothing of Python happens meanwhile.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a child forked from the process that has the pool.
    fn is_foreign(&self) -> bool {
        self.job.as_ref().is_some_and(Job::is_foreign)
    }

    /// Whether callbacks are still to run. In a forked child there is nobody to run them.
    fn is_withheld(&self, held: &Held) -> bool {
        held.reported && !self.is_foreign()
    }

    /// The outcome, if it is here and may be seen.
    fn visible(&self, py: Python<'_>) -> Option<(bool, Py<PyAny>)> {
        let held = self.held();
        if self.is_withheld(&held) {
            return None;
        }
        held.outcome(py)
    }

    /// Has threads that wait look again. In a forked child there are none, but it has a copy of their number.
    fn tell(&self) {
        if self.is_foreign() {
            return;
        }
        // SYNC POINT (result): who waits counts itself before it looks at the news for the last time.
        self.news.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            self.opened.notify_all();
        }
    }

    /// Waits a moment for another thread of this process, unless there was `news` since; returns what is left of
    /// the time.
    fn wait_slice(&self, py: Python<'_>, timeout: Timeout, news: u32) -> PyResult<Timeout> {
        let begun = Instant::now();
        py.detach(|| {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let slice = timeout.0.map_or(SLICE, |left| left.min(SLICE));
            let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let is_old = |(): &mut ()| self.news.load(Ordering::SeqCst) == news;
            let gate = self.opened.wait_timeout_while(gate, slice, is_old);
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            drop(gate);
        });
        py.check_signals()?;
        Ok(timeout.after(begun))
    }

    /// Takes what a reply says for the outcome.
    fn settle(&self, py: Python<'_>, reply: Told) {
        static EXCEPTION_OF: Imported = Imported::new("procession._pool_results", "exception_of");
        let (success, value) = if reply.status == DONE {
            (true, reply.value)
        } else {
            let (pool, function) = {
                let held = self.held();
                let clone = |object: &Option<Py<PyAny>>| object.as_ref().map(|it| it.clone_ref(py));
                (clone(&held.pool), clone(&held.function))
            };
            let made = EXCEPTION_OF
                .get(py)
                .and_then(|make| make.call1((reply.status, reply.value, function, "", pool)));
            let exception =
                made.map_or_else(|error| error.into_value(py).into_any(), Bound::unbind);
            (false, exception)
        };
        let mut held = self.held();
        held.success = success;
        held.value = Some(value);
        let gone = (held.pool.take(), held.function.take());
        drop(held);
        if let Some(job) = &self.job {
            job.release();
        }
        self.tell();
        // Their ends may run anything.
        drop(gone);
    }

    /// Waits for the outcome, which need not be visible then; whether it is here.
    fn collect(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let job = self.job()?;
        let mut left = timeout;
        loop {
            let news = self.news.load(Ordering::SeqCst);
            if self.held().value.is_some() {
                return Ok(true);
            }
            match pool_reply::next(job, py, left)? {
                Ok(Some((_, reply))) => {
                    self.settle(py, Told::of(py, reply));
                    return Ok(true);
                }
                // Another thread has it and is about to settle it.
                Ok(None) if left.is_zero() => return Ok(false),
                Ok(None) => left = self.wait_slice(py, left, news)?,
                Err(_) => return Ok(false),
            }
        }
    }

    /// The outcome, once it is visible; `None` if it isn't in the time given.
    fn outcome(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<(bool, Py<PyAny>)>> {
        let here = self.visible(py);
        if here.is_some() {
            return Ok(here);
        }
        if !self.is_withheld(&self.held()) {
            self.collect(py, timeout)?;
            return Ok(self.visible(py));
        }
        // The thread that runs the callbacks takes the reply.
        let begun = Instant::now();
        let job = self.job()?;
        let mut left = match wait::blocking(py, timeout, |patience| job.wait_all(patience))? {
            Ok(()) => timeout.after(begun),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Timeout::ZERO,
        };
        loop {
            let news = self.news.load(Ordering::SeqCst);
            let outcome = self.visible(py);
            if outcome.is_some() || left.is_zero() {
                return Ok(outcome);
            }
            left = self.wait_slice(py, left, news)?;
        }
    }
}

#[pymethods]
impl ApplyResult {
    #[new]
    #[pyo3(signature = (*_args, **_keywords))]
    fn base(_args: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> ApplyResult {
        ApplyResult::with(None, Held::default())
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py()
            .import("types")?
            .getattr("GenericAlias")?
            .call1((cls, item))
    }

    /// Return whether the call has completed.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.outcome(py, Timeout::ZERO)?.is_some())
    }

    /// Return whether the call completed without raising an exception.
    ///
    /// Raises:
    ///     ValueError: if it has not completed yet.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let outcome = slf.get().outcome(slf.py(), Timeout::ZERO)?;
        outcome.map(|(success, _)| success).ok_or_else(|| {
            let name = slf
                .repr()
                .map_or_else(|_| String::from("the result"), |name| name.to_string());
            PyValueError::new_err(format!("{name} not ready: wait() for it first"))
        })
    }

    /// Wait until the result is there, for `timeout` seconds at most.
    #[pyo3(signature = (timeout = Timeout::FOREVER), text_signature = "($self, timeout=None)")]
    fn wait(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        self.outcome(py, timeout).map(drop)
    }

    /// Return the result when it arrives, or raise what the call has raised.
    ///
    /// Raises:
    ///     TimeoutError: if it doesn't arrive within `timeout` seconds.
    ///     WorkerLost: if the worker died that ran the call.
    #[pyo3(signature = (timeout = Timeout::FOREVER), text_signature = "($self, timeout=None)")]
    fn get(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Py<PyAny>> {
        static RAISE: Imported = Imported::new("procession._pool_results", "raise_outcome");
        match self.outcome(py, timeout)? {
            Some((true, value)) => Ok(value),
            // By Python code, which gives an exception its context.
            Some((false, error)) => RAISE.get(py)?.call1((error,)).map(Bound::unbind),
            None => {
                let seconds = timeout.0.map_or(0.0, |timeout| timeout.as_secs_f64());
                Err(error::timed_out(
                    py,
                    format!("no result within {seconds} seconds"),
                ))
            }
        }
    }

    /// Cancel the call, unless it has begun or is done.
    ///
    /// What was cancelled never runs, and `get()` raises `concurrent.futures.CancelledError`.
    /// Not in the standard library.
    ///
    /// Args:
    ///     terminate: whether a call that is running is stopped too: its worker is killed and
    ///         replaced, and what it has done so far stays done. It may still get done in this
    ///         very moment, and its result is there then.
    ///
    /// Returns:
    ///     Whether there was something to cancel: with `terminate`, anything that was not done.
    ///     Of a map: whether that is so of at least one of its chunks.
    #[pyo3(signature = (terminate = Truth(false)), text_signature = "($self, terminate=False)")]
    fn cancel(&self, py: Python<'_>, terminate: Truth) -> PyResult<bool> {
        if self.held().value.is_some() {
            return Ok(false);
        }
        let (prevented, running) = pool_reply::cancel(self.job()?, py, terminate.0)?;
        Ok(prevented > 0 || terminate.0 && running > 0)
    }

    /// Has nobody see the outcome before `_report`; returns the number that the pool will announce.
    fn _withhold(&self) -> PyResult<u64> {
        self.held().reported = true;
        Ok(self.job()?.number())
    }

    /// Has the pool announce that the outcome is here.
    fn _announce(&self) -> PyResult<()> {
        self.job()?.announce();
        Ok(())
    }

    /// Runs the callback that the outcome is for, and has everybody see it.
    fn _report(
        &self,
        py: Python<'_>,
        callback: &Bound<'_, PyAny>,
        error_callback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let pool = self.held().pool.as_ref().map(|pool| pool.clone_ref(py));
        let report = || -> PyResult<()> {
            self.collect(py, Timeout::FOREVER)?;
            let outcome = self.held().outcome(py);
            if let Some((success, value)) = outcome {
                let callback = if success { callback } else { error_callback };
                if !callback.is_none() {
                    callback.call1((value,))?;
                }
            }
            Ok(())
        };
        let reported = report();
        self.held().reported = false;
        self.tell();
        drop(pool);
        reported
    }

    #[getter]
    fn _success(&self, py: Python<'_>) -> bool {
        self.visible(py).is_some_and(|(success, _)| success)
    }

    #[getter]
    fn _value(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let outcome = self.visible(py).map(|(_, value)| value);
        outcome.ok_or_else(|| PyAttributeError::new_err("_value: there is no result yet"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked by a thread that is about to let go of it: then it is in use, and no garbage.
        let Ok(held) = self.held.try_lock() else {
            return Ok(());
        };
        visit.call(&held.pool)?;
        visit.call(&held.function)?;
        visit.call(&held.value)
    }

    fn __clear__(&self) {
        let gone = std::mem::take(&mut *self.held());
        drop(gone);
    }
}
