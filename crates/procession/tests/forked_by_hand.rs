//! A fork that nobody asked Procession for, while locks are held: the child has copies of the guards, and
//! of what they stand for it has nothing.

#![allow(unsafe_code, reason = "the test forks")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use procession::{Lock, NamedSlice, RwLock, Semaphore, active_children};
use support::{ms, until, watched};

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

#[procession::test]
fn a_forked_child_has_no_part_in_the_lock_of_a_named_array() {
    let _watched = watched();
    let name = format!("procession-test-forked-{}", std::process::id());
    let array = NamedSlice::<u32>::create(&name, 10).unwrap();
    let other = NamedSlice::<u32>::open(&name).unwrap();
    NamedSlice::<u32>::unlink(&name).unwrap();
    let mut copy = Some(array.write().unwrap());
    // SAFETY: the child drops a guard, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "it can't be forked");
    if pid == 0 {
        copy = None;
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(copy.is_some())) };
    }
    assert_eq!(status_of(pid), 0);
    assert!(other.try_read().is_none(), "its parent still writes");
    drop(copy);
    // SAFETY: the child takes a lock, forks, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "it can't be forked");
    if pid == 0 {
        let mut held = array.write().unwrap();
        // SAFETY: its child waits, and ends by a signal.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: as above.
                unsafe { libc::alarm(60) };
                // SAFETY: as above.
                unsafe { libc::pause() };
            }
            lives_on => held[0] = lives_on.unsigned_abs(),
        }
        // SAFETY: ends the child at once, in the middle of its work.
        unsafe { libc::_exit(0) };
    }
    assert_eq!(status_of(pid), 0);
    // As soon as the one that lives on has come out of its fork.
    let taken = until(ms(20_000), || other.try_write());
    assert!(taken.expect("the lock of the dead is free").is_err());
    let pid = lives_on(&array);
    assert!(pid > 1, "it could not fork");
    // SAFETY: the child of our child. It ends by itself too, in a minute.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// What a writer wrote that did not come to its end.
fn lives_on(array: &NamedSlice<u32>) -> i32 {
    let first = match array.read() {
        Ok(guard) => guard[0],
        Err(unfinished) => unfinished.into_inner()[0],
    };
    first.cast_signed()
}

fn status_of(pid: i32) -> i32 {
    let mut status = -1;
    // SAFETY: our own child; `status` is ours.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    status
}
