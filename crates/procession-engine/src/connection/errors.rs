//! What can go wrong with a connection.

use std::fmt;
use std::io;

use procession_shm::{Gone, WaitError};

use super::Stop;
use crate::MakeError;

/// Why a message was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum SendError {
    /// This end only receives.
    NotWritable,
    /// Every process that could have received it has closed the other end, or ended.
    Closed,
    /// The time given has passed.
    TimedOut,
    /// The interrupt hook asked to give up.
    Interrupted,
    /// An earlier send was given up when part of its message was on the way; what would come after
    /// could not be told from the rest of it.
    Broken,
    /// The message has parts that only a member of the family could make sense of.
    NotFamily,
    /// The message goes through the arena, and there was no room.
    Memory(MakeError),
    /// The system's.
    Io(io::Error),
}

impl SendError {
    pub(super) fn from_stop(stop: Stop) -> SendError {
        match stop {
            Stop::Wait(WaitError::TimedOut) => SendError::TimedOut,
            Stop::Wait(WaitError::Interrupted) => SendError::Interrupted,
            Stop::Io(error) => match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => SendError::Closed,
                _ => SendError::Io(error),
            },
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::NotWritable => f.write_str("this end of the connection only receives: send on the other end"),
            SendError::Closed => f.write_str("nobody is left to receive: every process has closed the other end of the connection, or ended"),
            SendError::TimedOut => f.write_str("the message was not sent in the time given: the other end does not receive"),
            SendError::Interrupted => f.write_str("sending was interrupted by a signal"),
            SendError::Broken => f.write_str(
                "an earlier send on this connection was given up inside a message, so nothing can follow it: open a new connection",
            ),
            SendError::NotFamily => f.write_str(
                "a message with shared objects or out-of-band buffers can only be sent to a process of this family: serialise it in-band",
            ),
            SendError::Memory(error) => write!(f, "the message was not sent: {error}"),
            SendError::Io(error) => write!(f, "sending failed: {error}"),
        }
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SendError::Memory(error) => Some(error),
            SendError::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Why no message was received.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// This end only sends, or can't receive any more after an error that said so.
    NotReadable,
    /// The end: every process has closed the other end, or ended, and all was received.
    Closed,
    /// The other end was closed, or its process ended, inside a message.
    Truncated,
    /// The message is longer than the caller allows. It was not received, and nothing after it can be.
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// What was allowed.
        max: usize,
    },
    /// The time given has passed. What of a message had arrived is kept for the next receive.
    TimedOut,
    /// The interrupt hook asked to give up. What of a message had arrived is kept likewise.
    Interrupted,
    /// What arrived is no message. Nothing after it can be received.
    Garbled,
    /// The message is not only bytes.
    NotBytes,
    /// The message went through the arena and is not there: it was sent by another family.
    Gone(Gone),
    /// Not all the descriptors that were sent have arrived.
    LostDescriptors {
        /// How many were sent.
        sent: usize,
    },
    /// The system's.
    Io(io::Error),
}

impl RecvError {
    pub(super) fn from_stop(stop: Stop) -> RecvError {
        match stop {
            Stop::Wait(WaitError::TimedOut) => RecvError::TimedOut,
            Stop::Wait(WaitError::Interrupted) => RecvError::Interrupted,
            // The peer was gone, with data of ours unread.
            Stop::Io(error) if error.kind() == io::ErrorKind::ConnectionReset => RecvError::Closed,
            Stop::Io(error) => RecvError::Io(error),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::NotReadable => {
                f.write_str("this end of the connection can't receive: it only sends, or an earlier message could not be received")
            }
            RecvError::Closed => f.write_str(
                "the end of the connection: every process has closed the other end, or ended, and all that was sent has been received",
            ),
            RecvError::Truncated => f.write_str("the other end of the connection was closed, or its process ended, inside a message"),
            RecvError::TooLong { length, max } => write!(
                f,
                "the message has {length} bytes, and at most {max} were allowed: this end of the connection can't receive any more"
            ),
            RecvError::TimedOut => f.write_str("no message came in the time given"),
            RecvError::Interrupted => f.write_str("receiving was interrupted by a signal"),
            RecvError::Garbled => f.write_str(
                "what arrived is no message: something else writes to this connection, two senders at a time without a lock, or one that takes this process for a member of its own family",
            ),
            RecvError::NotBytes => f.write_str("the message is an object with buffers, not bytes: receive it as an object"),
            RecvError::Gone(error) => write!(f, "the message was sent through shared memory: {error}"),
            RecvError::LostDescriptors { sent } => write!(
                f,
                "{sent} descriptors were sent and could not all be received: too many for the receiver, or the limit of open files (ulimit -n) was reached"
            ),
            RecvError::Io(error) => write!(f, "receiving failed: {error}"),
        }
    }
}

impl std::error::Error for RecvError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RecvError::Gone(error) => Some(error),
            RecvError::Io(error) => Some(error),
            _ => None,
        }
    }
}
