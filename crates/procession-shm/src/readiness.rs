//! Waiting for several things at once: what each of them sleeps on.
//!
//! Whoever waits counts itself in with `watch` where there is such a count, then looks; what is not
//! ready gives a word and its value *before* the look. It sleeps while all words are as they were, and
//! looks again. At the end it counts itself out with `unwatch`, which hands on a wake-up that it may
//! have had and does not use.

use crate::atomic::AtomicU32;

/// Whether something can go on without waiting.
#[derive(Debug, Clone, Copy)]
pub enum Readiness<'a> {
    /// It can, as far as can be seen: another may be faster.
    Ready,
    /// It can't before this word has another value than this.
    NotYet(&'a AtomicU32, u32),
}

impl Readiness<'_> {
    /// Whether it can.
    pub fn is_ready(self) -> bool {
        matches!(self, Readiness::Ready)
    }
}
