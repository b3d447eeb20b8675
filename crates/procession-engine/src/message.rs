//! What travels: bytes, large buffers, and the objects that the bytes mention.

use std::fmt;
use std::sync::atomic::AtomicU64;

use procession_shm::{
    AllocError, Contents, Entry, Gone, Handle, Kind, ParcelView, RawCell, Shared,
};

use crate::MakeError;
use crate::family::{Held, Reference, family};

/// A message to be sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'a> {
    /// For the receiver to tell what it is; 31 bits travel.
    pub tag: u32,
    /// The message.
    pub bytes: &'a [u8],
    /// Large buffers; each is copied once, into a block of its own.
    pub buffers: &'a [&'a [u8]],
    /// Objects that the bytes mention; they stay alive until the message is received or dropped.
    pub handles: &'a [Handle],
}

impl<'a> Outgoing<'a> {
    /// Plain bytes.
    pub fn bytes(bytes: &'a [u8]) -> Outgoing<'a> {
        Outgoing {
            bytes,
            ..Outgoing::default()
        }
    }

    pub(crate) fn contents(&self) -> Contents<'a> {
        Contents {
            tag: self.tag,
            bytes: self.bytes,
            buffers: self.buffers,
            mentions: self.handles,
        }
    }
}

/// A message received. While it lives, so do the objects that it mentions: rebuild them, then drop it.
#[derive(Debug)]
pub struct Message {
    /// What the sender gave.
    pub tag: u32,
    /// The message.
    pub bytes: Vec<u8>,
    /// Its large buffers.
    pub buffers: Vec<Block>,
    /// Keeps what is mentioned alive.
    _parcel: Option<Reference>,
}

impl Message {
    /// One that is bytes alone.
    pub fn plain(bytes: Vec<u8>) -> Message {
        Message {
            tag: 0,
            bytes,
            buffers: Vec::new(),
            _parcel: None,
        }
    }

    /// Its bytes alone; the rest is dropped.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn from_entry(entry: Entry) -> Result<Message, Gone> {
        match entry {
            Entry::Inline { tag, bytes } => Ok(Message {
                tag,
                bytes,
                buffers: Vec::new(),
                _parcel: None,
            }),
            Entry::Parcel { handle, view } => Message::from_view(Reference::taken(handle), view),
        }
    }

    fn from_view(parcel: Reference, view: ParcelView) -> Result<Message, Gone> {
        let buffers = view
            .blocks
            .into_iter()
            .map(Block::from_handle)
            .collect::<Result<_, _>>()?;
        Ok(Message {
            tag: view.tag,
            bytes: view.bytes,
            buffers,
            _parcel: Some(parcel),
        })
    }
}

/// Bytes in the arena that this process holds. When the last value that stands for them is dropped,
/// in all processes, they are recycled.
#[derive(Clone)]
pub struct Block {
    reference: Reference,
    address: usize,
    length: usize,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("handle", &self.handle())
            .field("len", &self.length)
            .finish()
    }
}

impl Block {
    /// A new block of zeros.
    ///
    /// # Errors
    /// When there is no memory; the message names the size.
    pub fn zeroed(length: usize) -> Result<Block, MakeError> {
        let family = family().map_err(MakeError::Family)?;
        let handle = family
            .arena()
            .allocate(family.me(), length, Kind::Block)
            .map_err(MakeError::Memory)?;
        let reference = Reference::taken(handle);
        let address = family.arena().address(handle).map_err(MakeError::Gone)? as usize;
        Ok(Block {
            reference,
            address,
            length,
        })
    }

    /// The block that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Block, Gone> {
        let gone = Gone {
            expected: Some(Kind::Block),
        };
        let family = family().map_err(|_| gone)?;
        let reference = Reference::acquire(handle).map_err(|_| gone)?;
        let address = family.arena().address(handle)? as usize;
        let length = family.arena().length(handle)?;
        Ok(Block {
            reference,
            address,
            length,
        })
    }

    /// It came with a message, and is a copy that nobody else uses: if this process forks, parent and
    /// child will each have one, as of all other memory. Holds for blocks of a page or more.
    pub fn is_a_copy(&self) {
        if let Ok(family) = family() {
            family.arena().is_a_copy(family.me(), self.handle());
        }
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.reference.handle()
    }

    /// The first byte, in this process. Mapped as long as the process lives; other members may write
    /// to it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.address as *mut u8
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// When that is beyond its end.
    pub fn read(&self, at: usize, into: &mut [u8]) -> Result<(), Gone> {
        let family = family().map_err(|_| Gone {
            expected: Some(Kind::Block),
        })?;
        family
            .arena()
            .copy_out(self.handle(), Kind::Block, at, into)
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// When that is beyond its end.
    pub fn write(&self, at: usize, from: &[u8]) -> Result<(), Gone> {
        let family = family().map_err(|_| Gone {
            expected: Some(Kind::Block),
        })?;
        family.arena().copy_in(self.handle(), Kind::Block, at, from)
    }

    /// The shared structure that lies at the start of the block, if it is large enough.
    pub fn first<T: Shared>(&self) -> Option<&'static T> {
        let arena = family().ok()?.arena();
        arena
            .objects::<T>(self.handle(), Kind::Block, 0, 1)
            .ok()?
            .first()
    }

    /// The word that lies `at` bytes into the block, if eight do and they are aligned.
    pub fn word(&self, at: usize) -> Option<&'static AtomicU64> {
        let arena = family().ok()?.arena();
        arena
            .objects::<AtomicU64>(self.handle(), Kind::Block, at, 1)
            .ok()?
            .first()
    }

    /// A copy of all its bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        // Within its end, and held: it is there.
        let _ = self.read(0, &mut bytes);
        bytes
    }
}

/// A message stored in the arena under a name: what a child gets to start with, or what a pipe
/// carries instead of a large message.
#[derive(Debug, Clone)]
pub struct Parcel {
    reference: Reference,
}

impl Parcel {
    /// Stores a message.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn store(message: &Outgoing<'_>) -> Result<Parcel, MakeError> {
        let family = family().map_err(MakeError::Family)?;
        let handle = family
            .arena()
            .write_parcel(family.me(), &message.contents())
            .map_err(MakeError::Memory)?;
        Ok(Parcel {
            reference: Reference::taken(handle),
        })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.reference.handle()
    }

    /// From here on it is the receiver's to [`take`](Self::take). If nobody ever does, it stays until
    /// the family ends.
    pub fn keep_in_transit(self) {
        if let Ok(family) = family() {
            family.arena().set_out(self.handle());
        }
    }

    /// Reads the message that somebody named and still holds. May be done several times.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(handle: Handle) -> Result<Message, Gone> {
        let gone = Gone {
            expected: Some(Kind::Parcel),
        };
        let family = family().map_err(|_| gone)?;
        let reference = Reference::acquire(handle).map_err(|_| gone)?;
        let view = family.arena().read_parcel(handle)?;
        Message::from_view(reference, view)
    }

    /// Receives a message that was left in transit. To be done once.
    ///
    /// # Errors
    /// When it is gone.
    pub fn take(handle: Handle) -> Result<Message, Gone> {
        let gone = Gone {
            expected: Some(Kind::Parcel),
        };
        let family = family().map_err(|_| gone)?;
        if family.arena().kind(handle) != Ok(Kind::Parcel) {
            return Err(gone);
        }
        let message = Parcel::open(handle);
        family.arena().arrive(family.me(), handle);
        message
    }
}

/// A place for one message, which can be replaced as a whole. A member killed in the middle of that
/// leaves the old one or the new one.
///
/// Calls are kept apart by a lock of the caller's.
#[derive(Debug, Clone)]
pub struct Cell {
    held: Held<RawCell>,
}

impl Cell {
    /// A new, empty one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Cell, MakeError> {
        Held::new(Kind::Cell, 0).map(|held| Cell { held })
    }

    /// The cell that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Cell, Gone> {
        Held::from_handle(handle, Kind::Cell).map(|held| Cell { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    /// Puts a message in the place of what is there.
    ///
    /// # Errors
    /// When there is no memory; the cell is unchanged then.
    pub fn replace(&self, message: &Outgoing<'_>) -> Result<(), AllocError> {
        let family = self.held.family;
        self.held.get().replace(
            family.arena(),
            family.me(),
            self.handle(),
            &message.contents(),
        )
    }

    /// A copy of the message that is there.
    ///
    /// # Errors
    /// When its memory was overwritten.
    pub fn read(&self) -> Result<Option<Message>, Gone> {
        let family = self.held.family;
        let Some(parcel) = self.held.get().current(family.arena(), family.me())? else {
            return Ok(None);
        };
        let reference = Reference::taken(parcel);
        let view = family.arena().read_parcel(parcel)?;
        Message::from_view(reference, view).map(Some)
    }
}
