//! What a pool is doing.

use std::time::Duration;

use crate::engine::pool::{Phase, PoolStatus as EngineStatus, WorkerInfo};

/// How far a pool has come: numbers of tasks. A chunk of [`Pool::map`](crate::Pool::map) is one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// Not begun.
    pub queued: u64,
    /// In workers' hands.
    pub running: u64,
    /// Done.
    pub done: u64,
    /// Panicked, or had values that could not be serialised.
    pub failed: u64,
    /// Lost with a worker that died.
    pub lost: u64,
    /// Stopped at their time limit.
    pub timed_out: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// How often one was given to another worker after the death of one.
    pub retried: u64,
}

impl PoolStatus {
    pub(crate) fn of(status: EngineStatus) -> PoolStatus {
        PoolStatus {
            queued: status.queued,
            running: status.running,
            done: status.totals.done,
            failed: status.totals.failed,
            lost: status.totals.lost,
            timed_out: status.totals.timed_out,
            cancelled: status.totals.cancelled,
            retried: status.totals.retried,
        }
    }
}

/// How far a [`map_with_progress`](crate::Pool::map_with_progress) has come: numbers of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Items whose results are here.
    pub done: usize,
    /// All items.
    pub total: usize,
}

/// What a worker of a pool is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its process id; 0 while it is being started.
    pub pid: u32,
    /// Its name; empty while it is being started.
    pub name: String,
    /// What it does now.
    pub activity: Activity,
    /// How many results it has sent.
    pub done: u64,
}

/// What a worker does at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// It is being started, or runs its initializer.
    Starting,
    /// It waits for a task.
    Idle,
    /// It runs this function, for so long (to a hundredth of a second).
    Running(&'static str, Duration),
    /// It has had its share, and ends.
    Leaving,
}

impl WorkerStatus {
    pub(crate) fn of(worker: WorkerInfo) -> WorkerStatus {
        let activity = match (worker.task, worker.phase) {
            (Some(task), _) => Activity::Running(task.label, task.since),
            (None, Phase::Ready) => Activity::Idle,
            (None, Phase::Leaving | Phase::Failed) => Activity::Leaving,
            (None, Phase::Starting | Phase::Empty) => Activity::Starting,
        };
        WorkerStatus {
            pid: worker.pid,
            name: worker.name,
            activity,
            done: worker.done,
        }
    }
}
