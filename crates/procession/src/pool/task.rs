//! The result of a task to come.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::engine::Patience;
use crate::engine::pool::{Breakage, Cancelled, Job, Reply};
use crate::error::{Error, Result};
use crate::function::open_answer;

/// A task that was given to a [`Pool`](crate::Pool), and its result to come.
///
/// Dropping it throws the result away; the task is carried out all the same.
#[must_use = "get its result, or its failure goes unseen"]
pub struct Task<R> {
    job: Job,
    taken: bool,
    result: PhantomData<fn() -> R>,
}

impl<R> Task<R> {
    pub(crate) fn new(job: Job) -> Task<R> {
        Task {
            job,
            taken: false,
            result: PhantomData,
        }
    }

    pub(crate) fn job(&self) -> &Job {
        &self.job
    }

    /// Waits until it is done, or failed.
    pub fn wait(&self) {
        // Patience without end runs out only where somebody asked to be interrupted.
        while self.job.wait_all(&mut Patience::forever()).is_err() {}
    }

    /// Waits until it is done, or failed, at most for `timeout`; says whether it is.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.job.wait_all(&mut Patience::timeout(timeout)).is_ok()
    }

    /// Whether it is done, or failed. Does not wait.
    pub fn is_ready(&self) -> bool {
        self.job.is_done()
    }

    /// Cancels the task if it has not begun: then it never will, the result is
    /// [`Error::is_cancelled`], and this is true. A task that is running, or done, goes on; see
    /// [`abort`](Self::abort).
    ///
    /// Waits until that is certain: normally well below a millisecond, longer while a worker is being
    /// started.
    pub fn cancel(&self) -> bool {
        self.give_up(false).prevented > 0
    }

    /// Cancels the task in any case: if it is running, its worker is killed (SIGKILL), and replaced.
    /// What it has done so far stays done, and what it has begun, begun; a lock in its hands is
    /// poisoned. The result is [`Error::is_cancelled`], unless it was done in this very moment.
    ///
    /// Does not wait for the end of the worker; [`wait`](Self::wait) does.
    pub fn abort(&self) {
        self.give_up(true);
    }

    fn give_up(&self, running_too: bool) -> Cancelled {
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            let asked = self.job.cancel(running_too, &mut Patience::forever());
            if let Ok(cancelled) = asked {
                return cancelled;
            }
        }
    }
}

impl<R: DeserializeOwned> Task<R> {
    /// Waits for the result.
    ///
    /// # Errors
    /// When the task failed: its panic ([`Error::panic`]), the loss of its worker
    /// ([`Error::is_worker_lost`]), its time limit ([`Error::is_task_timeout`]), that it was cancelled
    /// ([`Error::is_cancelled`]), the end of the pool ([`Error::is_terminated`],
    /// [`Error::is_broken`]), or values that can't be serialised.
    pub fn get(mut self) -> Result<R> {
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            if let Some(result) = self.take(&mut Patience::forever()) {
                return result;
            }
        }
    }

    /// Waits for the result, at most for `timeout`. It can be had once.
    ///
    /// # Errors
    /// As [`get`](Self::get); and [`Error::is_timeout`] when it didn't come, and can still be
    /// waited for.
    pub fn get_timeout(&mut self, timeout: Duration) -> Result<R> {
        self.take(&mut Patience::timeout(timeout))
            .unwrap_or_else(|| Err(Error::timed_out("the result of the task", Some(timeout))))
    }

    pub(crate) fn take(&mut self, patience: &mut Patience<'_>) -> Option<Result<R>> {
        if self.taken {
            return Some(Err(Error::misuse(
                "the result of this task was taken before",
            )));
        }
        let reply = self.job.next(patience).ok()?;
        self.taken = true;
        // A job of one task has one reply.
        Some(reply.map_or_else(|| Err(Error::terminated()), |(_, reply)| open(reply)))
    }
}

impl<R> fmt::Debug for Task<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Task")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

pub(crate) fn open<R: DeserializeOwned>(reply: Reply) -> Result<R> {
    match reply {
        Reply::Done(mut answer) => {
            let buffers = answer.take_buffers();
            open_answer(answer.tag(), answer.payload(), buffers)
        }
        Reply::Lost(loss) => Err(Error::worker_lost(loss)),
        Reply::Poison(losses) => Err(Error::poison_task(losses)),
        Reply::TimedOut(overrun) => Err(Error::task_timed_out(overrun)),
        Reply::Cancelled => Err(Error::cancelled()),
        Reply::Broken(why) => Err(broken(&why)),
        Reply::Terminated => Err(Error::terminated()),
    }
}

/// Why the pool is broken; with the panic of the initializer, if that is why.
pub(crate) fn broken(why: &Breakage) -> Error {
    let cause = why.answer.as_ref().and_then(|answer| {
        let failure = open_answer::<()>(answer.tag(), answer.payload(), Vec::new());
        failure.err()
    });
    Error::pool_broken(why, cause)
}
