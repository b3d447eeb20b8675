//! Arrays with a name, for processes that are not related.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::engine::slice::{self, NamedSegment, SegmentReader, SegmentWriter};
use crate::error::{Error, Result};
use crate::shared::{Plain, bytes_of, element, view, view_mut};

/// An array in shared memory with a **name**, for programs that were started apart from each other:
/// not by one another, and not by this crate.
///
/// ```
/// use procession::NamedSlice;
///
/// let name = format!("weather-{}", std::process::id());
/// let here = NamedSlice::<f32>::create(&name, 24)?;
/// here.write().unwrap()[7] = 21.5;
///
/// // In another program of the same user:
/// let there = NamedSlice::<f32>::open(&name)?;
/// assert_eq!(there.read().unwrap()[7], 21.5);
///
/// NamedSlice::<f32>::unlink(&name)?;
/// # Ok::<(), procession::Error>(())
/// ```
///
/// # It stays
///
/// Everything else in this crate is gone with its last user, however that ends. A name can't be: **it
/// stays in `/dev/shm`, with its memory, until somebody calls [`unlink`](Self::unlink)** or the
/// machine is started again. Programs that have it open keep it when its name is gone; the memory goes
/// with the last of them. Use it only where processes have nothing else in common; within a family
/// everything else travels by itself.
///
/// The name is that of a file in `/dev/shm`, readable and writable for its user alone. It appears when
/// the array is whole: a creator that is killed before leaves nothing. Who opens it is refused if it is
/// another user's, no array of this crate's, or one of elements with another size or alignment. That
/// the elements *mean* the same is for the programs to agree on: put a version into the name.
///
/// # Reading and writing
///
/// Many read, or one writes, in place. The lock is the kernel's (`flock`), so its holder's end releases
/// it at once; who comes after a writer that has died or panicked is told, by [`Unfinished`]. It blocks
/// without a limit of time, and there is no order among those who wait.
///
/// The programs trust each other. One that cuts the file short, or writes without the lock, can crash
/// the others (SIGBUS) or have them see data change that they believe to be constant.
pub struct NamedSlice<T> {
    segment: NamedSegment,
    value: PhantomData<fn(T) -> T>,
}

fn failed(name: &str, error: std::io::Error) -> Error {
    let what = match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            format!("there is a shared array named {name:?} already: open it, or unlink it first")
        }
        std::io::ErrorKind::NotFound => format!("there is no shared array named {name:?}"),
        _ => format!("the shared array named {name:?} can't be used"),
    };
    Error::system(what, error)
}

impl<T: Plain> NamedSlice<T> {
    /// Makes a new one, of zeros. Does not block.
    ///
    /// # Errors
    /// When there is something of that name, when `/dev/shm` has no room for it, or when the name is no
    /// file name. The cause ([`source`](std::error::Error::source)) is an [`std::io::Error`], whose
    /// kind tells these apart.
    pub fn create(name: &str, len: usize) -> Result<NamedSlice<T>> {
        NamedSegment::create(name, element::<T>(), bytes_of::<T>(len))
            .map(NamedSlice::of)
            .map_err(|error| failed(name, error))
    }

    /// Opens the one of that name. Does not block.
    ///
    /// # Errors
    /// When there is none, or it is another user's, or not of such elements; the cause as for
    /// [`create`](Self::create).
    pub fn open(name: &str) -> Result<NamedSlice<T>> {
        NamedSegment::open(name, element::<T>())
            .map(NamedSlice::of)
            .map_err(|error| failed(name, error))
    }

    fn of(segment: NamedSegment) -> NamedSlice<T> {
        NamedSlice {
            segment,
            value: PhantomData,
        }
    }

    /// Takes a name away. Who has the array open keeps it; its memory goes with the last of them.
    ///
    /// # Errors
    /// When there is none of that name; the cause as for [`create`](Self::create).
    pub fn unlink(name: &str) -> Result<()> {
        slice::unlink(name).map_err(|error| failed(name, error))
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.segment.len() / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.segment.is_empty()
    }

    /// Becomes a reader; waits while there is a writer.
    ///
    /// # Errors
    /// [`Unfinished`], with the guard inside, when the last writer has died or panicked.
    ///
    /// # Panics
    /// At the limit of descriptors.
    pub fn read(&self) -> Result<NamedReadGuard<'_, T>, Unfinished<NamedReadGuard<'_, T>>> {
        self.reader(true).expect("it waited for the lock")
    }

    /// Becomes a reader if there is no writer now.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    ///
    /// # Panics
    /// At the limit of descriptors.
    pub fn try_read(
        &self,
    ) -> Option<Result<NamedReadGuard<'_, T>, Unfinished<NamedReadGuard<'_, T>>>> {
        self.reader(false)
    }

    fn reader(
        &self,
        wait: bool,
    ) -> Option<Result<NamedReadGuard<'_, T>, Unfinished<NamedReadGuard<'_, T>>>> {
        let reader = self
            .segment
            .read(wait)
            .expect("a descriptor for the lock")?;
        let pid = reader.unfinished();
        let guard = NamedReadGuard {
            reader,
            value: PhantomData,
        };
        Some(match pid {
            None => Ok(guard),
            Some(pid) => Err(Unfinished { guard, pid }),
        })
    }

    /// Becomes the writer; waits while there is another, or a reader.
    ///
    /// # Errors
    /// [`Unfinished`], with the guard inside, when the last writer has died or panicked.
    ///
    /// # Panics
    /// At the limit of descriptors.
    pub fn write(&self) -> Result<NamedWriteGuard<'_, T>, Unfinished<NamedWriteGuard<'_, T>>> {
        self.writer(true).expect("it waited for the lock")
    }

    /// Becomes the writer if there is no other, and no reader, now.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    ///
    /// # Panics
    /// At the limit of descriptors.
    pub fn try_write(
        &self,
    ) -> Option<Result<NamedWriteGuard<'_, T>, Unfinished<NamedWriteGuard<'_, T>>>> {
        self.writer(false)
    }

    fn writer(
        &self,
        wait: bool,
    ) -> Option<Result<NamedWriteGuard<'_, T>, Unfinished<NamedWriteGuard<'_, T>>>> {
        let (writer, pid) = self
            .segment
            .write(wait)
            .expect("a descriptor for the lock")?;
        let guard = NamedWriteGuard {
            writer,
            panicking: std::thread::panicking(),
            value: PhantomData,
        };
        Some(match pid {
            None => Ok(guard),
            Some(pid) => Err(Unfinished { guard, pid }),
        })
    }
}

impl<T: Plain> fmt::Debug for NamedSlice<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("NamedSlice")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The lock of a [`NamedSlice`] is held, and the last writer has died or panicked before it was done:
/// some elements are changed and some are not.
///
/// The guard is inside. With a writer's, taken out by [`into_inner`](Self::into_inner), the array counts
/// as in order when it is dropped; if the error is dropped instead, the next one is told as well. A
/// reader's changes nothing.
pub struct Unfinished<G> {
    guard: G,
    pid: u32,
}

mod sealed {
    pub trait Guard {
        fn begin(&mut self);
    }
}

impl<T> sealed::Guard for NamedReadGuard<'_, T> {
    fn begin(&mut self) {}
}

impl<T> sealed::Guard for NamedWriteGuard<'_, T> {
    fn begin(&mut self) {
        self.writer.begin();
    }
}

impl<G: sealed::Guard> Unfinished<G> {
    /// The guard.
    pub fn into_inner(mut self) -> G {
        self.guard.begin();
        self.guard
    }
}

impl<G> Unfinished<G> {
    /// The process id of the writer.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl<G> fmt::Display for Unfinished<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "process {} ended, or panicked, while it wrote to the shared array: look whether its elements are in order",
            self.pid
        )
    }
}

impl<G> fmt::Debug for Unfinished<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Unfinished")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl<G> std::error::Error for Unfinished<G> {}

/// One of the readers of a [`NamedSlice`], while this lives. It is a `[T]`: the memory itself.
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct NamedReadGuard<'a, T> {
    reader: SegmentReader<'a>,
    value: PhantomData<T>,
}

impl<T: Plain> Deref for NamedReadGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        view(self.reader.bytes())
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for NamedReadGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}

/// The writer of a [`NamedSlice`], while this lives. It is a `[T]`: the memory itself.
///
/// Dropped because its thread panics, it leaves word to the next: [`Unfinished`].
#[must_use = "the lock is released at once if nothing holds the guard"]
pub struct NamedWriteGuard<'a, T> {
    writer: SegmentWriter<'a>,
    /// Whether the thread was panicking already when it took the lock.
    panicking: bool,
    value: PhantomData<T>,
}

impl<T: Plain> Deref for NamedWriteGuard<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        view(self.writer.bytes())
    }
}

impl<T: Plain> DerefMut for NamedWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        view_mut(self.writer.bytes_mut())
    }
}

impl<T> Drop for NamedWriteGuard<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            self.writer.leave_unfinished();
        }
    }
}

impl<T: Plain + fmt::Debug> fmt::Debug for NamedWriteGuard<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.iter()).finish()
    }
}
