//! What can go wrong, as one opaque type.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::pool::{Loss, Overrun, StartError};
use crate::engine::{AllocError, FamilyError, Gone, MakeError};
use crate::entry::EntryError;
use crate::panic::Panic;
use crate::process::{ExitStatus, JoinError};

/// A [`Result`](std::result::Result) with the [`Error`] of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
///
/// Its text says what happened, to what, and what to do; the `is_*` questions are for programs;
/// [`source`](std::error::Error::source) leads to the cause below.
pub struct Error(Box<Kind>);

#[derive(Debug)]
enum Kind {
    NotInitialised,
    Entry(EntryError),
    Family(FamilyError),
    Memory(AllocError),
    Gone(Gone),
    Start {
        name: String,
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    Encoding {
        what: &'static str,
        cause: postcard::Error,
    },
    Decoding {
        what: &'static str,
        cause: postcard::Error,
    },
    Garbled {
        what: &'static str,
    },
    /// Told by the other process; the text is its whole chain of errors.
    Refused {
        why: String,
    },
    /// What a hook gave as its reason, or the system for a setting.
    Said {
        why: String,
    },
    TimedOut {
        what: &'static str,
        after: Option<Duration>,
    },
    Empty,
    Full,
    Closed {
        what: &'static str,
    },
    Panicked(Panic),
    Join(JoinError),
    WorkerLost(Arc<Loss>),
    PoisonTask(Vec<Arc<Loss>>),
    TaskTimedOut(Overrun),
    Cancelled,
    PoolStart(StartError),
    PoolNotRunning {
        why: String,
    },
    PoolBroken {
        why: String,
        cause: Option<Error>,
    },
    Terminated,
    BarrierBroken,
    Poisoned {
        what: &'static str,
        why: String,
    },
    Misuse {
        what: &'static str,
    },
    System {
        what: Cow<'static, str>,
        cause: std::io::Error,
    },
}

impl Error {
    /// This process can't start others because `procession::init()` has not run in it.
    pub fn is_not_initialised(&self) -> bool {
        matches!(*self.0, Kind::NotInitialised)
    }

    /// The time given had passed. Nothing was done, and trying again is possible.
    pub fn is_timeout(&self) -> bool {
        matches!(*self.0, Kind::TimedOut { .. })
    }

    /// A queue or pipe has nothing to give now.
    pub fn is_empty(&self) -> bool {
        matches!(*self.0, Kind::Empty)
    }

    /// A bounded queue or pipe has no room now.
    pub fn is_full(&self) -> bool {
        matches!(*self.0, Kind::Full)
    }

    /// A queue was closed, the other end of a pipe is gone, or a pool takes no more tasks.
    pub fn is_closed(&self) -> bool {
        matches!(*self.0, Kind::Closed { .. } | Kind::PoolNotRunning { .. })
    }

    /// The function panicked in the other process: see [`panic`](Self::panic).
    pub fn is_panic(&self) -> bool {
        self.panic().is_some()
    }

    /// A pool's worker ended while it ran the task: killed, crashed, out of memory, or by a call of
    /// [`std::process::exit`]. See [`exit_status`](Self::exit_status).
    pub fn is_worker_lost(&self) -> bool {
        matches!(*self.0, Kind::WorkerLost(_) | Kind::PoisonTask(_))
    }

    /// A task that was tried again as often as it may be ([`Tasks::retries`](crate::Tasks::retries)),
    /// and has cost a worker each time. It is a lost worker too ([`is_worker_lost`](Self::is_worker_lost)).
    pub fn is_poison_task(&self) -> bool {
        matches!(*self.0, Kind::PoisonTask(_))
    }

    /// A task ran for longer than it may ([`Tasks::time_limit`](crate::Tasks::time_limit)), and was
    /// stopped with its worker.
    pub fn is_task_timeout(&self) -> bool {
        matches!(*self.0, Kind::TaskTimedOut(_))
    }

    /// The task was cancelled ([`Task::cancel`](crate::Task::cancel), [`Task::abort`](crate::Task::abort)).
    pub fn is_cancelled(&self) -> bool {
        matches!(*self.0, Kind::Cancelled)
    }

    /// The kernel has killed a process for want of memory when the worker died: that was probably why.
    pub fn is_probably_out_of_memory(&self) -> bool {
        match &*self.0 {
            Kind::WorkerLost(loss) => loss.out_of_memory,
            Kind::PoisonTask(losses) => losses.iter().any(|loss| loss.out_of_memory),
            _ => false,
        }
    }

    /// The pool was terminated before the task was done.
    pub fn is_terminated(&self) -> bool {
        matches!(*self.0, Kind::Terminated)
    }

    /// A pool whose workers can't be started, or a barrier that a party has left for good.
    pub fn is_broken(&self) -> bool {
        matches!(*self.0, Kind::PoolBroken { .. } | Kind::BarrierBroken)
    }

    /// The last holder of a lock panicked or died: see [`Poisoned`](crate::Poisoned).
    pub fn is_poisoned(&self) -> bool {
        matches!(*self.0, Kind::Poisoned { .. })
    }

    /// A value could not be serialised or deserialised, here or in the other process.
    pub fn is_serialisation(&self) -> bool {
        matches!(
            *self.0,
            Kind::Encoding { .. }
                | Kind::Decoding { .. }
                | Kind::Garbled { .. }
                | Kind::Refused { .. }
                | Kind::Gone(_)
        )
    }

    /// There was no memory for it, or no room in the family's arena.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(*self.0, Kind::Memory(_))
    }

    /// The panic, if it was one.
    pub fn panic(&self) -> Option<&Panic> {
        match &*self.0 {
            Kind::Panicked(panic) => Some(panic),
            Kind::Join(error) => error.panic(),
            Kind::PoolBroken {
                cause: Some(error), ..
            } => error.panic(),
            _ => None,
        }
    }

    /// How the process ended, if its end is what this is about.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match &*self.0 {
            Kind::WorkerLost(loss) => Some(ExitStatus(loss.status)),
            Kind::PoisonTask(losses) => losses.last().map(|loss| ExitStatus(loss.status)),
            Kind::Join(error) => error.exit_status(),
            _ => None,
        }
    }

    /// Why a process has no result, where that is what this is about: what [`JoinError`] knows, after
    /// a `?` has made this of it.
    pub fn join_error(&self) -> Option<&JoinError> {
        match &*self.0 {
            Kind::Join(error) => Some(error),
            _ => None,
        }
    }

    /// This error and all below it, in one line.
    pub(crate) fn chain(&self) -> String {
        chain(self)
    }

    fn new(kind: Kind) -> Error {
        Error(Box::new(kind))
    }

    pub(crate) fn not_initialised() -> Error {
        Error::new(Kind::NotInitialised)
    }

    pub(crate) fn start(
        name: &str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::new(Kind::Start {
            name: name.to_owned(),
            cause: cause.into(),
        })
    }

    pub(crate) fn encoding<T: ?Sized>(cause: postcard::Error) -> Error {
        Error::new(Kind::Encoding {
            what: std::any::type_name::<T>(),
            cause,
        })
    }

    /// The same error with the type that the program knows, where that was not all of the message.
    pub(crate) fn about<T: ?Sized>(mut self) -> Error {
        if let Kind::Encoding { what, .. } = &mut *self.0 {
            *what = std::any::type_name::<T>();
        }
        self
    }

    pub(crate) fn decoding<T: ?Sized>(cause: postcard::Error) -> Error {
        Error::new(Kind::Decoding {
            what: std::any::type_name::<T>(),
            cause,
        })
    }

    pub(crate) fn garbled(what: &'static str) -> Error {
        Error::new(Kind::Garbled { what })
    }

    pub(crate) fn gone(gone: Gone) -> Error {
        Error::new(Kind::Gone(gone))
    }

    pub(crate) fn refused(why: String) -> Error {
        Error::new(Kind::Refused { why })
    }

    pub(crate) fn said(why: String) -> Error {
        Error::new(Kind::Said { why })
    }

    pub(crate) fn timed_out(what: &'static str, after: Option<Duration>) -> Error {
        Error::new(Kind::TimedOut { what, after })
    }

    pub(crate) fn empty() -> Error {
        Error::new(Kind::Empty)
    }

    pub(crate) fn full() -> Error {
        Error::new(Kind::Full)
    }

    pub(crate) fn closed(what: &'static str) -> Error {
        Error::new(Kind::Closed { what })
    }

    pub(crate) fn panicked(panic: Panic) -> Error {
        Error::new(Kind::Panicked(panic))
    }

    pub(crate) fn worker_lost(loss: Arc<Loss>) -> Error {
        Error::new(Kind::WorkerLost(loss))
    }

    pub(crate) fn poison_task(losses: Vec<Arc<Loss>>) -> Error {
        Error::new(Kind::PoisonTask(losses))
    }

    pub(crate) fn task_timed_out(overrun: Overrun) -> Error {
        Error::new(Kind::TaskTimedOut(overrun))
    }

    pub(crate) fn cancelled() -> Error {
        Error::new(Kind::Cancelled)
    }

    pub(crate) fn pool_not_running(why: &impl fmt::Display) -> Error {
        Error::new(Kind::PoolNotRunning {
            why: why.to_string(),
        })
    }

    pub(crate) fn pool_broken(why: &impl fmt::Display, cause: Option<Error>) -> Error {
        Error::new(Kind::PoolBroken {
            why: why.to_string(),
            cause,
        })
    }

    pub(crate) fn pool_start(cause: StartError) -> Error {
        Error::new(Kind::PoolStart(cause))
    }

    pub(crate) fn terminated() -> Error {
        Error::new(Kind::Terminated)
    }

    pub(crate) fn barrier_broken() -> Error {
        Error::new(Kind::BarrierBroken)
    }

    pub(crate) fn poisoned(what: &'static str, why: &impl fmt::Display) -> Error {
        Error::new(Kind::Poisoned {
            what,
            why: why.to_string(),
        })
    }

    pub(crate) fn misuse(what: &'static str) -> Error {
        Error::new(Kind::Misuse { what })
    }

    pub(crate) fn system(what: impl Into<Cow<'static, str>>, cause: std::io::Error) -> Error {
        Error::new(Kind::System {
            what: what.into(),
            cause,
        })
    }
}

/// What whoever waits for a task can do, whose worker died.
fn advice(loss: &Loss) -> &'static str {
    match ExitStatus(loss.status).signal() {
        // In a program in Rust that is not foreign code, as a rule.
        Some(libc::SIGABRT) if !loss.out_of_memory => {
            "it aborted: a failed allocation, a stack overflow, a panic in a destructor; its standard error says which"
        }
        _ => loss.advice(),
    }
}

/// An error and all below it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let cause = error.to_string();
        // Some texts end with their cause's already.
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        below = error.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::NotInitialised => out.write_str(
                "processes can't be started before `procession::init()` has run: call it in the first line of main, \
                 or put `#[procession::main]` on main (in a test, `#[procession::test]` in the place of `#[test]`)",
            ),
            Kind::Entry(_) => out.write_str("the function can't be called in another process"),
            Kind::Family(_) => out.write_str("this process can't share memory with others"),
            Kind::Memory(error) => write!(out, "{error}"),
            Kind::Gone(_) => out.write_str("the message refers to an object that no longer exists"),
            Kind::Start { name, cause } => write!(out, "{name}: {cause}"),
            Kind::Encoding { what, .. } => write!(out, "a value of type {what} could not be serialised"),
            Kind::Decoding { what, .. } => write!(
                out,
                "a message could not be read as {what}; its Serialize and Deserialize must agree, and \
                 self-describing types (#[serde(untagged)], serde_json::Value) don't work in a binary format"
            ),
            Kind::Garbled { what } => write!(out, "a message holds something else than {what}"),
            Kind::Refused { why } => write!(out, "the other process could not carry out the call: {why}"),
            Kind::Said { why } => out.write_str(why),
            Kind::TimedOut { what, after: Some(after) } => write!(out, "{what} did not come within {after:?}"),
            Kind::TimedOut { what, after: None } => write!(out, "{what} is not there yet"),
            Kind::Empty => out.write_str("there is no message"),
            Kind::Full => out.write_str("there is no room for another message"),
            Kind::Closed { what } => out.write_str(what),
            Kind::Panicked(panic) => write!(out, "{panic}"),
            Kind::Join(error) => write!(out, "{error}"),
            Kind::WorkerLost(loss) => write!(
                out,
                "{loss} while it ran {}: the task is lost, the worker is replaced, and the pool works on ({})",
                loss.label,
                advice(loss)
            ),
            Kind::PoisonTask(losses) => {
                let (label, advice) = losses
                    .last()
                    .map_or(("a task", ""), |loss| (loss.label, advice(loss)));
                write!(out, "{label} has cost {} workers and is not tried again: ", losses.len())?;
                for (place, loss) in losses.iter().enumerate() {
                    write!(out, "{}{loss}", if place == 0 { "" } else { "; " })?;
                }
                write!(out, " ({advice})")
            }
            Kind::TaskTimedOut(overrun) => write!(
                out,
                "{} ran for longer than the {:?} that it may, and was stopped; its worker {} is replaced",
                overrun.label, overrun.limit, overrun.pid
            ),
            Kind::Cancelled => out.write_str("the task was cancelled"),
            Kind::PoolStart(error) => write!(out, "{error}"),
            Kind::PoolNotRunning { why } => out.write_str(why),
            Kind::PoolBroken { why, .. } => out.write_str(why),
            Kind::Terminated => out.write_str("the pool was terminated before the task was done"),
            Kind::BarrierBroken => {
                out.write_str("the barrier is broken: a party died, gave up waiting, or aborted it")
            }
            Kind::Poisoned { what, why } => write!(out, "the {what} is poisoned: {why}"),
            Kind::Misuse { what } => out.write_str(what),
            Kind::System { what, .. } => out.write_str(what),
        }
    }
}

impl fmt::Debug for Error {
    /// What `main` prints when it returns an error: the text, with its causes.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if out.alternate() {
            return fmt::Debug::fmt(&self.0, out);
        }
        out.write_str(&self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Entry(error) => Some(error),
            Kind::Family(error) => Some(error),
            Kind::Gone(error) => Some(error),
            Kind::Start { cause, .. } => cause.source(),
            Kind::PoolStart(error) => error.source(),
            Kind::Encoding { cause, .. } | Kind::Decoding { cause, .. } => Some(cause),
            Kind::Join(error) => std::error::Error::source(error),
            Kind::PoolBroken {
                cause: Some(error), ..
            } => Some(error),
            Kind::System { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<EntryError> for Error {
    fn from(error: EntryError) -> Error {
        Error::new(Kind::Entry(error))
    }
}

impl From<FamilyError> for Error {
    fn from(error: FamilyError) -> Error {
        Error::new(Kind::Family(error))
    }
}

impl From<AllocError> for Error {
    fn from(error: AllocError) -> Error {
        Error::new(Kind::Memory(error))
    }
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Error {
        Error::new(Kind::Join(error))
    }
}

impl From<MakeError> for Error {
    fn from(error: MakeError) -> Error {
        match error {
            MakeError::Family(error) => Error::from(error),
            MakeError::Memory(error) => Error::from(error),
            MakeError::Gone(gone) => Error::gone(gone),
        }
    }
}
