//! What comes back for a task.

use std::fmt;
use std::sync::Arc;

use crate::exit_status::ExitStatus;
use crate::message::{Block, Message};
use crate::pool::error::Breakage;
use crate::pool::wire::{HEADER, Header, Notice};

/// What a task came to.
#[derive(Debug)]
pub enum Reply {
    /// A worker has sent this.
    Done(Answer),
    /// The worker that ran the task died.
    Lost(Loss),
    /// The pool broke before the task was done.
    Broken(Arc<Breakage>),
    /// The pool was terminated before the task was done.
    Terminated,
}

/// A message from a worker. Dropping it lets go of what it refers to: rebuild the objects first.
#[derive(Debug)]
pub struct Answer {
    message: Message,
}

impl Answer {
    pub(crate) fn new(message: Message) -> Answer {
        Answer { message }
    }

    /// The tag it was sent with.
    pub fn tag(&self) -> u32 {
        self.message.tag
    }

    /// Its bytes, without the engine's header.
    pub fn payload(&self) -> &[u8] {
        self.message.bytes.get(HEADER..).unwrap_or_default()
    }

    /// Its large buffers, once.
    pub fn take_buffers(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.message.buffers)
    }

    /// The whole message, header included.
    pub fn into_message(self) -> Message {
        self.message
    }
}

/// How a worker died that had a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// The worker's process id.
    pub pid: u32,
    /// Its place in the pool.
    pub slot: u32,
    /// What it died of.
    pub status: ExitStatus,
}

const STATUS_CODE: u32 = 0;
const STATUS_SIGNAL: u32 = 1;
const STATUS_UNKNOWN: u32 = 2;

impl Loss {
    /// The message that tells of it, in the result queue.
    pub(crate) fn write(self, job: u64, index: u64) -> [u8; HEADER + 16] {
        let (kind, value) = match self.status {
            ExitStatus::Code(code) => (STATUS_CODE, code),
            ExitStatus::Signal(signal) => (STATUS_SIGNAL, signal),
            ExitStatus::Unknown => (STATUS_UNKNOWN, 0),
        };
        let mut bytes = [0; HEADER + 16];
        Header {
            notice: Notice::Lost,
            job,
            index,
        }
        .write(&mut bytes);
        let words = [self.pid, self.slot, kind, value.cast_unsigned()];
        for (part, word) in bytes[HEADER..].chunks_exact_mut(4).zip(words) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn read(bytes: &[u8]) -> Option<Loss> {
        let word = |place: usize| -> Option<u32> {
            let at = HEADER + place * 4;
            Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
        };
        let value = word(3)?.cast_signed();
        let status = match word(2)? {
            STATUS_CODE => ExitStatus::Code(value),
            STATUS_SIGNAL => ExitStatus::Signal(value),
            _ => ExitStatus::Unknown,
        };
        Some(Loss {
            pid: word(0)?,
            slot: word(1)?,
            status,
        })
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} {}", self.pid, Died(self.status))
    }
}

/// The end of a process as the rest of a sentence.
pub(crate) struct Died(pub(crate) ExitStatus);

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ExitStatus::Code(code) => write!(f, "exited with code {code}"),
            status @ ExitStatus::Signal(_) => write!(f, "was {status}"),
            ExitStatus::Unknown => f.write_str("died, of what is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_comes_through_the_queue_as_it_was() {
        for status in [
            ExitStatus::Code(3),
            ExitStatus::Signal(9),
            ExitStatus::Unknown,
        ] {
            let loss = Loss {
                pid: 4_000_000,
                slot: 3,
                status,
            };
            assert_eq!(Loss::read(&loss.write(5, 6)), Some(loss));
        }
        assert_eq!(Loss::read(&[0; HEADER + 15]), None);
    }

    #[test]
    fn deaths_read_like_sentences() {
        let text = |status| {
            Loss {
                pid: 12,
                slot: 0,
                status,
            }
            .to_string()
        };
        assert_eq!(
            text(ExitStatus::Signal(9)),
            "worker 12 was killed by SIGKILL"
        );
        assert_eq!(
            text(ExitStatus::Signal(40)),
            "worker 12 was killed by signal 40"
        );
        assert_eq!(text(ExitStatus::Code(3)), "worker 12 exited with code 3");
    }
}
