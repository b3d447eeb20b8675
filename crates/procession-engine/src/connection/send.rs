//! Sending messages.

use std::io::IoSlice;
use std::sync::atomic::Ordering;

use procession_shm::Patience;
use procession_sys::{poll, socket};

use super::{BYTES, Connection, SendError, frame};
use crate::message::{Outgoing, Parcel};

/// Bytes that are worth a detour through the arena.
const LARGE: usize = 128 << 10;
/// Bytes in the arena for which one goes through the descriptor.
const WEIGHT: usize = 64;
/// No parcel weighs more: it is more than a socket or pipe holds.
const MOST_WEIGHT: usize = 256 << 10;
impl Connection {
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

    /// Sends `bytes` by the [mailbox](super::Mailbox), if there is one and the receiver looks there just now.
    pub fn send_at_once(&self, bytes: &[u8]) -> bool {
        let mailbox = self.mailbox.get().filter(|_| self.may_send().is_ok());
        mailbox.is_some_and(|mailbox| mailbox.try_post(bytes))
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
        if let Some(mailbox) = self.mailbox.get()
            && mailbox.post(body)
        {
            return Ok(());
        }
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

    pub(super) fn may_send(&self) -> Result<(), SendError> {
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
}
