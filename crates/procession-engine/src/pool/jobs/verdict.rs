//! What the supervisor decides about tasks, and how the book takes it in.
//!
//! A verdict is written into the book under a number, and the number is sent through the result queue.
//! So it is heard after every result that was committed before, and a task that has a result by then
//! is none of its business.

use std::sync::Arc;
use std::time::Duration;

use crate::message::Parcel;
use crate::pool::answer::{Loss, Overrun, Reply};
use crate::pool::jobs::{Book, Interest, JobId, Todo};

/// What the supervisor has found.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The worker that had the task is dead.
    Lost { id: JobId, index: u64, loss: Loss },
    /// It was killed because the task ran for too long.
    Overran {
        id: JobId,
        index: u64,
        overrun: Overrun,
    },
    /// It was killed because the task was to be stopped.
    Stopped { id: JobId, index: u64 },
    /// No worker will begin a task of the job any more. These were in workers' hands by then.
    Cancelled {
        id: JobId,
        running: Vec<u64>,
        /// The workers know of it.
        marked: bool,
    },
}

/// A task that may be tried again.
#[derive(Debug)]
pub(crate) struct Kept {
    parcel: Parcel,
    losses: Vec<Arc<Loss>>,
}

impl Kept {
    pub(crate) fn new(parcel: Parcel) -> Kept {
        Kept {
            parcel,
            losses: Vec::new(),
        }
    }
}

/// What became of a request to cancel a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Cancelling {
    #[default]
    Never,
    Asked,
    /// So many were kept from beginning, so many had begun.
    Done {
        prevented: u64,
        running: u64,
    },
}

impl Book {
    /// Writes a verdict down: its number.
    pub(crate) fn write(&mut self, verdict: Verdict) -> u64 {
        self.last_verdict += 1;
        self.verdicts.insert(self.last_verdict, verdict);
        self.last_verdict
    }

    /// Whether it waits to be heard.
    pub(crate) fn is_unheard(&self, number: u64) -> bool {
        self.verdicts.contains_key(&number)
    }

    /// The number of a verdict has come through the queue.
    pub(crate) fn hear(&mut self, number: u64) -> Todo {
        let Some(verdict) = self.verdicts.remove(&number) else {
            return Todo::NOTHING;
        };
        let todo = match verdict {
            Verdict::Lost { id, index, loss } => self.lose(id, index, Arc::new(loss)),
            Verdict::Overran { id, index, overrun } => {
                self.settle(id, index, Reply::TimedOut(overrun))
            }
            Verdict::Stopped { id, index } => self.settle(id, index, Reply::Cancelled),
            Verdict::Cancelled {
                id,
                running,
                marked,
            } => self.cancelled(id, &running, marked),
        };
        let nudge = self.tell(|interest| interest == Interest::Verdicts);
        Todo {
            nudge: todo.nudge || nudge,
            ..todo
        }
    }

    fn lose(&mut self, id: JobId, index: u64, loss: Arc<Loss>) -> Todo {
        let ended = self.end.is_some();
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        if job.unswept.remove(&index) {
            // It died in the moment in which it found the task cancelled.
            self.free_if_over(id);
            return Todo::NOTHING;
        }
        if index >= job.submitted || job.marks.is_marked(index) {
            return Todo::NOTHING;
        }
        let (tries, cancelled) = (job.options.retries, job.cancelling != Cancelling::Never);
        let Some(kept) = job.kept.get_mut(&index) else {
            return self.settle(id, index, Reply::Lost(loss));
        };
        kept.losses.push(loss);
        if kept.losses.len() as u64 <= u64::from(tries) && !cancelled && !ended {
            self.totals.retried += 1;
            self.again.push((id, index));
            return Todo {
                ring: true,
                ..Todo::NOTHING
            };
        }
        let mut losses = std::mem::take(&mut kept.losses);
        let exhausted = losses.len() as u64 > u64::from(tries);
        match losses.pop() {
            Some(last) if !exhausted => self.settle(id, index, Reply::Lost(last)),
            last => {
                losses.extend(last);
                self.settle(id, index, Reply::Poison(losses))
            }
        }
    }

    /// What is to be put into the task queue once more.
    pub(crate) fn take_again(&mut self) -> Vec<(JobId, u64)> {
        std::mem::take(&mut self.again)
    }

    /// That could not be done yet.
    pub(crate) fn put_back(&mut self, id: JobId, index: u64) {
        self.again.push((id, index));
    }

    /// What a task is made of, if it still has no reply.
    pub(crate) fn kept(&mut self, id: JobId, index: u64) -> Option<Parcel> {
        Some(self.job(id)?.kept.get(&index)?.parcel.clone())
    }

    /// Asks for a job to be cancelled. It gets no more tasks.
    pub(crate) fn ask_to_cancel(&mut self, id: JobId, running_too: bool) -> Todo {
        let todo = self.seal(id);
        let ended = self.end.is_some();
        let Some(job) = self.job(id).filter(|_| !ended) else {
            return todo;
        };
        if job.is_complete() {
            job.cancelling = Cancelling::Done {
                prevented: 0,
                running: 0,
            };
            return todo;
        }
        job.cancelling = Cancelling::Asked;
        job.cancelled = 0;
        self.cancels.push((id, running_too));
        Todo { ring: true, ..todo }
    }

    /// What was asked for since the last time.
    pub(crate) fn take_cancels(&mut self) -> Vec<(JobId, bool)> {
        std::mem::take(&mut self.cancels)
    }

    /// What came of it: (prevented, running). None yet, if `None`.
    pub(crate) fn cancel_outcome(&mut self, id: JobId) -> Option<(u64, u64)> {
        // The supervisor of a pool that has ended answers nothing.
        if self.end.is_some() || self.finished {
            return Some((0, 0));
        }
        let Some(job) = self.job(id) else {
            return Some((0, 0));
        };
        match job.cancelling {
            Cancelling::Done { prevented, running } => Some((prevented, running)),
            // The workers were faster than the verdict.
            Cancelling::Asked => job.is_complete().then_some((job.cancelled, 0)),
            Cancelling::Never => Some((0, 0)),
        }
    }

    fn cancelled(&mut self, id: JobId, running: &[u64], marked: bool) -> Todo {
        if !marked {
            let (_, running) = self.counts(id);
            if let Some(job) = self.job(id) {
                job.cancelling = Cancelling::Done {
                    prevented: 0,
                    running,
                };
            }
            return Todo {
                nudge: self.tell(|interest| interest == Interest::Cancel(id)),
                ..Todo::NOTHING
            };
        }
        // Those that wait to be tried again are in no queue.
        let idle: Vec<u64> = {
            let of_job = |entry: &&(JobId, u64)| entry.0 == id;
            self.again
                .iter()
                .filter(of_job)
                .map(|entry| entry.1)
                .collect()
        };
        self.again.retain(|entry| entry.0 != id);
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        let missing: Vec<u64> = (job.marks.first_clear()..job.submitted)
            .filter(|index| !job.marks.is_marked(*index) && !running.contains(index))
            .collect();
        job.unswept
            .extend(missing.iter().filter(|index| !idle.contains(index)));
        let begun = running
            .iter()
            .filter(|index| !job.marks.is_marked(**index))
            .count();
        job.cancelling = Cancelling::Done {
            prevented: job.cancelled + missing.len() as u64,
            running: begun as u64,
        };
        let mut todo = Todo::NOTHING;
        for index in missing {
            let one = self.settle(id, index, Reply::Cancelled);
            todo.nudge |= one.nudge;
            todo.close_tasks |= one.close_tasks;
        }
        todo.nudge |= self.tell(|interest| interest == Interest::Cancel(id));
        todo
    }

    /// A worker has come upon a task that was cancelled, and did not begin it.
    pub(super) fn swept(&mut self, id: JobId, index: u64) -> Todo {
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        if job.unswept.remove(&index) {
            self.free_if_over(id);
            return Todo::NOTHING;
        }
        // It was taken for one that had begun.
        self.settle(id, index, Reply::Cancelled)
    }

    /// How long a task of this job may run.
    pub(crate) fn time_limit(&mut self, id: JobId) -> Option<Duration> {
        self.job(id)?.options.time_limit
    }

    /// What the tasks of a job are, if there still is one.
    pub(crate) fn label(&mut self, id: JobId) -> Option<&'static str> {
        self.job(id).map(|job| job.options.label)
    }

    /// The supervisor is about to look at what the workers do: after how long it has to look again,
    /// if nothing else happens.
    pub(crate) fn watch(&mut self) -> Option<Duration> {
        self.watching = self.limits.keys().next().copied();
        self.watching
    }
}
