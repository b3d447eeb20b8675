//! A lock that the thread which holds it may acquire again.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use procession_sys::thread;

use crate::arena::{Arena, Shared};
use crate::lock::{Acquired, RawLock};
use crate::member::MemberId;
use crate::patience::{Patience, WaitError};
use crate::readiness::Readiness;

/// The lock is not held by the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOwner;

impl fmt::Display for NotOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the recursive lock is not held by this thread: only the thread that acquired it can release it")
    }
}

impl std::error::Error for NotOwner {}

/// A recursive lock in shared memory. `count` and the lock's note of its thread belong to whoever holds
/// it. The note is cleared before it is let go: between taking the lock and writing the note another
/// thread of the process must not find its own from before.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawRLock {
    lock: RawLock,
    count: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are a free lock.
unsafe impl Shared for RawRLock {}

impl RawRLock {
    /// Whether the calling thread holds it.
    #[inline]
    pub fn is_mine(&self, me: MemberId) -> bool {
        self.lock.owner() == Some(me) && self.lock.noted_thread() == thread::id()
    }

    /// Acquires it without waiting, `times` at once, if it is free or the calling thread's.
    ///
    /// # Panics
    /// When one thread acquires it 2^32 times.
    #[inline]
    pub fn try_take(&self, me: MemberId, times: u32) -> bool {
        if self.is_mine(me) {
            let count = self.count.load(Ordering::Relaxed);
            let more = count
                .checked_add(times)
                .expect("a recursive lock acquired 2^32 times by one thread");
            self.count.store(more, Ordering::Relaxed);
            return true;
        }
        let taken = self.lock.try_take(me);
        if taken {
            self.count.store(times, Ordering::Relaxed);
        }
        taken
    }

    /// Acquires it, `times` at once; waits as long as `patience` lasts if another holds it.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    ///
    /// # Panics
    /// When one thread acquires it 2^32 times.
    pub fn acquire(
        &self,
        arena: &Arena,
        me: MemberId,
        times: u32,
        patience: &mut Patience<'_>,
    ) -> Result<Acquired, WaitError> {
        if self.try_take(me, times) {
            return Ok(Acquired::Clean);
        }
        let acquired = self.lock.acquire(arena, me, patience)?;
        self.count.store(times, Ordering::Relaxed);
        Ok(acquired)
    }

    /// Whether the calling thread can have it, from a dead owner too. See [`Readiness`].
    pub fn look(&self, arena: &Arena, me: MemberId) -> Readiness<'_> {
        if self.is_mine(me) {
            Readiness::Ready
        } else {
            self.lock.look(arena)
        }
    }

    /// The end of waiting for it and for other things too.
    pub fn unwatch(&self) {
        self.lock.unwatch();
    }

    /// Undoes one acquire.
    ///
    /// # Errors
    /// When the calling thread does not hold it.
    #[inline]
    pub fn release(&self, me: MemberId) -> Result<(), NotOwner> {
        if !self.is_mine(me) {
            return Err(NotOwner);
        }
        let left = self.count.load(Ordering::Relaxed).saturating_sub(1);
        self.count.store(left, Ordering::Relaxed);
        if left == 0 {
            self.let_go();
        }
        Ok(())
    }

    /// Undoes all acquires of the calling thread and says how many there were.
    ///
    /// # Errors
    /// When the calling thread does not hold it.
    pub fn release_all(&self, me: MemberId) -> Result<u32, NotOwner> {
        if !self.is_mine(me) {
            return Err(NotOwner);
        }
        let count = self.count.swap(0, Ordering::Relaxed);
        self.let_go();
        Ok(count)
    }

    #[inline]
    fn let_go(&self) {
        self.lock.forget_thread();
        // It is held by this thread: checked by both callers.
        let _ = self.lock.release();
    }

    /// How many times it is acquired.
    pub fn count(&self) -> u32 {
        if self.lock.owner().is_some() {
            self.count.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// Who holds it.
    pub fn owner(&self) -> Option<MemberId> {
        self.lock.owner()
    }

    /// The thread that holds it.
    pub fn owner_thread(&self) -> Option<u32> {
        self.lock.owner_thread()
    }

    /// How many sleep waiting for it, about.
    pub fn waiters(&self) -> u32 {
        self.lock.waiters()
    }
}
