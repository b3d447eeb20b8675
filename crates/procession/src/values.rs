//! `for` loops over queues and pipes.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::pipe::{Connection, Receiver};
use crate::queue::Queue;

#[derive(Debug)]
enum From<Q, P> {
    Queue(Q),
    Pipe(P),
}

/// The values of a [`Queue`], or of a [`Receiver`], as they come: see [`Queue::iter`] and
/// [`Receiver::iter`].
///
/// `next` waits for a value, and gives `None` when no more can come: when the queue is closed and
/// empty, or no sender of the pipe is left. A sender that died has sent a value whole or not at all.
///
/// # Panics
/// When a value can't be read as a `T`: its `Serialize` and `Deserialize` don't agree. `recv` says so
/// as an error.
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct Values<'a, T>(From<&'a Queue<T>, &'a Receiver<T>>);

/// The values of a [`Queue`], or of a [`Receiver`], which is used up: like [`Values`], which borrow
/// it. Values that are left when this is dropped stay for others who receive there.
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct IntoValues<T>(From<Queue<T>, Receiver<T>>);

impl<T: DeserializeOwned> Iterator for Values<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self.0 {
            From::Queue(queue) => queue.next_value(),
            From::Pipe(receiver) => receiver.next_value(),
        }
    }
}

impl<T: DeserializeOwned> Iterator for IntoValues<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &self.0 {
            From::Queue(queue) => queue.next_value(),
            From::Pipe(receiver) => receiver.next_value(),
        }
    }
}

impl<T> fmt::Debug for Values<'_, T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Values").field(&self.0).finish()
    }
}

impl<T> fmt::Debug for IntoValues<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("IntoValues").field(&self.0).finish()
    }
}

impl<T> Queue<T> {
    pub(crate) fn values(&self) -> Values<'_, T> {
        Values(From::Queue(self))
    }
}

impl<T> Receiver<T> {
    pub(crate) fn values(&self) -> Values<'_, T> {
        Values(From::Pipe(self))
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Queue<T> {
    type Item = T;
    type IntoIter = Values<'a, T>;

    /// [`Queue::iter`].
    fn into_iter(self) -> Values<'a, T> {
        self.values()
    }
}

impl<T: DeserializeOwned> IntoIterator for Queue<T> {
    type Item = T;
    type IntoIter = IntoValues<T>;

    fn into_iter(self) -> IntoValues<T> {
        IntoValues(From::Queue(self))
    }
}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Values<'a, T>;

    /// [`Receiver::iter`].
    fn into_iter(self) -> Values<'a, T> {
        self.values()
    }
}

impl<T: DeserializeOwned> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoValues<T>;

    fn into_iter(self) -> IntoValues<T> {
        IntoValues(From::Pipe(self))
    }
}

impl<'a, S, R: DeserializeOwned> IntoIterator for &'a Connection<S, R> {
    type Item = R;
    type IntoIter = Values<'a, R>;

    /// [`Connection::iter`].
    fn into_iter(self) -> Values<'a, R> {
        self.receiver().values()
    }
}
