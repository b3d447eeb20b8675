//! Permits that are taken and given back.

use std::fmt;
use std::time::Duration;

use crate::engine::{self, MemberId, Patience};
use crate::error::{Error, Result};
use crate::wire::travels;

/// A number of permits, for what only so many processes may do at a time, or as a counter of
/// events.
///
/// ```
/// use procession::Semaphore;
///
/// let connections = Semaphore::bounded(2)?;
/// let first = connections.acquire();
/// let second = connections.acquire();
/// assert!(connections.try_acquire().is_none());
/// drop(first);
/// assert!(connections.try_acquire().is_some());
/// # Ok::<(), procession::Error>(())
/// ```
///
/// # When a holder dies
///
/// A [bounded](Self::bounded) semaphore (of up to 65,536 permits) knows who holds its permits:
/// those of a process that has died go to whoever waits. A plain one does not: it may be in use for
/// signalling, where a permit given back would be an event that never was.
#[derive(Clone)]
pub struct Semaphore(engine::Semaphore);

travels!([] Semaphore, 0, |handle| engine::Semaphore::from_handle(handle).map(Semaphore));

impl Semaphore {
    pub(crate) fn engine(&self) -> &engine::Semaphore {
        &self.0
    }

    /// A new one with so many permits; [`release`](Self::release) may add to them.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(permits: u32) -> Result<Semaphore> {
        Ok(Semaphore(engine::Semaphore::new(permits)?))
    }

    /// A new one that never has more than so many permits.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn bounded(permits: u32) -> Result<Semaphore> {
        Ok(Semaphore(engine::Semaphore::bounded(permits)?))
    }

    /// Takes a permit, waiting until there is one.
    pub fn acquire(&self) -> Permit<'_> {
        // Patience without end runs out only where somebody asked to be interrupted.
        while self.0.acquire(&mut Patience::forever()).is_err() {}
        Permit::of(self)
    }

    /// Takes a permit if there is one now.
    #[must_use = "the permit is given back at once if nothing holds it"]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.0
            .acquire(&mut Patience::none())
            .ok()
            .map(|()| Permit::of(self))
    }

    /// Takes a permit, waiting for it at most for `timeout`.
    #[must_use = "the permit is given back at once if nothing holds it"]
    pub fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        self.0
            .acquire(&mut Patience::timeout(timeout))
            .ok()
            .map(|()| Permit::of(self))
    }

    /// Adds `count` permits: gives back those of [forgotten](Permit::forget) ones, or signals so
    /// many events.
    ///
    /// # Errors
    /// When a bounded semaphore would have more permits than it started with, or another could not
    /// count them. Then none is added.
    pub fn release(&self, count: u32) -> Result<()> {
        self.0
            .release(count)
            .map_err(|_| Error::misuse("the semaphore was released more often than acquired"))
    }

    /// How many permits are free now.
    pub fn available(&self) -> u32 {
        self.0.value()
    }
}

/// A permit of a [`Semaphore`], given back when dropped.
#[must_use = "the permit is given back at once if nothing holds it"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
    who: MemberId,
}

impl<'a> Permit<'a> {
    fn of(semaphore: &'a Semaphore) -> Permit<'a> {
        Permit {
            semaphore,
            who: semaphore.0.me(),
        }
    }

    /// Keeps the permit: it is given back by [`Semaphore::release`], perhaps in another process, or
    /// never.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Permit").finish_non_exhaustive()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // A copy in a forked child is none.
        if self.semaphore.0.me() == self.who {
            // An error would mean that somebody released what was not his; there is nobody to be told
            // here.
            let _ = self.semaphore.0.release(1);
        }
    }
}
