//! Sleeping until others have brought something about, at no cost to them while nobody sleeps.
//!
//! | who sleeps | who brings it about |
//! | --- | --- |
//! | counts itself in `count` | makes the change |
//! | reads `word` | reads `count`: if nobody sleeps, that was all |
//! | looks whether the change was made | changes `word` |
//! | sleeps while `word` is as read | wakes |
//!
//! SYNC POINT: the change and the look at it, and `count` on both sides, are sequentially
//! consistent: either the one sees the sleeper or the other sees the change. `word` is read before
//! the look: a change after the look changes `word` and ends the sleep.

use crate::atomic::{AtomicU32, Ordering};
use crate::futex;
use crate::patience::{Patience, WaitError};
use crate::readiness::Readiness;

/// Those who sleep until something has changed.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    word: AtomicU32,
    /// One that was killed stays counted: that costs a wake-up of nobody.
    count: AtomicU32,
}

impl Sleepers {
    /// Sleeps until `there` says so.
    pub(crate) fn sleep_until(
        &self,
        patience: &mut Patience<'_>,
        there: impl Fn() -> bool,
    ) -> Result<(), WaitError> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            let seen = self.word.load(Ordering::SeqCst);
            if there() {
                break Ok(());
            }
            if let Err(error) = patience.park_for_event(&self.word, seen) {
                break Err(error);
            }
        };
        self.count.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Wakes `count` of those who sleep. To be called after a sequentially consistent change.
    #[inline]
    pub(crate) fn wake(&self, count: u32) {
        if self.count.load(Ordering::SeqCst) > 0 {
            self.word.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.word, count);
        }
    }

    /// One more sleeps here, perhaps on other words as well.
    pub(crate) fn watch(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// One less. If `there` is something still, its wake-up may have come here.
    pub(crate) fn unwatch(&self, there: impl Fn() -> bool) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        if there() {
            self.wake(1);
        }
    }

    /// Looks whether what is slept for is there. The word is read before.
    pub(crate) fn look(&self, there: impl Fn() -> bool) -> Readiness<'_> {
        let seen = self.word.load(Ordering::SeqCst);
        if there() {
            Readiness::Ready
        } else {
            Readiness::NotYet(&self.word, seen)
        }
    }
}
