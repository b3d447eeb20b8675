//! Channels with two ends that learn of each other's end.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::readiness::{Message, Readiness, Room, Source};
use crate::engine::{self, Block, Gone, Handle, Kind, Patience, clock};
use crate::error::{Error, Result};
use crate::queue::{NotReceived, SendError, many, receive, send, send_each};
use crate::values::Values;
use crate::{start, wire};

/// How many values a pipe holds before its senders wait.
const CAPACITY: u32 = 1024;

/// How long to wait.
const FOREVER: Option<Duration> = None;
const NOT: Option<Duration> = Some(Duration::ZERO);
/// Who waits looks for the dead meanwhile. Who never waits does so this often.
const LOOK: Duration = Duration::from_millis(50);

/// A channel from a [`Sender`] to a [`Receiver`], which tells each when nobody is left at the other
/// end.
///
/// ```
/// use procession::{Process, Sender};
///
/// fn count(numbers: Sender<u32>) {
///     for number in 1..=3 {
///         numbers.send(number).unwrap();
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let (sender, receiver) = procession::pipe()?;
///     let process = Process::spawn(count, sender)?;
///     assert_eq!(receiver.iter().sum::<u32>(), 6);
///     process.join()?;
///     Ok(())
/// }
/// ```
///
/// It holds up to 1024 values; a sender that is ahead by more waits. A value is there when `send`
/// returns, and is received once. Both ends can be cloned, sent to other processes, and sent
/// through pipes.
///
/// # When a process ends
///
/// The last sender's end, in whatever way its processes ended, is the end of the receiver's values,
/// once it has received what was sent. Sending to nobody is an error. The end of a killed process
/// is noticed within 100 ms.
///
/// # Errors
/// When there is no memory.
pub fn pipe<T>() -> Result<(Sender<T>, Receiver<T>)> {
    pipe_of(CAPACITY)
}

/// One that holds so many values.
pub(crate) fn pipe_of<T>(capacity: u32) -> Result<(Sender<T>, Receiver<T>)> {
    let queue = engine::Queue::new(NonZeroU32::new(capacity))?;
    let (sending, receiving) = (Block::zeroed(8)?, Block::zeroed(8)?);
    let (senders, receivers) = (sending.handle(), receiving.handle());
    Ok((
        Sender {
            end: End::new(queue.clone(), sending, receivers),
            value: PhantomData,
        },
        Receiver {
            end: End::new(queue, receiving, senders),
            value: PhantomData,
        },
    ))
}

/// Two pipes that make a conversation: what one side sends the other receives.
///
/// ```
/// use procession::{Connection, Process};
///
/// fn lengths(peer: Connection<usize, String>) {
///     for text in peer.iter() {
///         peer.send(text.len()).unwrap();
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let (here, there) = procession::duplex::<String, usize>()?;
///     let process = Process::spawn(lengths, there)?;
///     here.send("hello".into())?;
///     assert_eq!(here.recv()?, 5);
///     drop(here);
///     process.join()?;
///     Ok(())
/// }
/// ```
///
/// # Errors
/// When there is no memory.
pub fn duplex<A, B>() -> Result<(Connection<A, B>, Connection<B, A>)> {
    let (there, from_here) = pipe()?;
    let (back, from_there) = pipe()?;
    Ok((
        Connection {
            sender: there,
            receiver: from_there,
        },
        Connection {
            sender: back,
            receiver: from_here,
        },
    ))
}

/// What both ends are made of.
///
/// The `token` is an object in shared memory that does nothing but exist. Every sender refers to
/// the senders' token, in whichever process it is or whichever message it travels; receivers know
/// only its name. Once it is gone there is no sender. The same the other way round.
struct End {
    queue: engine::Queue,
    /// There until the end is dropped.
    token: Option<Block>,
    /// Its name.
    side: Handle,
    /// The name of the other side's.
    peer: Handle,
    /// When this end last looked for the dead.
    looked: AtomicU64,
}

impl End {
    fn new(queue: engine::Queue, token: Block, peer: Handle) -> End {
        End {
            queue,
            side: token.handle(),
            token: Some(token),
            peer,
            looked: clock::now().into(),
        }
    }

    /// As of the last [`LOOK`], if it was killed.
    fn peer_is_there(&self) -> bool {
        if clock::since(self.looked.load(Ordering::Relaxed)) < LOOK {
            return exists(self.peer);
        }
        self.looked.store(clock::now(), Ordering::Relaxed);
        exists_for_the_living(self.peer)
    }
}

fn exists(token: Handle) -> bool {
    engine::family().is_ok_and(|family| family.arena().kind(token) == Ok(Kind::Block))
}

/// The same, and takes from the dead what they held of it.
fn exists_for_the_living(token: Handle) -> bool {
    // A child of ours that has ended gives everything back when it is looked at, messages that name
    // the token included.
    start::children();
    engine::release_dead(token);
    exists(token)
}

/// A value in a pipe, or that no sender is left, to be waited for together with other things.
pub(crate) struct PipeMessage {
    message: Message,
    peer: Handle,
}

impl Source for PipeMessage {
    fn watch(&self) {
        self.message.watch();
    }

    fn unwatch(&self) {
        self.message.unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        with_peer(self.message.look(), self.peer)
    }
}

/// Room in a pipe, or that no receiver is left, to be waited for together with other things.
pub(crate) struct PipeRoom {
    room: Room,
    peer: Handle,
}

impl Source for PipeRoom {
    fn watch(&self) {
        self.room.watch();
    }

    fn unwatch(&self) {
        self.room.unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        with_peer(self.room.look(), self.peer)
    }
}

fn with_peer(look: Readiness<'static>, peer: Handle) -> Readiness<'static> {
    if look.is_ready() || exists_for_the_living(peer) {
        look
    } else {
        Readiness::Ready
    }
}

impl Clone for End {
    fn clone(&self) -> End {
        End {
            queue: self.queue.clone(),
            token: self.token.clone(),
            side: self.side,
            peer: self.peer,
            looked: self.looked.load(Ordering::Relaxed).into(),
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.token = None;
        if !exists(self.side) {
            // Wakes who waits at the other end. Where a process was killed, nobody does this; the
            // other end looks itself.
            self.queue.close();
        }
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Not noted: the peer is not kept alive by its name.
        (
            wire::Handles([self.queue.handle(), self.side]),
            self.peer.to_bytes(),
        )
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for End {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<End, D::Error> {
        let (Opened { queue, token }, peer) = <(Opened, [u8; 16])>::deserialize(deserializer)?;
        Ok(End::new(queue, token, Handle::from_bytes(peer)))
    }
}

struct Opened {
    queue: engine::Queue,
    token: Block,
}

impl<'de> Deserialize<'de> for Opened {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Opened, D::Error> {
        wire::deserialize_handles(deserializer, |[queue, token]| -> Result<Opened, Gone> {
            Ok(Opened {
                queue: engine::Queue::from_handle(queue)?,
                token: Block::from_handle(token)?,
            })
        })
    }
}

/// The end of a [`pipe`] where values go in.
///
/// Cloned, or sent to another process, it is one more sender.
pub struct Sender<T> {
    end: End,
    value: PhantomData<fn(T)>,
}

/// The end of a [`pipe`] where values come out.
///
/// Cloned, or sent to another process, it is one more receiver; each value goes to one of them.
pub struct Receiver<T> {
    end: End,
    value: PhantomData<fn() -> T>,
}

impl<T> Sender<T> {
    pub(crate) fn room(&self) -> PipeRoom {
        PipeRoom {
            room: Room(self.end.queue.clone()),
            peer: self.end.peer,
        }
    }
}

impl<T> Receiver<T> {
    pub(crate) fn message(&self) -> PipeMessage {
        PipeMessage {
            message: Message(self.end.queue.clone()),
            peer: self.end.peer,
        }
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a value; waits while the pipe is full.
    ///
    /// # Errors
    /// With the value inside: when no receiver is left ([`SendError::is_closed`]), the value can't
    /// be serialised, or there is no memory for it.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.put(value, FOREVER)
    }

    /// Sends values, one after the other; waits whenever the pipe is full. Says how many there were.
    ///
    /// Each is sent by itself: see [`Queue::send_many`](crate::Queue::send_many).
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
    /// As [`send`](Self::send), and when the pipe is full: [`SendError::is_full`].
    pub fn try_send(&self, value: T) -> Result<(), SendError<T>> {
        self.put(value, NOT)
    }

    /// Sends a value; waits at most for `timeout` while the pipe is full.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the pipe stayed full: [`SendError::is_full`].
    pub fn send_timeout(&self, value: T, timeout: Duration) -> Result<(), SendError<T>> {
        self.put(value, Some(timeout))
    }

    fn put(&self, value: T, wait: Option<Duration>) -> Result<(), SendError<T>> {
        if !self.end.peer_is_there() {
            return Err(SendError::new(
                value,
                Error::closed("nobody receives there any more"),
            ));
        }
        let mut nobody = || !exists_for_the_living(self.end.peer);
        // An interrupted wait comes back as "closed": that is what the hook asks.
        send(
            &self.end.queue,
            value,
            &mut Patience::from_option(wait).with_interrupt(&mut nobody),
        )
    }
}

impl<T: DeserializeOwned> Receiver<T> {
    /// Receives the next value; waits until there is one.
    ///
    /// # Errors
    /// When no sender is left and all was received ([`Error::is_closed`]), or the value can't be
    /// read as a `T`. It is taken then.
    pub fn recv(&self) -> Result<T> {
        self.get(FOREVER)
            .map_err(|why| why.into_error("a value in the pipe", None))
    }

    /// Receives the next value if there is one now.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when there is none: [`Error::is_empty`].
    pub fn try_recv(&self) -> Result<T> {
        self.get(NOT).map_err(|why| match why {
            NotReceived::Nothing => Error::empty(),
            why => why.into_error("a value in the pipe", None),
        })
    }

    /// Receives the next value; waits for it at most for `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when none came: [`Error::is_timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T> {
        self.get(Some(timeout))
            .map_err(|why| why.into_error("a value in the pipe", Some(timeout)))
    }

    /// Receives the next value, waiting until there is one, and with it those that are there already,
    /// `limit` in all at most. Puts them behind what is in `into`, and says how many they were: at
    /// least 1, unless `limit` is 0. See [`Queue::recv_many`](crate::Queue::recv_many).
    ///
    /// # Errors
    /// When no sender is left and all was received ([`Error::is_closed`]), or a value can't be read as a
    /// `T`. It is taken then; those before it are in `into`.
    pub fn recv_many(&self, into: &mut Vec<T>, limit: usize) -> Result<usize> {
        many(into, limit, || self.recv(), || self.try_recv())
    }

    /// The values as they come; waits for each. Ends when no sender is left and all was received. So
    /// does a `for` loop over `&receiver`, or over the receiver.
    ///
    /// # Panics
    /// When a value can't be read as a `T`: its `Serialize` and `Deserialize` don't agree.
    /// [`recv`](Self::recv) says so as an error.
    pub fn iter(&self) -> Values<'_, T> {
        self.values()
    }

    pub(crate) fn next_value(&self) -> Option<T> {
        self.get(FOREVER).map_or_else(NotReceived::end, Some)
    }

    /// The values that are there; does not wait.
    ///
    /// # Panics
    /// As [`iter`](Self::iter).
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.get(NOT).map_or_else(NotReceived::end, Some))
    }

    fn get(&self, wait: Option<Duration>) -> Result<T, NotReceived> {
        let mut gone = false;
        let mut nobody = || {
            gone = !exists_for_the_living(self.end.peer);
            gone
        };
        let once = wait == NOT;
        match receive(
            &self.end.queue,
            &mut Patience::from_option(wait).with_interrupt(&mut nobody),
        ) {
            Err(NotReceived::Nothing) if gone || (once && !self.end.peer_is_there()) => {
                // What the last sender sent was there before it went.
                match receive(&self.end.queue, &mut Patience::none()) {
                    Err(NotReceived::Nothing) => Err(NotReceived::Closed),
                    other => other,
                }
            }
            other => other,
        }
    }
}

macro_rules! ends {
    ($($name:ident)*) => {$(
        impl<T> Clone for $name<T> {
            /// One more of its kind, at the same end of the same pipe.
            fn clone(&self) -> $name<T> {
                $name { end: self.end.clone(), value: PhantomData }
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.debug_struct(stringify!($name)).field("waiting_values", &self.end.queue.len()).finish_non_exhaustive()
            }
        }

        impl<T> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.end.serialize(serializer)
            }
        }

        impl<'de, T> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name<T>, D::Error> {
                Ok($name { end: End::deserialize(deserializer)?, value: PhantomData })
            }
        }
    )*};
}

ends!(Sender Receiver);

/// One side of a conversation, which sends `S` and receives `R`: see [`duplex`].
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Connection<S, R> {
    sender: Sender<S>,
    receiver: Receiver<R>,
}

impl<S, R> Connection<S, R> {
    pub(crate) fn message(&self) -> PipeMessage {
        self.receiver.message()
    }

    pub(crate) fn room(&self) -> PipeRoom {
        self.sender.room()
    }

    /// The two ends, each by itself.
    pub fn split(self) -> (Sender<S>, Receiver<R>) {
        (self.sender, self.receiver)
    }

    /// The end where values go in.
    pub fn sender(&self) -> &Sender<S> {
        &self.sender
    }

    /// The end where values come out.
    pub fn receiver(&self) -> &Receiver<R> {
        &self.receiver
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// Sends a value; waits while the pipe is full.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub fn send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.send(value)
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    /// As [`Sender::try_send`].
    pub fn try_send(&self, value: S) -> Result<(), SendError<S>> {
        self.sender.try_send(value)
    }

    /// Sends a value; waits at most for `timeout` while the pipe is full.
    ///
    /// # Errors
    /// As [`Sender::send_timeout`].
    pub fn send_timeout(&self, value: S, timeout: Duration) -> Result<(), SendError<S>> {
        self.sender.send_timeout(value, timeout)
    }
}

impl<S, R: DeserializeOwned> Connection<S, R> {
    /// Receives the next value; waits until there is one.
    ///
    /// # Errors
    /// As [`Receiver::recv`].
    pub fn recv(&self) -> Result<R> {
        self.receiver.recv()
    }

    /// Receives the next value if there is one now.
    ///
    /// # Errors
    /// As [`Receiver::try_recv`].
    pub fn try_recv(&self) -> Result<R> {
        self.receiver.try_recv()
    }

    /// Receives the next value; waits for it at most for `timeout`.
    ///
    /// # Errors
    /// As [`Receiver::recv_timeout`].
    pub fn recv_timeout(&self, timeout: Duration) -> Result<R> {
        self.receiver.recv_timeout(timeout)
    }

    /// The values as they come; waits for each. Ends when the other side has.
    ///
    /// # Panics
    /// As [`Receiver::iter`].
    pub fn iter(&self) -> Values<'_, R> {
        self.receiver.iter()
    }
}

impl<S, R> Clone for Connection<S, R> {
    /// One more at the same side.
    fn clone(&self) -> Connection<S, R> {
        Connection {
            sender: self.sender.clone(),
            receiver: self.receiver.clone(),
        }
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Connection")
            .field("sender", &self.sender)
            .field("receiver", &self.receiver)
            .finish()
    }
}
