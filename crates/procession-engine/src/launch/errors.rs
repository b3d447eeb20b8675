//! What can go wrong with a launch, on either side.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use procession_shm::Gone;

use super::MOST_FDS;
use crate::MakeError;
use crate::exit_status::ExitStatus;
use crate::family::FamilyError;
use crate::zygote::ServerError;

/// Why no child was started. None is left behind.
#[derive(Debug)]
#[non_exhaustive]
pub enum LaunchError {
    /// The program's main does not begin with `init`, so a child would run main again instead of
    /// what it is started for.
    InitMissing,
    /// There is no family, or no place in it.
    Family(FamilyError),
    /// The arguments can't be stored in shared memory.
    Payload(MakeError),
    /// More descriptors than can be passed on.
    TooManyFds {
        /// How many.
        given: usize,
    },
    /// The system refused to start a process: a limit, a descriptor that is not open, a program that
    /// has been removed.
    Start(io::Error),
    /// The folder that the child is to work in can't be opened.
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What the child was to have in its environment can't be in one: a name that is empty or has `=`
    /// inside, or a zero byte.
    Variable {
        /// Its name.
        name: OsString,
    },
    /// What the child was to have as its standard input, output or error can't be had.
    Standard(io::Error),
    /// The fork server could not be started, or talked to.
    Server(io::Error),
    /// The fork server ended before it had made the child. A new one did likewise.
    ServerDied {
        /// How it ended.
        status: ExitStatus,
        /// Whether it had got as far as `init`.
        checked_in: bool,
    },
    /// The fork server did not answer, and was killed.
    ServerSilent {
        /// Whether it had got as far as `init`.
        checked_in: bool,
    },
    /// The fork server has several threads, of which a child would have only one.
    ServerHasThreads {
        /// How many.
        count: usize,
    },
}

impl From<ServerError> for LaunchError {
    fn from(error: ServerError) -> LaunchError {
        match error {
            ServerError::Family(error) => LaunchError::Family(error),
            ServerError::System(error) => LaunchError::Server(error),
            ServerError::Died { status, checked_in } => {
                LaunchError::ServerDied { status, checked_in }
            }
            ServerError::Silent { checked_in } => LaunchError::ServerSilent { checked_in },
            ServerError::HasThreads(count) => LaunchError::ServerHasThreads { count },
            ServerError::NotForked(error) => LaunchError::Start(error),
        }
    }
}

const INIT: &str = "main must begin with procession::init()";

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::InitMissing => write!(
                f,
                "no process was started: {INIT}. A child is this program run again, and its main would do again what this one does; init turns it into the child it was started as"
            ),
            LaunchError::Family(error) => write!(f, "no process was started: {error}"),
            LaunchError::Payload(error) => write!(f, "no process was started: its arguments could not be stored: {error}"),
            LaunchError::TooManyFds { given } => write!(
                f,
                "no process was started: its arguments have {given} descriptors, and at most {MOST_FDS} can be passed on: send the rest through a pipe later"
            ),
            LaunchError::Start(error) => write!(f, "no process was started: {error}"),
            LaunchError::Folder { folder, error } => write!(
                f,
                "no process was started: it can't have {} as its working directory: {error}",
                folder.display()
            ),
            LaunchError::Variable { name } => write!(
                f,
                "no process was started: its environment can't have the variable {name:?}: a name is not empty and has no '=', and neither name nor value has a zero byte"
            ),
            LaunchError::Standard(error) => write!(
                f,
                "no process was started: its standard input, output or error can't be opened: {error}"
            ),
            LaunchError::Server(error) => write!(f, "no process was started: the fork server can't be used: {error}"),
            LaunchError::ServerDied { status, checked_in: true } => {
                write!(f, "no process was started: the fork server ended twice while it was asked to ({status})")
            }
            LaunchError::ServerDied { status, checked_in: false } => write!(
                f,
                "no process was started: the fork server, which is this program run again, ended before it was ready ({status}). {INIT}, before anything that may end the program"
            ),
            LaunchError::ServerSilent { checked_in: true } => {
                f.write_str("no process was started: the fork server did not answer, and was killed (was it stopped by a signal or a debugger?)")
            }
            LaunchError::ServerSilent { checked_in: false } => write!(
                f,
                "no process was started: the fork server, which is this program run again, did not become ready, and was killed. {INIT}, before anything that takes time"
            ),
            LaunchError::ServerHasThreads { count } => write!(
                f,
                "no process was started: the fork server has {count} threads, and a fork keeps one of them. {INIT}, before any thread is started; or use StartMethod::Spawn"
            ),
        }
    }
}

impl std::error::Error for LaunchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LaunchError::Family(error) => Some(error),
            LaunchError::Payload(error) => Some(error),
            LaunchError::Start(error)
            | LaunchError::Server(error)
            | LaunchError::Standard(error)
            | LaunchError::Folder { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why a process that was launched as a child can't be it.
#[derive(Debug)]
#[non_exhaustive]
pub enum EntryError {
    /// What it was told makes no sense: parent and child are not the same version of the program.
    Told(io::Error),
    /// It can't join the family.
    Family(FamilyError),
    /// Its arguments are gone.
    Payload(Gone),
    /// The system refused something.
    System(io::Error),
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this process was started as a child and can't be one: ")?;
        match self {
            EntryError::Told(error) | EntryError::System(error) => error.fmt(f),
            EntryError::Family(error) => error.fmt(f),
            EntryError::Payload(error) => write!(f, "its arguments: {error}"),
        }
    }
}

impl std::error::Error for EntryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EntryError::Told(error) | EntryError::System(error) => Some(error),
            EntryError::Family(error) => Some(error),
            EntryError::Payload(error) => Some(error),
        }
    }
}
