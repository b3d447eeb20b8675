//! Who is in the family: one entry per process.
//!
//! The state word of an entry (`generation << 40 | state << 32 | who`):
//!
//! | state | meaning | leaves it |
//! | --- | --- | --- |
//! | FREE | nobody; until it is used again the entry says who was there | `reserve`, by compare-and-swap to PREPARING |
//! | PREPARING | `who` fills it in: the pid is still the last user's | `who`, to RESERVED; a reaper, to REAPING |
//! | RESERVED | `who` keeps it for a child about to start | the child, to ALIVE; `who` or a reaper, to REAPING |
//! | ALIVE | a process (pid and start time were written before) | the process itself, to LEFT; a reaper, to REAPING |
//! | LEFT | ended in good order, has given back its references | a reaper, to REAPING_LEFT |
//! | CLEARING | dead; `who` takes references of it away, in a moment | `who`, to ALIVE or LEFT; when `who` is dead another |
//! | REAPING | `who` gives back what the member held; may be taken over when `who` dies | `who`, to FREE with the next generation |
//! | REAPING_LEFT | the same, of one that ended in good order | the same |
//!
//! Who ends while threads of it may still use what it holds does not go to LEFT, where it counts as dead
//! and has nothing any more: it sets `leaving` beside ALIVE, and is dead once the kernel says so.

use std::fmt;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procession_sys::liveness;

use crate::arena::{Arena, Shared};
use crate::geometry::MEMBERS;
use crate::waits::Waits;

const INDEX_BITS: u32 = 12;
const GENERATION_MASK: u32 = (1 << 18) - 1;

/// Names a member of a family for good: an entry and which of its users. Never zero, fits 30 bits,
/// so that a lock word can hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(u32);

impl MemberId {
    /// The id as a number that fits 30 bits.
    pub fn to_raw(self) -> u32 {
        self.0
    }

    /// What [`to_raw`](Self::to_raw) gave, or `None` for zero and for what no member can have.
    pub fn from_raw(raw: u32) -> Option<MemberId> {
        (raw >> 30 == 0 && raw & ((1 << INDEX_BITS) - 1) != 0).then_some(MemberId(raw))
    }

    pub(crate) fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }

    fn generation(self) -> u32 {
        self.0 >> INDEX_BITS
    }

    fn new(index: usize, generation: u32) -> MemberId {
        MemberId((generation & GENERATION_MASK) << INDEX_BITS | index as u32)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// What a member is for.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The first process of the family.
    Root = 0,
    /// A process that the program started.
    Process = 1,
    /// A worker of a pool.
    Worker = 2,
    /// A fork server.
    ForkServer = 3,
    /// A manager's server.
    Server = 4,
}

impl Role {
    fn from_word(word: u32) -> Role {
        match word {
            0 => Role::Root,
            2 => Role::Worker,
            3 => Role::ForkServer,
            4 => Role::Server,
            _ => Role::Process,
        }
    }
}

/// What the family's table says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its id.
    pub id: MemberId,
    /// Its process id; 0 while it has not started.
    pub pid: u32,
    /// Its name, cut to 64 bytes.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Who started it.
    pub parent: Option<MemberId>,
    /// Whether it runs.
    pub alive: bool,
}

/// There are as many members as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembersFull;

impl fmt::Display for MembersFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a family can't have more than {} processes at a time: wait for some to end before you start more",
            MEMBERS - 1
        )
    }
}

impl std::error::Error for MembersFull {}

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const ALIVE: u64 = 2;
const LEFT: u64 = 3;
const REAPING: u64 = 4;
const REAPING_LEFT: u64 = 5;
const PREPARING: u64 = 6;
const CLEARING: u64 = 7;
/// A reaper waits so long for one who clears: should that one be stopped, the entry is lost.
const CLEARED_IN: Duration = Duration::from_secs(2);

/// One member's entry.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Entry {
    state: AtomicU64,
    start_time: AtomicU64,
    pid: AtomicU32,
    parent: AtomicU32,
    role: AtomicU32,
    exit_noted: AtomicU32,
    exit_status: AtomicI32,
    name_length: AtomicU32,
    /// 1: whatever its end looks like, it is one in good order.
    leaving: AtomicU32,
    /// 1: it is dead, and all that it held was given back, though nobody has reaped it yet.
    cleared: AtomicU32,
    /// One bit for each of the last 64 generations: it did not end in good order.
    lost: AtomicU64,
    name: [AtomicU64; 8],
    /// What its threads wait for.
    waits: Waits,
}

// SAFETY: repr(C), atomics only, no Drop; all zeros is a FREE entry.
unsafe impl Shared for Entry {}

fn word(generation: u32, state: u64, who: u32) -> u64 {
    u64::from(generation) << 40 | state << 32 | u64::from(who)
}

fn state_of(word: u64) -> u64 {
    word >> 32 & 0xff
}

fn generation_of(word: u64) -> u32 {
    (word >> 40) as u32 & GENERATION_MASK
}

fn who_of(word: u64) -> Option<MemberId> {
    MemberId::from_raw(word as u32)
}

impl Entry {
    fn set_name(&self, name: &str) {
        let mut end = name.len().min(64);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let mut bytes = [0u8; 64];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        for (word, chunk) in self.name.iter().zip(bytes.chunks_exact(8)) {
            let mut part = [0; 8];
            part.copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(part), Ordering::Relaxed);
        }
        self.name_length.store(end as u32, Ordering::Release);
    }

    fn name(&self) -> String {
        let length = (self.name_length.load(Ordering::Acquire) as usize).min(64);
        let bytes: Vec<u8> = self
            .name
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes())
            .collect();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}

impl Entry {
    /// Whether its user, in state `seen`, has said that it ends in good order.
    fn has_left(&self, seen: u64) -> bool {
        match state_of(seen) {
            LEFT | REAPING_LEFT => true,
            ALIVE | CLEARING | REAPING => self.leaving.load(Ordering::SeqCst) == 1,
            _ => false,
        }
    }
}

fn is_running(entry: &Entry) -> bool {
    liveness::is_alive(
        entry.pid.load(Ordering::SeqCst),
        entry.start_time.load(Ordering::SeqCst),
    )
}

impl Arena {
    fn entry_of(&self, id: MemberId) -> Option<(&Entry, u64)> {
        let entry = self.member_entry(id.index());
        let state = entry.state.load(Ordering::SeqCst);
        (generation_of(state) == id.generation()).then_some((entry, state))
    }

    /// Makes the calling process a member, of its own accord: a root, or the child of a fork that
    /// was not ours.
    ///
    /// # Errors
    /// When there are too many.
    pub fn enroll(&self, name: &str) -> Result<MemberId, MembersFull> {
        let id = self.reserve_member(None, name, Role::Root)?;
        self.take_seat(id);
        Ok(id)
    }

    /// Keeps an entry for a child that `parent` is about to start.
    ///
    /// # Errors
    /// When there are too many.
    pub fn reserve_member(
        &self,
        parent: Option<MemberId>,
        name: &str,
        role: Role,
    ) -> Result<MemberId, MembersFull> {
        for clear_first in [false, true] {
            if clear_first && let Some(by) = parent {
                self.reap_orphans(by);
            }
            // The lowest free entry: each 64 entries in use cost a plane of reference bits.
            for index in 1..MEMBERS {
                let entry = self.member_entry(index);
                let seen = entry.state.load(Ordering::SeqCst);
                if state_of(seen) != FREE {
                    continue;
                }
                let id = MemberId::new(index, generation_of(seen));
                // A root keeps its entry for itself: should it die now, it is seen to be dead.
                let reserver = parent.unwrap_or(id);
                let preparing = word(id.generation(), PREPARING, reserver.to_raw());
                if entry
                    .state
                    .compare_exchange(seen, preparing, Ordering::SeqCst, Ordering::SeqCst)
                    .is_err()
                {
                    continue;
                }
                self.note_member(index);
                entry.pid.store(0, Ordering::Relaxed);
                entry.start_time.store(0, Ordering::Relaxed);
                entry.exit_noted.store(0, Ordering::Relaxed);
                entry.leaving.store(0, Ordering::Relaxed);
                entry.cleared.store(0, Ordering::Relaxed);
                entry
                    .parent
                    .store(parent.map_or(0, MemberId::to_raw), Ordering::Relaxed);
                entry.role.store(role as u32, Ordering::Relaxed);
                entry.set_name(name);
                entry.waits.clear();
                entry.state.store(
                    word(id.generation(), RESERVED, reserver.to_raw()),
                    Ordering::SeqCst,
                );
                return Ok(id);
            }
        }
        Err(MembersFull)
    }

    /// The calling process takes the entry that was kept for it. False if it was given up meanwhile.
    pub fn take_seat(&self, id: MemberId) -> bool {
        let Some((entry, seen)) = self.entry_of(id) else {
            return false;
        };
        if state_of(seen) != RESERVED {
            return false;
        }
        let pid = std::process::id();
        entry.pid.store(pid, Ordering::SeqCst);
        entry
            .start_time
            .store(liveness::start_time(pid).unwrap_or(0), Ordering::SeqCst);
        let alive = word(id.generation(), ALIVE, 0);
        entry
            .state
            .compare_exchange(seen, alive, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The parent writes down whom it has started, so that a child that dies before it takes its
    /// entry is known to be dead.
    pub fn note_pid(&self, id: MemberId, pid: u32) {
        if let Some((entry, seen)) = self.entry_of(id)
            && state_of(seen) == RESERVED
            && entry.pid.load(Ordering::SeqCst) == 0
        {
            // Its start time, which is dear to find out, it writes down itself: until then it holds
            // nothing that anybody waits for, and the pid alone is not another's before its parent
            // has waited for it.
            entry.pid.store(pid, Ordering::SeqCst);
        }
    }

    /// The calling process is about to end in good order. It keeps what it holds, and counts as alive,
    /// until it has ended: threads of it, or its exit handlers, may be at work on that.
    pub fn leave_at_end(&self, me: MemberId) {
        if let Some((entry, _)) = self.entry_of(me) {
            entry.leaving.store(1, Ordering::SeqCst);
        }
    }

    /// The calling process ends in good order. What it still holds goes back now, and it counts as dead:
    /// nothing in it may use what it held.
    pub fn leave(&self, me: MemberId) {
        let Some((entry, seen)) = self.entry_of(me) else {
            return;
        };
        // Should it be killed in the middle of it, that stays known.
        entry.leaving.store(1, Ordering::SeqCst);
        let left = word(me.generation(), LEFT, 0);
        if state_of(seen) == ALIVE
            && entry
                .state
                .compare_exchange(seen, left, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            self.give_back_all(me, me);
        }
    }

    /// Whether this member is gone, or never was. Asks the kernel when the table says alive.
    pub fn is_dead(&self, id: MemberId) -> bool {
        let Some((entry, seen)) = self.entry_of(id) else {
            return true;
        };
        match state_of(seen) {
            ALIVE => !is_running(entry),
            RESERVED if entry.pid.load(Ordering::SeqCst) != 0 => !is_running(entry),
            RESERVED | PREPARING => match who_of(seen) {
                // A root between its steps: nobody else can know it yet.
                Some(reserver) if reserver == id => false,
                Some(reserver) => self.is_dead(reserver),
                None => true,
            },
            _ => true,
        }
    }

    /// Whoever has this entry now.
    pub(crate) fn member_at(&self, index: usize) -> MemberId {
        let state = self.member_entry(index).state.load(Ordering::SeqCst);
        MemberId::new(index, generation_of(state))
    }

    /// Whether its process has ended. One that has left in good order is dead to the others before that, and at
    /// work on what it gives back.
    pub(crate) fn has_ended(&self, id: MemberId) -> bool {
        match self.entry_of(id) {
            Some((entry, seen)) if state_of(seen) == LEFT => !is_running(entry),
            _ => self.is_dead(id),
        }
    }

    /// Whether the table says that this member is gone. Quick; of one that has just died it may not know yet.
    pub(crate) fn is_known_dead(&self, id: MemberId) -> bool {
        self.entry_of(id)
            .is_none_or(|(_, seen)| !matches!(state_of(seen), ALIVE | RESERVED | PREPARING))
    }

    /// Whether this member ended in good order, as far as is remembered: of an entry used by 64
    /// others since, the best is believed.
    pub fn has_left(&self, id: MemberId) -> bool {
        if let Some((entry, seen)) = self.entry_of(id) {
            return entry.has_left(seen);
        }
        let entry = self.member_entry(id.index());
        let now = generation_of(entry.state.load(Ordering::SeqCst));
        let since = now.wrapping_sub(id.generation()) & GENERATION_MASK;
        since >= 64 || entry.lost.load(Ordering::SeqCst) >> (id.generation() % 64) & 1 == 0
    }

    /// Gives back all that a dead member held and frees its entry. Does nothing if it is gone already.
    /// The caller knows that it is dead.
    pub fn reap(&self, by: MemberId, dead: MemberId) {
        let Some((entry, seen)) = self.await_cleared(dead) else {
            return;
        };
        let left = entry.has_left(seen);
        let reaping = if left { REAPING_LEFT } else { REAPING };
        let claimed = word(dead.generation(), reaping, by.to_raw());
        match state_of(seen) {
            FREE => return,
            // One only, or the second could still be at it when the entry has a new user. If it is
            // this process's, another thread does it.
            REAPING | REAPING_LEFT | CLEARING
                if who_of(seen).is_some_and(|who| who == by || !self.is_dead(who)) =>
            {
                return;
            }
            _ => {}
        }
        if dead == by
            || entry
                .state
                .compare_exchange(seen, claimed, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
        {
            return;
        }
        let bit = 1 << (dead.generation() % 64);
        if left {
            entry.lost.fetch_and(!bit, Ordering::SeqCst);
        } else {
            entry.lost.fetch_or(bit, Ordering::SeqCst);
        }
        self.give_back_all(by, dead);
        let free = word(dead.generation().wrapping_add(1), FREE, 0);
        // Fails only if another took us for dead and did it all again: as good.
        let _ = entry
            .state
            .compare_exchange(claimed, free, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The entry, once nobody is about to clear references of that member.
    fn await_cleared(&self, dead: MemberId) -> Option<(&Entry, u64)> {
        let mut since = None;
        loop {
            let (entry, seen) = self.entry_of(dead)?;
            let busy = state_of(seen) == CLEARING
                && who_of(seen).is_some_and(|who| !self.is_dead(who))
                && since.get_or_insert_with(Instant::now).elapsed() < CLEARED_IN;
            if !busy {
                return Some((entry, seen));
            }
            std::thread::yield_now();
        }
    }

    /// Reaps the dead members whose parent is gone too: nobody else will. A dead member whose parent
    /// lives is left to it, for it may still want the exit status.
    pub fn reap_orphans(&self, by: MemberId) {
        for index in 1..self.members_in_use() {
            let entry = self.member_entry(index);
            let seen = entry.state.load(Ordering::SeqCst);
            let id = MemberId::new(index, generation_of(seen));
            if state_of(seen) == FREE || id == by {
                continue;
            }
            let parent = MemberId::from_raw(entry.parent.load(Ordering::Relaxed));
            let orphan = parent != Some(by) && parent.is_none_or(|parent| self.is_dead(parent));
            // One that has left may still run a little, and other threads of it hold things: only
            // once it is gone can its entry, and with it its bits, be another's.
            let runs_on = state_of(seen) == LEFT && is_running(entry);
            if orphan && !runs_on && self.is_dead(id) {
                self.reap(by, id);
            }
        }
    }

    /// Runs `act` if the member at `index` is a dead one that nobody reaps meanwhile. One that nobody is left
    /// to reap is reaped instead.
    pub(crate) fn while_dead(
        &self,
        by: MemberId,
        index: usize,
        act: impl FnOnce(MemberId, &Entry),
    ) {
        let entry = self.member_entry(index);
        let seen = entry.state.load(Ordering::SeqCst);
        let id = MemberId::new(index, generation_of(seen));
        let abandoned = || who_of(seen).is_some_and(|who| who != by && self.is_dead(who));
        let back = match state_of(seen) {
            ALIVE => ALIVE,
            // One that has left gives back what it holds itself, as long as it runs.
            LEFT if !is_running(entry) => LEFT,
            // It ended before it came to take its seat.
            RESERVED if entry.pid.load(Ordering::SeqCst) != 0 => ALIVE,
            CLEARING if abandoned() => ALIVE,
            RESERVED | REAPING | REAPING_LEFT if abandoned() => {
                self.reap(by, id);
                return;
            }
            _ => return,
        };
        if id == by || !self.is_dead(id) {
            return;
        }
        let claimed = word(id.generation(), CLEARING, by.to_raw());
        if entry
            .state
            .compare_exchange(seen, claimed, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
        {
            act(id, entry);
            // Fails only if another took us for dead and reaped it.
            let back = word(id.generation(), back, 0);
            let _ = entry
                .state
                .compare_exchange(claimed, back, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Gives back all that dead members held whom nobody has reaped. Their entries stay, for those who
    /// will ask how they ended.
    pub fn give_back_dead(&self, by: MemberId) {
        for index in 1..self.members_in_use() {
            if self.member_entry(index).cleared.load(Ordering::SeqCst) == 0 {
                self.while_dead(by, index, |dead, entry| {
                    self.give_back_all(by, dead);
                    entry.cleared.store(1, Ordering::SeqCst);
                });
            }
        }
    }

    /// Writes down how a member ended, for whoever waits for it and is not its parent in the
    /// kernel's eyes.
    pub fn note_exit(&self, id: MemberId, status: i32) {
        if let Some((entry, _)) = self.entry_of(id) {
            entry.exit_status.store(status, Ordering::SeqCst);
            entry.exit_noted.store(1, Ordering::SeqCst);
            procession_sys::futex::wake(&entry.exit_noted, u32::MAX);
        }
    }

    /// What was written down, if anything was.
    pub fn exit_status(&self, id: MemberId) -> Option<i32> {
        let (entry, _) = self.entry_of(id)?;
        (entry.exit_noted.load(Ordering::SeqCst) == 1)
            .then(|| entry.exit_status.load(Ordering::SeqCst))
    }

    /// What the table says of a member; `None` if its entry has been used again since.
    pub fn member(&self, id: MemberId) -> Option<MemberInfo> {
        let entry = self.member_entry(id.index());
        let seen = entry.state.load(Ordering::SeqCst);
        // Until the entry is used again it says who was there.
        let since = generation_of(seen).wrapping_sub(id.generation()) & GENERATION_MASK;
        let last = since == 1 && state_of(seen) == FREE;
        if !last && (since != 0 || state_of(seen) == FREE) {
            return None;
        }
        Some(MemberInfo {
            id,
            pid: entry.pid.load(Ordering::SeqCst),
            name: entry.name(),
            role: Role::from_word(entry.role.load(Ordering::Relaxed)),
            parent: MemberId::from_raw(entry.parent.load(Ordering::Relaxed)),
            alive: !self.is_dead(id),
        })
    }

    /// Changes a member's name in the table.
    pub fn rename(&self, id: MemberId, name: &str) {
        if let Some((entry, _)) = self.entry_of(id) {
            entry.set_name(name);
        }
    }

    pub(crate) fn waits_of(&self, id: MemberId) -> &Waits {
        &self.member_entry(id.index()).waits
    }

    /// Whoever has an entry now.
    pub(crate) fn member_ids(&self) -> impl Iterator<Item = MemberId> {
        (1..self.members_in_use()).filter_map(|index| {
            let seen = self.member_entry(index).state.load(Ordering::SeqCst);
            (state_of(seen) != FREE).then(|| MemberId::new(index, generation_of(seen)))
        })
    }

    /// Whether a member with this role is alive. The kernel is asked about these alone.
    pub fn has_alive(&self, role: Role) -> bool {
        self.member_ids().any(|id| {
            let word = self.member_entry(id.index()).role.load(Ordering::Relaxed);
            Role::from_word(word) == role && !self.is_dead(id)
        })
    }

    /// Everyone in the table, dead ones that are not yet cleared away included.
    pub fn members(&self) -> Vec<MemberInfo> {
        (1..self.members_in_use())
            .filter_map(|index| {
                let seen = self.member_entry(index).state.load(Ordering::SeqCst);
                self.member(MemberId::new(index, generation_of(seen)))
            })
            .collect()
    }
}
