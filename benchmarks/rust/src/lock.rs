//! A lock that nobody else wants.

use std::sync::atomic::{AtomicU32, Ordering};

use procession::{Lock, RLock};

use crate::timing::Effort;

const ROUNDS: u64 = 100_000;

/// The least that a lock between processes can be: a word in shared memory, no owner, nobody to wake.
#[inline(never)]
fn lock_and_unlock(word: &AtomicU32) {
    let locked = word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
    assert!(locked.is_ok(), "nobody else has it");
    if word.swap(0, Ordering::Release) == 2 {
        // SAFETY: wakes a waiter of this word; the kernel touches nothing.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
    }
}

pub fn measure(contestant: &str, effort: Effort) -> f64 {
    match contestant {
        "procession" => {
            let lock = Lock::new(()).expect("there is memory");
            effort.per_item(|| {
                for _ in 0..ROUNDS {
                    drop(lock.lock().expect("nobody died"));
                }
                ROUNDS
            })
        }
        "procession RLock" => {
            let lock = RLock::new().expect("there is memory");
            effort.per_item(|| {
                for _ in 0..ROUNDS {
                    drop(lock.lock().expect("nobody died"));
                }
                ROUNDS
            })
        }
        "futex" => {
            let word = shared_word();
            effort.per_item(|| {
                for _ in 0..ROUNDS {
                    lock_and_unlock(std::hint::black_box(word));
                }
                ROUNDS
            })
        }
        other => panic!("{other} has no lock"),
    }
}

fn shared_word() -> &'static AtomicU32 {
    let (access, sharing) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, nowhere in particular.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, sharing, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the page is zeroed, aligned, and never unmapped.
    unsafe { &*page.cast::<AtomicU32>() }
}
