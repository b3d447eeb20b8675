//! A fork that nobody asked Procession for, while locks are held: the child has copies of the guards, and
//! of what they stand for it has nothing.

#![allow(unsafe_code, reason = "the test forks")]

mod support;

use procession::{Lock, RwLock, Semaphore};
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
    let mut status = -1;
    // SAFETY: our own child; `status` is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert!(lock.is_locked() && written.try_read().is_err());
    assert_eq!(semaphores.each_ref().map(Semaphore::available), [0, 0]);
    drop((guard, writer, permits));
    assert_eq!((*lock.lock().unwrap(), *written.read().unwrap()), (2, 2));
    assert_eq!(semaphores.each_ref().map(Semaphore::available), [1, 1]);
}
