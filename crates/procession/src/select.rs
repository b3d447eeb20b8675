//! Waiting for several things at once.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::engine::Patience;
use crate::engine::readiness::{
    self, AllDone, Free, FreeChunk, FreeOrMine, Readable, Set, Source, Writable, wait_any,
};
use crate::error::{Error, Result};
use crate::shared::Plain;
use crate::{
    Chunk, Connection, Event, Lock, OneReceiver, PlainLock, PlainTarget, Process, Queue, RLock,
    Receiver, RwLock, Semaphore, Sender, Task,
};

/// Waits until one of several things is ready: a value to receive, room to send, an event, a lock, a
/// permit, the end of a process, the result of a task, a descriptor.
///
/// ```
/// use std::time::Duration;
/// use procession::{Event, Process, Queue, Select};
///
/// fn work(lines: Queue<String>) {
///     lines.send("one".into()).unwrap();
///     std::process::exit(3);
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let (lines, stop) = (Queue::unbounded()?, Event::new()?);
///     let worker = Process::spawn(work, lines.clone())?;
///     let mut select = Select::new();
///     let line = select.recv(&lines);
///     let ended = select.process(&worker);
///     select.event(&stop);
///     let mut seen = Vec::new();
///     loop {
///         match select.ready_timeout(Duration::from_secs(10))? {
///             index if index == line => seen.extend(lines.try_recv()),
///             index if index == ended && lines.is_empty() => break,
///             _ => {}
///         }
///     }
///     assert_eq!(seen, ["one"]);
///     assert_eq!(worker.exit_status().unwrap().code(), Some(3));
///     Ok(())
/// }
/// ```
///
/// What is reported is that the operation would not wait **at that moment**. Another thread or process
/// may be faster: so use `try_recv`, `try_lock` and the like, and select again when there was nothing.
/// A value whose sender is gone, a closed queue, the end of a pipe and the lock of a dead holder count
/// as ready too, for the operation does not wait there. If several are ready, each comes first in
/// turn.
///
/// Who selects takes nothing, and so has no place in the row of those who wait for a lock or a permit
/// by blocking: they may come first again and again.
///
/// Nothing polls: the thread sleeps on all of them at once (on kernels before 5.16, which can't, it
/// looks every 5 ms). With processes or descriptors among them, a helper thread of this process
/// watches the rest. The death of a process that wakes nobody, of the last sender of a pipe say, is
/// noticed within 100 ms.
#[derive(Default)]
pub struct Select<'a> {
    places: Vec<Place>,
    sources: Vec<Box<dyn Source + 'a>>,
    descriptors: Vec<BorrowedFd<'a>>,
    turn: usize,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Source(usize),
    Descriptor(usize),
}

/// What values are received from: a [`Queue`], a [`Receiver`], a [`Connection`], a [`OneReceiver`].
pub trait Receives: sealed::Receives {}

/// What values are sent to: a [`Queue`], a [`Sender`], a [`Connection`].
pub trait Sends: sealed::Sends {}

/// What is taken by `lock`: a [`Lock`], an [`RLock`], a [`PlainLock`], a [`Chunk`].
pub trait Locks: sealed::Locks {}

pub(crate) mod sealed {
    use super::Source;

    pub trait Locks {
        fn free(&self) -> Box<dyn Source>;
    }

    pub trait Receives {
        fn message(&self) -> Box<dyn Source>;
    }

    pub trait Sends {
        fn room(&self) -> Box<dyn Source>;
    }
}

macro_rules! ends {
    ($($trait:ident $method:ident: $($end:ident<$($value:ident),*>)*;)*) => {$($(
        impl<$($value),*> sealed::$trait for $end<$($value),*> {
            fn $method(&self) -> Box<dyn Source> {
                Box::new($end::$method(self))
            }
        }
        impl<$($value),*> $trait for $end<$($value),*> {}
    )*)*};
}

ends! {
    Receives message: Queue<T> Receiver<T> OneReceiver<T> Connection<S, R>;
    Sends room: Queue<T> Sender<T> Connection<S, R>;
}

macro_rules! locks {
    ($([$($generics:tt)*] $lock:ty: $this:ident => $source:expr;)*) => {$(
        impl<$($generics)*> sealed::Locks for $lock {
            fn free(&self) -> Box<dyn Source> {
                let $this = self;
                Box::new($source)
            }
        }
        impl<$($generics)*> Locks for $lock {}
    )*};
}

locks! {
    [T] Lock<T>: lock => Free(lock.engine().clone());
    [] RLock: lock => FreeOrMine(lock.engine().clone());
    [T: ?Sized + PlainTarget] PlainLock<T>: lock => FreeChunk(lock.slice().clone(), 0);
    [T: Plain] Chunk<T>: chunk => FreeChunk(chunk.slice().clone(), chunk.index());
}

impl<'a> Select<'a> {
    /// One that waits for nothing yet.
    pub fn new() -> Select<'a> {
        Select::default()
    }

    fn source(&mut self, source: Box<dyn Source + 'a>) -> usize {
        self.sources.push(source);
        self.places.push(Place::Source(self.sources.len() - 1));
        self.places.len() - 1
    }

    /// Waits for a value to receive, or the end of the values. Returns the index that stands for it.
    pub fn recv(&mut self, from: &'a impl Receives) -> usize {
        self.source(from.message())
    }

    /// Waits for room to send, or for there being nobody to receive. Returns the index that stands for
    /// it.
    pub fn send(&mut self, to: &'a impl Sends) -> usize {
        self.source(to.room())
    }

    /// Waits for an event to be set. Returns the index that stands for it.
    pub fn event(&mut self, event: &'a Event) -> usize {
        self.source(Box::new(Set(event.engine().clone())))
    }

    /// Waits for a lock to be free, or this thread's if it can be taken again, or a dead process's.
    /// Returns the index that stands for it.
    pub fn lock(&mut self, lock: &'a impl Locks) -> usize {
        self.source(lock.free())
    }

    /// Waits for an [`RwLock`] to have no writer, and none that waits. Returns the index that stands for
    /// it.
    pub fn read<T>(&mut self, lock: &'a RwLock<T>) -> usize {
        self.source(Box::new(Readable(lock.engine().clone())))
    }

    /// Waits for an [`RwLock`] to have neither a writer nor readers. It keeps no new readers out
    /// meanwhile. Returns the index that stands for it.
    pub fn write<T>(&mut self, lock: &'a RwLock<T>) -> usize {
        self.source(Box::new(Writable(lock.engine().clone())))
    }

    /// Waits for a permit of a semaphore to be free, or a dead process's where those come back. Returns
    /// the index that stands for it.
    pub fn permit(&mut self, semaphore: &'a Semaphore) -> usize {
        self.source(Box::new(readiness::Permit(semaphore.engine().clone())))
    }

    /// Waits until all values of a queue are [done](Queue::task_done). Returns the index that stands
    /// for it.
    pub fn all_done<T>(&mut self, queue: &'a Queue<T>) -> usize {
        self.source(Box::new(AllDone(queue.engine().clone())))
    }

    /// Waits for a task of a pool to be done, or failed. Returns the index that stands for it.
    pub fn task<R>(&mut self, task: &'a Task<R>) -> usize {
        self.source(Box::new(task.job().done()))
    }

    /// Waits for a process to end. Returns the index that stands for it.
    pub fn process<R>(&mut self, process: &'a Process<R>) -> usize {
        self.descriptor(process)
    }

    /// Waits for a descriptor to be readable, or at its end. Returns the index that stands for it.
    pub fn descriptor(&mut self, descriptor: &'a impl AsFd) -> usize {
        self.descriptors.push(descriptor.as_fd());
        self.places
            .push(Place::Descriptor(self.descriptors.len() - 1));
        self.places.len() - 1
    }

    /// Waits until one is ready, and says which.
    ///
    /// # Panics
    /// When there is nothing to wait for.
    pub fn ready(&mut self) -> usize {
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            if let Some(index) = self.wait(&mut Patience::forever()) {
                return index;
            }
        }
    }

    /// Which one is ready now. Does not wait.
    ///
    /// # Panics
    /// When there is nothing to wait for.
    pub fn try_ready(&mut self) -> Option<usize> {
        self.wait(&mut Patience::none())
    }

    /// Waits until one is ready, at most for `timeout`, and says which.
    ///
    /// # Errors
    /// When none was in that time: [`Error::is_timeout`].
    ///
    /// # Panics
    /// When there is nothing to wait for.
    pub fn ready_timeout(&mut self, timeout: Duration) -> Result<usize> {
        self.wait(&mut Patience::timeout(timeout))
            .ok_or_else(|| Error::timed_out("what was selected", Some(timeout)))
    }

    fn wait(&mut self, patience: &mut Patience<'_>) -> Option<usize> {
        assert!(
            !self.places.is_empty(),
            "a Select that was given nothing to wait for"
        );
        let sources: Vec<&dyn Source> = self.sources.iter().map(|source| &**source as _).collect();
        let found = wait_any(&sources, &self.descriptors, self.turn, patience).ok()?;
        self.turn = (found + 1) % self.places.len();
        self.places.iter().position(|place| match place {
            Place::Source(at) => *at == found,
            Place::Descriptor(at) => at + self.sources.len() == found,
        })
    }
}

impl fmt::Debug for Select<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Select")
            .field("waits_for", &self.places.len())
            .finish_non_exhaustive()
    }
}
