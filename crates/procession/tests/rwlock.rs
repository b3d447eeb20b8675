//! Reader-writer locks, what is done once, and atomics, between processes and across deaths.

mod support;

use std::sync::atomic::Ordering;

use procession::{
    Atomic, Cause, Error, Event, Once, OnceLock, Process, RwLock, Semaphore, TryLockError,
};
use support::{ms, until, watched};

#[procession::test]
fn readers_share_and_a_writer_is_alone() {
    let _watched = watched();
    let lock = RwLock::new((0_u64, 0_u64)).unwrap();
    let (inside, most) = (Atomic::new(0_u32).unwrap(), Atomic::new(0_u32).unwrap());
    let processes: Vec<_> = (0..4)
        .map(|number| {
            Process::spawn(
                |lock: RwLock<(u64, u64)>, inside: Atomic<u32>, most: Atomic<u32>, number: u32| {
                    for round in 0..300 {
                        if round % 3 == number % 3 {
                            let mut pair = lock.write().unwrap();
                            assert_eq!(inside.load(), 0, "a reader with a writer");
                            pair.0 += 1;
                            pair.1 += 1;
                        } else {
                            let pair = lock.read().unwrap();
                            let now = inside.fetch_add(1) + 1;
                            most.as_std().fetch_max(now, Ordering::Relaxed);
                            assert_eq!(pair.0, pair.1);
                            std::thread::yield_now();
                            inside.fetch_sub(1);
                        }
                    }
                },
                (lock.clone(), inside.clone(), most.clone(), number),
            )
            .unwrap()
        })
        .collect();
    for process in processes {
        process.join().unwrap();
    }
    assert_eq!(*lock.read().unwrap(), (400, 400));
    assert!(most.load() >= 1);
    assert_eq!((lock.readers(), lock.writer()), (0, None));
}

#[procession::test]
fn trying_to_read_and_to_write() {
    let _watched = watched();
    let lock = RwLock::new(String::from("a")).unwrap();
    let reading = (lock.read().unwrap(), lock.try_read().unwrap());
    let probe = |lock: RwLock<String>| {
        (
            lock.try_read().is_ok(),
            matches!(lock.try_write(), Err(TryLockError::Locked)),
            lock.write_timeout(ms(20)).is_err(),
            // The one that gave up has left nothing behind.
            lock.read_timeout(ms(20_000)).is_ok(),
        )
    };
    let seen = Process::spawn(probe, lock.clone()).unwrap().join().unwrap();
    assert_eq!(seen, (true, true, true, true));
    assert_eq!(lock.readers(), 2);
    drop(reading);
    let mut writing = lock.try_write().unwrap();
    writing.push('b');
    let seen = Process::spawn(
        |lock: RwLock<String>| {
            (
                lock.try_read().is_ok(),
                lock.read_timeout(ms(20)).is_ok(),
                lock.writer().map(|owner| owner.pid()),
            )
        },
        lock.clone(),
    );
    let seen = seen.unwrap().join().unwrap();
    assert_eq!(seen, (false, false, Some(std::process::id())));
    drop(writing);
    assert_eq!(*lock.read().unwrap(), "ab");
}

#[procession::test]
fn a_killed_reader_does_not_keep_writers_waiting() {
    let _watched = watched();
    let lock = RwLock::new(1).unwrap();
    let ready = Semaphore::new(0).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            Process::spawn(
                |lock: RwLock<i32>, ready: Semaphore| {
                    let _guard = lock.read().unwrap();
                    ready.release(1).unwrap();
                    std::thread::sleep(ms(60_000));
                },
                (lock.clone(), ready.clone()),
            )
            .unwrap()
        })
        .collect();
    for _ in &readers {
        ready.acquire().forget();
    }
    assert!(matches!(lock.try_write(), Err(TryLockError::Locked)));
    for reader in &readers {
        reader.kill().unwrap();
    }
    // Nobody is told: a reader leaves nothing half done.
    *lock.write_timeout(ms(20_000)).expect("not poisoned") = 2;
    assert_eq!(*lock.read().unwrap(), 2);
}

#[procession::test]
fn a_killed_writer_is_told_of_to_readers_and_writers() {
    let _watched = watched();
    let lock = RwLock::new(vec![1]).unwrap();
    let held = Event::new().unwrap();
    let writer = Process::spawn(
        |lock: RwLock<Vec<i32>>, held: Event| {
            let mut guard = lock.write().unwrap();
            guard.push(2);
            held.set();
            std::thread::sleep(ms(60_000));
        },
        (lock.clone(), held.clone()),
    )
    .unwrap();
    held.wait();
    let waiting = Process::spawn(
        |lock: RwLock<Vec<i32>>| Error::from(lock.read().unwrap_err()).is_poisoned(),
        lock.clone(),
    )
    .unwrap();
    writer.kill().unwrap();
    assert!(waiting.join().unwrap());
    let poisoned = lock.read().unwrap_err();
    assert_eq!(poisoned.cause(), Cause::Died { pid: writer.pid() });
    assert_eq!(*poisoned.into_inner(), [1]);
    drop(lock.write().unwrap());
    // A writer that is killed while it waits for readers has changed nothing.
    let reading = lock.read().unwrap();
    let waits = Process::spawn(|lock: RwLock<Vec<i32>>| drop(lock.write()), lock.clone()).unwrap();
    until(ms(20_000), || lock.writer()).expect("it waits");
    waits.kill().unwrap();
    waits.wait();
    drop(reading);
    drop(lock.read_timeout(ms(20_000)).expect("not poisoned"));
    assert!(lock.writer().is_none());
}

#[procession::test]
fn a_panic_of_a_writer_poisons_and_of_a_reader_does_not() {
    let _watched = watched();
    let lock = RwLock::new(5).unwrap();
    let reader = Process::spawn(
        |lock: RwLock<i32>| -> () {
            let _guard = lock.read().unwrap();
            panic!("a reader");
        },
        lock.clone(),
    );
    assert!(reader.unwrap().join().is_err());
    drop(lock.write().unwrap());
    let writer = Process::spawn(
        |lock: RwLock<i32>| -> () {
            *lock.write().unwrap() = 6;
            let mut guard = lock.write().unwrap();
            *guard = 7;
            panic!("a writer");
        },
        lock.clone(),
    );
    assert!(writer.unwrap().join().unwrap_err().is_panic());
    assert_eq!(*lock.read().unwrap_err().into_inner(), 6);
}

#[procession::test]
fn once_is_done_by_the_next_when_the_first_dies_at_it() {
    let _watched = watched();
    let (once, at_it) = (Once::new().unwrap(), Event::new().unwrap());
    let first = Process::spawn(
        |once: Once, at_it: Event| {
            once.call_once(|| {
                at_it.set();
                std::thread::sleep(ms(60_000));
            });
        },
        (once.clone(), at_it.clone()),
    )
    .unwrap();
    at_it.wait();
    let second = Process::spawn(
        |once: Once| {
            let mut after_death = None;
            once.call_once_force(|state| after_death = Some(state.is_after_death()));
            after_death
        },
        once.clone(),
    )
    .unwrap();
    assert!(!once.is_completed());
    first.kill().unwrap();
    assert_eq!(second.join().unwrap(), Some(true));
    assert!(once.is_completed());
    once.call_once(|| panic!("a second time"));
    // A panic leaves it to the next as well.
    let other = Once::new().unwrap();
    let panicking = Process::spawn(
        |once: Once| once.call_once(|| panic!("at it")),
        other.clone(),
    );
    assert!(panicking.unwrap().join().is_err());
    let mut told = None;
    other.call_once_force(|state| told = Some(state.is_after_death()));
    assert_eq!(told, Some(false));
}

#[procession::test]
fn a_value_is_made_once_for_all() {
    let _watched = watched();
    let value = OnceLock::<Vec<u32>>::new().unwrap();
    let made = Atomic::new(0_u32).unwrap();
    let processes: Vec<_> = (0..4)
        .map(|number| {
            Process::spawn(
                |value: OnceLock<Vec<u32>>, made: Atomic<u32>, number: u32| {
                    let seen = value.get_or_init(|| {
                        made.fetch_add(1);
                        vec![number; 1000]
                    });
                    seen.unwrap()[999]
                },
                (value.clone(), made.clone(), number),
            )
            .unwrap()
        })
        .collect();
    let seen: Vec<u32> = processes
        .into_iter()
        .map(|process| process.join().unwrap())
        .collect();
    assert_eq!(made.load(), 1);
    assert!(seen.iter().all(|&number| number == seen[0]));
    assert_eq!(value.get().unwrap().unwrap()[0], seen[0]);
    assert!(value.set(vec![]).is_err());
    // Who dies at it has made none.
    let value = OnceLock::<u32>::new().unwrap();
    let dying = Process::spawn(
        |value: OnceLock<u32>| {
            let _ = value.get_or_init(|| std::process::exit(3));
        },
        value.clone(),
    );
    assert_eq!(dying.unwrap().join().unwrap_err().exit_code(), Some(3));
    let failed = value.get_or_try_init(|| "x".parse::<u32>().map_err(Stringly));
    assert!(failed.is_err());
    assert_eq!(value.get().unwrap(), None);
    assert_eq!(value.get_or_init(|| 4).unwrap(), &4);
}

#[derive(Debug)]
struct Stringly(#[allow(dead_code, reason = "shown")] std::num::ParseIntError);

impl From<Error> for Stringly {
    fn from(error: Error) -> Stringly {
        panic!("{error}")
    }
}

#[procession::test]
fn atomics_of_every_width() {
    let _watched = watched();
    let (byte, word) = (Atomic::new(250_u8).unwrap(), Atomic::new(-1_i32).unwrap());
    let (flag, wide) = (Atomic::new(false).unwrap(), Atomic::new(i64::MAX).unwrap());
    let process = Process::spawn(
        |byte: Atomic<u8>, word: Atomic<i32>, flag: Atomic<bool>, wide: Atomic<i64>| {
            (
                byte.fetch_add(10),
                word.fetch_sub(4),
                flag.swap(true),
                wide.fetch_add(1),
            )
        },
        (byte.clone(), word.clone(), flag.clone(), wide.clone()),
    );
    let before = process.unwrap().join().unwrap();
    assert_eq!(before, (250, -1, false, i64::MAX));
    assert_eq!((byte.load(), word.load()), (4, -5));
    assert_eq!((flag.load(), wide.load()), (true, i64::MIN));
    assert_eq!(byte.compare_exchange(4, 5), Ok(4));
    assert_eq!(flag.compare_exchange(false, true), Err(true));
    assert!(flag.fetch_update(|value| !value));
    assert!(!flag.load());
    assert_eq!(word.as_std().fetch_max(7, Ordering::Relaxed), -5);
}
