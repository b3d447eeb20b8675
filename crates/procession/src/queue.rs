//! Queues of values between processes.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{self, GetError, Patience, PutError, readiness};
use crate::error::{Error, Result};
use crate::values::Values;
use crate::wire;

/// A queue of values: any number of processes send, any number receive, first in, first out.
///
/// ```
/// use procession::{Process, Queue};
///
/// fn square(jobs: Queue<u64>, results: Queue<u64>) {
///     for job in jobs.iter() {
///         results.send(job * job).unwrap();
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let (jobs, results) = (Queue::unbounded()?, Queue::unbounded()?);
///     let helper = Process::spawn(square, (jobs.clone(), results.clone()))?;
///     for job in 1..=3 {
///         jobs.send(job)?;
///     }
///     jobs.close();
///     helper.join()?;
///     assert_eq!(results.try_iter().sum::<u64>(), 14);
///     Ok(())
/// }
/// ```
///
/// A value is there for receivers when `send` returns, and stays when the sender ends. Clones, and
/// what other processes get of it in arguments and messages, are the same queue; it is gone, with
/// what is in it, when the last of them is. Each value is received once.
///
/// # When a process dies
///
/// A process that is killed while it sends or receives has done it or has not: no value is there in
/// part, none twice, and the queue works on. A queue doesn't know who might still send:
/// [`close`](Self::close) it when no more is to come. For a channel with two ends that are told of
/// each other's end, see [`pipe`](crate::pipe()).
pub struct Queue<T> {
    queue: engine::Queue,
    value: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A new one that takes any number of values, as long as there is memory.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn unbounded() -> Result<Queue<T>> {
        Ok(Queue {
            queue: engine::Queue::new(None)?,
            value: PhantomData,
        })
    }

    /// A new one that holds `capacity` values at most; who sends more waits.
    ///
    /// # Errors
    /// When `capacity` is 0 or more than 2^32, or there is no memory.
    pub fn bounded(capacity: usize) -> Result<Queue<T>> {
        let capacity = u32::try_from(capacity).ok().and_then(NonZeroU32::new);
        let capacity = capacity.ok_or_else(|| {
            Error::misuse("the capacity of a queue is at least 1, and fits 32 bits")
        })?;
        Ok(Queue {
            queue: engine::Queue::new(Some(capacity))?,
            value: PhantomData,
        })
    }

    pub(crate) fn engine(&self) -> &engine::Queue {
        &self.queue
    }

    pub(crate) fn message(&self) -> readiness::Message {
        readiness::Message(self.queue.clone())
    }

    pub(crate) fn room(&self) -> readiness::Room {
        readiness::Room(self.queue.clone())
    }

    /// How many values it holds now.
    pub fn len(&self) -> usize {
        self.queue.len() as usize
    }

    /// Whether it is empty now.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether it is full now. An unbounded one never is.
    pub fn is_full(&self) -> bool {
        self.queue.is_full()
    }

    /// How many values it holds at most; `None` for an unbounded one.
    pub fn capacity(&self) -> Option<usize> {
        self.queue
            .capacity()
            .map(|capacity| capacity.get() as usize)
    }

    /// No more values can be sent, in any process. Those in it can be received; who waits for more
    /// is told that none will come.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Says that the work on one received value is done: see [`join`](Self::join). Does not block.
    ///
    /// # Errors
    /// When it was said as often as values were sent.
    pub fn task_done(&self) -> Result<()> {
        self.queue.task_done().map_err(|_| {
            Error::misuse("task_done() was called more often than values were sent into the queue")
        })
    }

    /// How many values were sent for which no [`task_done`](Self::task_done) was said.
    pub fn unfinished(&self) -> usize {
        self.queue.unfinished() as usize
    }

    /// Waits until the work on every value that was sent is [done](Self::task_done), in whichever
    /// processes.
    ///
    /// ```
    /// use procession::{Process, Queue};
    ///
    /// fn work(jobs: Queue<u32>) {
    ///     for _job in jobs.iter() {
    ///         jobs.task_done().unwrap();
    ///     }
    /// }
    ///
    /// #[procession::main]
    /// fn main() -> procession::Result<()> {
    ///     let jobs = Queue::unbounded()?;
    ///     let worker = Process::spawn(work, jobs.clone())?;
    ///     jobs.send(1)?;
    ///     jobs.send(2)?;
    ///     jobs.join();
    ///     assert_eq!(jobs.unfinished(), 0);
    ///     jobs.close();
    ///     worker.join()?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// A process that dies with a value in hand never says it: then this waits for ever. Where that can
    /// be, use [`join_timeout`](Self::join_timeout) and look after the processes, or a
    /// [`Pool`](crate::Pool), which does.
    pub fn join(&self) {
        // Patience without end runs out only where somebody asked to be interrupted.
        while self.queue.join(&mut Patience::forever()).is_err() {}
    }

    /// Waits as [`join`](Self::join) does, at most for `timeout`; says whether all are done.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.queue.join(&mut Patience::timeout(timeout)).is_ok()
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl<T: Serialize> Queue<T> {
    /// Sends a value; waits while the queue is full.
    ///
    /// # Errors
    /// With the value inside: when the queue is closed, the value can't be serialised, or there is
    /// no memory for it.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        send(&self.queue, value, &mut Patience::forever())
    }

    /// Sends values, one after the other; waits whenever the queue is full. Says how many there were.
    ///
    /// Each is sent by itself: a receiver may have the first before the last is sent, and what other
    /// senders send may come in between. A process that is killed meanwhile has sent some of the first
    /// and none of the rest.
    ///
    /// ```
    /// use procession::Queue;
    ///
    /// let jobs = Queue::unbounded()?;
    /// let mut names = ["a", "b", "c"].into_iter().map(String::from);
    /// assert_eq!(jobs.send_many(names.by_ref())?, 3);
    ///
    /// let mut batch = Vec::new();
    /// assert_eq!(jobs.recv_many(&mut batch, 2)?, 2);
    /// assert_eq!(batch, ["a", "b"]);
    /// # Ok::<(), procession::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send), with the value that was not sent. Those before it have been; those after
    /// it are still in the iterator, where that was given [by reference](Iterator::by_ref).
    pub fn send_many(&self, values: impl IntoIterator<Item = T>) -> Result<usize, SendError<T>> {
        send_each(values, |value| self.send(value))
    }

    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the queue is full: [`SendError::is_full`].
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        send(&self.queue, value, &mut Patience::none())
    }

    /// Sends a value; waits at most for `timeout` while the queue is full.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the queue stayed full: [`SendError::is_full`].
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        send(&self.queue, value, &mut Patience::timeout(timeout))
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Receives the next value; waits until there is one.
    ///
    /// # Errors
    /// When the queue is closed and empty ([`Error::is_closed`]), or the value can't be read as a
    /// `T`. It is taken then.
    pub fn recv(&self) -> Result<T> {
        receive(&self.queue, &mut Patience::forever())
            .map_err(|why| why.into_error("a value in the queue", None))
    }

    /// Receives the next value if there is one now.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when there is none: [`Error::is_empty`].
    pub fn try_recv(&self) -> Result<T> {
        receive(&self.queue, &mut Patience::none()).map_err(|why| match why {
            NotReceived::Nothing => Error::empty(),
            why => why.into_error("a value in the queue", None),
        })
    }

    /// Receives the next value; waits for it at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when none came: [`Error::is_timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T> {
        receive(&self.queue, &mut Patience::timeout(timeout))
            .map_err(|why| why.into_error("a value in the queue", Some(timeout)))
    }

    /// Receives the next value, waiting until there is one, and with it those that are there already,
    /// `limit` in all at most. Puts them behind what is in `into`, and says how many they were: at
    /// least 1, unless `limit` is 0.
    ///
    /// A process that is killed meanwhile takes with it what it has received so far, as it would with
    /// [`recv`](Self::recv): never more than `limit`.
    ///
    /// # Errors
    /// When the queue is closed and empty ([`Error::is_closed`]), or a value can't be read as a `T`. It
    /// is taken then; those before it are in `into`.
    pub fn recv_many(&self, into: &mut Vec<T>, limit: usize) -> Result<usize> {
        many(into, limit, || self.recv(), || self.try_recv())
    }

    /// The values as they come; waits for each. Ends when the queue is closed and empty. So does a
    /// `for` loop over `&queue`, or over the queue.
    ///
    /// # Panics
    /// When a value can't be read as a `T`: its `Serialize` and `Deserialize` don't agree.
    /// [`recv`](Self::recv) says so as an error.
    pub fn iter(&self) -> Values<'_, T> {
        self.values()
    }

    pub(crate) fn next_value(&self) -> Option<T> {
        receive(&self.queue, &mut Patience::forever()).map_or_else(NotReceived::end, Some)
    }

    /// The values that are there; does not wait.
    ///
    /// # Panics
    /// As [`iter`](Self::iter).
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| {
            receive(&self.queue, &mut Patience::none()).map_or_else(NotReceived::end, Some)
        })
    }
}

pub(crate) fn send<T: Serialize>(
    queue: &engine::Queue,
    value: T,
    patience: &mut Patience<'_>,
) -> Result<(), SendError<T>> {
    let sent = wire::encode_and(&value, 0, |packed| {
        packed.send(0, |message| queue.put(message, patience))
    });
    let why = match sent {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(PutError::Full)) => Error::full(),
        Ok(Err(PutError::Memory(error))) => Error::from(error),
        Ok(Err(PutError::Gone)) => Error::garbled("a queue"),
        Ok(Err(PutError::Closed | PutError::Interrupted)) => {
            Error::closed("nobody receives there any more")
        }
        Err(error) => error,
    };
    Err(SendError(Box::new(Unsent { value, why })))
}

/// Sends values until one can't be sent; how many there were.
pub(crate) fn send_each<T>(
    values: impl IntoIterator<Item = T>,
    send: impl Fn(T) -> Result<(), SendError<T>>,
) -> Result<usize, SendError<T>> {
    let mut sent = 0;
    for value in values {
        send(value)?;
        sent += 1;
    }
    Ok(sent)
}

/// The `first` value, and what there is of the rest.
pub(crate) fn many<T>(
    into: &mut Vec<T>,
    limit: usize,
    first: impl FnOnce() -> Result<T>,
    rest: impl Fn() -> Result<T>,
) -> Result<usize> {
    if limit == 0 {
        return Ok(0);
    }
    into.push(first()?);
    for received in 1..limit {
        match rest() {
            Ok(value) => into.push(value),
            Err(error) if error.is_empty() || error.is_closed() => return Ok(received),
            Err(error) => return Err(error),
        }
    }
    Ok(limit)
}

/// Why nothing was received.
pub(crate) enum NotReceived {
    Nothing,
    Closed,
    Gone,
    Unreadable(Error),
}

impl NotReceived {
    pub(crate) fn into_error(self, what: &'static str, after: Option<Duration>) -> Error {
        match self {
            NotReceived::Nothing => Error::timed_out(what, after),
            NotReceived::Closed => Error::closed(
                "there is nothing more to receive: the other side has closed it or ended",
            ),
            NotReceived::Gone => Error::garbled("a queue"),
            NotReceived::Unreadable(error) => error,
        }
    }

    /// The end of an iterator, or a reason to panic.
    pub(crate) fn end<T>(self) -> Option<T> {
        match self {
            NotReceived::Nothing | NotReceived::Closed => None,
            other => panic!("{}", other.into_error("a value", None).chain()),
        }
    }
}

/// Bytes of a short message.
const SHORT: usize = 128;

pub(crate) fn receive<T: DeserializeOwned>(
    queue: &engine::Queue,
    patience: &mut Patience<'_>,
) -> Result<T, NotReceived> {
    // What is short and of bytes alone needs no memory on its way.
    let mut short = [0; SHORT];
    let taken = queue.take_if(|front| {
        let bytes = short.get_mut(..front.len())?;
        front.read(bytes);
        Some(front.len())
    });
    if let Some(length) = taken {
        return wire::decode(&short[..length], Vec::new()).map_err(NotReceived::Unreadable);
    }
    let message = queue.get(patience).map_err(|error| match error {
        GetError::Empty | GetError::Interrupted => NotReceived::Nothing,
        GetError::Closed => NotReceived::Closed,
        GetError::Gone => NotReceived::Gone,
    })?;
    wire::decode_message(message).map_err(NotReceived::Unreadable)
}

impl<T> Clone for Queue<T> {
    /// Another name for the same queue.
    fn clone(&self) -> Queue<T> {
        Queue {
            queue: self.queue.clone(),
            value: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("closed", &self.is_closed())
            .finish()
    }
}

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handle(self.queue.handle(), serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<T>, D::Error> {
        let queue = wire::deserialize_handle(deserializer, engine::Queue::from_handle)?;
        Ok(Queue {
            queue,
            value: PhantomData,
        })
    }
}

/// A value was not sent. It is inside.
pub struct SendError<T>(Box<Unsent<T>>);

struct Unsent<T> {
    value: T,
    why: Error,
}

impl<T> SendError<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0.value
    }

    /// There was no room, for as long as the sender would wait.
    pub fn is_full(&self) -> bool {
        self.0.why.is_full()
    }

    /// The queue is closed, or nobody is left at the other end of the pipe.
    pub fn is_closed(&self) -> bool {
        self.0.why.is_closed()
    }

    pub(crate) fn new(value: T, why: Error) -> SendError<T> {
        SendError(Box::new(Unsent { value, why }))
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the value was not sent: {}", self.0.why)
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SendError({:?})", self.0.why)
    }
}

impl<T> std::error::Error for SendError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0.why)
    }
}

impl<T> From<SendError<T>> for Error {
    fn from(error: SendError<T>) -> Error {
        error.0.why
    }
}
