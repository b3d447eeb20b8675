//! A lock that many readers hold, or one writer.
//!
//! There is a lock for writers, and behind this structure a word for each member's readers
//! (`member << 32 | readers`), at the member's place in the table. `phase` belongs to whoever holds
//! the writers' lock:
//!
//! | writers' lock | phase | meaning |
//! | --- | --- | --- |
//! | free | 0 | readers come and go |
//! | held | 0 | a reader passes through, in a moment |
//! | held | WAITING | a writer waits for the readers to go; no new ones come in |
//! | held | WRITING | a writer has it to itself |
//!
//! A reader counts itself, then looks whether the writers' lock is free. If not it takes itself off
//! again, waits for the lock as a writer would, counts itself and passes the lock on. So whoever waits
//! waits for a lock word that names its owner; a dead writer is noticed as the dead owner of any
//! lock, and only one that died WRITING left anything half done.
//!
//! A reader that dies stays counted. A writer that waits looks, whenever a sleep has ended by itself and
//! at least every 50 ms, which readers are dead and takes them off: one compare-and-swap for each member.
//!
//! SYNC POINTS: the count of a reader and the writers' lock are written by one side and read by the
//! other with a full fence between the two, on both sides: either the reader sees the lock taken or
//! the writer sees the count. The same for `phase` and the count of a reader that leaves: either it
//! sees WAITING and wakes the writer, or the writer sees that it has gone. For a watcher `watchers`
//! stands in the place of `phase`.

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use crate::crash::crash_point;
use crate::futex;
use crate::geometry::MEMBERS;
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::patience::{Lookout, Patience, WaitError};
use crate::readiness::Readiness;

const WAITING: u32 = 1;
const WRITING: u32 = 2;

/// A lock for readers and writers in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawRwLock {
    writers: RawLock,
    phase: AtomicU32,
    /// Changed when a reader leaves for whom a writer waits, or a watcher.
    left: AtomicU32,
    /// Those who wait for the readers to go and for other things too, and hold nothing meanwhile. One
    /// that was killed stays counted: that costs wake-ups of nobody.
    watchers: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are a free lock.
unsafe impl Shared for RawRwLock {}

fn pack(who: MemberId, count: u32) -> u64 {
    u64::from(who.to_raw()) << 32 | u64::from(count)
}

fn who_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn count_of(word: u64) -> u32 {
    word as u32
}

fn enter(me: MemberId, readers: &AtomicU64) {
    let _ = readers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
        let mine = who_of(word) == me.to_raw();
        // What another left there who had this place before is a dead one's.
        let count = if mine { count_of(word) } else { 0 };
        Some(pack(me, count.saturating_add(1)))
    });
    crash_point!("rwlock: counted");
}

impl RawRwLock {
    /// Words behind the structure for the readers.
    pub const READERS: usize = MEMBERS;

    fn leave(&self, me: MemberId, readers: &AtomicU64) {
        let left = readers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            (who_of(word) == me.to_raw() && count_of(word) > 0).then(|| word - 1)
        });
        crash_point!("rwlock: left");
        if left.is_ok_and(|word| count_of(word) == 1)
            && (self.phase.load(Ordering::SeqCst) == WAITING
                || self.watchers.load(Ordering::SeqCst) > 0)
        {
            self.left.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.left, u32::MAX);
        }
    }

    /// Becomes a reader, waiting as long as `patience` lasts while there is a writer or one waits.
    /// `died` is told of a writer that ended while it had the lock, before anyone else gets it.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    ///
    /// # Panics
    /// When `readers` is not what lies behind the structure.
    pub fn read(
        &self,
        arena: &Arena,
        me: MemberId,
        readers: &[AtomicU64],
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        self.read_with(
            |owner| arena.is_dead(owner),
            me,
            &readers[me.index()],
            patience,
            died,
        )
    }

    /// Becomes a reader if that needs no wait.
    ///
    /// # Panics
    /// When `readers` is not what lies behind the structure.
    pub fn try_read(&self, me: MemberId, readers: &[AtomicU64]) -> bool {
        self.enter_if_free(me, &readers[me.index()])
    }

    fn enter_if_free(&self, me: MemberId, readers: &AtomicU64) -> bool {
        enter(me, readers);
        fence(Ordering::SeqCst);
        let free = self.writers.is_free();
        if !free {
            self.leave(me, readers);
        }
        free
    }

    pub(crate) fn read_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        readers: &AtomicU64,
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        if self.enter_if_free(me, readers) {
            return Ok(());
        }
        self.take(is_dead, me, patience, died)?;
        enter(me, readers);
        // It is held, just above.
        let _ = self.writers.release();
        Ok(())
    }

    /// Takes the writers' lock; the phase is 0 then.
    fn take(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        let mut taken = self.writers.try_take(me);
        // A reader that passes through is waited for even by those who would not wait.
        let mut rounds = 0;
        while !taken
            && patience.is_none()
            && self.phase.load(Ordering::SeqCst) == 0
            && rounds < 1000
        {
            std::thread::yield_now();
            rounds += 1;
            taken = self.writers.try_take(me);
        }
        if taken {
            return Ok(());
        }
        if let Some(owner) = self.writers.acquire_slowly(is_dead, me, patience)? {
            if self.phase.load(Ordering::SeqCst) == WRITING {
                died(owner);
            }
            self.phase.store(0, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Is a reader no more.
    ///
    /// # Panics
    /// When `readers` is not what lies behind the structure.
    pub fn release_read(&self, me: MemberId, readers: &[AtomicU64]) {
        self.leave(me, &readers[me.index()]);
    }

    /// Becomes the writer, waiting as long as `patience` lasts for another to end and for the readers
    /// to go. No new reader comes in meanwhile. Readers that have died are noticed within 50 ms.
    /// `died` is told of a writer that ended while it had the lock.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn write(
        &self,
        arena: &Arena,
        me: MemberId,
        readers: &[AtomicU64],
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        let in_use = || &readers[..arena.members_in_use().min(readers.len())];
        self.write_with(|owner| arena.is_dead(owner), me, in_use, patience, died)
    }

    pub(crate) fn write_with<'a>(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        readers: impl Fn() -> &'a [AtomicU64],
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        self.take(&is_dead, me, patience, died)?;
        self.phase.store(WAITING, Ordering::SeqCst);
        crash_point!("rwlock: waits for readers");
        fence(Ordering::SeqCst);
        let mut lookout = Lookout::new();
        loop {
            let seen = self.left.load(Ordering::SeqCst);
            if readers()
                .iter()
                .all(|word| count_of(word.load(Ordering::SeqCst)) == 0)
            {
                break;
            }
            let parked = patience.park(&self.left, seen, lookout.slice());
            // Who tries to read and fails wakes the writer each time.
            if lookout.is_due(parked) {
                take_off_the_dead(&is_dead, readers());
            }
            if let Err(error) = parked {
                if readers()
                    .iter()
                    .all(|word| count_of(word.load(Ordering::SeqCst)) == 0)
                {
                    break;
                }
                self.phase.store(0, Ordering::SeqCst);
                let _ = self.writers.release();
                return Err(error);
            }
        }
        self.phase.store(WRITING, Ordering::SeqCst);
        crash_point!("rwlock: writes");
        Ok(())
    }

    /// Is the writer no more. To be called by it.
    pub fn release_write(&self) {
        self.phase.store(0, Ordering::SeqCst);
        let _ = self.writers.release();
    }

    /// Whether a reader can come in. See [`Readiness`].
    pub fn look_to_read(&self, arena: &Arena) -> Readiness<'_> {
        self.writers.look(arena)
    }

    /// One who waits to write, and for other things too; see [`Readiness`].
    pub fn watch_to_write(&self) {
        self.watchers.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of [`watch_to_write`](Self::watch_to_write).
    pub fn unwatch_to_write(&self) {
        self.watchers.fetch_sub(1, Ordering::SeqCst);
        self.unwatch();
    }

    /// The end of waiting for it to be free of a writer, and for other things too.
    pub fn unwatch(&self) {
        self.writers.unwatch();
    }

    /// Whether a writer can come in: readers that have died don't count.
    pub fn look_to_write(&self, arena: &Arena, readers: &[AtomicU64]) -> Readiness<'_> {
        let readers = &readers[..arena.members_in_use().min(readers.len())];
        self.look_to_write_with(
            |member| arena.is_dead(member),
            self.writers.look(arena),
            readers,
        )
    }

    pub(crate) fn look_to_write_with<'a>(
        &'a self,
        is_dead: impl Fn(MemberId) -> bool,
        writers: Readiness<'a>,
        readers: &[AtomicU64],
    ) -> Readiness<'a> {
        if !writers.is_ready() {
            return writers;
        }
        // The word before the look: who leaves after it changes the word.
        let seen = self.left.load(Ordering::SeqCst);
        let reads = |word: u64| {
            count_of(word) > 0 && !MemberId::from_raw(who_of(word)).is_none_or(&is_dead)
        };
        if readers
            .iter()
            .any(|word| reads(word.load(Ordering::SeqCst)))
        {
            Readiness::NotYet(&self.left, seen)
        } else {
            Readiness::Ready
        }
    }

    /// The writer, or one that waits for readers to go.
    pub fn writer(&self) -> Option<MemberId> {
        self.writers
            .owner()
            .filter(|_| self.phase.load(Ordering::SeqCst) != 0)
    }

    /// The writer and its thread, while it has the lock to itself: not while it waits for readers, who
    /// have it then.
    pub fn writing(&self) -> Option<(MemberId, u32)> {
        let writing = self.phase.load(Ordering::SeqCst) == WRITING;
        let thread = self.writers.owner_thread().filter(|_| writing)?;
        Some((self.writers.owner()?, thread))
    }

    /// The members that have it: the writer, or the readers.
    pub fn holders(&self, arena: &Arena, readers: &[AtomicU64]) -> Vec<MemberId> {
        if let Some((writer, _)) = self.writing() {
            return vec![writer];
        }
        readers
            .iter()
            .take(arena.members_in_use())
            .map(|word| word.load(Ordering::SeqCst))
            .filter(|&word| count_of(word) > 0)
            .filter_map(|word| MemberId::from_raw(who_of(word)))
            .collect()
    }

    /// How many readers there are, about: those that have died are counted until a writer comes.
    pub fn readers(&self, arena: &Arena, readers: &[AtomicU64]) -> u32 {
        readers
            .iter()
            .take(arena.members_in_use())
            .map(|word| count_of(word.load(Ordering::SeqCst)))
            .sum()
    }
}

fn take_off_the_dead(is_dead: impl Fn(MemberId) -> bool, readers: &[AtomicU64]) {
    for word in readers {
        let seen = word.load(Ordering::SeqCst);
        if count_of(seen) > 0 && MemberId::from_raw(who_of(seen)).is_none_or(&is_dead) {
            // Fails if another member, who has the place now, has come in.
            let _ = word.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::SeqCst);
        }
    }
}
