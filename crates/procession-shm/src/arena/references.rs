//! Who holds what, and how objects come to their end.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procession_sys::memory;

use super::{
    Arena, ArenaStats, CLAIMED, FREE, FREEING, Gone, HeldMap, HeldObject, KEEP_IDLE, LIVE, View,
    generation_of, slot_word, state_of, who_of,
};
use crate::crash::crash_point;
use crate::geometry::{CLASSES, PLANE, PLANES, class_size};
use crate::handle::{Handle, Kind};
use crate::member::MemberId;
use crate::{cell, parcel, ring};

/// So often a thread gives way to one that is taking an object apart, before it sleeps instead; and
/// so often it looks whether that one still lives.
const GIVES_WAY: u32 = 64;
/// As many blocks of a process are its own across forks at a time: each is a mapping, of which the system
/// allows some 65,000.
const MOST_PRIVATE: usize = 16_384;
/// So deep objects within objects are freed by recursion, which keeps no list of them: there may be millions side by
/// side. What lies deeper comes after the rest.
const DEEPEST: usize = 32;
/// Such a sleep.
const PAUSE: Duration = Duration::from_micros(100);
/// So long an object that is being taken apart is waited for: who does it may have been stopped.
const TAKEN_APART_IN: Duration = Duration::from_secs(1);

/// Where in objects within objects somebody is who frees them.
///
/// Should that one be killed, what still waits here is found by who reaps it: without a claim and LIVE.
#[derive(Debug, Default)]
pub(crate) struct Descent {
    depth: usize,
    /// Classes and indices of slots that lie too deep.
    later: Vec<(usize, u32)>,
}

impl Arena {
    pub(super) fn bit_of(&self, member: MemberId, class: usize, index: u32) -> (&AtomicU64, u64) {
        let plane = (member.index() / PLANE).min(PLANES - 1);
        (
            self.bits(plane, class, index),
            1 << (member.index() % PLANE),
        )
    }

    /// Takes a reference of this process, which is `me`. Each is to be given back by `release`.
    ///
    /// # Errors
    /// When the object is gone.
    pub fn acquire(&self, me: MemberId, handle: Handle) -> Result<(), Gone> {
        let mut held = self.held();
        if let Some(object) = held.get_mut(&(me, handle)) {
            object.values += 1;
            return Ok(());
        }
        self.set_bit(me, handle)?;
        held.insert((me, handle), HeldObject::first());
        Ok(())
    }

    /// Gives another member, who does nothing yet, a reference to an object that this process holds.
    ///
    /// # Errors
    /// When the object is gone.
    pub fn lend(&self, to: MemberId, handle: Handle) -> Result<(), Gone> {
        let _held = self.held();
        self.set_bit(to, handle)
    }

    fn set_bit(&self, member: MemberId, handle: Handle) -> Result<(), Gone> {
        let gone = Gone { expected: None };
        let (class, index) = self.split(handle.slot).ok_or(gone)?;
        self.slot(class, index).moves.fetch_add(1, Ordering::SeqCst);
        let (bits, bit) = self.bit_of(member, class, index);
        let had_it = bits.fetch_or(bit, Ordering::SeqCst) & bit != 0;
        crash_point!("acquire: has its bit");
        if self.settle(member, class, index, handle) {
            return Ok(());
        }
        // A bit that was there before belongs to the slot's present object.
        if !had_it {
            bits.fetch_and(!bit, Ordering::SeqCst);
            self.free_if_unreferenced(member, class, index);
        }
        Err(gone)
    }

    /// Whether the object lives, once whoever is taking it apart has come to an end. It began because nobody
    /// held the object any more; so if it takes too long, the object counts as gone.
    fn settle(&self, me: MemberId, class: usize, index: u32, handle: Handle) -> bool {
        let slot = self.slot(class, index);
        let mut rounds = 0u32;
        let mut since = None;
        loop {
            let word = slot.word.load(Ordering::SeqCst);
            if generation_of(word) != handle.generation {
                return false;
            }
            match state_of(word) {
                LIVE => return self.find(handle).is_some(),
                FREEING => {
                    rounds = rounds.wrapping_add(1);
                    if rounds < GIVES_WAY {
                        std::thread::yield_now();
                        continue;
                    }
                    // It is dead, or was stopped in the middle of it and may stay so for long.
                    if rounds.is_multiple_of(GIVES_WAY)
                        && who_of(word).is_none_or(|who| who != me && self.has_ended(who))
                    {
                        self.take_over_freeing(me, class, index, word);
                    } else if since.get_or_insert_with(Instant::now).elapsed() > TAKEN_APART_IN {
                        return false;
                    }
                    std::thread::sleep(PAUSE);
                }
                _ => return false,
            }
        }
    }

    /// Gives a reference of this process back; frees the object if it was the last of all.
    pub fn release(&self, me: MemberId, handle: Handle) {
        let mut held = self.held();
        let Some(object) = held.get_mut(&(me, handle)) else {
            return;
        };
        object.values -= 1;
        if object.values > 0 {
            return;
        }
        if object.view == View::Private && !self.rejoin(handle) {
            // Others must not be given what this process could not see: it is held to the end.
            object.values = 1;
            return;
        }
        held.remove(&(me, handle));
        let Some((class, index)) = self.split(handle.slot) else {
            return;
        };
        if generation_of(self.slot(class, index).word.load(Ordering::SeqCst)) != handle.generation {
            return;
        }
        let (bits, bit) = self.bit_of(me, class, index);
        bits.fetch_and(!bit, Ordering::SeqCst);
        drop(held);
        crash_point!("release: bit cleared");
        self.free_if_unreferenced(me, class, index);
    }

    /// The block, which this process holds and nobody else uses, is a copy that somebody sent. Should
    /// this process fork, parent and child will each have a copy, as of all other memory.
    ///
    /// Only large ones, and up to 16,384 at a time; others are shared by the two.
    pub fn is_a_copy(&self, me: MemberId, handle: Handle) {
        if let Some(object) = self.held().get_mut(&(me, handle))
            && object.view == View::Shared
        {
            object.view = View::Copy;
        }
    }

    /// The pages of a block, and of nothing else.
    fn pages(&self, handle: Handle) -> Option<(usize, usize)> {
        let (offset, length) = self.place(handle, Kind::Block).ok()?;
        let whole = offset.is_multiple_of(self.page) && length >= self.page;
        whole.then(|| (offset, length.next_multiple_of(self.page)))
    }

    /// Sees the place of this block as the others do again. Also of one that is gone, for its slot has the
    /// same place for good.
    fn rejoin(&self, handle: Handle) -> bool {
        let (Some((class, _)), Ok(offset)) =
            (self.split(handle.slot), usize::try_from(handle.offset))
        else {
            return false;
        };
        let length = class_size(class);
        self.in_objects(offset, length) && self.mapping.rejoin(self.fd(), offset, length).is_ok()
    }

    /// Keeps what this process holds from changing, across a fork.
    pub fn hold_still(&self) -> HeldStill<'_> {
        HeldStill {
            arena: self,
            held: self.held(),
        }
    }

    /// Clears the references of dead members to one object, without giving back the rest of what
    /// they held: for who waits for the end of the last one that held it. True if no member holds it then,
    /// but a message does, on its way or in the hands of somebody: maybe of a dead one, see
    /// [`give_back_dead`](Self::give_back_dead).
    pub fn release_dead(&self, by: MemberId, handle: Handle) -> bool {
        let Some((class, index)) = self.split(handle.slot) else {
            return false;
        };
        let word = &self.slot(class, index).word;
        let lives = || generation_of(word.load(Ordering::SeqCst)) == handle.generation;
        if !lives() {
            return false;
        }
        let mut held = false;
        for plane in 0..self.members_in_use().div_ceil(PLANE) {
            let bits = self.bits(plane, class, index);
            let set = bits.load(Ordering::SeqCst);
            for bit in (0..PLANE).filter(|bit| set >> bit & 1 != 0) {
                self.while_dead(by, plane * PLANE + bit, |_, _| {
                    bits.fetch_and(!(1 << bit), Ordering::SeqCst);
                });
            }
            held |= bits.load(Ordering::SeqCst) != 0;
        }
        self.free_if_unreferenced(by, class, index);
        !held && lives()
    }

    /// The living members that hold an object. None if it is gone, or something else holds it as well: a
    /// message, from which anybody may get it.
    pub(crate) fn holders(&self, by: MemberId, handle: Handle) -> Option<Vec<MemberId>> {
        self.release_dead(by, handle);
        let (class, index) = self.split(handle.slot)?;
        let slot = self.slot(class, index);
        let claim = slot.claim.load(Ordering::SeqCst);
        let elsewhere = slot.transit.load(Ordering::SeqCst) != 0
            || claim != 0 && self.confirms(claim, slot.claim_at.load(Ordering::SeqCst), handle);
        if elsewhere || self.kind(handle).is_err() {
            return None;
        }
        let mut members = Vec::new();
        for plane in 0..self.members_in_use().div_ceil(PLANE) {
            let set = self.bits(plane, class, index).load(Ordering::SeqCst);
            let bits = (0..PLANE).filter(|bit| set >> bit & 1 != 0);
            members.extend(bits.map(|bit| self.member_at(plane * PLANE + bit)));
        }
        members.retain(|&member| !self.is_dead(member));
        Some(members)
    }

    /// A message that mentions the object sets out. The caller holds a reference; false, and nothing
    /// is counted, if the object is gone all the same.
    pub fn set_out(&self, handle: Handle) -> bool {
        let Some((class, index)) = self.split(handle.slot) else {
            return false;
        };
        let slot = self.slot(class, index);
        if self.find(handle).is_none() {
            return false;
        }
        slot.moves.fetch_add(1, Ordering::SeqCst);
        slot.transit.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// It has arrived, or is no more.
    pub fn arrive(&self, me: MemberId, handle: Handle) {
        self.free_all(me, |descent| self.arrive_in(me, handle, descent));
    }

    pub(crate) fn arrive_in(&self, me: MemberId, handle: Handle, descent: &mut Descent) {
        let Some((class, index)) = self.split(handle.slot) else {
            return;
        };
        let slot = self.slot(class, index);
        if generation_of(slot.word.load(Ordering::SeqCst)) != handle.generation {
            return;
        }
        let _ = slot
            .transit
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                count.checked_sub(1)
            });
        self.free_in(me, class, index, descent);
    }

    /// Says in which container the object is. Counts while the container confirms it.
    pub(crate) fn claim(&self, handle: Handle, container: Handle, place: u32) {
        if let Some((class, index)) = self.split(handle.slot) {
            let slot = self.slot(class, index);
            slot.moves.fetch_add(1, Ordering::SeqCst);
            slot.claim.store(0, Ordering::SeqCst);
            crash_point!("claim: half");
            slot.claim_at.store(place, Ordering::SeqCst);
            slot.claim.store(container.to_word(), Ordering::SeqCst);
        }
    }

    /// Looks whether an object can go, after something that may have kept it has ended.
    pub(crate) fn reconsider(&self, me: MemberId, handle: Handle) {
        if let Some((class, index)) = self.split(handle.slot)
            && generation_of(self.slot(class, index).word.load(Ordering::SeqCst))
                == handle.generation
        {
            self.free_if_unreferenced(me, class, index);
        }
    }

    /// The container, which is being taken apart, no longer holds the object.
    pub(crate) fn disown(
        &self,
        me: MemberId,
        handle: Handle,
        container: Handle,
        descent: &mut Descent,
    ) {
        let Some((class, index)) = self.split(handle.slot) else {
            return;
        };
        let slot = self.slot(class, index);
        if generation_of(slot.word.load(Ordering::SeqCst)) == handle.generation {
            // Nothing new can be claimed for a container that goes: this is the object's own claim.
            let _ = slot.claim.compare_exchange(
                container.to_word(),
                0,
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
            self.free_in(me, class, index, descent);
        }
    }

    /// Whether anything keeps the object.
    ///
    /// One look can't see everything at once, and a reference may go from what is looked at later
    /// to what was looked at before: from a member's bit to a transit, say. So whoever makes a
    /// reference, while it still has the one it is made from, changes `moves` first; a look that
    /// finds nothing counts only if nothing moved.
    fn is_referenced(&self, class: usize, index: u32) -> bool {
        let moves = &self.slot(class, index).moves;
        loop {
            let before = moves.load(Ordering::SeqCst);
            if self.seems_referenced(class, index) {
                return true;
            }
            if moves.load(Ordering::SeqCst) == before {
                return false;
            }
        }
    }

    fn seems_referenced(&self, class: usize, index: u32) -> bool {
        let slot = self.slot(class, index);
        if slot.transit.load(Ordering::SeqCst) != 0 {
            return true;
        }
        // The claim before the bits: a reader of a queue sets its bit before it commits the taking.
        let claim = slot.claim.load(Ordering::SeqCst);
        if claim != 0
            && self.confirms(
                claim,
                slot.claim_at.load(Ordering::SeqCst),
                self.handle_of(class, index),
            )
        {
            return true;
        }
        let planes = self.members_in_use().div_ceil(PLANE);
        (0..planes).any(|plane| self.bits(plane, class, index).load(Ordering::SeqCst) != 0)
    }

    /// Whether the container named by `claim` really holds the object.
    fn confirms(&self, claim: u64, place: u32, object: Handle) -> bool {
        let Some(container) = self.handle_from_word(claim) else {
            return false;
        };
        let Some((class, index)) = self.split(container.slot) else {
            return false;
        };
        // A container in FREEING still holds what it has not disowned: it may come back to life.
        let state = state_of(self.slot(class, index).word.load(Ordering::SeqCst));
        if !matches!(state, LIVE | FREEING) {
            return false;
        }
        match self.kind(container) {
            Ok(Kind::Queue) => ring::confirms(self, container, place, object),
            Ok(Kind::Cell) => cell::confirms(self, container, object),
            Ok(Kind::Parcel) => true,
            _ => false,
        }
    }

    pub(super) fn free_if_unreferenced(&self, me: MemberId, class: usize, index: u32) {
        self.free_all(me, |descent| self.free_in(me, class, index, descent));
    }

    /// Runs `begin`, and frees what it has left for later.
    fn free_all(&self, me: MemberId, begin: impl FnOnce(&mut Descent)) {
        let mut descent = Descent::default();
        begin(&mut descent);
        while let Some((class, index)) = descent.later.pop() {
            self.free_in(me, class, index, &mut descent);
        }
    }

    fn free_in(&self, me: MemberId, class: usize, index: u32, descent: &mut Descent) {
        let slot = self.slot(class, index);
        let word = slot.word.load(Ordering::SeqCst);
        if state_of(word) != LIVE || self.is_referenced(class, index) {
            return;
        }
        if descent.depth == DEEPEST {
            descent.later.push((class, index));
            return;
        }
        let freeing = slot_word(generation_of(word), FREEING, Some(me));
        if slot
            .word
            .compare_exchange(word, freeing, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            crash_point!("free: freeing");
            self.finish_freeing(me, class, index, freeing, descent);
        }
    }

    fn take_over_freeing(&self, me: MemberId, class: usize, index: u32, seen: u64) {
        let slot = self.slot(class, index);
        let freeing = slot_word(generation_of(seen), FREEING, Some(me));
        if slot
            .word
            .compare_exchange(seen, freeing, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            self.free_all(me, |descent| {
                self.finish_freeing(me, class, index, freeing, descent);
            });
        }
    }

    /// From FREEING, which is ours: back to LIVE if somebody came in between, else to FREE.
    fn finish_freeing(
        &self,
        me: MemberId,
        class: usize,
        index: u32,
        freeing: u64,
        descent: &mut Descent,
    ) {
        let slot = self.slot(class, index);
        let generation = generation_of(freeing);
        if self.is_referenced(class, index) {
            let live = slot_word(generation, LIVE, None);
            let _ = slot
                .word
                .compare_exchange(freeing, live, Ordering::SeqCst, Ordering::SeqCst);
            // What came in between may have left again and seen FREEING: look once more.
            self.free_in(me, class, index, descent);
            return;
        }
        descent.depth += 1;
        let handle = self.handle_of(class, index);
        match Kind::from_word(slot.kind.load(Ordering::Relaxed)) {
            Some(Kind::Queue) => ring::take_apart(self, me, handle, descent),
            Some(Kind::Parcel) => parcel::take_apart(self, me, handle, descent),
            Some(Kind::Cell) => cell::take_apart(self, me, handle, descent),
            _ => {}
        }
        descent.depth -= 1;
        crash_point!("free: taken apart");
        let header = self.header();
        let committed = slot.committed.load(Ordering::Relaxed);
        let idle = header.idle.load(Ordering::Relaxed);
        if committed > 0 && idle.saturating_add(committed) > KEEP_IDLE {
            let offset = slot.offset.load(Ordering::Relaxed) as usize;
            if self.in_objects(offset, class_size(class))
                && memory::punch(self.fd(), offset, class_size(class)).is_ok()
            {
                slot.committed.store(0, Ordering::Relaxed);
            }
        }
        header
            .idle
            .fetch_add(slot.committed.load(Ordering::Relaxed), Ordering::Relaxed);
        // A generation is never 0.
        let next = generation.checked_add(1).unwrap_or(1);
        slot.claim.store(0, Ordering::Relaxed);
        if slot
            .word
            .compare_exchange(
                freeing,
                slot_word(next, FREE, None),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok()
        {
            crash_point!("free: free");
            self.class_state(class).hint.store(index, Ordering::Relaxed);
            self.count_free(class, 1);
        }
    }

    /// Clears all that `member` holds: its bits, and, unless it does so itself, what it was in the
    /// middle of. A member that leaves may have other threads that still are.
    pub(crate) fn give_back_all(&self, by: MemberId, member: MemberId) {
        for class in 0..CLASSES {
            let begun = self
                .class_state(class)
                .begun
                .load(Ordering::SeqCst)
                .min(self.geometry.capacity[class]);
            for index in 0..begun {
                self.give_back(by, member, class, index);
            }
        }
    }

    fn give_back(&self, by: MemberId, member: MemberId, class: usize, index: u32) {
        let slot = self.slot(class, index);
        let (bits, bit) = self.bit_of(member, class, index);
        let held = bits.load(Ordering::SeqCst) & bit != 0;
        if held {
            bits.fetch_and(!bit, Ordering::SeqCst);
        }
        // After the bit: who frees or makes an object either saw it gone, or is seen here.
        let word = slot.word.load(Ordering::SeqCst);
        match state_of(word) {
            CLAIMED | FREEING if by == member => {}
            CLAIMED if who_of(word) == Some(member) => {
                let free = slot_word(generation_of(word), FREE, None);
                if slot
                    .word
                    .compare_exchange(word, free, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
                    && slot.offset.load(Ordering::Relaxed) != 0
                {
                    self.count_free(class, 1);
                }
            }
            FREEING if who_of(word) == Some(member) => {
                self.take_over_freeing(by, class, index, word)
            }
            // Also one without the bit: the dead may have cleared it and not looked any more, or have
            // put a claim on it and nothing else.
            LIVE => self.free_if_unreferenced(by, class, index),
            _ => {}
        }
    }

    /// What the arena holds now.
    pub fn stats(&self) -> ArenaStats {
        let mut stats = ArenaStats {
            idle: self.header().idle.load(Ordering::Relaxed),
            reserve: self.geometry.reserve,
            ..ArenaStats::default()
        };
        for class in 0..CLASSES {
            let carved = self
                .class_state(class)
                .carved
                .load(Ordering::SeqCst)
                .min(self.geometry.capacity[class]);
            for slot in (0..carved).map(|index| self.slot(class, index)) {
                if state_of(slot.word.load(Ordering::SeqCst)) != FREE {
                    stats.objects += 1;
                    stats.bytes += slot.length.load(Ordering::Relaxed);
                }
            }
        }
        stats
    }
}

/// What this process holds, kept from changing while it forks.
#[derive(Debug)]
pub struct HeldStill<'a> {
    arena: &'a Arena,
    held: MutexGuard<'a, HeldMap>,
}

impl HeldStill<'_> {
    /// Before the fork: makes the copies that were sent to this process its own, so that the child has
    /// its own as well. In the order of the objects, so that neighbours need one mapping together.
    pub fn separate(&mut self, me: MemberId) {
        let private = |object: &HeldObject| object.view == View::Private;
        let room = MOST_PRIVATE
            - self
                .held
                .values()
                .filter(|object| private(object))
                .count()
                .min(MOST_PRIVATE);
        let mut copies: Vec<Handle> = self
            .held
            .iter()
            .filter(|((member, _), object)| *member == me && object.view == View::Copy)
            .map(|((_, handle), _)| *handle)
            .collect();
        copies.sort_unstable_by_key(|handle| handle.offset);
        for handle in copies.into_iter().take(room) {
            let Some((offset, length)) = self.arena.pages(handle) else {
                continue;
            };
            // Without room for one mapping more it stays as it was.
            if self
                .arena
                .mapping
                .separate(self.arena.fd(), offset, length)
                .is_ok()
                && let Some(object) = self.held.get_mut(&(me, handle))
            {
                object.view = View::Private;
            }
        }
    }

    /// Whether this process holds anything.
    pub fn is_something(&self) -> bool {
        !self.held.is_empty()
    }

    /// Keeps what is this process's own to its end: a child may not have a hold of its own on its copy.
    pub fn keep_private(&mut self) {
        for object in self.held.values_mut() {
            if object.view == View::Private {
                object.values = object.values.saturating_add(1);
            }
        }
    }

    /// Gives `child` a reference to all that `me` holds. An object that is gone is passed over.
    pub fn lend(&self, me: MemberId, child: MemberId) {
        for (_, handle) in self.held.keys().filter(|(member, _)| *member == me) {
            let _ = self.arena.set_bit(child, *handle);
        }
    }

    /// In the child: what was counted for the parent is counted for `me` now.
    pub fn inherit(&mut self, parent: MemberId, me: MemberId) {
        let all = std::mem::take(&mut *self.held);
        let mine = |member: MemberId| if member == parent { me } else { member };
        *self.held = all
            .into_iter()
            .map(|((member, handle), object)| ((mine(member), handle), object))
            .collect();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_may_become_a_process_s_own_has_its_pages_to_itself() {
        for page in [4, 16, 64].map(|kib| kib << 10) {
            let mut arena = Arena::create(64 << 20).expect("an arena");
            arena.page = page;
            let me = arena.enroll("me").expect("a member");
            for length in [64, 64 << 10, 192, 100_000, 4096, 20_000, 1 << 20] {
                let handle = arena.allocate(me, length, Kind::Block).expect("memory");
                let (class, _) = arena.split(handle.slot).expect("is a slot");
                match arena.pages(handle) {
                    Some((offset, bytes)) => {
                        assert_eq!((offset % page, bytes % page), (0, 0), "{length} of {page}");
                        assert!((length..=class_size(class)).contains(&bytes));
                    }
                    None => assert!(length < page, "{length} of {page}"),
                }
            }
        }
    }

    #[test]
    fn what_one_that_leaves_takes_apart_is_left_to_it() {
        let arena = Arena::create(64 << 20).expect("an arena");
        let me = arena.enroll("me").expect("a member");
        let leaver = arena.enroll("leaver").expect("a member");
        let handle = arena.allocate(leaver, 8, Kind::Block).expect("memory");
        let (class, index) = arena.split(handle.slot).expect("is a slot");
        let word = &arena.slot(class, index).word;
        let freeing = slot_word(handle.generation, FREEING, Some(leaver));
        word.store(freeing, Ordering::SeqCst);
        arena.leave(leaver);
        std::thread::scope(|scope| {
            let other = scope.spawn(|| arena.acquire(me, handle));
            // As long as it runs, which it does in this very process.
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(word.load(Ordering::SeqCst), freeing);
            let free = slot_word(handle.generation + 1, FREE, None);
            word.store(free, Ordering::SeqCst);
            assert!(other.join().expect("no panic").is_err());
        });
    }

    #[test]
    fn what_one_that_is_stopped_takes_apart_is_gone() {
        let arena: &Arena = Box::leak(Box::new(Arena::create(64 << 20).expect("an arena")));
        let me = arena.enroll("me").expect("a member");
        let stopped = arena.enroll("stopped").expect("a member");
        let handle = arena.allocate(stopped, 8, Kind::Block).expect("memory");
        let (class, index) = arena.split(handle.slot).expect("is a slot");
        let freeing = slot_word(handle.generation, FREEING, Some(stopped));
        let word = &arena.slot(class, index).word;
        word.store(freeing, Ordering::SeqCst);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || tell.send(arena.acquire(me, handle)));
        let got = told.recv_timeout(Duration::from_secs(20));
        assert_eq!(got, Ok(Err(Gone { expected: None })));
        let (bits, bit) = arena.bit_of(me, class, index);
        assert_eq!(bits.load(Ordering::SeqCst) & bit, 0);
        assert_eq!(word.load(Ordering::SeqCst), freeing);
    }
}
