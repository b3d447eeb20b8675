//! The hot paths, so many times each, for callgrind to count: `instructions NAME COUNT`.
//!
//! `ci/instructions.sh` runs each with two counts; the difference leaves out what happens once.
//! Without arguments each runs a few times, to see that it works.

use std::sync::Arc;

use procession_engine::pool::{HEADER, LaunchError, Launched, Launcher, Options, Pool, Submission};
use procession_engine::{Handle, Lock, Outgoing, Patience, Queue, RLock, Role};

type Path = fn(u64);

const PATHS: [(&str, Path); 5] = [
    ("lock", lock),
    ("rlock", rlock),
    ("queue-8-bytes", |count| queue(count, 8)),
    ("queue-1-KiB", |count| queue(count, 1 << 10)),
    ("pool-submit", submit),
];

fn lock(count: u64) {
    let lock = Lock::new().expect("memory");
    for _ in 0..count {
        let _ = lock.acquire(&mut Patience::forever());
        lock.release().expect("is ours");
    }
}

fn rlock(count: u64) {
    let lock = RLock::new().expect("memory");
    for _ in 0..count {
        let _ = lock.acquire(&mut Patience::forever());
        lock.release().expect("is ours");
    }
}

fn queue(count: u64, length: usize) {
    let queue = Queue::new(None).expect("memory");
    let bytes = vec![7; length];
    for _ in 0..count {
        queue
            .put(&Outgoing::bytes(&bytes), &mut Patience::forever())
            .expect("memory");
        let got = queue.get(&mut Patience::forever()).expect("is there");
        assert_eq!(got.bytes.len(), length);
    }
}

/// Starts nobody: what workers do at the same time would change the count. What stands for the
/// worker's pidfd is a pipe that nothing ever comes out of, for valgrind knows no pidfds.
struct Nobody;

impl Launcher for Nobody {
    fn launch(&self, _: Handle, _: u32) -> Result<Launched, LaunchError> {
        let seat = procession_engine::prepare_child("worker", Role::Worker).expect("has room");
        let (silent, writer) = std::io::pipe().expect("there are descriptors");
        std::mem::forget(writer);
        Ok(Launched {
            pid: std::process::id(),
            pidfd: silent.into(),
            seat,
        })
    }
}

/// A call submitted as a job of its own, as `apply_async` does.
fn submit(count: u64) {
    let options = Options {
        workers: 1,
        ..Options::default()
    };
    let pool = Pool::new(options, Arc::new(Nobody)).expect("starts");
    let mut jobs = Vec::with_capacity(count as usize);
    let mut message = [0; HEADER + 16];
    for _ in 0..count {
        let job = pool.job().expect("is running");
        job.submit_only(Submission::bytes(&mut message))
            .expect("memory");
        jobs.push(job);
    }
    // Neither the jobs nor the pool are taken down: that is another path, and nobody is there to end.
    std::process::exit(0);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, count] = &arguments[..]
        && let Ok(count) = count.parse()
    {
        let (_, path) = PATHS
            .iter()
            .find(|(known, _)| known == name)
            .expect("there is such a path");
        return path(count);
    }
    for (_, path) in PATHS {
        path(10);
    }
}
