//! Time that all processes of the machine read alike.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How far [`now`] may be behind.
pub const RESOLUTION: Duration = Duration::from_millis(10);

/// Nanoseconds since some moment before the machine's start, as of the last tick of the kernel:
/// a few milliseconds old, and read in a few nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// How long ago that was.
pub fn since(then: u64) -> Duration {
    Duration::from_nanos(now().saturating_sub(then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_as_the_precise_one_does() {
        // The precise one has the other in its middle, wherever this thread is held up.
        let precise = std::time::Instant::now();
        let then = now();
        std::thread::sleep(Duration::from_millis(30));
        let (coarse, precise) = (since(then), precise.elapsed());
        assert!(
            coarse + RESOLUTION >= Duration::from_millis(30),
            "{coarse:?}"
        );
        assert!(coarse <= precise + RESOLUTION, "{coarse:?} {precise:?}");
    }
}
