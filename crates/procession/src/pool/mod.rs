//! Pools of worker processes.

mod builder;
mod imap;
pub(crate) mod launcher;
mod state;
mod status;
mod task;
mod tasks;
pub(crate) mod worker;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::builder::PoolBuilder;
pub use self::imap::Imap;
pub use self::state::worker_state;
pub use self::status::{Activity, PoolStatus, Progress, WorkerStatus};
pub use self::task::Task;
pub use self::tasks::Tasks;
use crate::engine::pool::{self as engine, HEADER, Job, NotRunning, SubmitError, TaskOptions};
use crate::engine::{Patience, WaitError};
use crate::entry::EntryName;
use crate::error::{Error, Result};
use crate::function::Function;
use crate::pool::launcher::Launcher;
use crate::{pool, wire};

/// A number of worker processes that carry out tasks.
///
/// ```
/// use procession::Pool;
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::new(4)?;
///     let squares: Vec<u64> = pool.map(|x| x * x, 0..1000_u64)?;
///     assert_eq!(squares[999], 998_001);
///     let task = pool.apply_async(|x: u64| x + 1, 41)?;
///     assert_eq!(task.get()?, 42);
///     Ok(())
/// }
/// ```
///
/// Which functions a pool can call, and with what, is said at [`Function`].
///
/// # When something dies
///
/// - A task that panics fails with the panic's message and place ([`Error::panic`]); its worker
///   goes on.
/// - A worker that is killed, crashes, runs out of memory or calls [`std::process::exit`] takes its
///   task with it: that task alone fails ([`Error::is_worker_lost`]), within 100 ms, or is tried again
///   if that is wanted ([`Tasks::retries`]). The worker is replaced.
/// - A task that runs for longer than it may ([`Tasks::time_limit`]) is stopped with its worker.
/// - Workers that can't even start, again and again, break the pool: all that is waited for fails
///   with the reason ([`Error::is_broken`]), instead of being waited for in vain.
/// - The workers of a process that dies die with it.
///
/// Dropping a pool terminates it: [`join`](Self::join) first if the tasks are to be done.
pub struct Pool {
    pool: engine::Pool,
    launcher: Arc<Launcher>,
    workers: usize,
    /// Of tasks that are submitted without a choice.
    options: TaskOptions,
}

// What the workers' `setup` hook holds is used in other processes alone: a panic here leaves nothing half done.
impl UnwindSafe for Pool {}
impl RefUnwindSafe for Pool {}

impl Pool {
    /// Starts a pool of `workers` processes; [`builder`](Self::builder) has more choice.
    ///
    /// # Errors
    /// When [`init`](crate::init) has not run in this process ([`Error::is_not_initialised`]), when
    /// `workers` is 0 or more than 2048, or when the system has no room for so many processes.
    pub fn new(workers: usize) -> Result<Pool> {
        Pool::builder().workers(workers).build()
    }

    /// The choices that there are before a pool starts.
    pub fn builder() -> PoolBuilder {
        PoolBuilder::new()
    }

    /// The ways to submit tasks, with a choice: how often they are tried again, how long they may run.
    pub fn tasks(&self) -> Tasks<'_> {
        Tasks::new(self, self.options)
    }

    /// Has a worker call `function`, and waits for what it returns.
    ///
    /// # Errors
    /// When the call can't be sent, and when it fails: see [`Pool`].
    pub fn apply<F, A, S>(&self, function: F, arguments: A) -> Result<F::Output>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        self.tasks().apply(function, arguments)
    }

    /// Has a worker call `function`, and returns at once. The [`Task`] is for its result.
    ///
    /// # Errors
    /// When the arguments can't be serialised, there is no memory for them, or the pool takes no
    /// tasks any more.
    pub fn apply_async<F, A, S>(&self, function: F, arguments: A) -> Result<Task<F::Output>>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        self.tasks().apply_async(function, arguments)
    }

    /// Calls `function` with each item, in the workers, and gives the results in the order of the
    /// items.
    ///
    /// Items are sent in chunks, about four for each worker. A chunk is one task: should its worker
    /// die, or one of its calls panic, the whole `map` fails with that. For one task an item, and
    /// for results as they come, see [`imap`](Self::imap).
    ///
    /// An item that is a tuple is one argument: `pool.map(|(a, b)| add(a, b), pairs)`.
    ///
    /// # Errors
    /// The first failure that comes in. What has not begun then is not waited for.
    pub fn map<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.tasks().map(function, items)
    }

    /// Like [`map`](Self::map), and calls `progress` in this thread whenever the results of a chunk
    /// have come.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_with_progress<F, T, R, I>(
        &self,
        function: F,
        items: I,
        progress: impl FnMut(Progress),
    ) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.tasks().map_with_progress(function, items, progress)
    }

    /// Like [`map`](Self::map), with chunks of so many items.
    ///
    /// # Errors
    /// As [`map`](Self::map); and when `chunk` is 0.
    pub fn map_chunked<F, T, R, I>(&self, function: F, items: I, chunk: usize) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.tasks().map_chunked(function, items, chunk)
    }

    /// Calls `function` with each item, one task an item, and gives each result, or its failure, in
    /// the order of the items, as soon as it is there.
    ///
    /// The items are asked for as the iterator goes on, a few for each worker ahead of the results:
    /// they may be endless.
    ///
    /// # Errors
    /// When the pool takes no tasks any more.
    pub fn imap<F, T, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.tasks().imap(function, items)
    }

    /// Like [`imap`](Self::imap), with the results in the order in which they come.
    ///
    /// # Errors
    /// When the pool takes no tasks any more.
    pub fn imap_unordered<F, T, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.tasks().imap_unordered(function, items)
    }

    /// Takes no more tasks. The workers end when those that were submitted are done. Does not wait.
    pub fn close(&self) {
        self.pool.close();
    }

    /// Ends all workers without waiting for their tasks (SIGTERM, and SIGKILL a second later). Who
    /// waits for a result is told ([`Error::is_terminated`]). Does not wait; [`join`](Self::join)
    /// does.
    pub fn terminate(&self) {
        self.pool.terminate();
    }

    /// Closes the pool and waits until every task is done, or failed, and the workers have ended.
    ///
    /// The results of tasks stay to be had. An [`Imap`] that hasn't come to its end keeps the pool
    /// waiting: use it up or drop it before.
    ///
    /// # Errors
    /// When the pool broke ([`Error::is_broken`]), or belongs to another process: this one was
    /// forked from it.
    pub fn join(self) -> Result<()> {
        self.close();
        loop {
            match self.pool.join(&mut Patience::forever()) {
                Ok(()) => break,
                Err(pool::engine::JoinError::Wait(_)) => {}
                Err(error) => return Err(Error::pool_not_running(&error)),
            }
        }
        self.pool
            .breakage()
            .map_or(Ok(()), |why| Err(task::broken(&why)))
    }

    /// The same, at most for `timeout`; then the pool comes back, closed.
    ///
    /// # Errors
    /// The pool, when tasks were still to be done.
    pub fn join_timeout(self, timeout: Duration) -> Result<(), Pool> {
        self.close();
        match self.pool.join(&mut Patience::timeout(timeout)) {
            Err(pool::engine::JoinError::Wait(WaitError::TimedOut | WaitError::Interrupted)) => {
                Err(self)
            }
            _ => Ok(()),
        }
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The process ids of the workers that run now.
    pub fn worker_pids(&self) -> Vec<u32> {
        self.launcher.pids()
    }

    /// How far it has come. Takes in what results are there; never waits.
    pub fn status(&self) -> PoolStatus {
        PoolStatus::of(self.pool.status())
    }

    /// What each worker is doing now. Never waits.
    pub fn worker_status(&self) -> Vec<WorkerStatus> {
        let workers = self.pool.workers().into_iter();
        workers.map(WorkerStatus::of).collect()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool")
            .field("workers", &self.workers)
            .field("state", &self.pool.state())
            .finish()
    }
}

fn not_running(error: &NotRunning) -> Error {
    match error {
        NotRunning::Broken(why) => task::broken(why),
        NotRunning::Closed => {
            Error::pool_not_running(&"the pool takes no more tasks: it was closed")
        }
        NotRunning::Terminated => {
            Error::pool_not_running(&"the pool takes no more tasks: it was terminated")
        }
        NotRunning::Foreign => Error::pool_not_running(
            &"the pool belongs to the process that made it, and this one was forked from there: make a pool of its \
              own here",
        ),
    }
}

fn submit<T: Serialize + ?Sized>(job: &Job, entry: EntryName, arguments: &T) -> Result<()> {
    let submitted = wire::encode_and(&(entry, arguments), HEADER, |packed| {
        packed.submit(0, |task| job.submit(task))
    })
    .map_err(Error::about::<T>)?;
    match submitted {
        Ok(_) => Ok(()),
        Err(SubmitError::Memory(error)) => Err(error.into()),
        Err(SubmitError::NotRunning(error)) => Err(not_running(&error)),
    }
}

fn wait_next(job: &Job) -> Option<(u64, engine::Reply)> {
    loop {
        // Patience without end runs out only where somebody asked to be interrupted.
        if let Ok(next) = job.next(&mut Patience::forever()) {
            return next;
        }
    }
}
