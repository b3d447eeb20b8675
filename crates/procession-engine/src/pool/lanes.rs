//! The queues between a pool and its workers: a common one, and a lane for each worker.
//!
//! Workers that all take from one queue, and write to one, spend more time on each other's cache
//! lines than on short tasks. So short tasks of a map go into the **lanes** of the workers by turns;
//! a worker takes from its own, from the common queue, and when both are empty from the lanes of the
//! others: no task waits behind a busy worker while another is idle. Short results come back the
//! same way. Each lane is a queue like any other, so that a death in the middle of anything costs
//! what it costs there, and the tasks in the lane of a dead worker are the others' to take.
//!
//! Who waits sleeps on the common queue and looks at the lanes too; who puts something into a lane
//! wakes the common queue's sleepers.

use procession_shm::{Patience, WaitError};

use crate::MakeError;
use crate::queue::Queue;

/// Pools of more workers than this have none.
pub(crate) const MOST_LANES: u32 = 64;

/// A common queue, and the workers' own.
#[derive(Debug)]
pub(crate) struct Lanes {
    common: Queue,
    own: Vec<Queue>,
}

impl Lanes {
    pub(crate) fn new(workers: u32) -> Result<Lanes, MakeError> {
        let lanes = if workers <= MOST_LANES { workers } else { 0 };
        Ok(Lanes {
            common: Queue::new(None)?,
            own: (0..lanes)
                .map(|_| Queue::new(None))
                .collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn of(common: Queue, own: Vec<Queue>) -> Lanes {
        Lanes { common, own }
    }

    pub(crate) fn common(&self) -> &Queue {
        &self.common
    }

    pub(crate) fn own(&self) -> &[Queue] {
        &self.own
    }

    /// The queue of this number: 0 is the common one, the lanes follow.
    pub(crate) fn queue(&self, number: usize) -> Option<&Queue> {
        match number.checked_sub(1) {
            None => Some(&self.common),
            Some(lane) => self.own.get(lane),
        }
    }

    /// Whether there is nothing in any.
    pub(crate) fn is_empty(&self) -> bool {
        self.common.is_empty() && self.lanes_are_empty()
    }

    pub(crate) fn lanes_are_empty(&self) -> bool {
        self.own.iter().all(Queue::is_empty)
    }

    /// Sleeps until there is something in one of them, or they are closed.
    pub(crate) fn wait_readable(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        self.common
            .wait_readable_or(patience, || !self.lanes_are_empty())
    }

    /// Something was put into a lane.
    pub(crate) fn wake(&self, count: u32) {
        self.common.wake_getters(count);
    }

    /// If there is something, has all who sleep look for themselves.
    pub(crate) fn rouse(&self) {
        if !self.is_empty() {
            self.common.wake_getters(u32::MAX);
        }
    }

    /// No more puts. Once the common queue is closed, all are.
    pub(crate) fn close(&self) {
        for queue in &self.own {
            queue.close();
        }
        self.common.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.common.is_closed()
    }
}
