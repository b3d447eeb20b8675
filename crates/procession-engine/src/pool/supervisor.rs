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
//! What it decides about tasks (`verdicts`) goes the same way, so that a result always comes first.
//!
//! The thread never waits for anything but descriptors and time, except while it starts a worker.

mod verdicts;

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use procession_shm::Role;
use procession_shm::pool_state::{Held, Phase};
use procession_sys::poll::{PollFd, PollFlags, poll};
use procession_sys::process;

use crate::Patience;
use crate::exit_status::ExitStatus;
use crate::family;
use crate::message::Block;
use crate::pool::answer::{Answer, Loss};
use crate::pool::desk::Desk;
use crate::pool::error::{Breakage, Why};
use crate::pool::jobs::{Book, End, Interest, JobId, State, Verdict};
use crate::pool::memory::OutOfMemory;
use crate::pool::shared::Shared;
use crate::pool::{Launched, Launcher};
use crate::process::noted;

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
/// For how long a fork server may take to say how its child ended. Looked for meanwhile without waiting.
const STATUS: Duration = Duration::from_secs(5);
/// Of our own child nobody will say it once the kernel has forgotten it: but a thread here that has just
/// waited for it may not have noted it yet.
const NOTED_HERE: Duration = Duration::from_millis(50);
/// How often it is looked for.
const LOOK: Duration = Duration::from_millis(1);
/// For how long the thread that collects may take to enter what is in the result queue.
const LAST_WORDS: Duration = Duration::from_millis(500);
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
    /// It is a child of this process, not of a fork server.
    own: bool,
    /// The worker was seen to have ended then, and how is not known yet.
    ended_at: Option<Instant>,
    /// What the worker was called at its start: soon after its death its entry is another's.
    name: String,
    /// Start one here, not before this.
    due: Option<Instant>,
    /// The worker was killed for this task, and this is to be said of it.
    killed_for: Option<(Held, Verdict)>,
}

impl Post {
    fn of(worker: Launched) -> Post {
        Post {
            name: name_of(&worker).unwrap_or_default(),
            // The kernel lets a parent alone ask, and while the child runs, or nobody has asked before, it answers.
            own: process::try_wait(worker.pidfd.as_fd(), false).is_ok(),
            worker: Some(worker),
            ended_at: None,
            due: None,
            killed_for: None,
        }
    }
}

pub(crate) struct Supervisor {
    desk: Arc<Desk>,
    shared: Shared,
    launcher: Arc<dyn Launcher>,
    posts: Vec<Post>,
    reader: PipeReader,
    rung: Arc<AtomicBool>,
    /// Verdicts in the book whose numbers are to be sent.
    untold: Vec<u64>,
    /// Those that were sent and may have to be followed by something.
    unheard: Vec<u64>,
    /// When to look at what the workers are doing.
    check_at: Option<Instant>,
    /// Levels of the table of cancelled jobs.
    levels: Vec<Option<Block>>,
    out_of_memory: Option<OutOfMemory>,
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
    ) -> io::Result<Supervisor> {
        let (reader, writer) = io::pipe()?;
        let rung = Arc::new(AtomicBool::new(false));
        let bell = Bell {
            writer,
            rung: Arc::clone(&rung),
        };
        desk.set_bell(bell);
        for (slot, worker) in shared.slots().iter().zip(&workers) {
            slot.set_pid(worker.pid);
        }
        let posts = workers.into_iter().map(Post::of).collect();
        Ok(Supervisor {
            desk,
            shared,
            launcher,
            posts,
            reader,
            rung,
            untold: Vec::new(),
            unheard: Vec::new(),
            check_at: None,
            levels: Vec::new(),
            out_of_memory: None,
            early_deaths: 0,
            ready_seen: 0,
            starved_since: None,
            kill_at: None,
        })
    }

    /// Until all workers are gone for good.
    pub(crate) fn run(mut self) {
        self.out_of_memory = Some(OutOfMemory::watch());
        loop {
            self.sleep();
            for slot in 0..self.posts.len() {
                self.look_at(slot);
            }
            self.tell();
            let state = self.desk.book().state();
            match state {
                State::Running | State::Closing => {
                    self.attend();
                    self.fill(state);
                }
                State::Terminated | State::Broken => self.end_all(),
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Nothing left to do: the drop says so to those who wait.
    fn is_over(&self) -> bool {
        let telling = !(self.untold.is_empty() && self.unheard.is_empty());
        if telling || self.posts.iter().any(|post| post.worker.is_some()) {
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
        let telling = !(self.untold.is_empty() && self.unheard.is_empty());
        let retry = telling.then(|| Instant::now() + RETRY);
        let asking = self.posts.iter().any(|post| post.ended_at.is_some());
        let look = asking.then(|| Instant::now() + LOOK);
        let until = due
            .chain(retry)
            .chain(look)
            .chain(self.check_at)
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
            .filter(|post| post.ended_at.is_none())
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
        let post = &mut self.posts[slot];
        let Some(worker) = &post.worker else {
            return;
        };
        let status = match look_for_end(worker) {
            Look::Running => return,
            Look::Ended(status) => status,
            Look::EndedSomehow => {
                let since = *post.ended_at.get_or_insert_with(Instant::now);
                let may_be_told = if post.own {
                    since.elapsed() < NOTED_HERE
                } else {
                    since.elapsed() < STATUS && a_server_may_tell()
                };
                if may_be_told {
                    return;
                }
                // To tell was perhaps the server's last act.
                noted(worker.seat).map_or(ExitStatus::Unknown, ExitStatus::from_noted)
            }
        };
        post.ended_at = None;
        let Some(worker) = post.worker.take() else {
            return;
        };
        // Slots are numbered by u32: they were counted by one.
        let number = slot as u32;
        let place = self.shared.slot(slot);
        let phase = place.phase();
        let lost = self.lost_task(slot);
        let killed_for = self.posts[slot].killed_for.take();
        let verdict = lost.map(|held| match killed_for {
            Some((condemned, verdict)) if condemned.item == held.item => verdict,
            _ => self.loss_of(&worker, number, status, held),
        });
        // Before the slot says that nobody has the task: who cancels it looks there first.
        if let Some(verdict) = verdict {
            let written = self.desk.book().write(verdict);
            self.untold.push(written);
        }
        place.vacate();
        // It may have been woken for a task that it then didn't take.
        self.desk.tasks().rouse();
        self.launcher.ended(number, &worker, status);
        let pause = self.note_start(phase, status);
        self.posts[slot].due = Some(Instant::now() + pause);
    }

    /// The task that a dead worker had taken and not finished, as far as is known before the result
    /// queue is read. See above.
    fn lost_task(&self, slot: usize) -> Option<Held> {
        let held = self.shared.slot(slot).held()?;
        let number = held.item as u32;
        let queue = self.desk.tasks().queue((held.item >> 32) as usize)?;
        // It was the next one when the worker wrote it down. Numbers wrap at 2^32, and others may have been
        // taken by the thousand million since.
        if queue.taken() == number {
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
        (!elsewhere).then_some(held)
    }

    fn loss_of(&mut self, worker: &Launched, slot: u32, status: ExitStatus, held: Held) -> Verdict {
        let id = JobId::from_raw(held.job);
        let killed = status == ExitStatus::Signal(SIGKILL);
        let record = self.out_of_memory.as_mut();
        let loss = Loss {
            pid: worker.pid,
            name: name_of(worker).unwrap_or_else(|| self.posts[slot as usize].name.clone()),
            slot,
            status,
            out_of_memory: killed && record.is_some_and(OutOfMemory::has_struck),
            label: self.desk.book().label(id).unwrap_or_default(),
        };
        Verdict::Lost {
            id,
            index: held.index,
            loss,
        }
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
        let mut patience = Patience::timeout(LAST_WORDS);
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
                // It says so itself once it has come so far; who asks meanwhile should know it too.
                self.shared.slot(slot).set_pid(worker.pid);
                self.posts[slot] = Post::of(worker);
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

/// What the family calls it, if its entry is not another's yet.
fn name_of(worker: &Launched) -> Option<String> {
    let family = family::family().ok()?;
    family.member_name(worker.seat.member())
}

/// What can be seen of a worker's end.
enum Look {
    Running,
    Ended(ExitStatus),
    /// Nobody has said how yet.
    EndedSomehow,
}

/// Does not wait, nor take the status away from who waits for it.
fn look_for_end(worker: &Launched) -> Look {
    let pidfd = worker.pidfd.as_fd();
    match process::try_wait(pidfd, false) {
        Ok(None) => return Look::Running,
        Ok(Some(ended)) => return Look::Ended(ended.into()),
        Err(_) => {}
    }
    // Not a child of this process, or somebody else has waited for it.
    if !procession_sys::poll::readable(pidfd, Some(Duration::ZERO)).unwrap_or(true) {
        return Look::Running;
    }
    noted(worker.seat).map_or(Look::EndedSomehow, |code| {
        Look::Ended(ExitStatus::from_noted(code))
    })
}

/// Whether a fork server is alive in the family.
fn a_server_may_tell() -> bool {
    family::family().is_ok_and(|family| family.arena().has_alive(Role::ForkServer))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::message::Outgoing;
    use crate::pool::{Options, Pool, Prepared, Reply};

    /// Starts nobody, and writes down how others ended.
    #[derive(Debug, Default)]
    struct Record(std::sync::Mutex<Vec<ExitStatus>>);

    impl Launcher for Record {
        fn launch(
            &self,
            _: procession_shm::Handle,
            _: u32,
        ) -> Result<Launched, crate::pool::LaunchError> {
            panic!("nobody is to be started")
        }

        fn ended(&self, _: u32, _: &Launched, status: ExitStatus) {
            self.0.lock().expect("is whole").push(status);
        }
    }

    /// A worker that does nothing until it is killed.
    fn running() -> (Child, Launched) {
        let child = Command::new("sleep").arg("60").spawn().expect("starts");
        let launched = Launched {
            pid: child.id(),
            pidfd: process::open_pidfd(child.id()).expect("has descriptors"),
            seat: family::prepare_child("worker", Role::Worker).expect("has room"),
        };
        (child, launched)
    }

    /// One that has ended, and how nobody knows.
    fn ended_somehow() -> Launched {
        let (mut child, launched) = running();
        child.kill().expect("is ours");
        child.wait().expect("ends");
        launched
    }

    #[test]
    fn how_a_worker_ended_is_waited_for_while_a_server_may_tell() {
        let (mut supervisor, _) = idle();
        let record = Arc::new(Record::default());
        supervisor.launcher = Arc::<Record>::clone(&record);
        let told = || record.0.lock().expect("is whole").clone();
        supervisor.posts = vec![Post::of(ended_somehow())];
        supervisor.look_at(0);
        assert_eq!(told(), [ExitStatus::Unknown], "nobody is there to tell");

        let server = family::prepare_child("fork server", Role::ForkServer).expect("has room");
        let worker = ended_somehow();
        let seat = worker.seat;
        supervisor.posts = vec![Post::of(worker)];
        supervisor.look_at(0);
        let before = Instant::now();
        supervisor.sleep();
        supervisor.look_at(0);
        assert!(before.elapsed() < STATUS, "it looks again soon");
        assert_eq!(told().len(), 1, "the server may be slow");
        family::note_exit(seat, 3);
        supervisor.sleep();
        supervisor.look_at(0);
        assert_eq!(told()[1..], [ExitStatus::Code(3)]);
        assert!(supervisor.posts[0].worker.is_none());

        // No server tells of our own child, whose status somebody else here has taken.
        for (noted, told_of) in [
            (None, ExitStatus::Unknown),
            (Some(-9), ExitStatus::Signal(9)),
        ] {
            let (mut child, worker) = running();
            let seat = worker.seat;
            supervisor.posts = vec![Post::of(worker)];
            child.kill().expect("is ours");
            child.wait().expect("ends");
            let before = Instant::now();
            supervisor.look_at(0);
            assert!(
                supervisor.posts[0].worker.is_some(),
                "it may be about to note it"
            );
            if let Some(status) = noted {
                family::collected(seat, status);
            }
            while supervisor.posts[0].worker.is_some() {
                supervisor.sleep();
                supervisor.look_at(0);
            }
            assert!(before.elapsed() < STATUS / 2, "{:?}", before.elapsed());
            assert_eq!(told().last(), Some(&told_of));
        }

        supervisor.posts = vec![Post::of(ended_somehow())];
        supervisor.look_at(0);
        assert_eq!(told().len(), 4);
        family::cancel_child(server);
        supervisor.look_at(0);
        assert_eq!(told()[4..], [ExitStatus::Unknown]);
    }

    fn idle() -> (Supervisor, Shared) {
        let options = Options {
            workers: 3,
            ..Options::default()
        };
        let Prepared { desk, shared } = Pool::prepare(options).expect("has memory");
        let made = Supervisor::new(
            desk,
            shared.clone(),
            Arc::new(Record::default()),
            Vec::new(),
        );
        (made.expect("has descriptors"), shared)
    }

    fn put(supervisor: &Supervisor, count: u64) {
        for index in 0..count {
            let mut bytes = [0; crate::pool::HEADER];
            let notice = crate::pool::wire::Notice::Plain;
            let header = crate::pool::wire::Header {
                notice,
                job: 9,
                index,
            };
            header.write(&mut bytes);
            let tasks = supervisor.desk.tasks();
            tasks
                .common()
                .put(&Outgoing::bytes(&bytes), &mut Patience::none())
                .expect("has room");
        }
    }

    fn held(item: u64) -> Held {
        Held {
            item,
            job: 9,
            index: item,
            since: 0,
        }
    }

    fn lost(supervisor: &Supervisor, slot: usize) -> Option<(u64, u64)> {
        let held = supervisor.lost_task(slot)?;
        Some((held.job, held.index))
    }

    #[test]
    fn a_task_that_was_not_yet_taken_is_not_lost() {
        let (supervisor, shared) = idle();
        put(&supervisor, 1);
        assert_eq!(lost(&supervisor, 0), None, "it had none");
        // Killed between the word and the commit.
        shared.slot(0).take(held(0));
        assert_eq!(lost(&supervisor, 0), None);
    }

    #[test]
    fn a_task_that_was_taken_is_lost() {
        let (supervisor, shared) = idle();
        put(&supervisor, 2);
        for item in 0..2 {
            let taken = supervisor.desk.tasks().common().get_with(
                &mut Patience::none(),
                &mut |number, _, _| {
                    shared.slot(1).take(held(number.into()));
                },
            );
            taken.expect("is there");
            assert_eq!(lost(&supervisor, 1), Some((9, item)));
            shared.slot(1).settle();
            assert_eq!(lost(&supervisor, 1), None, "its result is committed");
        }
    }

    #[test]
    fn a_task_is_lost_however_many_were_taken_since() {
        let (supervisor, shared) = idle();
        let arena = family::family().expect("there").arena();
        let queue = supervisor.desk.tasks().common();
        let words: &[AtomicU64] = arena
            .objects(queue.handle(), procession_shm::Kind::Queue, 0, 19)
            .expect("there");
        // How many were put and taken stands in the upper halves of two words: the first of the second cache
        // line, the third of the third.
        for (word, count) in [(8, 3u64 << 30), (18, 3 << 30)] {
            words[word].store(count << 32, Ordering::SeqCst);
        }
        assert_eq!(queue.taken(), 3 << 30);
        shared.slot(0).take(held(7));
        assert_eq!(lost(&supervisor, 0), Some((9, 7)));
        shared.slot(0).settle();
        shared.slot(0).take(held(3 << 30));
        assert_eq!(lost(&supervisor, 0), None, "it is the next one");
    }

    #[test]
    fn a_garbled_queue_of_results_breaks_the_pool() {
        let (supervisor, _) = idle();
        let desk = Arc::clone(&supervisor.desk);
        let id = desk.book().open(Default::default()).expect("is running");
        let submitted = desk.book().submit_only(id, None);
        let _ = submitted.expect("is open");
        desk.results()
            .put(&Outgoing::bytes(&[7; 16]), &mut Patience::none())
            .expect("has room");
        // As a process does that writes where it should not.
        let arena = family::family().expect("there").arena();
        let queue = desk.results().handle();
        let kind = procession_shm::Kind::Queue;
        let words: &[AtomicU64] = arena
            .objects(queue, kind, 0, size_of::<procession_shm::RawQueue>() / 8)
            .expect("there");
        // The name of the segment at whose end messages are added, and from whose start they are taken.
        let segment = words[2].load(Ordering::SeqCst);
        let names = words
            .iter()
            .filter(|word| segment != 0 && word.load(Ordering::SeqCst) == segment);
        assert_eq!(
            names
                .map(|word| word.store(u64::MAX, Ordering::SeqCst))
                .count(),
            2
        );
        let look = |book: &mut Book, drained| book.next(id, drained);
        let told = desk.wait(
            Interest::Next(id),
            &mut Patience::timeout(Duration::from_secs(20)),
            look,
        );
        let Ok(Some((_, Reply::Broken(why)))) = told else {
            panic!("{told:?}");
        };
        assert!(matches!(why.why, Why::Garbled), "{why}");
        assert!(why.to_string().contains("was overwritten"), "{why}");
    }

    #[test]
    fn what_is_due_soon_is_not_put_off_by_a_long_time_limit() {
        let (mut supervisor, _) = idle();
        let options = crate::pool::TaskOptions {
            time_limit: Some(Duration::from_secs(3600)),
            ..Default::default()
        };
        let id = supervisor.desk.book().open(options).expect("is running");
        let submitted = supervisor.desk.book().submit(id, None);
        assert!(submitted.expect("is open").1.ring);
        let soon = Instant::now() + Duration::from_secs(60);
        supervisor.check_at = Some(soon);
        supervisor.attend();
        assert_eq!(supervisor.check_at, Some(soon));
    }

    #[test]
    fn a_lost_task_that_is_cancelled_before_it_is_out_again_is_over() {
        let (mut supervisor, _) = idle();
        let desk = Arc::clone(&supervisor.desk);
        let options = crate::pool::TaskOptions {
            retries: 1,
            ..Default::default()
        };
        let parcel = crate::message::Parcel::store(&Outgoing::bytes(b"task"));
        let id = desk.book().open(options).expect("is running");
        let submitted = desk
            .book()
            .submit_only(id, Some(parcel.expect("has memory")));
        let (index, _) = submitted.expect("is open");
        let loss = Loss {
            pid: 1,
            name: String::new(),
            slot: 0,
            status: ExitStatus::Signal(9),
            out_of_memory: false,
            label: "",
        };
        let hear = |verdict| {
            let mut book = desk.book();
            let number = book.write(verdict);
            let _ = book.hear(number);
        };
        hear(Verdict::Lost { id, index, loss });
        // The supervisor has it in hand while another thread takes in that it is cancelled.
        assert_eq!(desk.book().take_again(), [(id, index)]);
        hear(Verdict::Cancelled {
            id,
            running: Vec::new(),
            marked: true,
        });
        desk.book().put_back(id, index);
        supervisor.attend();
        let _ = desk.book().abandon(id);
        let next = desk.book().open(options).expect("is running");
        assert_eq!(next.place(), id.place(), "its place is free");
        assert!(desk.tasks().is_empty());
    }

    #[test]
    fn a_task_that_another_worker_has_taken_since_is_that_ones() {
        let (supervisor, shared) = idle();
        put(&supervisor, 2);
        shared.slot(0).take(held(0));
        let taken = supervisor.desk.tasks().common().get_with(
            &mut Patience::none(),
            &mut |number, _, _| {
                shared.slot(2).take(held(number.into()));
            },
        );
        taken.expect("is there");
        assert_eq!(lost(&supervisor, 0), None);
        // Should that one die too, and the first be settled by then, it is lost exactly once.
        shared.slot(0).vacate();
        assert_eq!(lost(&supervisor, 2), Some((9, 0)));
    }
}
