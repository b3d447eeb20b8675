//! The calling thread: its kernel id, cached, and giving way to others.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the forks behind this process, so that what was cached before one is not used after it.
static FORKS: AtomicU32 = AtomicU32::new(1);

thread_local! {
    static TID: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// The kernel's id of the calling thread.
#[inline]
pub fn id() -> u32 {
    let forks = FORKS.load(Ordering::Relaxed);
    let (cached_at, tid) = TID.get();
    if cached_at == forks {
        return tid;
    }
    ask_id(forks)
}

#[cold]
fn ask_id(forks: u32) -> u32 {
    let tid = rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs();
    TID.set((forks, tid));
    tid
}

/// To be called in a child right after a fork: forgets cached ids.
pub fn forget_after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// How many forks lie between this process and the first one that used this crate.
pub fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// Lets another runnable thread have the core.
pub fn give_way() {
    rustix::thread::sched_yield();
}

/// Nanoseconds of the clock that all processes of this machine have in common and that nobody sets.
pub fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}
