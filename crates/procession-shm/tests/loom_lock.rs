//! The lock's word under loom: run by ci/loom.sh. A sleep has no end of its own there, so a lost
//! wake-up is a deadlock.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::thread;
use procession_shm::model::tick;
use procession_shm::{MemberId, Patience, RawLock, WaitError};

fn member(index: u32) -> MemberId {
    MemberId::from_raw(index).expect("an index of a member")
}

fn nobody_is_dead(_: MemberId) -> bool {
    false
}

/// A lock and what it protects: loom fails a model in which two get at the cell at once, or one does
/// not see what the one before has done.
struct Protected {
    lock: RawLock,
    value: UnsafeCell<u32>,
}

#[allow(unsafe_code, reason = "the cell is what the lock is to protect")]
// SAFETY: loom checks each access to the cell, and fails the model if two meet.
unsafe impl Sync for Protected {}

impl Protected {
    fn new() -> Arc<Protected> {
        Arc::new(Protected {
            lock: RawLock::default(),
            value: UnsafeCell::new(0),
        })
    }

    fn change(&self) -> u32 {
        self.value.with_mut(|value| {
            // SAFETY: loom has checked that nobody else is at it.
            #[allow(unsafe_code, reason = "what the lock is to protect")]
            let value = unsafe { &mut *value };
            *value += 1;
            *value
        })
    }

    fn one_round(&self, me: MemberId) {
        let dead = self
            .lock
            .acquire_among(nobody_is_dead, me, &mut Patience::forever())
            .expect("waits for ever");
        assert_eq!(dead, None);
        assert_eq!(self.lock.owner(), Some(me));
        self.change();
        self.lock.release().expect("held");
    }
}

#[test]
fn two_get_at_it_one_after_the_other_twice() {
    loom::model(|| {
        let shared = Protected::new();
        let other = shared.clone();
        let thread = thread::spawn(move || (0..2).for_each(|_| other.one_round(member(2))));
        (0..2).for_each(|_| shared.one_round(member(1)));
        thread.join().expect("the other ends");
        assert_eq!(shared.change(), 5);
        assert_eq!((shared.lock.owner(), shared.lock.waiters()), (None, 0));
    });
}

#[test]
fn three_get_at_it_and_no_sleeper_is_forgotten() {
    loom::model(|| {
        let shared = Protected::new();
        let threads: Vec<_> = (2..4)
            .map(|index| {
                let shared = shared.clone();
                thread::spawn(move || shared.one_round(member(index)))
            })
            .collect();
        shared.one_round(member(1));
        for thread in threads {
            thread.join().expect("the others end");
        }
        assert_eq!(shared.change(), 4);
    });
}

#[test]
fn one_who_does_not_wait_changes_nothing_for_those_who_do() {
    loom::model(|| {
        let shared = Protected::new();
        let other = shared.clone();
        let waiting = thread::spawn(move || other.one_round(member(2)));
        match shared
            .lock
            .acquire_among(nobody_is_dead, member(1), &mut Patience::none())
        {
            Ok(_) => {
                shared.change();
                shared.lock.release().expect("held");
            }
            Err(error) => assert_eq!(error, WaitError::TimedOut),
        }
        waiting.join().expect("the other ends");
        assert_eq!(shared.lock.owner(), None);
    });
}

/// Member 1 dies holding the lock; the others wait for it, before it dies or after.
fn taken_from_the_dead(waiters: u32) {
    loom::model(move || {
        let shared = Protected::new();
        let dead = Arc::new(AtomicBool::new(false));
        let told = Arc::new(AtomicU32::new(0));
        assert!(shared.lock.try_take(member(1)));
        shared.change();
        let threads: Vec<_> = (2..2 + waiters)
            .map(|index| {
                let (shared, dead, told) = (shared.clone(), dead.clone(), told.clone());
                thread::spawn(move || {
                    let is_dead = |id| id == member(1) && dead.load(Ordering::SeqCst);
                    let from = shared
                        .lock
                        .acquire_among(is_dead, member(index), &mut Patience::forever())
                        .expect("waits for ever");
                    if let Some(from) = from {
                        assert_eq!(from, member(1));
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                    shared.change();
                    assert_eq!(shared.lock.owner(), Some(member(index)));
                    shared.lock.release().expect("held");
                })
            })
            .collect();
        dead.store(true, Ordering::SeqCst);
        // What the waiters' slices do of themselves.
        tick();
        for thread in threads {
            thread.join().expect("they end");
        }
        assert_eq!(told.load(Ordering::SeqCst), 1, "exactly one is told");
        assert_eq!(shared.change(), 2 + waiters);
        assert_eq!(shared.lock.owner(), None);
    });
}

#[test]
fn a_waiter_takes_the_lock_of_the_dead() {
    taken_from_the_dead(1);
}

#[test]
fn exactly_one_of_two_waiters_takes_the_lock_of_the_dead() {
    taken_from_the_dead(2);
}
