//! The choices before a pool starts.

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::Parcel;
use crate::engine::pool::{self as engine, Options, StartError};
use crate::entry;
use crate::error::{Error, Result};
use crate::function::Function;
use crate::pool::Pool;
use crate::pool::launcher::Launcher;
use crate::process::StartMethod;
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
#[derive(Debug)]
#[must_use = "nothing starts until `build`"]
pub struct PoolBuilder {
    workers: Option<usize>,
    max_tasks: u64,
    method: StartMethod,
    initializer: Option<Result<Parcel>>,
}

impl PoolBuilder {
    pub(crate) fn new() -> PoolBuilder {
        PoolBuilder {
            workers: None,
            max_tasks: 0,
            method: StartMethod::default(),
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
    /// If it panics the worker ends; if that happens again and again, the pool is broken, and says
    /// why.
    pub fn initializer<F, A, S>(mut self, function: F, arguments: A) -> PoolBuilder
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        self.initializer = Some(store(&function, &arguments));
        self
    }

    /// After how many tasks a worker is replaced by a fresh one, for tasks that leak. Otherwise it
    /// stays. A chunk of [`map`](Pool::map) is one task.
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> PoolBuilder {
        self.max_tasks = tasks;
        self
    }

    /// How workers are started.
    pub fn start_method(mut self, method: StartMethod) -> PoolBuilder {
        self.method = method;
        self
    }

    /// Starts the pool. Its workers exist when this returns; they may still be starting.
    ///
    /// # Errors
    /// As [`Pool::new`]; and when the initializer's arguments could not be serialised.
    pub fn build(self) -> Result<Pool> {
        let workers = match self.workers {
            Some(workers) => workers,
            None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        };
        let options = Options {
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            max_tasks_per_worker: NonZeroU64::new(self.max_tasks),
        };
        let launcher = Arc::new(Launcher::new(self.method, self.initializer.transpose()?));
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
        })
    }
}

fn store<F, A, S>(function: &F, arguments: &A) -> Result<Parcel>
where
    F: Function<A, S>,
    A: Serialize + DeserializeOwned,
    F::Output: Serialize + DeserializeOwned,
{
    let entry = entry::name::<F, A, S>(function)?;
    let packed = wire::encode(&(entry, arguments))?;
    Ok(packed.send(0, Parcel::store)?)
}
