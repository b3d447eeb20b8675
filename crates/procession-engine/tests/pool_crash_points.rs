//! A worker is killed at each of the named places of the structures below the pool, the first times
//! it comes there: each task has exactly one outcome, at most the one in hand is lost.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use procession_engine::pool::{
    HEADER, LaunchError, Launched, Launcher, Options, Pool, Reply, ShortTask, Submission,
    TaskOptions, Worker,
};
use procession_engine::{ExitStatus, Handle, Patience, Role};
use procession_shm::crash::{POINTS, arm};
use procession_sys::process;

const LIMIT: Duration = Duration::from_secs(20);
/// Who waits without being told of a death looks for himself after four seconds.
const QUICK: Duration = Duration::from_secs(3);
const TASKS: usize = 60;

/// Starts workers by forking; the first one is to be killed at a point.
struct Doomed {
    point: &'static str,
    time: usize,
    launched: AtomicU32,
    killed: AtomicU32,
}

impl Launcher for Doomed {
    fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
        let doomed = self.launched.fetch_add(1, Ordering::SeqCst) == 0;
        let parent = std::process::id();
        let seat = procession_engine::prepare_child("worker", Role::Worker).expect("has room");
        procession_engine::fork_with(seat);
        let forked = process::fork_running(|| {
            let worker = Worker::attach(pool, slot).expect("the pool is there");
            if doomed {
                arm(self.point, self.time);
            }
            work(worker, parent)
        });
        procession_engine::fork_done();
        let pid = forked.expect("forks");
        procession_engine::child_started(seat, pid);
        let pidfd = process::open_pidfd(pid).expect("is there");
        Ok(Launched { pid, pidfd, seat })
    }

    fn ended(&self, _slot: u32, worker: &Launched, status: ExitStatus) {
        self.killed
            .fetch_add(u32::from(status == ExitStatus::Signal(9)), Ordering::SeqCst);
        let _ = process::try_wait(worker.pidfd.as_fd(), true);
        procession_engine::reap(worker.seat.member());
    }
}

/// Sends back what it gets, buffers and all.
fn work(mut worker: Worker, parent: u32) -> i32 {
    worker.ready();
    let mut orphaned = move || process::parent_id() != parent;
    let mut short = ShortTask::default();
    loop {
        let mut patience = Patience::forever().with_interrupt(&mut orphaned);
        let mut task = if worker.take_short(&mut short) {
            short.to_task()
        } else if let Ok(Some(task)) = worker.next(&mut patience) {
            task
        } else {
            return 0;
        };
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(task.payload());
        let buffers: Vec<Vec<u8>> = task
            .take_buffers()
            .iter()
            .map(|block| block.to_vec())
            .collect();
        let buffers: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        let result = Submission {
            buffers: &buffers,
            ..Submission::bytes(&mut bytes)
        };
        worker.finish(task.id(), result).expect("has memory");
        // Both workers shall have their share.
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The nth payload and its buffer: short, long, or with a large buffer, by turns.
fn contents(n: usize) -> (Vec<u8>, Vec<u8>) {
    let length = [10, 3000, 80_000, 20][n % 4];
    let payload = (0..length).map(|at| (at + n) as u8).collect();
    let buffer = if n % 4 == 3 {
        vec![n as u8; 50_000]
    } else {
        Vec::new()
    };
    (payload, buffer)
}

/// A run, and one more if it has taken long: a busy machine is not slow twice in a row. Whether the
/// worker was killed, and how long the faster one took.
fn run_quickly(point: &'static str, time: usize) -> (bool, Duration) {
    let mut fastest = Duration::MAX;
    let mut reached = false;
    for _ in 0..2 {
        let start = Instant::now();
        let (killed, lost) = run(point, time, 0);
        fastest = fastest.min(start.elapsed());
        assert!(
            killed <= 1 && lost <= killed as usize,
            "{point}, {time}: {lost} lost, {killed} killed"
        );
        reached |= killed == 1;
        if fastest < QUICK {
            break;
        }
    }
    (reached, fastest)
}

/// With `retries` each task may be tried so often again, and every seventh is cancelled.
fn run(point: &'static str, time: usize, retries: u32) -> (u32, usize) {
    let doomed = Arc::new(Doomed {
        point,
        time,
        launched: AtomicU32::new(0),
        killed: AtomicU32::new(0),
    });
    let options = Options {
        workers: 2,
        ..Options::default()
    };
    let pool = Pool::new(options, Arc::clone(&doomed) as _).expect("starts");
    let options = TaskOptions {
        retries,
        ..TaskOptions::default()
    };
    let job = pool.job_with(options).expect("is running");
    let mut cancelled = Vec::new();
    for n in 0..TASKS {
        if retries > 0 && n % 7 == 6 {
            let job = pool.job_with(options).expect("is running");
            job.submit_only(Submission::bytes(&mut [0; HEADER + 3]))
                .expect("is submitted");
            let result = job.cancel(false, &mut Patience::timeout(LIMIT));
            result.unwrap_or_else(|_| panic!("{point}, {time}: not cancelled"));
            cancelled.push(job);
        }
        let (payload, buffer) = contents(n);
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(&payload);
        let buffers: &[&[u8]] = if buffer.is_empty() { &[] } else { &[&buffer] };
        let task = Submission {
            buffers,
            ..Submission::bytes(&mut bytes)
        };
        job.submit(task).expect("is submitted");
    }
    job.seal();
    let mut outcomes = [false; TASKS];
    let mut lost = 0;
    loop {
        let next = job.next(&mut Patience::timeout(LIMIT));
        let next = next.unwrap_or_else(|_| panic!("{point}, {time}: a task has no outcome"));
        let Some((index, reply)) = next else { break };
        let index = usize::try_from(index).expect("small");
        let twice = std::mem::replace(&mut outcomes[index], true);
        assert!(!twice, "{point}, {time}: task {index} has two outcomes");
        match reply {
            Reply::Done(mut answer) => {
                let (payload, buffer) = contents(index);
                assert_eq!(answer.payload(), payload, "{point}, {time}: task {index}");
                let got = answer
                    .take_buffers()
                    .first()
                    .map_or(Vec::new(), |block| block.to_vec());
                assert_eq!(got, buffer, "{point}, {time}: task {index}");
            }
            Reply::Lost(loss) => {
                assert_eq!(loss.status, ExitStatus::Signal(9));
                lost += 1;
            }
            other => panic!("{point}, {time}: {other:?}"),
        }
    }
    for job in cancelled {
        let reply = job.next(&mut Patience::timeout(LIMIT));
        // Lost: it was in a worker's hands when it was cancelled, and the worker was killed.
        assert!(
            matches!(
                reply,
                Ok(Some((
                    0,
                    Reply::Cancelled | Reply::Done(_) | Reply::Lost(_)
                )))
            ),
            "{point}, {time}: {reply:?}"
        );
    }
    assert!(
        outcomes.iter().all(|had| *had),
        "{point}, {time}: a task has no outcome"
    );
    pool.close();
    pool.join(&mut Patience::timeout(LIMIT))
        .unwrap_or_else(|error| panic!("{point}, {time}: {error}"));
    (doomed.killed.load(Ordering::SeqCst), lost)
}

#[test]
fn a_worker_killed_at_any_point_costs_at_most_the_task_in_hand() {
    let mut reached = Vec::new();
    let mut slowest = Duration::ZERO;
    for &point in POINTS {
        for time in [1, 2, 5, 9] {
            let (killed, took) = run_quickly(point, time);
            slowest = slowest.max(took);
            if killed {
                reached.push(point);
            }
        }
    }
    reached.dedup();
    for point in [
        "get: told",
        "get: committed",
        "get: unlocked",
        "put: written",
        "put: committed",
        "put: unlocked",
    ] {
        // On a busy machine the other worker may have done all tasks each time.
        let again = || (0..20).any(|_| run_quickly(point, 1).0);
        assert!(
            reached.contains(&point) || again(),
            "nobody was killed at {point}; only at {reached:?}"
        );
    }
    assert!(slowest < QUICK, "the slowest took {slowest:?}");
}

#[test]
fn a_worker_killed_at_any_point_costs_nothing_if_tasks_may_be_tried_again() {
    let mut killed_at_all = 0;
    for &point in POINTS {
        for time in [1, 2, 5, 9] {
            let (killed, lost) = run(point, time, 1);
            assert_eq!(lost, 0, "{point}, {time}: {killed} killed");
            killed_at_all += killed;
        }
    }
    assert!(killed_at_all > 20, "{killed_at_all} were killed");
}
