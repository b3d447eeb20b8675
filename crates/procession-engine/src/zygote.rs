//! The fork server of Rust programs: the same program, started once by executing it, which forks
//! children on request. Forking it costs the same whatever memory the requester uses, and no
//! thread is lost in the fork, because it has one.
//!
//! Each process that launches this way has a server of its own, its child. They talk over a socket
//! pair, one request at a time:
//!
//! ```text
//! requester                     server                              child
//! request: ticket, cwd, env,
//!   descriptors        ------>  fork  ------------------------------> waits for "go"
//!                      <------  answer: pid, pidfd, write end of "go"
//! "go" -------------------------------------------------------------> takes on cwd, env, descriptors;
//!                                                                     runs the entry
//!                               (it ends) note_exit(seat, status)
//! ```
//!
//! What dies, and when:
//! - **The server, before its answer is here.** Then nobody has the write end of "go": the child
//!   finds the end of the pipe, and exits without having done anything. So a requester without an
//!   answer knows that no child will run, and asks a new server.
//! - **The server, later.** Its children go on. How they end is known if they say so themselves,
//!   as they do unless a signal ends them.
//! - **The requester, before "go".** The same as the first.
//! - **The requester, later.** The server sees it by its pidfd (the socket may have been inherited
//!   by others), kills the daemonic children, and exits. Daemonic children watch the requester
//!   themselves as well.

mod serve;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use procession_shm::{Patience, Role};
use procession_sys::poll::{self, PollFd, PollFlags};
use procession_sys::{process as sys, socket};

use crate::connection::{Connection, RecvError, SendError};
use crate::exit_status::ExitStatus;
use crate::family::{self, FamilyError, Seat};
use crate::launch::start::{Start, program};
use crate::launch::surroundings::Prepared;
use crate::per_process::PerProcess;
use crate::process::{self, Child, Spawned};
use crate::ticket::{Reader, Ticket, Writer};

pub(crate) use serve::{Forkling, serve};

/// How long either side waits for the other to go on in the middle of a request. A server that is
/// still starting needs the time up to its `init`.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a server gets to end that has closed its socket, or that is no longer wanted.
const END_WITHIN: Duration = Duration::from_millis(500);
const SIGKILL: i32 = 9;
const EMFILE: i32 = 24;

/// An answer begins with one of these; a number follows: the pid, the error, or how many threads.
const FORKED: u64 = 0;
const NOT_FORKED: u64 = 1;
const HAS_THREADS: u64 = 2;

/// Why a fork server did not make a child.
#[derive(Debug)]
pub(crate) enum ServerError {
    Family(FamilyError),
    /// It could not be started, or not be talked to.
    System(io::Error),
    /// It ended before it answered: no child runs.
    Died {
        status: ExitStatus,
        checked_in: bool,
    },
    /// It did not answer in time, and was killed.
    Silent {
        checked_in: bool,
    },
    HasThreads(usize),
    /// It could not fork.
    NotForked(io::Error),
}

impl From<io::Error> for ServerError {
    fn from(error: io::Error) -> ServerError {
        ServerError::System(error)
    }
}

/// A server, as its requester sees it.
#[derive(Debug)]
struct Server {
    child: Arc<Child>,
    link: Connection,
    /// The environment that it has.
    environment: Vec<(OsString, OsString)>,
}

static SERVER: PerProcess<Option<Server>> = PerProcess::new();

/// A child that a server has made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) spawned: Spawned,
    pub(crate) server: Arc<Child>,
}

/// Has this process's server make a child; starts the server if there is none. After an error no
/// child runs or will run.
pub(crate) fn request(
    ticket: &Ticket,
    fds: &[BorrowedFd<'_>],
    surroundings: &Prepared,
) -> Result<Made, ServerError> {
    SERVER.with(|slot| {
        if slot.as_ref().is_some_and(|server| !server.child.is_alive()) {
            *slot = None;
        }
        let server = match slot {
            Some(server) => server,
            None => slot.insert(Server::start()?),
        };
        let result = server.request(ticket, fds, surroundings);
        match &result {
            Ok(_) | Err(ServerError::NotForked(_)) => {}
            // What it would say next belongs to this request.
            Err(_) => {
                server.hang_up();
                *slot = None;
            }
        }
        result
    })
}

/// Ends this process's server. While it has children it stays, to say how they end, but makes no
/// more.
pub(crate) fn stop() {
    if let Some(server) = SERVER.with(Option::take) {
        server.hang_up();
        let _ = server.child.wait(&mut Patience::timeout(END_WITHIN));
    }
}

impl Server {
    fn start() -> Result<Server, ServerError> {
        let seat =
            family::prepare_child("fork server", Role::ForkServer).map_err(ServerError::Family)?;
        Server::start_with(seat).inspect_err(|_| family::cancel_child(seat))
    }

    fn start_with(seat: Seat) -> Result<Server, ServerError> {
        let (ours, theirs) = socket::pair()?;
        let start = Start::Server {
            seat,
            parent: std::process::id(),
            link: theirs.as_raw_fd(),
        };
        let program = program(&start, &Prepared::default()).map_err(ServerError::Family)?;
        let spawned = process::spawn(&program.request)?;
        family::child_started(seat, spawned.pid);
        let child = Arc::new(Child::adopt(seat, spawned, "fork server"));
        let link = Connection::from_fd(ours, true, true, false);
        Ok(Server {
            child,
            link,
            environment: program.environment,
        })
    }

    /// The server is to end. Said so that it is heard even if forked children have this end of the
    /// socket too.
    fn hang_up(&self) {
        let _ = socket::shut_down(&self.link);
    }

    fn request(
        &mut self,
        ticket: &Ticket,
        fds: &[BorrowedFd<'_>],
        surroundings: &Prepared,
    ) -> Result<Made, ServerError> {
        let environment = surroundings.environment();
        let own_folder = match surroundings.folder() {
            None => sys::open_working_directory().ok(),
            Some(_) => None,
        };
        let folder = surroundings
            .folder()
            .or(own_folder.as_ref().map(AsFd::as_fd));
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let [new_in, new_out, new_err] = surroundings.standard();
        let standard = [
            new_in.unwrap_or(stdin.as_fd()),
            new_out.unwrap_or(stdout.as_fd()),
            new_err.unwrap_or(stderr.as_fd()),
        ];
        let setting = Setting {
            environment: (environment != self.environment).then_some(environment),
            file_mask: sys::file_mask(),
            has_folder: folder.is_some(),
            standard: standard.map(sys::is_open),
        };
        let mut writer = Writer::default();
        ticket.write(&mut writer);
        setting.write(&mut writer);
        let open = standard
            .iter()
            .zip(setting.standard)
            .filter_map(|(fd, open)| open.then_some(*fd));
        let passed: Vec<BorrowedFd<'_>> = folder
            .into_iter()
            .chain(open)
            .chain(fds.iter().copied())
            .collect();
        let mut patience = Patience::timeout(ANSWER_WITHIN);
        let sent = self.link.send_bytes(&writer.finish(), &mut patience);
        // Even if there are none: that completes the request.
        match sent.and_then(|()| self.link.send_fds(&passed, &mut patience)) {
            Ok(()) => {}
            Err(SendError::Closed) => return Err(self.died()),
            Err(SendError::Io(error)) => return Err(ServerError::System(error)),
            Err(_) => return Err(self.silent()),
        }
        let answer = self.answer(&mut patience)?;
        let mut reader = Reader(&answer);
        match (reader.number(), reader.number()) {
            (Some(FORKED), Some(pid)) => {
                let fds = self.received(self.link.recv_fds(2, &mut patience))?;
                let (Ok([pidfd, go]), Ok(pid)) =
                    (<[OwnedFd; 2]>::try_from(fds), u32::try_from(pid))
                else {
                    return Err(self.silent());
                };
                let go = Connection::from_fd(go, false, true, false);
                // Fails only if the child was killed in this moment: that is for whoever waits for it.
                let _ = go.send_bytes(&[], &mut patience);
                Ok(Made {
                    spawned: Spawned { pid, pidfd },
                    server: self.child.clone(),
                })
            }
            (Some(NOT_FORKED), Some(code)) => Err(ServerError::NotForked(
                io::Error::from_raw_os_error(i32::try_from(code).unwrap_or_default()),
            )),
            (Some(HAS_THREADS), Some(count)) => {
                Err(ServerError::HasThreads(usize::try_from(count).unwrap_or(0)))
            }
            _ => Err(self.silent()),
        }
    }

    /// Waits for the answer and for the server's end together: the socket alone would not tell, as
    /// long as a child has a copy of the server's end of it.
    fn answer(&self, patience: &mut Patience<'_>) -> Result<Vec<u8>, ServerError> {
        const MOST: Option<usize> = Some(1 << 10);
        loop {
            let mut entries = [
                PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.child.sentinel(), PollFlags::IN),
            ];
            let ready = poll::poll(&mut entries, Some(patience.slice(ANSWER_WITHIN)))?;
            if !entries[0].revents().is_empty() {
                return self.received(self.link.recv_bytes(MOST, patience));
            }
            if !entries[1].revents().is_empty() {
                // It may have answered just before.
                return self.received(self.link.recv_bytes(MOST, &mut Patience::none()));
            }
            if ready == 0 && patience.check().is_err() {
                return Err(self.silent());
            }
        }
    }

    fn received<T>(&self, result: Result<T, RecvError>) -> Result<T, ServerError> {
        match result {
            Ok(value) => Ok(value),
            Err(RecvError::Io(error)) => Err(ServerError::System(error)),
            Err(RecvError::LostDescriptors { .. }) => {
                Err(ServerError::System(io::Error::from_raw_os_error(EMFILE)))
            }
            Err(_) => Err(self.died()),
        }
    }

    /// It has ended, or closed its end of the socket, and so is about to.
    fn died(&self) -> ServerError {
        match self.child.wait(&mut Patience::timeout(END_WITHIN)) {
            Ok(status) => ServerError::Died {
                status,
                checked_in: self.child.checked_in(),
            },
            Err(_) => self.silent(),
        }
    }

    /// It does not do its part, for whatever reason. With its death, what it has not answered for
    /// won't run.
    fn silent(&self) -> ServerError {
        let _ = self.child.kill(SIGKILL);
        ServerError::Silent {
            checked_in: self.child.checked_in(),
        }
    }
}

/// What of the requester's state a child takes on.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    /// If it is another than the server's.
    environment: Option<Vec<(OsString, OsString)>>,
    file_mask: Option<u32>,
    /// Whether the first descriptor is the working directory.
    has_folder: bool,
    /// Which of the standard descriptors come next.
    standard: [bool; 3],
}

impl Setting {
    fn write(&self, to: &mut Writer) {
        to.number(self.environment.is_some().into());
        to.variables(self.environment.as_deref().unwrap_or_default());
        to.number(self.file_mask.map_or(u64::MAX, u64::from));
        to.number(self.has_folder.into());
        for open in self.standard {
            to.number(open.into());
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<Setting> {
        let has_environment = from.number()? != 0;
        let environment = from.variables()?;
        let file_mask = u32::try_from(from.number()?).ok();
        let has_folder = from.number()? != 0;
        let mut standard = [false; 3];
        for open in &mut standard {
            *open = from.number()? != 0;
        }
        Some(Setting {
            environment: has_environment.then_some(environment),
            file_mask,
            has_folder,
            standard,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_a_request_or_refused(bytes: Vec<u8>, cut: usize, place: usize, byte: u8) {
            let _ = Setting::read(&mut Reader(&bytes));
            let mut writer = Writer::default();
            let setting = Setting {
                environment: Some(vec![("A".into(), "b".into()), ("C".into(), bytes_of(&bytes))]),
                file_mask: Some(0o27),
                has_folder: true,
                standard: [true, false, true],
            };
            setting.write(&mut writer);
            let mut bytes = writer.finish();
            let length = bytes.len();
            bytes[place % length] = byte;
            // The room that it takes is bounded by the bytes that are there.
            if let Some(setting) = Setting::read(&mut Reader(&bytes)) {
                let variables = setting.environment.unwrap_or_default();
                prop_assert!(variables.len() * 16 <= length);
            }
            let _ = Setting::read(&mut Reader(&bytes[..cut % length]));
        }
    }

    fn bytes_of(bytes: &[u8]) -> OsString {
        use std::os::unix::ffi::OsStringExt;
        OsString::from_vec(bytes.iter().map(|byte| byte | 1).collect())
    }

    #[test]
    fn a_setting_comes_back_as_written() {
        for environment in [None, Some(vec![("A".into(), "b".into())]), Some(Vec::new())] {
            let setting = Setting {
                environment,
                file_mask: Some(0o27),
                has_folder: true,
                standard: [true, false, true],
            };
            let mut writer = Writer::default();
            setting.write(&mut writer);
            let bytes = writer.finish();
            assert_eq!(Setting::read(&mut Reader(&bytes)), Some(setting));
            assert_eq!(Setting::read(&mut Reader(&bytes[..bytes.len() - 1])), None);
        }
    }
}
