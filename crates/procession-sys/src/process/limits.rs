//! What a process sets for itself: limits, priority, session, and the time at which it ends.

use std::io;
use std::ptr;
use std::time::Duration;

use rustix::process::{Pid, Rlimit};

pub use rustix::process::Resource;

/// The signal that [`end_at`] sends first. Its default action ends the process.
pub const ALARM: i32 = libc::SIGALRM;

/// Limits what this process and those that it starts may use of `resource`. `None` is no limit.
///
/// The kernel warns or refuses at `soft`; up to `hard` the process may raise `soft` again.
///
/// # Errors
/// `EPERM` for a hard limit above the present one, without the right to raise it; `EINVAL` when
/// `soft` is above `hard`.
pub fn set_limit(resource: Resource, soft: Option<u64>, hard: Option<u64>) -> io::Result<()> {
    let limit = Rlimit {
        current: soft,
        maximum: hard,
    };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// The soft and the hard limit of `resource`; `None` is no limit.
pub fn limit(resource: Resource) -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(resource);
    (limit.current, limit.maximum)
}

/// Adds to the niceness of the calling thread and of those that it starts: above 0 others go first.
///
/// # Errors
/// `EPERM` for a number below 0 without the right to it.
pub fn add_niceness(more: i32) -> io::Result<()> {
    let now = rustix::process::getpriority_process(None)?;
    let new = now.saturating_add(more).clamp(-20, 19);
    Ok(rustix::process::setpriority_process(None, new)?)
}

/// Makes this process the first of a new session, without a terminal.
///
/// # Errors
/// `EPERM` when it leads a process group.
pub fn new_session() -> io::Result<()> {
    rustix::process::setsid()?;
    Ok(())
}

/// Moves this process to process group `group`; 0 is a new one of its own.
///
/// # Errors
/// `EPERM` for a group of another session, or that is not there.
pub fn join_process_group(group: u32) -> io::Result<()> {
    let group = i32::try_from(group).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::setpgid(None, Pid::from_raw(group))?)
}

/// The time on the clock that [`end_at`] goes by: the same in every process of the machine.
pub fn clock() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// Has the kernel end this process when [`clock`] shows `time`: by [`ALARM`], whatever that does in
/// this process by then, and `grace` later by SIGKILL, which nothing can hinder. Can't be taken back.
///
/// Not inherited by processes that this one starts.
///
/// # Errors
/// `EAGAIN` when the kernel has no timer left.
pub fn end_at(time: Duration, grace: Duration) -> io::Result<()> {
    start_timer(ALARM, time)?;
    start_timer(libc::SIGKILL, time.saturating_add(grace))
}

fn start_timer(signal: i32, time: Duration) -> io::Result<()> {
    // The C library's wrapper has no use for a signal; this is the kernel's own record.
    #[repr(C)]
    struct Event {
        value: u64,
        signal: i32,
        notify: i32,
        rest: [u64; 6],
    }
    const {
        assert!(size_of::<Event>() == 64, "as the kernel has it");
    }
    let event = Event {
        value: 0,
        signal,
        notify: libc::SIGEV_SIGNAL,
        rest: [0; 6],
    };
    let mut id: libc::c_int = 0;
    // SAFETY: the kernel reads one record and writes one int, both valid for the call.
    let made = unsafe {
        libc::syscall(
            libc::SYS_timer_create,
            libc::CLOCK_MONOTONIC,
            ptr::from_ref(&event),
            ptr::from_mut(&mut id),
        )
    };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    let setting = libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        },
    };
    let old: *mut libc::itimerspec = ptr::null_mut();
    // SAFETY: a timer of this process; the kernel reads one record, and the old one is not asked for.
    let set = unsafe {
        libc::syscall(
            libc::SYS_timer_settime,
            id,
            libc::TIMER_ABSTIME,
            ptr::from_ref(&setting),
            old,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::{
        Ended, block_all_signals, fork_running, open_pidfd, reset_signal, try_wait,
    };
    use super::*;

    fn end_of(body: impl FnOnce() -> i32) -> Ended {
        let pid = fork_running(body).expect("forks");
        let pidfd = open_pidfd(pid).expect("is our child");
        let ended = crate::poll::readable(pidfd.as_fd(), Some(Duration::from_secs(20)));
        assert!(ended.expect("polls"), "did not end");
        try_wait(pidfd.as_fd(), true)
            .expect("is ours")
            .expect("has ended")
    }

    fn spin() -> ! {
        loop {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_time_that_was_set_ends_the_process() {
        let (soon, grace) = (Duration::from_millis(50), Duration::from_millis(100));
        let end = end_of(|| {
            reset_signal(ALARM).expect("may be reset");
            end_at(clock() + soon, grace).expect("there is a timer");
            spin()
        });
        assert!(matches!(end, Ended::Killed(libc::SIGALRM)), "{end:?}");
        let end = end_of(|| {
            block_all_signals();
            end_at(clock() + soon, grace).expect("there is a timer");
            spin()
        });
        assert!(matches!(end, Ended::Killed(libc::SIGKILL)), "{end:?}");
    }

    #[test]
    fn limits_are_kept() {
        let end = end_of(|| {
            set_limit(Resource::Core, Some(0), Some(0)).expect("may be lowered");
            set_limit(Resource::Nofile, Some(3), Some(3)).expect("may be lowered");
            let refused = std::fs::File::open("/dev/null").is_err();
            let lowered = limit(Resource::Core) == (Some(0), Some(0));
            i32::from(!(refused && lowered))
        });
        assert!(matches!(end, Ended::Exited(0)), "{end:?}");
        assert!(set_limit(Resource::Core, Some(2), Some(1)).is_err());
    }

    #[test]
    fn groups_sessions_and_niceness() {
        let end = end_of(|| {
            let before = rustix::process::getpriority_process(None).expect("has one");
            add_niceness(1).expect("may be nicer");
            let nicer = rustix::process::getpriority_process(None).expect("has one");
            join_process_group(0).expect("is no leader yet");
            let own = rustix::process::getpgrp() == rustix::process::getpid();
            let refused = new_session().is_err();
            i32::from(!(nicer == (before + 1).min(19) && own && refused))
        });
        assert!(matches!(end, Ended::Exited(0)), "{end:?}");
        let end = end_of(|| i32::from(new_session().is_err()));
        assert!(matches!(end, Ended::Exited(0)), "{end:?}");
    }
}
