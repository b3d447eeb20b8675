//! A job as its owner sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use procession_shm::{Records, WaitError};

use crate::Patience;
use crate::pool::answer::Reply;
use crate::pool::desk::{Desk, Manner};
use crate::pool::error::SubmitError;
use crate::pool::jobs::{Book, Interest, JobId};
use crate::pool::{Submission, TaskOptions};
use crate::readiness::{Readiness, Source};

/// A set of tasks whose replies are waited for together. Dropping it abandons them: what is running
/// runs on, and the replies are thrown away.
pub struct Job {
    /// `None` only while it is dropped.
    desk: Option<Arc<Desk>>,
    id: JobId,
    options: TaskOptions,
    released: AtomicBool,
}

/// What a request to cancel a job has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cancelled {
    /// Tasks that had not begun: they never will, and their reply is [`Reply::Cancelled`].
    pub prevented: u64,
    /// Tasks that had begun, or were about to: they run on, or were asked to be stopped.
    pub running: u64,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(desk: Arc<Desk>, id: JobId, options: TaskOptions) -> Job {
        Job {
            desk: Some(desk),
            id,
            options,
            released: AtomicBool::new(false),
        }
    }

    fn manner(&self, only: bool) -> Manner {
        Manner {
            only,
            kept: self.options.retries > 0,
        }
    }

    fn desk(&self) -> &Arc<Desk> {
        self.desk.as_ref().expect("is there until the drop")
    }

    /// The number that names it in [`Pool::next_announced`](super::Pool::next_announced) and [`WorkerInfo`](super::WorkerInfo).
    pub fn number(&self) -> u64 {
        self.id.to_raw()
    }

    /// Whether this process was forked from the one that has the pool: here all replies say
    /// [`Terminated`](Reply::Terminated).
    pub fn is_foreign(&self) -> bool {
        !self.desk().is_home()
    }

    /// Submits a task: its index among the job's.
    ///
    /// # Errors
    /// When the job was sealed, the pool has ended, or there is no memory.
    ///
    /// # Panics
    /// When the bytes are shorter than [`HEADER`](super::HEADER).
    pub fn submit(&self, task: Submission<'_>) -> Result<u64, SubmitError> {
        self.desk().submit(self.id, task, self.manner(false))
    }

    /// Submits the only task of this job, and seals it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Panics
    /// As [`submit`](Self::submit).
    pub fn submit_only(&self, task: Submission<'_>) -> Result<(), SubmitError> {
        self.desk()
            .submit(self.id, task, self.manner(true))
            .map(|_| ())
    }

    /// Whether its tasks may be submitted several at once.
    pub fn takes_several(&self) -> bool {
        !self.manner(false).kept
    }

    /// Submits several tasks of bytes alone at once, all of them or none. The body of each begins with
    /// [`HEADER`](super::HEADER) bytes for the engine. Only if [`takes_several`](Self::takes_several).
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Panics
    /// As [`submit`](Self::submit), and if it doesn't take several.
    pub fn submit_several(&self, tasks: &mut Records) -> Result<(), SubmitError> {
        assert!(self.takes_several(), "tasks that are kept go one by one");
        self.desk().submit_several(self.id, tasks)
    }

    /// That was the last task. A job that is not sealed keeps a closed pool from ending.
    pub fn seal(&self) {
        if self.desk().is_home() {
            let todo = self.desk().book().seal(self.id);
            self.desk().act(todo);
        }
    }

    /// Has [`Pool::next_announced`](super::Pool::next_announced) tell when all replies are here. Before the first task.
    pub fn announce(&self) {
        if self.desk().is_home() {
            let todo = self.desk().book().announce(self.id);
            self.desk().act(todo);
        }
    }

    /// The next reply to come, with its task's index. `None`: the job is sealed and every reply has
    /// been given out. When the pool has ended, tasks that will get no other reply get one that says
    /// so; a job that was not sealed then ends with one for the task after its last.
    ///
    /// # Errors
    /// When the wait ended first.
    pub fn next(&self, patience: &mut Patience<'_>) -> Result<Option<(u64, Reply)>, WaitError> {
        if !self.desk().is_home() {
            return Ok(Some((0, Reply::Terminated)));
        }
        self.desk()
            .wait(Interest::Next(self.id), patience, |book, drained| {
                book.next(self.id, drained)
            })
    }

    /// Replies that have been taken in already and not given out yet, at most `most` of them. Looks at no
    /// queue, and never waits.
    pub fn take_replies(&self, most: usize, into: &mut Vec<(u64, Reply)>) {
        if self.desk().is_home() {
            self.desk().book().take_replies(self.id, most, into);
        }
    }

    /// Waits until the job is sealed and every reply is here. None is given out.
    ///
    /// # Errors
    /// When the wait ended first.
    pub fn wait_all(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        if !self.desk().is_home() {
            return Ok(());
        }
        let look = |book: &mut Book, drained| book.has_all(self.id, drained).then_some(());
        self.desk().wait(Interest::All(self.id), patience, look)
    }

    /// Has replies that come from now on thrown away. The tasks are done all the same.
    pub fn discard(&self) {
        if self.desk().is_home() {
            self.desk().book().discard(self.id);
        }
    }

    /// Waits until at most `count` tasks are without reply. False if the pool has ended.
    ///
    /// # Errors
    /// When the wait ended first.
    pub fn wait_outstanding(
        &self,
        count: u64,
        patience: &mut Patience<'_>,
    ) -> Result<bool, WaitError> {
        if !self.desk().is_home() {
            return Ok(false);
        }
        self.desk()
            .wait(Interest::Next(self.id), patience, |book, _| {
                book.has_at_most(self.id, count)
            })
    }

    /// Says that nobody will ask for replies any more, as dropping it does: its place in the pool's book is free for
    /// another then.
    pub fn release(&self) {
        if self.desk().is_home() && !self.released.swap(true, Ordering::Relaxed) {
            let todo = self.desk().book().abandon(self.id);
            self.desk().act(todo);
        }
    }

    /// Cancels what has no reply yet: tasks that have not begun never will; those that are running run
    /// on, or, with `running_too`, are stopped by killing their workers, which are replaced. The job
    /// gets no more tasks. Each task has one reply as ever: one that ends in this very moment may
    /// still have its result.
    ///
    /// Waits until it is certain which tasks have begun: normally well below a millisecond, longer while
    /// a worker is being started.
    ///
    /// # Errors
    /// When the wait ended first. It is done all the same.
    pub fn cancel(
        &self,
        running_too: bool,
        patience: &mut Patience<'_>,
    ) -> Result<Cancelled, WaitError> {
        if !self.desk().is_home() {
            return Ok(Cancelled::default());
        }
        let todo = self.desk().book().ask_to_cancel(self.id, running_too);
        self.desk().act(todo);
        let look = |book: &mut Book, _| book.cancel_outcome(self.id);
        let (prevented, running) = self
            .desk()
            .wait(Interest::Cancel(self.id), patience, look)?;
        Ok(Cancelled { prevented, running })
    }

    /// Whether the job is sealed and every reply is here. Takes in what is there, never waits.
    pub fn is_done(&self) -> bool {
        self.wait_all(&mut Patience::none()).is_ok()
    }

    /// To be told when [`is_done`](Self::is_done) is true, see [`Source`]. What another thread that waits
    /// for this pool takes in is noticed within 50 ms.
    pub fn done(&self) -> JobNews {
        self.news(true)
    }

    /// To be told when [`next`](Self::next) has something to give, as by [`done`](Self::done).
    pub fn has_next(&self) -> JobNews {
        self.news(false)
    }

    fn news(&self, all: bool) -> JobNews {
        JobNews {
            desk: Arc::clone(self.desk()),
            id: self.id,
            all,
        }
    }

    /// How many tasks have no reply yet, if there are fewer than `enough` replies to give out. Takes in what
    /// is there, never waits.
    pub fn lacks(&self, enough: u64) -> Option<u64> {
        if !self.desk().is_home() {
            return None;
        }
        self.desk().collect();
        self.desk().book().lacks(self.id, enough)
    }

    /// How many tasks were submitted, and how many of them have no reply yet.
    pub fn counts(&self) -> (u64, u64) {
        if self.desk().is_home() {
            self.desk().book().counts(self.id)
        } else {
            (0, 0)
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.release();
        std::mem::forget(self.desk.take_if(|desk| !desk.is_home()));
    }
}

/// That all replies of a job are here, or the next, as a [`Source`]. To be dropped before the job.
pub struct JobNews {
    desk: Arc<Desk>,
    id: JobId,
    all: bool,
}

impl Source for JobNews {
    fn watch(&self) {
        self.desk.results().raw().watch_messages();
    }

    fn unwatch(&self) {
        self.desk.results().raw().unwatch_messages();
    }

    fn look(&self) -> Readiness<'static> {
        // The word before the look: what comes after changes it.
        let word = self.desk.results().raw().look_for_message();
        let look = |book: &mut Book, drained| {
            let there = if self.all {
                book.has_all(self.id, drained)
            } else {
                book.has_next(self.id, drained)
            };
            there.then_some(())
        };
        let interest = if self.all {
            Interest::All(self.id)
        } else {
            Interest::Next(self.id)
        };
        let done = !self.desk.is_home()
            || self
                .desk
                .wait(interest, &mut Patience::none(), look)
                .is_ok();
        match word {
            _ if done => Readiness::Ready,
            // They were others' results, and are taken in.
            Readiness::Ready => self.desk.results().raw().look_for_message(),
            sleep => sleep,
        }
    }
}

impl fmt::Debug for JobNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobNews")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
