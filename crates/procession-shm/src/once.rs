//! Something that one process does, for all.
//!
//! | lock | done | meaning |
//! | --- | --- | --- |
//! | free | 0 | nobody has done it, or who tried gave up |
//! | held | 0 | its owner does it; when it is dead, the next who waits |
//! | any | 1 | it is done. Stays so |
//!
//! SYNC POINT: the store of `done` (release) with its load (acquire): what was done is visible.

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, Ordering};
use crate::crash::crash_point;
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::patience::{Patience, WaitError};

/// Something to be done once, in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawOnce {
    lock: RawLock,
    done: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are something that nobody has done.
unsafe impl Shared for RawOnce {}

/// Who is to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "whoever is told to do it has the lock"]
pub enum Turn {
    /// It is done.
    Done,
    /// The caller does it, and then calls `finish` or `give_up`. Whether one before it died at it.
    Mine {
        /// The last one that had its turn died.
        after_death: bool,
    },
}

impl RawOnce {
    /// Whether it is done.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0
    }

    /// Who does it now, and in which thread.
    pub fn doing(&self) -> Option<(MemberId, u32)> {
        Some((self.lock.owner()?, self.lock.owner_thread()?))
    }

    /// Waits, as long as `patience` lasts, until it is done or it is the caller's turn to do it. The
    /// death of one that does it is noticed within 50 ms.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn begin(
        &self,
        arena: &Arena,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Turn, WaitError> {
        self.begin_with(|owner| arena.is_dead(owner), me, patience)
    }

    pub(crate) fn begin_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Turn, WaitError> {
        if self.is_done() {
            return Ok(Turn::Done);
        }
        let dead = if self.lock.try_take(me) {
            None
        } else {
            self.lock.acquire_slowly(is_dead, me, patience)?
        };
        if self.is_done() {
            self.give_up();
            return Ok(Turn::Done);
        }
        Ok(Turn::Mine {
            after_death: dead.is_some(),
        })
    }

    /// It is done. To be called by whose turn it is.
    pub fn finish(&self) {
        self.done.store(1, Ordering::SeqCst);
        crash_point!("once: done");
        self.give_up();
    }

    /// Leaves it to the next. To be called by whose turn it is.
    pub fn give_up(&self) {
        // It is held: the caller's turn.
        let _ = self.lock.release();
    }
}
