//! Connections: messages over a descriptor, a socket or a pipe.
//!
//! A message is a frame, the first two kinds being those of Python's `multiprocessing.connection`
//! (numbers big-endian, the first one signed):
//!
//! | first 4 bytes | then | what |
//! | --- | --- | --- |
//! | length, 0 to 2³¹-1 | the bytes | bytes |
//! | -1 | length (8), the bytes | more bytes |
//! | -2 | handle (16), weight (4), that many zeros | a parcel in the arena, for members of the family only |
//! | -3 | tag (4), length (8), the bytes | a small message with a tag, likewise |
//!
//! What is large goes into the arena and only its handle through the descriptor. The zeros that
//! follow stand for its size: one for each 64 bytes, so that a sender who is ahead of the
//! receiver has to wait at some point, as it would if the bytes themselves were sent, and memory
//! does not fill up with what nobody has read.
//!
//! A descriptor of a connection is readable when a message, or the end, is there: use it with
//! `poll`, `epoll`, selectors.
//!
//! **Threads.** One thread may send while another receives. Two that send at a time, in whatever
//! processes, mix their messages if these are large; put a lock around it.
//!
//! **Death of the peer.** The reader gets all that was sent completely, then
//! [`RecvError::Closed`], or [`RecvError::Truncated`] when the peer died inside a message. The
//! writer gets [`SendError::Closed`]. Both only once *every* process has closed the other end.

mod errors;
mod frame;
mod mailbox;
mod receive;
mod send;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use procession_shm::{Patience, WaitError};
use procession_sys::poll;
use procession_sys::socket::{self, Channel};
use procession_sys::thread;

pub use errors::{RecvError, SendError};
use frame::Incoming;
pub use mailbox::{Mailbox, Ticket};
pub use receive::{Received, ReceivedInto};

/// The tag of a parcel that stands for plain bytes. They are its only buffer.
const BYTES: u32 = i32::MAX as u32;
/// A peer that answers within this time saves two context switches.
const GIVE_WAY: Duration = Duration::from_micros(50);
/// One sleep, if nothing asks for less.
const SLEEP: Duration = Duration::from_secs(3600);

/// One end of a channel of messages. See the [module](self).
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    channel: Channel,
    readable: AtomicBool,
    writable: AtomicBool,
    family: bool,
    /// A send was given up when part of its message was on the way.
    torn: AtomicBool,
    /// A receive was given up when part of its message was here: the next one goes on with it.
    half: Mutex<Option<Incoming>>,
    has_half: AtomicBool,
    /// Through which short messages go. Part of a connection of requests and answers alone.
    mailbox: OnceLock<Mailbox>,
}

/// The two ends of a new channel.
///
/// If `duplex`, both send and receive (a socket pair). Else the first only receives and the second
/// only sends (a pipe). Both are close-on-exec.
///
/// # Errors
/// `EMFILE` and `ENFILE` at the limits of open descriptors.
pub fn pair(duplex: bool) -> io::Result<(Connection, Connection)> {
    let (first, second) = if duplex {
        socket::pair()?
    } else {
        socket::pipe()?
    };
    Ok((
        Connection::from_fd(first, true, duplex, true),
        Connection::from_fd(second, duplex, true, true),
    ))
}

impl Connection {
    /// Makes a connection of a descriptor. `family` says that whoever is at the other end is a
    /// member of this process's family, so that large messages may go through the arena; a
    /// stranger's handles are not to be believed.
    pub fn from_fd(fd: OwnedFd, readable: bool, writable: bool, family: bool) -> Connection {
        let channel = Channel::of(&fd).unwrap_or(Channel::Other);
        Connection {
            fd,
            channel,
            readable: readable.into(),
            writable: writable.into(),
            family,
            torn: false.into(),
            half: Mutex::new(None),
            has_half: false.into(),
            mailbox: OnceLock::new(),
        }
    }

    /// Gives the descriptor away. Part of a message that a receive had been given up in is lost.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether it may receive. Becomes false when a message was longer than allowed.
    pub fn is_readable(&self) -> bool {
        self.readable.load(Ordering::Relaxed)
    }

    /// Whether it may send.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Whether large messages and handles go through the arena.
    pub fn is_family(&self) -> bool {
        self.family
    }

    /// Repeats `call` until it does something. `ready` sleeps until that is likely.
    fn attempt<T>(
        &self,
        patience: &mut Patience<'_>,
        ready: fn(BorrowedFd<'_>, Option<Duration>) -> io::Result<bool>,
        mut call: impl FnMut() -> io::Result<Option<T>>,
    ) -> Result<T, Stop> {
        if let Some(done) = call()? {
            return Ok(done);
        }
        if patience.is_none() {
            return Err(Stop::Wait(WaitError::TimedOut));
        }
        let start = Instant::now();
        while start.elapsed() < GIVE_WAY {
            thread::give_way();
            if let Some(done) = call()? {
                return Ok(done);
            }
        }
        loop {
            if !ready(self.fd(), Some(patience.slice(SLEEP)))? {
                patience.check().map_err(Stop::Wait)?;
                continue;
            }
            if let Some(done) = call()? {
                return Ok(done);
            }
            // Somebody else was quicker.
            if patience.is_over() {
                return Err(Stop::Wait(WaitError::TimedOut));
            }
        }
    }

    /// Whether a receive would not wait: a message has begun to arrive, or the end has. Waits for
    /// that as long as `patience` says, and is false when it ends.
    ///
    /// # Errors
    /// [`RecvError::NotReadable`], [`RecvError::Interrupted`], [`RecvError::Io`].
    pub fn poll(&self, patience: &mut Patience<'_>) -> Result<bool, RecvError> {
        if !self.is_readable() {
            return Err(RecvError::NotReadable);
        }
        if let Some(mailbox) = self.mailbox.get()
            && mailbox.has_come(patience)
        {
            return Ok(true);
        }
        let look = || Ok(poll::readable(self.fd(), Some(Duration::ZERO))?.then_some(()));
        match self.attempt(patience, poll::readable, look) {
            Ok(()) => Ok(true),
            Err(Stop::Wait(WaitError::TimedOut)) => Ok(false),
            Err(stop) => Err(RecvError::from_stop(stop)),
        }
    }

    /// Sends descriptors: the receiver, in whatever process, gets duplicates. At most
    /// [`MOST_FDS`](procession_sys::socket::MOST_FDS), over a socket only. They are not part of the
    /// messages: a [`recv_fds`](Self::recv_fds) must be at the same place in the order of receives.
    ///
    /// # Errors
    /// As [`send_bytes`](Self::send_bytes); [`SendError::Io`] for a pipe (`ENOTSOCK`) and for too
    /// many (`EINVAL`, `ETOOMANYREFS`).
    pub fn send_fds(
        &self,
        fds: &[BorrowedFd<'_>],
        patience: &mut Patience<'_>,
    ) -> Result<(), SendError> {
        self.may_send()?;
        let count = [u8::try_from(fds.len()).unwrap_or(u8::MAX)];
        let sent = self.attempt(patience, poll::writable, || {
            socket::send_fds(self.fd(), &count, fds)
        });
        sent.map(|_| ()).map_err(SendError::from_stop)
    }

    /// Receives descriptors, at most `most`. They are close-on-exec; if there are more, those are
    /// closed and it is an error.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes); [`RecvError::LostDescriptors`] when fewer arrive than
    /// were sent: more than `most`, or than this process may have open.
    pub fn recv_fds(
        &self,
        most: usize,
        patience: &mut Patience<'_>,
    ) -> Result<Vec<OwnedFd>, RecvError> {
        if !self.is_readable() {
            return Err(RecvError::NotReadable);
        }
        let mut count = [0];
        let received = self.attempt(patience, poll::readable, || {
            socket::receive_fds(self.fd(), &mut count, most)
        });
        let received = received.map_err(RecvError::from_stop)?;
        if received.bytes == 0 {
            return Err(RecvError::Closed);
        }
        if received.lost_fds || received.fds.len() != usize::from(count[0]) {
            return Err(RecvError::LostDescriptors {
                sent: count[0].into(),
            });
        }
        Ok(received.fds)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Why a call could not go on.
enum Stop {
    Wait(WaitError),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}
