//! A job as its owner sees it.

use std::fmt;
use std::sync::Arc;

use procession_shm::WaitError;

use crate::Patience;
use crate::pool::Submission;
use crate::pool::answer::Reply;
use crate::pool::desk::Desk;
use crate::pool::error::SubmitError;
use crate::pool::jobs::{Book, Interest, JobId};

/// A set of tasks whose replies are waited for together. Dropping it abandons them: what is running
/// runs on, and the replies are thrown away.
pub struct Job {
    /// `None` only while it is dropped.
    desk: Option<Arc<Desk>>,
    id: JobId,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Job {
    pub(crate) fn new(desk: Arc<Desk>, id: JobId) -> Job {
        Job {
            desk: Some(desk),
            id,
        }
    }

    fn desk(&self) -> &Arc<Desk> {
        self.desk.as_ref().expect("is there until the drop")
    }

    /// The number that names it in [`Pool::next_announced`](super::Pool::next_announced) and [`WorkerInfo`](super::WorkerInfo).
    pub fn number(&self) -> u64 {
        self.id.to_raw()
    }

    /// Submits a task: its index among the job's.
    ///
    /// # Errors
    /// When the job was sealed, the pool has ended, or there is no memory.
    ///
    /// # Panics
    /// When the bytes are shorter than [`HEADER`](super::HEADER).
    pub fn submit(&self, task: Submission<'_>) -> Result<u64, SubmitError> {
        self.desk().submit(self.id, task, false)
    }

    /// Submits the only task of this job, and seals it.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    ///
    /// # Panics
    /// As [`submit`](Self::submit).
    pub fn submit_only(&self, task: Submission<'_>) -> Result<(), SubmitError> {
        self.desk().submit(self.id, task, true).map(|_| ())
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

    /// Whether the job is sealed and every reply is here. Takes in what is there, never waits.
    pub fn is_done(&self) -> bool {
        self.wait_all(&mut Patience::none()).is_ok()
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
        let Some(desk) = self.desk.take() else { return };
        if desk.is_home() {
            let todo = desk.book().abandon(self.id);
            desk.act(todo);
        } else {
            std::mem::forget(desk);
        }
    }
}
