//! Waiting in asynchronous code: the feature `tokio`.
//!
//! No wait has a thread of its own. What lies in shared memory is watched by one thread of this
//! process (one more for each further 100 waits at a time), which wakes the task; processes are
//! watched by the runtime, through their descriptors. Dropping a future ends its wait, and nothing is
//! lost by it: a value is received, and a lock or a permit taken, in the poll that returns it.
//!
//! What has no such form, and why: an `RLock` is its thread's, and all tasks of a thread would have it
//! at once; a `Barrier` breaks when a party gives up, which a dropped future does; a `Once` runs code
//! of the caller's while others wait.

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::engine::Patience;
use crate::engine::readiness::{
    self, AllDone, Free, FreeChunk, Notified, Readable, Set, Source, Watch, Writable,
};
use crate::engine::{Ticket, WaitQueue};
use crate::error::{Error, Result};
use crate::process::{ExitStatus, JoinError};
use crate::queue::{SendError, many};
use crate::shared::Plain;
use crate::sync::poison::{LockResult, TryLockError, TryLockResult};
use crate::{
    Chunk, ChunkGuard, Condition, Connection, Event, Lock, LockGuard, OneReceiver, Permit,
    PlainLock, PlainLockGuard, PlainTarget, Process, Queue, ReadGuard, Receiver, RwLock, Semaphore,
    Sender, Task, WriteGuard,
};

/// Tries `attempt` now and whenever the source is ready, until it comes to something.
pub(crate) fn until<T>(
    source: impl Source + 'static,
    mut attempt: impl FnMut() -> Option<T>,
) -> impl Future<Output = Result<T>> {
    let source: Arc<dyn Source> = Arc::new(source);
    let mut watch: Option<Watch> = None;
    poll_fn(move |context| {
        if let Some(result) = attempt() {
            drop(watch.take());
            return Poll::Ready(Ok(result));
        }
        // It looks once more itself, as its first act. One that has waked this task is gone.
        match readiness::watch(Arc::clone(&source), context.waker()) {
            Ok(new) => {
                watch.replace(new);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(Error::system(
                "the thread that watches for asynchronous code can't be started",
                error,
            ))),
        }
    })
}

fn received<T>(result: Result<T>) -> Option<Result<T>> {
    match result {
        Err(error) if error.is_empty() => None,
        other => Some(other),
    }
}

/// The outcome of an attempt to take a lock; `None` while somebody else holds it.
fn locked<G>(attempt: TryLockResult<G>) -> Option<LockResult<G>> {
    match attempt {
        Ok(guard) => Some(Ok(guard)),
        Err(TryLockError::Poisoned(poisoned)) => Some(Err(poisoned)),
        Err(TryLockError::Locked) => None,
    }
}

async fn sent<T: Serialize>(
    source: impl Source + 'static,
    value: T,
    send: impl Fn(T) -> Result<(), SendError<T>>,
) -> Result<(), SendError<T>> {
    let mut value = Some(value);
    let result = until(source, || match send(value.take()?) {
        Err(error) if error.is_full() => {
            value = Some(error.into_inner());
            None
        }
        other => Some(other),
    });
    match result.await {
        Ok(result) => result,
        Err(why) => match value {
            Some(value) => Err(SendError::new(value, why)),
            // It is taken out for the time of an attempt only.
            None => Ok(()),
        },
    }
}

macro_rules! receivers {
    ($($end:ident<$($value:ident),*> $item:ident)*) => {$(
        impl<$($value),*> $end<$($value),*> where $item: DeserializeOwned {
            /// Receives the next value, in asynchronous code. Needs the feature `tokio`, and no
            /// particular runtime.
            ///
            /// # Errors
            /// As `recv`; and when the thread that watches for it can't be started.
            pub async fn recv_async(&self) -> Result<$item> {
                until(self.message(), || received(self.try_recv())).await?
            }
        }
    )*};
}

macro_rules! receivers_of_many {
    ($($end:ident)*) => {$(
        impl<T: DeserializeOwned> $end<T> {
            /// Receives the next value, and with it those that are there already, in asynchronous code:
            /// as [`recv_many`](Self::recv_many). Needs the feature `tokio`, and no particular runtime.
            /// Dropped before it is done, it has received nothing.
            ///
            /// # Errors
            /// As `recv_many`; and when the thread that watches for it can't be started.
            pub async fn recv_many_async(&self, into: &mut Vec<T>, limit: usize) -> Result<usize> {
                if limit == 0 {
                    return Ok(0);
                }
                let first = self.recv_async().await?;
                many(into, limit, || Ok(first), || self.try_recv())
            }
        }
    )*};
}

receivers_of_many!(Queue Receiver);

receivers!(Queue<T> T Receiver<T> T OneReceiver<T> T Connection<S, R> R);

macro_rules! senders {
    ($($end:ident<$($value:ident),*> $item:ident)*) => {$(
        impl<$($value),*> $end<$($value),*> where $item: Serialize {
            /// Sends a value, in asynchronous code. Needs the feature `tokio`, and no particular
            /// runtime. Dropped before it is done, it has not sent the value, which is gone.
            ///
            /// # Errors
            /// As `send`; and when the thread that watches for it can't be started.
            pub async fn send_async(&self, value: $item) -> Result<(), SendError<$item>> {
                sent(self.room(), value, |value| self.try_send(value)).await
            }
        }
    )*};
}

senders!(Queue<T> T Sender<T> T Connection<S, R> S);

impl Event {
    /// Waits until it is set, in asynchronous code. Needs the feature `tokio`, and no particular
    /// runtime. A pulse (set and cleared at once) may go unseen.
    ///
    /// # Errors
    /// When the thread that watches for it can't be started.
    pub async fn wait_async(&self) -> Result<()> {
        until(Set(self.engine().clone()), || self.is_set().then_some(())).await
    }
}

impl<T> Queue<T> {
    /// Waits until the work on every value that was sent is [done](Self::task_done), in asynchronous
    /// code; see [`join`](Self::join). Needs the feature `tokio`, and no particular runtime.
    ///
    /// # Errors
    /// When the thread that watches for it can't be started.
    pub async fn join_async(&self) -> Result<()> {
        let done = || (self.unfinished() == 0).then_some(());
        until(AllDone(self.engine().clone()), done).await
    }
}

impl Semaphore {
    /// Takes a permit, in asynchronous code. Needs the feature `tokio`, and no particular runtime.
    ///
    /// Dropped before it is done, it has taken none. The permits of the dead come as they do in
    /// [`acquire`](Self::acquire).
    ///
    /// # Errors
    /// When the thread that watches for it can't be started.
    pub async fn acquire_async(&self) -> Result<Permit<'_>> {
        let free = readiness::Permit(self.engine().clone());
        until(free, || self.try_acquire()).await
    }
}

impl<T: Serialize + DeserializeOwned> Lock<T> {
    /// Takes the lock, in asynchronous code. Needs the feature `tokio`, and no particular runtime.
    ///
    /// The guard is its thread's, so a task that holds one is not `Send` meanwhile: let go of it before
    /// the next `await`, for others wait. Who waits asynchronously is not in the row with those who
    /// block: where a lock is never free for long they come first.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`lock`](Self::lock).
    pub fn lock_async(&self) -> impl Future<Output = Result<LockResult<LockGuard<'_, T>>>> {
        until(Free(self.engine().clone()), || locked(self.try_lock()))
    }
}

impl<T: ?Sized + PlainTarget> PlainLock<T> {
    /// Takes the lock, in asynchronous code: as [`Lock::lock_async`]. Needs the feature `tokio`, and no
    /// particular runtime.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`lock`](Self::lock).
    pub fn lock_async(&self) -> impl Future<Output = Result<LockResult<PlainLockGuard<'_, T>>>> {
        let free = FreeChunk(self.slice().clone(), 0);
        until(free, || locked(self.try_lock()))
    }
}

impl<T: Plain> Chunk<T> {
    /// Takes its lock, in asynchronous code: as [`Lock::lock_async`]. Needs the feature `tokio`, and no
    /// particular runtime.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`lock`](Self::lock).
    ///
    /// # Panics
    /// As [`lock`](Self::lock).
    pub fn lock_async(&self) -> impl Future<Output = Result<LockResult<ChunkGuard<'_, T>>>> {
        let free = FreeChunk(self.slice().clone(), self.index());
        until(free, || locked(self.try_lock()))
    }
}

impl<T: Serialize + DeserializeOwned> RwLock<T> {
    /// Becomes a reader, in asynchronous code: as [`Lock::lock_async`]. Needs the feature `tokio`, and
    /// no particular runtime.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`read`](Self::read).
    pub fn read_async(&self) -> impl Future<Output = Result<LockResult<ReadGuard<'_, T>>>> {
        let free = Readable(self.engine().clone());
        until(free, || locked(self.try_read()))
    }

    /// Becomes the writer, in asynchronous code: as [`Lock::lock_async`]. Needs the feature `tokio`,
    /// and no particular runtime.
    ///
    /// Other than [`write`](Self::write) it keeps no new readers out while it waits: it comes when for
    /// a moment nobody reads.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`write`](Self::write).
    pub fn write_async(&self) -> impl Future<Output = Result<LockResult<WriteGuard<'_, T>>>> {
        let free = Writable(self.engine().clone());
        until(free, || locked(self.try_write()))
    }
}

/// A place among those who wait for a condition, given up when dropped.
struct Place<'a> {
    queue: &'a WaitQueue,
    ticket: Ticket,
    /// Whether a notification that came here was of use.
    heard: bool,
    /// In which process.
    home: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // A copy in a forked child has no place.
        if self.home == std::process::id() {
            self.queue.give_up(self.ticket, self.heard);
        }
    }
}

impl Condition {
    /// Releases the lock, waits to be notified, and takes the lock again, in asynchronous code; see
    /// [`wait`](Self::wait). Needs the feature `tokio`, and no particular runtime.
    ///
    /// The lock is released by the call, before the first `await`. Dropped before it is done, it waits
    /// no more, and a notification that came to it goes to another who waits. It may also end without
    /// a notification: look again whether what was waited for is there.
    ///
    /// # Errors
    /// The outer one when the thread that watches for it can't be started; the inner as
    /// [`wait`](Self::wait).
    pub fn wait_async<'a, T>(
        &'a self,
        guard: LockGuard<'a, T>,
    ) -> impl Future<Output = Result<LockResult<LockGuard<'a, T>>>>
    where
        T: Serialize + DeserializeOwned,
    {
        let lock = LockGuard::lock(&guard);
        let place = Place {
            queue: self.engine(),
            ticket: self.engine().enqueue(),
            heard: false,
            home: std::process::id(),
        };
        drop(guard);
        async move {
            // As a whole: its fields alone would leave it behind.
            let mut place = place;
            let notified = Notified(place.queue.clone(), place.ticket);
            let seen = notified.clone();
            until(notified, || seen.look().is_ready().then_some(())).await?;
            let locked = lock.lock_async().await?;
            place.heard = true;
            Ok(locked)
        }
    }
}

impl<R> Task<R> {
    /// Waits until it is done, or failed, in asynchronous code; then [`get`](Self::get) doesn't wait.
    /// Needs the feature `tokio`, and no particular runtime. It can be dropped and asked again.
    ///
    /// # Errors
    /// When the thread that watches for it can't be started.
    pub async fn wait_async(&self) -> Result<()> {
        until(self.job().done(), || self.is_ready().then_some(())).await
    }
}

impl<R: DeserializeOwned> Task<R> {
    /// Waits for the result, in asynchronous code. Needs the feature `tokio`, and no particular
    /// runtime. Dropped before it is done, it throws the result away; the task is carried out all the
    /// same. Where there is a time-out around it, see [`wait_async`](Self::wait_async).
    ///
    /// # Errors
    /// As [`get`](Self::get); and when the thread that watches for it can't be started.
    pub async fn get_async(mut self) -> Result<R> {
        let done = self.job().done();
        let task = &mut self;
        until(done, || task.take(&mut Patience::none())).await?
    }
}

impl<R> Process<R> {
    /// Waits until it has ended, in asynchronous code. Needs the feature `tokio`.
    ///
    /// # Errors
    /// When the runtime can't watch the process: at the limit of descriptors.
    ///
    /// # Panics
    /// Outside of a tokio runtime with its I/O driver enabled.
    pub async fn wait_async(&self) -> Result<ExitStatus> {
        use std::os::fd::AsFd;
        let refused = |error| Error::system("the runtime can't watch the process", error);
        // Of its own: a descriptor can be watched once.
        let sentinel = self.as_fd().try_clone_to_owned().map_err(refused)?;
        #[allow(
            deprecated,
            reason = "its successor is unsafe, for the sake of types that lose their descriptor: an OwnedFd does not"
        )]
        let sentinel = AsyncFd::new(sentinel).map_err(refused)?;
        loop {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            sentinel.readable().await.map_err(refused)?.clear_ready();
        }
    }
}

impl<R: DeserializeOwned> Process<R> {
    /// Waits until the process has ended, in asynchronous code, and gives what its function returned.
    /// Needs the feature `tokio`.
    ///
    /// # Errors
    /// The outer one as [`wait_async`](Self::wait_async); the inner as [`join`](Self::join).
    ///
    /// # Panics
    /// As [`wait_async`](Self::wait_async).
    pub async fn join_async(self) -> Result<Result<R, JoinError>> {
        self.wait_async().await?;
        // It has ended: this doesn't wait.
        Ok(self.join())
    }
}
