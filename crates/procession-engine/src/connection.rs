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

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use procession_shm::{Entry, Handle, Patience, WaitError};
use procession_sys::poll;
use procession_sys::socket::{self, Channel};
use procession_sys::thread;

use crate::message::{Block, Message, Outgoing, Parcel};

pub use errors::{RecvError, SendError};
use frame::{Frame, Incoming};

/// Bytes that are worth a detour through the arena.
const LARGE: usize = 128 << 10;
/// Bytes in the arena for which one goes through the descriptor.
const WEIGHT: usize = 64;
/// No parcel weighs more: it is more than a socket or pipe holds.
const MOST_WEIGHT: usize = 256 << 10;
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
}

/// What [`Connection::recv_bytes_into`] did with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceivedInto {
    /// It lies in the buffer and is this long.
    Filled(usize),
    /// It is longer than the buffer; here it is. The buffer is as it was.
    TooShort(Vec<u8>),
}

/// Bytes that were received.
#[derive(Debug)]
pub enum Received {
    /// They came through the descriptor.
    Bytes(Vec<u8>),
    /// They lie in the arena.
    Block(Block),
}

impl Received {
    fn from_parcel(mut message: Message) -> Result<Received, RecvError> {
        if message.tag == BYTES && message.buffers.len() == 1 {
            return Ok(Received::Block(message.buffers.remove(0)));
        }
        if message.buffers.is_empty() {
            Ok(Received::Bytes(message.bytes))
        } else {
            Err(RecvError::NotBytes)
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Received::Bytes(bytes) => bytes.len(),
            Received::Block(block) => block.len(),
        }
    }

    /// Whether it is a message without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes in memory of their own.
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Received::Bytes(bytes) => bytes,
            Received::Block(block) => block.to_vec(),
        }
    }

    /// Copies them to a place of the same length.
    ///
    /// # Panics
    /// When the length is another.
    pub fn copy_to(&self, place: &mut [u8]) {
        assert_eq!(
            place.len(),
            self.len(),
            "the place is as long as what was received"
        );
        match self {
            Received::Bytes(bytes) => place.copy_from_slice(bytes),
            // Held, and within its end: it is there.
            Received::Block(block) => drop(block.read(0, place)),
        }
    }
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

    /// Sends `bytes` as one message. Waits while there is no room for it.
    ///
    /// # Errors
    /// See [`SendError`]. If the wait ends before anything was sent, the message is just not sent;
    /// if it ends inside the message, later sends are [`SendError::Broken`].
    pub fn send_bytes(&self, bytes: &[u8], patience: &mut Patience<'_>) -> Result<(), SendError> {
        self.may_send()?;
        if self.family && bytes.len() >= LARGE {
            let parcel = Outgoing {
                bytes: &[],
                buffers: &[bytes],
                handles: &[],
                tag: BYTES,
            };
            // If there is no room, there is another way.
            if let Ok(parcel) = Parcel::store(&parcel) {
                return self.send_parcel(parcel, bytes.len(), patience);
            }
        }
        self.send_frame(
            frame::head_of_bytes(bytes.len()).as_slice(),
            bytes,
            patience,
        )
    }

    /// Sends a message. One that is large, has buffers or mentions objects goes through the arena;
    /// the objects are kept alive on the way.
    ///
    /// # Errors
    /// As [`send_bytes`](Self::send_bytes); [`SendError::NotFamily`] for a message with buffers,
    /// objects or a tag to a stranger.
    pub fn send_message(
        &self,
        message: &Outgoing<'_>,
        patience: &mut Patience<'_>,
    ) -> Result<(), SendError> {
        self.may_send()?;
        let plain = message.buffers.is_empty() && message.handles.is_empty();
        let is_bytes = plain && message.tag == 0;
        if !self.family && !is_bytes {
            return Err(SendError::NotFamily);
        }
        if plain && (message.bytes.len() < LARGE || !self.family) {
            let head = if message.tag == 0 {
                frame::head_of_bytes(message.bytes.len())
            } else {
                frame::head_of_tagged(message.tag, message.bytes.len())
            };
            return self.send_frame(head.as_slice(), message.bytes, patience);
        }
        let size = message
            .buffers
            .iter()
            .map(|buffer| buffer.len())
            .sum::<usize>()
            + message.bytes.len();
        let parcel = Parcel::store(message).map_err(SendError::Memory)?;
        self.send_parcel(parcel, size, patience)
    }

    fn send_parcel(
        &self,
        parcel: Parcel,
        size: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(), SendError> {
        let handle = parcel.handle();
        let weight = (size / WEIGHT).min(MOST_WEIGHT);
        let head = frame::head_of_parcel(handle, weight as u32);
        let zeros = vec![0; weight];
        let mut parts = [IoSlice::new(head.as_slice()), IoSlice::new(&zeros)];
        // Before the receiver can take it.
        parcel.keep_in_transit();
        self.write_all(&mut parts, patience)
            .map_err(|(sent, error)| {
                if sent < head.as_slice().len() {
                    // No receiver knows its name.
                    drop(Parcel::take(handle));
                }
                self.given_up(sent, error)
            })
    }

    fn send_frame(
        &self,
        head: &[u8],
        body: &[u8],
        patience: &mut Patience<'_>,
    ) -> Result<(), SendError> {
        let mut parts = [IoSlice::new(head), IoSlice::new(body)];
        self.write_all(&mut parts, patience)
            .map_err(|(sent, error)| self.given_up(sent, error))
    }

    fn given_up(&self, sent: usize, error: SendError) -> SendError {
        if sent > 0 {
            self.torn.store(true, Ordering::Relaxed);
        }
        error
    }

    fn may_send(&self) -> Result<(), SendError> {
        if !self.is_writable() {
            Err(SendError::NotWritable)
        } else if self.torn.load(Ordering::Relaxed) {
            Err(SendError::Broken)
        } else {
            Ok(())
        }
    }

    /// Writes everything, or says how much it had written when it could not go on.
    fn write_all(
        &self,
        mut parts: &mut [IoSlice<'_>],
        patience: &mut Patience<'_>,
    ) -> Result<(), (usize, SendError)> {
        let mut sent = 0;
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let written = self
                .attempt(patience, poll::writable, || {
                    socket::write(self.fd(), self.channel, parts)
                })
                .map_err(|stop| (sent, SendError::from_stop(stop)))?;
            sent += written;
            IoSlice::advance_slices(&mut parts, written);
        }
        Ok(())
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

    /// Receives a message of bytes. Waits until one is there, or the end.
    ///
    /// A receive that is given up inside a message loses nothing: the next one goes on with it.
    ///
    /// # Errors
    /// See [`RecvError`]. After a message longer than `max` this end can't receive any more.
    pub fn recv_bytes(
        &self,
        max: Option<usize>,
        patience: &mut Patience<'_>,
    ) -> Result<Vec<u8>, RecvError> {
        self.recv(max, patience).map(Received::into_vec)
    }

    /// The same, and leaves the bytes where they are: those of a large message in the arena, to be
    /// copied once to where the caller wants them.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes).
    pub fn recv(
        &self,
        max: Option<usize>,
        patience: &mut Patience<'_>,
    ) -> Result<Received, RecvError> {
        let incoming = self.receive(max, patience)?;
        let received = match incoming.parcel() {
            Some(handle) => Received::from_parcel(self.open_parcel(handle)?)?,
            None => Received::Bytes(incoming.body),
        };
        self.check_length(received.len(), max)?;
        Ok(received)
    }

    /// The same into a buffer of the caller's.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes).
    pub fn recv_bytes_into(
        &self,
        into: &mut [u8],
        patience: &mut Patience<'_>,
    ) -> Result<ReceivedInto, RecvError> {
        let received = self.recv(None, patience)?;
        match into.get_mut(..received.len()) {
            Some(place) => {
                received.copy_to(place);
                Ok(ReceivedInto::Filled(received.len()))
            }
            None => Ok(ReceivedInto::TooShort(received.into_vec())),
        }
    }

    /// Receives a message as [`send_message`](Self::send_message) sent it.
    ///
    /// # Errors
    /// As [`recv_bytes`](Self::recv_bytes).
    pub fn recv_message(&self, patience: &mut Patience<'_>) -> Result<Message, RecvError> {
        let incoming = self.receive(None, patience)?;
        let Some(handle) = incoming.parcel() else {
            let tag = incoming.tag();
            return plain(tag, incoming.body);
        };
        let message = self.open_parcel(handle)?;
        if message.tag == BYTES {
            let bytes = message
                .buffers
                .first()
                .map(Block::to_vec)
                .unwrap_or_default();
            return plain(0, bytes);
        }
        Ok(message)
    }

    fn open_parcel(&self, handle: Handle) -> Result<Message, RecvError> {
        Parcel::take(handle).map_err(RecvError::Gone)
    }

    /// A whole frame: from this call, or from the one before that was given up.
    fn receive(
        &self,
        max: Option<usize>,
        patience: &mut Patience<'_>,
    ) -> Result<Incoming, RecvError> {
        if !self.is_readable() {
            return Err(RecvError::NotReadable);
        }
        let mut incoming = self.take_half().unwrap_or_default();
        match self.fill(&mut incoming, max, patience) {
            Ok(()) => Ok(incoming),
            Err(error) => {
                if incoming.has_begun()
                    && matches!(error, RecvError::TimedOut | RecvError::Interrupted)
                {
                    self.keep_half(incoming);
                }
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        incoming: &mut Incoming,
        max: Option<usize>,
        patience: &mut Patience<'_>,
    ) -> Result<(), RecvError> {
        let frame = loop {
            let rest = incoming.head_rest();
            if rest.is_empty() {
                break incoming
                    .frame()
                    .filter(|frame| self.family || frame.is_plain())
                    .ok_or_else(|| {
                        self.readable.store(false, Ordering::Relaxed);
                        RecvError::Garbled
                    })?;
            }
            let count = self.attempt(patience, poll::readable, || {
                socket::read(self.fd(), self.channel, rest)
            });
            match count.map_err(RecvError::from_stop)? {
                0 if incoming.has_begun() => return Err(RecvError::Truncated),
                0 => return Err(RecvError::Closed),
                count => incoming.head_grew(count),
            }
        };
        if let Frame::Parcel { .. } = frame {
            return self.skip_weight(incoming, patience);
        }
        self.check_length(frame.length(), max)?;
        while incoming.body.len() < frame.length() {
            let missing = frame.length() - incoming.body.len();
            incoming.make_room(missing).map_err(RecvError::Io)?;
            let body = &mut incoming.body;
            let count = self.attempt(patience, poll::readable, || {
                socket::read_onto(self.fd(), self.channel, body, missing)
            });
            if count.map_err(RecvError::from_stop)? == 0 {
                return Err(RecvError::Truncated);
            }
        }
        Ok(())
    }

    /// The parcel is complete whether its weight has come or not: if the sender died in between, it
    /// is delivered all the same.
    fn skip_weight(
        &self,
        incoming: &mut Incoming,
        patience: &mut Patience<'_>,
    ) -> Result<(), RecvError> {
        let mut scrap = [0; 16 << 10];
        while incoming.weight_left > 0 {
            let most = incoming.weight_left.min(scrap.len());
            let into = &mut scrap[..most];
            let count = self.attempt(patience, poll::readable, || {
                socket::read(self.fd(), self.channel, into)
            });
            match count.map_err(RecvError::from_stop)? {
                0 => break,
                count => incoming.weight_left -= count,
            }
        }
        Ok(())
    }

    fn check_length(&self, length: usize, max: Option<usize>) -> Result<(), RecvError> {
        match max {
            Some(max) if length > max => {
                self.readable.store(false, Ordering::Relaxed);
                Err(RecvError::TooLong { length, max })
            }
            _ => Ok(()),
        }
    }

    fn take_half(&self) -> Option<Incoming> {
        // The mutex is only touched after a receive was given up, which is rare, and never held.
        if !self.has_half.swap(false, Ordering::Acquire) {
            return None;
        }
        self.half
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn keep_half(&self, incoming: Incoming) {
        *self.half.lock().unwrap_or_else(PoisonError::into_inner) = Some(incoming);
        self.has_half.store(true, Ordering::Release);
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

fn plain(tag: u32, bytes: Vec<u8>) -> Result<Message, RecvError> {
    Message::from_entry(Entry::Inline { tag, bytes }).map_err(RecvError::Gone)
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
