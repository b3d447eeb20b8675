//! A pool of worker processes: tasks out, results in, deaths settled.
//!
//! Bytes only. A **job** is a set of tasks that belong together: one for a single call, many for a
//! map. Each task gets exactly one [`Reply`]: what the worker sent, or what became of the worker, or
//! of the pool.
//!
//! ```no_run
//! use std::sync::Arc;
//! use procession_engine::pool::{HEADER, Launcher, Options, Pool, Submission};
//! use procession_engine::Patience;
//!
//! # fn example(launcher: Arc<dyn Launcher>) -> Result<(), Box<dyn std::error::Error>> {
//! let pool = Pool::new(Options { workers: 4, ..Options::default() }, launcher)?;
//! let job = pool.job()?;
//! let mut bytes = [0; HEADER + 3];
//! bytes[HEADER..].copy_from_slice(b"abc");
//! job.submit(Submission::bytes(&mut bytes))?;
//! job.seal();
//! while let Some((index, reply)) = job.next(&mut Patience::forever())? {
//!     println!("task {index}: {reply:?}");
//! }
//! pool.close();
//! pool.join(&mut Patience::forever())?;
//! # Ok(())
//! # }
//! ```
//!
//! - No helper threads in the parent but one, the `supervisor`, which sleeps until a worker ends.
//! - Results are entered by the threads that wait for them (`desk`), in a book (`jobs`) that knows
//!   which tasks are out.
//! - Who dies, and what the others see of it, is settled in `supervisor`; what a worker writes down
//!   on the way, so that this is possible, in `procession_shm::pool_state`.

mod answer;
mod desk;
mod error;
mod job;
mod jobs;
mod lanes;
mod marks;
mod memory;
mod shared;
mod supervisor;
pub(crate) mod wire;
mod worker;

use std::fmt;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use procession_shm::{Handle, WaitError};
use procession_sys::clock;

pub use answer::{Answer, Loss, Overrun, Reply};
pub use error::{
    AttachError, Breakage, JoinError, LaunchError, NotRunning, StartError, SubmitError, Why,
};
pub use job::{Cancelled, Job, JobNews};
pub use jobs::{State, Totals};
pub use procession_shm::pool_state::Phase;
pub use wire::HEADER;
pub use worker::{ShortTask, Task, TaskId, Worker};

use crate::exit_status::ExitStatus;
use crate::family::Seat;
use crate::message::Outgoing;
use crate::pool::desk::Desk;
use crate::pool::jobs::{Book, End, Interest, JobId};
use crate::pool::lanes::Lanes;
use crate::pool::shared::Shared;
use crate::pool::supervisor::Supervisor;
use crate::{MakeError, Patience};

/// The most workers that a pool may have.
pub const MAX_WORKERS: u32 = 2048;

/// How a pool is to be.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many workers.
    pub workers: u32,
    /// After how many tasks a worker ends and is replaced.
    pub max_tasks_per_worker: Option<NonZeroU64>,
    /// With how many bytes of memory of its own, after a task, a worker ends and is replaced. What it
    /// shares with others, such as the family's arena, doesn't count.
    pub max_memory_per_worker: Option<NonZeroU64>,
    /// Whether the answer with this tag says that the task failed. For the count alone.
    pub is_failure: fn(u32) -> bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            workers: 1,
            max_tasks_per_worker: None,
            max_memory_per_worker: None,
            is_failure: |_| false,
        }
    }
}

/// How the tasks of a job are to be dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskOptions {
    /// What they are, for people.
    pub label: &'static str,
    /// How often each of them is given to another worker when one dies of it.
    pub retries: u32,
    /// How long each of them may run. Its worker is killed then, at most a few hundredths of a second
    /// later, and replaced.
    pub time_limit: Option<Duration>,
}

/// A worker that was started.
#[derive(Debug)]
pub struct Launched {
    /// Its process id.
    pub pid: u32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// Its seat in the family.
    pub seat: Seat,
}

/// Starts worker processes.
pub trait Launcher: Send + Sync {
    /// Starts a process that calls [`Worker::attach`] with these arguments. Called from
    /// [`Pool::new`] in its thread and from the supervisor in its own.
    ///
    /// # Errors
    /// When it can't be started. The supervisor tries again after a pause, unless the error is fatal.
    fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError>;

    /// A worker has ended. Its status was looked at and is still there for who waits for the child;
    /// giving back what it held of the family's memory ([`reap`](crate::reap)) is left to this call,
    /// or to whoever waits for the child. Called by the supervisor, which does nothing else meanwhile.
    fn ended(&self, slot: u32, worker: &Launched, status: ExitStatus) {
        let _ = (slot, status);
        crate::family::reap(worker.seat.member());
    }
}

/// A task or a result to be sent.
#[derive(Debug)]
pub struct Submission<'a> {
    /// For the receiver to tell what it is; 31 bits travel.
    pub tag: u32,
    /// The message, behind [`HEADER`] bytes that the engine fills in.
    pub bytes: &'a mut [u8],
    /// Large buffers; each is copied once.
    pub buffers: &'a [&'a [u8]],
    /// Objects that the bytes mention.
    pub handles: &'a [Handle],
}

impl<'a> Submission<'a> {
    /// Plain bytes, behind [`HEADER`] bytes that the engine fills in.
    pub fn bytes(bytes: &'a mut [u8]) -> Submission<'a> {
        Submission {
            tag: 0,
            bytes,
            buffers: &[],
            handles: &[],
        }
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            tag: self.tag,
            bytes: self.bytes,
            buffers: self.buffers,
            handles: self.handles,
        }
    }
}

/// What the pool knows of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerInfo {
    /// Its place.
    pub slot: u32,
    /// Its process id; 0 while it starts.
    pub pid: u32,
    /// How far it has come.
    pub phase: Phase,
    /// Results it has sent.
    pub done: u64,
    /// Its name in the family; empty if that is not known.
    pub name: String,
    /// The task in its hands.
    pub task: Option<Running>,
}

/// A task in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its job.
    pub job: u64,
    /// Its index there.
    pub index: u64,
    /// What it is.
    pub label: &'static str,
    /// For how long, to a hundredth of a second.
    pub since: Duration,
}

/// How far a pool has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Tasks that no worker has begun.
    pub queued: u64,
    /// Tasks in workers' hands.
    pub running: u64,
    /// What has become of the others.
    pub totals: Totals,
}

/// The set-up of a pool whose workers the caller starts.
#[derive(Debug)]
pub struct Prepared {
    desk: Arc<Desk>,
    shared: Shared,
}

impl Prepared {
    /// What [`Worker::attach`] wants to know.
    pub fn handle(&self) -> Handle {
        self.shared.handle()
    }

    /// Starts the supervisor over workers that were started, one for each slot in order. The
    /// launcher is for those that come after them.
    ///
    /// # Errors
    /// When the supervisor can't be started; the workers are the caller's to end.
    pub fn supervise(
        self,
        workers: Vec<Launched>,
        launcher: Arc<dyn Launcher>,
    ) -> Result<Pool, StartError> {
        let Prepared { desk, shared } = self;
        let supervisor = Supervisor::new(Arc::clone(&desk), shared.clone(), launcher, workers)
            .map_err(StartError::System)?;
        // Its stack serves a whole child after a fork from this thread.
        let thread = std::thread::Builder::new()
            .name("procession-pool".into())
            .stack_size(16 << 20);
        thread
            .spawn(move || supervisor.run())
            .map_err(StartError::System)?;
        Ok(Pool {
            desk: Some(desk),
            shared,
        })
    }
}

/// A pool of worker processes.
///
/// Dropped before it is closed and joined it is terminated, without waiting. In a child that was
/// forked from its process it is nobody's: it refuses work there, and dropping it does nothing.
pub struct Pool {
    /// `None` only while it is dropped.
    desk: Option<Arc<Desk>>,
    shared: Shared,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("workers", &self.shared.slots().len())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Sets a pool up without workers.
    ///
    /// # Errors
    /// When there is no memory, or no pool can have so many workers.
    pub fn prepare(options: Options) -> Result<Prepared, StartError> {
        if !(1..=MAX_WORKERS).contains(&options.workers) {
            return Err(StartError::Count {
                asked: options.workers,
            });
        }
        let error = |error| match error {
            MakeError::Family(error) => StartError::Family(error),
            MakeError::Memory(error) => StartError::Memory(error),
            MakeError::Gone(_) => StartError::System(std::io::ErrorKind::NotFound.into()),
        };
        let tasks = Lanes::new(options.workers).map_err(error)?;
        let results = Lanes::new(options.workers).map_err(error)?;
        let max_tasks = options.max_tasks_per_worker.map_or(0, NonZeroU64::get);
        let max_memory = options.max_memory_per_worker.map_or(0, NonZeroU64::get);
        let shared =
            Shared::new(options.workers, &tasks, &results, max_tasks, max_memory).map_err(error)?;
        for slot in shared.slots() {
            slot.prepare();
        }
        Ok(Prepared {
            desk: Arc::new(Desk::new(tasks, results, options.is_failure)),
            shared,
        })
    }

    /// Sets a pool up and starts all its workers, in this thread.
    ///
    /// # Errors
    /// When one can't be started: none is left then.
    pub fn new(options: Options, launcher: Arc<dyn Launcher>) -> Result<Pool, StartError> {
        let prepared = Pool::prepare(options)?;
        let mut workers = Vec::new();
        for slot in 0..options.workers {
            match launcher.launch(prepared.handle(), slot) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    end_at_once(workers, launcher.as_ref());
                    return Err(StartError::Launch(error));
                }
            }
        }
        // Should the supervisor not start, these end the workers.
        let spare = workers
            .iter()
            .map(|worker| (worker.pid, worker.pidfd.try_clone(), worker.seat));
        let spare: Vec<_> = spare
            .filter_map(|(pid, pidfd, seat)| {
                Some(Launched {
                    pid,
                    pidfd: pidfd.ok()?,
                    seat,
                })
            })
            .collect();
        prepared
            .supervise(workers, Arc::clone(&launcher))
            .inspect_err(|_| end_at_once(spare, launcher.as_ref()))
    }

    fn desk(&self) -> &Arc<Desk> {
        self.desk.as_ref().expect("is there until the drop")
    }

    fn at_home(&self) -> Option<&Arc<Desk>> {
        Some(self.desk()).filter(|desk| desk.is_home())
    }

    /// What [`Worker::attach`] wants to know.
    pub fn handle(&self) -> Handle {
        self.shared.handle()
    }

    /// Whether this is the process that made the pool.
    pub fn is_home(&self) -> bool {
        self.at_home().is_some()
    }

    /// Opens a job.
    ///
    /// # Errors
    /// When the pool takes none.
    pub fn job(&self) -> Result<Job, NotRunning> {
        self.job_with(TaskOptions::default())
    }

    /// Opens a job whose tasks are dealt with like this.
    ///
    /// # Errors
    /// When the pool takes none.
    pub fn job_with(&self, options: TaskOptions) -> Result<Job, NotRunning> {
        let desk = self.at_home().ok_or(NotRunning::Foreign)?;
        let id = desk.book().open(options)?;
        Ok(Job::new(Arc::clone(desk), id, options))
    }

    /// What the pool is up to.
    pub fn state(&self) -> State {
        self.at_home()
            .map_or(State::Terminated, |desk| desk.book().state())
    }

    /// Why it broke, if it did.
    pub fn breakage(&self) -> Option<Arc<Breakage>> {
        match self.at_home()?.book().end() {
            Some(End::Broken(why)) => Some(Arc::clone(why)),
            _ => None,
        }
    }

    /// Tasks without a reply.
    pub fn outstanding(&self) -> u64 {
        self.at_home().map_or(0, |desk| desk.book().outstanding())
    }

    /// Whether all workers are gone for good.
    pub fn is_finished(&self) -> bool {
        self.at_home().is_none_or(|desk| desk.book().is_finished())
    }

    /// What each worker is doing. Doesn't wait.
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let family = crate::family::family().ok();
        let members = family.map_or_else(Vec::new, crate::family::Family::members);
        let infos = (0..)
            .zip(self.shared.slots())
            .map(|(slot, worker)| WorkerInfo {
                slot,
                pid: worker.pid(),
                phase: worker.phase(),
                done: worker.done(),
                name: members
                    .iter()
                    .rfind(|member| member.alive && member.pid == worker.pid())
                    .map_or_else(String::new, |member| member.name.clone()),
                task: self
                    .at_home()
                    .zip(worker.held_now())
                    .and_then(|(desk, held)| {
                        let id = JobId::from_raw(held.job);
                        Some(Running {
                            job: held.job,
                            index: held.index,
                            // A job that is no more has its reply: the worker is just through with it.
                            label: desk.book().label(id)?,
                            since: clock::since(held.since),
                        })
                    }),
            });
        infos.collect()
    }

    /// How far it has come. Takes in what results are there; never waits.
    pub fn status(&self) -> PoolStatus {
        self.collect();
        let (running, outstanding, totals) = self.at_home().map_or_else(
            || (0, 0, Totals::default()),
            |desk| {
                let mut book = desk.book();
                let slots = self.shared.slots().iter();
                // As in `workers`: not those that are just through with their task.
                let running = slots
                    .filter_map(|slot| slot.held_now())
                    .filter(|held| book.label(JobId::from_raw(held.job)).is_some())
                    .count() as u64;
                (running, book.outstanding(), book.totals())
            },
        );
        let running = running.min(outstanding);
        PoolStatus {
            queued: outstanding - running,
            running,
            totals,
        }
    }

    /// Takes no more jobs. The workers end when all that are open are done.
    pub fn close(&self) {
        if let Some(desk) = self.at_home() {
            let todo = desk.book().close();
            desk.act(todo);
            desk.ring();
        }
    }

    /// Ends all workers without waiting for their tasks: SIGTERM now, SIGKILL after a second. Who
    /// waits for a reply gets [`Reply::Terminated`]. Returns at once; [`join`](Self::join) waits.
    pub fn terminate(&self) {
        if let Some(desk) = self.at_home() {
            let todo = desk.book().end_with(End::Terminated);
            if let Some(todo) = todo {
                desk.act(todo);
            }
            desk.ring();
        }
    }

    /// Waits until all workers are gone. Takes in results meanwhile.
    ///
    /// # Errors
    /// When the pool was not closed or terminated before, or the wait ended first.
    pub fn join(&self, patience: &mut Patience<'_>) -> Result<(), JoinError> {
        let desk = self.at_home().ok_or(JoinError::Foreign)?;
        if self.state() == State::Running {
            return Err(JoinError::StillRunning);
        }
        // A worker that ends may need the bell to be noticed: closing may have come to an end by a
        // job that was sealed meanwhile.
        desk.ring();
        desk.wait(Interest::Finish, patience, |book, _| {
            book.is_finished().then_some(())
        })
        .map_err(JoinError::Wait)?;
        desk.collect();
        Ok(())
    }

    /// Takes in what results are there. Never waits.
    pub fn collect(&self) {
        if let Some(desk) = self.at_home() {
            desk.collect();
        }
    }

    /// The number of the next job that has got all its replies, of those that asked for it by
    /// [`Job::announce`]. `None` when there will be none any more: the pool is closed and they are
    /// done, or it has ended. The jobs that are left when a pool breaks are announced too, those
    /// that are left when it is terminated are not.
    ///
    /// # Errors
    /// When the wait ended first.
    pub fn next_announced(&self, patience: &mut Patience<'_>) -> Result<Option<u64>, WaitError> {
        let Some(desk) = self.at_home() else {
            return Ok(None);
        };
        let id = desk.wait(Interest::Announcement, patience, Book::next_announced)?;
        Ok(id.map(JobId::to_raw))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.is_home() {
            self.terminate();
        } else {
            // Other threads of the parent may have been in the middle of changing it.
            std::mem::forget(self.desk.take());
        }
    }
}

fn end_at_once(workers: Vec<Launched>, launcher: &dyn Launcher) {
    for (slot, worker) in (0..).zip(workers) {
        // One that has ended by itself needs no signal.
        let _ = procession_sys::process::send_signal(std::os::fd::AsFd::as_fd(&worker.pidfd), 9);
        let _ = procession_sys::poll::readable(
            std::os::fd::AsFd::as_fd(&worker.pidfd),
            Some(std::time::Duration::from_secs(1)),
        );
        launcher.ended(slot, &worker, ExitStatus::Signal(9));
    }
}
