//! A lock in one word, which names its owner.
//!
//! | word | meaning | changed by |
//! | --- | --- | --- |
//! | 0 | free | anyone, to `me`, by compare-and-swap |
//! | owner | held, nobody sleeps | a waiter, to owner + WAITERS; a releaser, to 0 |
//! | owner + WAITERS | held, somebody may sleep | a releaser, to 0, who then wakes one |
//!
//! A waiter that finds the owner dead changes `dead (+ WAITERS)` to `me + WAITERS` by one
//! compare-and-swap. Who acquires after having slept keeps WAITERS set: others may still sleep.
//! Whether the owner is dead is asked when a sleep has ended by itself: while releases wake the
//! sleepers there is no need to.
//! SYNC POINT: the release in `release` pairs with the acquire in `try_take` and `take_over`.

use std::fmt;

use procession_sys::thread;

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, Ordering};
use crate::crash::crash_point;
use crate::futex::{self, Wake};
use crate::member::{MemberId, MemberInfo};
use crate::patience::{CHECK_OWNER, FIRST_LOOK, Patience, WaitError};
use crate::readiness::Readiness;

const WAITERS: u32 = 1 << 31;

/// How a lock was acquired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the lock is held; what it protects may be half changed if its owner died"]
pub enum Acquired {
    /// As usual.
    Clean,
    /// The process that held it ended without releasing it. The lock is held now all the same.
    OwnerDied {
        /// The one that died.
        owner: MemberId,
        /// What the family's table still says of it.
        info: Option<MemberInfo>,
    },
}

impl Acquired {
    /// Whether the owner died.
    pub fn owner_died(&self) -> bool {
        matches!(self, Acquired::OwnerDied { .. })
    }
}

/// The lock is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHeld;

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the lock is not held: release it once for each time it was acquired")
    }
}

impl std::error::Error for NotHeld {}

/// A lock in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawLock {
    word: AtomicU32,
    /// The owner's thread, for those who look.
    thread: AtomicU32,
    /// Sleepers, for those who look: one that was killed stays counted while others sleep.
    sleepers: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are a free lock.
unsafe impl Shared for RawLock {}

impl RawLock {
    /// Acquires the lock without waiting, if it is free.
    #[inline]
    pub fn try_take(&self, me: MemberId) -> bool {
        let taken = self
            .word
            .compare_exchange(0, me.to_raw(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if taken {
            crash_point!("lock: taken");
            self.thread.store(thread::id(), Ordering::Relaxed);
        }
        taken
    }

    /// Acquires the lock, waiting as long as `patience` lasts.
    ///
    /// If the owner is dead the lock is taken over, within 50 ms of its death, and the result says so.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up; the lock is not held then.
    pub fn acquire(
        &self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Acquired, WaitError> {
        if self.try_take(me) {
            return Ok(Acquired::Clean);
        }
        let dead = self.acquire_slowly(|owner| arena.is_dead(owner), me, patience)?;
        Ok(match dead {
            None => Acquired::Clean,
            Some(owner) => Acquired::OwnerDied {
                owner,
                info: arena.member(owner),
            },
        })
    }

    /// Acquires a lock that was not free just now; the dead owner it was taken from, if it was.
    pub(crate) fn acquire_slowly(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Option<MemberId>, WaitError> {
        if patience.is_none() {
            let owner = self.take_over(&is_dead, me);
            return owner.map(Some).ok_or(WaitError::TimedOut);
        }
        if patience.spin(|| self.try_take(me).then_some(())).is_some() {
            return Ok(None);
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        let result = self.acquire_sleeping(is_dead, me, patience);
        let _ = self
            .sleepers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                count.checked_sub(1)
            });
        result
    }

    fn acquire_sleeping(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Option<MemberId>, WaitError> {
        let mine = me.to_raw() | WAITERS;
        let mut slice = FIRST_LOOK;
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            if seen & !WAITERS == 0 {
                if self
                    .word
                    .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    self.thread.store(thread::id(), Ordering::Relaxed);
                    return Ok(None);
                }
                continue;
            }
            let marked = seen | WAITERS;
            if seen != marked
                && self
                    .word
                    .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                    .is_err()
            {
                continue;
            }
            let parked = patience.park(&self.word, marked, slice);
            if matches!(
                parked,
                Ok(Wake::TimedOut | Wake::Signal) | Err(WaitError::TimedOut)
            ) && let Some(owner) = self.take_over(&is_dead, me)
            {
                return Ok(Some(owner));
            }
            if parked? == Wake::TimedOut {
                slice = CHECK_OWNER;
            }
        }
    }

    /// Takes the lock from a dead owner, and says from whom.
    fn take_over(&self, is_dead: impl Fn(MemberId) -> bool, me: MemberId) -> Option<MemberId> {
        let seen = self.word.load(Ordering::Relaxed);
        let owner = MemberId::from_raw(seen & !WAITERS)?;
        if owner == me || !is_dead(owner) {
            return None;
        }
        let mine = me.to_raw() | WAITERS;
        self.word
            .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        self.thread.store(thread::id(), Ordering::Relaxed);
        Some(owner)
    }

    /// Whether it can be had, from a dead owner too; if not, its owner is asked to wake who sleeps.
    /// See [`Readiness`].
    pub fn look(&self, arena: &Arena) -> Readiness<'_> {
        loop {
            let seen = self.word.load(Ordering::SeqCst);
            let marked = seen | WAITERS;
            match MemberId::from_raw(seen & !WAITERS) {
                Some(owner) if !arena.is_dead(owner) => {}
                _ => return Readiness::Ready,
            }
            if seen == marked
                || self
                    .word
                    .compare_exchange(seen, marked, Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok()
            {
                return Readiness::NotYet(&self.word, marked);
            }
        }
    }

    /// The end of waiting for it and for other things too: if it is free, the wake-up may have come
    /// here.
    pub fn unwatch(&self) {
        if self.owner().is_none() {
            futex::wake(&self.word, 1);
        }
    }

    /// Releases the lock, whoever holds it, and wakes a waiter.
    ///
    /// # Errors
    /// When it is not held.
    #[inline]
    pub fn release(&self) -> Result<(), NotHeld> {
        let seen = self.word.swap(0, Ordering::Release);
        crash_point!("lock: released");
        if seen & WAITERS != 0 {
            futex::wake(&self.word, 1);
        }
        if seen & !WAITERS == 0 {
            Err(NotHeld)
        } else {
            Ok(())
        }
    }

    /// Who holds it.
    pub fn owner(&self) -> Option<MemberId> {
        MemberId::from_raw(self.word.load(Ordering::Relaxed) & !WAITERS)
    }

    /// Whether nobody holds it. If so, what the last owner did is visible: the acquire pairs with the
    /// release in `release`.
    pub(crate) fn is_free(&self) -> bool {
        self.word.load(Ordering::Acquire) & !WAITERS == 0
    }

    /// The thread that acquired it, if it is held.
    pub fn owner_thread(&self) -> Option<u32> {
        self.owner().map(|_| self.thread.load(Ordering::Relaxed))
    }

    /// The thread that wrote itself down last.
    #[inline]
    pub(crate) fn noted_thread(&self) -> u32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// By its holder: nobody is written down.
    #[inline]
    pub(crate) fn forget_thread(&self) {
        self.thread.store(0, Ordering::Relaxed);
    }

    /// How many sleep waiting for it, about: a waiter that was killed stays counted for a while.
    pub fn waiters(&self) -> u32 {
        if self.word.load(Ordering::Relaxed) & WAITERS == 0 {
            0
        } else {
            self.sleepers.load(Ordering::Relaxed)
        }
    }

    /// As [`hold`](Self::hold), if it is free: without a look at the clock.
    #[inline]
    pub(crate) fn try_hold(&self, me: MemberId) -> Option<Hold<'_>> {
        self.try_take(me).then(|| Hold(self))
    }

    /// Acquires for a short stretch of the crate's own, and releases when dropped. A dead owner's
    /// work is safe to go on with: it is as it was before or as it is after.
    pub(crate) fn hold<'a>(
        &'a self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Hold<'a>, WaitError> {
        self.acquire(arena, me, patience).map(|_| Hold(self))
    }
}

/// A lock held for a short stretch.
pub(crate) struct Hold<'a>(&'a RawLock);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // It is held: `self` is the proof.
        let _ = self.0.release();
    }
}
