//! Waiting on a word of shared memory until another process changes it.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::thread::futex;
use rustix::time::Timespec;

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A wake-up, or the word no longer held the expected value. May be spurious.
    Woken,
    /// The time given has passed.
    TimedOut,
    /// A signal handler ran in this thread.
    Signal,
}

/// Sleeps while `word` holds `expected`, for `at_most` at the longest.
///
/// Does not check anything after waking: the caller reads the word again.
pub fn wait(word: &AtomicU32, expected: u32, at_most: Duration) -> Wake {
    let limit = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    #[cfg(miri)]
    use stand_in as futex;
    match futex::wait(word, futex::Flags::empty(), expected, Some(&limit)) {
        Err(rustix::io::Errno::TIMEDOUT) => Wake::TimedOut,
        Err(rustix::io::Errno::INTR) => Wake::Signal,
        // EAGAIN: the word had changed already. Any other error can't come from a mapped,
        // aligned word; reporting a wake-up makes the caller look again.
        Ok(()) | Err(_) => Wake::Woken,
    }
}

/// Wakes at most `count` sleepers, in any process, and says how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    // The kernel takes the count as a signed number.
    let count = count.min(i32::MAX as u32);
    #[cfg(miri)]
    use stand_in as futex;
    futex::wake(word, futex::Flags::empty(), count).unwrap_or(0)
}

#[cfg(miri)]
mod stand_in {
    //! The same calls without pointers that were made of integers, which Miri is to forbid.

    use std::sync::atomic::AtomicU32;

    use rustix::io::Errno;
    pub(super) use rustix::thread::futex::Flags;
    use rustix::time::Timespec;

    fn checked(result: libc::c_long) -> Result<usize, Errno> {
        let error = || Errno::from_io_error(&std::io::Error::last_os_error());
        usize::try_from(result).map_err(|_| error().unwrap_or(Errno::INVAL))
    }

    pub(super) fn wait(
        word: &AtomicU32,
        _flags: Flags,
        expected: u32,
        limit: Option<&Timespec>,
    ) -> Result<(), Errno> {
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: limit.tv_sec,
            tv_nsec: limit.tv_nsec,
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (call, wait) = (libc::SYS_futex, libc::FUTEX_WAIT);
        // SAFETY: the word and the limit are there until the call returns.
        checked(unsafe { libc::syscall(call, word.as_ptr(), wait, expected, limit) }).map(drop)
    }

    pub(super) fn wake(word: &AtomicU32, _flags: Flags, count: u32) -> Result<usize, Errno> {
        let (call, wake) = (libc::SYS_futex, libc::FUTEX_WAKE);
        // SAFETY: the word is there until the call returns.
        checked(unsafe { libc::syscall(call, word.as_ptr(), wake, count) })
    }
}

/// The most words that [`wait_any`] takes.
pub const WAIT_ANY: usize = 128;
/// Without the call for it, how often the words are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Sleeps while each of the words holds the value beside it, for `at_most` at the longest.
///
/// A kernel before 5.16 has no call for several words: there the first of them is slept on, for 5 ms
/// at a time. More than [`WAIT_ANY`] are not slept on.
pub fn wait_any(words: &[(&AtomicU32, u32)], at_most: Duration) -> Wake {
    if let [(word, expected)] = words {
        return wait(word, *expected, at_most);
    }
    let waits: Vec<futex::Wait> = words
        .iter()
        .take(WAIT_ANY)
        .map(|(word, expected)| {
            let mut wait = futex::Wait::new();
            wait.val = u64::from(*expected);
            wait.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        })
        .collect();
    // A point in time, other than for one word.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let nanoseconds = now.tv_nsec + i64::from(at_most.subsec_nanos());
    let limit = Timespec {
        tv_sec: now
            .tv_sec
            .saturating_add(i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX))
            .saturating_add(nanoseconds / 1_000_000_000),
        tv_nsec: nanoseconds % 1_000_000_000,
    };
    let clock = rustix::thread::ClockId::Monotonic;
    match futex::waitv(&waits, futex::WaitvFlags::empty(), Some(&limit), clock) {
        Err(rustix::io::Errno::TIMEDOUT) => Wake::TimedOut,
        Err(rustix::io::Errno::INTR) => Wake::Signal,
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            if let Some((word, expected)) = words.first() {
                wait(word, *expected, at_most.min(LOOK_AGAIN))
            } else {
                std::thread::sleep(at_most.min(LOOK_AGAIN));
                Wake::TimedOut
            }
        }
        Ok(_) | Err(_) => Wake::Woken,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_change_of_any_word_ends_the_sleep() {
        let words = [const { AtomicU32::new(0) }; 3];
        let pairs: Vec<_> = words.iter().map(|word| (word, 0)).collect();
        let began = Instant::now();
        assert_eq!(wait_any(&pairs, Duration::from_millis(30)), Wake::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(30));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                words[2].store(1, std::sync::atomic::Ordering::SeqCst);
                wake(&words[2], 1);
            });
            assert_eq!(wait_any(&pairs, Duration::from_secs(60)), Wake::Woken);
        });
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(
            wait_any(&pairs, Duration::from_secs(60)),
            Wake::Woken,
            "it has changed already"
        );
    }
}
