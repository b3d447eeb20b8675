//! Processes that run one function.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::launch;
use crate::engine::{self, Patience};
use crate::entry;
use crate::error::{Error, Result};
use crate::function::{Function, open_answer};
use crate::panic::Panic;
use crate::run::{Run, run_it};
use crate::start::{self, Reply};

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
/// lost. A process also outlives its parent, unless it is a [daemon](Builder::daemon).
#[must_use = "join it, or its result and its failures go unseen"]
pub struct Process<R = ()> {
    running: Arc<Running>,
    result: PhantomData<fn() -> R>,
}

/// What is known of a started process, whatever it returns.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: engine::Child,
    pub(crate) reply: Reply,
    pub(crate) daemon: bool,
    pub(crate) method: StartMethod,
    /// The process that started it.
    pub(crate) owner: u32,
}

impl Process<()> {
    /// Starts a process that calls `function` with `arguments`; they are described at [`Function`].
    ///
    /// Returns when the process exists, not when it has run. It is started by the default
    /// [`StartMethod`], and is no daemon; [`builder`](Process::builder) has the choice.
    ///
    /// # Errors
    /// When [`init`](crate::init) has not run in this process ([`Error::is_not_initialised`]), when
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

/// The choices that there are before a process starts.
///
/// ```
/// use procession::{Process, StartMethod};
/// # #[procession::main]
/// # fn main() -> procession::Result<()> {
/// let process = Process::builder()
///     .name("answer")
///     .daemon(true)
///     .start_method(StartMethod::Spawn)
///     .spawn(|| 6 * 7, ())?;
/// assert_eq!(process.name(), "answer");
/// assert_eq!(process.join()?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
#[must_use = "nothing starts until `spawn` or `run`"]
pub struct Builder {
    name: Option<String>,
    daemon: bool,
    method: StartMethod,
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

    /// How the process is started.
    pub fn start_method(mut self, method: StartMethod) -> Builder {
        self.method = method;
        self
    }

    /// Starts a process that calls `function` with `arguments`.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn spawn<F, A, S>(self, function: F, arguments: A) -> Result<Process<F::Output>>
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: Serialize + DeserializeOwned,
    {
        let entry = entry::name::<F, A, S>(&function)?;
        let name = self.name.unwrap_or_else(next_name);
        let running = Arc::new(start::start(
            &name,
            self.daemon,
            self.method,
            entry,
            &arguments,
        )?);
        start::remember(&running);
        Ok(Process {
            running,
            result: PhantomData,
        })
    }

    /// Starts a process that runs `task`; see [`Run`].
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn run<T: Run>(mut self, task: T) -> Result<Process<T::Output>> {
        self.name = self.name.or_else(|| task.name());
        self.spawn(run_it::<T>, (task,))
    }
}

fn next_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("Process-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl<R> Process<R> {
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
    /// # Errors
    /// [`JoinError`] says why there is no result: a panic with message and place, a signal, an exit
    /// code.
    pub fn join(self) -> Result<R, JoinError> {
        let status = self.running.wait();
        self.running.result(status)
    }

    /// Like [`join`](Self::join), but waits no longer than `timeout`: `Ok(None)` means that the
    /// process still runs.
    ///
    /// The result can be had once.
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

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Process")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("exit_status", &self.exit_status())
            .finish_non_exhaustive()
    }
}

impl Running {
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Option<ExitStatus> {
        self.child
            .wait(&mut Patience::timeout(timeout))
            .ok()
            .map(ExitStatus)
    }

    pub(crate) fn wait(&self) -> ExitStatus {
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            if let Ok(status) = self.child.wait(&mut Patience::forever()) {
                return ExitStatus(status);
            }
        }
    }

    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        self.child
            .kill(number)
            .map_err(|error| Error::system("the signal could not be sent", error))
    }

    fn result<R: DeserializeOwned>(&self, status: ExitStatus) -> Result<R, JoinError> {
        let why = match self.reply.0.get(&mut Patience::none()) {
            Ok(mut message) => {
                let buffers = std::mem::take(&mut message.buffers);
                match open_answer(message.tag, &message.bytes, buffers) {
                    Ok(value) => return Ok(value),
                    Err(error) => match error.panic() {
                        Some(panic) => Why::Panicked(panic.clone()),
                        None => Why::Unreadable(error),
                    },
                }
            }
            Err(_) if self.child.checked_in() => Why::Ended,
            Err(_) => Why::NotInitialised,
        };
        Err(JoinError(Box::new(Failure {
            name: self.child.name().to_owned(),
            pid: self.child.pid(),
            status,
            why,
        })))
    }
}

pub(crate) const SIGINT: i32 = libc::SIGINT;
pub(crate) const SIGKILL: i32 = libc::SIGKILL;
pub(crate) const SIGTERM: i32 = libc::SIGTERM;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub(crate) engine::ExitStatus);

impl ExitStatus {
    /// Whether it ended by itself, with exit code 0.
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    /// The exit code, if it ended by itself. A panic in its function makes it 101.
    pub fn code(self) -> Option<i32> {
        match self.0 {
            engine::ExitStatus::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended it, if one did.
    pub fn signal(self) -> Option<i32> {
        match self.0 {
            engine::ExitStatus::Signal(signal) => Some(signal),
            _ => None,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// Why a process has no result to give.
#[derive(Debug)]
pub struct JoinError(Box<Failure>);

#[derive(Debug)]
struct Failure {
    name: String,
    pid: u32,
    status: ExitStatus,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Panicked(Panic),
    /// Before its function had returned.
    Ended,
    /// It was started, and its `main` went another way.
    NotInitialised,
    /// There is an answer, but no result in it.
    Unreadable(Error),
}

impl JoinError {
    /// The function panicked.
    pub fn is_panic(&self) -> bool {
        self.panic().is_some()
    }

    /// The panic of the function: its message and its place.
    pub fn panic(&self) -> Option<&Panic> {
        match &self.0.why {
            Why::Panicked(panic) => Some(panic),
            Why::Unreadable(error) => error.panic(),
            _ => None,
        }
    }

    /// The signal that killed the process, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.0.status.signal()
    }

    /// The exit code, if the process ended by itself: by a call of [`std::process::exit`], for
    /// instance.
    pub fn exit_code(&self) -> Option<i32> {
        self.0.status.code()
    }

    /// How the process ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        Some(self.0.status)
    }

    /// The id that the process had.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// The name of the process.
    pub fn name(&self) -> &str {
        &self.0.name
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure {
            name,
            pid,
            status,
            why,
        } = &*self.0;
        match why {
            Why::Panicked(panic) => write!(out, "{name}: {panic}"),
            Why::Ended => write!(out, "{name} (process {pid}) has no result: {status}"),
            Why::NotInitialised => write!(
                out,
                "{name} (process {pid}) ended before it reached `procession::init()`, which must be the first line of \
                 main: {status}"
            ),
            Why::Unreadable(_) => {
                write!(out, "{name} (process {pid}) has no result that can be read")
            }
        }
    }
}

impl std::error::Error for JoinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.why {
            Why::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}
