//! A lock that its holder may take again.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{self, Acquired, Block, Patience};
use crate::error::{Error, Result};
use crate::sync::Owner;
use crate::sync::poison::{
    Cause, Flag, LockResult, Poisoned, TryLockError, TryLockResult, Witness, forever,
};
use crate::wire;

/// Mutual exclusion between processes, for code that calls itself: the thread that holds the lock
/// may take it again, and has released it when as many guards are gone as it has taken.
///
/// It protects no value of its own: two guards of one thread would have to share it. Where a value
/// is wanted, see [`Lock`](crate::Lock).
///
/// ```
/// use procession::RLock;
///
/// fn outer(lock: &RLock) {
///     let _held = lock.lock().unwrap();
///     inner(lock);
/// }
///
/// fn inner(lock: &RLock) {
///     let _held_again = lock.lock().unwrap();
///     assert_eq!(lock.owner().unwrap().pid(), std::process::id());
/// }
///
/// let lock = RLock::new()?;
/// outer(&lock);
/// assert!(!lock.is_locked());
/// # Ok::<(), procession::Error>(())
/// ```
///
/// When a holder dies or panics, the next to take the lock has it, as an error with the guard
/// inside: [`Poisoned`]. A dead holder is noticed within 50 ms.
#[derive(Clone)]
pub struct RLock {
    lock: engine::RLock,
    block: Block,
    flag: Flag,
}

impl RLock {
    pub(crate) fn engine(&self) -> &engine::RLock {
        &self.lock
    }

    /// A new lock, free.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<RLock> {
        RLock::of(engine::RLock::new()?, Block::zeroed(8)?).ok_or_else(|| Error::garbled("a lock"))
    }

    fn of(lock: engine::RLock, block: Block) -> Option<RLock> {
        let flag = Flag(block.word(0)?);
        Some(RLock { lock, block, flag })
    }

    /// Takes the lock, or takes it once more if this thread holds it; waits until no other has it.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a holder before has died or panicked.
    pub fn lock(&self) -> LockResult<RLockGuard<'_>> {
        forever(|patience| self.acquire(patience))
    }

    /// Takes the lock if it is free now, or held by this thread.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when another holds it; and as [`lock`](Self::lock).
    pub fn try_lock(&self) -> TryLockResult<RLockGuard<'_>> {
        self.acquire(&mut Patience::none())
    }

    /// Takes the lock, waiting for it at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when it was not to be had in that time; and as
    /// [`lock`](Self::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<RLockGuard<'_>> {
        self.acquire(&mut Patience::timeout(timeout))
    }

    fn acquire(&self, patience: &mut Patience<'_>) -> TryLockResult<RLockGuard<'_>> {
        match self.lock.acquire(patience) {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::OwnerDied { info, .. }) => {
                self.flag.set(Cause::Died {
                    pid: info.map_or(0, |info| info.pid),
                });
            }
            Err(_) => return Err(TryLockError::Locked),
        }
        let guard = RLockGuard {
            _witness: Witness::new(self.flag),
            _held: Held(&self.lock),
            not_send: PhantomData,
        };
        Poisoned::told(guard, self.flag, self.flag.get(), "lock")
    }

    /// Whether anybody holds it now.
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Who holds it now.
    pub fn owner(&self) -> Option<Owner> {
        self.lock.owner().map(Owner::from_engine)
    }

    /// How many wait for it now, about.
    pub fn waiters(&self) -> u32 {
        self.lock.waiters()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RLock")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

impl Serialize for RLock {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handles([self.lock.handle(), self.block.handle()], serializer)
    }
}

impl<'de> Deserialize<'de> for RLock {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RLock, D::Error> {
        wire::deserialize_handles(deserializer, |[lock, block]| {
            let block = Block::from_handle(block)?;
            let gone = engine::Gone {
                expected: Some(engine::Kind::Block),
            };
            RLock::of(engine::RLock::from_handle(lock)?, block).ok_or(gone)
        })
    }
}

/// Undoes one acquire.
struct Held<'a>(&'a engine::RLock);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // An error would mean that somebody overwrote the word; there is nobody to be told here.
        let _ = self.0.release();
    }
}

/// The lock is held, once, while this lives.
///
/// Dropped because its thread panics, it leaves word to the next holder: [`Poisoned`].
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct RLockGuard<'a> {
    /// Dropped before the lock is released.
    _witness: Witness,
    _held: Held<'a>,
    /// The lock is its thread's.
    not_send: PhantomData<*const ()>,
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RLockGuard").finish_non_exhaustive()
    }
}
