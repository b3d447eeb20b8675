//! `JobCore`: tasks that belong together, and their replies.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use procession_engine::WaitError;
use procession_engine::pool::{HEADER, Job, Reply};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::Timeout;
use crate::pickling::{self, Encoded};
use crate::pool::{self, PoolFunction, bits};
use crate::wait;

/// What a reply is: the constants of `procession._pool_results`.
pub(crate) const DONE: u32 = 0;
pub(crate) const FAILED: u32 = 1;
const LOST: u32 = 2;
const BROKEN: u32 = 3;
const TERMINATED: u32 = 4;
/// An exception of this process: the task, or its result, could not be pickled or unpickled.
pub(crate) const LOCAL: u32 = 5;

/// Who waits for another thread to unpickle looks for signals this often.
const SLICE: Duration = Duration::from_millis(50);

type Outcome = (u32, Py<PyAny>);

/// Tasks that belong together, and their replies.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct JobCore {
    job: Job,
    /// Of the only task.
    outcome: Mutex<Option<Outcome>>,
    settled: Condvar,
    submitted: AtomicU64,
    task_bytes: AtomicU64,
    replies: AtomicU64,
    reply_bytes: AtomicU64,
}

impl JobCore {
    pub(crate) fn new(job: Job) -> JobCore {
        JobCore {
            job,
            outcome: Mutex::new(None),
            settled: Condvar::new(),
            submitted: AtomicU64::new(0),
            task_bytes: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
        }
    }

    /// The only task has come to nothing in this process: an exception.
    pub(crate) fn fail(&self, exception: Py<PyAny>) {
        self.settle((LOCAL, exception));
        self.job.seal();
    }

    fn settle(&self, outcome: Outcome) {
        // Locked for a moment, and nothing of Python happens meanwhile.
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.settled.notify_all();
    }

    fn outcome(&self, py: Python<'_>) -> Option<Outcome> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome
            .as_ref()
            .map(|(status, value)| (*status, value.clone_ref(py)))
    }

    fn sent(&self, size: usize) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.task_bytes.fetch_add(size as u64, Ordering::Relaxed);
    }

    /// Submits the only task.
    pub(crate) fn submit_only(
        &self,
        py: Python<'_>,
        function: &PoolFunction,
        what: u32,
        task: &Encoded<'_>,
    ) -> PyResult<()> {
        function.task(what, task, |task, size| {
            self.sent(size);
            pool::submit(py, size, || self.job.submit_only(task))
        })
    }

    fn submit(
        &self,
        py: Python<'_>,
        function: &PoolFunction,
        what: u32,
        task: &Encoded<'_>,
    ) -> PyResult<()> {
        function.task(what, task, |task, size| {
            pool::submit(py, size, || self.job.submit(task))?;
            self.sent(size);
            Ok(())
        })
    }

    /// The next reply; `Err` if there is none in the time given.
    fn next(
        &self,
        py: Python<'_>,
        timeout: Timeout,
    ) -> PyResult<Result<Option<(u64, Reply)>, WaitError>> {
        let attempt = || self.job.next(&mut Timeout::ZERO.patience()).ok();
        if let Some(reply) = attempt() {
            return Ok(Ok(reply));
        }
        if timeout.is_zero() {
            return Ok(Err(WaitError::TimedOut));
        }
        match wait::spin(attempt) {
            Some(reply) => Ok(Ok(reply)),
            None => wait::blocking(py, timeout, |patience| self.job.next(patience)),
        }
    }

    /// A reply as Python sees it.
    fn converted(&self, py: Python<'_>, reply: Reply) -> PyResult<Outcome> {
        match reply {
            Reply::Done(answer) => {
                let mut message = answer.into_message();
                let size = message.bytes.len()
                    + message
                        .buffers
                        .iter()
                        .map(|block| block.len())
                        .sum::<usize>();
                self.replies.fetch_add(1, Ordering::Relaxed);
                self.reply_bytes.fetch_add(size as u64, Ordering::Relaxed);
                if message.tag >> bits::WHAT & bits::WHAT_MASK == FAILED {
                    let bytes = message.bytes.get(HEADER..).unwrap_or_default();
                    return Ok((FAILED, PyBytes::new(py, bytes).into_any().unbind()));
                }
                message.tag &= bits::CODEC;
                match pickling::decode_from(py, message, HEADER) {
                    Ok(value) => Ok((DONE, value.unbind())),
                    Err(error) => {
                        let exception = error.into_value(py);
                        // Some exceptions allow no notes.
                        let note = "The task was done, but its result could not be rebuilt in this process.";
                        let _ = exception.bind(py).call_method1("add_note", (note,));
                        Ok((LOCAL, exception.into_any()))
                    }
                }
            }
            Reply::Lost(loss) => {
                let code = match loss.status {
                    procession_engine::ExitStatus::Unknown => None,
                    status => Some(status.code_like_python()),
                };
                Ok((
                    LOST,
                    (loss.pid, code, loss.to_string())
                        .into_pyobject(py)?
                        .into_any()
                        .unbind(),
                ))
            }
            Reply::Broken(why) => Ok((
                BROKEN,
                pool::breakage(py, &why)
                    .into_pyobject(py)?
                    .into_any()
                    .unbind(),
            )),
            Reply::Terminated => Ok((TERMINATED, py.None())),
        }
    }
}

#[pymethods]
impl JobCore {
    /// Its number among the jobs of its pool.
    #[getter]
    fn number(&self) -> u64 {
        self.job.number()
    }

    /// How many tasks were submitted.
    #[getter]
    fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Relaxed)
    }

    /// How many of them have no reply yet.
    #[getter]
    fn outstanding(&self) -> u64 {
        self.job.counts().1
    }

    /// Bytes of a task and its reply, on average of those there were.
    #[getter]
    fn cost(&self) -> u64 {
        let average = |total: &AtomicU64, count: &AtomicU64| {
            total
                .load(Ordering::Relaxed)
                .checked_div(count.load(Ordering::Relaxed))
                .unwrap_or(0)
        };
        average(&self.task_bytes, &self.submitted) + average(&self.reply_bytes, &self.replies)
    }

    /// Submits a task for each item of an iterator: at most `count`, and none once those without
    /// reply have `ahead` bytes.
    ///
    /// Returns whether that was the end, and the exception that was: what the iterator raised, or
    /// what `name_item(error, index, item)` made of an item's that can't be pickled.
    #[allow(
        clippy::too_many_arguments,
        reason = "a Python method; all are needed on the hot path"
    )]
    fn submit_many<'py>(
        &self,
        py: Python<'py>,
        what: u32,
        function: &Bound<'py, PoolFunction>,
        items: &Bound<'py, PyAny>,
        count: u64,
        ahead: u64,
        name_item: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Option<Py<PyAny>>)> {
        let function = function.get();
        let mut items = items.try_iter()?;
        for done in 0..count {
            // The question takes a lock.
            if done % 64 == 63 && self.job.counts().1 * self.cost() >= ahead {
                return Ok((false, None));
            }
            let item = match items.next() {
                None => return Ok((true, None)),
                Some(Ok(item)) => item,
                Some(Err(error)) => return Ok((true, Some(error.into_value(py).into_any()))),
            };
            match Encoded::of(&item) {
                Ok(encoded) => {
                    let large = encoded.size() >= pickling::WORTH_DETACHING;
                    self.submit(py, function, what, &encoded)?;
                    if large && self.job.counts().1 * self.cost() >= ahead {
                        return Ok((false, None));
                    }
                }
                Err(error) => {
                    let named = name_item.call1((error.into_value(py), self.submitted(), item))?;
                    return Ok((true, Some(named.unbind())));
                }
            }
            if done % 1024 == 1023 {
                py.check_signals()?;
            }
        }
        Ok((false, None))
    }

    /// That was the last task.
    fn seal(&self) {
        self.job.seal();
    }

    /// Has the pool's `next_announced` tell when all replies are here.
    fn announce(&self) {
        self.job.announce();
    }

    /// From now on replies are thrown away.
    fn discard(&self) {
        self.job.discard();
    }

    /// Waits until at most `count` tasks are without reply; False if the pool has ended.
    fn wait_outstanding(&self, py: Python<'_>, count: u64, timeout: Timeout) -> PyResult<bool> {
        match wait::blocking(py, timeout, |patience| {
            self.job.wait_outstanding(count, patience)
        })? {
            Ok(running) => Ok(running),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(true),
        }
    }

    /// What became of the only task: (status, value); None if that is not known in the time given.
    fn only(&self, py: Python<'_>, timeout: Timeout) -> PyResult<Option<Outcome>> {
        let mut left = timeout;
        loop {
            if let Some(outcome) = self.outcome(py) {
                return Ok(Some(outcome));
            }
            match self.next(py, left)? {
                Ok(Some((_, reply))) => {
                    let outcome = match self.converted(py, reply) {
                        Ok(outcome) => outcome,
                        Err(error) => (LOCAL, error.into_value(py).into_any()),
                    };
                    self.settle(outcome);
                }
                // Another thread has it and is about to settle it.
                Ok(None) => {
                    if timeout.is_zero() {
                        return Ok(None);
                    }
                    py.detach(|| {
                        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
                        let wait = self
                            .settled
                            .wait_timeout_while(outcome, SLICE, |outcome| outcome.is_none());
                        drop(wait);
                    });
                    py.check_signals()?;
                    left = Timeout(left.0.map(|left| left.saturating_sub(SLICE)));
                    if left.is_zero() {
                        return Ok(self.outcome(py));
                    }
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Replies as they come, as a list of (index, status, value): at least one, at most `limit`. An
    /// empty list if there is none in the time given, None if every reply has been given out.
    fn take<'py>(
        &self,
        py: Python<'py>,
        timeout: Timeout,
        limit: usize,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let list = PyList::empty(py);
        let Ok(first) = self.next(py, timeout)? else {
            return Ok(Some(list));
        };
        let Some((index, reply)) = first else {
            return Ok(None);
        };
        let (status, value) = self.converted(py, reply)?;
        list.append((index, status, value))?;
        while list.len() < limit {
            let Ok(Some((index, reply))) = self.job.next(&mut Timeout::ZERO.patience()) else {
                break;
            };
            let (status, value) = self.converted(py, reply)?;
            list.append((index, status, value))?;
        }
        Ok(Some(list))
    }
}
