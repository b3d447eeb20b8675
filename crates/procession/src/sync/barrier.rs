//! A meeting point.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::engine::{self, Arrival, Patience};
use crate::error::{Error, Result};
use crate::wire::travels;

/// A point where a fixed number of processes wait for each other. It can be used again and again.
///
/// ```
/// use procession::{Barrier, Process};
///
/// fn racer(start: Barrier, number: u32) -> procession::Result<(), String> {
///     start.wait().map_err(|error| error.to_string())?;
///     println!("{number} is off");
///     Ok(())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let start = Barrier::new(3)?;
///     let racers = (0..3).map(|number| Process::spawn(racer, (start.clone(), number)));
///     for racer in racers.collect::<Result<Vec<_>, _>>()? {
///         racer.join()?.expect("all three came");
///     }
///     Ok(())
/// }
/// ```
///
/// When a party gives up waiting, aborts, or dies while it waits, the barrier is broken: everybody
/// who waits there gets an error ([`Error::is_broken`]), and everybody who comes, until it is
/// [`reset`](Self::reset). A death is noticed by those who wait, within 50 ms; one who has come counts
/// as here until then, and the last to come may get through beside it. Who has got through and is
/// killed before the next round is over breaks that one.
#[derive(Clone)]
pub struct Barrier(engine::Barrier);

travels!([] Barrier, 0, |handle| engine::Barrier::from_handle(handle).map(Barrier));

/// A party has got through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult {
    index: u32,
    leader: bool,
}

impl BarrierWaitResult {
    /// Whether this party is the one of all, the last to come, that may do what is to be done once.
    pub fn is_leader(self) -> bool {
        self.leader
    }

    /// In which order this party came, from 0.
    pub fn index(self) -> u32 {
        self.index
    }
}

impl Barrier {
    /// A new one for so many parties.
    ///
    /// # Errors
    /// When that is none, or there is no memory.
    pub fn new(parties: u32) -> Result<Barrier> {
        let parties = NonZeroU32::new(parties)
            .ok_or_else(|| Error::misuse("a barrier needs at least one party"))?;
        Ok(Barrier(engine::Barrier::new(parties)?))
    }

    /// Waits until all parties are here.
    ///
    /// # Errors
    /// When the barrier is, or gets, broken.
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.arrive(&mut Patience::forever(), || {})
    }

    /// Waits until all parties are here, at most for `timeout`. If they aren't then, the barrier is
    /// broken.
    ///
    /// # Errors
    /// When the barrier is, or gets, broken.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult> {
        self.arrive(&mut Patience::timeout(timeout), || {})
    }

    /// Like [`wait`](Self::wait); the last to come runs `action` before any of them goes on.
    ///
    /// # Errors
    /// When the barrier is, or gets, broken. If `action` panics, it is.
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<BarrierWaitResult> {
        self.arrive(&mut Patience::forever(), action)
    }

    fn arrive(
        &self,
        patience: &mut Patience<'_>,
        action: impl FnOnce(),
    ) -> Result<BarrierWaitResult> {
        /// Breaks the barrier unless it is told that all went well.
        struct Leading<'a>(&'a engine::Barrier);
        impl Drop for Leading<'_> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        let arrival: Arrival = self
            .0
            .arrive(patience)
            .map_err(|_| Error::barrier_broken())?;
        if arrival.leader {
            let leading = Leading(&self.0);
            action();
            std::mem::forget(leading);
            self.0
                .finish(&arrival)
                .map_err(|_| Error::barrier_broken())?;
        }
        Ok(BarrierWaitResult {
            index: arrival.index,
            leader: arrival.leader,
        })
    }

    /// Breaks it: everybody who waits gets an error.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Empties it and makes it whole: everybody who waits gets an error, who comes afterwards does
    /// not.
    pub fn reset(&self) {
        // Patience without end runs out only where somebody asked to be interrupted.
        while self.0.reset(&mut Patience::forever()).is_err() {}
    }

    /// How many parties it takes.
    pub fn parties(&self) -> u32 {
        self.0.parties()
    }

    /// How many wait in it now.
    pub fn waiting(&self) -> u32 {
        self.0.waiting()
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.0.is_broken()
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &self.waiting())
            .field("broken", &self.is_broken())
            .finish_non_exhaustive()
    }
}
