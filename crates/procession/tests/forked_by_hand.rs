//! A fork that nobody asked Procession for, while locks are held: the child has copies of the guards, and
//! of what they stand for it has nothing.

#![allow(unsafe_code, reason = "the test forks")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use procession::{Lock, RwLock, Semaphore, active_children};
use support::watched;

#[procession::test]
fn a_forked_child_gives_nothing_back_that_its_parent_holds() {
    let _watched = watched();
    let (lock, written) = (Lock::new(1).unwrap(), RwLock::new(1).unwrap());
    let semaphores = [Semaphore::bounded(1).unwrap(), Semaphore::new(1).unwrap()];
    let mut guard = lock.lock().unwrap();
    let mut writer = written.write().unwrap();
    (*guard, *writer) = (2, 2);
    let permits = semaphores.each_ref().map(Semaphore::acquire);
    // SAFETY: the child drops guards, which take no lock but Procession's, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "it can't be forked");
    if pid == 0 {
        (*guard, *writer) = (3, 3);
        drop((guard, writer, permits));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    assert_eq!(status_of(pid), 0);
    assert!(lock.is_locked() && written.try_read().is_err());
    assert_eq!(semaphores.each_ref().map(Semaphore::available), [0, 0]);
    drop((guard, writer, permits));
    assert_eq!((*lock.lock().unwrap(), *written.read().unwrap()), (2, 2));
    assert_eq!(semaphores.each_ref().map(Semaphore::available), [1, 1]);
}

#[procession::test]
fn a_forked_child_finds_no_list_locked_by_a_thread_that_it_does_not_have() {
    let _watched = watched();
    let _family = Lock::new(()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert!(active_children().is_empty());
                }
            });
        }
        for _ in 0..100 {
            // SAFETY: the child looks at its list of children, and leaves by _exit.
            let pid = unsafe { libc::fork() };
            assert!(pid >= 0, "it can't be forked");
            if pid == 0 {
                // SAFETY: ends a child that hangs.
                unsafe { libc::alarm(20) };
                let none = active_children().is_empty();
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(!none)) };
            }
            assert_eq!(status_of(pid), 0);
        }
        done.store(true, Ordering::SeqCst);
    });
}

fn status_of(pid: i32) -> i32 {
    let mut status = -1;
    // SAFETY: our own child; `status` is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}
