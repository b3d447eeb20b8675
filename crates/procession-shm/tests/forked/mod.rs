//! Members in processes of their own.

use std::time::{Duration, Instant};

use procession_shm::*;

/// Forks; the child becomes a member, runs `body`, and ends without any clean-up. Its pid and its seat.
pub(crate) fn fork(
    arena: &'static Arena,
    by: MemberId,
    body: impl FnOnce(MemberId),
) -> (i32, MemberId) {
    let seat = arena
        .reserve_member(Some(by), "child", Role::Process)
        .expect("a seat");
    // SAFETY: the child runs only `body`, which uses shared memory and plain memory, and then
    // leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        procession_sys::thread::forget_after_fork();
        assert!(arena.take_seat(seat));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(seat)));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) };
    }
    (pid, seat)
}

/// Waits for a child, 20 s at most: one that hangs is killed, and a panic that says where.
pub(crate) fn wait(pid: i32, place: &str) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut status = 0;
        // SAFETY: our own child; `status` is ours.
        if unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == pid {
            return status;
        }
        if Instant::now() > deadline {
            // SAFETY: our own child, which nobody has waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("{place}: the child hangs");
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}
