//! Waiting for descriptors.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, eventfd};
pub use rustix::event::{PollFd, PollFlags};

/// Waits until one of `entries` is ready, and says how many are; 0 when `timeout` has passed, or
/// **when a signal came**: the caller looks at its clock, and asks whoever wants to know of signals.
///
/// `None` waits for ever. An entry is ready also when its other end is gone.
///
/// # Errors
/// `EINVAL` for more entries than this process may have descriptors, `ENOMEM`.
pub fn poll(entries: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(entries, timeout.as_ref()) {
        Err(rustix::io::Errno::INTR) => {
            for entry in entries {
                entry.clear_revents();
            }
            Ok(0)
        }
        other => Ok(other?),
    }
}

/// Whether reading from `fd` would not wait: there are data, the end of them, or an error. Waits as
/// long as [`poll()`] does, and is false when that gives 0.
///
/// # Errors
/// `EBADF` (as `InvalidInput`) for what is no open descriptor.
pub fn readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    one(fd, PollFlags::IN, timeout)
}

/// Whether writing to `fd` would not wait: there is room, or nobody to read it any more.
///
/// # Errors
/// As [`readable`].
pub fn writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    one(fd, PollFlags::OUT, timeout)
}

fn one(fd: BorrowedFd<'_>, events: PollFlags, timeout: Option<Duration>) -> io::Result<bool> {
    let mut entry = [PollFd::from_borrowed_fd(fd, events)];
    if poll(&mut entry, timeout)? == 0 {
        return Ok(false);
    }
    if entry[0].revents().contains(PollFlags::NVAL) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(true)
}

/// A descriptor that is readable once it was [rung](ring), until it is [silenced](silence): to wake one
/// who polls.
///
/// # Errors
/// At the limit of descriptors.
pub fn bell() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes a bell readable.
pub fn ring(bell: BorrowedFd<'_>) {
    // Full, it has rung already.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

/// Makes it not readable.
pub fn silence(bell: BorrowedFd<'_>) {
    // Empty, it was silent.
    let _ = rustix::io::read(bell, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;
    use crate::socket;

    #[test]
    fn the_time_given_is_kept() {
        let (read, _write) = socket::pipe().expect("pipe");
        let start = Instant::now();
        assert!(!readable(read.as_fd(), Some(Duration::from_millis(20))).expect("polls"));
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(!readable(read.as_fd(), Some(Duration::ZERO)).expect("polls"));
    }

    #[test]
    fn data_room_and_ends_are_seen() {
        let (read, write) = socket::pipe().expect("pipe");
        assert!(writable(write.as_fd(), None).expect("polls"));
        rustix::io::write(&write, b"x").expect("writes");
        assert!(readable(read.as_fd(), None).expect("polls"));
        drop(write);
        assert!(
            readable(read.as_fd(), None).expect("polls"),
            "the end is an event"
        );
    }
}
