//! Forking, and ending without ceremony.

use std::ffi::OsString;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Ends this process at once: no exit handlers, no flushing, no destructors.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, touches nothing.
    unsafe { libc::_exit(code) }
}

/// Forks; the child runs `body` and exits with what it returns (101 if it panics). Returns the
/// child's pid.
///
/// The child has a copy of this process with the calling thread alone: to it, it is as if all other
/// threads had stopped for ever wherever they were. That is safe, but a lock that one of them held
/// stays locked in the child (the C library sets its own free), and joining one waits for ever. A
/// program with threads should start its children otherwise.
///
/// Nothing of the parent is cleaned up in the child but what `body` owns: neither destructors of
/// the calling functions nor exit handlers run.
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`.
pub fn fork_running(body: impl FnOnce() -> i32) -> io::Result<u32> {
    match fork()? {
        Forked::Parent { child } => Ok(child),
        Forked::Child => {
            let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                // Dropping what was panicked with could panic again.
                mem::forget(panic);
                101
            });
            exit_now(code)
        }
    }
}

/// In which of the two a fork has returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the process that called it.
    Parent {
        /// The pid of the new process.
        child: u32,
    },
    /// In the new process.
    Child,
}

/// Proof that when it was made, this thread was the only one of its process.
#[derive(Debug)]
pub struct Alone(PhantomData<*const ()>);

impl Alone {
    /// Looks whether there are other threads.
    ///
    /// # Errors
    /// How many threads there are, when there are more than this one; 0 if it can't be told.
    pub fn check() -> Result<Alone, usize> {
        match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(1) => Ok(Alone(PhantomData)),
            Ok(count) => Err(count),
            Err(_) => Err(0),
        }
    }

    /// Removes a variable from the environment. Says whether it did: it does not if there are other
    /// threads by now, which might be reading it.
    pub fn remove_variable(&self, name: &str) -> bool {
        if Alone::check().is_err() {
            return false;
        }
        // SAFETY: no other thread reads or writes the environment, there being none.
        unsafe { std::env::remove_var(name) };
        true
    }

    /// Gives the process another environment. Says whether it did, as
    /// [`remove_variable`](Self::remove_variable).
    pub fn replace_environment(&self, new: &[(OsString, OsString)]) -> bool {
        if Alone::check().is_err() {
            return false;
        }
        for (name, _) in std::env::vars_os() {
            if !new.iter().any(|(kept, _)| *kept == name) {
                // SAFETY: no other thread reads or writes the environment, there being none.
                unsafe { std::env::remove_var(name) };
            }
        }
        for (name, value) in new {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
        true
    }
}

/// Forks, and returns in both. See [`fork_running`] for what the child is to other threads.
///
/// In the child the destructors of everything that exists will run a second time, in its own
/// memory: what they do to the world outside, such as removing a file, is done twice.
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the child continues with a copy of everything, and the C library makes its own locks
    // usable there. Other threads do not exist in it, which to safe code is the same as threads
    // that are never scheduled again: nothing they borrowed or locked is taken from them.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent {
            child: pid.unsigned_abs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::super::{Ended, open_pidfd, try_wait};
    use super::*;

    fn code_of(pid: u32) -> Ended {
        let pidfd = open_pidfd(pid).expect("is our child");
        assert!(
            crate::poll::readable(pidfd.as_fd(), Some(Duration::from_secs(10))).expect("polls")
        );
        try_wait(pidfd.as_fd(), true)
            .expect("is ours")
            .expect("has ended")
    }

    #[test]
    fn the_child_runs_the_closure_and_nothing_else() {
        let here = String::from("captured");
        let pid = fork_running(|| if here == "captured" { 42 } else { 1 }).expect("forks");
        assert_eq!(code_of(pid), Ended::Exited(42));
    }

    #[test]
    fn a_panic_does_not_return_to_the_caller() {
        let pid = fork_running(|| {
            std::panic::set_hook(Box::new(|_| {}));
            panic!("in the child")
        });
        assert_eq!(code_of(pid.expect("forks")), Ended::Exited(101));
    }

    #[test]
    fn threads_are_counted() {
        // The harness has its own thread, so this process is never alone; a fresh child is.
        assert!(Alone::check().is_err_and(|count| count >= 2));
        let pid = fork_running(|| match Alone::check() {
            Ok(_) => match fork() {
                Ok(Forked::Child) => exit_now(5),
                Ok(Forked::Parent { child }) => match code_of(child) {
                    Ended::Exited(5) => 0,
                    _ => 2,
                },
                Err(_) => 3,
            },
            Err(_) => 4,
        });
        assert_eq!(code_of(pid.expect("forks")), Ended::Exited(0));
    }

    #[test]
    fn the_environment_is_replaced_in_whole() {
        let pid = fork_running(|| {
            let Ok(alone) = Alone::check() else { return 1 };
            let replaced = alone
                .replace_environment(&[("ONE".into(), "1".into()), ("TWO".into(), "2".into())]);
            if !replaced || !alone.remove_variable("ONE") {
                return 3;
            }
            let left: Vec<_> = std::env::vars_os().collect();
            if left == [("TWO".into(), "2".into())] {
                0
            } else {
                2
            }
        });
        assert_eq!(code_of(pid.expect("forks")), Ended::Exited(0));
    }
}
