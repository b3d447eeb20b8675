//! Pools whose workers are forks of the test.

#![allow(dead_code, reason = "each test uses some of it")]

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use procession_engine::ExitStatus;
use procession_engine::pool::{
    HEADER, Job, LaunchError, Launched, Launcher, Options, Phase, Pool, Reply, Submission,
    SubmitError, Worker,
};
use procession_engine::{Handle, Patience, Role};
use procession_sys::process;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn limit() -> Patience<'static> {
    Patience::timeout(LIMIT)
}

/// How the workers of a pool behave before their first task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Good,
    DieAtStart,
    FailAtStart,
}

/// Starts workers by forking.
#[derive(Debug)]
pub(crate) struct Forks {
    manner: Manner,
    pub(crate) launched: AtomicU32,
    pub(crate) refuse: AtomicBool,
    ended: Mutex<Vec<(u32, ExitStatus)>>,
}

impl Forks {
    pub(crate) fn new(manner: Manner) -> Arc<Forks> {
        Arc::new(Forks {
            manner,
            launched: AtomicU32::new(0),
            refuse: AtomicBool::new(false),
            ended: Mutex::default(),
        })
    }

    pub(crate) fn ended(&self) -> Vec<(u32, ExitStatus)> {
        self.ended.lock().expect("whole").clone()
    }
}

impl Launcher for Forks {
    fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(LaunchError {
                message: "no more processes".into(),
                fatal: true,
            });
        }
        self.launched.fetch_add(1, Ordering::SeqCst);
        let manner = self.manner;
        let seat = procession_engine::prepare_child("worker", Role::Worker).expect("has room");
        let parent = std::process::id();
        procession_engine::fork_with(seat);
        let forked = process::fork_running(|| work(pool, slot, manner, parent));
        procession_engine::fork_done();
        let pid = forked.map_err(|error| LaunchError {
            message: error.to_string(),
            fatal: false,
        })?;
        procession_engine::child_started(seat, pid);
        let pidfd = process::open_pidfd(pid).expect("is there");
        Ok(Launched { pid, pidfd, seat })
    }

    fn ended(&self, _slot: u32, worker: &Launched, status: ExitStatus) {
        let _ = process::try_wait(worker.pidfd.as_fd(), true);
        procession_engine::reap(worker.seat.member());
        self.ended.lock().expect("whole").push((worker.pid, status));
    }
}

/// What a worker of these tests does: the first byte of a task says what is asked for.
pub(crate) fn work(pool: Handle, slot: u32, manner: Manner, parent: u32) -> i32 {
    let mut worker = Worker::attach(pool, slot).expect("the pool is there");
    match manner {
        Manner::Good => {}
        Manner::DieAtStart => return 7,
        Manner::FailAtStart => {
            worker.start_failed(Submission::bytes(&mut message(b"no licence")));
            return 1;
        }
    }
    worker.ready();
    let mut orphaned = move || process::parent_id() != parent;
    loop {
        let task = match worker.next(&mut Patience::forever().with_interrupt(&mut orphaned)) {
            Ok(Some(task)) => task,
            Ok(None) => return 0,
            Err(_) => return 2,
        };
        let (what, rest) = task.payload().split_first().expect("not empty");
        let mut result = match what {
            b'e' => message(rest),
            b'p' => message(&std::process::id().to_le_bytes()),
            b's' => {
                thread::sleep(Duration::from_millis(rest[0].into()));
                message(b"slept")
            }
            b'l' => {
                thread::sleep(LIMIT);
                message(b"slept long")
            }
            b'g' => {
                let gate = std::str::from_utf8(rest).expect("is a name");
                until("the gate is open", || {
                    std::fs::exists(gate).is_ok_and(|open| open)
                });
                message(b"went through")
            }
            b'k' => process::kill_self(),
            // Each carries the name of a file: it leaves a byte there.
            b'n' => {
                note(rest);
                message(b"noted")
            }
            b'N' => {
                note(rest);
                process::kill_self()
            }
            // Kills the worker until the file has so many bytes.
            b'u' => {
                if note(&rest[1..]) < rest[0].into() {
                    process::kill_self();
                }
                message(b"survived")
            }
            b'm' => {
                std::mem::forget(vec![1_u8; usize::from(rest[0]) << 20]);
                message(b"leaked")
            }
            b'x' => process::exit_now(rest[0].into()),
            _ => message(b"?"),
        };
        worker
            .finish(
                task.id(),
                Submission {
                    tag: task.tag(),
                    ..Submission::bytes(&mut result)
                },
            )
            .expect("has memory");
    }
}

/// Tasks wait at it until it is opened: a file that is not there yet, and goes with this value.
pub(crate) struct Gate(String);

impl Gate {
    pub(crate) fn new(name: &str) -> Gate {
        let path = std::env::temp_dir().join(format!("gate-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Gate(path.to_str().expect("is text").to_owned())
    }

    pub(crate) fn task(&self) -> Vec<u8> {
        [b"g", self.0.as_bytes()].concat()
    }

    pub(crate) fn open(&self) {
        std::fs::write(&self.0, "").expect("can be made");
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Leaves a byte in a file: how many there are then.
fn note(name: &[u8]) -> u64 {
    let name = std::str::from_utf8(name).expect("is a name");
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(name);
    let mut file = file.expect("can be opened");
    std::io::Write::write_all(&mut file, b".").expect("can be written");
    file.metadata().expect("is there").len()
}

/// How many bytes there are in a file.
pub(crate) fn noted(name: &str) -> u64 {
    std::fs::metadata(name).map_or(0, |file| file.len())
}

pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(payload);
    bytes
}

pub(crate) fn start(workers: u32, manner: Manner) -> (Pool, Arc<Forks>) {
    let forks = Forks::new(manner);
    let options = Options {
        workers,
        ..Options::default()
    };
    (
        Pool::new(options, Arc::clone(&forks) as Arc<dyn Launcher>).expect("starts"),
        forks,
    )
}

pub(crate) fn pool(workers: u32) -> (Pool, Arc<Forks>) {
    start(workers, Manner::Good)
}

pub(crate) fn submit(job: &Job, payload: &[u8]) -> Result<u64, SubmitError> {
    job.submit(Submission::bytes(&mut message(payload)))
}

/// One task by itself: its reply.
pub(crate) fn ask(pool: &Pool, payload: &[u8]) -> Reply {
    let job = pool.job().expect("is running");
    job.submit_only(Submission::bytes(&mut message(payload)))
        .expect("is submitted");
    let (index, reply) = job.next(&mut limit()).expect("in time").expect("one reply");
    assert_eq!(index, 0);
    assert!(
        job.next(&mut limit()).expect("in time").is_none(),
        "only one"
    );
    reply
}

pub(crate) fn done(reply: Reply) -> Vec<u8> {
    match reply {
        Reply::Done(answer) => answer.payload().to_vec(),
        other => panic!("no result: {other:?}"),
    }
}

pub(crate) fn finish(pool: &Pool) {
    pool.close();
    pool.join(&mut limit()).expect("ends");
    assert!(pool.is_finished());
}

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn all_ready(pool: &Pool) -> bool {
    pool.workers()
        .iter()
        .all(|worker| worker.phase == Phase::Ready)
}

/// False if it was gone already.
pub(crate) fn kill(pid: u32) -> bool {
    process::open_pidfd(pid).is_ok_and(|pidfd| process::send_signal(pidfd.as_fd(), 9).is_ok())
}
