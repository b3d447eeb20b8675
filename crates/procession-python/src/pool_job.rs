//! `JobCore`: tasks that belong together, and their replies.

use std::ops::RangeInclusive;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procession_engine::pool::{Job, Reply};
use procession_engine::{Records, WaitError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use crate::arguments::Timeout;
use crate::pickling::{self, Encoded};
use crate::pool::{self, PoolFunction};
use crate::pool_items::ReadyItems;
use crate::pool_reply::{self, DONE, Told};
use crate::wait;

/// Tasks that belong together, and their replies.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct JobCore {
    job: Job,
    submitted: AtomicU64,
    task_bytes: AtomicU64,
    replies: AtomicU64,
    reply_bytes: AtomicU64,
    pace: Pace,
}

/// How fast replies come, to who takes many.
#[derive(Debug)]
struct Pace {
    /// When the first were taken.
    began: OnceLock<Instant>,
    /// When some were last taken: nanoseconds since then.
    last: AtomicU64,
    /// Nanoseconds from one to the next, lately; 0 if that is not known.
    gap: AtomicU64,
}

impl Pace {
    /// So many together are worth a nap.
    const MANY: u64 = 64;
    /// Nanoseconds. Who comes slower than this is awaited one by one.
    const SLOW: u64 = 20_000;
    /// The shortest nap is what the system sleeps at least, the longest what nobody notices.
    const NAPS: RangeInclusive<u64> = 50_000..=500_000;

    fn new() -> Pace {
        Pace {
            began: OnceLock::new(),
            last: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    fn note(&self, taken: usize) {
        if taken == 0 {
            return;
        }
        let Some(began) = self.began.get() else {
            // How long these took nobody knows.
            let _ = self.began.set(Instant::now());
            return;
        };
        let now = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let last = self.last.swap(now, Ordering::Relaxed);
        let new = now.saturating_sub(last) / taken as u64;
        let old = self.gap.load(Ordering::Relaxed);
        let gap = if old == 0 { new } else { (3 * old + new) / 4 };
        self.gap.store(gap.max(1), Ordering::Relaxed);
    }

    /// For how long to sleep while so many replies are to come, rather than take each as it comes: the
    /// processor is the workers' meanwhile. Never for more than a part of the time that all of them take.
    fn nap(&self, outstanding: u64) -> Option<Duration> {
        let gap = self.gap.load(Ordering::Relaxed);
        if gap == 0 || gap > Self::SLOW || outstanding < Self::MANY {
            return None;
        }
        let nap = (gap * outstanding / 4).min(*Self::NAPS.end());
        Self::NAPS.contains(&nap).then(|| Duration::from_nanos(nap))
    }
}

impl JobCore {
    pub(crate) fn new(job: Job) -> JobCore {
        JobCore {
            job,
            submitted: AtomicU64::new(0),
            task_bytes: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            reply_bytes: AtomicU64::new(0),
            pace: Pace::new(),
        }
    }

    fn sent(&self, size: usize) {
        self.submitted.fetch_add(1, Ordering::Relaxed);
        self.task_bytes.fetch_add(size as u64, Ordering::Relaxed);
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
        let together = self.job.takes_several() && is_quick(&items);
        let mut batch = Batch::new(self);
        for done in 0..count {
            // The question takes a lock.
            if done % 64 == 63 && self.job.counts().1 * self.cost() >= ahead {
                batch.submit(py)?;
                return Ok((false, None));
            }
            let item = match items.next() {
                None => {
                    batch.submit(py)?;
                    return Ok((true, None));
                }
                Some(Ok(item)) => item,
                Some(Err(error)) => {
                    batch.submit(py)?;
                    return Ok((true, Some(error.into_value(py).into_any())));
                }
            };
            match Encoded::of(&item) {
                Ok(encoded) if together && function.add_task(what, &encoded, &mut batch.tasks) => {
                    if batch.is_due(encoded.is_pickle()) {
                        batch.submit(py)?;
                    }
                }
                Ok(encoded) => {
                    batch.submit(py)?;
                    let large = encoded.size() >= pickling::WORTH_DETACHING;
                    self.submit(py, function, what, &encoded)?;
                    if large && self.job.counts().1 * self.cost() >= ahead {
                        return Ok((false, None));
                    }
                }
                Err(error) => {
                    batch.submit(py)?;
                    let named = name_item.call1((error.into_value(py), self.submitted(), item))?;
                    return Ok((true, Some(named.unbind())));
                }
            }
            if done % 1024 == 1023 {
                batch.submit(py)?;
                py.check_signals()?;
            }
        }
        batch.submit(py)?;
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

    /// Cancels what has not begun, and stops what is running, if that is wanted: how many tasks were
    /// kept from beginning, and how many had begun.
    fn cancel(&self, py: Python<'_>, running_too: bool) -> PyResult<(u64, u64)> {
        pool_reply::cancel(&self.job, py, running_too)
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

    /// Replies as they come, as a list of (index, status, value): at least one, at most `limit`. An
    /// empty list if there is none in the time given, None if every reply has been given out.
    fn take<'py>(
        &self,
        py: Python<'py>,
        timeout: Timeout,
        limit: usize,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let list = PyList::empty(py);
        let Some(replies) = self.replies(py, timeout, limit, 1)? else {
            return Ok(None);
        };
        for (index, reply) in replies {
            let (status, value) = self.told_of(py, reply);
            list.append((index, status, value))?;
        }
        Ok(Some(list))
    }

    /// The same, with each reply put into its place in `items`: how many there were.
    fn take_sorted(
        &self,
        py: Python<'_>,
        items: &Bound<'_, ReadyItems>,
        timeout: Timeout,
        limit: usize,
    ) -> PyResult<Option<usize>> {
        let Some(replies) = self.replies(py, timeout, limit, 1)? else {
            return Ok(None);
        };
        let count = replies.len();
        for (index, reply) in replies {
            let (status, value) = self.told_of(py, reply);
            ReadyItems::sort_in(items, index, status, value)?;
        }
        Ok(Some(count))
    }

    /// The same, with each value that is a result put into its place in `results`: how many replies
    /// there were, and those that are no results.
    fn take_into<'py>(
        &self,
        py: Python<'py>,
        results: &Bound<'py, PyList>,
        timeout: Timeout,
        limit: usize,
    ) -> PyResult<Option<(usize, Bound<'py, PyList>)>> {
        let others = PyList::empty(py);
        let Some(replies) = self.replies(py, timeout, limit, Pace::MANY)? else {
            return Ok(None);
        };
        let count = replies.len();
        for (index, reply) in replies {
            let (status, value) = self.told_of(py, reply);
            if status == DONE {
                // Beyond any list if it doesn't fit.
                results.set_item(usize::try_from(index).unwrap_or(usize::MAX), value)?;
            } else {
                others.append((index, status, value))?;
            }
        }
        Ok(Some((count, others)))
    }
}

impl JobCore {
    /// Replies as they come: at least one, at most `limit`. None at all if there is none in the time given,
    /// `None` if every reply has been given out.
    fn replies(
        &self,
        py: Python<'_>,
        timeout: Timeout,
        limit: usize,
        enough: u64,
    ) -> PyResult<Option<Vec<(u64, Reply)>>> {
        let mut replies = Vec::new();
        self.nap(py, timeout, enough);
        match pool_reply::next(&self.job, py, timeout)? {
            Ok(Some(first)) => replies.push(first),
            Ok(None) => return Ok(None),
            Err(_) => return Ok(Some(replies)),
        }
        while replies.len() < limit {
            // What has come in with it, and then what has come since.
            self.job.take_replies(limit - replies.len(), &mut replies);
            if replies.len() >= limit {
                break;
            }
            match self.job.next(&mut Timeout::ZERO.patience()) {
                Ok(Some(reply)) => replies.push(reply),
                _ => break,
            }
        }
        self.pace.note(replies.len());
        Ok(Some(replies))
    }

    /// Lets replies gather that come in quick succession, unless `enough` are here.
    fn nap(&self, py: Python<'_>, timeout: Timeout, enough: u64) {
        let Some(outstanding) = self.job.lacks(enough) else {
            return;
        };
        if let Some(nap) = self.pace.nap(outstanding)
            && timeout.0.is_none_or(|left| left > nap)
        {
            py.detach(|| std::thread::sleep(nap));
        }
    }

    /// A reply as Python sees it.
    fn told_of(&self, py: Python<'_>, reply: Reply) -> (u32, Py<PyAny>) {
        let told = Told::of(py, reply);
        if let Some(size) = told.size {
            self.replies.fetch_add(1, Ordering::Relaxed);
            self.reply_bytes.fetch_add(size as u64, Ordering::Relaxed);
        }
        (told.status, told.value)
    }
}

/// Tasks that are submitted together.
struct Batch<'a> {
    job: &'a JobCore,
    tasks: Records,
    since: Instant,
}

impl Batch<'_> {
    /// At most so many, and about so many bytes.
    const MOST: u32 = 32;
    const SIZE: usize = 8 << 10;
    /// Longer than this none waits for others to be pickled.
    const WAIT: Duration = Duration::from_micros(50);

    fn new(job: &JobCore) -> Batch<'_> {
        Batch {
            job,
            tasks: Records::default(),
            since: Instant::now(),
        }
    }

    /// Whether it is time to submit them.
    fn is_due(&self, pickled: bool) -> bool {
        self.tasks.count() >= Batch::MOST
            || self.tasks.size() >= Batch::SIZE
            || pickled && self.since.elapsed() >= Batch::WAIT
    }

    fn submit(&mut self, py: Python<'_>) -> PyResult<()> {
        let (count, size) = (self.tasks.count(), self.tasks.size());
        if count == 0 {
            return Ok(());
        }
        let job = self.job;
        pool::submit(py, size, || job.job.submit_several(&mut self.tasks))?;
        job.submitted.fetch_add(count.into(), Ordering::Relaxed);
        job.task_bytes.fetch_add(size as u64, Ordering::Relaxed);
        self.tasks.clear();
        self.since = Instant::now();
        Ok(())
    }
}

/// Whether the next item is always there at once: no code of anybody's runs for it, and nothing is
/// waited for. A task that is ready never waits for the item after it.
fn is_quick(items: &Bound<'_, PyIterator>) -> bool {
    const QUICK: [&str; 7] = [
        "range_iterator",
        "longrange_iterator",
        "list_iterator",
        "tuple_iterator",
        "set_iterator",
        "dict_keyiterator",
        "dict_itemiterator",
    ];
    let kind = items.get_type();
    let named = || -> PyResult<bool> {
        Ok(kind.module()? == "builtins"
            && QUICK
                .iter()
                .any(|name| kind.name().is_ok_and(|own| own == *name)))
    };
    named().unwrap_or(false)
}
