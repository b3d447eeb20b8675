//! The worker's side of a pool.

use procession_shm::pool_state::{Held, Phase, WorkerSlot};
use procession_shm::{AllocError, Handle, WaitError};

use crate::Patience;
use crate::family::family;
use crate::message::{Block, Message};
use crate::pool::Submission;
use crate::pool::error::AttachError;
use crate::pool::shared::Shared;
use crate::pool::wire::{HEADER, Header, Notice};
use crate::queue::{GetError, PutError, Queue};

/// A process that works for a pool, in its place there.
///
/// Killed at any instant it leaves the pool able to say which task was lost with it, if one was.
#[derive(Debug)]
pub struct Worker {
    slot: &'static WorkerSlot,
    tasks: Queue,
    results: Queue,
    max_tasks: u64,
    taken: u64,
    shared: Shared,
}

/// A task in a worker's hands. Dropping it lets go of what it refers to: rebuild the objects first.
#[derive(Debug)]
pub struct Task {
    job: u64,
    index: u64,
    /// `None` if it could not be received, or was let go.
    message: Option<Message>,
    damaged: bool,
}

impl Task {
    /// The tag it was submitted with.
    pub fn tag(&self) -> u32 {
        self.message.as_ref().map_or(0, |message| message.tag)
    }

    /// Its bytes, without the engine's header.
    pub fn payload(&self) -> &[u8] {
        self.message
            .as_ref()
            .and_then(|message| message.bytes.get(HEADER..))
            .unwrap_or_default()
    }

    /// Its large buffers, once.
    pub fn take_buffers(&mut self) -> Vec<Block> {
        self.message
            .as_mut()
            .map(|message| std::mem::take(&mut message.buffers))
            .unwrap_or_default()
    }

    /// The whole message, header included, once.
    pub fn take_message(&mut self) -> Option<Message> {
        self.message.take()
    }

    /// Whether an object that it came with was gone when it arrived: there is nothing to run, and
    /// its result should say so.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// Lets go of the message early; the task can still be finished.
    pub fn discard(&mut self) {
        self.message = None;
    }
}

impl Worker {
    /// Takes the place that this process was started for.
    ///
    /// # Errors
    /// When the pool is gone, or this process is in no family.
    pub fn attach(pool: Handle, slot: u32) -> Result<Worker, AttachError> {
        family().map_err(AttachError::Family)?;
        let gone = |_| AttachError::Gone;
        let shared = Shared::from_handle(pool).map_err(gone)?;
        let place = shared.slots().get(slot as usize).ok_or(AttachError::Gone)?;
        let tasks = Queue::from_handle(shared.head().tasks()).map_err(gone)?;
        let results = Queue::from_handle(shared.head().results()).map_err(gone)?;
        place.set_pid(std::process::id());
        Ok(Worker {
            slot: place,
            tasks,
            results,
            max_tasks: shared.head().max_tasks(),
            taken: 0,
            shared,
        })
    }

    /// The worker is through with its own set-up. Workers that end before this, again and again,
    /// break the pool; ended later they are replaced.
    pub fn ready(&mut self) {
        self.slot.set_phase(Phase::Ready);
        self.shared.head().count_ready();
    }

    /// The worker's set-up failed: why, for whoever is told that the pool is broken. The process is
    /// to end now.
    pub fn start_failed(self, cause: Submission<'_>) {
        Header {
            notice: Notice::StartFailed,
            job: 0,
            index: 0,
        }
        .write(cause.bytes);
        // Without memory the pool breaks without a cause.
        if self
            .results
            .put(&cause.outgoing(), &mut Patience::forever())
            .is_ok()
        {
            self.slot.set_phase(Phase::Failed);
        }
    }

    /// The next task, as soon as there is one. `None`: the worker is to end, in good order; the pool
    /// is closed and empty, or this worker has had its number of tasks.
    ///
    /// # Errors
    /// When the wait ended first.
    pub fn next(&mut self, patience: &mut Patience<'_>) -> Result<Option<Task>, WaitError> {
        let slot = self.slot;
        while self.max_tasks == 0 || self.taken < self.max_tasks {
            let mut header = None;
            let got = self.tasks.get_with(patience, &mut |number, _, first| {
                header = Header::read(first);
                if let Some(header) = header {
                    slot.take(Held {
                        item: number.into(),
                        job: header.job,
                        index: header.index,
                    });
                }
            });
            let message = match got {
                Ok(message) => Some(message),
                Err(GetError::Empty) => return Err(WaitError::TimedOut),
                Err(GetError::Interrupted) => return Err(WaitError::Interrupted),
                Err(GetError::Closed) => break,
                // It was taken, and what it refers to is gone; or the queue itself is.
                Err(GetError::Gone) if header.is_some() => None,
                Err(GetError::Gone) => break,
            };
            // What is too short for a header nobody waits for.
            let Some(header) = header else { continue };
            self.taken += 1;
            let damaged = message.is_none();
            return Ok(Some(Task {
                job: header.job,
                index: header.index,
                message,
                damaged,
            }));
        }
        slot.set_phase(Phase::Leaving);
        Ok(None)
    }

    /// Sends the result of a task. It is committed when this returns: a worker that is killed
    /// afterwards has done the task.
    ///
    /// # Errors
    /// When there is no memory for it. The task is still in hand: finish it with something small.
    pub fn finish(&mut self, task: &Task, result: Submission<'_>) -> Result<(), AllocError> {
        Header {
            notice: Notice::Result,
            job: task.job,
            index: task.index,
        }
        .write(result.bytes);
        // Any other error means that the pool is gone, and nobody waits for the result.
        if let Err(PutError::Memory(error)) = self
            .results
            .put(&result.outgoing(), &mut Patience::forever())
        {
            return Err(error);
        }
        self.slot.settle();
        Ok(())
    }
}
