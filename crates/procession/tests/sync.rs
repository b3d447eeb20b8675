//! Locks and the like between processes, and what becomes of them when a holder dies.

mod support;

use std::time::Instant;

use procession::{
    Atomic, Barrier, Cause, Condition, Error, Event, Lock, Pool, Process, Queue, RLock, Semaphore,
    TryLockError,
};
use serde::{Deserialize, Serialize};
use support::{ms, objects, watched};

#[procession::test]
fn a_lock_keeps_processes_apart_and_its_value_together() {
    let _watched = watched();
    fn add(total: Lock<u64>, times: u32) {
        for _ in 0..times {
            *total.lock().unwrap() += 1;
        }
    }
    let total = Lock::new(0).unwrap();
    let processes: Vec<_> = (0..4)
        .map(|_| Process::spawn(add, (total.clone(), 2000)).unwrap())
        .collect();
    for process in processes {
        process.join().unwrap();
    }
    assert_eq!(*total.lock().unwrap(), 8000);
}

#[procession::test]
fn a_value_may_grow_shrink_and_hold_handles() {
    let _watched = watched();
    #[derive(Serialize, Deserialize, Default)]
    struct Board {
        notes: Vec<String>,
        queues: Vec<Queue<u32>>,
    }
    let board = Lock::new(Board::default()).unwrap();
    for round in 0..3 {
        let process = Process::spawn(
            |board: Lock<Board>, round: usize| {
                let mut board = board.lock().unwrap();
                assert_eq!(board.queues.len(), round);
                board
                    .notes
                    .extend((0..1000 * round).map(|n| format!("note {n}")));
                let queue = Queue::unbounded().unwrap();
                queue.send(round as u32).unwrap();
                board.queues.push(queue);
            },
            (board.clone(), round),
        );
        process.unwrap().join().unwrap();
    }
    let mut guard = board.lock().unwrap();
    assert_eq!(guard.notes.len(), 3000);
    // The processes that made them are gone; what they put in is there.
    let values: Vec<u32> = guard
        .queues
        .iter()
        .map(|queue| queue.try_recv().unwrap())
        .collect();
    assert_eq!(values, [0, 1, 2]);
    guard.notes.clear();
    guard.queues.clear();
    drop(guard);
    assert!(board.lock().unwrap().notes.is_empty());
}

#[procession::test]
fn a_short_value_alternates_between_its_rooms() {
    let _watched = watched();
    let text = Lock::new(String::new()).unwrap();
    for length in [0, 1, 55, 56, 3, 200, 7, 0, 10_000, 2] {
        *text.lock().unwrap() = "x".repeat(length);
        assert_eq!(text.lock().unwrap().len(), length);
        let seen = text.clone();
        let there = Process::spawn(|text: Lock<String>| text.lock().unwrap().len(), seen).unwrap();
        assert_eq!(there.join().unwrap(), length);
    }
}

#[procession::test]
fn reading_puts_nothing_back_and_commit_does_so_early() {
    let _watched = watched();
    let value = Lock::new(5).unwrap();
    let mut guard = value.lock().unwrap();
    *guard = 6;
    guard.commit().unwrap();
    *guard = 7;
    let error = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _guard = guard;
        panic!("in the middle");
    }));
    assert!(error.is_err());
    let poisoned = value.lock().unwrap_err();
    assert_eq!(
        poisoned.cause(),
        Cause::Panicked {
            pid: std::process::id()
        }
    );
    assert_eq!(*poisoned.into_inner(), 6);
    assert_eq!(*value.lock().unwrap(), 6);
}

#[procession::test]
fn trying_and_waiting_for_a_lock() {
    let _watched = watched();
    let lock = Lock::new(()).unwrap();
    let (held, release) = (Event::new().unwrap(), Event::new().unwrap());
    let holder = Process::builder().name("holder").spawn(
        |lock: Lock<()>, held: Event, release: Event| {
            let _guard = lock.lock().unwrap();
            held.set();
            release.wait();
        },
        (lock.clone(), held.clone(), release.clone()),
    );
    let holder = holder.unwrap();
    held.wait();
    assert!(lock.is_locked());
    assert!(matches!(lock.try_lock(), Err(TryLockError::Locked)));
    let owner = lock.owner().unwrap();
    assert_eq!((owner.pid(), owner.name()), (holder.pid(), "holder"));
    let began = Instant::now();
    let error = lock.lock_timeout(ms(50)).unwrap_err();
    assert!(Error::from(error).is_timeout());
    assert!(began.elapsed() >= ms(50) && began.elapsed() < ms(10_000));
    release.set();
    holder.join().unwrap();
    drop(lock.try_lock().unwrap());
    assert!(!lock.is_locked() && lock.owner().is_none());
}

/// Takes the lock in another process, and has it killed while it holds it.
fn die_holding(lock: &Lock<Vec<u32>>) -> u32 {
    let held = Event::new().unwrap();
    let holder = Process::spawn(
        |lock: Lock<Vec<u32>>, held: Event| {
            let mut guard = lock.lock().unwrap();
            guard.push(99);
            held.set();
            std::thread::sleep(ms(60_000));
        },
        (lock.clone(), held.clone()),
    );
    let holder = holder.unwrap();
    held.wait();
    holder.kill().unwrap();
    holder.pid()
}

#[procession::test]
fn the_lock_of_a_killed_holder_comes_with_a_warning() {
    let _watched = watched();
    let lock = Lock::new(vec![1, 2]).unwrap();
    let pid = die_holding(&lock);
    let began = Instant::now();
    // The value is what it was before; the lock stays poisoned until somebody says that it is in
    // order.
    for _ in 0..2 {
        let poisoned = lock.lock().unwrap_err();
        assert_eq!(poisoned.cause(), Cause::Died { pid });
        assert!(
            poisoned.to_string().contains(&pid.to_string()),
            "{poisoned}"
        );
        assert!(Error::from(poisoned).is_poisoned());
    }
    assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
    let mut guard = lock.lock().unwrap_err().into_inner();
    assert_eq!(*guard, [1, 2]);
    guard.push(3);
    drop(guard);
    assert_eq!(*lock.lock().unwrap(), [1, 2, 3]);
}

#[procession::test]
fn who_waits_for_a_lock_is_woken_by_the_death_of_its_holder() {
    let _watched = watched();
    let lock = Lock::new(Vec::new()).unwrap();
    let waiting: Vec<_> = {
        let pid = die_holding(&lock);
        (0..2)
            .map(|_| {
                let process = Process::spawn(
                    |lock: Lock<Vec<u32>>| match lock.lock() {
                        Ok(guard) => guard.len(),
                        Err(poisoned) => {
                            poisoned.into_inner().push(1);
                            100
                        }
                    },
                    lock.clone(),
                );
                (process.unwrap(), pid)
            })
            .collect()
    };
    let mut results: Vec<usize> = waiting
        .into_iter()
        .map(|(process, _)| process.join().unwrap())
        .collect();
    results.sort_unstable();
    assert_eq!(
        results,
        [1, 100],
        "one is told, the other finds it in order"
    );
}

#[procession::test]
fn a_panic_while_holding_poisons_and_changes_nothing() {
    let _watched = watched();
    let lock = Lock::new(vec![1_u32]).unwrap();
    let process = Process::spawn(
        |lock: Lock<Vec<u32>>| -> () {
            let mut guard = lock.lock().unwrap();
            guard.push(2);
            panic!("half done");
        },
        lock.clone(),
    );
    let process = process.unwrap();
    let pid = process.pid();
    assert!(process.join().unwrap_err().is_panic());
    let poisoned = lock.try_lock().unwrap_err();
    let TryLockError::Poisoned(poisoned) = poisoned else {
        panic!("{poisoned}")
    };
    assert_eq!(poisoned.cause(), Cause::Panicked { pid });
    assert_eq!(*poisoned.into_inner(), [1]);
}

#[procession::test]
fn an_rlock_is_taken_again_by_its_thread_only() {
    let _watched = watched();
    let lock = RLock::new().unwrap();
    let first = lock.lock().unwrap();
    let second = lock.try_lock().unwrap();
    let probe = |lock: RLock| lock.try_lock().is_err();
    assert!(Process::spawn(probe, lock.clone()).unwrap().join().unwrap());
    std::thread::scope(|scope| {
        assert!(
            scope.spawn(|| lock.try_lock().is_err()).join().unwrap(),
            "another thread"
        );
    });
    drop(first);
    assert!(Process::spawn(probe, lock.clone()).unwrap().join().unwrap());
    drop(second);
    assert!(!Process::spawn(probe, lock.clone()).unwrap().join().unwrap());
    // One who ends without releasing it is as bad as one who is killed.
    let holder = Process::spawn(
        |lock: RLock| std::mem::forget(lock.lock().unwrap()),
        lock.clone(),
    )
    .unwrap();
    holder.join().unwrap();
    let poisoned = lock.lock().unwrap_err();
    assert!(matches!(poisoned.cause(), Cause::Died { .. }), "{poisoned}");
    drop(poisoned.into_inner());
    drop(lock.lock().unwrap());
}

#[procession::test]
fn permits_of_the_dead_come_back_in_a_bounded_semaphore() {
    let _watched = watched();
    let semaphore = Semaphore::bounded(2).unwrap();
    let held = Event::new().unwrap();
    let holder = Process::spawn(
        |semaphore: Semaphore, held: Event| {
            let _permits = (semaphore.acquire(), semaphore.acquire());
            held.set();
            std::thread::sleep(ms(60_000));
        },
        (semaphore.clone(), held.clone()),
    );
    let holder = holder.unwrap();
    held.wait();
    assert_eq!(semaphore.available(), 0);
    assert!(semaphore.try_acquire().is_none() && semaphore.acquire_timeout(ms(20)).is_none());
    holder.kill().unwrap();
    holder.wait();
    let permit = semaphore
        .acquire_timeout(ms(20_000))
        .expect("the dead give back");
    permit.forget();
    semaphore.release(1).unwrap();
    let _both = (semaphore.acquire(), semaphore.acquire());
    assert!(semaphore.try_acquire().is_none());
}

#[procession::test]
fn semaphores_signal_and_refuse_too_much() {
    let _watched = watched();
    let signal = Semaphore::new(0).unwrap();
    let process = Process::spawn(
        |signal: Semaphore| signal.release(3).is_ok(),
        signal.clone(),
    )
    .unwrap();
    for _ in 0..3 {
        signal.acquire().forget();
    }
    assert!(process.join().unwrap());
    assert!(signal.try_acquire().is_none());
    let bounded = Semaphore::bounded(1).unwrap();
    assert!(bounded.release(1).is_err());
    assert_eq!(bounded.available(), 1);
}

#[procession::test]
fn a_condition_wakes_who_waits_for_a_value() {
    let _watched = watched();
    let (level, changed) = (Lock::new(0_u32).unwrap(), Condition::new().unwrap());
    let pump = Process::spawn(
        |level: Lock<u32>, changed: Condition| {
            for _ in 0..5 {
                std::thread::sleep(ms(5));
                *level.lock().unwrap() += 1;
                changed.notify_one();
            }
        },
        (level.clone(), changed.clone()),
    );
    let pump = pump.unwrap();
    let full = changed
        .wait_while(level.lock().unwrap(), |level| *level < 5)
        .unwrap();
    assert_eq!(*full, 5);
    // Its last word may come after the value has been seen.
    pump.join().unwrap();
    let (full, timed_out) = changed.wait_timeout(full, ms(20)).unwrap();
    assert!(timed_out);
    let (full, timed_out) = changed
        .wait_timeout_while(full, ms(20), |level| *level < 6)
        .unwrap();
    assert!(timed_out && *full == 5);
}

#[procession::test]
fn an_event_lets_everybody_through() {
    let _watched = watched();
    let event = Event::new().unwrap();
    assert!(!event.is_set() && !event.wait_timeout(ms(10)));
    let wait = |event: Event| {
        event.wait();
        event.is_set()
    };
    let waiting: Vec<_> = (0..3)
        .map(|_| Process::spawn(wait, event.clone()).unwrap())
        .collect();
    event.set();
    for process in waiting {
        assert!(process.join().unwrap());
    }
    event.clear();
    assert!(!event.is_set());
}

#[procession::test]
fn a_barrier_has_one_leader_and_breaks_when_a_party_dies() {
    let _watched = watched();
    let barrier = Barrier::new(3).unwrap();
    let arrive = |barrier: Barrier| {
        barrier
            .wait()
            .map(|result| result.is_leader())
            .map_err(|error| error.is_broken())
    };
    for _ in 0..2 {
        let others: Vec<_> = (0..2)
            .map(|_| Process::spawn(arrive, barrier.clone()).unwrap())
            .collect();
        let mut leaders = usize::from(barrier.wait().unwrap().is_leader());
        for process in others {
            leaders += usize::from(process.join().unwrap().unwrap());
        }
        assert_eq!(leaders, 1);
    }
    let waits = Process::spawn(arrive, barrier.clone()).unwrap();
    let dies = Process::spawn(arrive, barrier.clone()).unwrap();
    support::until(ms(20_000), || (barrier.waiting() == 2).then_some(())).expect("both wait");
    dies.kill().unwrap();
    assert_eq!(waits.join().unwrap(), Err(true), "the other is told");
    assert!(barrier.is_broken() && barrier.wait().unwrap_err().is_broken());
    barrier.reset();
    assert!(!barrier.is_broken());
    assert!(barrier.wait_timeout(ms(20)).unwrap_err().is_broken());
    assert!(Barrier::new(0).is_err());
}

#[procession::test]
fn a_shared_number_counts_what_all_add() {
    let _watched = watched();
    let sum = Atomic::new(-10_i64).unwrap();
    let pool = Pool::new(2).unwrap();
    pool.map(
        |(sum, step): (Atomic<i64>, i64)| sum.fetch_add(step),
        (1..=100).map(|step| (sum.clone(), step)),
    )
    .unwrap();
    assert_eq!(sum.load(), 5040);
    assert_eq!(sum.compare_exchange(1, 2), Err(5040));
    assert_eq!(sum.fetch_update(|number| -number), 5040);
    assert_eq!(sum.swap(3), -5040);
    assert_eq!(sum.fetch_sub(5), 3);
    assert_eq!(sum.load(), -2);
}

#[procession::test]
fn what_a_lock_holds_is_freed_with_it() {
    let _watched = watched();
    let before = objects();
    let lock = Lock::new(vec![Queue::<u32>::unbounded().unwrap()]).unwrap();
    let holder = Process::spawn(
        |lock: Lock<Vec<Queue<u32>>>| {
            let mut guard = lock.lock().unwrap();
            for _ in 0..10 {
                guard.push(Queue::unbounded().unwrap());
            }
            guard.commit().unwrap();
            std::mem::forget(guard);
        },
        lock.clone(),
    );
    holder.unwrap().join().unwrap();
    assert_eq!(lock.lock().unwrap_err().into_inner().len(), 11);
    assert!(objects() > before);
    drop(lock);
    assert_eq!(objects(), before);
}
