//! A channel for one value.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::pipe::{Receiver, Sender, pipe_of};
use crate::queue::SendError;

/// A channel for one value: an answer that is to come.
///
/// ```
/// use procession::{OneSender, Process, Queue};
///
/// fn serve(requests: Queue<(u32, OneSender<u32>)>) {
///     for (number, answer) in requests.iter() {
///         let _ = answer.send(number * 2);
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let requests = Queue::unbounded()?;
///     let server = Process::spawn(serve, requests.clone())?;
///     let (sender, receiver) = procession::oneshot()?;
///     requests.send((21, sender))?;
///     assert_eq!(receiver.recv()?, 42);
///     requests.close();
///     server.join()?;
///     Ok(())
/// }
/// ```
///
/// Both ends can be sent to other processes; each is used up by its use.
///
/// # When a process ends
///
/// If the sender is gone, by whatever end of its process, and nothing was sent, the receiver is told
/// within 100 ms; what was sent is received, whoever has ended since. To send to a receiver that is
/// gone is an error.
///
/// # Errors
/// When there is no memory.
pub fn oneshot<T>() -> Result<(OneSender<T>, OneReceiver<T>)> {
    let (sender, receiver) = pipe_of(1)?;
    Ok((OneSender(sender), OneReceiver(receiver)))
}

/// The end of a [`oneshot`] channel where the value goes in.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct OneSender<T>(Sender<T>);

/// The end of a [`oneshot`] channel where the value comes out.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct OneReceiver<T>(pub(crate) Receiver<T>);

impl<T: Serialize> OneSender<T> {
    /// Sends the value. Does not block.
    ///
    /// # Errors
    /// With the value inside: when the receiver is gone ([`SendError::is_closed`]), the value can't be
    /// serialised, or there is no memory for it.
    pub fn send(self, value: T) -> Result<(), SendError<T>> {
        self.0.try_send(value)
    }
}

impl<T: DeserializeOwned> OneReceiver<T> {
    /// Waits for the value.
    ///
    /// # Errors
    /// When the sender is gone and has sent nothing ([`Error::is_closed`](crate::Error::is_closed)), or
    /// the value can't be read as a `T`.
    pub fn recv(self) -> Result<T> {
        self.0.recv()
    }

    /// The value, if it is there now. It can be had once.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when it is not there yet:
    /// [`Error::is_empty`](crate::Error::is_empty).
    pub fn try_recv(&self) -> Result<T> {
        self.0.try_recv()
    }

    /// Waits for the value, at most for `timeout`. It can be had once.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and when it didn't come in that time:
    /// [`Error::is_timeout`](crate::Error::is_timeout).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T> {
        self.0.recv_timeout(timeout)
    }
}

impl<T> OneReceiver<T> {
    pub(crate) fn message(&self) -> crate::pipe::PipeMessage {
        self.0.message()
    }
}
