//! A flag to wait for.

use std::fmt;
use std::time::Duration;

use crate::engine::{self, Patience};
use crate::error::Result;
use crate::wire::travels;

/// A flag that processes wait for.
///
/// ```
/// use procession::{Event, Process};
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let ready = Event::new()?;
///     let helper = Process::spawn(|ready: Event| ready.set(), ready.clone())?;
///     ready.wait();
///     helper.join()?;
///     Ok(())
/// }
/// ```
///
/// Clones, and what other processes get of it in messages, are the same event. The death of a
/// process changes nothing: what nobody sets stays unset.
#[derive(Clone)]
pub struct Event(engine::Event);

travels!([] Event, 0, |handle| engine::Event::from_handle(handle).map(Event));

impl Event {
    pub(crate) fn engine(&self) -> &engine::Event {
        &self.0
    }

    /// A new one, not set.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Event> {
        Ok(Event(engine::Event::new()?))
    }

    /// Sets it: all who wait go on, and all who come to wait, until it is cleared.
    pub fn set(&self) {
        self.0.set();
    }

    /// Clears it.
    pub fn clear(&self) {
        self.0.clear();
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Waits until it is set.
    pub fn wait(&self) {
        // Patience without end runs out only where somebody asked to be interrupted.
        while self.0.wait(&mut Patience::forever()).is_err() {}
    }

    /// Waits until it is set, at most for `timeout`, and says whether it is.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait(&mut Patience::timeout(timeout)).is_ok()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Event")
            .field("set", &self.is_set())
            .finish_non_exhaustive()
    }
}
