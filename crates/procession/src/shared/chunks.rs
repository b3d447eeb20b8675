//! An array in shared memory in chunks, each of which one process at a time changes in place.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::slice::{ChunkError, DividedSlice, HeldChunk, HeldWhole, home, lock, owner};
use crate::engine::{Acquired, Gone, Kind, Patience};
use crate::error::Result;
use crate::shared::frozen::SharedSlice;
use crate::shared::vec::SharedVec;
use crate::shared::{Plain, element, view, view_mut};
use crate::sync::Owner;
use crate::sync::poison::{
    Cause, Flag, LockResult, Poisoned, TryLockError, TryLockResult, Witness, forever,
};
use crate::wire;

/// An array in shared memory in chunks, each with a lock of its own: for workers that fill or change
/// parts of it in place. Had from [`SharedVec::split`].
///
/// ```
/// use procession::{Chunk, Pool, SharedVec};
///
/// fn fill(chunk: Chunk<f64>) {
///     let first = chunk.range().start;
///     for (index, number) in chunk.lock().unwrap().iter_mut().enumerate() {
///         *number = (first + index) as f64;
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let chunks = SharedVec::zeroed(1000)?.split(8)?;
///     let pool = Pool::new(2)?;
///     pool.map(fill, chunks.iter())?;
///     let numbers = chunks.lock_all()?.freeze();
///     assert_eq!(numbers[999], 999.0);
///     Ok(())
/// }
/// ```
///
/// Clones, and what other processes get of it, are the same array. It ends with the last of them.
///
/// # When a holder dies or panics
///
/// The next to take the chunk has it, as an error with the guard inside: [`Poisoned`]. Its elements
/// are **as that holder left them**, some changed and some not: there is no other copy. The other
/// chunks are not concerned. A dead holder is noticed within 50 ms.
pub struct Chunks<T> {
    slice: DividedSlice,
    value: PhantomData<fn(T) -> T>,
}

/// One chunk of [`Chunks`]. It can be cloned and sent; whoever holds its lock has it.
pub struct Chunk<T> {
    chunks: Chunks<T>,
    index: usize,
}

const WITHDRAWN: &str = "this array is no longer in chunks: one that held them all has frozen it or taken it back, so \
                         no lock of a chunk can be taken any more";

impl<T: Plain> Chunks<T> {
    pub(crate) fn of(slice: DividedSlice) -> Chunks<T> {
        Chunks {
            slice,
            value: PhantomData,
        }
    }

    /// How many chunks there are.
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are none, which can't be.
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The chunk at `index`.
    pub fn get(&self, index: usize) -> Option<Chunk<T>> {
        (index < self.len()).then(|| Chunk {
            chunks: self.clone(),
            index,
        })
    }

    /// All chunks.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Chunk<T>> {
        (0..self.len()).map(|index| Chunk {
            chunks: self.clone(),
            index,
        })
    }

    /// Takes the locks of all chunks, one after the other, waiting until each is free: the array as a
    /// whole, to be read, changed, [frozen](AllChunks::freeze) or
    /// [taken back](AllChunks::into_vec). Who holds a chunk in this process and calls this waits for
    /// ever.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when the last holder of one of them has died or panicked.
    ///
    /// # Panics
    /// When the array is no longer in chunks: another has frozen it or taken it back.
    pub fn lock_all(&self) -> LockResult<AllChunks<'_, T>> {
        let (mut held, mut poison) = (Vec::new(), Vec::new());
        for index in 0..self.len() {
            let (chunk, cause) = self.acquire(index, &mut Patience::forever());
            // Patience without end has no other end.
            let Some(chunk) = chunk else {
                unreachable!("a wait without an end has ended")
            };
            held.push(chunk);
            poison.extend(cause.map(|cause| (Flag(self.slice.flag(index)), cause)));
        }
        let guard = AllChunks {
            held: DividedSlice::gather(held).expect("the locks of all chunks are held"),
            _witnesses: (0..self.len())
                .map(|index| Witness::new(Flag(self.slice.flag(index))))
                .collect(),
            value: PhantomData,
        };
        let mut poison = poison.into_iter();
        match poison.next() {
            None => Ok(guard),
            Some((flag, cause)) => Err(Poisoned {
                guard,
                flag,
                also: poison.map(|(flag, _)| flag).collect(),
                cause,
                what: "array",
            }),
        }
    }

    pub(crate) fn acquire(
        &self,
        index: usize,
        patience: &mut Patience<'_>,
    ) -> (Option<HeldChunk<'_>>, Option<Cause>) {
        let flag = Flag(self.slice.flag(index));
        loop {
            match lock(&self.slice, index, patience) {
                Ok((held, acquired)) => {
                    if let Acquired::OwnerDied { info, .. } = acquired {
                        flag.set(Cause::Died {
                            pid: info.map_or(0, |info| info.pid),
                        });
                    }
                    return (Some(held), flag.get());
                }
                // Patience without end runs out only where somebody asked to be interrupted.
                Err(ChunkError::Wait(_)) if patience.left().is_none() => {}
                Err(ChunkError::Wait(_)) => return (None, None),
                Err(_) => panic!("{WITHDRAWN}"),
            }
        }
    }
}

impl<T: Plain> Chunk<T> {
    pub(crate) fn slice(&self) -> &DividedSlice {
        &self.chunks.slice
    }

    /// Which of the chunks it is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Which elements of the whole array are in it.
    pub fn range(&self) -> Range<usize> {
        let bytes = self.chunks.slice.range(self.index);
        bytes.start / size_of::<T>()..bytes.end / size_of::<T>()
    }

    /// Takes its lock, waiting until it is free.
    ///
    /// # Errors
    /// [`Poisoned`], with the guard inside, when a holder before has died or panicked.
    ///
    /// # Panics
    /// When the array is no longer in chunks: somebody has frozen it or taken it back.
    pub fn lock(&self) -> LockResult<ChunkGuard<'_, T>> {
        forever(|patience| self.acquire(patience))
    }

    /// Takes its lock if it is free now.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when somebody else holds it; and as [`lock`](Self::lock).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    pub fn try_lock(&self) -> TryLockResult<ChunkGuard<'_, T>> {
        self.acquire(&mut Patience::none())
    }

    /// Takes its lock, waiting for it at most for `timeout`.
    ///
    /// # Errors
    /// [`TryLockError::Locked`] when it was not to be had in that time; and as [`lock`](Self::lock).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    pub fn lock_timeout(&self, timeout: Duration) -> TryLockResult<ChunkGuard<'_, T>> {
        self.acquire(&mut Patience::timeout(timeout))
    }

    fn acquire(&self, patience: &mut Patience<'_>) -> TryLockResult<ChunkGuard<'_, T>> {
        let (held, cause) = self.chunks.acquire(self.index, patience);
        let Some(held) = held else {
            return Err(TryLockError::Locked);
        };
        let flag = Flag(self.chunks.slice.flag(self.index));
        let guard = ChunkGuard {
            _witness: Witness::new(flag),
            held,
            value: PhantomData,
        };
        Poisoned::told(guard, flag, cause, "chunk")
    }

    /// Whether anybody holds it now.
    pub fn is_locked(&self) -> bool {
        self.chunks.slice.owner(self.index).is_some()
    }

    /// Who holds it now.
    pub fn owner(&self) -> Option<Owner> {
        owner(&self.chunks.slice, self.index).map(Owner::from_engine)
    }

    /// How many wait for it now, about.
    pub fn waiters(&self) -> u32 {
        self.chunks.slice.waiters(self.index)
    }
}

/// A chunk is held while this lives. It is a `[T]`: the memory itself, no copy.
///
/// Dropped because its thread panics, it leaves word to the next holder: [`Poisoned`].
#[must_use = "the chunk is released at once if nothing holds the guard"]
pub struct ChunkGuard<'a, T> {
    /// Dropped before the lock is released.
    _witness: Witness,
    held: HeldChunk<'a>,
    /// The lock's word names the thread that holds it.
    value: PhantomData<(T, *const ())>,
}

/// All chunks of an array are held while this lives. It is a `[T]`: the memory itself, no copy.
///
/// Dropped because its thread panics, it leaves word to the next holder of each: [`Poisoned`].
#[must_use = "the chunks are released at once if nothing holds the guard"]
pub struct AllChunks<'a, T> {
    /// Dropped before the locks are released.
    _witnesses: Vec<Witness>,
    held: HeldWhole<'a>,
    value: PhantomData<(T, *const ())>,
}

impl<T: Plain> AllChunks<'_, T> {
    /// From now on nobody can change the array any more, and no chunk of it can be locked.
    pub fn freeze(self) -> SharedSlice<T> {
        SharedSlice::of(self.held.freeze())
    }

    /// Takes the array back: from now on no chunk of it can be locked. It may be split another way.
    pub fn into_vec(self) -> SharedVec<T> {
        SharedVec::of(self.held.reclaim())
    }
}

macro_rules! guards {
    ($($guard:ident)*) => {$(
        impl<T: Plain> Deref for $guard<'_, T> {
            type Target = [T];

            fn deref(&self) -> &[T] {
                view(self.held.bytes())
            }
        }

        impl<T: Plain> DerefMut for $guard<'_, T> {
            fn deref_mut(&mut self) -> &mut [T] {
                view_mut(self.held.bytes_mut())
            }
        }

        impl<T: Plain + fmt::Debug> fmt::Debug for $guard<'_, T> {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.debug_list().entries(self.iter()).finish()
            }
        }
    )*};
}

guards!(ChunkGuard AllChunks);

impl<T> Chunks<T> {
    pub(crate) fn slice(&self) -> &DividedSlice {
        &self.slice
    }
}

impl<T> Clone for Chunks<T> {
    /// Another name for the same array.
    fn clone(&self) -> Chunks<T> {
        Chunks {
            slice: self.slice.clone(),
            value: PhantomData,
        }
    }
}

impl<T> Clone for Chunk<T> {
    /// Another name for the same chunk.
    fn clone(&self) -> Chunk<T> {
        Chunk {
            chunks: self.chunks.clone(),
            index: self.index,
        }
    }
}

impl<T> fmt::Debug for Chunks<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Chunks")
            .field("len", &self.slice.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Chunk<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Chunk")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for Chunks<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handles(self.slice.handles(), serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Chunks<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chunks<T>, D::Error> {
        wire::deserialize_handles(deserializer, |handles| {
            let home = home().map_err(|_| Gone {
                expected: Some(Kind::Slice),
            })?;
            DividedSlice::open(home, handles, element::<T>()).map(Chunks::of)
        })
    }
}

impl<T> Serialize for Chunk<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.chunks, self.index).serialize(serializer)
    }
}

impl<'de, T: Plain> Deserialize<'de> for Chunk<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chunk<T>, D::Error> {
        let (chunks, index) = <(Chunks<T>, usize)>::deserialize(deserializer)?;
        if index < chunks.len() {
            Ok(Chunk { chunks, index })
        } else {
            Err(serde::de::Error::custom("there is no such chunk"))
        }
    }
}
