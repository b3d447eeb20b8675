//! A number that processes share without a lock.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{Block, Gone, Kind};
use crate::error::{Error, Result};
use crate::wire;

/// A number that processes read and change at the same time: `u64`, `i64`, `usize` or `isize`.
///
/// ```
/// use procession::{Atomic, Pool};
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let seen = Atomic::new(0_u64)?;
///     let pool = Pool::new(2)?;
///     pool.map(|(seen, step): (Atomic<u64>, u64)| seen.fetch_add(step), (1..=10).map(|step| (seen.clone(), step)))?;
///     assert_eq!(seen.load(), 55);
///     Ok(())
/// }
/// ```
///
/// Every operation is sequentially consistent and none waits. Clones, and what other processes get
/// of it in messages, are the same number. The death of a process changes nothing: an operation is
/// done, or not.
pub struct Atomic<T> {
    block: Block,
    word: &'static AtomicU64,
    number: PhantomData<fn(T) -> T>,
}

/// A number that fits an [`Atomic`].
pub trait AtomicNumber: sealed::Number {}

mod sealed {
    pub trait Number: Copy {
        fn to_word(self) -> u64;
        fn from_word(word: u64) -> Self;
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        const _: () = assert!(size_of::<$number>() == size_of::<u64>());
        impl sealed::Number for $number {
            fn to_word(self) -> u64 {
                self as u64
            }
            fn from_word(word: u64) -> $number {
                word as $number
            }
        }
        impl AtomicNumber for $number {}
    )*};
}

numbers!(u64 i64 usize isize);

impl<T: AtomicNumber> Atomic<T> {
    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(number: T) -> Result<Atomic<T>> {
        let atomic = Atomic::of(Block::zeroed(8)?).ok_or_else(|| Error::garbled("a number"))?;
        atomic.store(number);
        Ok(atomic)
    }

    fn of(block: Block) -> Option<Atomic<T>> {
        let word = block.word(0)?;
        Some(Atomic {
            block,
            word,
            number: PhantomData,
        })
    }

    /// The number.
    pub fn load(&self) -> T {
        T::from_word(self.word.load(Ordering::SeqCst))
    }

    /// Puts another in its place.
    pub fn store(&self, number: T) {
        self.word.store(number.to_word(), Ordering::SeqCst);
    }

    /// Puts another in its place and gives the one before.
    pub fn swap(&self, number: T) -> T {
        T::from_word(self.word.swap(number.to_word(), Ordering::SeqCst))
    }

    /// Adds to it, wrapping around, and gives the number before.
    pub fn fetch_add(&self, number: T) -> T {
        T::from_word(self.word.fetch_add(number.to_word(), Ordering::SeqCst))
    }

    /// Subtracts from it, wrapping around, and gives the number before.
    pub fn fetch_sub(&self, number: T) -> T {
        T::from_word(self.word.fetch_sub(number.to_word(), Ordering::SeqCst))
    }

    /// Puts `new` in the place of `current`.
    ///
    /// # Errors
    /// The number that is there, when it is another than `current`.
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        self.word
            .compare_exchange(
                current.to_word(),
                new.to_word(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map(T::from_word)
            .map_err(T::from_word)
    }

    /// Changes it as `change` says, which may be called several times when others change it too,
    /// and gives the number before.
    pub fn fetch_update(&self, mut change: impl FnMut(T) -> T) -> T {
        let mut seen = self.load();
        loop {
            match self.compare_exchange(seen, change(seen)) {
                Ok(before) => return before,
                Err(now) => seen = now,
            }
        }
    }
}

impl<T> Clone for Atomic<T> {
    /// Another name for the same number.
    fn clone(&self) -> Atomic<T> {
        Atomic {
            block: self.block.clone(),
            word: self.word,
            number: PhantomData,
        }
    }
}

impl<T: AtomicNumber + fmt::Debug> fmt::Debug for Atomic<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(out)
    }
}

impl<T> Serialize for Atomic<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handle(self.block.handle(), serializer)
    }
}

impl<'de, T: AtomicNumber> Deserialize<'de> for Atomic<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Atomic<T>, D::Error> {
        wire::deserialize_handle(deserializer, |handle| {
            Atomic::of(Block::from_handle(handle)?).ok_or(Gone {
                expected: Some(Kind::Block),
            })
        })
    }
}
