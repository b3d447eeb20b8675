//! Objects come into being: a free slot is claimed, or a new one carved from the range.

use std::sync::atomic::Ordering;

use procession_sys::memory;

use super::{
    ASK_FIRST, AllocError, Arena, CLAIMED, FREE, HeldObject, LARGE, LIVE, SPARE, Slot,
    generation_of, slot_word, state_of,
};
use crate::crash::crash_point;
use crate::geometry::{PAGE, class_for, class_size};
use crate::handle::{Handle, Kind};
use crate::member::MemberId;

impl Arena {
    /// Makes an object of `length` bytes, all zeros, with a reference of `me`.
    ///
    /// # Errors
    /// When there is no memory or no room; the message names the size.
    pub fn allocate(&self, me: MemberId, length: usize, kind: Kind) -> Result<Handle, AllocError> {
        self.allocate_zeroed_to(me, length, kind, length)
    }

    /// The same, but only the first `zeroed` bytes are zeros: for who writes all of the rest.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_zeroed_to(
        &self,
        me: MemberId,
        length: usize,
        kind: Kind,
        zeroed: usize,
    ) -> Result<Handle, AllocError> {
        let range = AllocError::Range {
            asked: length,
            reserve: self.geometry.reserve,
        };
        let class = class_for(length)
            .filter(|&class| self.geometry.capacity[class] > 0)
            .ok_or(range)?;
        let (index, recycled) = self.claim_slot(me, class, length)?;
        let slot = self.slot(class, index);
        let give_up = |error: AllocError| {
            self.give_up(class, index);
            error
        };
        crash_point!("allocate: has its stretch");
        let offset = slot.offset.load(Ordering::Relaxed) as usize;
        let committed = slot.committed.load(Ordering::Relaxed) as usize;
        let _ = self
            .header()
            .idle
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |idle| {
                Some(idle.saturating_sub(committed as u64))
            });
        if length >= LARGE {
            self.commit_pages(slot, offset, committed, length)
                .map_err(give_up)?;
        }
        crash_point!("allocate: has its pages");
        if zeroed > 0 && recycled {
            // Beyond what had memory there are zeros already. Of the class of LARGE itself the
            // shorter ones get no memory beforehand: nothing is known of it.
            let dirty = if class_size(class) > LARGE {
                committed.min(length)
            } else {
                length
            };
            self.zero(offset, dirty.min(zeroed));
        }
        slot.length.store(length as u64, Ordering::Relaxed);
        slot.kind.store(kind as u32, Ordering::Relaxed);
        slot.claim.store(0, Ordering::Relaxed);
        slot.transit.store(0, Ordering::Relaxed);
        let generation = generation_of(slot.word.load(Ordering::SeqCst));
        let handle = Handle {
            offset: offset as u64,
            slot: (class as u32) << 24 | index,
            generation,
        };
        crash_point!("allocate: filled in");
        let mut held = self.held();
        let (bits, bit) = self.bit_of(me, class, index);
        bits.fetch_or(bit, Ordering::SeqCst);
        crash_point!("allocate: has its bit");
        slot.word
            .store(slot_word(generation, LIVE, None), Ordering::SeqCst);
        crash_point!("allocate: lives");
        held.insert((me, handle), HeldObject::first());
        Ok(handle)
    }

    /// Makes sure that the first `length` bytes of a slot have memory.
    fn commit_pages(
        &self,
        slot: &Slot,
        offset: usize,
        committed: usize,
        length: usize,
    ) -> Result<(), AllocError> {
        if committed >= length {
            return Ok(());
        }
        let missing = length - committed;
        let enough = missing < ASK_FIRST
            || memory::available().is_none_or(|left| left >= missing as u64 + SPARE);
        let start = committed & !(PAGE - 1);
        if !enough || memory::reserve_pages(self.fd(), offset + start, length - start).is_err() {
            return Err(AllocError::Memory { asked: length });
        }
        slot.committed
            .store(length.next_multiple_of(PAGE) as u64, Ordering::Relaxed);
        Ok(())
    }

    fn try_claim(&self, me: MemberId, class: usize, index: u32) -> bool {
        let slot = self.slot(class, index);
        let seen = slot.word.load(Ordering::Relaxed);
        // Generation 0 is never given out: a handle's word is not zero.
        let claimed = slot_word(generation_of(seen).max(1), CLAIMED, Some(me));
        let is_ours = state_of(seen) == FREE
            && slot
                .word
                .compare_exchange(seen, claimed, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok();
        if is_ours {
            crash_point!("allocate: claimed");
        }
        is_ours
    }

    /// A slot of this class with a stretch of the range, and whether others had it before.
    fn claim_slot(
        &self,
        me: MemberId,
        class: usize,
        length: usize,
    ) -> Result<(u32, bool), AllocError> {
        if let Some(index) = self.claim_free(me, class) {
            return Ok((index, true));
        }
        let state = self.class_state(class);
        // Free ones that nobody counted are looked for each time the table has doubled.
        let carved = state.carved.load(Ordering::SeqCst);
        if carved >= 64
            && carved.is_power_of_two()
            && let Some(index) = self.count_and_claim(me, class)
        {
            return Ok((index, true));
        }
        let Some(index) = self.claim_new(me, class) else {
            let limit = self.geometry.capacity[class];
            let free = self.count_and_claim(me, class);
            // The last resort: one that never got a stretch of the range.
            let index = free.or_else(|| (0..limit).find(|&at| self.try_claim(me, class, at)));
            let index = index.ok_or(AllocError::Count {
                asked: length,
                limit,
            })?;
            return self.with_memory(me, class, index, length);
        };
        self.with_memory(me, class, index, length)
    }

    /// Gives a claimed slot its stretch of the range, if it has none; if there is none left, takes
    /// another that has.
    fn with_memory(
        &self,
        me: MemberId,
        class: usize,
        index: u32,
        length: usize,
    ) -> Result<(u32, bool), AllocError> {
        let slot = self.slot(class, index);
        if slot.offset.load(Ordering::Relaxed) != 0 {
            return Ok((index, true));
        }
        if let Some(offset) = self.carve(class_size(class)) {
            slot.offset.store(offset as u64, Ordering::Relaxed);
            return Ok((index, false));
        }
        self.give_up(class, index);
        let range = AllocError::Range {
            asked: length,
            reserve: self.geometry.reserve,
        };
        let free = self.count_and_claim(me, class).ok_or(range)?;
        Ok((free, true))
    }

    /// A claimed slot is free again, its object never having lived.
    fn give_up(&self, class: usize, index: u32) {
        let slot = self.slot(class, index);
        let generation = generation_of(slot.word.load(Ordering::SeqCst));
        slot.word
            .store(slot_word(generation, FREE, None), Ordering::SeqCst);
        if slot.offset.load(Ordering::Relaxed) != 0 {
            self.count_free(class, 1);
        }
    }

    /// Counts free slots of a class that have a stretch of the range.
    pub(super) fn count_free(&self, class: usize, more: i32) {
        // Wraps below zero and back: the claim may be counted before the freeing.
        let free = &self.class_state(class).free;
        // SYNC POINT with `claim_free`: what is counted is found free.
        free.fetch_add(more as u32, Ordering::Release);
    }

    fn claim_free(&self, me: MemberId, class: usize) -> Option<u32> {
        let state = self.class_state(class);
        let free = state.free.load(Ordering::Acquire);
        if free as i32 <= 0 {
            return None;
        }
        let claimed = self.find_free(me, class);
        if claimed.is_none() {
            // If nothing came or went meanwhile, somebody died between the word and the count.
            let _ = state.free.compare_exchange(
                free,
                free.wrapping_sub(1),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        claimed
    }

    /// Counts the free slots anew, and claims one.
    fn count_and_claim(&self, me: MemberId, class: usize) -> Option<u32> {
        let state = self.class_state(class);
        let carved = state
            .carved
            .load(Ordering::SeqCst)
            .min(self.geometry.capacity[class]);
        let free = (0..carved)
            .map(|index| self.slot(class, index))
            .filter(|slot| {
                slot.offset.load(Ordering::Relaxed) != 0
                    && state_of(slot.word.load(Ordering::Relaxed)) == FREE
            });
        // At most 2^20 by the geometry.
        state.free.store(free.count() as u32, Ordering::Relaxed);
        self.find_free(me, class)
    }

    fn find_free(&self, me: MemberId, class: usize) -> Option<u32> {
        let state = self.class_state(class);
        let carved = state
            .carved
            .load(Ordering::SeqCst)
            .min(self.geometry.capacity[class]);
        let hint = state.hint.load(Ordering::Relaxed);
        for step in 0..carved {
            let index = (hint.wrapping_add(step)) % carved;
            // One that never got a stretch of the range is no help.
            let has_memory = self.slot(class, index).offset.load(Ordering::Relaxed) != 0;
            if has_memory && self.try_claim(me, class, index) {
                self.count_free(class, -1);
                state
                    .hint
                    .store(index.wrapping_add(1) % carved, Ordering::Relaxed);
                return Some(index);
            }
        }
        None
    }

    fn claim_new(&self, me: MemberId, class: usize) -> Option<u32> {
        let state = self.class_state(class);
        loop {
            let index = state.carved.load(Ordering::SeqCst);
            if index >= self.geometry.capacity[class] {
                return None;
            }
            state.begun.fetch_max(index + 1, Ordering::SeqCst);
            let claimed = self.try_claim(me, class, index);
            state.carved.fetch_max(index + 1, Ordering::SeqCst);
            if claimed {
                return Some(index);
            }
        }
    }

    fn carve(&self, size: usize) -> Option<usize> {
        let align = size.min(self.page);
        let top = &self.header().top;
        let mut seen = top.load(Ordering::Relaxed);
        loop {
            let start = usize::try_from(seen).ok()?.next_multiple_of(align);
            let end = start.checked_add(size)?;
            if start < self.geometry.objects || end > self.geometry.reserve {
                return None;
            }
            match top.compare_exchange_weak(seen, end as u64, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Some(start),
                Err(now) => seen = now,
            }
        }
    }
}
