//! The name of an object in the arena.

use std::fmt;

/// Names an object in the arena: 16 bytes that may travel over anything that joins two members.
///
/// A handle does not keep its object alive. One whose object is gone is told by its generation.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(crate) offset: u64,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl Handle {
    /// The handle as bytes, for a message.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.slot.to_le_bytes());
        bytes[12..].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave. Any bytes are taken; whether they name anything is
    /// seen when the handle is used.
    pub fn from_bytes(bytes: [u8; 16]) -> Handle {
        let (offset, rest) = bytes.split_at(8);
        let (slot, generation) = rest.split_at(4);
        let word = |part: &[u8]| u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
        let mut wide = [0; 8];
        wide.copy_from_slice(offset);
        Handle {
            offset: u64::from_le_bytes(wide),
            slot: word(slot),
            generation: word(generation),
        }
    }

    /// Slot and generation in one word: enough to name the object inside one arena, never zero for
    /// a living one.
    pub fn to_word(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}.{}", self.offset, self.generation)
    }
}

/// What an object is, so that a handle to a queue is never taken for a lock.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Plain bytes: a large buffer, a shared array.
    Block = 1,
    /// A message stored by itself.
    Parcel = 2,
    /// A lock.
    Lock = 3,
    /// A lock that its owner may take again.
    RLock = 4,
    /// A counter of permits.
    Semaphore = 5,
    /// A semaphore whose permits have owners.
    BoundedSemaphore = 6,
    /// The waiters of a condition.
    WaitQueue = 7,
    /// A flag to wait for.
    Event = 8,
    /// A meeting point.
    Barrier = 9,
    /// A queue of messages.
    Queue = 10,
    /// A part of a queue.
    Segment = 11,
    /// What the processes of a pool share.
    Pool = 12,
    /// A place for one message.
    Cell = 14,
    /// Plain data: numbers in a row.
    Slice = 15,
    /// The locks of the chunks of a slice.
    Chunks = 16,
    /// A lock that many readers or one writer hold.
    RwLock = 17,
    /// Something to be done once.
    Once = 18,
    /// A shortcut beside a descriptor.
    Mailbox = 19,
}

impl Kind {
    pub(crate) fn from_word(word: u32) -> Option<Kind> {
        use Kind::*;
        [
            Block,
            Parcel,
            Lock,
            RLock,
            Semaphore,
            BoundedSemaphore,
            WaitQueue,
            Event,
            Barrier,
            Queue,
            Segment,
            Pool,
            Cell,
            Slice,
            Chunks,
            RwLock,
            Once,
            Mailbox,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == word)
    }

    /// The word users know it by.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Block => "block",
            Kind::Parcel => "message",
            Kind::Lock => "lock",
            Kind::RLock => "recursive lock",
            Kind::Semaphore => "semaphore",
            Kind::BoundedSemaphore => "bounded semaphore",
            Kind::WaitQueue => "condition",
            Kind::Event => "event",
            Kind::Barrier => "barrier",
            Kind::Queue => "queue",
            Kind::Segment => "queue segment",
            Kind::Pool => "pool",
            Kind::Cell => "value",
            Kind::Slice => "shared slice",
            Kind::Chunks => "chunk of a shared slice",
            Kind::RwLock => "reader-writer lock",
            Kind::Once => "once",
            Kind::Mailbox => "mailbox",
        }
    }
}
