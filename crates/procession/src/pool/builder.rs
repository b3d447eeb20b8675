//! The choices before a pool starts.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::Parcel;
use crate::engine::pool::{self as engine, Options, StartError, TaskOptions};
use crate::entry;
use crate::error::{Error, Result};
use crate::function::{AnswerKind, Function, Setup};
use crate::pool::Pool;
use crate::pool::launcher::Launcher;
use crate::pool::state::Keeping;
use crate::process::{Conditions, SetupResult, conditions};
use crate::wire;

/// The choices that there are before a [`Pool`] starts.
///
/// ```
/// use procession::Pool;
///
/// fn prepare(dictionary: String) {
///     println!("{} loads {dictionary}", std::process::id());
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::builder()
///         .workers(2)
///         .initializer(prepare, "words.txt".to_string())
///         .max_tasks_per_worker(1000)
///         .build()?;
///     assert_eq!(pool.apply(|word: String| word.len(), "hello".to_string())?, 5);
///     pool.join()
/// }
/// ```
///
/// What a [process](crate::Builder) may be given, workers may be too: environment, folder, standard
/// streams, limits, and a hook that runs first in it. Where the methods below speak of *the process*,
/// that is each worker, and each that takes the place of one.
///
/// ```
/// use procession::{Pool, Stdio};
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::builder()
///         .workers(1)
///         .name("decoder")
///         .memory_limit(256 << 20)
///         .env("LANG", "C")
///         .stdin(Stdio::null())
///         .build()?;
///     // More than its worker may have: that task fails, and the next is done by another.
///     let greedy = pool.apply(|bytes: usize| vec![1_u8; bytes].len(), 512 << 20);
///     assert!(greedy.unwrap_err().is_worker_lost());
///     assert_eq!(pool.apply(|bytes: usize| vec![1_u8; bytes].len(), 1 << 20)?, 1 << 20);
///     pool.join()
/// }
/// ```
#[derive(Debug)]
#[must_use = "nothing starts until `build`"]
pub struct PoolBuilder {
    workers: Option<usize>,
    max_tasks: u64,
    max_memory: u64,
    tasks: TaskOptions,
    name: Option<String>,
    conditions: Conditions,
    initializer: Option<Result<Parcel>>,
}

conditions!(PoolBuilder);

impl PoolBuilder {
    pub(crate) fn new() -> PoolBuilder {
        PoolBuilder {
            workers: None,
            max_tasks: 0,
            max_memory: 0,
            tasks: TaskOptions::default(),
            name: None,
            conditions: Conditions::default(),
            initializer: None,
        }
    }

    /// How many workers. Otherwise as many as this process may use processors.
    pub fn workers(mut self, workers: usize) -> PoolBuilder {
        self.workers = Some(workers);
        self
    }

    /// What each worker calls, once, before its first task.
    ///
    /// It may return a [`Result`](crate::SetupResult). If that is an error, or if it panics, the worker
    /// ends; if that happens again and again, the pool is [broken](Error::is_broken), and says why.
    ///
    /// ```
    /// use procession::Pool;
    ///
    /// fn enter(folder: String) -> std::io::Result<()> {
    ///     std::env::set_current_dir(folder)
    /// }
    ///
    /// #[procession::main]
    /// fn main() -> procession::Result<()> {
    ///     let pool = Pool::builder().initializer(enter, "/".to_string()).build()?;
    ///     let folder = pool.apply(|| std::env::current_dir().ok(), ())?;
    ///     assert_eq!(folder, Some("/".into()));
    ///     pool.join()
    /// }
    /// ```
    pub fn initializer<F, A, S>(mut self, function: F, arguments: A) -> PoolBuilder
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: SetupResult,
    {
        self.initializer = Some(store(&Setup(function), &arguments));
        self
    }

    /// After how many tasks a worker is replaced by a fresh one, for tasks that leak. Otherwise it
    /// stays. A chunk of [`map`](Pool::map) is one task.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> PoolBuilder {
        self.max_tasks = tasks;
        self
    }

    /// With how many bytes of memory of its own, after a task, a worker is replaced by a fresh one.
    /// Resident memory counts; what is shared with other processes (the family's arena, the program's
    /// code) does not. Nothing is lost: it ends between two tasks. Otherwise it stays.
    pub fn max_memory_per_worker(mut self, bytes: u64) -> PoolBuilder {
        self.max_memory = bytes;
        self
    }

    /// How often each task is given to another worker when one dies of it: see [`Tasks::retries`](crate::Tasks::retries),
    /// which is the choice for some tasks alone.
    pub fn retries(mut self, retries: u32) -> PoolBuilder {
        self.tasks.retries = retries;
        self
    }

    /// How long each task may run: see [`Tasks::time_limit`](crate::Tasks::time_limit), which is the choice for some tasks alone.
    pub fn time_limit(mut self, limit: Duration) -> PoolBuilder {
        self.tasks.time_limit = Some(limit);
        self
    }

    /// What each worker makes, once, before its first task, for all its tasks:
    /// [`worker_state`](crate::worker_state) gives it to them. It takes the place of an
    /// [`initializer`](Self::initializer), and the same becomes of it when it panics.
    ///
    /// What it makes never leaves the worker, so it need not be serialisable. It is not dropped when
    /// the worker is killed.
    pub fn worker_state<F, A, S>(mut self, function: F, arguments: A) -> PoolBuilder
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: 'static,
    {
        self.initializer = Some(store(&Keeping(function), &arguments));
        self
    }

    /// A name for people: workers are called by it, with a number behind it, in errors and in lists of
    /// processes. Otherwise `PoolWorker-1`, `PoolWorker-2`, ...
    pub fn name(mut self, name: impl Into<String>) -> PoolBuilder {
        self.name = Some(name.into());
        self
    }

    /// Starts the pool. Its workers exist when this returns; they may still be starting.
    ///
    /// # Errors
    /// As [`Pool::new`]; when the arguments of the initializer or of the setup could not be serialised;
    /// when something that was chosen for the workers can't be had (a working directory that is not
    /// there, say); and when a standard stream is [`Stdio::piped`](crate::Stdio::piped).
    pub fn build(mut self) -> Result<Pool> {
        if self.conditions.has_pipes() {
            return Err(Error::misuse(
                "a pool's workers can't have pipes of which nobody has the other end: give them a file, or one end \
                 of `std::io::pipe()`",
            ));
        }
        let workers = match self.workers {
            Some(workers) => workers,
            None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let options = Options {
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            max_tasks_per_worker: NonZeroU64::new(self.max_tasks),
            max_memory_per_worker: NonZeroU64::new(self.max_memory),
            is_failure: |tag| AnswerKind::from_tag(tag) != Some(AnswerKind::Value),
        };
        let name = self.name.unwrap_or_else(|| "PoolWorker".to_owned());
        let setup = self.conditions.take_setup();
        let setup = setup.map_err(|error| Error::start(&name, error))?;
        let initializer = self.initializer.transpose()?;
        let launcher = Arc::new(Launcher::new(name, self.conditions, setup, initializer));
        let pool = engine::Pool::new(options, launcher.clone()).map_err(|error| match error {
            StartError::Family(error) => Error::from(error),
            StartError::Memory(error) => Error::from(error),
            StartError::Launch(error) => launcher
                .failure()
                .unwrap_or_else(|| Error::start("a worker", error)),
            other => Error::pool_start(other),
        })?;
        Ok(Pool {
            pool,
            launcher,
            workers,
            options: self.tasks,
        })
    }
}

fn store<F, A, S>(function: &F, arguments: &A) -> Result<Parcel>
where
    F: Function<A, S, Output = std::result::Result<(), String>>,
    A: Serialize + DeserializeOwned,
{
    let entry = entry::name::<F, A, S>(function)?;
    let packed = wire::encode(&(entry, arguments)).map_err(Error::about::<A>)?;
    Ok(packed.send(0, Parcel::store)?)
}
