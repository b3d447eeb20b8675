//! A number that processes share without a lock.

use std::fmt;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{Block, Gone, Kind};
use crate::error::{Error, Result};
use crate::wire;

/// A number, or a `bool`, that processes read and change at the same time: `u8` to `u64`, `i8` to
/// `i64`, `usize`, `isize`, `bool`.
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
/// The operations here are sequentially consistent and none waits. Where another
/// [order](Ordering) will do, or an operation is wanted that is not here,
/// [`as_std`](Self::as_std) gives the standard library's atomic that it is:
///
/// ```
/// use std::sync::atomic::Ordering;
/// use procession::Atomic;
///
/// let highest = Atomic::new(3_i32)?;
/// highest.as_std().fetch_max(5, Ordering::Relaxed);
/// assert_eq!(highest.load(), 5);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// Clones, and what other processes get of it in messages, are the same number. The death of a
/// process changes nothing: an operation is done, or not.
pub struct Atomic<T: AtomicNumber> {
    block: Block,
    word: &'static T::Std,
}

/// A number that fits an [`Atomic`].
pub trait AtomicNumber: sealed::Number {}

mod sealed {
    use super::{Block, Ordering};

    pub trait Number: Sized + Copy {
        type Std: 'static;

        fn open(block: &Block) -> Option<&'static Self::Std>;
        fn load(word: &Self::Std) -> Self;
        fn swap(word: &Self::Std, number: Self) -> Self;
        fn compare_exchange(word: &Self::Std, current: Self, new: Self) -> Result<Self, Self>;
    }

    pub trait Integer: Number {
        fn fetch_add(word: &Self::Std, number: Self) -> Self;
        fn fetch_sub(word: &Self::Std, number: Self) -> Self;
    }

    macro_rules! numbers {
        ($($number:ty: $std:ident)*) => {$(
            impl Number for $number {
                type Std = std::sync::atomic::$std;

                fn open(block: &Block) -> Option<&'static Self::Std> {
                    block.first::<std::sync::atomic::$std>()
                }
                fn load(word: &Self::Std) -> Self {
                    word.load(Ordering::SeqCst)
                }
                fn swap(word: &Self::Std, number: Self) -> Self {
                    word.swap(number, Ordering::SeqCst)
                }
                fn compare_exchange(word: &Self::Std, current: Self, new: Self) -> Result<Self, Self> {
                    word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
                }
            }
            impl Integer for $number {
                fn fetch_add(word: &Self::Std, number: Self) -> Self {
                    word.fetch_add(number, Ordering::SeqCst)
                }
                fn fetch_sub(word: &Self::Std, number: Self) -> Self {
                    word.fetch_sub(number, Ordering::SeqCst)
                }
            }
            impl super::AtomicNumber for $number {}
            impl super::AtomicInteger for $number {}
        )*};
    }

    numbers!(u8: AtomicU8 u16: AtomicU16 u32: AtomicU32 u64: AtomicU64 usize: AtomicUsize);
    numbers!(i8: AtomicI8 i16: AtomicI16 i32: AtomicI32 i64: AtomicI64 isize: AtomicIsize);

    // As a byte: of what lies in shared memory not every pattern is a `bool`.
    impl Number for bool {
        type Std = std::sync::atomic::AtomicU8;

        fn open(block: &Block) -> Option<&'static Self::Std> {
            block.first()
        }
        fn load(word: &Self::Std) -> bool {
            word.load(Ordering::SeqCst) != 0
        }
        fn swap(word: &Self::Std, value: bool) -> bool {
            word.swap(value.into(), Ordering::SeqCst) != 0
        }
        fn compare_exchange(word: &Self::Std, current: bool, new: bool) -> Result<bool, bool> {
            word.compare_exchange(
                current.into(),
                new.into(),
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .map(|byte| byte != 0)
            .map_err(|byte| byte != 0)
        }
    }
    impl super::AtomicNumber for bool {}
}

/// An integer that fits an [`Atomic`]: all but `bool`.
pub trait AtomicInteger: AtomicNumber + sealed::Integer {}

impl<T: AtomicNumber> Atomic<T> {
    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(number: T) -> Result<Atomic<T>> {
        let atomic = Atomic::of(Block::zeroed(size_of::<u64>())?)
            .ok_or_else(|| Error::garbled("a number"))?;
        atomic.store(number);
        Ok(atomic)
    }

    fn of(block: Block) -> Option<Atomic<T>> {
        let word = T::open(&block)?;
        Some(Atomic { block, word })
    }

    /// The number.
    pub fn load(&self) -> T {
        T::load(self.word)
    }

    /// Puts another in its place.
    pub fn store(&self, number: T) {
        self.swap(number);
    }

    /// Puts another in its place and gives the one before.
    pub fn swap(&self, number: T) -> T {
        T::swap(self.word, number)
    }

    /// Puts `new` in the place of `current`.
    ///
    /// # Errors
    /// The number that is there, when it is another than `current`.
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        T::compare_exchange(self.word, current, new)
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

    /// The standard library's atomic that this is, with all of its operations and orders. That of a
    /// `bool` is an `AtomicU8`: 0, or anything else.
    pub fn as_std(&self) -> &T::Std {
        self.word
    }
}

impl<T: AtomicInteger> Atomic<T> {
    /// Adds to it, wrapping around, and gives the number before.
    pub fn fetch_add(&self, number: T) -> T {
        T::fetch_add(self.word, number)
    }

    /// Subtracts from it, wrapping around, and gives the number before.
    pub fn fetch_sub(&self, number: T) -> T {
        T::fetch_sub(self.word, number)
    }
}

impl<T: AtomicNumber> Clone for Atomic<T> {
    /// Another name for the same number.
    fn clone(&self) -> Atomic<T> {
        Atomic {
            block: self.block.clone(),
            word: self.word,
        }
    }
}

impl<T: AtomicNumber + fmt::Debug> fmt::Debug for Atomic<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(out)
    }
}

impl<T: AtomicNumber> Serialize for Atomic<T> {
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
