//! Starting programs, children and how they end, and ending with one's parent.

mod watching;

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use procession_shm::{Patience, WaitError};
use procession_sys::process::{self as sys, Program};
use procession_sys::{poll, thread};

use crate::exit_status::{ExitStatus, note, noted_dump};
use crate::family::{self, Seat};
use crate::per_process::PerProcess;

pub use procession_sys::process::{
    ALARM, Resource, Spawned, add_niceness, clock, end_at, join_process_group, new_session,
    reset_signal, set_limit,
};
pub use watching::{drain, wait_any};

/// What a child writes into its entry when it has joined the family, until it writes how it ended.
pub(crate) const CHECKED_IN: i32 = i32::MIN;
/// How long a fork server may take to say how a child has ended that the kernel says has.
const NOTED_WITHIN: Duration = Duration::from_secs(5);

/// A program to start.
#[derive(Debug, Clone, Default)]
pub struct SpawnRequest {
    /// Its path; the search path is not looked at. A relative one counts from `cwd`.
    pub program: PathBuf,
    /// Its arguments, its own name first.
    pub args: Vec<OsString>,
    /// Its environment; `None` is a copy of this process's.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Descriptors that it gets, at the same numbers. Others that are close-on-exec it does not get.
    pub inherit: Vec<RawFd>,
    /// Its working directory; `None` is this process's.
    pub cwd: Option<PathBuf>,
    /// The signals that it starts with blocked; no others.
    pub blocked: Vec<i32>,
}

/// Starts a program as a child of this process. It takes the same time whatever memory this process
/// has in use, because nothing of it is copied.
///
/// The child is not waited for: that is the caller's to do.
///
/// # Errors
/// Of the system: a program or folder that is not there or may not be used, a descriptor that is not
/// open, a limit, an argument with a zero byte; `Unsupported` when the kernel has no pidfds.
pub fn spawn(request: &SpawnRequest) -> io::Result<Spawned> {
    spawn_with(request, [None; 3])
}

/// The same with other standard descriptors than this process's, numbered above them.
pub(crate) fn spawn_with(
    request: &SpawnRequest,
    standard: [Option<BorrowedFd<'_>>; 3],
) -> io::Result<Spawned> {
    let path = text(request.program.as_os_str().as_bytes().to_vec())?;
    let args = request
        .args
        .iter()
        .map(|arg| text(arg.as_bytes().to_vec()))
        .collect::<io::Result<Vec<_>>>()?;
    let env = match &request.env {
        Some(env) => env
            .iter()
            .cloned()
            .map(setting)
            .collect::<io::Result<Vec<_>>>()?,
        None => std::env::vars_os()
            .map(setting)
            .collect::<io::Result<Vec<_>>>()?,
    };
    let folder = request
        .cwd
        .as_ref()
        .map(|cwd| text(cwd.as_os_str().as_bytes().to_vec()))
        .transpose()?;
    sys::spawn(&Program {
        path: &path,
        args: &args,
        env: &env,
        inherit: &request.inherit,
        standard,
        folder: folder.as_deref(),
        blocked: &request.blocked,
    })
}

fn text(bytes: Vec<u8>) -> io::Result<CString> {
    CString::new(bytes).map_err(|error| {
        let shown = String::from_utf8_lossy(&error.into_vec()).into_owned();
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a program can't be given {shown:?}: it has a zero byte inside"),
        )
    })
}

fn setting((name, value): (OsString, OsString)) -> io::Result<CString> {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    text(bytes)
}

/// A pidfd of this process's parent, or, if that has ended, what is as ready to read as one would be.
///
/// # Errors
/// When descriptors have run out, or the kernel has no pidfds.
pub fn pidfd_of_parent(parent: u32) -> io::Result<OwnedFd> {
    match sys::open_pidfd(parent) {
        Ok(pidfd) if sys::parent_id() == parent => return Ok(pidfd),
        // Somebody else's, with the same number.
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(ESRCH) => {}
        Err(error) => return Err(error),
    }
    // Nobody writes there.
    Ok(io::pipe()?.0.into())
}

/// Has this process killed (SIGKILL) when process `parent` ends, however that ends. If `parent` has
/// ended already, this does not return.
///
/// If the main thread of `parent` made this process, the kernel does it. Otherwise (another thread
/// of it did, which may end before its process; or `parent` is no parent, as with a fork server) a
/// thread of this process watches: then a *stopped* process is killed only when it is continued.
/// Children of this process are not affected.
///
/// # Errors
/// When the process can't be watched: the limit of descriptors or threads, a kernel without pidfds.
pub fn die_with(parent: u32) -> io::Result<()> {
    if sys::parent_id() == parent && sys::is_child_of_main_thread(parent) {
        sys::die_with_parent_thread()?;
        if sys::parent_id() != parent {
            // It ended before the kernel was told.
            sys::kill_self();
        }
        return Ok(());
    }
    match sys::open_pidfd(parent) {
        Ok(pidfd) => die_with_pidfd(pidfd),
        Err(error) if error.raw_os_error() == Some(ESRCH) => sys::kill_self(),
        Err(error) => Err(error),
    }
}

const ESRCH: i32 = 3;

/// The same for a process that is known by its descriptor.
pub(crate) fn die_with_pidfd(pidfd: OwnedFd) -> io::Result<()> {
    let watch = move || {
        sys::block_all_signals();
        loop {
            match poll::readable(pidfd.as_fd(), None) {
                Ok(true) => sys::kill_self(),
                Ok(false) => {}
                // Out of memory in the kernel.
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    };
    std::thread::Builder::new()
        .name("parent watch".into())
        .stack_size(64 << 10)
        .spawn(watch)?;
    Ok(())
}

/// Who learns from the kernel how a child has ended.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The process that holds the [`Child`].
    Own,
    /// A fork server, which writes it into the child's entry.
    Server(Arc<Child>),
}

/// A process that this one has started.
///
/// Dropping it neither waits nor kills. What is left of the process then goes away some time after
/// it has ended, with a later launch.
#[derive(Debug)]
pub struct Child(Option<Started>);

/// A started process: a [`Child`] without the rule for its drop.
#[derive(Debug)]
struct Started {
    name: String,
    seat: Seat,
    pid: u32,
    pidfd: OwnedFd,
    origin: Origin,
    /// In which process this value was made: a copy of it in a forked child is somebody else's child.
    made_in: u32,
    end: Mutex<Option<End>>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    status: ExitStatus,
    core_dumped: bool,
    checked_in: bool,
}

/// Children that were let go of before they ended.
static ABANDONED: PerProcess<Vec<Started>> = PerProcess::new();

impl Child {
    /// Makes one of a process that was started by hand, after
    /// [`child_started`](crate::family::child_started).
    pub fn adopt(seat: Seat, spawned: Spawned, name: &str) -> Child {
        Child::new(name, seat, spawned, Origin::Own)
    }

    pub(crate) fn new(name: &str, seat: Seat, spawned: Spawned, origin: Origin) -> Child {
        Child(Some(Started {
            name: name.to_owned(),
            seat,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            origin,
            made_in: thread::forks(),
            end: Mutex::new(None),
        }))
    }

    fn started(&self) -> &Started {
        self.0.as_ref().expect("only the drop takes it")
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.started().pid
    }

    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.started().name
    }

    /// Its place in the family.
    pub fn seat(&self) -> Seat {
        self.started().seat
    }

    /// A descriptor that is readable when the process has ended. Good for `poll`, `epoll` and
    /// selectors, and as long as this value.
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.started().pidfd.as_fd()
    }

    /// Waits for the process to end, and says how it did. May be asked again. What the process held
    /// of the family's memory goes back.
    ///
    /// # Errors
    /// When the patience ends before.
    pub fn wait(&self, patience: &mut Patience<'_>) -> Result<ExitStatus, WaitError> {
        loop {
            if let Some(status) = self.try_wait() {
                return Ok(status);
            }
            if patience.is_none() {
                return Err(WaitError::TimedOut);
            }
            let slice = patience.slice(Duration::from_secs(3600));
            // An error is shortage of memory in the kernel: no reason to stop waiting.
            if !poll::readable(self.sentinel(), Some(slice)).unwrap_or(false) {
                patience.check()?;
            }
        }
    }

    /// How the process ended, if it has. Does not wait for its end.
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.started().look().map(|end| end.status)
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        self.try_wait().is_none()
    }

    /// Whether it got as far as joining the family: false while it is starting, and of one that
    /// ended before.
    pub fn checked_in(&self) -> bool {
        let started = self.started();
        started
            .look()
            .map_or_else(|| started.has_noted(), |end| end.checked_in)
    }

    /// Whether the system took an image of its memory when a signal ended it. False while it runs.
    pub fn core_dumped(&self) -> bool {
        self.started().look().is_some_and(|end| end.core_dumped)
    }

    /// Sends it a signal. Nothing happens if it has ended.
    ///
    /// # Errors
    /// `EINVAL` for what is no signal, `EPERM` when the process has changed its user.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        match sys::send_signal(self.sentinel(), signal) {
            Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(started) = self.0.take() else { return };
        if started.is_mine() && !started.end.lock().is_ok_and(|end| end.is_some()) {
            ABANDONED.with(|children| children.push(started));
        }
    }
}

impl Started {
    fn is_mine(&self) -> bool {
        self.made_in == thread::forks()
    }

    fn has_noted(&self) -> bool {
        family::exit_status(self.seat).is_some()
    }

    fn look(&self) -> Option<End> {
        if !self.is_mine() {
            // The lock may be held by a thread of another process.
            return self.has_ended().then(|| self.learn());
        }
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() && self.has_ended() {
            *end = Some(self.learn());
            family::reap(self.seat.member());
        }
        *end
    }

    fn has_ended(&self) -> bool {
        poll::readable(self.pidfd.as_fd(), Some(Duration::ZERO)).unwrap_or(false)
    }

    /// How it ended, now that it has.
    fn learn(&self) -> End {
        let noted = match &self.origin {
            Origin::Own => match sys::try_wait(self.pidfd.as_fd(), true) {
                Ok(Some(ended)) => Some(note(ended)),
                // Somebody else waited for it, or the program ignores SIGCHLD. What it said itself
                // at its end is as good.
                _ => noted(self.seat),
            },
            Origin::Server(server) => self.learn_from(server.sentinel()),
        };
        End {
            status: noted.map_or(ExitStatus::Unknown, ExitStatus::from_noted),
            core_dumped: noted.is_some_and(noted_dump),
            checked_in: self.has_noted(),
        }
    }

    /// The server hears of the end when we do, so this takes no time to speak of, unless the server
    /// has ended too, or is stopped.
    fn learn_from(&self, server: BorrowedFd<'_>) -> Option<i32> {
        let deadline = Instant::now() + NOTED_WITHIN;
        let mut pause = Duration::from_micros(20);
        loop {
            if let Some(noted) = noted(self.seat) {
                return Some(noted);
            }
            let nobody_will = poll::readable(server, Some(pause)).unwrap_or(true)
                || Instant::now() > deadline
                || !family::family()
                    .is_ok_and(|family| family.arena().member(self.seat.member()).is_some());
            if nobody_will {
                // It may have been its last act.
                return noted(self.seat);
            }
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }
}

/// What was written down of a child's end, in this process or by its fork server, or by the child itself.
pub(crate) fn noted(seat: Seat) -> Option<i32> {
    family::exit_status(seat).filter(|&noted| noted != CHECKED_IN)
}

/// Clears away what is left of children that were let go of and have ended.
pub(crate) fn clear_abandoned() {
    let children = ABANDONED.with(std::mem::take);
    if !children.is_empty() {
        let running: Vec<Started> = children
            .into_iter()
            .filter(|child| child.look().is_none())
            .collect();
        ABANDONED.with(|children| children.extend(running));
    }
}
