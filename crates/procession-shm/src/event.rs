//! A flag that processes wait for.

use crate::arena::Shared;
use crate::atomic::{AtomicU32, Ordering};
use crate::futex;
use crate::patience::{LOOK_AGAIN, Patience, WaitError};
use crate::readiness::Readiness;

const SET: u32 = 1;

/// An event in shared memory: `times set << 1 | is set`, so that a waiter is let through even if the
/// flag was cleared again before it looked. A waiter that is killed takes nothing with it.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawEvent {
    word: AtomicU32,
    sleepers: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are a cleared event.
unsafe impl Shared for RawEvent {}

impl RawEvent {
    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0
    }

    #[cfg(loom)]
    pub(crate) fn sleepers(&self) -> u32 {
        self.sleepers.load(Ordering::SeqCst)
    }

    /// Sets the flag and lets everyone through who waits. Does not block.
    pub fn set(&self) {
        // One that is set is written to all the same: who clears it after this, and then looks for what it
        // was set for, must find what was done before this call.
        let set = |word: u32| {
            Some(if word & SET == 0 {
                word.wrapping_add(2) | SET
            } else {
                word
            })
        };
        let before = self
            .word
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, set);
        if before.is_ok_and(|word| word & SET == 0) && self.sleepers.load(Ordering::SeqCst) > 0 {
            futex::wake(&self.word, u32::MAX);
        }
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::SeqCst);
    }

    /// Waits until the flag is set, or has been since the call began.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn wait(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let start = self.word.load(Ordering::SeqCst);
        // It may be cleared before the next look: then there is no sleeping on this value.
        if start & SET != 0 {
            return Ok(());
        }
        let through = || {
            let now = self.word.load(Ordering::SeqCst);
            (now & SET != 0 || now >> 1 != start >> 1).then_some(())
        };
        if through().is_some() || patience.spin(through).is_some() {
            return Ok(());
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            if through().is_some() {
                break Ok(());
            }
            match patience.park(&self.word, start, LOOK_AGAIN) {
                Ok(_) => {}
                // An interruption is not to be swallowed; a time-out that comes too late is.
                Err(WaitError::TimedOut) if through().is_some() => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// One who waits for it, and for other things too; see [`Readiness`].
    pub fn watch(&self) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of [`watch`](Self::watch).
    pub fn unwatch(&self) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether it is set.
    pub fn look(&self) -> Readiness<'_> {
        let seen = self.word.load(Ordering::SeqCst);
        if seen & SET != 0 {
            Readiness::Ready
        } else {
            Readiness::NotYet(&self.word, seen)
        }
    }
}
