//! Workers for benches: forked, and sending each task back.

use std::sync::Arc;

use procession_engine::pool::{
    HEADER, LaunchError, Launched, Launcher, Options, Pool, Submission, Worker,
};
use procession_engine::{Handle, Patience, Role, WaitError};
use procession_sys::process;

struct Forks;

impl Launcher for Forks {
    fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
        let seat = procession_engine::prepare_child("worker", Role::Worker).expect("has room");
        let parent = std::process::id();
        procession_engine::fork_with(seat);
        let forked = process::fork_running(|| run(pool, slot, parent));
        procession_engine::fork_done();
        let pid = forked.map_err(|error| LaunchError {
            message: error.to_string(),
            fatal: true,
        })?;
        procession_engine::child_started(seat, pid);
        let pidfd = process::open_pidfd(pid).expect("is there");
        Ok(Launched { pid, pidfd, seat })
    }
}

fn run(pool: Handle, slot: u32, parent: u32) -> i32 {
    let mut worker = Worker::attach(pool, slot).expect("the pool is there");
    worker.ready();
    let mut orphaned = move || process::parent_id() != parent;
    loop {
        match worker.next(&mut Patience::forever().with_interrupt(&mut orphaned)) {
            Ok(Some(task)) => {
                let mut result = message(task.payload());
                worker
                    .finish(task.id(), Submission::bytes(&mut result))
                    .expect("has memory");
            }
            Ok(None) | Err(WaitError::Interrupted) => return 0,
            Err(_) => return 1,
        }
    }
}

/// A payload behind the room that the engine wants.
pub(crate) fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(payload);
    bytes
}

/// A pool of them.
pub(crate) fn pool(workers: u32) -> Pool {
    let options = Options {
        workers,
        ..Options::default()
    };
    Pool::new(options, Arc::new(Forks)).expect("starts")
}
