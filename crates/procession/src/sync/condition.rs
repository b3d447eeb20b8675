//! Waiting for something to become true under a lock.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{Patience, WaitQueue};
use crate::error::Result;
use crate::sync::lock::LockGuard;
use crate::sync::poison::LockResult;
use crate::wire::travels;

/// What processes wait for that hold a [`Lock`](crate::Lock): for its value to become something that another
/// makes of it.
///
/// ```
/// use procession::{Condition, Lock, Process};
///
/// fn fill(level: Lock<u32>, changed: Condition) {
///     for _ in 0..10 {
///         *level.lock().unwrap() += 1;
///         changed.notify_all();
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let level = Lock::new(0)?;
///     let changed = Condition::new()?;
///     let pump = Process::spawn(fill, (level.clone(), changed.clone()))?;
///     let full = changed.wait_while(level.lock()?, |level| *level < 10)?;
///     assert_eq!(*full, 10);
///     drop(full);
///     pump.join()?;
///     Ok(())
/// }
/// ```
///
/// Clones, and what other processes get of it in messages, are the same condition. A process that
/// is killed while it waits takes no notification with it.
#[derive(Clone)]
pub struct Condition(WaitQueue);

travels!([] Condition, 0, |handle| WaitQueue::from_handle(handle).map(Condition));

impl Condition {
    #[cfg(feature = "tokio")]
    pub(crate) fn engine(&self) -> &WaitQueue {
        &self.0
    }

    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Condition> {
        Ok(Condition(WaitQueue::new()?))
    }

    /// Releases the lock, waits to be notified, and takes the lock again.
    ///
    /// It may also return without a notification: look whether what was waited for is there, or use
    /// [`wait_while`](Self::wait_while). A value that was changed under the guard is put back
    /// before.
    ///
    /// # Errors
    /// [`Poisoned`](crate::Poisoned), with the guard inside, when another holder has died or
    /// panicked meanwhile.
    pub fn wait<'a, T>(&self, guard: LockGuard<'a, T>) -> LockResult<LockGuard<'a, T>>
    where
        T: Serialize + DeserializeOwned,
    {
        self.release_and_wait(guard, &mut Patience::forever()).0
    }

    /// Like [`wait`](Self::wait), at most for `timeout`; says whether that has passed without a
    /// notification.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout<'a, T>(
        &self,
        guard: LockGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(LockGuard<'a, T>, bool)>
    where
        T: Serialize + DeserializeOwned,
    {
        let (locked, timed_out) = self.release_and_wait(guard, &mut Patience::timeout(timeout));
        match locked {
            Ok(guard) => Ok((guard, timed_out)),
            Err(poisoned) => Err(poisoned.map(|guard| (guard, timed_out))),
        }
    }

    /// Waits as long as `unfulfilled` says so of the value.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_while<'a, T>(
        &self,
        mut guard: LockGuard<'a, T>,
        mut unfulfilled: impl FnMut(&T) -> bool,
    ) -> LockResult<LockGuard<'a, T>>
    where
        T: Serialize + DeserializeOwned,
    {
        while unfulfilled(&guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// The same, at most for `timeout`; says whether that has passed in vain.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: LockGuard<'a, T>,
        timeout: Duration,
        mut unfulfilled: impl FnMut(&T) -> bool,
    ) -> LockResult<(LockGuard<'a, T>, bool)>
    where
        T: Serialize + DeserializeOwned,
    {
        let deadline = Instant::now().checked_add(timeout);
        while unfulfilled(&guard) {
            let left = deadline.map_or(timeout, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok((guard, true));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
        Ok((guard, false))
    }

    /// Lets the process go on that has waited longest.
    ///
    /// Whoever changes what is waited for does that under the lock; notifying is possible before or
    /// after it is released.
    pub fn notify_one(&self) {
        self.0.notify(1);
    }

    /// Lets all go on that wait now.
    pub fn notify_all(&self) {
        self.0.notify(u32::MAX);
    }

    fn release_and_wait<'a, T>(
        &self,
        guard: LockGuard<'a, T>,
        patience: &mut Patience<'_>,
    ) -> (LockResult<LockGuard<'a, T>>, bool)
    where
        T: Serialize + DeserializeOwned,
    {
        let lock = LockGuard::lock(&guard);
        let ticket = self.0.enqueue();
        drop(guard);
        let waited = self.0.wait(ticket, patience);
        // Should this process die while it waits for the lock, another one is notified.
        let locked = lock.lock();
        if waited.is_ok() {
            self.0.give_up(ticket, true);
        }
        (locked, waited.is_err())
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Condition").finish_non_exhaustive()
    }
}
