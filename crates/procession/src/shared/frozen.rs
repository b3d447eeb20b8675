//! An array in shared memory that nobody changes.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::slice::{FrozenSlice, home};
use crate::engine::{Gone, Kind};
use crate::error::Result;
use crate::shared::vec::SharedVec;
use crate::shared::{Plain, element, view};
use crate::wire;

/// An array in shared memory that every process reads in place, and nobody can change: an
/// `Arc<[T]>` between processes.
///
/// It is a `[T]` in every respect. Cloning it and sending it (in arguments, results, messages, under
/// a [`Lock`](crate::Lock)) copies nothing but its name; it is gone when the last of its names is,
/// and stays when the process that made it dies. Nothing here blocks.
///
/// It is had from [`SharedVec::freeze`], which says why it is sound, or by a copy:
///
/// ```
/// use procession::{Pool, SharedSlice};
///
/// fn part((numbers, from): (SharedSlice<u32>, usize)) -> u64 {
///     numbers[from..from + 250].iter().map(|&number| u64::from(number)).sum()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let numbers = SharedSlice::from_slice(&(0..1000).collect::<Vec<u32>>())?;
///     let pool = Pool::new(2)?;
///     let tasks = (0..4).map(|part| (numbers.clone(), part * 250));
///     let sums: Vec<u64> = pool.map(part, tasks)?;
///     assert_eq!(sums.iter().sum::<u64>(), 499_500);
///     Ok(())
/// }
/// ```
pub struct SharedSlice<T> {
    slice: FrozenSlice,
    value: PhantomData<fn() -> T>,
}

impl<T: Plain> SharedSlice<T> {
    /// A copy of these elements in shared memory.
    ///
    /// # Errors
    /// When there is no memory ([`Error::is_out_of_memory`](crate::Error::is_out_of_memory)).
    pub fn from_slice(elements: &[T]) -> Result<SharedSlice<T>> {
        Ok(SharedVec::from_slice(elements)?.freeze())
    }

    pub(crate) fn of(slice: FrozenSlice) -> SharedSlice<T> {
        SharedSlice {
            slice,
            value: PhantomData,
        }
    }
}

impl<T: Plain> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        view(self.slice.bytes())
    }
}

impl<T: Plain> AsRef<[T]> for SharedSlice<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T> Clone for SharedSlice<T> {
    /// Another name for the same array.
    fn clone(&self) -> SharedSlice<T> {
        SharedSlice {
            slice: self.slice.clone(),
            value: PhantomData,
        }
    }
}

impl<'a, T: Plain> IntoIterator for &'a SharedSlice<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> std::slice::Iter<'a, T> {
        self.iter()
    }
}

impl<T: Plain + PartialEq> PartialEq for SharedSlice<T> {
    fn eq(&self, other: &SharedSlice<T>) -> bool {
        **self == **other
    }
}

impl<T: Plain + Eq> Eq for SharedSlice<T> {}

impl<T: Plain + fmt::Debug> fmt::Debug for SharedSlice<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}

impl<T> Serialize for SharedSlice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handle(self.slice.handle(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedSlice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedSlice<T>, D::Error> {
        wire::deserialize_handle(deserializer, |handle| {
            let home = home().map_err(|_| Gone {
                expected: Some(Kind::Slice),
            })?;
            FrozenSlice::open(home, handle, element::<T>()).map(SharedSlice::of)
        })
    }
}
