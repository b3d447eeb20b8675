//! State that belongs to one process, and that a forked child starts without.

use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_sys::thread;

const SLOTS: usize = 16;

/// A value per process, in a `static`.
///
/// A forked child does not see its parent's value but a new one, and does not find it locked by a
/// thread that it does not have: it uses another slot, by the number of forks behind it. (After as
/// many forks in a row as there are slots one is used again; its lock was free in the process it
/// belonged to, unless that forked in the middle of a call.)
#[derive(Debug)]
pub struct PerProcess<T> {
    slots: [Mutex<Option<(u32, T)>>; SLOTS],
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> PerProcess<T> {
        PerProcess::new()
    }
}

impl<T: Default> PerProcess<T> {
    /// No process has a value yet.
    pub const fn new() -> PerProcess<T> {
        PerProcess {
            slots: [const { Mutex::new(None) }; SLOTS],
        }
    }

    /// Runs `body` with this process's value. Other threads that want it wait. What an ancestor
    /// left in the slot is dropped.
    pub fn with<R>(&self, body: impl FnOnce(&mut T) -> R) -> R {
        let forks = thread::forks();
        let mut slot: MutexGuard<'_, _> = self.slots[forks as usize % SLOTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|(made_in, _)| *made_in != forks) {
            *slot = None;
        }
        body(&mut slot.get_or_insert_with(|| (forks, T::default())).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_starts_without_its_parents_value() {
        static VALUE: PerProcess<u32> = PerProcess::new();
        VALUE.with(|value| *value = 7);
        assert_eq!(VALUE.with(|value| *value), 7);
        VALUE.with(|_held| {
            let pid = procession_sys::process::fork_running(|| {
                thread::forget_after_fork();
                // The parent's is locked, by this very thread.
                VALUE.with(|value| if *value == 0 { 0 } else { 1 })
            });
            let pidfd =
                procession_sys::process::open_pidfd(pid.expect("forks")).expect("is our child");
            let pidfd = std::os::fd::AsFd::as_fd(&pidfd);
            let ended =
                procession_sys::poll::readable(pidfd, Some(std::time::Duration::from_secs(10)));
            assert!(ended.expect("polls"), "the child hangs");
            let end = procession_sys::process::try_wait(pidfd, true).expect("is ours");
            assert_eq!(end, Some(procession_sys::process::Ended::Exited(0)));
        });
    }
}
