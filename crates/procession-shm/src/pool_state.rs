//! What the processes of a pool share: where its queues are, and what each worker is doing.
//!
//! One [`PoolState`] with a row of [`WorkerSlot`]s behind it. A slot is written by one process at a
//! time: by the parent before it starts a worker and after it has seen it dead, by the worker in
//! between. So nothing here needs a lock, and a worker killed at any instruction leaves words that
//! the parent can read.
//!
//! Words of a slot, and who may rely on what:
//!
//! | word | meaning |
//! | --- | --- |
//! | `phase` | [`Phase`]; STARTING by the parent, then READY and LEAVING, or FAILED, by the worker |
//! | `item` | 0: no task. Else one more than the queue's number of the item that the worker has taken **or was about to take**: written in the queue's hook, before the taking is committed, and cleared after the result is committed |
//! | `job`, `index`, `since` | the task in that item, and when it was taken; written before `item` |
//! | `done` | how many results this worker has committed |
//! | `condemned` | by the parent: the worker is to take no further task. See below |
//!
//! **Killing a worker for the task in its hands, and for no other.** The parent stores `condemned` and
//! then reads `item`; the worker stores 0 in `item` and then reads `condemned`. All four are SeqCst, so
//! either the parent sees that the worker is through with the task, and lets it be, or the worker sees
//! that it is condemned, and takes no other task. In both cases no other task is hit.
//!
//! **Cancelling what has not begun.** A table has a word for each place in the parent's book of jobs:
//! the job there whose tasks are not to be begun any more. The parent stores that and then reads the
//! slots; the worker stores `item` and then reads the table (SeqCst again). So a task that the parent
//! sees in no slot, and that has no result by then, will not be begun by anybody. The table
//! grows by levels, each twice as long as the one before, which stay where they are; `levels` has a bit
//! for each that is there.

use crate::arena::Shared;
use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::handle::Handle;

/// How far a worker has come.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nobody is there.
    Empty = 0,
    /// Started, but not through with its initializer.
    Starting = 1,
    /// Takes tasks.
    Ready = 2,
    /// Will end of its own accord, and in good order.
    Leaving = 3,
    /// Its initializer failed, and it has sent word why.
    Failed = 4,
}

impl Phase {
    fn from_word(word: u32) -> Phase {
        match word {
            1 => Phase::Starting,
            2 => Phase::Ready,
            3 => Phase::Leaving,
            4 => Phase::Failed,
            _ => Phase::Empty,
        }
    }
}

/// The head of what a pool shares.
#[repr(C)]
#[derive(Debug)]
pub struct PoolState {
    tasks: [AtomicU64; 2],
    results: [AtomicU64; 2],
    max_tasks: AtomicU64,
    workers: AtomicU32,
    ready: AtomicU32,
    max_memory: AtomicU64,
    levels: AtomicU32,
    lanes: AtomicU32,
    cancelled: [[AtomicU64; 2]; LEVELS],
}

/// How many levels the table of cancelled jobs may have.
pub const LEVELS: usize = 20;
/// Words in its first level.
const FIRST_LEVEL: usize = 1024;

/// Where the word for a place in the book of jobs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CancelWord {
    /// The level.
    pub level: usize,
    /// The word's number there.
    pub word: usize,
}

impl CancelWord {
    /// The word for this place; `None` beyond the last level.
    pub fn of(place: usize) -> Option<CancelWord> {
        let level = (place / FIRST_LEVEL + 1).ilog2() as usize;
        (level < LEVELS).then_some(CancelWord {
            level,
            word: place - FIRST_LEVEL * ((1 << level) - 1),
        })
    }

    /// How many words its level has.
    pub fn level_length(self) -> usize {
        FIRST_LEVEL << self.level
    }
}

// SAFETY: repr(C), atomics only, no Drop; all zeros is a pool without queues and workers.
unsafe impl Shared for PoolState {}

/// What one worker is doing.
#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct WorkerSlot {
    phase: AtomicU32,
    pid: AtomicU32,
    item: AtomicU64,
    job: AtomicU64,
    index: AtomicU64,
    done: AtomicU64,
    since: AtomicU64,
    condemned: AtomicU32,
    _pad: AtomicU32,
    /// Its own queues. Never changed; on a line that nobody writes to.
    lane: Lane,
}

#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
struct Lane {
    tasks: [AtomicU64; 2],
    results: [AtomicU64; 2],
}

// SAFETY: repr(C), atomics only, no Drop, aligned to 64 bytes; all zeros is an empty slot.
unsafe impl Shared for WorkerSlot {}

/// The task that a worker has, or was about to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Which queue its item is from, and the item's number there: `queue << 32 | number`.
    pub item: u64,
    /// The job it belongs to.
    pub job: u64,
    /// Its place in the job.
    pub index: u64,
    /// When it was taken, in the caller's clock.
    pub since: u64,
}

impl PoolState {
    /// Bytes of a pool with this many workers.
    pub const fn size_for(workers: u32) -> usize {
        size_of::<PoolState>() + workers as usize * size_of::<WorkerSlot>()
    }

    /// Fills in a new pool's head.
    pub fn set_up(
        &self,
        tasks: Handle,
        results: Handle,
        workers: u32,
        max_tasks: u64,
        max_memory: u64,
    ) {
        store_handle(&self.tasks, tasks);
        store_handle(&self.results, results);
        self.max_tasks.store(max_tasks, Ordering::Relaxed);
        self.max_memory.store(max_memory, Ordering::Relaxed);
        // SYNC POINT (pool head): what is above becomes visible with the number of workers.
        self.workers.store(workers, Ordering::Release);
    }

    /// Gives each of the workers two queues of its own, of tasks and of results. Before anybody else
    /// knows of the pool.
    pub fn set_lanes(&self, slots: &[WorkerSlot], lanes: &[(Handle, Handle)]) {
        for (slot, (tasks, results)) in slots.iter().zip(lanes) {
            store_handle(&slot.lane.tasks, *tasks);
            store_handle(&slot.lane.results, *results);
        }
        // One for each slot, of which there are few.
        self.lanes
            .store(lanes.len().min(slots.len()) as u32, Ordering::Release);
    }

    /// How many of the slots have queues of their own: all or none.
    pub fn lanes(&self) -> u32 {
        self.lanes.load(Ordering::Acquire)
    }

    /// How many slots follow.
    pub fn workers(&self) -> u32 {
        // SYNC POINT (pool head): pairs with `set_up`.
        self.workers.load(Ordering::Acquire)
    }

    /// The queue of tasks.
    pub fn tasks(&self) -> Handle {
        load_handle(&self.tasks)
    }

    /// The queue of results.
    pub fn results(&self) -> Handle {
        load_handle(&self.results)
    }

    /// After how many tasks a worker ends; 0 for never.
    pub fn max_tasks(&self) -> u64 {
        self.max_tasks.load(Ordering::Relaxed)
    }

    /// With how many bytes of its own a worker ends; 0 for never.
    pub fn max_memory(&self) -> u64 {
        self.max_memory.load(Ordering::Relaxed)
    }

    /// Whether any job was ever cancelled.
    pub fn has_cancelled(&self) -> bool {
        self.levels.load(Ordering::SeqCst) != 0
    }

    /// The block with a level of the table of cancelled jobs, if there is one.
    pub fn cancelled(&self, level: usize) -> Option<Handle> {
        // SYNC POINT (level): pairs with `add_cancelled`.
        let there = self.levels.load(Ordering::SeqCst) & 1u32.checked_shl(level as u32)? != 0;
        there
            .then(|| self.cancelled.get(level).map(load_handle))
            .flatten()
    }

    /// Adds a level, of which there is none yet.
    pub fn add_cancelled(&self, level: usize, block: Handle) {
        if let Some(words) = self.cancelled.get(level) {
            store_handle(words, block);
            // SYNC POINT (level): the handle becomes visible with its bit.
            self.levels.fetch_or(1 << level, Ordering::SeqCst);
        }
    }

    /// How many workers have ever come through their initializer, modulo 2^32.
    pub fn ready(&self) -> u32 {
        self.ready.load(Ordering::SeqCst)
    }

    /// One more has.
    pub fn count_ready(&self) {
        self.ready.fetch_add(1, Ordering::SeqCst);
    }
}

impl WorkerSlot {
    /// The parent is about to start a worker here.
    pub fn prepare(&self) {
        self.item.store(0, Ordering::SeqCst);
        self.job.store(0, Ordering::SeqCst);
        self.index.store(0, Ordering::SeqCst);
        self.done.store(0, Ordering::SeqCst);
        self.since.store(0, Ordering::SeqCst);
        self.condemned.store(0, Ordering::SeqCst);
        self.pid.store(0, Ordering::SeqCst);
        self.phase.store(Phase::Starting as u32, Ordering::SeqCst);
    }

    /// The parent has seen the worker dead and settled its task.
    pub fn vacate(&self) {
        self.item.store(0, Ordering::SeqCst);
        self.pid.store(0, Ordering::SeqCst);
        self.phase.store(Phase::Empty as u32, Ordering::SeqCst);
    }

    /// Its own queue of tasks, if it has one.
    pub fn own_tasks(&self) -> Handle {
        load_handle(&self.lane.tasks)
    }

    /// Its own queue of results, if it has one.
    pub fn own_results(&self) -> Handle {
        load_handle(&self.lane.results)
    }

    /// How far the worker has come.
    pub fn phase(&self) -> Phase {
        Phase::from_word(self.phase.load(Ordering::SeqCst))
    }

    /// The worker has come as far as this.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::SeqCst);
    }

    /// The worker's process; 0 while it is being started.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// The worker, or who has started it, says which process it is.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::SeqCst);
    }

    /// The worker is about to take this item; called before the taking is committed.
    pub fn take(&self, held: Held) {
        // SYNC POINT (another item): who finds one of these words finds, in `held_now`, that the item
        // before is settled.
        fence(Ordering::Release);
        self.job.store(held.job, Ordering::Relaxed);
        self.index.store(held.index, Ordering::Relaxed);
        self.since.store(held.since, Ordering::Relaxed);
        // SYNC POINT (taken item): the other words become visible with the item. The queue's commit
        // comes later in program order and is a release itself: who sees the item as taken and the
        // taker dead also sees this. SeqCst for the sake of who cancels.
        self.item.store(held.item.wrapping_add(1), Ordering::SeqCst);
    }

    /// The result is committed: the worker has no task.
    pub fn settle(&self) {
        self.done.store(
            self.done.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        // SYNC POINT (settled item): the result's commit becomes visible before this does. SeqCst for
        // the sake of who condemns.
        self.item.store(0, Ordering::SeqCst);
    }

    /// The worker has no task: it didn't begin the one that it took, and has said so.
    pub fn let_go(&self) {
        self.item.store(0, Ordering::SeqCst);
    }

    /// Whether the worker is to take no further task. Asked after [`settle`](Self::settle).
    pub fn is_condemned(&self) -> bool {
        self.condemned.load(Ordering::SeqCst) != 0
    }

    /// Has the worker take no further task, if it still has this one in its hands: then true.
    pub fn condemn(&self, held: Held) -> bool {
        self.condemned.store(1, Ordering::SeqCst);
        let still = self.item.load(Ordering::SeqCst) == held.item.wrapping_add(1);
        if !still {
            // Should it have seen that meanwhile it ends, and another one comes.
            self.condemned.store(0, Ordering::SeqCst);
        }
        still
    }

    /// The task in hand: taken, or about to be.
    pub fn held(&self) -> Option<Held> {
        // SYNC POINT (taken item, settled item): pairs with `take` and `settle`.
        let item = self.item.load(Ordering::SeqCst).checked_sub(1)?;
        Some(Held {
            item,
            job: self.job.load(Ordering::Relaxed),
            index: self.index.load(Ordering::Relaxed),
            since: self.since.load(Ordering::Relaxed),
        })
    }

    /// The same of a worker that is at work: `None` too if it went on to another task meanwhile.
    pub fn held_now(&self) -> Option<Held> {
        let held = self.held()?;
        // What was read between two sights of the same number belongs to it. SYNC POINT (another item):
        // pairs with `take`.
        fence(Ordering::Acquire);
        let still = self.item.load(Ordering::SeqCst) == held.item.wrapping_add(1);
        still.then_some(held)
    }

    /// How many results the worker has committed.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

fn store_handle(words: &[AtomicU64; 2], handle: Handle) {
    let (low, high) = halves(handle.to_bytes());
    words[0].store(low, Ordering::Relaxed);
    words[1].store(high, Ordering::Relaxed);
}

fn load_handle(words: &[AtomicU64; 2]) -> Handle {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&words[0].load(Ordering::Relaxed).to_le_bytes());
    bytes[8..].copy_from_slice(&words[1].load(Ordering::Relaxed).to_le_bytes());
    Handle::from_bytes(bytes)
}

fn halves(bytes: [u8; 16]) -> (u64, u64) {
    let wide = u128::from_le_bytes(bytes);
    // The low half, then the high one: the casts cut on purpose.
    (wide as u64, (wide >> 64) as u64)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slot() -> WorkerSlot {
        WorkerSlot {
            phase: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            item: AtomicU64::new(0),
            job: AtomicU64::new(0),
            index: AtomicU64::new(0),
            done: AtomicU64::new(0),
            since: AtomicU64::new(0),
            condemned: AtomicU32::new(0),
            _pad: AtomicU32::new(0),
            lane: Lane {
                tasks: Default::default(),
                results: Default::default(),
            },
        }
    }

    #[test]
    fn a_slot_and_the_head_are_whole_lines() {
        assert_eq!(size_of::<WorkerSlot>(), 128);
        assert_eq!(size_of::<PoolState>() % align_of::<WorkerSlot>(), 0);
        assert_eq!(PoolState::size_for(3), size_of::<PoolState>() + 384);
    }

    #[test]
    fn a_slot_tells_its_task_from_take_to_settle() {
        let slot = slot();
        assert_eq!(slot.held(), None);
        let held = Held {
            item: 0,
            job: 7,
            index: 3,
            since: 12,
        };
        slot.take(held);
        assert_eq!((slot.held(), slot.held_now()), (Some(held), Some(held)));
        assert!(slot.condemn(held) && slot.is_condemned());
        slot.settle();
        slot.prepare();
        assert!(!slot.condemn(held) && !slot.is_condemned(), "it is through");
        slot.take(held);
        slot.settle();
        assert_eq!((slot.held(), slot.done()), (None, 1));
        slot.prepare();
        assert_eq!((slot.phase(), slot.done()), (Phase::Starting, 0));
    }

    #[test]
    fn every_place_has_a_word_of_its_own() {
        let mut next = CancelWord { level: 0, word: 0 };
        for place in 0..10 * FIRST_LEVEL {
            assert_eq!(CancelWord::of(place), Some(next), "{place}");
            next.word += 1;
            if next.word == next.level_length() {
                next = CancelWord {
                    level: next.level + 1,
                    word: 0,
                };
            }
        }
        assert_eq!(CancelWord::of(usize::MAX / 2), None);
    }

    #[test]
    fn handles_come_back_whole() {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let mut bytes = [0; 16];
        for (place, byte) in (1..).zip(&mut bytes) {
            *byte = place;
        }
        store_handle(&words, Handle::from_bytes(bytes));
        assert_eq!(load_handle(&words).to_bytes(), bytes);
    }
}
