//! Several short messages at once: one turn at the lock, one commit, one copy.
//!
//! [`Records`] has them as they lie in a ring, so that they go there and come from there in one piece.
//! Killed before the commit, the process has put, or taken, none of them; after it, all.

use crate::arena::Arena;
use crate::atomic::Ordering;
use crate::crash::crash_point;
use crate::handle::Handle;
use crate::member::MemberId;
use crate::patience::{Patience, WaitError};
use crate::ring::{
    GetError, INLINE, IS_PARCEL, PutError, RawQueue, Ring, UNIT, count_of, pack, record_units,
    units_of,
};

/// Messages of bytes alone, one after the other.
#[derive(Debug, Default)]
pub struct Records {
    /// As in a ring: a word of tag and length, the body, and zeros up to the next unit.
    bytes: Vec<u8>,
    count: u32,
}

impl Records {
    /// A body from this size on is too long to be one of several.
    pub const LONGEST: usize = 4 << 10;

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of them all.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets them. The memory stays.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Adds a message whose body is these parts, one after the other; false if it is too long.
    pub fn push(&mut self, tag: u32, parts: &[&[u8]]) -> bool {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length >= Records::LONGEST {
            return false;
        }
        let end = self.bytes.len() + record_units(length) as usize * UNIT;
        let word = u64::from(tag & !IS_PARCEL) << 32 | length as u64;
        self.bytes.extend_from_slice(&word.to_ne_bytes());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.resize(end, 0);
        self.count += 1;
        true
    }

    /// Each one's tag and body.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (word, behind) = rest.split_first_chunk::<UNIT>()?;
            let (tag, length) = parts_of(u64::from_ne_bytes(*word));
            let body = behind.get(..length)?;
            rest = behind
                .get((record_units(length) as usize - 1) * UNIT..)
                .unwrap_or_default();
            Some((tag, body))
        })
    }

    /// Has each body changed, in order.
    pub fn each_body(&mut self, mut change: impl FnMut(&mut [u8])) {
        let mut rest = self.bytes.as_mut_slice();
        while let Some((word, behind)) = rest.split_first_chunk_mut::<UNIT>() {
            let (_, length) = parts_of(u64::from_ne_bytes(*word));
            let end = (record_units(length) as usize - 1) * UNIT;
            if end > behind.len() {
                return;
            }
            let (body, behind) = behind.split_at_mut(end);
            change(&mut body[..length]);
            rest = behind;
        }
    }
}

/// Tag and length.
fn parts_of(word: u64) -> (u32, usize) {
    ((word >> 32) as u32, word as u32 as usize)
}

impl RawQueue {
    /// Puts all of these at the end, one behind the other, or none. Only for a queue without a limit.
    ///
    /// # Errors
    /// See [`PutError`]; `Full` if the queue has a limit.
    pub fn put_records(
        &self,
        arena: &Arena,
        me: MemberId,
        queue: Handle,
        records: &Records,
        patience: &mut Patience<'_>,
    ) -> Result<(), PutError> {
        if records.count == 0 {
            return Ok(());
        }
        if self.is_closed() {
            return Err(PutError::Closed);
        }
        if self.capacity() != 0 {
            return Err(PutError::Full);
        }
        {
            let held = self.hold(&self.put_lock, arena, me, patience);
            let _held = held.map_err(|error| match error {
                WaitError::TimedOut => PutError::Full,
                WaitError::Interrupted => PutError::Interrupted,
            })?;
            if self.is_closed() {
                return Err(PutError::Closed);
            }
            let tail = self.tail.load(Ordering::SeqCst);
            // Few and short: see `LONGEST` and the callers.
            let units = (records.bytes.len() / UNIT) as u32;
            let ring = self.room_for(arena, me, queue, units_of(tail), units)?;
            ring.write(arena, units_of(tail), 0, &records.bytes);
            crash_point!("put: written");
            // The commit. SYNC POINT with the load of `tail` in `get`.
            self.tail.store(
                pack(
                    count_of(tail).wrapping_add(records.count),
                    units_of(tail).wrapping_add(units),
                ),
                Ordering::SeqCst,
            );
            crash_point!("put: committed");
        }
        crash_point!("put: unlocked");
        self.getters.wake(records.count);
        Ok(())
    }

    /// Takes what short messages lie at the front, at most `most` and about `size` bytes of them, in the
    /// place of those in `into`. Doesn't wait for any. None were taken if there is none, or if the
    /// first is not of bytes alone and short: that one is for [`get`](Self::get).
    ///
    /// # Errors
    /// When its memory was overwritten, or its lock is not to be had.
    pub fn take_records(
        &self,
        arena: &Arena,
        me: MemberId,
        most: u32,
        size: usize,
        into: &mut Records,
    ) -> Result<(), GetError> {
        into.clear();
        if self.is_empty() {
            return Ok(());
        }
        {
            let held = self.hold(&self.get_lock, arena, me, &mut Patience::none());
            let _held = held.map_err(|_| GetError::Empty)?;
            let head = self.head.load(Ordering::SeqCst);
            let mut tail = self.seen_tail.load(Ordering::SeqCst);
            if count_of(head) == count_of(tail) {
                tail = self.tail.load(Ordering::SeqCst);
                self.seen_tail.store(tail, Ordering::SeqCst);
            }
            let there = count_of(tail).wrapping_sub(count_of(head)).min(most);
            if there == 0 {
                return Ok(());
            }
            let position = units_of(head);
            let ring = self.front(arena, me, position).ok_or(GetError::Gone)?;
            let last = end_of(arena, &ring, position, units_of(tail)).ok_or(GetError::Gone)?;
            let mut units = 0;
            while into.count < there && units < last && (units as usize) * UNIT < size {
                let mut word = [0; UNIT];
                ring.read(arena, position.wrapping_add(units), 0, &mut word);
                let (tag, length) = parts_of(u64::from_ne_bytes(word));
                if length > INLINE || record_units(length) > last - units {
                    into.clear();
                    return Err(GetError::Gone);
                }
                if tag & IS_PARCEL != 0 || length >= Records::LONGEST {
                    break;
                }
                units += record_units(length);
                into.count += 1;
            }
            if into.count == 0 {
                return Ok(());
            }
            into.bytes.resize(units as usize * UNIT, 0);
            ring.read(arena, position, 0, &mut into.bytes);
            crash_point!("get: read");
            crash_point!("get: told");
            // The commit. SYNC POINT with the load of `head` in `room_for` and `is_full`.
            self.head.store(
                pack(
                    count_of(head).wrapping_add(into.count),
                    position.wrapping_add(units),
                ),
                Ordering::SeqCst,
            );
            crash_point!("get: committed");
        }
        crash_point!("get: unlocked");
        self.putters.wake(into.count);
        Ok(())
    }
}

/// Units from `position` to the end of what lies in this ring. None if that can't be.
fn end_of(arena: &Arena, ring: &Ring<'_>, position: u32, tail: u32) -> Option<u32> {
    let next = ring.segment.next.load(Ordering::SeqCst);
    let all = tail.wrapping_sub(position);
    let here = if next == 0 {
        all
    } else {
        all.min(Ring::of(arena, next)?.base.wrapping_sub(position))
    };
    (here <= ring.units).then_some(here)
}
