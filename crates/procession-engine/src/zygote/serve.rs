//! The server's side.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use procession_shm::Patience;
use procession_sys::poll::{self, PollFd, PollFlags};
use procession_sys::process::{self as sys, Alone, BlockedSignals, Forked, SavedSignal};
use procession_sys::socket;

use super::{ANSWER_WITHIN, FORKED, HAS_THREADS, NOT_FORKED, SIGKILL, Setting};
use crate::connection::{Connection, RecvError};
use crate::exit_status::note;
use crate::family::{self, Seat};
use crate::launch::start;
use crate::process::die_with_pidfd;
use crate::ticket::{Reader, Ticket, Writer};

const SIGINT: i32 = 2;
const EINVAL: i32 = 22;

/// A child of a fork server, ready to run its entry.
#[derive(Debug)]
pub(crate) struct Forkling {
    pub(crate) ticket: Ticket,
    pub(crate) fds: Vec<OwnedFd>,
}

struct Server {
    link: Option<Connection>,
    requester: OwnedFd,
    children: Vec<Running>,
    interrupt: SavedSignal,
    /// For a child that is interrupted before it has begun: it gets the signal then.
    interrupt_later: BlockedSignals,
    threads_allowed: bool,
}

struct Running {
    pidfd: OwnedFd,
    seat: Seat,
    daemon: bool,
}

struct Request {
    ticket: Ticket,
    setting: Setting,
    fds: Vec<OwnedFd>,
}

/// Serves process `requester` until it ends or hangs up; then this process exits. Returns in each
/// child that it forks.
///
/// # Errors
/// When the service can't begin: the kernel's.
pub(crate) fn serve(link: OwnedFd, requester: u32, threads_allowed: bool) -> io::Result<Forkling> {
    // The parent has not waited for anybody when it still is the parent.
    let pidfd = sys::open_pidfd(requester)
        .ok()
        .filter(|_| sys::parent_id() == requester);
    let Some(pidfd) = pidfd else { quit() };
    // What the program wrote before init is not to be written again by each child.
    let _ = io::stdout().flush();
    sys::set_name("fork server");
    let server = Box::new(Server {
        link: Some(Connection::from_fd(link, true, true, false)),
        requester: pidfd,
        children: Vec::new(),
        // Ctrl-C is for the program, which goes on or ends; the server goes with it.
        interrupt: sys::ignore_signal(SIGINT)?,
        interrupt_later: BlockedSignals::new(&[SIGINT]),
        threads_allowed,
    });
    server.run()
}

fn quit() -> ! {
    family::leave();
    sys::exit_now(0)
}

impl Server {
    fn run(mut self: Box<Self>) -> io::Result<Forkling> {
        loop {
            let watched = [self.requester.as_fd()].into_iter();
            let watched = watched.chain(self.children.iter().map(|child| child.pidfd.as_fd()));
            let watched = watched.chain(self.link.as_ref().map(AsFd::as_fd));
            let mut entries: Vec<_> = watched
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            poll::poll(&mut entries, None)?;
            let ready: Vec<bool> = entries
                .iter()
                .map(|entry| !entry.revents().is_empty())
                .collect();
            drop(entries);
            let asked = self.link.is_some() && ready.last() == Some(&true);
            let mut child_ready = ready[1..].iter();
            self.children
                .retain(|child| child_ready.next() != Some(&true) || !child.note_end());
            if ready[0] {
                self.kill_daemons();
                quit();
            }
            if asked {
                match self.next_request() {
                    Ok(request) => match self.answer(request) {
                        Outcome::Serves(server) => self = server,
                        Outcome::IsChild(child) => return child,
                    },
                    // It has hung up, or can't be understood.
                    Err(_) => self.link = None,
                }
            }
            if self.link.is_none() && self.children.is_empty() {
                quit();
            }
        }
    }

    fn kill_daemons(&self) {
        for child in self.children.iter().filter(|child| child.daemon) {
            let _ = sys::send_signal(child.pidfd.as_fd(), SIGKILL);
        }
    }

    fn next_request(&self) -> Result<Request, RecvError> {
        let link = self.link.as_ref().ok_or(RecvError::NotReadable)?;
        let mut patience = Patience::timeout(ANSWER_WITHIN);
        let bytes = link.recv_bytes(None, &mut patience)?;
        let fds = link.recv_fds(socket::MOST_FDS, &mut patience)?;
        let mut reader = Reader(&bytes);
        let ticket = Ticket::read(&mut reader).ok_or(RecvError::Garbled)?;
        let setting = Setting::read(&mut reader).ok_or(RecvError::Garbled)?;
        Ok(Request {
            ticket,
            setting,
            fds,
        })
    }

    fn answer(mut self: Box<Self>, request: Request) -> Outcome {
        let threads = if self.threads_allowed {
            Ok(())
        } else {
            Alone::check().map(|_| ())
        };
        if let Err(count) = threads {
            self.say(HAS_THREADS, count as u64, &[]);
            return Outcome::Serves(self);
        }
        let seat = request.ticket.seat;
        let started = match socket::pipe() {
            Ok((wait, go)) => {
                family::fork_with(seat);
                let forked = sys::fork();
                family::fork_done();
                match forked {
                    Ok(Forked::Child) => {
                        drop(go);
                        return Outcome::IsChild(self.become_child(request, wait));
                    }
                    // Without the pidfd nobody gets "go", and the child ends.
                    Ok(Forked::Parent { child }) => {
                        sys::open_pidfd(child).map(|pidfd| (child, pidfd, go))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        match started {
            Ok((pid, pidfd, go)) => {
                self.say(FORKED, pid.into(), &[pidfd.as_fd(), go.as_fd()]);
                self.children.push(Running {
                    pidfd,
                    seat,
                    daemon: request.ticket.daemon,
                });
            }
            Err(error) => {
                let code = error.raw_os_error().unwrap_or(EINVAL);
                self.say(NOT_FORKED, code.unsigned_abs().into(), &[]);
            }
        }
        Outcome::Serves(self)
    }

    /// Answers. A requester that does not take it any more has ended, which is seen elsewhere.
    fn say(&mut self, what: u64, number: u64, fds: &[BorrowedFd<'_>]) {
        let Some(link) = &self.link else { return };
        let mut writer = Writer::default();
        writer.number(what);
        writer.number(number);
        let mut patience = Patience::timeout(ANSWER_WITHIN);
        let sent = link.send_bytes(&writer.finish(), &mut patience);
        let sent = sent.and_then(|()| {
            if fds.is_empty() {
                Ok(())
            } else {
                link.send_fds(fds, &mut patience)
            }
        });
        if sent.is_err() {
            self.link = None;
        }
    }

    /// What a new child does until its entry can run.
    fn become_child(self: Box<Self>, request: Request, wait: OwnedFd) -> io::Result<Forkling> {
        let Server {
            link,
            requester,
            children,
            interrupt,
            interrupt_later,
            ..
        } = *self;
        drop(link);
        drop(children);
        sys::restore_signal(&interrupt)?;
        drop(interrupt_later);
        wait_for_go(wait, requester.as_fd());
        let Request {
            ticket,
            setting,
            fds,
        } = request;
        let mut fds = fds.into_iter();
        if setting.has_folder
            && let Some(folder) = fds.next()
        {
            sys::change_directory(folder)?;
        }
        for number in (0..3).filter(|&number| setting.standard[number]) {
            if let Some(fd) = fds.next() {
                sys::replace_standard(number as u32, fd.as_fd())?;
            }
        }
        if let Some(mask) = setting.file_mask {
            sys::set_file_mask(mask);
        }
        // A forked child is alone, whatever threads the server has.
        if let Ok(alone) = Alone::check() {
            if let Some(environment) = setting.environment {
                alone.replace_environment(&environment);
            }
            start::forget(&alone);
        }
        if ticket.daemon {
            die_with_pidfd(requester)?;
        }
        Ok(Forkling {
            ticket,
            fds: fds.collect(),
        })
    }
}

enum Outcome {
    Serves(Box<Server>),
    IsChild(io::Result<Forkling>),
}

/// Returns when the requester knows of this child; otherwise the child was never wanted.
fn wait_for_go(wait: OwnedFd, requester: BorrowedFd<'_>) {
    let wait = Connection::from_fd(wait, true, false, false);
    loop {
        let mut entries = [
            PollFd::from_borrowed_fd(wait.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(requester, PollFlags::IN),
        ];
        if poll::poll(&mut entries, None).is_err() {
            sys::exit_now(1);
        }
        let [go, gone] = entries.map(|entry| !entry.revents().is_empty());
        if go && wait.recv_bytes(Some(0), &mut Patience::none()).is_ok() {
            return;
        }
        if go || gone {
            sys::exit_now(1);
        }
    }
}

impl Running {
    /// Writes down how it has ended. False if it has not.
    fn note_end(&self) -> bool {
        match sys::try_wait(self.pidfd.as_fd(), true) {
            Ok(None) => false,
            Ok(Some(ended)) => {
                family::note_exit(self.seat, note(ended));
                true
            }
            // The program has had it waited for elsewhere. What it said itself stands.
            Err(_) => true,
        }
    }
}
