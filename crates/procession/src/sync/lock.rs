//! A lock, and the value that it protects.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{self, Acquired, MemberId, Patience};
use crate::error::Result;
use crate::sync::Owner;
use crate::sync::poison::{Cause, LockResult, Poisoned, TryLockError, TryLockResult, forever};
use crate::sync::stored::State;

/// Mutual exclusion between processes, and a value that whoever holds the lock may read and change.
///
/// ```
/// use procession::{Lock, Process};
///
/// fn deposit(account: Lock<u64>, amount: u64) {
///     *account.lock().unwrap() += amount;
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let account = Lock::new(0)?;
///     let payers = (1..=4).map(|amount| Process::spawn(deposit, (account.clone(), amount)));
///     for payer in payers.collect::<Vec<_>>() {
///         payer?.join()?;
///     }
///     assert_eq!(*account.lock()?, 10);
///     Ok(())
/// }
/// ```
///
/// A `Lock` is a name for something shared: a clone names the same lock, and so does what another
/// process gets in its arguments, in a message or as a result. It is gone when the last of them is.
///
/// The value lives in shared memory in serialised form. A guard holds a copy of its own, and puts
/// it back when it is dropped, if it was [borrowed mutably](DerefMut). So `T` may be any serde type
/// and grow; but what changes behind a shared reference (a `Cell` within `T`) is not put back.
/// `Lock<()>` protects something else and costs nothing more than a lock.
///
/// # When a holder dies or panics
///
/// The next to take the lock has it, as an error with the guard inside: [`Poisoned`]. The value is
/// what it was before that holder took the lock, since a value is put back as a whole or not at
/// all. A dead holder is noticed within 50 ms.
///
/// The lock knows nothing of threads that wait for themselves: taking it again in the thread that
/// holds it waits for ever. [`RLock`](crate::RLock) can be taken again.
pub struct Lock<T = ()> {
    lock: engine::Lock,
    state: State,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Lock<T> {
    /// A new lock, free, with a value.
    ///
    /// # Errors
    /// When there is no memory, or the value can't be serialised and read back.
    pub fn new(value: T) -> Result<Lock<T>> {
        let lock = Lock {
            lock: engine::Lock::new()?,
            state: State::new::<T>()?,
            value: PhantomData,
        };
        lock.state.store(&value)?;
        // So that no later `lock` meets a value that serialises but doesn't deserialise.
        lock.state.load::<T>()?;
        Ok(lock)
    }

    /// Takes the lock, waiting until it is free.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a holder before has died or panicked.
    ///
    /// # Panics
    /// When the value can't be read as a `T`: its `Serialize` and `Deserialize` don't agree.
    #[inline]
    pub fn lock(&self) -> LockResult<LockGuard<'_, T>> {
        forever(|patience| self.acquire(patience))
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when somebody else holds it; and as [`lock`](Self::lock).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    pub fn try_lock(&self) -> TryLockResult<LockGuard<'_, T>> {
        self.acquire(&mut Patience::none())
    }

    /// Takes the lock, waiting for it at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when it was not to be had in that time; and as
    /// [`lock`](Self::lock).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<LockGuard<'_, T>> {
        self.acquire(&mut Patience::timeout(timeout))
    }

    /// Small, so that it becomes part of its caller and the guard is made where it stays.
    #[inline]
    fn acquire(&self, patience: &mut Patience<'_>) -> TryLockResult<LockGuard<'_, T>> {
        let Some(value) = self.enter(patience) else {
            return Err(TryLockError::Locked);
        };
        let guard = LockGuard {
            lock: self,
            value,
            changed: false,
            panicking: std::thread::panicking(),
            held: Held::of(&self.lock),
            not_send: PhantomData,
        };
        Poisoned::told(guard, self.state.flag, self.state.flag.get(), "lock")
    }

    /// Takes the lock, and a copy of the value; nothing if it was not to be had.
    fn enter(&self, patience: &mut Patience<'_>) -> Option<T> {
        // SYNC POINT: what the last holder put back, and its poison, become visible here.
        match self.lock.acquire(patience) {
            Ok(Acquired::Clean) => {}
            Ok(Acquired::OwnerDied { info, .. }) => {
                self.state.flag.set(Cause::Died {
                    pid: info.map_or(0, |info| info.pid),
                });
            }
            Err(_) => return None,
        }
        let held = Held::of(&self.lock);
        match self.state.load() {
            Ok(value) => {
                std::mem::forget(held);
                Some(value)
            }
            Err(error) => {
                drop(held);
                panic!(
                    "the value under a Lock could not be read: {}",
                    error.chain()
                );
            }
        }
    }
}

impl<T> Lock<T> {
    pub(crate) fn engine(&self) -> &engine::Lock {
        &self.lock
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

impl<T> Clone for Lock<T> {
    /// Another name for the same lock.
    fn clone(&self) -> Lock<T> {
        Lock {
            lock: self.lock.clone(),
            state: self.state.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Lock")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for Lock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state.serialize_with(self.lock.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Lock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lock<T>, D::Error> {
        let (lock, state) =
            State::deserialize_with::<T, _, _>(deserializer, engine::Lock::from_handle)?;
        Ok(Lock {
            lock,
            state,
            value: PhantomData,
        })
    }
}

/// Releases the lock, whatever else happens.
struct Held<'a> {
    lock: &'a engine::Lock,
    who: MemberId,
}

impl<'a> Held<'a> {
    /// Of a lock that was just taken.
    #[inline]
    fn of(lock: &'a engine::Lock) -> Held<'a> {
        Held {
            lock,
            who: lock.me(),
        }
    }

    /// A copy in a forked child holds nothing.
    fn is_mine(&self) -> bool {
        self.lock.me() == self.who
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.is_mine() {
            return;
        }
        // SYNC POINT: what was put back, and the poison, become visible to the next holder. An
        // error would mean that somebody overwrote the word; there is nobody to be told here.
        let _ = self.lock.release();
    }
}

/// The lock is held while this lives. It dereferences to the value.
///
/// Dropped, it puts the value back if it was borrowed mutably, and releases the lock. If that is
/// because the thread panics, the value stays as it was before (or at the last
/// [`commit`](Self::commit)), and the next holder is told: [`Poisoned`].
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct LockGuard<'a, T: Serialize + DeserializeOwned> {
    lock: &'a Lock<T>,
    value: T,
    changed: bool,
    /// Whether the thread was panicking already when it took the lock.
    panicking: bool,
    /// Dropped after the value: what the value refers to may end with it.
    held: Held<'a>,
    /// The lock's word names the thread that holds it.
    not_send: PhantomData<*const ()>,
}

impl<'a, T: Serialize + DeserializeOwned> LockGuard<'a, T> {
    /// Puts the value back now, and says whether that worked; after a success, dropping the guard
    /// has nothing to put back unless the value is changed again.
    ///
    /// # Errors
    /// When the value can't be serialised, or there is no memory for it. The shared value is
    /// unchanged then.
    pub fn commit(&mut self) -> Result<()> {
        if self.changed {
            self.lock.state.store(&**self)?;
            self.changed = false;
        }
        Ok(())
    }

    pub(crate) fn lock(guard: &LockGuard<'a, T>) -> &'a Lock<T> {
        guard.lock
    }
}

impl<T: Serialize + DeserializeOwned> Deref for LockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize + DeserializeOwned> DerefMut for LockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        &mut self.value
    }
}

impl<T: Serialize + DeserializeOwned> Drop for LockGuard<'_, T> {
    fn drop(&mut self) {
        if !self.held.is_mine() {
            return;
        }
        let flag = self.lock.state.flag;
        if std::thread::panicking() && !self.panicking {
            flag.set(Cause::Panicked {
                pid: std::process::id(),
            });
        } else if self.changed {
            // `Serialize` is user code. A panic of it has been printed; the next holder is told.
            let stored = catch_unwind(AssertUnwindSafe(|| self.lock.state.store(&self.value)));
            if !matches!(stored, Ok(Ok(()))) {
                flag.set(Cause::NotStored {
                    pid: std::process::id(),
                });
            }
        }
    }
}

impl<T: Serialize + DeserializeOwned + fmt::Debug> fmt::Debug for LockGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, out)
    }
}

impl<T: Serialize + DeserializeOwned + fmt::Display> fmt::Display for LockGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, out)
    }
}
