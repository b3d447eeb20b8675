//! Taking a short message by who looks at it before it is taken: one copy, from the ring to where it is
//! wanted, and nothing is taken that can't be put there.

use crate::arena::Arena;
use crate::atomic::Ordering;
use crate::crash::crash_point;
use crate::member::MemberId;
use crate::ring::{
    INLINE, IS_PARCEL, RawQueue, Ring, UNIT, count_of, pack, record_units, units_of,
};

/// A short message at the front of a queue.
#[derive(Clone, Copy)]
pub struct Front<'a> {
    arena: &'a Arena,
    ring: &'a Ring<'a>,
    position: u32,
    number: u32,
    tag: u32,
    length: usize,
}

impl std::fmt::Debug for Front<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front")
            .field("tag", &self.tag)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Front<'_> {
    /// How many were put into the queue before it, modulo 2^32.
    #[inline]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its tag.
    #[inline]
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// How many bytes it has.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Copies its bytes, or the first of them, to where they are wanted.
    #[inline]
    pub fn read(&self, into: &mut [u8]) {
        let length = into.len().min(self.length);
        self.ring
            .read(self.arena, self.position, UNIT, &mut into[..length]);
    }
}

impl RawQueue {
    /// Takes the message at the front if it is one of bytes alone and short, and `judge` makes something
    /// of it. Waits for nothing. `judge` runs under the consumers' lock, before the taking is committed:
    /// it must not block. On `None` nothing was taken, for whatever reason.
    #[inline]
    pub fn take_if<T>(
        &self,
        arena: &Arena,
        me: MemberId,
        judge: impl FnOnce(Front<'_>) -> Option<T>,
    ) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let taken = {
            let _held = self.get_lock.try_hold(me)?;
            let head = self.head.load(Ordering::SeqCst);
            let mut tail = self.seen_tail.load(Ordering::SeqCst);
            if count_of(head) == count_of(tail) {
                tail = self.tail.load(Ordering::SeqCst);
                if count_of(head) == count_of(tail) {
                    return None;
                }
                self.seen_tail.store(tail, Ordering::SeqCst);
            }
            let position = units_of(head);
            let ring = self.front(arena, me, position)?;
            let mut word = [0; UNIT];
            ring.read(arena, position, 0, &mut word);
            let word = u64::from_ne_bytes(word);
            let (tag, length) = ((word >> 32) as u32, word as u32 as usize);
            let present = units_of(tail).wrapping_sub(position) as usize * UNIT;
            // What is out of the ordinary is for `get`.
            if tag & IS_PARCEL != 0 || length > INLINE || length + UNIT > present.min(ring.bytes) {
                return None;
            }
            let taken = judge(Front {
                arena,
                ring: &ring,
                position,
                number: count_of(head),
                tag,
                length,
            })?;
            crash_point!("get: read");
            crash_point!("get: told");
            // The commit. SYNC POINT with the load of `head` in `room_for` and `is_full`.
            self.head.store(
                pack(
                    count_of(head).wrapping_add(1),
                    position.wrapping_add(record_units(length)),
                ),
                Ordering::SeqCst,
            );
            crash_point!("get: committed");
            taken
        };
        crash_point!("get: unlocked");
        self.putters.wake(1);
        Some(taken)
    }
}
