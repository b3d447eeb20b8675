//! What comes back for a task.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::exit_status::ExitStatus;
use crate::message::{Block, Message};
use crate::pool::error::Breakage;
use crate::pool::wire::HEADER;

/// What a task came to.
#[derive(Debug)]
pub enum Reply {
    /// A worker has sent this.
    Done(Answer),
    /// The worker that ran the task died.
    Lost(Arc<Loss>),
    /// The task has cost one worker after the other, as often as it may be tried. Oldest first.
    Poison(Vec<Arc<Loss>>),
    /// The task ran longer than it may. Its worker was killed.
    TimedOut(Overrun),
    /// The task was cancelled: before it began, or in the middle of it with its worker.
    Cancelled,
    /// The pool broke before the task was done.
    Broken(Arc<Breakage>),
    /// The pool was terminated before the task was done.
    Terminated,
}

/// A message from a worker. Dropping it lets go of what it refers to: rebuild the objects first.
#[derive(Debug)]
pub struct Answer(Sent);

/// Most answers are a few bytes, of which many are kept at a time: they need no memory of their own.
#[derive(Debug)]
enum Sent {
    Message(Message),
    Short {
        tag: u32,
        length: u8,
        payload: [u8; SHORT],
    },
}

const SHORT: usize = 48;

impl Answer {
    pub(crate) fn new(message: Message) -> Answer {
        Answer(Sent::Message(message))
    }

    /// What came as bytes alone, header included.
    pub(crate) fn of_record(tag: u32, body: &[u8]) -> Answer {
        let sent = body.get(HEADER..).unwrap_or_default();
        match (u8::try_from(sent.len()), sent.len() <= SHORT) {
            (Ok(length), true) => {
                let mut payload = [0; SHORT];
                payload[..sent.len()].copy_from_slice(sent);
                Answer(Sent::Short {
                    tag,
                    length,
                    payload,
                })
            }
            _ => Answer::new(tagged(tag, body.to_vec())),
        }
    }

    /// The tag it was sent with.
    pub fn tag(&self) -> u32 {
        match &self.0 {
            Sent::Message(message) => message.tag,
            Sent::Short { tag, .. } => *tag,
        }
    }

    /// Its bytes, without the engine's header.
    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            Sent::Message(message) => message.bytes.get(HEADER..).unwrap_or_default(),
            Sent::Short {
                length, payload, ..
            } => &payload[..usize::from(*length)],
        }
    }

    /// Whether it is a few bytes and nothing else.
    pub fn is_short(&self) -> bool {
        matches!(self.0, Sent::Short { .. })
    }

    /// Its large buffers, once.
    pub fn take_buffers(&mut self) -> Vec<Block> {
        match &mut self.0 {
            Sent::Message(message) => std::mem::take(&mut message.buffers),
            Sent::Short { .. } => Vec::new(),
        }
    }

    /// The whole message, header included.
    pub fn into_message(self) -> Message {
        match self.0 {
            Sent::Message(message) => message,
            Sent::Short {
                tag,
                length,
                payload,
            } => {
                let mut bytes = vec![0; HEADER];
                bytes.extend_from_slice(&payload[..usize::from(length)]);
                tagged(tag, bytes)
            }
        }
    }
}

fn tagged(tag: u32, bytes: Vec<u8>) -> Message {
    let mut message = Message::plain(bytes);
    message.tag = tag;
    message
}

/// How a worker died that had a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The worker's process id.
    pub pid: u32,
    /// Its name in the family; empty if that is not known.
    pub name: String,
    /// Its place in the pool.
    pub slot: u32,
    /// What it died of.
    pub status: ExitStatus,
    /// The kernel has killed a process for want of memory at about that time.
    pub out_of_memory: bool,
    /// What it ran.
    pub label: &'static str,
}

/// A task that ran for longer than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overrun {
    /// The process that ran it.
    pub pid: u32,
    /// Its name in the family; empty if that is not known.
    pub name: String,
    /// How long it may run.
    pub limit: Duration,
    /// What it was.
    pub label: &'static str,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.pid)?;
        if !self.name.is_empty() {
            write!(f, " ({})", self.name)?;
        }
        write!(f, " {}", Died(self.status))?;
        if self.out_of_memory {
            f.write_str(", probably out of memory")?;
        }
        Ok(())
    }
}

impl Loss {
    /// What whoever waits for the task can do.
    pub fn advice(&self) -> &'static str {
        match self.status {
            _ if self.out_of_memory => {
                "give the pool fewer workers, the task less data, or the machine (or its control group) more memory"
            }
            ExitStatus::Signal(4 | 6 | 7 | 8 | 11) => {
                "native code that the task called has crashed; a core dump or a debugger shows where"
            }
            ExitStatus::Signal(9 | 15) => {
                "somebody killed it: look for who sends such signals; if it should be tried again, submit it with retries"
            }
            ExitStatus::Code(_) => {
                "the task, or something that it called, ended the process; let it return or fail instead"
            }
            _ => "if it should be tried again, submit it with retries",
        }
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

    fn loss(status: ExitStatus) -> Loss {
        Loss {
            pid: 12,
            name: String::new(),
            slot: 0,
            status,
            out_of_memory: false,
            label: "work",
        }
    }

    #[test]
    fn deaths_read_like_sentences() {
        let text = |status| loss(status).to_string();
        assert_eq!(
            text(ExitStatus::Signal(9)),
            "worker 12 was killed by SIGKILL"
        );
        assert_eq!(
            text(ExitStatus::Signal(40)),
            "worker 12 was killed by signal 40"
        );
        assert_eq!(text(ExitStatus::Code(3)), "worker 12 exited with code 3");
        let starved = Loss {
            out_of_memory: true,
            name: "PoolWorker-3".into(),
            ..loss(ExitStatus::Signal(9))
        };
        assert_eq!(
            starved.to_string(),
            "worker 12 (PoolWorker-3) was killed by SIGKILL, probably out of memory"
        );
        assert!(starved.advice().contains("fewer workers"));
        assert!(loss(ExitStatus::Signal(11)).advice().contains("crashed"));
        assert!(loss(ExitStatus::Code(0)).advice().contains("return"));
    }
}
