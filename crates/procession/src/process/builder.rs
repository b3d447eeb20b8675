//! The choices that there are before a process starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Process;
use super::conditions::{Conditions, conditions};
use crate::engine::Parcel;
use crate::engine::process::clock;
use crate::entry;
use crate::error::{Error, Result};
use crate::function::{Function, Whole};
use crate::run::{Run, run_it};
use crate::start;

/// The choices that there are before a process starts.
///
/// ```
/// use std::time::Duration;
///
/// use procession::{Process, StartMethod, Stdio};
/// # #[procession::main]
/// # fn main() -> procession::Result<()> {
/// let process = Process::builder()
///     .name("answer")
///     .start_method(StartMethod::Spawn)
///     .env("LANG", "C")
///     .current_dir("/")
///     .stdin(Stdio::null())
///     .memory_limit(256 << 20)
///     .timeout(Duration::from_secs(60))
///     .kill_on_drop(true)
///     .spawn(|| 6 * 7, ())?;
/// assert_eq!(process.name(), "answer");
/// assert_eq!(process.join()?, 42);
/// # Ok(())
/// # }
/// ```
///
/// They mean the same by every start method. What can't be had at all (a working directory that is
/// not there, say) is an error of the start, and no process is started. What the system refuses to
/// the process itself (a limit that it may not raise, say) is an error of its
/// [`join`](Process::join), and its function is not called.
#[derive(Debug, Clone, Default)]
#[must_use = "nothing starts until `spawn` or `run`"]
pub struct Builder {
    name: Option<String>,
    daemon: bool,
    timeout: Option<Duration>,
    kill_on_drop: bool,
    conditions: Conditions,
}

conditions!(Builder);

/// A start as it has been decided on.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) daemon: bool,
    pub(crate) conditions: Conditions,
    pub(crate) timeout: Option<Duration>,
    pub(crate) setup: Option<Arc<Parcel>>,
}

impl Builder {
    /// A name for people: it stands in errors and in lists of processes. Otherwise `Process-1`,
    /// `Process-2`, ...
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// Whether the process is to be killed as soon as its parent ends, however that ends. Otherwise
    /// it runs on.
    pub fn daemon(mut self, daemon: bool) -> Builder {
        self.daemon = daemon;
        self
    }

    /// Whether the process is to be killed (SIGKILL) when its [`Process`] is dropped. Otherwise it
    /// runs on.
    ///
    /// The drop does not wait for its end.
    pub fn kill_on_drop(mut self, kill: bool) -> Builder {
        self.kill_on_drop = kill;
        self
    }

    /// How long the process may run, from its start on. If it runs longer it is killed, and its
    /// [`join`](Process::join) says [so](super::JoinErrorKind::TimedOut). Otherwise it may run for
    /// ever.
    ///
    /// The kernel sees to it, by a timer of the process itself, whatever this process and the other
    /// are doing. The signal is SIGALRM, and SIGKILL a second later should the function block or
    /// handle that. Processes that the process has started have no part in it.
    ///
    /// (If it took SIGKILL, and nobody was waiting in the meantime, `join` can't tell that from any
    /// other, and says that a signal ended the process.)
    pub fn timeout(mut self, limit: Duration) -> Builder {
        self.timeout = Some(limit);
        self
    }

    /// Starts a process that calls `function` with `arguments`.
    ///
    /// # Errors
    /// As [`Process::spawn`]; and when something that was chosen can't be had.
    pub fn spawn<F, A, S>(self, function: F, arguments: A) -> Result<Process<F::Output>>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        let entry = entry::name::<F, A, S>(&function)?;
        let name = self.name.unwrap_or_else(next_name);
        let mut conditions = self.conditions;
        let setup = conditions.take_setup();
        let setup = setup.map_err(|error| Error::start(&name, error))?;
        conditions.settings.ends_at = self.timeout.map(|limit| clock().saturating_add(limit));
        let plan = Plan {
            name,
            daemon: self.daemon,
            conditions,
            timeout: self.timeout,
            setup,
        };
        let (running, pipes) = start::start(&plan, entry, &arguments)?;
        let running = Arc::new(running);
        start::remember(&running);
        Ok(Process::new(running, pipes, self.kill_on_drop))
    }

    /// Starts a process that calls `function` with `captures`, the values that a closure would
    /// capture.
    ///
    /// # Errors
    /// As [`spawn`](Builder::spawn).
    pub fn spawn_with<A, R, F>(self, captures: A, function: F) -> Result<Process<R>>
    where
        F: Fn(A) -> R + Copy + Send + Sync + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.spawn::<F, A, Whole>(function, captures)
    }

    /// Starts a process that runs `task`; see [`Run`].
    ///
    /// # Errors
    /// As [`spawn`](Builder::spawn).
    pub fn run<T: Run>(mut self, task: T) -> Result<Process<T::Output>> {
        self.name = self.name.or_else(|| task.name());
        self.spawn(run_it::<T>, (task,))
    }
}

fn next_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("Process-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}
