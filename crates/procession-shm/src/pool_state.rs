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
//! | `job`, `index` | the task in that item; written before `item` |
//! | `done` | how many results this worker has committed |

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arena::Shared;
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
    _rest: [AtomicU64; 2],
}

// SAFETY: repr(C), atomics only, no Drop; all zeros is a pool without queues and workers.
unsafe impl Shared for PoolState {}

/// What one worker is doing.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct WorkerSlot {
    phase: AtomicU32,
    pid: AtomicU32,
    item: AtomicU64,
    job: AtomicU64,
    index: AtomicU64,
    done: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop, aligned to 64 bytes; all zeros is an empty slot.
unsafe impl Shared for WorkerSlot {}

/// The task that a worker has, or was about to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The number of its item in the task queue.
    pub item: u64,
    /// The job it belongs to.
    pub job: u64,
    /// Its place in the job.
    pub index: u64,
}

impl PoolState {
    /// Bytes of a pool with this many workers.
    pub const fn size_for(workers: u32) -> usize {
        size_of::<PoolState>() + workers as usize * size_of::<WorkerSlot>()
    }

    /// Fills in a new pool's head.
    pub fn set_up(&self, tasks: Handle, results: Handle, workers: u32, max_tasks: u64) {
        store_handle(&self.tasks, tasks);
        store_handle(&self.results, results);
        self.max_tasks.store(max_tasks, Ordering::Relaxed);
        // SYNC POINT (pool head): what is above becomes visible with the number of workers.
        self.workers.store(workers, Ordering::Release);
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
        self.pid.store(0, Ordering::SeqCst);
        self.phase.store(Phase::Starting as u32, Ordering::SeqCst);
    }

    /// The parent has seen the worker dead and settled its task.
    pub fn vacate(&self) {
        self.item.store(0, Ordering::SeqCst);
        self.pid.store(0, Ordering::SeqCst);
        self.phase.store(Phase::Empty as u32, Ordering::SeqCst);
    }

    /// How far the worker has come.
    pub fn phase(&self) -> Phase {
        Phase::from_word(self.phase.load(Ordering::SeqCst))
    }

    /// The worker has come as far as this.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::SeqCst);
    }

    /// The worker's process; 0 before it has attached.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }

    /// The worker says who it is.
    pub fn set_pid(&self, pid: u32) {
        self.pid.store(pid, Ordering::SeqCst);
    }

    /// The worker is about to take this item; called before the taking is committed.
    pub fn take(&self, held: Held) {
        self.job.store(held.job, Ordering::Relaxed);
        self.index.store(held.index, Ordering::Relaxed);
        // SYNC POINT (taken item): job and index become visible with the item. The queue's commit
        // comes later in program order and is a release itself: who sees the item as taken and the
        // taker dead also sees this.
        self.item
            .store(held.item.wrapping_add(1), Ordering::Release);
    }

    /// The result is committed: the worker has no task.
    pub fn settle(&self) {
        self.done.store(
            self.done.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        // SYNC POINT (settled item): the result's commit becomes visible before this does.
        self.item.store(0, Ordering::Release);
    }

    /// The task in hand: taken, or about to be.
    pub fn held(&self) -> Option<Held> {
        // SYNC POINT (taken item, settled item): pairs with `take` and `settle`.
        let item = self.item.load(Ordering::Acquire).checked_sub(1)?;
        Some(Held {
            item,
            job: self.job.load(Ordering::Relaxed),
            index: self.index.load(Ordering::Relaxed),
        })
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

#[cfg(test)]
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
        }
    }

    #[test]
    fn a_slot_and_the_head_are_whole_lines() {
        assert_eq!(size_of::<WorkerSlot>(), 64);
        assert_eq!(size_of::<PoolState>() % align_of::<WorkerSlot>(), 0);
        assert_eq!(PoolState::size_for(3), size_of::<PoolState>() + 192);
    }

    #[test]
    fn a_slot_tells_its_task_from_take_to_settle() {
        let slot = slot();
        assert_eq!(slot.held(), None);
        let held = Held {
            item: 0,
            job: 7,
            index: 3,
        };
        slot.take(held);
        assert_eq!(slot.held(), Some(held));
        slot.settle();
        assert_eq!((slot.held(), slot.done()), (None, 1));
        slot.prepare();
        assert_eq!((slot.phase(), slot.done()), (Phase::Starting, 0));
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
