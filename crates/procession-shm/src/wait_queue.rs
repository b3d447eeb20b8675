//! What a condition is made of: a list of waiters, each woken by name.
//!
//! A waiter's record:
//!
//! | `owner` | `state` | meaning | changed by |
//! | --- | --- | --- | --- |
//! | 0 | any | free | anyone, by compare-and-swap of `owner` |
//! | member | IDLE | being filled in | its owner |
//! | member | WAITING | waits, since `turn` | a notifier, to NOTIFIED; its owner, back to IDLE on time-out |
//! | member | NOTIFIED | may go on | its owner, which frees the record once it has the lock again |
//! | dead member | NOTIFIED | has made nothing of it | anyone, by compare-and-swap of `owner` to itself, who then notifies another |
//! | dead member | other | free in truth | anyone, by compare-and-swap of `owner` to itself or 0 |
//!
//! A notification is given to a waiter by compare-and-swap. If nobody slept on its word, its owner
//! is either about to look or dead; the dead are passed over. Who was notified and dies before it has
//! the lock again is found by the others that wait. So a killed waiter costs no wake-up.

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::futex::{self, Wake};
use crate::member::MemberId;
use crate::patience::{CHECK_OWNER, Patience, WaitError};
use crate::readiness::Readiness;

const IDLE: u32 = 0;
const WAITING: u32 = 1;
const NOTIFIED: u32 = 2;
/// More waiters than this share one word, and may be woken for nothing.
const RECORDS: usize = if cfg!(loom) { 3 } else { 250 };

#[repr(C)]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
struct Record {
    owner: AtomicU32,
    state: AtomicU32,
    turn: AtomicU64,
}

/// A waiter's place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a ticket that is not waited on swallows a notification"]
pub struct Ticket(u32);

/// Tickets above the records: the value of the shared word when the waiter joined.
const SHARED: u32 = 1 << 31;

impl Ticket {
    /// For a language that has no types to keep it.
    pub fn to_raw(self) -> u32 {
        self.0
    }

    /// What [`to_raw`](Self::to_raw) gave.
    pub fn from_raw(raw: u32) -> Ticket {
        Ticket(raw)
    }
}

/// The waiters of a condition, in shared memory.
#[repr(C)]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct RawWaitQueue {
    next_turn: AtomicU64,
    /// Those who found no record wait for this word to change.
    overflow: AtomicU32,
    overflow_sleepers: AtomicU32,
    records: [Record; RECORDS],
}

// SAFETY: repr(C), atomics only, no Drop; zeros are an empty queue.
unsafe impl Shared for RawWaitQueue {}

impl RawWaitQueue {
    /// Whether this member has a place in the queue and was not notified there.
    pub(crate) fn is_waiting(&self, member: MemberId) -> bool {
        self.records.iter().any(|record| {
            record.owner.load(Ordering::SeqCst) == member.to_raw()
                && record.state.load(Ordering::SeqCst) == WAITING
        })
    }

    /// Joins the queue. To be called while the condition's lock is held, so that no notification
    /// that follows is missed.
    pub fn enqueue(&self, arena: &Arena, me: MemberId) -> Ticket {
        self.enqueue_with(|id| arena.is_dead(id), me)
    }

    pub(crate) fn enqueue_with(&self, is_dead: impl Fn(MemberId) -> bool, me: MemberId) -> Ticket {
        let claim = |from: &dyn Fn(u32) -> bool| {
            self.records.iter().position(|record| {
                let seen = record.owner.load(Ordering::SeqCst);
                from(seen)
                    && record
                        .owner
                        .compare_exchange(seen, me.to_raw(), Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
            })
        };
        let dead = |seen: u32| MemberId::from_raw(seen).is_some_and(|id| id != me && is_dead(id));
        let free = claim(&|seen| seen == 0);
        let Some(index) = free.or_else(|| claim(&dead)) else {
            self.overflow_sleepers.fetch_add(1, Ordering::SeqCst);
            return Ticket(self.overflow.load(Ordering::SeqCst) & !SHARED | SHARED);
        };
        let record = &self.records[index];
        if free.is_none() {
            // Whoever notifies may take the dead one for this one until here.
            let _ =
                record
                    .state
                    .compare_exchange(WAITING, IDLE, Ordering::SeqCst, Ordering::SeqCst);
            if record.state.load(Ordering::SeqCst) == NOTIFIED {
                self.notify_with(&is_dead, me, 1);
            }
        }
        record.state.store(IDLE, Ordering::SeqCst);
        record.turn.store(
            self.next_turn.fetch_add(1, Ordering::SeqCst),
            Ordering::SeqCst,
        );
        record.state.store(WAITING, Ordering::SeqCst);
        // Fits: there are few records.
        Ticket(index as u32)
    }

    /// Waits to be notified. The condition's lock is not held meanwhile. Once notified, the place is kept
    /// until it is [given up](Self::give_up), as `heard`, with the lock held again: should the waiter die
    /// before that, another is notified.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up; the place is given up then.
    pub fn wait(
        &self,
        arena: &Arena,
        me: MemberId,
        ticket: Ticket,
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        self.wait_with(|id| arena.is_dead(id), me, ticket, patience)
    }

    pub(crate) fn wait_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        ticket: Ticket,
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        if ticket.0 & SHARED != 0 {
            return self.wait_shared(&is_dead, me, ticket, patience);
        }
        let Some(record) = self.records.get(ticket.0 as usize) else {
            return Ok(());
        };
        let notified = || (record.state.load(Ordering::SeqCst) != WAITING).then_some(());
        let mut result = Ok(());
        if notified().is_none() && patience.spin(notified).is_none() {
            while result.is_ok() && notified().is_none() {
                let parked = patience.park(&record.state, WAITING, CHECK_OWNER);
                if matches!(parked, Ok(Wake::TimedOut | Wake::Signal)) {
                    self.pass_on_from_the_dead(&is_dead, me);
                }
                result = parked.map(|_| ());
            }
        }
        // Notified after all, at the last moment: not to be wasted.
        if result == Err(WaitError::TimedOut) && notified().is_some() {
            return Ok(());
        }
        if result.is_err() {
            self.give_up_with(&is_dead, me, ticket, false);
        }
        result
    }

    /// Whether the ticket's holder was notified; the place is kept until it is given up. See [`Readiness`].
    pub fn look(&self, arena: &Arena, me: MemberId, ticket: Ticket) -> Readiness<'_> {
        self.pass_on_from_the_dead(|id| arena.is_dead(id), me);
        if ticket.0 & SHARED != 0 {
            let now = self.overflow.load(Ordering::SeqCst);
            return if now & !SHARED == ticket.0 & !SHARED {
                Readiness::NotYet(&self.overflow, now)
            } else {
                Readiness::Ready
            };
        }
        match self.records.get(ticket.0 as usize) {
            Some(record) if record.state.load(Ordering::SeqCst) == WAITING => {
                Readiness::NotYet(&record.state, WAITING)
            }
            _ => Readiness::Ready,
        }
    }

    /// Gives up the place of a ticket that is not waited on any more, whether or not it was notified.
    /// If it was, and nobody `heard` of it, another is notified.
    pub fn give_up(&self, arena: &Arena, me: MemberId, ticket: Ticket, heard: bool) {
        self.give_up_with(|id| arena.is_dead(id), me, ticket, heard);
    }

    pub(crate) fn give_up_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        ticket: Ticket,
        heard: bool,
    ) {
        if ticket.0 & SHARED != 0 {
            let _ =
                self.overflow_sleepers
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                        count.checked_sub(1)
                    });
            return;
        }
        let Some(record) = self.records.get(ticket.0 as usize) else {
            return;
        };
        let notified = record
            .state
            .compare_exchange(WAITING, IDLE, Ordering::SeqCst, Ordering::SeqCst)
            .is_err();
        if notified && !heard {
            // Before it is gone from here: should this process die in between, another does it.
            self.notify_with(is_dead, me, 1);
        }
        record.state.store(IDLE, Ordering::SeqCst);
        record.owner.store(0, Ordering::SeqCst);
    }

    /// Notifies another for each one that was notified and has died before it made anything of that.
    fn pass_on_from_the_dead(&self, is_dead: impl Fn(MemberId) -> bool, me: MemberId) {
        for record in &self.records {
            if record.state.load(Ordering::SeqCst) != NOTIFIED {
                continue;
            }
            let owner = record.owner.load(Ordering::SeqCst);
            // This member's from here on: should it die as well, the next one finds it as it was.
            let found = MemberId::from_raw(owner).is_some_and(|id| id != me && is_dead(id))
                && record
                    .owner
                    .compare_exchange(owner, me.to_raw(), Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok();
            if found {
                self.notify_with(&is_dead, me, 1);
                record.state.store(IDLE, Ordering::SeqCst);
                record.owner.store(0, Ordering::SeqCst);
            }
        }
    }

    /// Those who wait, the longest-waiting first.
    fn waiting(&self) -> impl Iterator<Item = &Record> {
        let mut waiting: Vec<(u64, &Record)> = self
            .records
            .iter()
            .filter(|record| {
                record.owner.load(Ordering::SeqCst) != 0
                    && record.state.load(Ordering::SeqCst) == WAITING
            })
            .map(|record| (record.turn.load(Ordering::SeqCst), record))
            .collect();
        waiting.sort_by_key(|(turn, _)| *turn);
        waiting.into_iter().map(|(_, record)| record)
    }

    fn wait_shared(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        ticket: Ticket,
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        let mut result = Ok(());
        while result.is_ok() {
            let now = self.overflow.load(Ordering::SeqCst);
            if now & !SHARED != ticket.0 & !SHARED {
                return Ok(());
            }
            let parked = patience.park(&self.overflow, now, CHECK_OWNER);
            if matches!(parked, Ok(Wake::TimedOut | Wake::Signal)) {
                self.pass_on_from_the_dead(&is_dead, me);
            }
            result = parked.map(|_| ());
        }
        self.give_up_with(is_dead, me, ticket, false);
        result
    }

    /// Lets the `count` longest-waiting go on and says how many there were. To be called while the
    /// condition's lock is held. Does not block.
    pub fn notify(&self, arena: &Arena, me: MemberId, count: u32) -> u32 {
        self.notify_with(|id| arena.is_dead(id), me, count)
    }

    pub(crate) fn notify_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        count: u32,
    ) -> u32 {
        let mut woken = 0;
        for record in self.waiting() {
            if woken == count {
                return woken;
            }
            if record
                .state
                .compare_exchange(WAITING, NOTIFIED, Ordering::SeqCst, Ordering::SeqCst)
                .is_err()
            {
                continue;
            }
            if futex::wake(&record.state, 1) > 0 {
                woken += 1;
                continue;
            }
            // Nobody slept there: the waiter has not gone to sleep yet, or never will.
            let owner = record.owner.load(Ordering::SeqCst);
            match MemberId::from_raw(owner) {
                Some(id) if id != me && is_dead(id) => {
                    let _ =
                        record
                            .owner
                            .compare_exchange(owner, 0, Ordering::SeqCst, Ordering::SeqCst);
                }
                _ => woken += 1,
            }
        }
        let shared = self
            .overflow_sleepers
            .load(Ordering::SeqCst)
            .min(count - woken);
        if shared > 0 {
            self.overflow.fetch_add(1, Ordering::SeqCst);
            futex::wake(&self.overflow, u32::MAX);
        }
        woken + shared
    }

    /// How many wait, killed ones that nobody has come across yet included.
    pub fn waiters(&self) -> u32 {
        let records = self.records.iter().filter(|record| {
            record.owner.load(Ordering::SeqCst) != 0
                && record.state.load(Ordering::SeqCst) == WAITING
        });
        records.count() as u32 + self.overflow_sleepers.load(Ordering::SeqCst)
    }
}
