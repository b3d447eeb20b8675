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
    futex::wake(word, futex::Flags::empty(), count).unwrap_or(0)
}
