//! Why a process has no result to give.

use std::fmt;
use std::time::Duration;

use super::ExitStatus;
use crate::error::{Error, chain};
use crate::panic::Panic;

/// Why a process has no result to give.
///
/// Its text says what happened, to which process, and where there is something to be done, what.
pub struct JoinError(Box<Failure>);

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) status: ExitStatus,
    pub(super) core_dumped: bool,
    pub(super) memory_limit: Option<u64>,
    pub(super) why: Why,
}

#[derive(Debug)]
pub(super) enum Why {
    Panicked(Panic),
    /// Before its function had returned.
    Ended,
    /// The time it was given had passed.
    TimedOut(Duration),
    /// It was started, and its `main` went another way.
    NotInitialised,
    /// A limit, say, could not be set.
    Setting(String),
    /// The hook said no.
    Setup(String),
    SetupPanicked(Panic),
    /// There is an answer, but no result in it.
    Unreadable(Error),
    /// Somebody has had the result.
    Taken,
}

/// What kind of end it was that left a process without a result: see [`JoinError::kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JoinErrorKind {
    /// The function panicked: [`JoinError::panic`].
    Panic,
    /// A signal ended the process: a crash, a kill, a limit. [`JoinError::signal`].
    Signal,
    /// It ended by itself before its function had returned, by a call of [`std::process::exit`] for
    /// instance: [`JoinError::exit_code`].
    Exit,
    /// It ran longer than its [`timeout`](super::Builder::timeout), and was killed.
    TimedOut,
    /// Its function was not called: a limit or another setting was refused, or the
    /// [`setup`](super::Builder::setup) hook failed or panicked.
    Setup,
    /// Its function was not called: it ended before it had reached [`init`](crate::init).
    NotInitialised,
    /// The arguments or the result could not be carried from process to process.
    Serialisation,
    /// It has ended, and nobody knows how: the fork server that would have been told was killed.
    Unknown,
    /// Its result, or why there is none, was given before, by [`Process::join_timeout`](super::Process::join_timeout).
    Taken,
}

impl JoinError {
    pub(super) fn new(failure: Failure) -> JoinError {
        JoinError(Box::new(failure))
    }

    /// What kind of end it was.
    pub fn kind(&self) -> JoinErrorKind {
        match &self.0.why {
            Why::Panicked(_) => JoinErrorKind::Panic,
            Why::TimedOut(_) => JoinErrorKind::TimedOut,
            Why::Setting(_) | Why::Setup(_) | Why::SetupPanicked(_) => JoinErrorKind::Setup,
            Why::NotInitialised => JoinErrorKind::NotInitialised,
            Why::Unreadable(_) => JoinErrorKind::Serialisation,
            Why::Taken => JoinErrorKind::Taken,
            Why::Ended => match (self.signal(), self.exit_code()) {
                (Some(_), _) => JoinErrorKind::Signal,
                (_, Some(_)) => JoinErrorKind::Exit,
                (None, None) => JoinErrorKind::Unknown,
            },
        }
    }

    /// The function panicked: see [`panic`](Self::panic).
    pub fn is_panic(&self) -> bool {
        self.kind() == JoinErrorKind::Panic
    }

    /// A signal ended the process, and not for its [`timeout`](super::Builder::timeout): see
    /// [`signal`](Self::signal).
    pub fn is_signal(&self) -> bool {
        self.kind() == JoinErrorKind::Signal
    }

    /// It ran longer than its [`timeout`](super::Builder::timeout), and was killed.
    pub fn is_timeout(&self) -> bool {
        self.kind() == JoinErrorKind::TimedOut
    }

    /// A setting was refused, or the [`setup`](super::Builder::setup) hook failed or panicked: its
    /// function was not called.
    pub fn is_setup(&self) -> bool {
        self.kind() == JoinErrorKind::Setup
    }

    /// The panic, of the function or of the hook: its message and its place.
    pub fn panic(&self) -> Option<&Panic> {
        match &self.0.why {
            Why::Panicked(panic) | Why::SetupPanicked(panic) => Some(panic),
            Why::Unreadable(error) => error.panic(),
            _ => None,
        }
    }

    /// The signal that ended the process, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.0.status.signal()
    }

    /// The name of that signal, such as `SIGSEGV`. Real-time signals have none.
    pub fn signal_name(&self) -> Option<&'static str> {
        self.0.status.signal_name()
    }

    /// Whether the system took an image of the process's memory when the signal ended it. Where it
    /// is depends on the system: `coredumpctl`, or a file named `core`.
    pub fn core_dumped(&self) -> bool {
        self.0.core_dumped
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

impl Failure {
    /// What a person who reads of a signal would look at next.
    fn hint(&self) -> Option<String> {
        let text = match self.status.signal()? {
            libc::SIGABRT => match self.memory_limit {
                Some(limit) => {
                    let limit = limit / 1024;
                    return Some(format!(
                        "it aborted: an allocation beyond its memory limit of {limit} KiB, or a stack overflow; its \
                         standard error says which"
                    ));
                }
                None => {
                    "it aborted: a failed allocation, a stack overflow, a panic in a destructor; its standard error \
                     says which"
                }
            },
            libc::SIGKILL => {
                "somebody killed it, or the system did, for memory (see `dmesg`) or CPU time"
            }
            libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE => {
                "it crashed in `unsafe` or foreign code"
            }
            libc::SIGXCPU => "it used up its limit of CPU time",
            libc::SIGXFSZ => "it wrote a file larger than its limit",
            libc::SIGSYS => "it made a system call that a seccomp filter forbids",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = &*self.0;
        let Failure {
            name, pid, status, ..
        } = failure;
        match &failure.why {
            Why::Panicked(panic) => write!(out, "{name}: {panic}"),
            Why::SetupPanicked(panic) => write!(
                out,
                "{name}: its function was not called, for its setup failed: {panic}"
            ),
            Why::Setup(why) => write!(
                out,
                "{name} (process {pid}): its function was not called, for its setup failed: {why}"
            ),
            Why::Setting(why) => write!(
                out,
                "{name} (process {pid}): its function was not called: {why}"
            ),
            Why::TimedOut(limit) => write!(
                out,
                "{name} (process {pid}) had not ended within its {limit:?}, and was killed"
            ),
            Why::Ended => {
                write!(out, "{name} (process {pid}) has no result: {status}")?;
                if failure.core_dumped {
                    out.write_str(", core dumped")?;
                }
                match failure.hint() {
                    Some(hint) => write!(out, " ({hint})"),
                    None => Ok(()),
                }
            }
            Why::NotInitialised => write!(
                out,
                "{name} (process {pid}) ended before it reached `procession::init()`, which must be the first line of \
                 main: {status}"
            ),
            Why::Unreadable(_) => {
                write!(out, "{name} (process {pid}) has no result that can be read")
            }
            Why::Taken => write!(
                out,
                "{name} (process {pid}) has ended, and what came of it was told before: it can be had once"
            ),
        }
    }
}

impl fmt::Debug for JoinError {
    /// What `main` prints when it returns an error, and `unwrap` when it finds one: the text, with its
    /// causes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if out.alternate() {
            return fmt::Debug::fmt(&self.0, out);
        }
        out.write_str(&chain(self))
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
