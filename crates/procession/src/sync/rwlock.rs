//! A lock that many readers hold, or one writer, and the value that it protects.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{self, MemberId, Patience};
use crate::error::Result;
use crate::sync::Owner;
use crate::sync::poison::{Cause, LockResult, Poisoned, TryLockError, TryLockResult, forever};
use crate::sync::stored::State;

/// A value that many processes read at the same time, or one changes.
///
/// ```
/// use procession::{Process, RwLock};
///
/// fn limit(settings: RwLock<Vec<u32>>) -> u32 {
///     settings.read().unwrap()[1]
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let settings = RwLock::new(vec![1, 2])?;
///     settings.write()?.push(3);
///     let reading = settings.read()?;
///     // Another process reads while this one does.
///     assert_eq!(Process::spawn(limit, settings.clone())?.join()?, 2);
///     assert_eq!(reading.len(), 3);
///     Ok(())
/// }
/// ```
///
/// The value is stored as that of a [`Lock`](crate::Lock) is: `T` is any serde type, each guard has a
/// copy of its own, and a writer's is put back when the guard is dropped. Reading is cheap where
/// the value is small; for large data that are read in place see [`SharedSlice`](crate::SharedSlice),
/// for such that are changed in place [`PlainLock`](crate::PlainLock) and [`Chunks`](crate::Chunks).
///
/// A writer that waits comes before readers that come later. So a thread that holds a read guard and
/// asks for another may wait for ever, if a writer has come in between; and one that holds a read
/// guard and asks to write does so always.
///
/// Clones, and what other processes get of it, are the same lock. It is gone when the last of them is.
///
/// # When a holder dies or panics
///
/// A *reader* that dies leaves nothing half done: writers no longer wait for it, within 50 ms, and
/// nobody is told. After a *writer* that has died or panicked, whoever comes next has the lock, as an
/// error with the guard inside, readers too: [`Poisoned`]. The value is what it was before that
/// writer, since it is put back as a whole or not at all.
pub struct RwLock<T> {
    lock: engine::RwLock,
    state: State,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> RwLock<T> {
    /// A new lock, free, with a value.
    ///
    /// # Errors
    /// When there is no memory, or the value can't be serialised and read back.
    pub fn new(value: T) -> Result<RwLock<T>> {
        let lock = RwLock {
            lock: engine::RwLock::new()?,
            state: State::new::<T>()?,
            value: PhantomData,
        };
        lock.state.store(&value)?;
        // So that no later `read` meets a value that serialises but doesn't deserialise.
        lock.state.load::<T>()?;
        Ok(lock)
    }

    /// Becomes a reader; waits while there is a writer, or one waits.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a writer before has died or panicked.
    ///
    /// # Panics
    /// When the value can't be read as a `T`: its `Serialize` and `Deserialize` don't agree.
    pub fn read(&self) -> LockResult<ReadGuard<'_, T>> {
        forever(|patience| self.acquire_read(patience))
    }

    /// Becomes a reader if there is no writer now, and none waits.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when there is one; and as [`read`](Self::read).
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn try_read(&self) -> TryLockResult<ReadGuard<'_, T>> {
        self.acquire_read(&mut Patience::none())
    }

    /// Becomes a reader; waits at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when there was a writer for that time; and as [`read`](Self::read).
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn read_timeout(&self, timeout: Duration) -> TryLockResult<ReadGuard<'_, T>> {
        self.acquire_read(&mut Patience::timeout(timeout))
    }

    /// Becomes the writer; waits until there is no other and the readers have gone.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a writer before has died or panicked.
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write(&self) -> LockResult<WriteGuard<'_, T>> {
        forever(|patience| self.acquire_write(patience))
    }

    /// Becomes the writer if there is no other, and no reader, now.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when there is one; and as [`write`](Self::write).
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn try_write(&self) -> TryLockResult<WriteGuard<'_, T>> {
        self.acquire_write(&mut Patience::none())
    }

    /// Becomes the writer; waits at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when it was not to be had in that time; and as
    /// [`write`](Self::write).
    ///
    /// # Panics
    /// As [`read`](Self::read).
    pub fn write_timeout(&self, timeout: Duration) -> TryLockResult<WriteGuard<'_, T>> {
        self.acquire_write(&mut Patience::timeout(timeout))
    }

    fn acquire_read(&self, patience: &mut Patience<'_>) -> TryLockResult<ReadGuard<'_, T>> {
        let flag = self.state.flag;
        let mut died = |pid| flag.set(Cause::Died { pid });
        if self.lock.read(patience, &mut died).is_err() {
            return Err(TryLockError::Locked);
        }
        let held = HeldRead {
            lock: &self.lock,
            who: self.lock.me(),
        };
        let guard = ReadGuard {
            value: self.load(),
            _held: held,
            not_send: PhantomData,
        };
        self.tell(guard)
    }

    fn acquire_write(&self, patience: &mut Patience<'_>) -> TryLockResult<WriteGuard<'_, T>> {
        let flag = self.state.flag;
        let mut died = |pid| flag.set(Cause::Died { pid });
        if self.lock.write(patience, &mut died).is_err() {
            return Err(TryLockError::Locked);
        }
        let held = HeldWrite {
            lock: &self.lock,
            who: self.lock.me(),
        };
        let guard = WriteGuard {
            lock: self,
            value: self.load(),
            changed: false,
            panicking: std::thread::panicking(),
            held,
            not_send: PhantomData,
        };
        self.tell(guard)
    }

    fn load(&self) -> T {
        self.state.load().unwrap_or_else(|error| {
            panic!(
                "the value under an RwLock could not be read: {}",
                error.chain()
            )
        })
    }

    fn tell<G>(&self, guard: G) -> TryLockResult<G> {
        Poisoned::told(guard, self.state.flag, self.state.flag.get(), "lock")
    }
}

impl<T> RwLock<T> {
    pub(crate) fn engine(&self) -> &engine::RwLock {
        &self.lock
    }

    /// Who writes now, or waits for the readers to go.
    pub fn writer(&self) -> Option<Owner> {
        self.lock.writer().map(Owner::from_engine)
    }

    /// How many read now, about: one that has died is counted until a writer comes.
    pub fn readers(&self) -> u32 {
        self.lock.readers()
    }
}

impl<T> Clone for RwLock<T> {
    /// Another name for the same lock.
    fn clone(&self) -> RwLock<T> {
        RwLock {
            lock: self.lock.clone(),
            state: self.state.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RwLock")
            .field("writer", &self.writer())
            .field("readers", &self.readers())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for RwLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state.serialize_with(self.lock.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for RwLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RwLock<T>, D::Error> {
        let (lock, state) =
            State::deserialize_with::<T, _, _>(deserializer, engine::RwLock::from_handle)?;
        Ok(RwLock {
            lock,
            state,
            value: PhantomData,
        })
    }
}

struct HeldRead<'a> {
    lock: &'a engine::RwLock,
    who: MemberId,
}

impl Drop for HeldRead<'_> {
    fn drop(&mut self) {
        // A copy in a forked child holds nothing.
        if self.lock.me() == self.who {
            self.lock.release_read();
        }
    }
}

struct HeldWrite<'a> {
    lock: &'a engine::RwLock,
    who: MemberId,
}

impl Drop for HeldWrite<'_> {
    fn drop(&mut self) {
        if self.lock.me() == self.who {
            self.lock.release_write();
        }
    }
}

/// One of the readers, while this lives. It dereferences to the value as it was when the guard was
/// made, and stays as long as there are readers.
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct ReadGuard<'a, T> {
    value: T,
    /// Dropped after the value: what the value refers to may end with it.
    _held: HeldRead<'a>,
    not_send: PhantomData<*const ()>,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, out)
    }
}

/// The writer, while this lives. It dereferences to the value.
///
/// Dropped, it puts the value back if it was borrowed mutably, and releases the lock. If that is
/// because the thread panics, the value stays as it was before, and the next holder is told:
/// [`Poisoned`].
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct WriteGuard<'a, T: Serialize + DeserializeOwned> {
    lock: &'a RwLock<T>,
    value: T,
    changed: bool,
    /// Whether the thread was panicking already when it took the lock.
    panicking: bool,
    /// Dropped after the value: what the value refers to may end with it.
    held: HeldWrite<'a>,
    not_send: PhantomData<*const ()>,
}

impl<T: Serialize + DeserializeOwned> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Serialize + DeserializeOwned> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.changed = true;
        &mut self.value
    }
}

impl<T: Serialize + DeserializeOwned> WriteGuard<'_, T> {
    /// Puts the value back now, and says whether that worked; after a success, dropping the guard has
    /// nothing to put back unless the value is changed again.
    ///
    /// # Errors
    /// When the value can't be serialised, or there is no memory for it. The shared value is
    /// unchanged then.
    pub fn commit(&mut self) -> Result<()> {
        if self.changed {
            self.lock.state.store(&self.value)?;
            self.changed = false;
        }
        Ok(())
    }
}

impl<T: Serialize + DeserializeOwned> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        if self.held.lock.me() != self.held.who {
            return;
        }
        let flag = self.lock.state.flag;
        let pid = std::process::id();
        if std::thread::panicking() && !self.panicking {
            flag.set(Cause::Panicked { pid });
        } else if self.changed {
            // `Serialize` is user code. A panic of it has been printed; the next holder is told.
            let stored = catch_unwind(AssertUnwindSafe(|| self.lock.state.store(&self.value)));
            if !matches!(stored, Ok(Ok(()))) {
                flag.set(Cause::NotStored { pid });
            }
        }
    }
}

impl<T: Serialize + DeserializeOwned + fmt::Debug> fmt::Debug for WriteGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, out)
    }
}
