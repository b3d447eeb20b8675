//! Processes that run one function.

mod builder;
mod conditions;
mod exit_status;
mod join_error;
mod running;
mod settings;
pub(crate) mod setup;
mod stdio;
mod timeout;

use std::fmt;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::launch::{self, Pipes};
use crate::engine::{self, Patience};
use crate::error::Result;
use crate::function::Function;
use crate::run::Run;

pub use builder::Builder;
pub(crate) use builder::Plan;
pub(crate) use conditions::{Conditions, conditions};
pub use exit_status::ExitStatus;
pub use join_error::{JoinError, JoinErrorKind};
pub(crate) use running::Running;
pub use settings::Resource;
pub(crate) use settings::Settings;
pub use setup::SetupResult;
pub use stdio::Stdio;
pub(crate) use timeout::Timeout;

/// How a process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StartMethod {
    /// The executable is started afresh, at the cost of an exec.
    Spawn,
    /// A small server process, started afresh at the first use and kept, forks at
    /// [`init`](crate::init). Several times faster than `Spawn`, however large this process is.
    ///
    /// The default. A child finds what it finds with [`Spawn`](StartMethod::Spawn): an executable
    /// that has just reached `init`, with one thread, and nothing of its parent's memory, so that
    /// nothing can be locked or half done in it. Should the server be killed, the next start makes
    /// another.
    #[default]
    ForkServer,
    /// This process forks. The child has a copy of all of its memory, as it was.
    ///
    /// Of the threads only the one that forks is copied. What others were doing stays undone, so
    /// that a lock of theirs (of the allocator of some library, of standard output) may be locked
    /// in the child for ever: for programs that have one thread, and need what the parent's memory
    /// holds. It takes the longer the more memory the parent uses.
    Fork,
}

impl StartMethod {
    pub(crate) fn to_engine(self) -> launch::StartMethod {
        match self {
            StartMethod::Spawn => launch::StartMethod::Spawn,
            StartMethod::ForkServer => launch::StartMethod::ForkServer,
            StartMethod::Fork => launch::StartMethod::Fork,
        }
    }

    pub(crate) fn from_engine(method: launch::StartMethod) -> StartMethod {
        match method {
            launch::StartMethod::ForkServer => StartMethod::ForkServer,
            launch::StartMethod::Fork => StartMethod::Fork,
            _ => StartMethod::Spawn,
        }
    }
}

/// A process that runs one function, and the function's result to come.
///
/// ```
/// use procession::Process;
///
/// fn count(text: String) -> usize {
///     text.split_whitespace().count()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let process = Process::spawn(count, "how many words are these".to_string())?;
///     assert_eq!(process.join()?, 5);
///     Ok(())
/// }
/// ```
///
/// Dropping a `Process` neither ends the process nor waits for it: it runs on, and its result is
/// lost; unless it is to be [killed](Builder::kill_on_drop) then. A process also outlives its
/// parent, unless it is a [daemon](Builder::daemon).
#[must_use = "join it, or its result and its failures go unseen"]
pub struct Process<R = ()> {
    /// Where its standard input comes from, if that is [`Stdio::piped`]. Dropped, it is the end of
    /// the input.
    pub stdin: Option<ChildStdin>,
    /// What it writes to its standard output, if that is [`Stdio::piped`].
    pub stdout: Option<ChildStdout>,
    /// What it writes to its standard error, if that is [`Stdio::piped`].
    pub stderr: Option<ChildStderr>,
    running: Arc<Running>,
    kill_on_drop: bool,
    result: PhantomData<fn() -> R>,
}

/// What came of a process, and what it wrote: see [`Process::join_with_output`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Output<R> {
    /// As [`Process::join`] gives it.
    pub result: Result<R, JoinError>,
    /// All that it wrote to its standard output; empty if that was not [`Stdio::piped`].
    pub stdout: Vec<u8>,
    /// All that it wrote to its standard error; empty if that was not [`Stdio::piped`].
    pub stderr: Vec<u8>,
}

impl Process<()> {
    /// Starts a process that calls `function` with `arguments`; they are described at [`Function`].
    ///
    /// Returns when the process exists, not when it has run. It is started by the default
    /// [`StartMethod`], and is no daemon; [`builder`](Process::builder) has the choice.
    ///
    /// # Errors
    /// When [`init`](crate::init) has not run in this process ([`Error::is_not_initialised`](crate::Error::is_not_initialised)), when
    /// the arguments can't be serialised, or when the system has no room for another process or its
    /// arguments.
    pub fn spawn<F, A, S>(function: F, arguments: A) -> Result<Process<F::Output>>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        Process::builder().spawn(function, arguments)
    }

    /// Starts a process that calls `function` with `captures`, the values that a closure would
    /// capture.
    ///
    /// The same as [`spawn`](Process::spawn) but for the order, by which the compiler knows the types
    /// of the closure's parameters: so nothing has to be said twice but the names.
    ///
    /// ```
    /// use procession::{Lock, Process};
    ///
    /// # #[procession::main]
    /// # fn main() -> procession::Result<()> {
    /// let total = Lock::new(0)?;
    /// let step = 5;
    /// let process = Process::spawn_with((total.clone(), step), |(total, step)| {
    ///     *total.lock().unwrap() += step;
    /// })?;
    /// process.join()?;
    /// assert_eq!(*total.lock()?, 5);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`spawn`](Process::spawn).
    pub fn spawn_with<A, R, F>(captures: A, function: F) -> Result<Process<R>>
    where
        F: Fn(A) -> R + Copy + Send + Sync + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        Process::builder().spawn_with(captures, function)
    }

    /// Starts a process that runs `task`; see [`Run`].
    ///
    /// # Errors
    /// As [`spawn`](Process::spawn).
    pub fn run<T: Run>(task: T) -> Result<Process<T::Output>> {
        Process::builder().run(task)
    }

    /// The choices that there are before a start.
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl<R> Process<R> {
    fn new(running: Arc<Running>, pipes: Pipes, kill_on_drop: bool) -> Process<R> {
        let [stdin, stdout, stderr] = pipes;
        Process {
            stdin: stdin.map(ChildStdin::from),
            stdout: stdout.map(ChildStdout::from),
            stderr: stderr.map(ChildStderr::from),
            running,
            kill_on_drop,
            result: PhantomData,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.child.pid()
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        self.running.child.name()
    }

    /// Whether it is killed when this process ends.
    pub fn is_daemon(&self) -> bool {
        self.running.daemon
    }

    /// How it was started.
    pub fn start_method(&self) -> StartMethod {
        self.running.method
    }

    /// Whether it still runs. Does not wait.
    pub fn is_alive(&self) -> bool {
        self.running.child.is_alive()
    }

    /// How it ended; `None` while it runs. Does not wait.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.running.child.try_wait().map(ExitStatus)
    }

    /// Waits until it has ended, however it does.
    ///
    /// With [`Stdio::piped`] the process may itself be waiting: for its input, or for somebody to
    /// read what it writes. [`join`](Process::join) sees to both.
    pub fn wait(&self) -> ExitStatus {
        self.running.wait()
    }

    /// Waits until it has ended, at most for `timeout`; `None` when it still runs then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<ExitStatus> {
        self.running.wait_timeout(timeout)
    }

    /// Asks it to end (SIGTERM, which it may handle). Nothing happens if it has ended.
    ///
    /// # Errors
    /// When the system refuses: the process has taken on the rights of another user.
    pub fn terminate(&self) -> Result<()> {
        self.running.signal(SIGTERM)
    }

    /// Ends it at once (SIGKILL). Nothing happens if it has ended.
    ///
    /// What it shares stays in order: the next to take a lock that it held is
    /// [told](crate::Poisoned), and a message that it was sending is there whole or not at all.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.running.signal(SIGKILL)
    }

    /// Interrupts it as Ctrl-C does (SIGINT). Nothing happens if it has ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.running.signal(SIGINT)
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits until the process has ended, and gives what its function returned.
    ///
    /// Where `stdin` is a pipe that was not taken it is closed. What comes from `stdout` and `stderr`
    /// is read and thrown away, or the process might wait for ever for room in the pipe;
    /// [`join_with_output`](Self::join_with_output) keeps it.
    ///
    /// # Errors
    /// [`JoinError`] says why there is no result: a panic with message and place, a signal, an exit
    /// code.
    pub fn join(mut self) -> Result<R, JoinError> {
        if self.stdout.is_some() || self.stderr.is_some() {
            self.drain(|_, _| {});
        }
        self.stdin = None;
        let status = self.running.wait();
        self.running.result(status)
    }

    /// Waits until the process has ended, and gives what its function returned, together with what
    /// the process wrote to `stdout` and `stderr`, where they are [`Stdio::piped`] and were not
    /// taken. `stdin` is closed.
    ///
    /// Of other processes that have inherited the pipes it does not wait for the end.
    ///
    /// ```
    /// use procession::{Process, Stdio};
    ///
    /// # #[procession::main]
    /// # fn main() -> procession::Result<()> {
    /// fn fail() {
    ///     eprintln!("this goes wrong");
    ///     std::process::abort()
    /// }
    /// let process = Process::builder().stderr(Stdio::piped()).spawn(fail, ())?;
    /// let output = process.join_with_output();
    /// assert_eq!(output.stderr, b"this goes wrong\n");
    /// assert_eq!(output.result.unwrap_err().signal_name(), Some("SIGABRT"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_with_output(mut self) -> Output<R> {
        let mut kept = [Vec::new(), Vec::new()];
        self.drain(|number, bytes| kept[number].extend_from_slice(bytes));
        let [stdout, stderr] = kept;
        let status = self.running.wait();
        Output {
            result: self.running.result(status),
            stdout,
            stderr,
        }
    }

    /// Reads both streams up to the end of the process.
    fn drain(&mut self, take: impl FnMut(usize, &[u8])) {
        self.stdin = None;
        let file = |fd: Option<OwnedFd>| fd.map(File::from);
        let streams = [
            file(self.stdout.take().map(OwnedFd::from)),
            file(self.stderr.take().map(OwnedFd::from)),
        ];
        self.running
            .drain(streams.each_ref().map(Option::as_ref), take);
    }

    /// Like [`join`](Self::join), but waits no longer than `timeout`: `Ok(None)` means that the
    /// process still runs.
    ///
    /// The result can be had once: whoever asks again gets an error ([`JoinErrorKind::Taken`]).
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<Option<R>, JoinError> {
        match self.wait_timeout(timeout) {
            None => Ok(None),
            Some(status) => self.running.result(status).map(Some),
        }
    }
}

impl<R> AsFd for Process<R> {
    /// A descriptor that becomes readable when the process has ended, for `poll` and its like.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.child.sentinel()
    }
}

impl<R> Drop for Process<R> {
    fn drop(&mut self) {
        if self.kill_on_drop && self.is_alive() {
            // An error is that of a process with another user's rights, and nobody to tell.
            let _ = self.kill();
        }
    }
}

/// Waits until one of `processes` has ended, and gives its index; of several, the first. `None` if
/// there are none.
///
/// ```
/// use procession::{Process, wait_any};
///
/// # #[procession::main]
/// # fn main() -> procession::Result<()> {
/// let mut processes = vec![
///     Process::spawn(|| std::thread::sleep(std::time::Duration::from_secs(600)), ())?,
///     Process::spawn(|| (), ())?,
/// ];
/// let first = wait_any(&processes).expect("there are some");
/// assert_eq!(first, 1);
/// processes.remove(first).join()?;
/// processes[0].kill()?;
/// # Ok(())
/// # }
/// ```
///
/// For processes with different results, and whatever else has a descriptor that is readable in the
/// end, give `&[&dyn AsFd]`.
pub fn wait_any(processes: &[impl AsFd]) -> Option<usize> {
    wait_any_for(processes, Patience::forever)
}

/// The same, at most for `timeout`: `None` if all of them still run then.
pub fn wait_any_timeout(processes: &[impl AsFd], timeout: Duration) -> Option<usize> {
    wait_any_for(processes, || Patience::timeout(timeout))
}

fn wait_any_for<'a>(
    processes: &[impl AsFd],
    patience: impl FnOnce() -> Patience<'a>,
) -> Option<usize> {
    if processes.is_empty() {
        return None;
    }
    let descriptors: Vec<BorrowedFd<'_>> = processes.iter().map(AsFd::as_fd).collect();
    let mut patience = patience();
    loop {
        match engine::process::wait_any(&descriptors, &mut patience) {
            Ok(found) => return found,
            // Shortage of memory in the kernel, or of the limit of descriptors, which was lowered
            // below what is open: no reason to be wrong about an end.
            Err(_) if patience.check().is_err() => return None,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit_status", &self.exit_status())
            .finish_non_exhaustive()
    }
}

pub(crate) const SIGINT: i32 = libc::SIGINT;
pub(crate) const SIGKILL: i32 = libc::SIGKILL;
pub(crate) const SIGTERM: i32 = libc::SIGTERM;
