//! Receiving messages.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use procession_shm::{Arrived, Entry, Handle, Patience};
use procession_sys::{poll, socket};

use super::frame::{Frame, Incoming};
use super::{BYTES, Connection, Mailbox, RecvError, SLEEP, Stop};
use crate::message::{Block, Message, Parcel};

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
        // One with a tag is no bytes, though it may have nothing but them and mentions.
        if message.buffers.is_empty() && message.tag == 0 {
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

impl Connection {
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
        let mailbox = self.mailbox.get();
        if let Some(mailbox) = mailbox
            && let Some(body) = self.receive_here(mailbox, patience)?
        {
            return Ok(Incoming::whole(body));
        }
        let mut incoming = self.take_half().unwrap_or_default();
        match self.fill(&mut incoming, max, patience) {
            Ok(()) => {
                if let Some(mailbox) = mailbox {
                    mailbox.fetched();
                }
                Ok(incoming)
            }
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

    /// A message from the mailbox; `None` once there is something at the descriptor instead.
    fn receive_here(
        &self,
        mailbox: &Mailbox,
        patience: &mut Patience<'_>,
    ) -> Result<Option<Vec<u8>>, RecvError> {
        match mailbox.find(patience) {
            Some(Arrived::Here) => return Ok(mailbox.take()),
            // At the descriptor is also what was sent when this was crowded, and the end.
            Some(Arrived::Away) | None => {}
        }
        // It has been looked for long enough.
        while !poll::readable(self.fd(), Some(patience.slice(SLEEP))).map_err(RecvError::Io)? {
            if patience.is_none() {
                return Err(RecvError::TimedOut);
            }
            patience
                .check()
                .map_err(|error| RecvError::from_stop(Stop::Wait(error)))?;
        }
        // One that has come here since the look was sent before what there is, which may be the end.
        Ok(mailbox.take())
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
}

fn plain(tag: u32, bytes: Vec<u8>) -> Result<Message, RecvError> {
    Message::from_entry(Entry::Inline { tag, bytes }).map_err(RecvError::Gone)
}
