//! A queue of messages: a ring of bytes in a segment, with one lock for each side.
//!
//! `tail` and `head` are the commit words: `messages << 32 | units`, where a unit is 8 bytes. A put
//! writes the record and then stores `tail`; a get reads it and then stores `head`. A process killed
//! before that leaves the message as if it had never been touched; killed after it, as done.
//!
//! Segments are chained. A producer that finds no room makes a larger segment, starting at the
//! present tail, and links it by one store to `next`; everything else follows from that store:
//! - `tail_segment` lags when the producer died behind it: the next one moves it on;
//! - a consumer moves on when its position is the start of the next segment.
//!
//! A segment claims to be in the queue at place [`SEGMENT`], a parcel at its message's number; the
//! claims are confirmed by the chain and by `head` and `tail` (see `arena`).
//!
//! SYNC POINTS: store of `tail` (put) with the load of `tail` (get): the record is visible. Store of
//! `head` (get) with its load (put): the room is free. Stores and loads of the words next to the
//! sleeper counts are SeqCst, so that one side sees the sleeper or the other sees the change.

mod front;
mod records;

use std::fmt;

pub use self::front::Front;
pub use self::records::Records;
use crate::arena::{AllocError, Arena, Descent, Shared};
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::crash::crash_point;
use crate::handle::{Handle, Kind};
use crate::lock::{Hold, RawLock};
use crate::member::MemberId;
use crate::parcel::{Contents, ParcelView};
use crate::patience::{LOOK_AGAIN, Patience, WaitError};
use crate::readiness::Readiness;
use crate::sleepers::Sleepers;

/// Place of a segment in the claim's count: no message has it as long as it waits, for there are
/// never 2^32 messages in a queue.
const SEGMENT: u32 = u32::MAX;
const UNIT: usize = 8;
/// Units of the first segment: small, because most queues stay small.
const FIRST_UNITS: u32 = 256;
/// Bytes of the largest segment made for growth.
const LARGEST: usize = 1 << 20;
/// Units of all records at most, so that positions can be compared: 16 GiB.
const LONGEST: u32 = 1 << 31;
/// A message from this size on becomes a parcel of its own.
const INLINE: usize = 64 << 10;
/// In a record's tag word: the body is the handle of a parcel.
const IS_PARCEL: u32 = 1 << 31;
/// Bytes that a hook gets to see.
const PEEK: usize = 64;

/// Why a message was not put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutError {
    /// The queue is full, and was so for as long as the caller would wait.
    Full,
    /// The queue is closed.
    Closed,
    /// The interrupt hook asked to give up.
    Interrupted,
    /// There is no memory for it.
    Memory(AllocError),
    /// The queue is gone or its memory is garbled.
    Gone,
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Full => f.write_str("the queue is full"),
            PutError::Closed => f.write_str("the queue is closed"),
            PutError::Interrupted => {
                f.write_str("the wait for room in the queue was interrupted by a signal")
            }
            PutError::Memory(error) => write!(f, "the message was not put: {error}"),
            PutError::Gone => {
                f.write_str("the queue no longer exists, or its memory was overwritten")
            }
        }
    }
}

impl std::error::Error for PutError {}

/// Why no message was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GetError {
    /// The queue is empty, and was so for as long as the caller would wait.
    Empty,
    /// The queue is closed and empty.
    Closed,
    /// The interrupt hook asked to give up.
    Interrupted,
    /// The queue is gone or its memory is garbled.
    Gone,
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GetError::Empty => "the queue is empty",
            GetError::Closed => "the queue is closed and empty",
            GetError::Interrupted => "the wait for a message was interrupted by a signal",
            GetError::Gone => "the queue no longer exists, or its memory was overwritten",
        })
    }
}

impl std::error::Error for GetError {}

/// More tasks were reported done than messages were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyDone;

impl fmt::Display for TooManyDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task_done() was called more often than messages were put into the queue")
    }
}

impl std::error::Error for TooManyDone {}

/// A message taken from a queue.
#[derive(Debug)]
pub enum Entry {
    /// A short one, copied out.
    Inline {
        /// As the sender gave it.
        tag: u32,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A parcel, for which the taker now holds a reference, and what is in it.
    Parcel {
        /// Its name.
        handle: Handle,
        /// What is in it.
        view: ParcelView,
    },
}

/// A queue in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawQueue {
    put_lock: RawLock,
    capacity: AtomicU32,
    tail_segment: AtomicU64,
    /// What `head` was when a producer last looked, under `put_lock`: `head` has not been before it
    /// since. While that leaves room enough, producers don't touch the consumers' cache line.
    seen_head: AtomicU64,
    _apart: [AtomicU64; 4],
    tail: AtomicU64,
    /// For a message, or the close.
    getters: Sleepers,
    closed: AtomicU32,
    /// Watchers that show no message, see [`RawQueue::is_overlooked`].
    blind: AtomicU32,
    _apart_too: [AtomicU64; 5],
    get_lock: RawLock,
    /// Messages reported done; `tail`'s count less this is unfinished.
    done: AtomicU32,
    head: AtomicU64,
    head_segment: AtomicU64,
    /// What `tail` was when a consumer last looked, under `get_lock`. `head` is never past it; while it
    /// is not there yet, consumers don't touch the producers' cache line.
    seen_tail: AtomicU64,
    /// For room, or the close.
    putters: Sleepers,
    /// For the last message to be done.
    joiners: Sleepers,
}

// SAFETY: repr(C), atomics only, no Drop, zeros valid (an unprepared queue).
unsafe impl Shared for RawQueue {}

/// What producers have for themselves, what they write for consumers, and what consumers write lies in three
/// cache lines (loom's atomics are larger): a consumer that awaits the next message reads the second all the
/// time, and would else take the lock's line away from the producer twice for each message.
#[cfg(not(loom))]
const _: () = assert!(
    std::mem::offset_of!(RawQueue, tail) == 64
        && std::mem::offset_of!(RawQueue, get_lock) == 128
        && size_of::<RawQueue>() <= 192,
    "the two sides of a queue share a cache line"
);

#[repr(C)]
#[derive(Debug)]
struct Segment {
    /// Unit position of its first byte, or of what was written there later: see [`Ring::keep_up`].
    base: AtomicU32,
    /// Units of its ring: a power of two, so that positions may wrap round.
    units: AtomicU32,
    /// The segment that follows, as a handle's word; 0 if none.
    next: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop, zeros valid.
unsafe impl Shared for Segment {}

const SEGMENT_HEADER: usize = size_of::<Segment>();

fn pack(count: u32, units: u32) -> u64 {
    u64::from(count) << 32 | u64::from(units)
}

fn count_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn units_of(word: u64) -> u32 {
    word as u32
}

/// A segment that is mapped and whose ring was checked to lie in its object.
struct Ring<'a> {
    segment: &'a Segment,
    /// Place of the first byte of the ring in the arena.
    start: usize,
    /// Powers of two.
    bytes: usize,
    units: u32,
    base: u32,
}

impl<'a> Ring<'a> {
    fn of(arena: &'a Arena, word: u64) -> Option<Ring<'a>> {
        let handle = arena.handle_from_word(word)?;
        let (offset, length) = arena.place(handle, Kind::Segment).ok()?;
        if length < SEGMENT_HEADER {
            return None;
        }
        let segment: &Segment = arena.at(offset);
        let units = segment.units.load(Ordering::Relaxed);
        let bytes = units as usize * UNIT;
        if !units.is_power_of_two() || SEGMENT_HEADER + bytes > length {
            return None;
        }
        let base = segment.base.load(Ordering::Relaxed);
        Some(Ring {
            segment,
            start: offset + SEGMENT_HEADER,
            bytes,
            base,
            units,
        })
    }

    /// Whether `units` more fit behind `position` while consumers are at `head`, or past it.
    fn has_room(&self, position: u32, head: u32, units: u32) -> bool {
        // A consumer still in an earlier segment has taken nothing of this one.
        let behind = position.wrapping_sub(self.base) < position.wrapping_sub(head);
        let used = position.wrapping_sub(if behind { self.base } else { head });
        position.wrapping_sub(head) <= LONGEST
            && used.checked_add(units).is_some_and(|sum| sum <= self.units)
    }

    /// Positions go round after 2^32 units. Where a ring begins that is in use for so long goes with them:
    /// else what is in it would seem to lie before it. By a multiple of its length, so that each position
    /// keeps its place. Under `put_lock`, and only once consumers have come to it, who are never further
    /// behind than [`LONGEST`].
    fn keep_up(&mut self, position: u32) {
        const STEP: u32 = LONGEST / 2;
        if position.wrapping_sub(self.base) > LONGEST + STEP && self.units <= STEP {
            self.base = self.base.wrapping_add(STEP);
            self.segment.base.store(self.base, Ordering::Relaxed);
        }
    }

    /// Where a byte is, so many behind a position. The lengths are powers of two, and a division would take longer
    /// than all the rest of a short message.
    fn place(&self, position: u32, skip: usize) -> usize {
        let unit = position.wrapping_sub(self.base) & (self.units - 1);
        (unit as usize * UNIT + skip) & (self.bytes - 1)
    }

    fn write(&self, arena: &Arena, position: u32, skip: usize, from: &[u8]) {
        let at = self.place(position, skip);
        let first = from.len().min(self.bytes - at);
        arena.write(self.start + at, &from[..first]);
        if first < from.len() {
            arena.write(self.start, &from[first..]);
        }
    }

    fn read(&self, arena: &Arena, position: u32, skip: usize, into: &mut [u8]) {
        let at = self.place(position, skip);
        let first = into.len().min(self.bytes - at);
        let (head, rest) = into.split_at_mut(first);
        arena.read(self.start + at, head);
        if !rest.is_empty() {
            arena.read(self.start, rest);
        }
    }

    fn read_to_vec(&self, arena: &Arena, position: u32, skip: usize, length: usize) -> Vec<u8> {
        let at = self.place(position, skip);
        let first = length.min(self.bytes - at);
        let mut bytes = Vec::with_capacity(length);
        arena.append(self.start + at, first, &mut bytes);
        if length > first {
            arena.append(self.start, length - first, &mut bytes);
        }
        bytes
    }
}

fn record_units(length: usize) -> u32 {
    // Inline records are at most INLINE bytes.
    1 + length.div_ceil(UNIT) as u32
}

impl RawQueue {
    /// Readies a new queue, before anyone else knows it. 0 is no limit.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn prepare(
        &self,
        arena: &Arena,
        me: MemberId,
        queue: Handle,
        capacity: u32,
    ) -> Result<(), AllocError> {
        self.capacity.store(capacity, Ordering::Relaxed);
        let first = new_segment(arena, me, queue, 0, FIRST_UNITS)?;
        self.head_segment.store(first.to_word(), Ordering::SeqCst);
        self.tail_segment.store(first.to_word(), Ordering::SeqCst);
        arena.release(me, first);
        Ok(())
    }

    /// `head` and `tail` as they were at one instant during the call.
    fn ends(&self) -> (u64, u64) {
        let mut tail = self.tail.load(Ordering::SeqCst);
        loop {
            let head = self.head.load(Ordering::SeqCst);
            let again = self.tail.load(Ordering::SeqCst);
            if again == tail {
                return (head, tail);
            }
            tail = again;
        }
    }

    /// Messages in the queue now: exact at some instant during the call.
    pub fn len(&self) -> u32 {
        let (head, tail) = self.ends();
        count_of(tail).wrapping_sub(count_of(head))
    }

    /// Whether it is empty, at some instant during the call.
    pub fn is_empty(&self) -> bool {
        // `head` first: if what a consumer has seen lies beyond it, then something was in between.
        let head = self.head.load(Ordering::SeqCst);
        count_of(head) == count_of(self.seen_tail.load(Ordering::SeqCst)) && self.len() == 0
    }

    /// Most messages it may hold; 0 is no limit.
    pub fn capacity(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Messages ever taken, modulo 2^32.
    pub fn taken(&self) -> u32 {
        count_of(self.head.load(Ordering::SeqCst))
    }

    /// Messages put and not yet reported done, modulo 2^32.
    pub fn unfinished(&self) -> u32 {
        // What is done first: it never passes a tail read later.
        let done = self.done.load(Ordering::SeqCst);
        count_of(self.tail.load(Ordering::SeqCst)).wrapping_sub(done)
    }

    /// No more messages: puts fail, gets fail once it is empty.
    pub fn close(&self) {
        self.closed.store(1, Ordering::SeqCst);
        self.getters.wake(u32::MAX);
        self.putters.wake(u32::MAX);
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) != 0
    }

    pub(crate) fn is_full(&self) -> bool {
        let capacity = self.capacity.load(Ordering::Relaxed);
        if capacity == 0 {
            return false;
        }
        // What was there then is at least what is there now.
        let seen = count_of(self.seen_head.load(Ordering::SeqCst));
        let most = count_of(self.tail.load(Ordering::SeqCst)).wrapping_sub(seen);
        most >= capacity && self.len() >= capacity
    }

    /// Puts a message at the end. It can be got as soon as this returns. Waits for room in a bounded
    /// queue as long as `patience` lasts.
    ///
    /// # Errors
    /// See [`PutError`]; the message is not in the queue then.
    pub fn put(
        &self,
        arena: &Arena,
        me: MemberId,
        queue: Handle,
        contents: &Contents<'_>,
        patience: &mut Patience<'_>,
    ) -> Result<(), PutError> {
        if self.is_closed() {
            return Err(PutError::Closed);
        }
        if patience.is_none() && self.is_full() {
            return Err(PutError::Full);
        }
        let plain = contents.buffers.is_empty()
            && contents.mentions.is_empty()
            && contents.bytes.len() < INLINE;
        let parcel = if plain {
            None
        } else {
            Some(arena.write_parcel(me, contents).map_err(PutError::Memory)?)
        };
        crash_point!("parcel: written");
        let done = self.put_record(arena, me, queue, contents, parcel, patience);
        if let Some(parcel) = parcel {
            // Once committed the queue holds it; else this frees it.
            arena.release(me, parcel);
        }
        crash_point!("put: unlocked");
        if done.is_ok() {
            self.getters.wake(1);
        } else if !self.is_full() {
            // Woken and out of time, perhaps: another can have the room.
            self.putters.wake(1);
        }
        done
    }

    fn put_record(
        &self,
        arena: &Arena,
        me: MemberId,
        queue: Handle,
        contents: &Contents<'_>,
        parcel: Option<Handle>,
        patience: &mut Patience<'_>,
    ) -> Result<(), PutError> {
        let to_error = |error| match error {
            WaitError::TimedOut => PutError::Full,
            WaitError::Interrupted => PutError::Interrupted,
        };
        let name = parcel.map(Handle::to_bytes);
        let body: &[u8] = name.as_ref().map_or(contents.bytes, |name| name.as_slice());
        let tag = contents.tag & !IS_PARCEL | if parcel.is_some() { IS_PARCEL } else { 0 };
        let held = loop {
            let held = self.hold(&self.put_lock, arena, me, patience);
            let held = held.map_err(to_error)?;
            if self.is_closed() {
                return Err(PutError::Closed);
            }
            if !self.is_full() {
                break held;
            }
            drop(held);
            self.await_room(patience).map_err(to_error)?;
        };
        let tail = self.tail.load(Ordering::SeqCst);
        let units = record_units(body.len());
        let ring = self.room_for(arena, me, queue, units_of(tail), units)?;
        if let Some(parcel) = parcel {
            arena.claim(parcel, queue, count_of(tail));
        }
        crash_point!("put: claimed");
        // Bodies are shorter than INLINE: the length fits.
        let head = (u64::from(tag) << 32 | body.len() as u64).to_ne_bytes();
        ring.write(arena, units_of(tail), 0, &head);
        crash_point!("put: head written");
        ring.write(arena, units_of(tail), UNIT, body);
        crash_point!("put: written");
        // The commit. SYNC POINT with the load of `tail` in `get`.
        self.tail.store(
            pack(
                count_of(tail).wrapping_add(1),
                units_of(tail).wrapping_add(units),
            ),
            Ordering::SeqCst,
        );
        crash_point!("put: committed");
        drop(held);
        Ok(())
    }

    /// The ring at the tail, with room for `units`; makes a new segment if need be. Under `put_lock`.
    fn room_for<'a>(
        &self,
        arena: &'a Arena,
        me: MemberId,
        queue: Handle,
        position: u32,
        units: u32,
    ) -> Result<Ring<'a>, PutError> {
        loop {
            let word = self.tail_segment.load(Ordering::SeqCst);
            let ring = Ring::of(arena, word);
            let next = ring
                .as_ref()
                .map_or(0, |ring| ring.segment.next.load(Ordering::SeqCst));
            // If a producer died after linking the next segment, a consumer may move on from this
            // one and free it at any time; it moves `tail_segment` on before that.
            if self.tail_segment.load(Ordering::SeqCst) != word {
                continue;
            }
            let mut ring = ring.ok_or(PutError::Gone)?;
            if next != 0 {
                // A producer died after linking it.
                let _ = self.tail_segment.compare_exchange(
                    word,
                    next,
                    Ordering::SeqCst,
                    Ordering::SeqCst,
                );
                continue;
            }
            ring.keep_up(position);
            let seen = units_of(self.seen_head.load(Ordering::Relaxed));
            if ring.has_room(position, seen, units) {
                return Ok(ring);
            }
            let head = self.head.load(Ordering::SeqCst);
            self.seen_head.store(head, Ordering::SeqCst);
            let head = units_of(head);
            if position.wrapping_sub(head) > LONGEST {
                return Err(PutError::Memory(AllocError::Range {
                    asked: units as usize * UNIT,
                    reserve: LONGEST as usize * UNIT,
                }));
            }
            if ring.has_room(position, head, units) {
                return Ok(ring);
            }
            let wanted = (ring.units as usize * 2 * UNIT)
                .min(LARGEST)
                .max(units as usize * UNIT * 4);
            // At most a few MiB: fits.
            let larger = (wanted.next_power_of_two() / UNIT) as u32;
            let new = new_segment(arena, me, queue, position, larger).map_err(PutError::Memory)?;
            crash_point!("put: segment made");
            // The commit of the new segment.
            ring.segment.next.store(new.to_word(), Ordering::SeqCst);
            crash_point!("put: segment linked");
            let _ = self.tail_segment.compare_exchange(
                word,
                new.to_word(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            crash_point!("put: segment moved on");
            arena.release(me, new);
        }
    }

    fn await_room(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let room = || !self.is_full() || self.is_closed();
        if patience.is_none() {
            return Err(WaitError::TimedOut);
        }
        if room() || patience.spin(|| room().then_some(())).is_some() {
            return Ok(());
        }
        self.putters.sleep_until(patience, room)
    }

    /// Takes the message at the front, waiting for one as long as `patience` lasts.
    ///
    /// `taken` runs under the consumers' lock, before the taking is committed: it gets the message's
    /// number, its tag, and up to 64 of its bytes. It must not block.
    ///
    /// # Errors
    /// See [`GetError`].
    pub fn get(
        &self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
        taken: &mut dyn FnMut(u32, u32, &[u8]),
    ) -> Result<Entry, GetError> {
        let got = self.await_and_get(arena, me, patience, taken);
        crash_point!("get: unlocked");
        if got.is_ok() {
            self.putters.wake(1);
        } else if !self.is_empty() {
            // Woken and out of time, perhaps: another can have the message.
            self.getters.wake(1);
        }
        got
    }

    fn await_and_get(
        &self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
        taken: &mut dyn FnMut(u32, u32, &[u8]),
    ) -> Result<Entry, GetError> {
        let to_error = |error| match error {
            WaitError::TimedOut => GetError::Empty,
            WaitError::Interrupted => GetError::Interrupted,
        };
        loop {
            if !self.is_empty()
                && let Some(entry) = self.try_get(arena, me, patience, taken)?
            {
                return Ok(entry);
            }
            if self.is_closed() {
                // A producer that found it open may still be at it: the next one can't.
                let _held = self
                    .hold(&self.put_lock, arena, me, patience)
                    .map_err(to_error)?;
                if self.is_empty() {
                    return Err(GetError::Closed);
                }
                continue;
            }
            self.await_message(patience).map_err(to_error)?;
        }
    }

    /// Holds one of the two locks. One that is held for a moment is waited for even by those who
    /// would not wait.
    fn hold<'a>(
        &self,
        lock: &'a RawLock,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Hold<'a>, WaitError> {
        if let Some(held) = lock.try_hold(me) {
            return Ok(held);
        }
        if patience.is_none() {
            lock.hold(arena, me, &mut Patience::timeout(LOOK_AGAIN))
        } else {
            lock.hold(arena, me, patience)
        }
    }

    fn try_get(
        &self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
        taken: &mut dyn FnMut(u32, u32, &[u8]),
    ) -> Result<Option<Entry>, GetError> {
        let held = self.hold(&self.get_lock, arena, me, patience);
        let _held = held.map_err(|error| match error {
            WaitError::TimedOut => GetError::Empty,
            WaitError::Interrupted => GetError::Interrupted,
        })?;
        let head = self.head.load(Ordering::SeqCst);
        let mut tail = self.seen_tail.load(Ordering::SeqCst);
        if count_of(head) == count_of(tail) {
            tail = self.tail.load(Ordering::SeqCst);
            if count_of(head) == count_of(tail) {
                return Ok(None);
            }
            self.seen_tail.store(tail, Ordering::SeqCst);
        }
        let ring = self
            .front(arena, me, units_of(head))
            .ok_or(GetError::Gone)?;
        let mut word = [0; UNIT];
        ring.read(arena, units_of(head), 0, &mut word);
        let word = u64::from_ne_bytes(word);
        let (tag, length) = ((word >> 32) as u32, word as u32 as usize);
        let present = units_of(tail).wrapping_sub(units_of(head)) as usize * UNIT;
        if length > INLINE || length > ring.bytes || length + UNIT > present {
            return Err(GetError::Gone);
        }
        let bytes = ring.read_to_vec(arena, units_of(head), UNIT, length);
        // What can't be received is taken all the same: else nobody would get past it.
        let entry = if tag & IS_PARCEL == 0 {
            Some(Entry::Inline { tag, bytes })
        } else {
            receive(arena, me, &bytes)
        };
        crash_point!("get: read");
        let (tag, peek) = match &entry {
            Some(Entry::Inline { tag, bytes }) => (*tag, bytes.as_slice()),
            Some(Entry::Parcel { view, .. }) => (view.tag, view.bytes.as_slice()),
            None => (0, [].as_slice()),
        };
        taken(count_of(head), tag, &peek[..peek.len().min(PEEK)]);
        let units = record_units(length);
        crash_point!("get: told");
        // The commit. SYNC POINT with the load of `head` in `room_for` and `is_full`.
        self.head.store(
            pack(
                count_of(head).wrapping_add(1),
                units_of(head).wrapping_add(units),
            ),
            Ordering::SeqCst,
        );
        crash_point!("get: committed");
        entry.map(Some).ok_or(GetError::Gone)
    }

    /// The ring that holds the record at `position`; moves on to it if need be. Under `get_lock`.
    fn front<'a>(&self, arena: &'a Arena, me: MemberId, position: u32) -> Option<Ring<'a>> {
        loop {
            let word = self.head_segment.load(Ordering::SeqCst);
            let ring = Ring::of(arena, word)?;
            let next = ring.segment.next.load(Ordering::SeqCst);
            if next == 0 {
                return Some(ring);
            }
            if Ring::of(arena, next)?.base != position {
                return Some(ring);
            }
            let _ =
                self.tail_segment
                    .compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst);
            crash_point!("get: tail moved on");
            self.head_segment.store(next, Ordering::SeqCst);
            crash_point!("get: head moved on");
            if let Some(old) = arena.handle_from_word(word) {
                arena.reconsider(me, old);
            }
        }
    }

    fn await_message(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let there = || !self.is_empty() || self.is_closed();
        if patience.is_none() {
            return Err(WaitError::TimedOut);
        }
        if there() || patience.spin(|| there().then_some(())).is_some() {
            return Ok(());
        }
        self.getters.sleep_until(patience, there)
    }

    /// Waits until a message can be got, without taking it. Closed counts as there.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn wait_readable(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        if !self.is_empty() || self.is_closed() {
            return Ok(());
        }
        let result = self.await_message(patience);
        if !self.is_empty() {
            // The wake-up was perhaps meant for one who takes.
            self.getters.wake(1);
        }
        result
    }

    /// Waits until a message can be got, without taking it, or there is something `elsewhere`. Closed counts
    /// as there. Who puts something elsewhere calls [`wake_getters`](Self::wake_getters) afterwards.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn wait_readable_or(
        &self,
        patience: &mut Patience<'_>,
        elsewhere: impl Fn() -> bool,
    ) -> Result<(), WaitError> {
        let there = || !self.is_empty() || elsewhere() || self.is_closed();
        if there() {
            return Ok(());
        }
        if patience.is_none() {
            return Err(WaitError::TimedOut);
        }
        if patience.spin(|| there().then_some(())).is_some() {
            return Ok(());
        }
        let result = self.getters.sleep_until(patience, there);
        if result.is_err() && (!self.is_empty() || elsewhere()) {
            // Woken and out of time, perhaps: another can have it.
            self.getters.wake(1);
        }
        result
    }

    /// Wakes so many of those who sleep until there is a message: there is something for them elsewhere,
    /// by a sequentially consistent change.
    pub fn wake_getters(&self, count: u32) {
        self.getters.wake(count);
    }

    /// Has all who sleep until there is a message look for themselves. To be called when one of them has
    /// died, or may be stopped: the wake-up for a message may have gone there.
    pub fn rouse(&self) {
        if !self.is_empty() {
            self.getters.wake(u32::MAX);
        }
    }

    /// A watcher, which shows outside of this memory whether there is a message, is about to show that
    /// there is none. It has to look once more first: who has put one before this doesn't wait for it.
    pub fn begin_blind(&self) {
        self.blind.fetch_add(1, Ordering::SeqCst);
    }

    /// The watcher shows a message now, or is no more.
    pub fn end_blind(&self) {
        self.blind.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether there is a message that some watcher does not show yet. Whoever has put it and would
    /// end had better wait a moment: else the end is seen before the message.
    pub fn is_overlooked(&self) -> bool {
        self.blind.load(Ordering::SeqCst) > 0 && !self.is_empty()
    }

    /// One who waits for a message, or the close, and for other things too; see [`Readiness`].
    pub fn watch_messages(&self) {
        self.getters.watch();
    }

    /// The end of [`watch_messages`](Self::watch_messages).
    pub fn unwatch_messages(&self) {
        self.getters.unwatch(|| !self.is_empty());
    }

    /// Whether there is a message, or it is closed.
    pub fn look_for_message(&self) -> Readiness<'_> {
        self.getters.look(|| !self.is_empty() || self.is_closed())
    }

    /// One who waits for room, or the close, and for other things too; see [`Readiness`].
    pub fn watch_room(&self) {
        self.putters.watch();
    }

    /// The end of [`watch_room`](Self::watch_room).
    pub fn unwatch_room(&self) {
        self.putters.unwatch(|| !self.is_full());
    }

    /// Whether there is room, or it is closed.
    pub fn look_for_room(&self) -> Readiness<'_> {
        self.putters.look(|| !self.is_full() || self.is_closed())
    }

    /// One who waits for all messages to be done, and for other things too; see [`Readiness`].
    pub fn watch_done(&self) {
        self.joiners.watch();
    }

    /// The end of [`watch_done`](Self::watch_done).
    pub fn unwatch_done(&self) {
        self.joiners.unwatch(|| false);
    }

    /// Whether all messages are done.
    pub fn look_for_done(&self) -> Readiness<'_> {
        self.joiners.look(|| self.unfinished() == 0)
    }

    /// Reports one message done.
    ///
    /// # Errors
    /// When all that were put have been reported.
    pub fn task_done(&self) -> Result<(), TooManyDone> {
        let put = || count_of(self.tail.load(Ordering::SeqCst));
        let more = |done: u32| (done != put()).then(|| done.wrapping_add(1));
        let before = self
            .done
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map_err(|_| TooManyDone)?;
        if before.wrapping_add(1) == put() {
            self.joiners.wake(u32::MAX);
        }
        Ok(())
    }

    /// Waits until every message that was put has been reported done.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn join(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let all_done = || self.unfinished() == 0;
        if all_done() {
            return Ok(());
        }
        self.joiners.sleep_until(patience, all_done)
    }
}

/// Takes a reference to the parcel that a record names, and reads it.
fn receive(arena: &Arena, me: MemberId, name: &[u8]) -> Option<Entry> {
    let handle = Handle::from_bytes(name.try_into().ok()?);
    arena.acquire(me, handle).ok()?;
    match arena.read_parcel(handle) {
        Ok(view) => Some(Entry::Parcel { handle, view }),
        Err(_) => {
            arena.release(me, handle);
            None
        }
    }
}

fn new_segment(
    arena: &Arena,
    me: MemberId,
    queue: Handle,
    base: u32,
    units: u32,
) -> Result<Handle, AllocError> {
    let length = SEGMENT_HEADER + units as usize * UNIT;
    let handle = arena.allocate_zeroed_to(me, length, Kind::Segment, SEGMENT_HEADER)?;
    let segment: &Segment = arena
        .object(handle, Kind::Segment)
        .map_err(|_| AllocError::Memory { asked: length })?;
    segment.base.store(base, Ordering::Relaxed);
    segment.units.store(units, Ordering::Relaxed);
    arena.claim(handle, queue, SEGMENT);
    Ok(handle)
}

/// The segments of a queue, from the front.
fn chain<'a>(arena: &'a Arena, queue: &'a RawQueue) -> impl Iterator<Item = Handle> + 'a {
    let mut word = queue.head_segment.load(Ordering::SeqCst);
    // A chain that a stray write made circular ends somewhere all the same.
    std::iter::from_fn(move || {
        let handle = arena.handle_from_word(word)?;
        word = Ring::of(arena, word)?.segment.next.load(Ordering::SeqCst);
        Some(handle)
    })
    .take(1 << 20)
}

/// Whether `object` is what the queue holds at `place`.
pub(crate) fn confirms(arena: &Arena, queue: Handle, place: u32, object: Handle) -> bool {
    let Ok(raw) = arena.object::<RawQueue>(queue, Kind::Queue) else {
        return false;
    };
    if place == SEGMENT && arena.kind(object) == Ok(Kind::Segment) {
        // Segments go once `head_segment` has moved on from them: while it stays, the chain is whole.
        loop {
            let front = raw.head_segment.load(Ordering::SeqCst);
            let found = chain(arena, raw).any(|segment| segment == object);
            if raw.head_segment.load(Ordering::SeqCst) == front {
                return found;
            }
        }
    }
    // The head first: what was in the queue throughout is found in. What was taken in between may be
    // found in too, but its taker had a reference before that, and looks again when it lets go.
    let head = count_of(raw.head.load(Ordering::SeqCst));
    let tail = count_of(raw.tail.load(Ordering::SeqCst));
    place.wrapping_sub(head) < tail.wrapping_sub(head)
}

/// Lets go of all that a queue held. Can be done again after a death half-way.
pub(crate) fn take_apart(arena: &Arena, me: MemberId, queue: Handle, descent: &mut Descent) {
    let Ok(raw) = arena.object::<RawQueue>(queue, Kind::Queue) else {
        return;
    };
    let tail = raw.tail.load(Ordering::SeqCst);
    let mut head = raw.head.load(Ordering::SeqCst);
    // What the words say is not believed: there is no more than the segments hold.
    let rings = chain(arena, raw).filter_map(|segment| Ring::of(arena, segment.to_word()));
    let mut left: u64 = rings.map(|ring| u64::from(ring.units)).sum();
    while count_of(head) != count_of(tail) {
        let Some(ring) = raw.front(arena, me, units_of(head)) else {
            break;
        };
        let mut word = [0; UNIT];
        ring.read(arena, units_of(head), 0, &mut word);
        let word = u64::from_ne_bytes(word);
        let (tag, length) = ((word >> 32) as u32, word as u32 as usize);
        if length > INLINE || length > ring.bytes {
            break;
        }
        let units = record_units(length);
        let Some(rest) = left.checked_sub(units.into()) else {
            break;
        };
        left = rest;
        if tag & IS_PARCEL != 0 && length == 16 {
            let mut name = [0; 16];
            ring.read(arena, units_of(head), UNIT, &mut name);
            arena.disown(me, Handle::from_bytes(name), queue, descent);
        }
        head = pack(
            count_of(head).wrapping_add(1),
            units_of(head).wrapping_add(units),
        );
        raw.head.store(head, Ordering::SeqCst);
    }
    let segments: Vec<Handle> = chain(arena, raw).collect();
    for segment in segments {
        arena.disown(me, segment, queue, descent);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Puts numbers until they fill several segments, and takes them. Before that, so many units have
    /// gone through the first segment already.
    fn works_after(gone: u32) {
        let arena = Arena::create(64 << 20).expect("an arena");
        let me = arena.enroll("me").expect("a member");
        let handle = arena
            .allocate(me, size_of::<RawQueue>(), Kind::Queue)
            .expect("memory");
        let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
        queue.prepare(&arena, me, handle, 0).expect("memory");
        for word in [&queue.tail, &queue.head, &queue.seen_tail, &queue.seen_head] {
            word.store(pack(0, gone), Ordering::SeqCst);
        }
        let put = |number: u32| {
            let bytes = [number as u8; 40];
            let contents = Contents {
                tag: number,
                bytes: &bytes,
                ..Contents::default()
            };
            queue
                .put(&arena, me, handle, &contents, &mut Patience::none())
                .expect("has room");
        };
        let take = |number: u32| {
            let got = queue.get(&arena, me, &mut Patience::none(), &mut |_, _, _| {});
            let Ok(Entry::Inline { tag, bytes }) = got else {
                panic!("{gone:#x}: {number}: {got:?}");
            };
            assert_eq!((tag, bytes), (number, vec![number as u8; 40]), "{gone:#x}");
        };
        // Less than the first segment holds, so that it stays in use; then more.
        for number in 0..200 {
            put(number);
            if number >= 20 {
                take(number - 20);
            }
        }
        (200..400).for_each(put);
        (180..400).for_each(take);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_queue_works_on_when_positions_have_gone_round() {
        for mark in [0, 1 << 30, 1 << 31, 3 << 30] {
            // All that is put the second time is 1200 units long, and the first time as long.
            for before in (0..2600).step_by(50) {
                works_after(u32::wrapping_sub(mark, before));
            }
        }
    }
}
