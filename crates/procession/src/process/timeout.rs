//! A process's time-out, as its parent sees it.
//!
//! The kernel sends the process a signal when its time is over, and SIGKILL a second later. Whoever
//! waits looks after that the process does end: one that never got as far as to set its timer does
//! not otherwise.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::SIGKILL;
use crate::engine::Child;

/// So long after its time a process that still runs is overdue: the signal has had no effect.
const OVERDUE: Duration = Duration::from_millis(100);
/// So long after its time it is killed from here.
const KILLED: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Timeout {
    limit: Duration,
    began: Instant,
    /// One of the following.
    state: AtomicU8,
}

const RUNNING: u8 = 0;
/// It was seen to run when it was overdue. However it ends, it had not ended in time.
const SEEN_OVERDUE: u8 = 1;
const KILLED_HERE: u8 = 2;

impl Timeout {
    /// Begins now.
    pub(crate) fn new(limit: Duration) -> Timeout {
        Timeout {
            limit,
            began: Instant::now(),
            state: AtomicU8::new(RUNNING),
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn was_overdue(&self) -> bool {
        self.state.load(Ordering::Relaxed) != RUNNING
    }

    /// In what time [`see_to`](Self::see_to) has something to do.
    pub(super) fn next(&self) -> Option<Duration> {
        let late = match self.state.load(Ordering::Relaxed) {
            RUNNING => OVERDUE,
            SEEN_OVERDUE => KILLED,
            _ => return None,
        };
        let at = self.limit.saturating_add(late);
        Some(at.saturating_sub(self.began.elapsed()))
    }

    /// Does what is to be done by now.
    pub(super) fn see_to(&self, child: &Child) {
        if self.next() != Some(Duration::ZERO) || !child.is_alive() {
            return;
        }
        let new = match self.state.load(Ordering::Relaxed) {
            RUNNING => SEEN_OVERDUE,
            _ => {
                // Refused only by a process with the rights of another user.
                let _ = child.kill(SIGKILL);
                KILLED_HERE
            }
        };
        self.state.fetch_max(new, Ordering::Relaxed);
    }
}
