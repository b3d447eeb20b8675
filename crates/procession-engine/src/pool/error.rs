//! What can go wrong with a pool, one enum per operation.

use std::fmt;
use std::io;
use std::sync::Arc;

use procession_shm::{AllocError, WaitError};

use crate::exit_status::ExitStatus;
use crate::family::FamilyError;
use crate::pool::answer::{Answer, Died};

/// A worker could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchError {
    /// What happened.
    pub message: String,
    /// Trying again is pointless.
    pub fatal: bool,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for LaunchError {}

/// A pool could not be started; no worker of it is left.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The family could not be joined or made.
    Family(FamilyError),
    /// There was no shared memory for the pool.
    Memory(AllocError),
    /// No pool can have this many workers.
    Count {
        /// How many were asked for.
        asked: u32,
    },
    /// The supervisor's thread or descriptors were refused.
    System(io::Error),
    /// A worker could not be started.
    Launch(LaunchError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Family(error) => error.fmt(f),
            StartError::Memory(error) => write!(f, "the pool can't be set up: {error}"),
            StartError::Count { asked } => {
                write!(
                    f,
                    "a pool has from 1 to {} workers, {asked} were asked for",
                    super::MAX_WORKERS
                )
            }
            StartError::System(error) => {
                write!(f, "the supervisor of the pool can't be started: {error}")
            }
            StartError::Launch(error) => {
                write!(f, "a worker of the pool can't be started: {error}")
            }
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Family(error) => Some(error),
            StartError::Memory(error) => Some(error),
            StartError::System(error) => Some(error),
            StartError::Launch(error) => Some(error),
            StartError::Count { .. } => None,
        }
    }
}

/// Why a pool broke.
#[derive(Debug)]
pub struct Breakage {
    /// The cause.
    pub why: Why,
    /// What the last worker whose initializer failed has sent.
    pub answer: Option<Answer>,
}

/// The cause of a [`Breakage`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Why {
    /// No further worker could be started.
    CannotStart(LaunchError),
    /// Worker after worker ended before it was ready for its first task.
    DiedAtStart {
        /// How many in a row.
        times: u32,
        /// How the last of them ended.
        status: ExitStatus,
    },
    /// The supervisor's thread has ended by a panic.
    Supervisor,
    /// The memory of the queue that results come through was overwritten.
    Garbled,
}

impl fmt::Display for Breakage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::CannotStart(error) => {
                write!(f, "the pool is broken: a worker can't be started: {error}")
            }
            Why::DiedAtStart { times, status } => {
                write!(
                    f,
                    "the pool is broken: {times} workers in a row ended before they were ready, "
                )?;
                if self.answer.is_some() {
                    f.write_str("because their initializer failed")
                } else {
                    write!(f, "the last one {}", Died(*status))
                }
            }
            Why::Garbled => f.write_str(
                "the pool is broken: the memory through which results come was overwritten (by a process \
                 of the family that writes where it should not); results are lost",
            ),
            Why::Supervisor => f.write_str(
                "the pool is broken: its supervisor has failed (this is a bug in procession)",
            ),
        }
    }
}

impl std::error::Error for Breakage {}

/// The pool takes no jobs.
#[derive(Debug, Clone)]
pub enum NotRunning {
    /// It was closed.
    Closed,
    /// It was terminated.
    Terminated,
    /// It can't go on.
    Broken(Arc<Breakage>),
    /// It belongs to another process: this one was forked from it.
    Foreign,
}

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRunning::Closed => f.write_str("Pool not running: it was closed, and takes no more tasks"),
            NotRunning::Terminated => f.write_str("Pool not running: it was terminated"),
            NotRunning::Broken(why) => why.fmt(f),
            NotRunning::Foreign => f.write_str(
                "Pool not running in this process: it belongs to the process that made it, and this one was forked from there; make a pool of its own here",
            ),
        }
    }
}

impl std::error::Error for NotRunning {}

/// A task was not submitted.
#[derive(Debug, Clone)]
pub enum SubmitError {
    /// The pool takes no tasks, or the job was sealed.
    NotRunning(NotRunning),
    /// There is no memory for it.
    Memory(AllocError),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubmitError::NotRunning(error) => error.fmt(f),
            SubmitError::Memory(error) => write!(f, "the task can't be submitted: {error}"),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<NotRunning> for SubmitError {
    fn from(error: NotRunning) -> SubmitError {
        SubmitError::NotRunning(error)
    }
}

/// A pool was not joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// It was neither closed nor terminated: it would never end.
    StillRunning,
    /// It belongs to another process.
    Foreign,
    /// The wait ended first.
    Wait(WaitError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::StillRunning => {
                f.write_str("Pool is still running: call close() or terminate() before join()")
            }
            JoinError::Foreign => {
                f.write_str("a pool can be joined only by the process that made it")
            }
            JoinError::Wait(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JoinError {}

/// A worker could not take its place.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// This process is in no family.
    Family(FamilyError),
    /// The pool is gone, or never had this place.
    Gone,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Family(error) => error.fmt(f),
            AttachError::Gone => f.write_str("the pool that this worker was started for is gone"),
        }
    }
}

impl std::error::Error for AttachError {}
