//! An array in shared memory that everyone reads and writes at the same time.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::slice::{CellSlice, home};
use crate::engine::{Gone, Kind};
use crate::error::Result;
use crate::shared::vec::SharedVec;
use crate::shared::{Plain, element};
use crate::wire;

/// An array in shared memory that every process reads and writes at the same time, by copies.
///
/// There is no lock and no reference to the elements; nothing blocks. What is promised: an element
/// whose size is 1, 2, 4 or 8 bytes and its alignment too (every integer and float) is never torn, it
/// is one that somebody wrote. Larger ones may be half of one writer's and half of another's, and
/// between two elements no order is promised. It suits what has one writer for each element, or
/// where the latest value of whoever wrote is good enough: progress, statistics, a picture being
/// drawn. To be told when something is there, use an [`Event`](crate::Event) or a
/// [`Queue`](crate::Queue): what was written before a message was sent is seen by who has received it.
///
/// ```
/// use procession::{Process, SharedCells};
///
/// fn work(progress: SharedCells<u32>, worker: usize) {
///     for percent in 0..=100 {
///         progress.set(worker, percent);
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let progress = SharedCells::zeroed(2)?;
///     let workers = [0, 1].map(|worker| Process::spawn(work, (progress.clone(), worker)));
///     for worker in workers {
///         worker?.join()?;
///     }
///     assert_eq!(progress.read(..), [100, 100]);
///     Ok(())
/// }
/// ```
///
/// Clones, and what other processes get of it, are the same array. It is gone when the last of them
/// is. A process that is killed while it writes has written some of the elements.
pub struct SharedCells<T> {
    slice: CellSlice,
    value: PhantomData<fn(T) -> T>,
}

impl<T: Plain> SharedCells<T> {
    /// A new one of zeros.
    ///
    /// # Errors
    /// When there is no memory ([`Error::is_out_of_memory`](crate::Error::is_out_of_memory)).
    pub fn zeroed(len: usize) -> Result<SharedCells<T>> {
        Ok(SharedVec::zeroed(len)?.into_cells())
    }

    pub(crate) fn of(slice: CellSlice) -> SharedCells<T> {
        SharedCells {
            slice,
            value: PhantomData,
        }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.slice.len() / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// When there is none.
    pub fn get(&self, index: usize) -> T {
        let mut element = [T::zeroed()];
        self.read_into(index, &mut element);
        element[0]
    }

    /// Puts another element in the place of the one at `index`.
    ///
    /// # Panics
    /// When there is none.
    pub fn set(&self, index: usize, element: T) {
        self.write(index, &[element]);
    }

    /// Copies of the elements in a range.
    ///
    /// # Panics
    /// When the range goes beyond the end, or backwards.
    pub fn read(&self, range: impl std::ops::RangeBounds<usize>) -> Vec<T> {
        let Range { start, end } = resolve(range, self.len());
        let mut elements = vec![T::zeroed(); end - start];
        self.read_into(start, &mut elements);
        elements
    }

    /// Copies elements out, from `start` on, as many as there is room for in `into`.
    ///
    /// # Panics
    /// When that goes beyond the end.
    pub fn read_into(&self, start: usize, into: &mut [T]) {
        self.check(start, into.len());
        let at = start * size_of::<T>();
        match align_of::<T>() {
            1 => load(self.slice.words::<AtomicU8>(), at, AtomicU8::load, into),
            2 => load(self.slice.words::<AtomicU16>(), at, AtomicU16::load, into),
            4 => load(self.slice.words::<AtomicU32>(), at, AtomicU32::load, into),
            _ => load(self.slice.words::<AtomicU64>(), at, AtomicU64::load, into),
        }
    }

    /// Copies elements in, from `start` on.
    ///
    /// # Panics
    /// When that goes beyond the end.
    pub fn write(&self, start: usize, from: &[T]) {
        self.check(start, from.len());
        let at = start * size_of::<T>();
        match align_of::<T>() {
            1 => store(self.slice.words::<AtomicU8>(), at, AtomicU8::store, from),
            2 => store(self.slice.words::<AtomicU16>(), at, AtomicU16::store, from),
            4 => store(self.slice.words::<AtomicU32>(), at, AtomicU32::store, from),
            _ => store(self.slice.words::<AtomicU64>(), at, AtomicU64::store, from),
        }
    }

    fn check(&self, start: usize, count: usize) {
        let len = self.len();
        assert!(
            start.checked_add(count).is_some_and(|end| end <= len),
            "{count} elements from {start} on go beyond the end of a shared array of {len}"
        );
    }
}

// An array is always taken for words of the same size, that of its elements' alignment: so no two
// accesses that overlap differ in size, and an element that is one word is never torn. Relaxed: the
// order is that of whatever tells the other side.

fn load<A, W: bytemuck::Pod, T: Plain>(
    words: &[A],
    at: usize,
    load: fn(&A, Ordering) -> W,
    into: &mut [T],
) {
    let first = at / size_of::<W>();
    let into: &mut [W] = bytemuck::cast_slice_mut(into);
    for (word, into) in words[first..].iter().zip(into) {
        *into = load(word, Ordering::Relaxed);
    }
}

fn store<A, W: bytemuck::Pod, T: Plain>(
    words: &[A],
    at: usize,
    store: fn(&A, W, Ordering),
    from: &[T],
) {
    let first = at / size_of::<W>();
    let from: &[W] = bytemuck::cast_slice(from);
    for (word, from) in words[first..].iter().zip(from) {
        store(word, *from, Ordering::Relaxed);
    }
}

fn resolve(range: impl std::ops::RangeBounds<usize>, len: usize) -> Range<usize> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let start = match range.start_bound() {
        Included(&start) => start,
        Excluded(&before) => before.saturating_add(1),
        Unbounded => 0,
    };
    let end = match range.end_bound() {
        Included(&last) => last.saturating_add(1),
        Excluded(&end) => end,
        Unbounded => len,
    };
    assert!(
        start <= end && end <= len,
        "the range {start}..{end} is not within a shared array of {len}"
    );
    start..end
}

impl<T> Clone for SharedCells<T> {
    /// Another name for the same array.
    fn clone(&self) -> SharedCells<T> {
        SharedCells {
            slice: self.slice.clone(),
            value: PhantomData,
        }
    }
}

impl<T: Plain> fmt::Debug for SharedCells<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SharedCells")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for SharedCells<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handle(self.slice.handle(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for SharedCells<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SharedCells<T>, D::Error> {
        wire::deserialize_handle(deserializer, |handle| {
            let home = home().map_err(|_| Gone {
                expected: Some(Kind::Slice),
            })?;
            CellSlice::open(home, handle, element::<T>()).map(SharedCells::of)
        })
    }
}
