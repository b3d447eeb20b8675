//! What processes share to keep out of each other's way.

pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod condition;
pub(crate) mod event;
pub(crate) mod lock;
pub(crate) mod once;
pub(crate) mod plain_lock;
pub(crate) mod poison;
pub(crate) mod rlock;
pub(crate) mod rwlock;
pub(crate) mod semaphore;
mod stored;

use std::fmt;

/// Who holds a lock: for messages to people, and for programs that look for what hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    name: String,
}

impl Owner {
    pub(crate) fn from_engine(owner: crate::engine::Owner) -> Owner {
        Owner {
            pid: owner.pid,
            name: owner.name,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name of the process.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (process {})", self.name, self.pid)
    }
}
