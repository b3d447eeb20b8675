//! A shortcut beside the descriptor, for a connection of requests and answers between members.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

use procession_shm::{Arrived, Gone, Handle, Kind, Patience, Posted, RawMailbox, Way};

use super::Connection;
use crate::MakeError;
use crate::family::Held;

/// Room in shared memory for one short message each way, beside a connection whose ends are members
/// of one family, though neither takes that on trust: requests and answers then take no system call
/// while both ends are awake. See `procession_shm`'s `mailbox.rs`.
///
/// One end makes it and sends a [`Ticket`] to the other, by the descriptor. What is long, or comes when
/// the receiver sleeps, goes by the descriptor as before, and so does the news of a death. **Who has
/// sent a message sends another only once it has had the answer**, and nobody waits for the descriptor
/// by other means than this connection.
#[derive(Debug)]
pub struct Mailbox {
    held: Held<RawMailbox>,
    out: Way,
    secret: u64,
    /// A second message was on its way: all are sent by the descriptor from then on.
    given_up: AtomicBool,
}

/// Names a mailbox to the other end: its handle, and what is written in it. Another family may have
/// something by the same name, but not with the same mark.
pub type Ticket = [u8; 24];

impl Mailbox {
    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Mailbox, MakeError> {
        let held: Held<RawMailbox> = Held::new(Kind::Mailbox, 0)?;
        let secret = RandomState::new().hash_one(held.handle().to_bytes());
        held.get().mark(secret);
        Ok(Mailbox::at(held, Way::There, secret))
    }

    /// The one that the other end has made.
    ///
    /// # Errors
    /// When it is gone, or another's.
    pub fn from_ticket(ticket: Ticket) -> Result<Mailbox, Gone> {
        let (mut handle, mut secret) = ([0; 16], [0; 8]);
        handle.copy_from_slice(&ticket[..16]);
        secret.copy_from_slice(&ticket[16..]);
        let secret = u64::from_le_bytes(secret);
        let held: Held<RawMailbox> = Held::from_handle(Handle::from_bytes(handle), Kind::Mailbox)?;
        if !held.get().is_marked(secret) {
            return Err(Gone {
                expected: Some(Kind::Mailbox),
            });
        }
        Ok(Mailbox::at(held, Way::Back, secret))
    }

    fn at(held: Held<RawMailbox>, out: Way, secret: u64) -> Mailbox {
        Mailbox {
            held,
            out,
            secret,
            given_up: AtomicBool::new(false),
        }
    }

    /// What the other end needs.
    pub fn ticket(&self) -> Ticket {
        let mut ticket = [0; 24];
        ticket[..16].copy_from_slice(&self.held.handle().to_bytes());
        ticket[16..].copy_from_slice(&self.secret.to_le_bytes());
        ticket
    }

    fn incoming(&self) -> Way {
        match self.out {
            Way::There => Way::Back,
            Way::Back => Way::There,
        }
    }

    /// Whether the message lies here; else it is to be sent by the descriptor.
    pub(super) fn post(&self, message: &[u8]) -> bool {
        if self.given_up.load(Ordering::Relaxed) {
            return false;
        }
        match self.held.get().post(self.out, message) {
            Posted::Here => true,
            Posted::Away => false,
            Posted::Crowded => {
                self.given_up.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    pub(super) fn try_post(&self, message: &[u8]) -> bool {
        !self.given_up.load(Ordering::Relaxed) && self.held.get().try_post(self.out, message)
    }

    /// Where a message is; `None` when there is none and the caller does not want to wait.
    pub(super) fn find(&self, patience: &mut Patience<'_>) -> Option<Arrived> {
        let raw = self.held.get();
        if patience.is_none() {
            raw.look(self.incoming())
        } else {
            Some(raw.wait(self.incoming(), patience))
        }
    }

    /// Whether a message lies here. If not, one will be at the descriptor, unless the caller does not want
    /// to wait.
    pub(super) fn has_come(&self, patience: &mut Patience<'_>) -> bool {
        self.find(patience) == Some(Arrived::Here)
    }

    pub(super) fn take(&self) -> Option<Vec<u8>> {
        self.held.get().take(self.incoming())
    }

    pub(super) fn fetched(&self) {
        self.held.get().fetched(self.incoming());
    }
}

impl Connection {
    /// Uses this mailbox from now on. A connection has one at most, and one of the kind that members of
    /// the family have without asking has none.
    ///
    /// # Errors
    /// The mailbox, if it can't be used.
    pub fn use_mailbox(&self, mailbox: Mailbox) -> Result<(), Mailbox> {
        if self.family {
            return Err(mailbox);
        }
        self.mailbox.set(mailbox)
    }
}
