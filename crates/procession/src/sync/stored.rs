//! A value under a lock, in serialised form.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde::de::DeserializeOwned;
use serde::{Deserializer, Serialize, Serializer};

use crate::engine::{Block, Cell, Gone, Handle, Kind};
use crate::error::{Error, Result};
use crate::sync::poison::Flag;
use crate::wire::{self, Packed};

/// What lies beside a lock. In the block:
///
/// | bytes | |
/// | --- | --- |
/// | 0..8 | where the value is, the commit word: `length << 8 \| place` |
/// | 8..16 | the [`Flag`] |
/// | 16.. | room for a short value, twice |
///
/// | place | meaning |
/// | --- | --- |
/// | 0, 1 | in the first, second room |
/// | 2 | in the cell: it is long, or refers to other objects. It stays there |
///
/// A value is written where the current one is not, and becomes the current one with the commit
/// word.
#[derive(Clone)]
pub(crate) struct State {
    block: Block,
    commit: &'static AtomicU64,
    pub(crate) flag: Flag,
    /// Bytes for a short value, once.
    room: usize,
    /// Absent for values without size.
    cell: Option<Cell>,
}

const ROOMS: usize = 16;
const IN_CELL: u64 = 2;

/// Bytes for a short value of this type.
const fn room<T>() -> usize {
    if size_of::<T>() == 0 {
        0
    } else if size_of::<T>() <= 24 {
        56
    } else {
        let room = size_of::<T>() * 2;
        (if room > 504 { 504 } else { room }).next_multiple_of(8)
    }
}

impl State {
    pub(crate) fn new<T>() -> Result<State> {
        let room = room::<T>();
        let block = Block::zeroed(ROOMS + 2 * room)?;
        let cell = if room == 0 { None } else { Some(Cell::new()?) };
        State::of(block, cell, room).ok_or_else(|| Error::garbled("a lock"))
    }

    /// The one that somebody named.
    fn open<T>(block: Handle, cell: Option<Handle>) -> Result<State, Gone> {
        let gone = Gone {
            expected: Some(Kind::Block),
        };
        let block = Block::from_handle(block)?;
        if block.len() < ROOMS + 2 * room::<T>() {
            return Err(gone);
        }
        State::of(block, cell.map(Cell::from_handle).transpose()?, room::<T>()).ok_or(gone)
    }

    fn of(block: Block, cell: Option<Cell>, room: usize) -> Option<State> {
        let commit = block.word(0)?;
        let flag = Flag(block.word(8)?);
        Some(State {
            block,
            commit,
            flag,
            room,
            cell,
        })
    }

    /// Its names, behind that of its lock.
    pub(crate) fn serialize_with<S: Serializer>(
        &self,
        lock: Handle,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let block = self.block.handle();
        match &self.cell {
            Some(cell) => wire::serialize_handles([lock, block, cell.handle()], serializer),
            None => wire::serialize_handles([lock, block], serializer),
        }
    }

    /// The way back: the lock, taken hold of by `open`, and what lies beside it.
    pub(crate) fn deserialize_with<'de, T, L, D: Deserializer<'de>>(
        deserializer: D,
        open: impl FnOnce(Handle) -> Result<L, Gone>,
    ) -> Result<(L, State), D::Error> {
        let open = |lock, block, cell| {
            let state = State::open::<T>(block, cell)?;
            Ok((open(lock)?, state))
        };
        if room::<T>() == 0 {
            wire::deserialize_handles(deserializer, |[lock, block]| open(lock, block, None))
        } else {
            wire::deserialize_handles(deserializer, |[lock, block, cell]| {
                open(lock, block, Some(cell))
            })
        }
    }

    #[inline]
    pub(crate) fn load<T: DeserializeOwned>(&self) -> Result<T> {
        match &self.cell {
            None => wire::decode_nothing(),
            Some(cell) => self.load_from(cell),
        }
    }

    fn load_from<T: DeserializeOwned>(&self, cell: &Cell) -> Result<T> {
        let word = self.commit.load(Ordering::Acquire);
        if word & 0xff == IN_CELL {
            return match cell.read().map_err(Error::gone)? {
                Some(message) => wire::decode_message(message),
                None => Err(Error::garbled("a lock")),
            };
        }
        let (place, length) = (
            room_of(word),
            usize::try_from(word >> 8).unwrap_or(usize::MAX),
        );
        let mut short = [0; 64];
        let mut long;
        let bytes = if length <= short.len() {
            &mut short[..length]
        } else if length <= self.room {
            long = vec![0; length];
            &mut long[..]
        } else {
            return Err(Error::garbled("a lock"));
        };
        self.block
            .read(ROOMS + place * self.room, bytes)
            .map_err(Error::gone)?;
        wire::decode(bytes, Vec::new())
    }

    /// Puts another value in the place of it. To be called by who has the lock to itself.
    pub(crate) fn store<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        wire::encode_and(value, 0, |packed| self.store_packed(packed))?
    }

    fn store_packed(&self, packed: &Packed) -> Result<()> {
        let Some(cell) = &self.cell else {
            return if packed.bytes.is_empty() {
                Ok(())
            } else {
                Err(Error::garbled("a value without size"))
            };
        };
        let word = self.commit.load(Ordering::Relaxed);
        let long = packed.bytes.len() > self.room
            || !packed.handles.is_empty()
            || !packed.buffers.is_empty();
        if long || word & 0xff == IN_CELL {
            packed.send(0, |message| cell.replace(message))?;
            if word & 0xff != IN_CELL {
                self.commit.store(IN_CELL, Ordering::Release);
            }
            return Ok(());
        }
        let place = 1 - room_of(word);
        self.block
            .write(ROOMS + place * self.room, &packed.bytes)
            .map_err(Error::gone)?;
        // SYNC POINT: the bytes are there before the commit word says so, should this process be
        // killed here.
        fence(Ordering::Release);
        self.commit.store(
            (packed.bytes.len() as u64) << 8 | place as u64,
            Ordering::Release,
        );
        Ok(())
    }
}

fn room_of(word: u64) -> usize {
    usize::from(word & 0xff == 1)
}
