//! An array in shared memory that this process has to itself.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::engine::slice::OwnedSlice;
use crate::error::{Error, Result};
use crate::shared::cells::SharedCells;
use crate::shared::chunks::Chunks;
use crate::shared::frozen::SharedSlice;
use crate::shared::{Plain, bytes_of, element, here, view, view_mut};
use crate::sync::plain_lock::PlainLock;

/// An array in shared memory, of a fixed length, that nobody else can see yet.
///
/// It is a `[T]` in every respect. Filled, it becomes one of these, at no cost and without a copy:
///
/// | | other processes | |
/// | --- | --- | --- |
/// | [`freeze`](Self::freeze) | read it as a `[T]` | [`SharedSlice`] |
/// | [`split`](Self::split) | each change a chunk of it in place, under the chunk's lock | [`Chunks`] |
/// | [`into_lock`](Self::into_lock) | change it in place, one at a time | [`PlainLock`] |
/// | [`into_cells`](Self::into_cells) | copy elements in and out, all at the same time | [`SharedCells`] |
///
/// ```
/// use procession::{Process, SharedSlice, SharedVec};
///
/// fn sum(numbers: SharedSlice<f64>) -> f64 {
///     numbers.iter().sum()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let mut numbers = SharedVec::zeroed(1_000_000)?;
///     for (index, number) in numbers.iter_mut().enumerate() {
///         *number = index as f64;
///     }
///     let numbers = numbers.freeze();
///     // Sixteen bytes travel.
///     let total = Process::spawn(sum, numbers.clone())?.join()?;
///     assert_eq!(total, numbers.iter().sum());
///     Ok(())
/// }
/// ```
///
/// # Why that is sound
///
/// References to memory that others change would not be Rust. So `&[T]` and `&mut [T]` are given out
/// only where nobody else can write, or nobody else can do anything: by this type, which does not
/// travel and whose array nobody else can open; by [`SharedSlice`], which nobody can write to, ever;
/// by guards of the locks. What an array is, is one word beside it, and who opens one is refused if it
/// is something else.
///
/// All of that holds among processes that use this crate. The processes of a family trust each other
/// as threads do: each has all of the shared memory mapped, and one that writes where it should not
/// (by a wild pointer, or by malice) can change what another believes to be constant. The elements
/// are then still values of their type; but the reader's program may have looked twice and seen two
/// things. Don't take a process into the family that runs code you would not run in a thread.
///
/// # When a process dies
///
/// With its process, the array is gone; with this value also. It does not travel: a process that was
/// forked from this one and touches a copy of the value panics.
pub struct SharedVec<T> {
    slice: OwnedSlice,
    value: PhantomData<T>,
}

impl<T: Plain> SharedVec<T> {
    /// A new one of zeros. Does not block.
    ///
    /// A large one gets its memory at once, so that a lack of it is an error here and no signal later.
    ///
    /// # Errors
    /// When there is no memory ([`Error::is_out_of_memory`]); the message names the size.
    pub fn zeroed(len: usize) -> Result<SharedVec<T>> {
        let slice = OwnedSlice::zeroed(here()?, element::<T>(), bytes_of::<T>(len))?;
        Ok(SharedVec::of(slice))
    }

    /// A new one, each element of which is `value`. Does not block.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn filled(len: usize, value: T) -> Result<SharedVec<T>> {
        let mut vec = SharedVec::zeroed(len)?;
        vec.fill(value);
        Ok(vec)
    }

    /// A copy of these elements. Does not block.
    ///
    /// # Errors
    /// As [`zeroed`](Self::zeroed).
    pub fn from_slice(elements: &[T]) -> Result<SharedVec<T>> {
        let bytes = bytemuck::cast_slice(elements);
        OwnedSlice::copied(here()?, element::<T>(), bytes)
            .map(SharedVec::of)
            .map_err(Error::from)
    }

    pub(crate) fn of(slice: OwnedSlice) -> SharedVec<T> {
        SharedVec {
            slice,
            value: PhantomData,
        }
    }

    /// From now on it can be sent, and nobody can change it any more.
    pub fn freeze(self) -> SharedSlice<T> {
        SharedSlice::of(self.slice.freeze())
    }

    /// Divides it into `parts` chunks, as long as each other give or take one element; each has a
    /// lock of its own.
    ///
    /// # Errors
    /// When `parts` is 0, or there is no memory for the locks. The array is gone then.
    pub fn split(self, parts: usize) -> Result<Chunks<T>> {
        let len = self.len();
        let (each, longer) = (len.checked_div(parts), len.checked_rem(parts));
        let (Some(each), Some(longer)) = (each, longer) else {
            return Err(Error::misuse("an array is split into one part at least"));
        };
        let ends = (1..=parts).map(|part| each * part + part.min(longer));
        self.split_at(&ends.collect::<Vec<_>>())
    }

    /// Divides it into chunks of `len` elements, the last of which may be shorter: whole rows of a
    /// matrix, say.
    ///
    /// # Errors
    /// When `len` is 0, or there is no memory for the locks. The array is gone then.
    pub fn split_every(self, len: usize) -> Result<Chunks<T>> {
        if len == 0 {
            return Err(Error::misuse("a chunk has one element at least"));
        }
        let total = self.len();
        let parts = total.div_ceil(len).max(1);
        let ends: Vec<usize> = (1..=parts).map(|part| total.min(len * part)).collect();
        self.split_at(&ends)
    }

    fn split_at(self, ends: &[usize]) -> Result<Chunks<T>> {
        let ends: Vec<usize> = ends.iter().map(|end| end * size_of::<T>()).collect();
        Ok(Chunks::of(self.slice.divide(&ends)?))
    }

    /// Puts it under one lock.
    ///
    /// # Errors
    /// When there is no memory for the lock. The array is gone then.
    pub fn into_lock(self) -> Result<PlainLock<[T]>> {
        let end = self.len();
        Ok(PlainLock::of(self.split_at(&[end])?))
    }

    /// From now on everyone may copy elements in and out.
    pub fn into_cells(self) -> SharedCells<T> {
        SharedCells::of(self.slice.into_cells())
    }
}

impl<T: Plain> Deref for SharedVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        view(self.slice.bytes())
    }
}

impl<T: Plain> DerefMut for SharedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        view_mut(self.slice.bytes_mut())
    }
}

impl<T: Plain> AsRef<[T]> for SharedVec<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Plain> AsMut<[T]> for SharedVec<T> {
    fn as_mut(&mut self) -> &mut [T] {
        self
    }
}

impl<'a, T: Plain> IntoIterator for &'a SharedVec<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> std::slice::Iter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Plain> IntoIterator for &'a mut SharedVec<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> std::slice::IterMut<'a, T> {
        self.iter_mut()
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for SharedVec<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}
