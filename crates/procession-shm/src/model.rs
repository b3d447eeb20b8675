//! What loom's models use: the protocols, without an arena around them.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "for the models only"
)]

use crate::atomic::AtomicU32;
use crate::event::RawEvent;
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::patience::{Patience, WaitError};
use crate::semaphore::RawSemaphore;
use crate::wait_queue::{RawWaitQueue, Ticket};

impl RawLock {
    /// The dead owner it was taken from, if it was.
    pub fn acquire_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<Option<MemberId>, WaitError> {
        if self.try_take(me) {
            Ok(None)
        } else {
            self.acquire_slowly(is_dead, me, patience)
        }
    }
}

impl RawEvent {
    pub fn waiters(&self) -> u32 {
        self.sleepers()
    }
}

impl RawSemaphore {
    pub fn acquire_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        owners: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        self.acquire_with(is_dead, me, owners, patience)
    }
}

impl RawWaitQueue {
    pub fn enqueue_among(&self, is_dead: impl Fn(MemberId) -> bool, me: MemberId) -> Ticket {
        self.enqueue_with(is_dead, me)
    }

    pub fn notify_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        count: u32,
    ) -> u32 {
        self.notify_with(is_dead, me, count)
    }
}

/// Those who sleep for a message, for room, for the last task.
#[derive(Debug, Default)]
pub struct Sleepers(crate::sleepers::Sleepers);

impl Sleepers {
    pub fn sleep_until(
        &self,
        patience: &mut Patience<'_>,
        there: impl Fn() -> bool,
    ) -> Result<(), WaitError> {
        self.0.sleep_until(patience, there)
    }

    pub fn wake(&self, count: u32) {
        self.0.wake(count);
    }
}

/// A death becomes known: every sleep that is bounded in truth comes to its end once.
pub fn tick() {
    crate::futex::tick();
}
