//! How a program that was started by executing it knows that it is a child: by a variable in its
//! environment, and by a descriptor of the family's memory that came with it.
//!
//! The variable alone is not believed: a child passes its environment on to programs that it runs,
//! and it can only remove the variable while it has no other threads.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use procession_sys::process as sys;

use crate::family::{self, FamilyError, Seat};
use crate::launch::surroundings;
use crate::process::SpawnRequest;
use crate::ticket::{Reader, Ticket, Writer, from_hex, to_hex};

/// The variable.
const VARIABLE: &str = "PROCESSION_CHILD";
/// Changes when what follows does.
const VERSION: u64 = 1;

/// What a program is started as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// A child; these descriptors are its entry's.
    Child { ticket: Ticket, fds: Vec<RawFd> },
    /// A fork server.
    Server {
        seat: Seat,
        parent: u32,
        link: RawFd,
    },
}

/// This program, to be started.
pub(crate) struct Prepared {
    pub(crate) request: SpawnRequest,
    /// What the environment is without the variable.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// Stands for the family's memory if its own number is one of the standard three.
    _memory: Option<OwnedFd>,
}

/// The environment that children get.
pub(crate) fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os()
        .filter(|(name, _)| name != VARIABLE)
        .collect()
}

/// This program, to be started as `start` says.
pub(crate) fn program(
    start: &Start,
    surroundings: &surroundings::Prepared,
) -> Result<Prepared, FamilyError> {
    let memory = family::family()?.arena_fd();
    let copy = match memory.as_raw_fd() {
        0..=2 => Some(sys::duplicate(memory).map_err(FamilyError::System)?),
        _ => None,
    };
    let memory = copy.as_ref().map_or(memory, AsFd::as_fd).as_raw_fd();
    let environment = surroundings.environment();
    let mut env = environment.clone();
    env.push((VARIABLE.into(), to_hex(&start.write(memory)).into()));
    let mut inherit = vec![memory];
    match start {
        Start::Child { fds, .. } => inherit.extend(fds),
        Start::Server { link, .. } => inherit.push(*link),
    }
    let own_name = std::env::args_os()
        .next()
        .unwrap_or_else(|| "procession".into());
    let args = std::iter::once(own_name)
        .chain(super::child_arguments())
        .collect();
    let request = SpawnRequest {
        program: PathBuf::from("/proc/self/exe"),
        args,
        env: Some(env),
        inherit,
        cwd: surroundings.folder_path(),
        blocked: Vec::new(),
    };
    Ok(Prepared {
        request,
        environment,
        _memory: copy,
    })
}

/// Removes the variable, if it is still there.
pub(crate) fn forget(alone: &sys::Alone) {
    if std::env::var_os(VARIABLE).is_some() {
        alone.remove_variable(VARIABLE);
    }
}

/// How this program was started, with the descriptor of the family's memory; `None` if it is nobody's
/// child.
pub(crate) fn how_started() -> Result<Option<(Start, OwnedFd)>, io::Error> {
    let Some(value) = std::env::var_os(VARIABLE) else {
        return Ok(None);
    };
    if let Ok(alone) = sys::Alone::check() {
        forget(&alone);
    }
    let garbled = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{VARIABLE} in the environment is of another version"),
        )
    };
    let bytes = value.to_str().and_then(from_hex).ok_or_else(garbled)?;
    let (start, memory) = Start::read(&bytes).ok_or_else(garbled)?;
    // A program that a child has started, and that has the variable only: nobody's child.
    let link = std::fs::read_link(format!("/proc/self/fd/{memory}")).unwrap_or_default();
    if !link.to_string_lossy().starts_with("/memfd:procession") {
        return Ok(None);
    }
    let Ok(memory) = sys::claim_inherited(memory) else {
        return Ok(None);
    };
    Ok(Some((start, memory)))
}

impl Start {
    fn write(&self, memory: RawFd) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(VERSION);
        writer.number(number_of(memory));
        match self {
            Start::Child { ticket, fds } => {
                writer.number(0);
                ticket.write(&mut writer);
                writer.number(fds.len() as u64);
                for &fd in fds {
                    writer.number(number_of(fd));
                }
            }
            Start::Server { seat, parent, link } => {
                writer.number(1);
                writer.number(seat.to_raw());
                writer.number((*parent).into());
                writer.number(number_of(*link));
            }
        }
        writer.finish()
    }

    fn read(bytes: &[u8]) -> Option<(Start, RawFd)> {
        let mut reader = Reader(bytes);
        if reader.number()? != VERSION {
            return None;
        }
        let memory = RawFd::try_from(reader.number()?).ok()?;
        let start = match reader.number()? {
            0 => {
                let ticket = Ticket::read(&mut reader)?;
                let mut fds = Vec::new();
                for _ in 0..reader.number()? {
                    fds.push(RawFd::try_from(reader.number()?).ok()?);
                }
                Start::Child { ticket, fds }
            }
            1 => Start::Server {
                seat: Seat::from_raw(reader.number()?)?,
                parent: u32::try_from(reader.number()?).ok()?,
                link: RawFd::try_from(reader.number()?).ok()?,
            },
            _ => return None,
        };
        Some((start, memory))
    }
}

fn number_of(fd: RawFd) -> u64 {
    // Descriptors are not negative.
    u64::from(fd.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use procession_shm::{Handle, Role};

    use super::*;

    #[test]
    fn a_start_comes_back_as_written() {
        let ticket = Ticket {
            seat: Seat::from_raw(4097).expect("is a seat"),
            parcel: Handle::from_bytes([9; 16]),
            entry: 3,
            role: Role::Process,
            daemon: false,
            name: "Process-1".to_owned(),
            parent: 77,
        };
        let starts = [
            Start::Child {
                ticket,
                fds: vec![5, 3, 9],
            },
            Start::Server {
                seat: Seat::from_raw(8193).expect("is a seat"),
                parent: 1,
                link: 4,
            },
        ];
        for start in starts {
            let bytes = start.write(6);
            for end in 0..bytes.len() {
                assert_eq!(Start::read(&bytes[..end]), None);
            }
            assert_eq!(Start::read(&bytes), Some((start, 6)));
        }
    }
}
