//! The thread that looks after the workers: it notices their deaths, says what each dead one had in
//! hand, and starts others in their place.
//!
//! **Whose was the task?** A worker writes the number of the item into its slot before it commits the
//! taking, and clears it after it has committed the result. So a dead worker's item may (a) never
//! have been taken, (b) have been taken, and its result committed, (c) have been taken and not been
//! finished, and (a) may also have gone to another worker since. In this order:
//! 1. read how many items were ever taken: if the item is not among them it waits for another worker;
//! 2. look whether another slot names the item: then that one has it;
//! 3. else send the notice "lost" through the result queue. Should there be a result, of this worker
//!    or of another that has gone on to a later item, it was committed before and is read first,
//!    and the notice is ignored.
//!
//! The thread never waits for anything but descriptors and time, except while it starts a worker.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procession_shm::pool_state::Phase;
use procession_sys::poll::{PollFd, PollFlags, poll};
use procession_sys::process;

use crate::Patience;
use crate::exit_status::ExitStatus;
use crate::family;
use crate::message::Outgoing;
use crate::pool::answer::{Answer, Loss};
use crate::pool::desk::Desk;
use crate::pool::error::{Breakage, Why};
use crate::pool::jobs::{Book, End, Interest, State};
use crate::pool::shared::Shared;
use crate::pool::{Launched, Launcher};
use crate::process::CHECKED_IN;
use crate::queue::PutError;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// What a worker gets that has just sent its result, when the pool is terminated.
const MOMENT: Duration = Duration::from_millis(20);
/// What an idle worker gets to end by itself.
const FAREWELL: Duration = Duration::from_millis(200);
/// After a failed start, and when workers keep dying before they are ready.
const PAUSE: Duration = Duration::from_millis(100);
/// For how long starts may fail with not one worker left before the pool breaks.
const STARVED: Duration = Duration::from_secs(10);
/// What can't be told for want of memory, or of a turn at the queue, is told after this.
const RETRY: Duration = Duration::from_millis(10);
/// For how long a fork server may take to say how its child ended, or the thread that collects to
/// enter what is in the result queue.
const STATUS: Duration = Duration::from_millis(60);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// Has the supervisor look at the pool's state.
#[derive(Debug)]
pub(crate) struct Bell {
    writer: PipeWriter,
    rung: Arc<AtomicBool>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        // One byte at a time: the pipe never fills.
        if !self.rung.swap(true, Ordering::SeqCst) {
            let _ = (&self.writer).write(&[1]);
        }
    }
}

/// Who has been sent what when all are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: the task queue is closed.
    Asked,
    /// SIGTERM to those with a task.
    Busy,
    /// SIGTERM to all.
    All,
    /// SIGKILL to all.
    Killed,
}

/// One worker's place.
#[derive(Debug)]
struct Post {
    worker: Option<Launched>,
    /// Start one here, not before this.
    due: Option<Instant>,
}

pub(crate) struct Supervisor {
    desk: Arc<Desk>,
    shared: Shared,
    launcher: Arc<dyn Launcher>,
    posts: Vec<Post>,
    reader: PipeReader,
    rung: Arc<AtomicBool>,
    /// Notices to be sent.
    untold: Vec<(u64, u64, Loss)>,
    early_deaths: u32,
    ready_seen: u32,
    starved_since: Option<Instant>,
    /// How far the ending of all has come, and when it goes on.
    kill_at: Option<(Stage, Instant)>,
}

impl Supervisor {
    pub(crate) fn new(
        desk: Arc<Desk>,
        shared: Shared,
        launcher: Arc<dyn Launcher>,
        workers: Vec<Launched>,
    ) -> io::Result<(Supervisor, Bell)> {
        let (reader, writer) = io::pipe()?;
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Bell {
            writer,
            rung: Arc::clone(&rung),
        };
        let posts = workers
            .into_iter()
            .map(|worker| Post {
                worker: Some(worker),
                due: None,
            })
            .collect();
        let supervisor = Supervisor {
            desk,
            shared,
            launcher,
            posts,
            reader,
            rung,
            untold: Vec::new(),
            early_deaths: 0,
            ready_seen: 0,
            starved_since: None,
            kill_at: None,
        };
        Ok((supervisor, bell))
    }

    /// Until all workers are gone for good.
    pub(crate) fn run(mut self) {
        loop {
            self.sleep();
            for slot in 0..self.posts.len() {
                self.look_at(slot);
            }
            self.tell();
            let state = self.desk.book().state();
            match state {
                State::Running | State::Closing => self.fill(state),
                State::Terminated | State::Broken => self.end_all(),
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Nothing left to do: the drop says so to those who wait.
    fn is_over(&self) -> bool {
        if self.posts.iter().any(|post| post.worker.is_some()) || !self.untold.is_empty() {
            return false;
        }
        match self.desk.book().state() {
            State::Running => false,
            State::Closing => !self.has_work(),
            State::Terminated | State::Broken => true,
        }
    }

    /// Whether there are, or may come, tasks for a new worker.
    fn has_work(&self) -> bool {
        !(self.desk.tasks().is_closed() && self.desk.tasks().is_empty())
    }

    /// Until a worker ends, the bell rings, or something is due.
    fn sleep(&mut self) {
        let due = self.posts.iter().filter_map(|post| post.due);
        let retry = (!self.untold.is_empty()).then(|| Instant::now() + RETRY);
        let until = due
            .chain(retry)
            .chain(
                self.kill_at
                    .filter(|(stage, _)| *stage != Stage::Killed)
                    .map(|(_, at)| at),
            )
            .min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let bell = std::iter::once(self.reader.as_fd());
        let workers = self
            .posts
            .iter()
            .filter_map(|post| Some(post.worker.as_ref()?.pidfd.as_fd()));
        let mut entries: Vec<PollFd<'_>> = bell
            .chain(workers)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        if poll(&mut entries, timeout).is_err() {
            // No memory for the call: not at once again.
            std::thread::sleep(RETRY);
            return;
        }
        if !entries[0].revents().is_empty() {
            // First forget, then look: what rings after this is seen in the next round.
            let _ = self.reader.read(&mut [0; 8]);
            self.rung.store(false, Ordering::SeqCst);
        }
    }

    /// If the worker has ended, settles what it leaves behind.
    fn look_at(&mut self, slot: usize) {
        let Some(worker) = &self.posts[slot].worker else {
            return;
        };
        let Some(status) = has_ended(worker) else {
            return;
        };
        let Some(worker) = self.posts[slot].worker.take() else {
            return;
        };
        // Slots are numbered by u32: they were counted by one.
        let number = slot as u32;
        let place = self.shared.slot(slot);
        let phase = place.phase();
        let lost = self.lost_task(slot);
        place.vacate();
        if let Some((job, index)) = lost {
            self.untold.push((
                job,
                index,
                Loss {
                    pid: worker.pid,
                    slot: number,
                    status,
                },
            ));
        }
        self.launcher.ended(number, &worker, status);
        let pause = self.note_start(phase, status);
        self.posts[slot].due = Some(Instant::now() + pause);
    }

    /// The task that a dead worker had taken and not finished, as far as is known before the result
    /// queue is read. See above.
    fn lost_task(&self, slot: usize) -> Option<(u64, u64)> {
        let held = self.shared.slot(slot).held()?;
        // Numbers wrap at 2^32, and never are so many items under way.
        let number = held.item as u32;
        let past = self.desk.tasks().taken().wrapping_sub(number);
        if past == 0 || past > u32::MAX / 2 {
            return None;
        }
        let others = self
            .shared
            .slots()
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != slot);
        let elsewhere = others
            .filter_map(|(_, other)| other.held())
            .any(|other| other.item == held.item);
        (!elsewhere).then_some((held.job, held.index))
    }

    /// Counts those in a row that were not ready before they ended. With too many of them, and nobody
    /// at work, the pool breaks; with somebody at work it goes on, and starts others less eagerly.
    fn note_start(&mut self, phase: Phase, status: ExitStatus) -> Duration {
        let ready = self.shared.head().ready();
        if ready != self.ready_seen {
            self.ready_seen = ready;
            self.early_deaths = 0;
        }
        let running = matches!(self.desk.book().state(), State::Running | State::Closing);
        if !matches!(phase, Phase::Starting | Phase::Failed) || !running {
            return Duration::ZERO;
        }
        self.early_deaths += 1;
        let limit = (self.posts.len() as u32).clamp(3, 16);
        if self.early_deaths < limit {
            return Duration::ZERO;
        }
        if !self
            .shared
            .slots()
            .iter()
            .any(|slot| slot.phase() == Phase::Ready)
        {
            let answer = if phase == Phase::Failed {
                self.start_failure()
            } else {
                None
            };
            self.break_pool(
                Why::DiedAtStart {
                    times: self.early_deaths,
                    status,
                },
                answer,
            );
        }
        PAUSE
    }

    /// What a worker has sent before it ended, when its initializer had failed.
    fn start_failure(&self) -> Option<Answer> {
        let mut patience = Patience::timeout(STATUS);
        let look = |book: &mut Book, _| book.take_start_failure();
        self.desk
            .wait(Interest::StartFailure, &mut patience, look)
            .ok()
    }

    fn break_pool(&self, why: Why, answer: Option<Answer>) {
        let todo = self
            .desk
            .book()
            .end_with(End::Broken(Arc::new(Breakage { why, answer })));
        if let Some(todo) = todo {
            self.desk.act(todo);
        }
    }

    /// Sends out the notices. None once the pool has ended: those who wait are told of that.
    fn tell(&mut self) {
        if self.untold.is_empty() {
            return;
        }
        if self.desk.book().end().is_some() {
            self.untold.clear();
        }
        let results = self.desk.results();
        self.untold.retain(|(job, index, loss)| {
            let bytes = loss.write(*job, *index);
            // Not for ever: a worker may have been stopped while it holds the lock of the queue.
            let put = results.put(&Outgoing::bytes(&bytes), &mut Patience::timeout(RETRY));
            matches!(put, Err(PutError::Memory(_) | PutError::Full))
        });
    }

    /// Starts workers where there are none.
    fn fill(&mut self, state: State) {
        if state == State::Closing && !self.has_work() {
            for post in &mut self.posts {
                post.due = None;
            }
            return;
        }
        for slot in 0..self.posts.len() {
            if self.posts[slot]
                .due
                .is_some_and(|due| due <= Instant::now())
            {
                self.start(slot);
            }
        }
    }

    fn start(&mut self, slot: usize) {
        self.shared.slot(slot).prepare();
        match self.launcher.launch(self.shared.handle(), slot as u32) {
            Ok(worker) => {
                self.posts[slot] = Post {
                    worker: Some(worker),
                    due: None,
                };
                self.starved_since = None;
            }
            Err(error) => {
                self.shared.slot(slot).vacate();
                let now = Instant::now();
                self.posts[slot].due = Some(now + PAUSE);
                let since = *self.starved_since.get_or_insert(now);
                let nobody = self.posts.iter().all(|post| post.worker.is_none());
                if error.fatal || nobody && now.duration_since(since) >= STARVED {
                    self.break_pool(Why::CannotStart(error), None);
                }
            }
        }
    }

    /// The pool was terminated, or broke: after a moment SIGTERM to those with a task in hand, and, a
    /// little later, to all: the idle find the task queue closed and end in good order, with their output written.
    /// SIGKILL to those that are left.
    fn end_all(&mut self) {
        for post in &mut self.posts {
            post.due = None;
        }
        let now = Instant::now();
        let (stage, signal, pause) = match self.kill_at {
            None => {
                self.kill_at = Some((Stage::Asked, now + MOMENT));
                return;
            }
            Some((Stage::Asked, at)) if at <= now => (Stage::Busy, SIGTERM, FAREWELL),
            Some((Stage::Busy, at)) if at <= now => (Stage::All, SIGTERM, GRACE),
            Some((Stage::All, at)) if at <= now => (Stage::Killed, SIGKILL, GRACE),
            Some(_) => return,
        };
        self.kill_at = Some((stage, now + pause));
        for (slot, post) in self.posts.iter().enumerate() {
            let idle = self.shared.slot(slot).held().is_none();
            if let Some(worker) = &post.worker
                && !(stage == Stage::Busy && idle)
            {
                // One that has ended meanwhile needs none.
                let _ = process::send_signal(worker.pidfd.as_fd(), signal);
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.break_pool(Why::Supervisor, None);
            for worker in self.posts.iter().filter_map(|post| post.worker.as_ref()) {
                let _ = process::send_signal(worker.pidfd.as_fd(), SIGKILL);
            }
        }
        let todo = self.desk.book().finish();
        self.desk.act(todo);
    }
}

/// How the worker ended, if it has. Does not take the status away from who waits for it.
fn has_ended(worker: &Launched) -> Option<ExitStatus> {
    let pidfd = worker.pidfd.as_fd();
    match process::try_wait(pidfd, false) {
        Ok(None) => return None,
        Ok(Some(ended)) => return Some(ended.into()),
        Err(_) => {}
    }
    // Not a child of this process, or somebody else has waited for it.
    if !procession_sys::poll::readable(pidfd, Some(Duration::ZERO)).unwrap_or(true) {
        return None;
    }
    let until = Instant::now() + STATUS;
    loop {
        if let Some(noted) = family::exit_status(worker.seat).filter(|&noted| noted != CHECKED_IN) {
            return Some(ExitStatus::from_noted(noted));
        }
        if Instant::now() >= until {
            return Some(ExitStatus::Unknown);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use procession_shm::pool_state::Held;

    use super::*;
    use crate::pool::{Options, Pool, Prepared};

    #[derive(Debug)]
    struct Nobody;

    impl Launcher for Nobody {
        fn launch(
            &self,
            _: procession_shm::Handle,
            _: u32,
        ) -> Result<Launched, crate::pool::LaunchError> {
            panic!("nobody is to be started")
        }
    }

    fn idle() -> (Supervisor, Shared) {
        let options = Options {
            workers: 3,
            max_tasks_per_worker: None,
        };
        let Prepared { desk, shared } = Pool::prepare(options).expect("has memory");
        let made = Supervisor::new(desk, shared.clone(), Arc::new(Nobody), Vec::new());
        (made.expect("has descriptors").0, shared)
    }

    fn put(supervisor: &Supervisor, count: u64) {
        for index in 0..count {
            let mut bytes = [0; crate::pool::HEADER];
            let notice = crate::pool::wire::Notice::Result;
            let header = crate::pool::wire::Header {
                notice,
                job: 9,
                index,
            };
            header.write(&mut bytes);
            let tasks = supervisor.desk.tasks();
            tasks
                .put(&Outgoing::bytes(&bytes), &mut Patience::none())
                .expect("has room");
        }
    }

    fn held(item: u64) -> Held {
        Held {
            item,
            job: 9,
            index: item,
        }
    }

    #[test]
    fn a_task_that_was_not_yet_taken_is_not_lost() {
        let (supervisor, shared) = idle();
        put(&supervisor, 1);
        assert_eq!(supervisor.lost_task(0), None, "it had none");
        // Killed between the word and the commit.
        shared.slot(0).take(held(0));
        assert_eq!(supervisor.lost_task(0), None);
    }

    #[test]
    fn a_task_that_was_taken_is_lost() {
        let (supervisor, shared) = idle();
        put(&supervisor, 2);
        for item in 0..2 {
            let taken =
                supervisor
                    .desk
                    .tasks()
                    .get_with(&mut Patience::none(), &mut |number, _, _| {
                        shared.slot(1).take(held(number.into()));
                    });
            taken.expect("is there");
            assert_eq!(supervisor.lost_task(1), Some((9, item)));
            shared.slot(1).settle();
            assert_eq!(supervisor.lost_task(1), None, "its result is committed");
        }
    }

    #[test]
    fn a_task_that_another_worker_has_taken_since_is_that_ones() {
        let (supervisor, shared) = idle();
        put(&supervisor, 2);
        shared.slot(0).take(held(0));
        let taken = supervisor
            .desk
            .tasks()
            .get_with(&mut Patience::none(), &mut |number, _, _| {
                shared.slot(2).take(held(number.into()));
            });
        taken.expect("is there");
        assert_eq!(supervisor.lost_task(0), None);
        // Should that one die too, and the first be settled by then, it is lost exactly once.
        shared.slot(0).vacate();
        assert_eq!(supervisor.lost_task(2), Some((9, 0)));
    }
}
