//! A lock over plain data, which is changed where it is.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::Patience;
use crate::engine::slice::{DividedSlice, HeldChunk, owner};
use crate::error::Result;
use crate::shared::chunks::Chunks;
use crate::shared::vec::SharedVec;
use crate::shared::{Plain, view, view_mut};
use crate::sync::Owner;
use crate::sync::poison::{
    Flag, LockResult, Poisoned, TryLockError, TryLockResult, Witness, forever,
};

/// What can be under a [`PlainLock`]: a [`Plain`] value, or a slice of them.
pub trait PlainTarget: sealed::Target {}

pub(crate) mod sealed {
    use super::Plain;

    pub trait Target {
        type Element: Plain;
        fn of(elements: &[Self::Element]) -> &Self;
        fn of_mut(elements: &mut [Self::Element]) -> &mut Self;
    }
}

impl<T: Plain> sealed::Target for T {
    type Element = T;

    fn of(elements: &[T]) -> &T {
        &elements[0]
    }

    fn of_mut(elements: &mut [T]) -> &mut T {
        &mut elements[0]
    }
}

impl<T: Plain> sealed::Target for [T] {
    type Element = T;

    fn of(elements: &[T]) -> &[T] {
        elements
    }

    fn of_mut(elements: &mut [T]) -> &mut [T] {
        elements
    }
}

impl<T: Plain> PlainTarget for T {}
impl<T: Plain> PlainTarget for [T] {}

/// Mutual exclusion between processes, and plain data that whoever holds the lock changes **in
/// place**: nothing is serialised, nothing copied. `T` is a [`Plain`] type or a slice of one.
///
/// ```
/// use procession::{PlainLock, Process, SharedVec};
///
/// fn count(histogram: PlainLock<[u64]>, values: Vec<usize>) {
///     let mut histogram = histogram.lock().unwrap();
///     for value in values {
///         histogram[value] += 1;
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let histogram = SharedVec::<u64>::zeroed(10)?.into_lock()?;
///     Process::spawn(count, (histogram.clone(), vec![3, 1, 3]))?.join()?;
///     assert_eq!(histogram.lock()?[..4], [0, 1, 0, 2]);
///
///     let position = PlainLock::new([0.0_f64; 3])?;
///     position.lock()?[2] = 1.5;
///     assert_eq!(*position.lock()?, [0.0, 0.0, 1.5]);
///     Ok(())
/// }
/// ```
///
/// A [`Lock`](crate::Lock) takes any serde value and puts it back as a whole or not at all; this one is
/// for data that is large, or changed often, and made of numbers.
///
/// Clones, and what other processes get of it, are the same lock. It is gone when the last of them is.
///
/// # When a holder dies or panics
///
/// The next to take the lock has it, as an error with the guard inside: [`Poisoned`]. The data are
/// **as that holder left them**, some changed and some not: there is no other copy. A dead holder is
/// noticed within 50 ms.
///
/// Taking the lock again in the thread that holds it waits for ever.
pub struct PlainLock<T: ?Sized + PlainTarget> {
    one: Chunks<T::Element>,
}

impl<T: Plain> PlainLock<T> {
    /// A new lock, free, with a value.
    ///
    /// # Errors
    /// When there is no memory ([`Error::is_out_of_memory`](crate::Error::is_out_of_memory)).
    pub fn new(value: T) -> Result<PlainLock<T>> {
        Ok(PlainLock {
            one: SharedVec::from_slice(&[value])?.split(1)?,
        })
    }
}

impl<T: ?Sized + PlainTarget> PlainLock<T> {
    /// Of one chunk.
    pub(crate) fn of(one: Chunks<T::Element>) -> PlainLock<T> {
        PlainLock { one }
    }

    /// Takes the lock, waiting until it is free.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a holder before has died or panicked.
    pub fn lock(&self) -> LockResult<PlainLockGuard<'_, T>> {
        forever(|patience| self.acquire(patience))
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when somebody else holds it; and as [`lock`](Self::lock).
    pub fn try_lock(&self) -> TryLockResult<PlainLockGuard<'_, T>> {
        self.acquire(&mut Patience::none())
    }

    /// Takes the lock, waiting for it at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when it was not to be had in that time; and as [`lock`](Self::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<PlainLockGuard<'_, T>> {
        self.acquire(&mut Patience::timeout(timeout))
    }

    fn acquire(&self, patience: &mut Patience<'_>) -> TryLockResult<PlainLockGuard<'_, T>> {
        let (held, cause) = self.one.acquire(0, patience);
        let Some(held) = held else {
            return Err(TryLockError::Locked);
        };
        let flag = Flag(self.one.slice().flag(0));
        let guard = PlainLockGuard {
            _witness: Witness::new(flag),
            held,
            lock: PhantomData,
        };
        Poisoned::told(guard, flag, cause, "lock")
    }

    pub(crate) fn slice(&self) -> &DividedSlice {
        self.one.slice()
    }

    /// Whether anybody holds it now.
    pub fn is_locked(&self) -> bool {
        self.one.slice().owner(0).is_some()
    }

    /// Who holds it now.
    pub fn owner(&self) -> Option<Owner> {
        owner(self.one.slice(), 0).map(Owner::from_engine)
    }

    /// How many wait for it now, about.
    pub fn waiters(&self) -> u32 {
        self.one.slice().waiters(0)
    }
}

impl<T: ?Sized + PlainTarget> Clone for PlainLock<T> {
    /// Another name for the same lock.
    fn clone(&self) -> PlainLock<T> {
        PlainLock {
            one: self.one.clone(),
        }
    }
}

impl<T: ?Sized + PlainTarget> fmt::Debug for PlainLock<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("PlainLock")
            .field("owner", &self.owner())
            .finish_non_exhaustive()
    }
}

impl<T: ?Sized + PlainTarget> Serialize for PlainLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.one.serialize(serializer)
    }
}

impl<'de, T: ?Sized + PlainTarget> Deserialize<'de> for PlainLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlainLock<T>, D::Error> {
        Chunks::deserialize(deserializer).map(|one| PlainLock { one })
    }
}

/// The lock is held while this lives. It dereferences to the data: the memory itself, no copy.
///
/// Dropped because its thread panics, it leaves word to the next holder: [`Poisoned`].
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct PlainLockGuard<'a, T: ?Sized + PlainTarget> {
    /// Dropped before the lock is released.
    _witness: Witness,
    held: HeldChunk<'a>,
    /// The lock's word names the thread that holds it.
    lock: PhantomData<(*const T, *const ())>,
}

impl<T: ?Sized + PlainTarget> Deref for PlainLockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        T::of(view(self.held.bytes()))
    }
}

impl<T: ?Sized + PlainTarget> DerefMut for PlainLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        T::of_mut(view_mut(self.held.bytes_mut()))
    }
}

impl<T: ?Sized + PlainTarget + fmt::Debug> fmt::Debug for PlainLockGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, out)
    }
}
