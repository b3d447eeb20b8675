//! What loom's models use: the protocols, without an arena around them.

#![allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "for the models only"
)]

use crate::atomic::{AtomicU32, AtomicU64};
use crate::event::RawEvent;
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::patience::{LOOK_AGAIN, Patience, WaitError};
use crate::readiness::Readiness;
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

    /// To be followed by `give_up_among`, if it was notified.
    pub fn wait_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        ticket: Ticket,
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        self.wait_with(is_dead, me, ticket, patience)
    }

    pub fn give_up_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        ticket: Ticket,
        heard: bool,
    ) {
        self.give_up_with(is_dead, me, ticket, heard);
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

impl crate::rwlock::RawRwLock {
    pub fn read_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        readers: &[AtomicU64],
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        self.read_with(is_dead, me, &readers[me.index()], patience, died)
    }

    pub fn write_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        readers: &[AtomicU64],
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(MemberId),
    ) -> Result<(), WaitError> {
        self.write_with(is_dead, me, || readers, patience, died)
    }
}

/// Sleeps, as one who waits for other things too, until `look` finds it ready.
fn until_ready<'a>(look: impl Fn() -> Readiness<'a>) {
    while let Readiness::NotYet(word, seen) = look() {
        let _ = Patience::forever().park(word, seen, LOOK_AGAIN);
    }
}

impl crate::rwlock::RawRwLock {
    pub fn watch_until_unread(&self, is_dead: impl Fn(MemberId) -> bool, readers: &[AtomicU64]) {
        self.watch_to_write();
        until_ready(|| self.look_to_write_with(&is_dead, Readiness::Ready, readers));
        self.unwatch_to_write();
    }
}

impl crate::semaphore::RawSemaphore {
    pub fn watch_until_free(&self, is_dead: impl Fn(MemberId) -> bool, owners: &[AtomicU32]) {
        self.watch();
        until_ready(|| self.look_with(&is_dead, owners));
        self.unwatch(owners);
    }
}

impl crate::once::RawOnce {
    pub fn begin_among(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        patience: &mut Patience<'_>,
    ) -> Result<crate::once::Turn, WaitError> {
        self.begin_with(is_dead, me, patience)
    }
}
