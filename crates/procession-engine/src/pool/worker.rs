//! The worker's side of a pool.

use std::sync::atomic::Ordering;
use std::time::Duration;

use procession_shm::pool_state::{CancelWord, Held, Phase, WorkerSlot};
use procession_shm::{AllocError, Handle, WaitError};
use procession_sys::clock;

use crate::Patience;
use crate::family::family;
use crate::message::{Block, Message, Outgoing, Parcel};
use crate::pool::error::AttachError;
use crate::pool::jobs::JobId;
use crate::pool::lanes::Lanes;
use crate::pool::shared::Shared;
use crate::pool::wire::{HEADER, Header, Notice};
use crate::pool::{Submission, memory};
use crate::queue::{GetError, PutError, Queue, Records};

/// A process that works for a pool, in its place there.
///
/// Killed at any instant it leaves the pool able to say which task was lost with it, if one was.
#[derive(Debug)]
pub struct Worker {
    slot: &'static WorkerSlot,
    tasks: Lanes,
    /// The number of its own among the queues of tasks; 0 if it has none.
    lane: usize,
    /// Whether the common queue comes before its own next time.
    common_first: bool,
    results: Queue,
    own_results: Option<Queue>,
    max_tasks: u64,
    taken: u64,
    /// The most bytes of its own that it goes on with; 0 for any number.
    max_memory: u64,
    /// A task was done since it looked at its memory.
    used: bool,
    /// Levels of the table of cancelled jobs, as far as they were needed.
    levels: Vec<Option<Block>>,
    shared: Shared,
}

/// When there is no memory for a word to the parent it is tried again after this.
const AGAIN: Duration = Duration::from_millis(10);

/// Bytes of the longest task that [`Worker::take_short`] takes, the engine's header included.
const SHORT: usize = 256;

/// Which task it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskId {
    job: u64,
    index: u64,
}

/// A task of few bytes and nothing else, in a worker's hands: the place for it, used again and again.
#[derive(Debug)]
pub struct ShortTask {
    id: TaskId,
    tag: u32,
    length: usize,
    bytes: [u8; SHORT],
}

impl Default for ShortTask {
    fn default() -> ShortTask {
        ShortTask {
            id: TaskId::default(),
            tag: 0,
            length: 0,
            bytes: [0; SHORT],
        }
    }
}

impl ShortTask {
    /// Which task it is.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// The tag it was submitted with.
    pub fn tag(&self) -> u32 {
        self.tag
    }

    /// Its bytes, without the engine's header.
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(HEADER..self.length).unwrap_or_default()
    }

    /// The same task as any other.
    pub fn to_task(&self) -> Task {
        let mut message = Message::plain(self.bytes[..self.length].to_vec());
        message.tag = self.tag;
        Task {
            id: self.id,
            message: Some(message),
            damaged: false,
        }
    }
}

/// A task in a worker's hands. Dropping it lets go of what it refers to: rebuild the objects first.
#[derive(Debug)]
pub struct Task {
    id: TaskId,
    /// `None` if it could not be received, or was let go.
    message: Option<Message>,
    damaged: bool,
}

impl Task {
    /// Which task it is.
    pub fn id(&self) -> TaskId {
        self.id
    }

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
        let common = Queue::from_handle(shared.head().tasks()).map_err(gone)?;
        let results = Queue::from_handle(shared.head().results()).map_err(gone)?;
        let laned = &shared.slots()[..shared.slots().len().min(shared.head().lanes() as usize)];
        let own = laned
            .iter()
            .map(|slot| Queue::from_handle(slot.own_tasks()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(gone)?;
        let own_results = (!laned.is_empty())
            .then(|| Queue::from_handle(place.own_results()))
            .transpose()
            .map_err(gone)?;
        let lane = if own.is_empty() { 0 } else { slot as usize + 1 };
        place.set_pid(std::process::id());
        Ok(Worker {
            slot: place,
            tasks: Lanes::of(common, own),
            lane,
            common_first: false,
            results,
            own_results,
            max_tasks: shared.head().max_tasks(),
            taken: 0,
            max_memory: shared.head().max_memory(),
            used: false,
            levels: Vec::new(),
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
        // Should another worker die of the wake-up for a task, the supervisor rouses the others.
        let patience = &mut patience.reborrow().looking_rarely();
        while self.may_go_on() {
            let mut header = None;
            let message = match self.get(patience, &mut header) {
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
            if self.is_cancelled(header.job) {
                drop(message);
                self.skip(header);
                continue;
            }
            self.taken += 1;
            let message = match header.notice {
                Notice::Kept => message.and_then(|message| unpack(&message)),
                _ => message,
            };
            let damaged = message.is_none();
            return Ok(Some(Task {
                id: header.task(),
                message,
                damaged,
            }));
        }
        slot.set_phase(Phase::Leaving);
        Ok(None)
    }

    /// Takes a task that is there and short, from its own queue or the common one. Waits for nothing. False
    /// if there is none, or this is not the moment: [`next`](Self::next) knows more.
    #[inline]
    pub fn take_short(&mut self, into: &mut ShortTask) -> bool {
        if !self.may_go_on() {
            return false;
        }
        let slot = self.slot;
        for number in self.first_two() {
            let queue = self.tasks.queue(number);
            let Some(queue) = queue.filter(|queue| !queue.is_empty()) else {
                continue;
            };
            let taken = queue.take_if(|front| {
                into.length = front.len();
                front.read(into.bytes.get_mut(..front.len())?);
                let header = Header::read(&into.bytes[..front.len()])?;
                if header.notice != Notice::Plain {
                    return None;
                }
                into.tag = front.tag();
                slot.take(header.held(number, front.number()));
                Some(header)
            });
            let Some(header) = taken else {
                // It is this one's turn, as soon as it can be taken from.
                return false;
            };
            self.common_first = !self.common_first;
            if self.is_cancelled(header.job) {
                self.skip(header);
                return false;
            }
            self.taken += 1;
            into.id = header.task();
            return true;
        }
        false
    }

    /// Its own queue and the common one, by turns.
    fn first_two(&self) -> [usize; 2] {
        if self.common_first {
            [0, self.lane]
        } else {
            [self.lane, 0]
        }
    }

    /// Takes a task from one of the queues; `header` is its own, if it has one.
    fn get(
        &mut self,
        patience: &mut Patience<'_>,
        header: &mut Option<Header>,
    ) -> Result<Message, GetError> {
        loop {
            // What is closed gets nothing any more: read before all are found empty.
            let closed = self.tasks.is_closed();
            if let Some(got) = self.look(closed, header) {
                return got;
            }
            if closed {
                return Err(GetError::Closed);
            }
            if patience.is_none() {
                return Err(GetError::Empty);
            }
            // There may be something that can't be had: who holds the queue is stopped.
            let waited = patience
                .check()
                .and_then(|()| self.tasks.wait_readable(patience));
            waited.map_err(|error| match error {
                WaitError::TimedOut => GetError::Empty,
                WaitError::Interrupted => GetError::Interrupted,
            })?;
        }
    }

    /// Looks into its own queue and the common one by turns, then into those of the others. `None` if
    /// there is nothing in any; of `closed` queues that is certain.
    fn look(
        &mut self,
        closed: bool,
        header: &mut Option<Header>,
    ) -> Option<Result<Message, GetError>> {
        let lanes = self.tasks.own().len();
        let first = self.first_two();
        let others = (0..lanes).map(|lane| (self.lane + lane) % lanes + 1);
        let slot = self.slot;
        for number in first.into_iter().chain(others) {
            let Some(queue) = self.tasks.queue(number) else {
                continue;
            };
            if queue.is_empty() && !closed {
                continue;
            }
            let got = queue.get_with(&mut Patience::none(), &mut |item, _, first| {
                *header = Header::read(first);
                if let Some(header) = *header {
                    slot.take(header.held(number, item));
                }
            });
            match got {
                Err(GetError::Empty | GetError::Closed) => {}
                got => {
                    self.common_first = !self.common_first;
                    return Some(got);
                }
            }
        }
        None
    }

    /// Whether it may take another task.
    fn may_go_on(&mut self) -> bool {
        if self.max_memory != 0 && std::mem::take(&mut self.used) && memory::own() > self.max_memory
        {
            self.max_tasks = self.taken.max(1);
        }
        (self.max_tasks == 0 || self.taken < self.max_tasks) && !self.slot.is_condemned()
    }

    /// Whether the tasks of this job are not to be begun.
    fn is_cancelled(&mut self, job: u64) -> bool {
        if !self.shared.head().has_cancelled() {
            return false;
        }
        let mut find = || -> Option<bool> {
            let at = CancelWord::of(JobId::from_raw(job).place()?)?;
            if self.levels.len() <= at.level {
                self.levels.resize(at.level + 1, None);
            }
            if self.levels[at.level].is_none() {
                let block = self.shared.head().cancelled(at.level)?;
                self.levels[at.level] = Some(Block::from_handle(block).ok()?);
            }
            let word = self.levels[at.level]
                .as_ref()?
                .word(at.word * size_of::<u64>())?;
            Some(word.load(Ordering::SeqCst) == job)
        };
        find().unwrap_or(false)
    }

    /// Says that a task was not begun.
    fn skip(&mut self, header: Header) {
        let mut bytes = [0; HEADER];
        Header {
            notice: Notice::Skipped,
            ..header
        }
        .write(&mut bytes);
        let word = Outgoing::bytes(&bytes);
        while let Err(PutError::Memory(_)) = self.results.put(&word, &mut Patience::forever()) {
            std::thread::sleep(AGAIN);
        }
        self.slot.let_go();
    }

    /// Sends the result of a task. It is committed when this returns: a worker that is killed
    /// afterwards has done the task.
    ///
    /// # Errors
    /// When there is no memory for it. The task is still in hand: finish it with something small.
    pub fn finish(&mut self, task: TaskId, result: Submission<'_>) -> Result<(), AllocError> {
        Header {
            notice: Notice::Plain,
            job: task.job,
            index: task.index,
        }
        .write(result.bytes);
        let plain = result.buffers.is_empty() && result.handles.is_empty();
        let own = self
            .own_results
            .as_ref()
            .filter(|_| plain && result.bytes.len() < Records::LONGEST);
        let put = own
            .unwrap_or(&self.results)
            .put(&result.outgoing(), &mut Patience::forever());
        // Any other error means that the pool is gone, and nobody waits for the result.
        if let Err(PutError::Memory(error)) = put {
            return Err(error);
        }
        if own.is_some() {
            self.results.wake_getters(1);
        }
        self.slot.settle();
        self.used = true;
        Ok(())
    }
}

impl Header {
    fn task(self) -> TaskId {
        TaskId {
            job: self.job,
            index: self.index,
        }
    }

    /// The task as the worker's place shows it: message `item` of the queue of this number.
    fn held(self, queue: usize, item: u32) -> Held {
        Held {
            item: (queue as u64) << 32 | u64::from(item),
            job: self.job,
            index: self.index,
            since: clock::now(),
        }
    }
}

/// A task that is stored in a parcel.
fn unpack(message: &Message) -> Option<Message> {
    let name = message.bytes.get(HEADER..)?.first_chunk::<16>()?;
    Parcel::open(Handle::from_bytes(*name)).ok()
}
