//! Counters of permits: a plain one, and one whose permits have owners.

use std::fmt;
use std::time::Duration;

use procession_sys::thread;

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, Ordering};
use crate::futex::{self, Wake};
use crate::member::MemberId;
use crate::patience::{CHECK_OWNER, FIRST_LOOK, LOOK_AGAIN, Patience, WaitError};
use crate::readiness::Readiness;

/// The highest value of a semaphore, as of a POSIX one.
const MAX_VALUE: u32 = i32::MAX as u32;

/// Why a semaphore can't be released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseError {
    /// The value would be more than a semaphore can hold.
    Overflow,
    /// A bounded semaphore would have more permits than it started with.
    TooMany,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReleaseError::Overflow => "the semaphore can't count that high",
            ReleaseError::TooMany => "the bounded semaphore was released more often than acquired",
        })
    }
}

impl std::error::Error for ReleaseError {}

/// A semaphore in shared memory.
///
/// A plain one counts; it is also used for signalling, so a dead process's permits are not given
/// back: that would make up an event. A bounded one with at most [`RawSemaphore::OWNED`] permits
/// keeps an owner word for each, in a row behind this structure; a dead owner's permit is taken over
/// by whoever waits, by one compare-and-swap. Who waits looks after the owners when a sleep has ended by
/// itself, and from time to time should all waits be short: else those would share the permits that are left.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawSemaphore {
    /// Plain: the value. Owned: counts releases, for sleepers.
    word: AtomicU32,
    sleepers: AtomicU32,
    /// Bounded: the most permits there may be. Plain: 0.
    bound: AtomicU32,
    /// When somebody last looked whether the owners live, in milliseconds of the machine's clock modulo 2^32.
    looked: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop, zeros valid.
unsafe impl Shared for RawSemaphore {}

impl RawSemaphore {
    /// Up to so many permits of a bounded semaphore have owners.
    pub const OWNED: u32 = 65_536;

    /// Bytes behind the structure for the owners of `bound` permits.
    pub fn owner_bytes(bound: u32) -> usize {
        if bound <= Self::OWNED {
            bound as usize * size_of::<AtomicU32>()
        } else {
            0
        }
    }

    /// Sets the value, before anyone else knows the semaphore. `bounded`: it can't rise above it.
    pub fn prepare(&self, value: u32, bounded: bool) {
        self.bound
            .store(if bounded { value.max(1) } else { 0 }, Ordering::Relaxed);
        self.word.store(value, Ordering::SeqCst);
    }

    /// Takes a permit without waiting, if one is free.
    pub fn try_take(&self, me: MemberId, owners: &[AtomicU32]) -> bool {
        let taken = if owners.is_empty() {
            self.take_plain()
        } else {
            take_owned(me, owners)
        };
        taken.is_some()
    }

    /// Takes a permit, waiting as long as `patience` lasts. `owners` is empty for a plain semaphore.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn acquire(
        &self,
        arena: &Arena,
        me: MemberId,
        owners: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        self.acquire_with(|owner| arena.is_dead(owner), me, owners, patience)
    }

    pub(crate) fn acquire_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        me: MemberId,
        owners: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        let attempt = || self.try_take(me, owners).then_some(());
        if attempt().is_some() {
            return Ok(());
        }
        if patience.is_none() {
            return take_from_dead(&is_dead, me, owners).ok_or(WaitError::TimedOut);
        }
        if self.is_time_to_look(owners) && take_from_dead(&is_dead, me, owners).is_some() {
            return Ok(());
        }
        if patience.spin(attempt).is_some() {
            return Ok(());
        }
        let (mut slice, later) = if owners.is_empty() {
            (LOOK_AGAIN, LOOK_AGAIN)
        } else {
            (FIRST_LOOK, CHECK_OWNER)
        };
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let result = loop {
            // The word before the attempt: a release in between changes it and ends the sleep.
            let seen = self.word.load(Ordering::SeqCst);
            if attempt().is_some() {
                break Ok(());
            }
            let expected = if owners.is_empty() { 0 } else { seen };
            match patience.park(&self.word, expected, slice) {
                Ok(Wake::Woken) if !self.is_time_to_look(owners) => continue,
                Ok(Wake::Woken) => {}
                Ok(Wake::TimedOut) => slice = later,
                Ok(Wake::Signal) => {}
                Err(WaitError::TimedOut) => {
                    let last = attempt().or_else(|| take_from_dead(&is_dead, me, owners));
                    break last.ok_or(WaitError::TimedOut);
                }
                Err(error) => break Err(error),
            }
            // A sleep that ended by itself: nothing was released. Or nobody's did for a while.
            if take_from_dead(&is_dead, me, owners).is_some() {
                break Ok(());
            }
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// Whether nobody has looked after the owners for a while. In a model nothing depends on the clock.
    fn is_time_to_look(&self, owners: &[AtomicU32]) -> bool {
        if cfg!(loom) || owners.is_empty() {
            return false;
        }
        let now = (thread::monotonic_nanoseconds() / 1_000_000) as u32;
        let since = now.wrapping_sub(self.looked.load(Ordering::Relaxed));
        let due = Duration::from_millis(since.into()) >= LOOK_AGAIN;
        if due {
            self.looked.store(now, Ordering::Relaxed);
        }
        due
    }

    fn take_plain(&self) -> Option<()> {
        self.word
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |value| {
                value.checked_sub(1)
            })
            .ok()
            .map(|_| ())
    }

    /// Gives `count` permits back, or adds them.
    ///
    /// A permit of the caller's goes first, then any other: a permit may be handed on.
    ///
    /// # Errors
    /// When there would be too many; then none is added, unless others release at the same time.
    pub fn release(
        &self,
        me: MemberId,
        owners: &[AtomicU32],
        count: u32,
    ) -> Result<(), ReleaseError> {
        if owners.is_empty() {
            let bound = self.bound.load(Ordering::Relaxed);
            let (most, error) = if bound == 0 {
                (MAX_VALUE, ReleaseError::Overflow)
            } else {
                (bound, ReleaseError::TooMany)
            };
            let add = |value: u32| value.checked_add(count).filter(|&sum| sum <= most);
            self.word
                .fetch_update(Ordering::SeqCst, Ordering::Relaxed, add)
                .map_err(|_| error)?;
            self.wake(count);
            return Ok(());
        }
        let taken = owners
            .iter()
            .filter(|owner| owner.load(Ordering::SeqCst) != 0);
        if taken.count() < count as usize {
            return Err(ReleaseError::TooMany);
        }
        let mut given = 0;
        while given < count && give_owned(me, owners).is_some() {
            given += 1;
        }
        if given > 0 {
            self.word.fetch_add(1, Ordering::SeqCst);
            self.wake(given);
        }
        if given < count {
            Err(ReleaseError::TooMany)
        } else {
            Ok(())
        }
    }

    fn wake(&self, count: u32) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            futex::wake(&self.word, count);
        }
    }

    /// One who waits for a permit and for other things too; see [`Readiness`].
    pub fn watch(&self) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of [`watch`](Self::watch). If a permit is free, its wake-up may have come here.
    pub fn unwatch(&self, owners: &[AtomicU32]) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        if self.value(owners) > 0 {
            self.wake(1);
        }
    }

    /// Whether a permit can be had, one of the dead too.
    pub fn look(&self, arena: &Arena, owners: &[AtomicU32]) -> Readiness<'_> {
        self.look_with(|owner| arena.is_dead(owner), owners)
    }

    pub(crate) fn look_with(
        &self,
        is_dead: impl Fn(MemberId) -> bool,
        owners: &[AtomicU32],
    ) -> Readiness<'_> {
        // The word before the look: a release after it changes the word.
        let seen = self.word.load(Ordering::SeqCst);
        let expected = if owners.is_empty() { 0 } else { seen };
        if self.value(owners) > 0 || of_the_dead(is_dead, None, owners).next().is_some() {
            Readiness::Ready
        } else {
            Readiness::NotYet(&self.word, expected)
        }
    }

    /// Permits that are free now.
    pub fn value(&self, owners: &[AtomicU32]) -> u32 {
        if owners.is_empty() {
            return self.word.load(Ordering::SeqCst);
        }
        owners
            .iter()
            .filter(|owner| owner.load(Ordering::SeqCst) == 0)
            .count() as u32
    }

    /// Who holds the permits of a bounded one, each once for each permit.
    pub fn owners(owners: &[AtomicU32]) -> impl Iterator<Item = MemberId> {
        owners
            .iter()
            .filter_map(|owner| MemberId::from_raw(owner.load(Ordering::Relaxed)))
    }

    /// How many sleep waiting, about: one that was killed stays counted.
    pub fn waiters(&self) -> u32 {
        self.sleepers.load(Ordering::SeqCst)
    }
}

fn take_owned(me: MemberId, owners: &[AtomicU32]) -> Option<()> {
    let take = |owner: &&AtomicU32| {
        owner.load(Ordering::Relaxed) == 0
            && owner
                .compare_exchange(0, me.to_raw(), Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
    };
    owners.iter().find(take).map(|_| ())
}

fn take_from_dead(
    is_dead: impl Fn(MemberId) -> bool,
    me: MemberId,
    owners: &[AtomicU32],
) -> Option<()> {
    of_the_dead(is_dead, Some(me), owners)
        .find(|(owner, seen)| {
            owner
                .compare_exchange(*seen, me.to_raw(), Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
        })
        .map(|_| ())
}

/// The permits whose owners are dead, with what their words say. `me` is alive.
fn of_the_dead(
    is_dead: impl Fn(MemberId) -> bool,
    me: Option<MemberId>,
    owners: &[AtomicU32],
) -> impl Iterator<Item = (&AtomicU32, u32)> {
    // Asking the kernel costs: each owner once.
    let mut alive: Vec<MemberId> = me.into_iter().collect();
    owners.iter().filter_map(move |owner| {
        let seen = owner.load(Ordering::SeqCst);
        let id = MemberId::from_raw(seen).filter(|id| !alive.contains(id))?;
        if is_dead(id) {
            Some((owner, seen))
        } else {
            alive.push(id);
            None
        }
    })
}

fn give_owned(me: MemberId, owners: &[AtomicU32]) -> Option<()> {
    let mine = |owner: &&AtomicU32| {
        owner
            .compare_exchange(me.to_raw(), 0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    };
    let any = |owner: &&AtomicU32| owner.swap(0, Ordering::SeqCst) != 0;
    owners
        .iter()
        .find(mine)
        .or_else(|| owners.iter().find(any))
        .map(|_| ())
}
