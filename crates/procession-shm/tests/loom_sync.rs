//! Events, semaphores and the waiters of a condition under loom: run by ci/loom.sh.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use procession_shm::model::tick;
use procession_shm::{
    MemberId, Patience, RawEvent, RawLock, RawSemaphore, RawWaitQueue, WaitError,
};

fn member(index: u32) -> MemberId {
    MemberId::from_raw(index).expect("an index of a member")
}

fn nobody_is_dead(_: MemberId) -> bool {
    false
}

fn acquire(semaphore: &RawSemaphore, patience: &mut Patience<'_>) -> Result<(), WaitError> {
    semaphore.acquire_among(nobody_is_dead, member(1), &[], patience)
}

#[test]
fn an_event_lets_its_waiters_through() {
    loom::model(|| {
        let event = Arc::new(RawEvent::default());
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let event = event.clone();
                thread::spawn(move || event.wait(&mut Patience::forever()).expect("set"))
            })
            .collect();
        event.set();
        for thread in threads {
            thread.join().expect("let through");
        }
        assert!(event.is_set());
    });
}

#[test]
fn who_finds_it_set_is_let_through_though_it_is_cleared_again() {
    loom::model(|| {
        let event = Arc::new(RawEvent::default());
        let waiter = {
            let event = event.clone();
            thread::spawn(move || event.wait(&mut Patience::forever()).expect("set"))
        };
        event.set();
        event.clear();
        event.set();
        waiter.join().expect("let through");
    });
}

#[test]
fn a_pulse_alone_lets_through_who_waited_before_it() {
    loom::model(|| {
        let event = Arc::new(RawEvent::default());
        let waiter = {
            let event = event.clone();
            thread::spawn(move || event.wait(&mut Patience::forever()).expect("set"))
        };
        let waits = event.waiters() > 0;
        event.set();
        event.clear();
        // Whoever was seen to wait needs no more; for one who may have come later it is set again.
        if !waits {
            event.set();
        }
        waiter.join().expect("let through");
    });
}

#[test]
fn who_clears_it_sees_what_the_last_one_to_set_it_has_done() {
    use loom::sync::atomic::{AtomicBool, Ordering};
    loom::model(|| {
        let event = Arc::new(RawEvent::default());
        let work = Arc::new(AtomicBool::new(false));
        // By another, so that the next one may find it set.
        event.set();
        let setter = {
            let (event, work) = (event.clone(), work.clone());
            thread::spawn(move || {
                work.store(true, Ordering::Relaxed);
                event.set();
            })
        };
        event.clear();
        let seen = work.load(Ordering::Relaxed);
        setter.join().expect("ends");
        assert!(seen || event.is_set(), "the work is found, or an event");
    });
}

#[test]
fn two_permits_let_two_through() {
    loom::model(|| {
        let semaphore = Arc::new(RawSemaphore::default());
        semaphore.prepare(0, false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let semaphore = semaphore.clone();
                thread::spawn(move || acquire(&semaphore, &mut Patience::forever()))
            })
            .collect();
        semaphore.release(member(1), &[], 1).expect("no overflow");
        semaphore.release(member(1), &[], 1).expect("no overflow");
        for thread in threads {
            thread.join().expect("ends").expect("a permit");
        }
        assert_eq!((semaphore.value(&[]), semaphore.waiters()), (0, 0));
    });
}

#[test]
fn two_permits_at_once_let_two_through_whoever_comes_in_between() {
    loom::model(|| {
        let semaphore = Arc::new(RawSemaphore::default());
        semaphore.prepare(0, false);
        let waiter = {
            let semaphore = semaphore.clone();
            thread::spawn(move || acquire(&semaphore, &mut Patience::forever()))
        };
        let barger = {
            let semaphore = semaphore.clone();
            thread::spawn(move || acquire(&semaphore, &mut Patience::none()).is_ok())
        };
        semaphore.release(member(1), &[], 2).expect("no overflow");
        waiter.join().expect("ends").expect("a permit");
        let barged = barger.join().expect("ends");
        assert_eq!(semaphore.value(&[]), 1 - u32::from(barged));
    });
}

/// Whoever waits for other things too, and takes no permit after all, hands the wake-up on.
#[test]
fn who_watches_takes_no_wake_up_along() {
    loom::model(|| {
        let semaphore = Arc::new(RawSemaphore::default());
        let watcher = {
            let semaphore = semaphore.clone();
            thread::spawn(move || {
                // It may see the permit, or that of the release after it was taken.
                semaphore.watch_until_free(nobody_is_dead, &[]);
            })
        };
        let taker = {
            let semaphore = semaphore.clone();
            thread::spawn(move || acquire(&semaphore, &mut Patience::forever()).expect("is woken"))
        };
        let me = member(1);
        semaphore.release(me, &[], 1).expect("has room");
        taker.join().expect("takes it");
        semaphore.release(me, &[], 1).expect("has room");
        watcher.join().expect("is woken");
    });
}

#[test]
fn a_permit_goes_round() {
    loom::model(|| {
        let semaphore = Arc::new(RawSemaphore::default());
        semaphore.prepare(1, false);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let semaphore = semaphore.clone();
                thread::spawn(move || {
                    acquire(&semaphore, &mut Patience::forever()).expect("a permit");
                    semaphore.release(member(1), &[], 1).expect("no overflow");
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("ends");
        }
        assert_eq!((semaphore.value(&[]), semaphore.waiters()), (1, 0));
    });
}

#[test]
fn an_owned_permit_is_released_to_a_sleeper() {
    use procession_shm::atomic::AtomicU32;
    loom::model(|| {
        let shared = Arc::new((RawSemaphore::default(), [AtomicU32::new(0)]));
        shared.0.prepare(1, true);
        let threads: Vec<_> = (1..3)
            .map(|index| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (semaphore, owners) = (&shared.0, &shared.1);
                    let me = member(index);
                    semaphore
                        .acquire_among(nobody_is_dead, me, owners, &mut Patience::forever())
                        .expect("a permit");
                    semaphore.release(me, owners, 1).expect("held");
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("ends");
        }
        assert_eq!(shared.0.value(&shared.1), 1);
    });
}

#[test]
fn the_permit_of_the_dead_goes_to_exactly_one() {
    use loom::sync::atomic::{AtomicBool, Ordering};
    use procession_shm::atomic::AtomicU32;
    loom::model(|| {
        let shared = Arc::new((RawSemaphore::default(), [AtomicU32::new(0)]));
        let dead = Arc::new(AtomicBool::new(false));
        shared.0.prepare(1, true);
        shared
            .0
            .acquire_among(nobody_is_dead, member(1), &shared.1, &mut Patience::none())
            .expect("free");
        let waiter = {
            let (shared, dead) = (shared.clone(), dead.clone());
            thread::spawn(move || {
                let is_dead = |id| id == member(1) && dead.load(Ordering::SeqCst);
                shared
                    .0
                    .acquire_among(is_dead, member(2), &shared.1, &mut Patience::forever())
                    .expect("the dead one's");
            })
        };
        dead.store(true, Ordering::SeqCst);
        tick();
        let is_dead = |id| id == member(1);
        let mine = shared
            .0
            .acquire_among(is_dead, member(3), &shared.1, &mut Patience::none());
        if mine.is_ok() {
            shared.0.release(member(3), &shared.1, 1).expect("ours");
        }
        waiter.join().expect("ends");
        assert_eq!(shared.0.value(&shared.1), 0, "the waiter has it");
    });
}

/// A condition as it is used: its lock, a flag, its waiters.
struct Condition {
    lock: RawLock,
    waiters: RawWaitQueue,
}

impl Condition {
    fn locked<T>(&self, me: MemberId, body: impl FnOnce() -> T) -> T {
        self.lock
            .acquire_among(nobody_is_dead, me, &mut Patience::forever())
            .expect("waits for ever");
        let result = body();
        self.lock.release().expect("held");
        result
    }
}

#[test]
fn who_waits_under_the_lock_misses_no_notification() {
    use loom::sync::atomic::{AtomicBool, Ordering};
    loom::model(|| {
        let condition = Arc::new(Condition {
            lock: RawLock::default(),
            waiters: RawWaitQueue::default(),
        });
        let flag = Arc::new(AtomicBool::new(false));
        let waiter = {
            let (condition, flag) = (condition.clone(), flag.clone());
            thread::spawn(move || {
                let me = member(1);
                let ticket = condition.locked(me, || {
                    let waits = !flag.load(Ordering::Relaxed);
                    waits.then(|| condition.waiters.enqueue_among(nobody_is_dead, me))
                });
                if let Some(ticket) = ticket {
                    condition
                        .waiters
                        .wait_among(nobody_is_dead, me, ticket, &mut Patience::forever())
                        .expect("notified");
                    assert!(flag.load(Ordering::Relaxed));
                    condition
                        .waiters
                        .give_up_among(nobody_is_dead, me, ticket, true);
                }
            })
        };
        let me = member(2);
        condition.locked(me, || {
            flag.store(true, Ordering::Relaxed);
            condition.waiters.notify_among(nobody_is_dead, me, 1)
        });
        waiter.join().expect("ends");
        assert_eq!(condition.waiters.waiters(), 0);
    });
}

#[test]
fn one_notification_lets_exactly_one_go_on() {
    loom::model(|| {
        let waiters = Arc::new(RawWaitQueue::default());
        let tickets: Vec<_> = (1..3)
            .map(|index| waiters.enqueue_among(nobody_is_dead, member(index)))
            .collect();
        let threads: Vec<_> = tickets
            .into_iter()
            .zip([1, 2].map(member))
            .map(|(ticket, me)| {
                let waiters = waiters.clone();
                thread::spawn(move || {
                    let patience = &mut Patience::forever();
                    waiters.wait_among(nobody_is_dead, me, ticket, patience)?;
                    waiters.give_up_among(nobody_is_dead, me, ticket, true);
                    Ok::<(), WaitError>(())
                })
            })
            .collect();
        assert_eq!(waiters.notify_among(nobody_is_dead, member(3), 1), 1);
        assert_eq!(waiters.waiters(), 1, "the other waits on");
        assert_eq!(waiters.notify_among(nobody_is_dead, member(3), 5), 1);
        for thread in threads {
            thread.join().expect("ends").expect("notified");
        }
    });
}
