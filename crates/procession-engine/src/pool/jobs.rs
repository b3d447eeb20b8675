//! The book of jobs: which tasks are out, which replies have come, who is to be told.
//!
//! Plain data behind one mutex of the parent process; nothing here waits.

mod verdict;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::verdict::{Cancelling, Kept, Verdict};
use crate::message::{Message, Parcel};
use crate::pool::TaskOptions;
use crate::pool::answer::{Answer, Reply};
use crate::pool::error::{Breakage, NotRunning};
use crate::pool::marks::Marks;
use crate::pool::wire::{Header, Notice};
use crate::queue::Records;

/// What a pool is up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Takes jobs.
    Running,
    /// Takes no new jobs, finishes those that it has.
    Closing,
    /// Was ended without waiting for its jobs.
    Terminated,
    /// Can't go on; [`Breakage`] says why.
    Broken,
}

/// Why no reply will come any more.
#[derive(Debug, Clone)]
pub(crate) enum End {
    Terminated,
    Broken(Arc<Breakage>),
}

impl End {
    fn reply(&self) -> Reply {
        match self {
            End::Terminated => Reply::Terminated,
            End::Broken(why) => Reply::Broken(Arc::clone(why)),
        }
    }

    pub(crate) fn not_running(&self) -> NotRunning {
        match self {
            End::Terminated => NotRunning::Terminated,
            End::Broken(why) => NotRunning::Broken(Arc::clone(why)),
        }
    }
}

/// Names a job for good: a place in the book, and which of its users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobId(u64);

impl JobId {
    const GENERATIONS: u32 = (1 << 30) - 1;

    fn new(place: usize, generation: u32) -> JobId {
        JobId(u64::from(generation & JobId::GENERATIONS) << 32 | (place as u64 + 1) & 0xffff_ffff)
    }

    pub(crate) fn place(self) -> Option<usize> {
        usize::try_from(self.0 & 0xffff_ffff).ok()?.checked_sub(1)
    }

    pub(crate) fn to_raw(self) -> u64 {
        self.0
    }

    pub(crate) fn from_raw(raw: u64) -> JobId {
        JobId(raw)
    }
}

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// Any reply of a job.
    Next(JobId),
    /// All replies of a job.
    All(JobId),
    /// What a request to cancel a job has come to.
    Cancel(JobId),
    /// That all verdicts are taken in.
    Verdicts,
    /// A job to be announced.
    Announcement,
    /// Why an initializer failed.
    StartFailure,
    /// The end of all workers.
    Finish,
}

#[derive(Debug, Default)]
struct Job {
    generation: u32,
    used: bool,
    sealed: bool,
    abandoned: bool,
    discarded: bool,
    announce: bool,
    announced: bool,
    submitted: u64,
    replied: u64,
    marks: Marks,
    replies: VecDeque<(u64, Reply)>,
    options: TaskOptions,
    /// Tasks that may be tried again.
    kept: BTreeMap<u64, Kept>,
    /// What became of the last request to cancel it.
    cancelling: Cancelling,
    /// How many tasks were found to be cancelled since that request.
    cancelled: u64,
    /// Tasks that were cancelled while they are in the task queue, and not seen since. As long as there
    /// are some, the job's name must not pass to another.
    unswept: BTreeSet<u64>,
}

impl Job {
    fn is_complete(&self) -> bool {
        self.sealed && self.replied == self.submitted
    }
}

/// How many tasks have come to what, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Done, and not failed.
    pub done: u64,
    /// Done by a worker whose answer says that they failed ([`Options::is_failure`](super::Options)).
    pub failed: u64,
    /// Lost with a worker.
    pub lost: u64,
    /// Stopped because they ran longer than they may.
    pub timed_out: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// How often a task was given to another worker after the death of one.
    pub retried: u64,
}

/// Somebody who waits and does not collect; `told` is a wake-up word of that thread.
#[derive(Debug)]
struct Follower {
    interest: Interest,
    told: Arc<std::sync::atomic::AtomicU32>,
}

/// What a caller of the book has to do after it has let go of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) struct Todo {
    /// The thread that collects waits for what has just happened.
    pub(crate) nudge: bool,
    /// No task will come any more: the task queue is to be closed.
    pub(crate) close_tasks: bool,
    /// The supervisor is to look at the book.
    pub(crate) ring: bool,
}

impl Todo {
    /// Both.
    pub(crate) fn and(self, other: Todo) -> Todo {
        Todo {
            nudge: self.nudge | other.nudge,
            close_tasks: self.close_tasks | other.close_tasks,
            ring: self.ring | other.ring,
        }
    }

    pub(crate) const NOTHING: Todo = Todo {
        nudge: false,
        close_tasks: false,
        ring: false,
    };
}

#[derive(Debug, Default)]
pub(crate) struct Book {
    closing: bool,
    tasks_closed: bool,
    end: Option<End>,
    finished: bool,
    jobs: Vec<Job>,
    free: Vec<usize>,
    /// Jobs that may still get tasks.
    open: usize,
    outstanding: u64,
    announcements: VecDeque<JobId>,
    /// Jobs to be announced that are not complete yet.
    to_announce: usize,
    followers: Vec<Follower>,
    /// What the thread that collects waits for, while it waits.
    leader: Option<Interest>,
    start_failure: Option<Answer>,
    /// Whether an answer with this tag is a failure.
    is_failure: Option<fn(u32) -> bool>,
    totals: Totals,
    /// Tasks that may be tried again: with one of them out, the task queue stays open.
    kept: usize,
    /// What the supervisor has found, until it is taken in, in the order of the result queue.
    verdicts: HashMap<u64, Verdict>,
    last_verdict: u64,
    /// Tasks to be put into the task queue once more.
    again: Vec<(JobId, u64)>,
    /// Requests to cancel a job, and whether its running tasks are to be stopped too.
    cancels: Vec<(JobId, bool)>,
    /// Tasks that are out, by how long each of them may run.
    limits: BTreeMap<Duration, u64>,
    /// The supervisor looks at least this often at what the workers are doing.
    watching: Option<Duration>,
}

impl Book {
    pub(crate) fn new(is_failure: fn(u32) -> bool) -> Book {
        Book {
            is_failure: Some(is_failure),
            ..Book::default()
        }
    }

    pub(crate) fn state(&self) -> State {
        match (&self.end, self.closing) {
            (Some(End::Terminated), _) => State::Terminated,
            (Some(End::Broken(_)), _) => State::Broken,
            (None, true) => State::Closing,
            (None, false) => State::Running,
        }
    }

    pub(crate) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn open(&mut self, options: TaskOptions) -> Result<JobId, NotRunning> {
        if let Some(end) = &self.end {
            return Err(end.not_running());
        }
        if self.closing {
            return Err(NotRunning::Closed);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.jobs.push(Job::default());
            self.jobs.len() - 1
        });
        let job = &mut self.jobs[place];
        job.used = true;
        job.options = options;
        self.open += 1;
        Ok(JobId::new(place, job.generation))
    }

    fn job(&mut self, id: JobId) -> Option<&mut Job> {
        let place = id.place()?;
        let job = self.jobs.get_mut(place)?;
        (job.used && JobId::new(place, job.generation) == id).then_some(job)
    }

    /// The index of a task that is about to be put into the queue.
    /// With a parcel it can be tried again.
    pub(crate) fn submit(
        &mut self,
        id: JobId,
        parcel: Option<Parcel>,
    ) -> Result<(u64, Todo), NotRunning> {
        if let Some(end) = &self.end {
            return Err(end.not_running());
        }
        let Some(job) = self.job(id).filter(|job| !job.sealed) else {
            return Err(NotRunning::Closed);
        };
        let index = job.submitted;
        if let Some(parcel) = parcel {
            job.kept.insert(index, Kept::new(parcel));
            self.kept += 1;
        }
        Ok((index, self.submitted(id, 1)))
    }

    /// The index of the first of so many tasks that are about to be put into the queue together.
    pub(crate) fn submit_several(
        &mut self,
        id: JobId,
        count: u32,
    ) -> Result<(u64, Todo), NotRunning> {
        if let Some(end) = &self.end {
            return Err(end.not_running());
        }
        let Some(job) = self.job(id).filter(|job| !job.sealed) else {
            return Err(NotRunning::Closed);
        };
        let first = job.submitted;
        Ok((first, self.submitted(id, count.into())))
    }

    fn submitted(&mut self, id: JobId, count: u64) -> Todo {
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        job.submitted += count;
        let limit = job.options.time_limit;
        self.outstanding += count;
        let mut todo = Todo::NOTHING;
        if let Some(limit) = limit {
            *self.limits.entry(limit).or_default() += count;
            todo.ring = self.watching.is_none_or(|watching| limit < watching);
        }
        todo
    }

    /// So many tasks with this limit have their replies now.
    fn less_outstanding(&mut self, limit: Option<Duration>, count: u64) {
        self.outstanding -= count;
        if let Some(limit) = limit
            && let Some(left) = self.limits.get_mut(&limit)
        {
            *left -= count.min(*left);
            if *left == 0 {
                self.limits.remove(&limit);
            }
        }
    }

    /// It could not be put: as if it had never been.
    pub(crate) fn withdraw(&mut self, id: JobId, index: u64) -> Todo {
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        if job.marks.is_marked(index) {
            // Cancelled before it was out. Nobody will come upon it.
            job.unswept.remove(&index);
            self.free_if_over(id);
            return Todo::NOTHING;
        }
        if index + 1 == job.submitted {
            job.submitted -= 1;
        } else if job.marks.mark(index) {
            job.replied += 1;
        }
        let limit = job.options.time_limit;
        let forgotten = usize::from(job.kept.remove(&index).is_some());
        self.kept -= forgotten;
        self.less_outstanding(limit, 1);
        self.look_after(id)
    }

    pub(crate) fn seal(&mut self, id: JobId) -> Todo {
        let Some(job) = self.job(id).filter(|job| !job.sealed) else {
            return Todo::NOTHING;
        };
        job.sealed = true;
        self.open -= 1;
        self.look_after(id)
    }

    /// Submits the only task of a job: `submit` and `seal` at once.
    pub(crate) fn submit_only(
        &mut self,
        id: JobId,
        parcel: Option<Parcel>,
    ) -> Result<(u64, Todo), NotRunning> {
        let (index, todo) = self.submit(id, parcel)?;
        let sealed = self.seal(id);
        Ok((
            index,
            Todo {
                ring: todo.ring,
                ..sealed
            },
        ))
    }

    /// The job's owner wants to hear of its end through [`Book::next_announced`].
    pub(crate) fn announce(&mut self, id: JobId) -> Todo {
        let Some(job) = self.job(id).filter(|job| !job.announce) else {
            return Todo::NOTHING;
        };
        job.announce = true;
        self.to_announce += 1;
        self.look_after(id)
    }

    /// The job's owner wants no replies: those that come are thrown away.
    pub(crate) fn discard(&mut self, id: JobId) {
        if let Some(job) = self.job(id) {
            job.discarded = true;
            job.replies.clear();
        }
    }

    /// The job's owner is gone.
    pub(crate) fn abandon(&mut self, id: JobId) -> Todo {
        let todo = self.seal(id);
        let Some(job) = self.job(id) else { return todo };
        job.abandoned = true;
        job.replies.clear();
        if job.announce && !job.announced {
            job.announced = true;
            self.to_announce -= 1;
        }
        self.free_if_over(id);
        todo
    }

    fn free_if_over(&mut self, id: JobId) {
        let ended = self.end.is_some();
        let Some(job) = self.job(id) else { return };
        if !job.abandoned || !(job.is_complete() && job.unswept.is_empty() || ended) {
            return;
        }
        let missing = job.submitted - job.replied;
        let limit = job.options.time_limit;
        let kept = job.kept.len();
        // What was allocated serves the next user, unless it was a lot.
        let mut replies = std::mem::take(&mut job.replies);
        let mut marks = std::mem::take(&mut job.marks);
        replies.clear();
        replies.shrink_to(64);
        marks.clear();
        *job = Job {
            generation: job.generation.wrapping_add(1),
            replies,
            marks,
            ..Job::default()
        };
        self.kept -= kept;
        self.less_outstanding(limit, missing);
        if let Some(place) = id.place() {
            self.free.push(place);
        }
    }

    /// A message from the result queue.
    pub(crate) fn accept(&mut self, message: Message) -> Todo {
        match Header::read(&message.bytes) {
            Some(header) => self.accept_answer(header, Answer::new(message)),
            None => Todo::NOTHING,
        }
    }

    /// The same of one that is bytes alone.
    pub(crate) fn accept_record(&mut self, tag: u32, body: &[u8]) -> Todo {
        match Header::read(body) {
            Some(header) => self.accept_answer(header, Answer::of_record(tag, body)),
            None => Todo::NOTHING,
        }
    }

    /// The same of several.
    pub(crate) fn accept_records(&mut self, records: &Records) -> Todo {
        records.iter().fold(Todo::NOTHING, |todo, (tag, body)| {
            todo.and(self.accept_record(tag, body))
        })
    }

    fn accept_answer(&mut self, header: Header, answer: Answer) -> Todo {
        match header.notice {
            Notice::Plain => {
                let id = JobId::from_raw(header.job);
                self.settle(id, header.index, Reply::Done(answer))
            }
            Notice::VERDICT => self.hear(header.job),
            Notice::Skipped => self.swept(JobId::from_raw(header.job), header.index),
            Notice::StartFailed => {
                self.start_failure = Some(answer);
                Todo {
                    nudge: self.tell(|interest| interest == Interest::StartFailure),
                    ..Todo::NOTHING
                }
            }
        }
    }

    /// A second reply for the same task changes nothing: a worker may have died after its result was
    /// committed and before it said that it has no task.
    fn settle(&mut self, id: JobId, index: u64, reply: Reply) -> Todo {
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        if index >= job.submitted || !job.marks.mark(index) {
            return Todo::NOTHING;
        }
        job.replied += 1;
        job.cancelled += u64::from(matches!(reply, Reply::Cancelled));
        let limit = job.options.time_limit;
        let forgotten = !job.kept.is_empty() && job.kept.remove(&index).is_some();
        let wanted = !job.abandoned && !job.discarded;
        self.kept -= usize::from(forgotten);
        self.less_outstanding(limit, 1);
        self.count(&reply);
        if let Some(job) = self.job(id).filter(|_| wanted) {
            job.replies.push_back((index, reply));
        }
        self.look_after(id)
    }

    fn count(&mut self, reply: &Reply) {
        let totals = &mut self.totals;
        let total = match reply {
            Reply::Done(answer) if self.is_failure.is_some_and(|fails| fails(answer.tag())) => {
                &mut totals.failed
            }
            Reply::Done(_) => &mut totals.done,
            Reply::Lost(_) | Reply::Poison(_) => &mut totals.lost,
            Reply::TimedOut(_) => &mut totals.timed_out,
            Reply::Cancelled => &mut totals.cancelled,
            Reply::Broken(_) | Reply::Terminated => return,
        };
        *total += 1;
    }

    /// Something has happened to a job: tells who waits for it.
    fn look_after(&mut self, id: JobId) -> Todo {
        let Some(job) = self.job(id) else {
            return Todo::NOTHING;
        };
        let complete = job.is_complete();
        let abandoned = job.abandoned;
        let announced_now = complete && job.announce && !job.announced;
        if announced_now {
            job.announced = true;
            self.to_announce -= 1;
            self.announcements.push_back(id);
        }
        if abandoned {
            self.free_if_over(id);
        }
        let close_tasks = self.is_last_task_out();
        let concerned = |interest: Interest| match interest {
            Interest::Next(job) => job == id,
            Interest::All(job) => job == id && complete,
            Interest::Announcement => announced_now || close_tasks,
            Interest::Cancel(_) | Interest::Verdicts => false,
            Interest::StartFailure | Interest::Finish => false,
        };
        let nudge = self.tell(concerned);
        Todo {
            nudge,
            close_tasks,
            ring: false,
        }
    }

    /// Whether nothing will be put into the task queue any more. True once.
    fn is_last_task_out(&mut self) -> bool {
        let out = self.closing && self.open == 0 && self.kept == 0;
        out && !std::mem::replace(&mut self.tasks_closed, true)
    }

    /// Wakes the followers concerned; true if the leader is concerned too.
    fn tell(&mut self, concerned: impl Fn(Interest) -> bool) -> bool {
        for follower in self
            .followers
            .iter()
            .filter(|follower| concerned(follower.interest))
        {
            wake(&follower.told);
        }
        self.leader.is_some_and(concerned)
    }

    /// The next reply to give out. `drained`: the result queue was empty after the state was read.
    pub(crate) fn next(&mut self, id: JobId, drained: bool) -> Option<Option<(u64, Reply)>> {
        let end = self.end.as_ref().filter(|_| drained).map(End::reply);
        let Some(job) = self.job(id) else {
            return Some(None);
        };
        if let Some(reply) = job.replies.pop_front() {
            return Some(Some(reply));
        }
        if job.is_complete() {
            return Some(None);
        }
        let reply = end?;
        if job.replied == job.submitted {
            // Not sealed: there would have been more.
            return Some(Some((job.submitted, reply)));
        }
        let index = job.marks.first_clear();
        job.marks.mark(index);
        job.replied += 1;
        let limit = job.options.time_limit;
        self.less_outstanding(limit, 1);
        Some(Some((index, reply)))
    }

    /// Gives out replies that are there, at most so many.
    pub(crate) fn take_replies(&mut self, id: JobId, most: usize, into: &mut Vec<(u64, Reply)>) {
        if let Some(job) = self.job(id) {
            let there = job.replies.len().min(most);
            into.extend(job.replies.drain(..there));
        }
    }

    /// Whether every reply of the job is here, or will not come any more.
    pub(crate) fn has_all(&mut self, id: JobId, drained: bool) -> bool {
        let ended = self.end.is_some() && drained;
        self.job(id).is_none_or(|job| job.is_complete() || ended)
    }

    /// Whether [`next`](Self::next) has something to give.
    pub(crate) fn has_next(&mut self, id: JobId, drained: bool) -> bool {
        let ended = self.end.is_some() && drained;
        self.job(id)
            .is_none_or(|job| !job.replies.is_empty() || job.is_complete() || ended)
    }

    /// How many tasks are without reply, if fewer than `enough` replies are here to give out.
    pub(crate) fn lacks(&mut self, id: JobId, enough: u64) -> Option<u64> {
        let job = self.job(id)?;
        let few = (job.replies.len() as u64) < enough;
        few.then_some(job.submitted - job.replied)
    }

    /// Whether at most `count` tasks are without reply (true), or no reply will come (false).
    pub(crate) fn has_at_most(&mut self, id: JobId, count: u64) -> Option<bool> {
        let ended = self.end.is_some();
        let few = self
            .job(id)
            .is_none_or(|job| job.submitted - job.replied <= count);
        if few {
            Some(!ended)
        } else {
            ended.then_some(false)
        }
    }

    pub(crate) fn counts(&mut self, id: JobId) -> (u64, u64) {
        self.job(id)
            .map_or((0, 0), |job| (job.submitted, job.submitted - job.replied))
    }

    /// The next job to announce; `Some(None)` when there will be none any more.
    pub(crate) fn next_announced(&mut self, drained: bool) -> Option<Option<JobId>> {
        while let Some(id) = self.announcements.pop_front() {
            if self.job(id).is_some() {
                return Some(Some(id));
            }
        }
        match &self.end {
            // Whoever was to be told of a job's end is told of the break instead.
            Some(End::Broken(_)) if drained && self.to_announce > 0 => {
                let place = self
                    .jobs
                    .iter()
                    .position(|job| job.used && job.announce && !job.announced)?;
                let job = &mut self.jobs[place];
                job.announced = true;
                self.to_announce -= 1;
                Some(Some(JobId::new(place, job.generation)))
            }
            Some(_) if drained => Some(None),
            None if self.closing && self.open == 0 && self.to_announce == 0 => Some(None),
            _ => None,
        }
    }

    pub(crate) fn close(&mut self) -> Todo {
        if self.closing || self.end.is_some() {
            return Todo::NOTHING;
        }
        self.closing = true;
        let nudge = self.tell(|interest| interest == Interest::Announcement);
        Todo {
            nudge,
            close_tasks: self.is_last_task_out(),
            ring: false,
        }
    }

    /// No further reply will come. `None` if that was so already.
    pub(crate) fn end_with(&mut self, end: End) -> Option<Todo> {
        if self.end.is_some() || self.finished {
            return None;
        }
        self.end = Some(end);
        let nudge = self.tell(|_| true);
        for place in 0..self.jobs.len() {
            let id = JobId::new(place, self.jobs[place].generation);
            self.free_if_over(id);
        }
        Some(Todo {
            nudge,
            close_tasks: true,
            ring: false,
        })
    }

    /// All workers are gone.
    pub(crate) fn finish(&mut self) -> Todo {
        self.finished = true;
        Todo {
            nudge: self.tell(|_| true),
            close_tasks: true,
            ring: false,
        }
    }

    pub(crate) fn take_start_failure(&mut self) -> Option<Answer> {
        self.start_failure.take()
    }

    pub(crate) fn follow(&mut self, interest: Interest, told: &Arc<std::sync::atomic::AtomicU32>) {
        self.followers.push(Follower {
            interest,
            told: Arc::clone(told),
        });
    }

    pub(crate) fn unfollow(&mut self, told: &Arc<std::sync::atomic::AtomicU32>) {
        self.followers
            .retain(|follower| !Arc::ptr_eq(&follower.told, told));
    }

    /// Says what the thread that collects waits for, while it waits.
    pub(crate) fn lead(&mut self, interest: Option<Interest>) {
        self.leader = interest;
    }

    /// The leader leaves: one of the others is to take over.
    pub(crate) fn hand_over(&mut self) {
        if let Some(follower) = self.followers.first() {
            wake(&follower.told);
        }
    }
}

fn wake(told: &std::sync::atomic::AtomicU32) {
    told.store(1, std::sync::atomic::Ordering::SeqCst);
    procession_sys::futex::wake(told, 1);
}

#[cfg(test)]
mod tests;
