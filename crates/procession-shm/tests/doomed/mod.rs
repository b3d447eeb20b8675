//! A forked member that is to be killed at a named place.

#[path = "../forked/mod.rs"]
mod forked;

use procession_shm::crash::arm;
use procession_shm::*;

/// Has a child of a seat in the arena do `work`, and be killed where it comes to `point` for the nth `time`.
/// Returns the seat, and whether the child came there; one that hangs or fails is a panic.
pub(crate) fn kill_at(
    arena: &'static Arena,
    me: MemberId,
    point: &str,
    time: usize,
    work: impl FnOnce(MemberId),
) -> (MemberId, bool) {
    let (pid, seat) = forked::fork(arena, me, |seat| {
        arm(point, time);
        work(seat);
    });
    let status = forked::wait(pid, point);
    let killed = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
    assert!(killed || status == 0, "{point}: status {status:#x}");
    (seat, killed)
}
