//! How tasks are submitted, and all ways to submit them.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::pool::{Job, TaskOptions};
use crate::entry;
use crate::error::{Error, Result};
use crate::function::{Chunked, Function, Many, Whole};
use crate::pool::imap::{Imap, Order};
use crate::pool::status::Progress;
use crate::pool::task::{self, Task};
use crate::pool::{Pool, not_running, submit, wait_next};

/// The ways to submit tasks to a [`Pool`], with a choice of what becomes of them when something goes
/// wrong. [`Pool::tasks`] makes it; the same methods of the pool itself take the pool's own choice
/// ([`PoolBuilder::retries`](crate::PoolBuilder::retries),
/// [`PoolBuilder::time_limit`](crate::PoolBuilder::time_limit)).
///
/// ```
/// use std::time::Duration;
/// use procession::Pool;
///
/// fn decode(page: u32) -> u32 {
///     page * 2
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::new(2)?;
///     let careful = pool.tasks().retries(2).time_limit(Duration::from_secs(10));
///     assert_eq!(careful.apply(decode, 21)?, 42);
///     assert_eq!(careful.map(decode, 1..4)?, [2, 4, 6]);
///     Ok(())
/// }
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "it submits nothing by itself"]
pub struct Tasks<'a> {
    pool: &'a Pool,
    options: TaskOptions,
    prefetch: Option<usize>,
}

impl<'a> Tasks<'a> {
    pub(crate) fn new(pool: &'a Pool, options: TaskOptions) -> Tasks<'a> {
        Tasks {
            pool,
            options,
            prefetch: None,
        }
    }

    /// How often a task is given to another worker when one dies of it. A panic is no such death.
    ///
    /// A task that has cost a worker once more than that fails ([`Error::is_poison_task`]), with all
    /// causes. What is tried again is done again from its start: it should stand that. A chunk of
    /// [`map`](Self::map) is one task.
    pub fn retries(mut self, retries: u32) -> Tasks<'a> {
        self.options.retries = retries;
        self
    }

    /// How long each task may run, from the moment in which a worker takes it. Then its worker is
    /// killed (SIGKILL at once, with no SIGTERM before it) and replaced, a few hundredths of a second later at most, and the task fails
    /// ([`Error::is_task_timeout`]). It is not tried again. A chunk of [`map`](Self::map) is one task.
    pub fn time_limit(mut self, limit: Duration) -> Tasks<'a> {
        self.options.time_limit = Some(limit);
        self
    }

    /// How many items [`imap`](Self::imap) and [`imap_unordered`](Self::imap_unordered) are ahead of
    /// the results asked for, at least 1. Otherwise 16 for each worker.
    pub fn prefetch(mut self, items: usize) -> Tasks<'a> {
        self.prefetch = Some(items.max(1));
        self
    }

    /// As [`Pool::apply`].
    ///
    /// # Errors
    /// As there.
    pub fn apply<F, A, S>(&self, function: F, arguments: A) -> Result<F::Output>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        self.apply_async(function, arguments)?.get()
    }

    /// As [`Pool::apply_async`].
    ///
    /// # Errors
    /// As there.
    pub fn apply_async<F, A, S>(&self, function: F, arguments: A) -> Result<Task<F::Output>>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        let entry = entry::name::<F, A, S>(&function)?;
        let job = self.job::<F>()?;
        submit(&job, entry, &arguments)?;
        job.seal();
        Ok(Task::new(job))
    }

    /// As [`Pool::map`].
    ///
    /// # Errors
    /// As there.
    pub fn map<F, T, R, I>(&self, function: F, items: I) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.map_with_progress(function, items, |_| {})
    }

    /// As [`Pool::map_with_progress`].
    ///
    /// # Errors
    /// As [`Pool::map`].
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
        let chunk = |items: usize| items.div_ceil(self.pool.workers() * 4).max(1);
        let items = items.into_iter();
        match items.size_hint() {
            (count, Some(most)) if count == most => {
                self.collect(function, items, chunk(count), progress)
            }
            _ => {
                let items: Vec<T> = items.collect();
                let chunk = chunk(items.len());
                self.collect(function, items.into_iter(), chunk, progress)
            }
        }
    }

    /// As [`Pool::map_chunked`].
    ///
    /// # Errors
    /// As there.
    pub fn map_chunked<F, T, R, I>(&self, function: F, items: I, chunk: usize) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        if chunk == 0 {
            return Err(Error::misuse("a chunk has at least one item"));
        }
        self.collect(function, items.into_iter(), chunk, |_| {})
    }

    fn collect<F, T, R>(
        &self,
        function: F,
        items: impl Iterator<Item = T>,
        chunk: usize,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        let entry = entry::name::<Chunked<F>, Vec<T>, Many>(&Chunked(function))?;
        let job = self.job::<F>()?;
        let mut items = items.peekable();
        let (mut chunks, mut total) = (0, 0);
        while items.peek().is_some() {
            let chunk: Vec<T> = items.by_ref().take(chunk).collect();
            submit(&job, entry, &chunk)?;
            chunks += 1;
            total += chunk.len();
        }
        job.seal();
        let mut done = 0;
        let mut results: Vec<Option<Vec<R>>> =
            std::iter::repeat_with(|| None).take(chunks).collect();
        while let Some((index, reply)) = wait_next(&job) {
            let answer = task::open::<Vec<R>>(reply)?;
            done += answer.len();
            if let Some(place) = usize::try_from(index)
                .ok()
                .and_then(|index| results.get_mut(index))
            {
                *place = Some(answer);
            }
            progress(Progress { done, total });
        }
        let results: Option<Vec<Vec<R>>> = results.into_iter().collect();
        // Each task has its reply, or one of them was an error.
        results
            .map(|results| results.into_iter().flatten().collect())
            .ok_or_else(Error::terminated)
    }

    /// As [`Pool::imap`].
    ///
    /// # Errors
    /// As there.
    pub fn imap<F, T, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.iterate(function, items, Order::OfItems)
    }

    /// As [`Pool::imap_unordered`].
    ///
    /// # Errors
    /// As there.
    pub fn imap_unordered<F, T, R, I>(&self, function: F, items: I) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        self.iterate(function, items, Order::OfResults)
    }

    fn iterate<F, T, R, I>(
        &self,
        function: F,
        items: I,
        order: Order,
    ) -> Result<Imap<I::IntoIter, R>>
    where
        F: Fn(T) -> R + Copy + Send + Sync + 'static,
        T: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
        I: IntoIterator<Item = T>,
    {
        let entry = entry::name::<F, T, Whole>(&function)?;
        let window = self
            .prefetch
            .unwrap_or_else(|| Imap::<I::IntoIter, R>::window_of(self.pool.workers()));
        let job = self.job::<F>()?;
        Ok(Imap::new(job, entry, items.into_iter(), window, order))
    }

    fn job<F>(&self) -> Result<Job> {
        let options = TaskOptions {
            label: std::any::type_name::<F>(),
            ..self.options
        };
        let job = self.pool.pool.job_with(options);
        job.map_err(|error| not_running(&error))
    }
}
