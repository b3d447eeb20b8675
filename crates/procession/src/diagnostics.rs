//! Waits that take long, and circles of waits that never end, are reported.
//!
//! A thread that waits for a lock looks by itself, now and then, at who holds it, what that one
//! waits for in turn, and the clock. A circle is found within about a second; any other wait for
//! something that is held (a lock, a recursive lock, a bounded semaphore) is reported after 30 s, or
//! after what [`set_deadlock_timeout`] or `PROCESSION_DEADLOCK_TIMEOUT` in the environment (a number
//! of seconds, or `off`) says. Each wait is reported once, to standard error or to your own hook:
//!
//! ```
//! use std::time::Duration;
//! use procession::diagnostics;
//!
//! diagnostics::set_hook(|diagnosis| {
//!     if diagnosis.is_deadlock() {
//!         eprintln!("{diagnosis}");
//!     }
//! });
//! diagnostics::set_deadlock_timeout(Some(Duration::from_secs(5)))?;
//! # Ok::<(), procession::Error>(())
//! ```

use std::time::Duration;

pub use procession_engine::diagnostics::{
    DEFAULT_DEADLOCK_TIMEOUT, Diagnosis, Party, Waiting, set_hook,
};
/// The types of what a diagnosis names.
pub use procession_engine::{Handle, Kind, MemberId};

use crate::engine::diagnostics as engine;
use crate::error::Result;

/// Sets after how long a wait is reported, for all processes of the family; `None` is never, of
/// circles neither.
///
/// Once it is set, waits for plain semaphores, conditions, events and barriers are reported as well:
/// without it, they may take as long as they like.
///
/// # Errors
/// When the family's memory can't be set up.
pub fn set_deadlock_timeout(after: Option<Duration>) -> Result<()> {
    Ok(engine::set_deadlock_timeout(after)?)
}

/// After how long the wait for a lock is reported; `None` is never.
///
/// # Errors
/// When the family's memory can't be set up.
pub fn deadlock_timeout() -> Result<Option<Duration>> {
    Ok(engine::deadlock_timeout()?)
}
