//! Pools: results, failures, and workers that die.

mod support;

use std::collections::HashSet;
use std::time::Instant;

use procession::{Atomic, Error, Event, Pool, Process, Queue};
use support::{METHODS, descriptors, kill, ms, until, watched};

fn add(one: u64, other: u64) -> u64 {
    one + other
}

fn pause(milliseconds: u64) -> u64 {
    std::thread::sleep(ms(milliseconds));
    milliseconds
}

fn pass(gate: Event) -> u64 {
    gate.wait();
    5
}

fn kill_myself(_: u64) -> u64 {
    std::process::abort()
}

#[procession::test]
fn tasks_by_every_start_method() {
    let _watched = watched();
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap();
        assert_eq!(pool.workers(), 2);
        assert_eq!(pool.apply(add, (40, 2)).unwrap(), 42, "{method:?}");
        let task = pool.apply_async(|x: u64| x + 1, 41).unwrap();
        assert_eq!(task.get().unwrap(), 42);
        let squares = pool.map(|x| x * x, 0..1000_u64).unwrap();
        assert!(
            squares
                .iter()
                .enumerate()
                .all(|(i, &square)| square == (i * i) as u64)
        );
        assert_eq!(squares.len(), 1000);
        pool.join().unwrap();
    }
}

#[procession::test]
fn map_takes_any_iterator_in_any_chunks() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let none: Vec<u64> = pool.map(|x| x, std::iter::empty::<u64>()).unwrap();
    assert!(none.is_empty());
    // Of unknown length.
    let odd = pool
        .map(|x| x + 1, (0..100_u64).filter(|x| x % 2 == 1))
        .unwrap();
    assert_eq!(
        odd,
        (0..100)
            .filter(|x| x % 2 == 1)
            .map(|x| x + 1)
            .collect::<Vec<u64>>()
    );
    for chunk in [1, 7, 100, 1000] {
        let texts = pool.map_chunked(
            |(n, text): (usize, String)| text.repeat(n),
            (0..20).map(|n| (n, "ab".into())),
            chunk,
        );
        let lengths: Vec<usize> = texts.unwrap().iter().map(String::len).collect();
        assert_eq!(lengths, (0..20).map(|n| n * 2).collect::<Vec<_>>());
    }
    assert!(pool.map_chunked(|x: u64| x, [1], 0).is_err());
}

#[procession::test]
fn imap_gives_results_in_order_and_asks_for_items_as_it_goes() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let mut asked = 0_u64;
    let endless = std::iter::from_fn(|| {
        asked += 1;
        Some(asked - 1)
    });
    let first: Vec<u64> = pool
        .imap(|x| x * 2, endless)
        .unwrap()
        .take(200)
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(first, (0..200).map(|x| x * 2).collect::<Vec<_>>());
    assert!(asked < 300, "{asked} items were asked for");

    let mut results = pool.imap(|x: u64| 10 / x, [5, 0, 2]).unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 2);
    let error = results.next().unwrap().unwrap_err();
    assert!(
        error.panic().unwrap().message().contains("divide by zero"),
        "{error}"
    );
    assert_eq!(results.next().unwrap().unwrap(), 5);
    assert!(results.next().is_none() && results.next().is_none());
}

#[procession::test]
fn imap_unordered_gives_each_result_once_as_it_comes() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let go = Event::new().unwrap();
    let work = |(number, go): (u64, Event)| {
        if number == 0 {
            go.wait();
        }
        number
    };
    let items = (0..4).map(|number| (number, go.clone()));
    let mut results = pool.imap_unordered(work, items).unwrap();
    let first: Result<HashSet<u64>, _> = results.by_ref().take(3).collect();
    assert_eq!(first.unwrap(), HashSet::from([1, 2, 3]));
    go.set();
    assert_eq!(results.next().unwrap().unwrap(), 0, "the slow one is last");
    assert!(results.next().is_none());
}

#[procession::test]
fn waiting_for_a_task() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let go = Event::new().unwrap();
    let mut task = pool.apply_async(pass, go.clone()).unwrap();
    assert!(!task.is_ready() && !task.wait_timeout(ms(20)));
    let error = task.get_timeout(ms(20)).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    go.set();
    task.wait();
    assert!(task.is_ready());
    assert_eq!(task.get_timeout(ms(0)).unwrap(), 5);
    assert!(task.get().is_err(), "it was taken");
}

#[procession::test]
fn a_panic_in_a_task_is_told_with_its_place_and_the_worker_goes_on() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let pids = pool.worker_pids();
    let error = pool
        .apply(|| -> u32 { panic!("broken {}", 1 + 1) }, ())
        .unwrap_err();
    assert!(error.is_panic() && !error.is_worker_lost());
    let panic = error.panic().unwrap();
    assert_eq!(panic.message(), "broken 2");
    assert!(panic.place().unwrap().file.ends_with("tests/pool.rs"));
    assert_eq!(pids, [panic.pid()]);
    assert_eq!(pool.apply(std::process::id, ()).unwrap(), pids[0]);
    let error = pool.map(|x: u64| 10 / x, 0..10_u64).unwrap_err();
    assert!(error.is_panic());
}

#[procession::test]
fn a_worker_that_dies_fails_its_task_alone() {
    let _watched = watched();
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap();
        let others: Vec<_> = (0..50)
            .map(|_| pool.apply_async(pause, 4).unwrap())
            .collect();
        let doomed = pool.apply_async(kill_myself, 0).unwrap();
        let more: Vec<_> = (0..50)
            .map(|_| pool.apply_async(pause, 1).unwrap())
            .collect();
        let error = doomed.get().unwrap_err();
        assert!(error.is_worker_lost(), "{error}");
        assert_eq!(error.exit_status().unwrap().signal(), Some(6));
        for task in others {
            assert_eq!(task.get().unwrap(), 4);
        }
        for task in more {
            assert_eq!(task.get().unwrap(), 1);
        }
        // It is replaced.
        until(ms(20_000), || (pool.worker_pids().len() == 2).then_some(())).expect("two workers");
        pool.join().unwrap();
    }
}

#[procession::test]
fn a_worker_killed_from_outside_is_noticed_at_once() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let started = Event::new().unwrap();
    let task = pool.apply_async(
        |started: Event| {
            started.set();
            pause(60_000)
        },
        started.clone(),
    );
    let task = task.unwrap();
    assert!(started.wait_timeout(ms(20_000)));
    let busy = pool.apply(std::process::id, ()).unwrap();
    let victim = pool
        .worker_pids()
        .into_iter()
        .find(|&pid| pid != busy)
        .unwrap();
    let began = Instant::now();
    kill(victim);
    let error = task.get().unwrap_err();
    assert!(error.is_worker_lost(), "{error}");
    assert!(
        error.to_string().contains(&victim.to_string()) && error.to_string().contains("SIGKILL"),
        "{error}"
    );
    assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
    assert_eq!(pool.apply(add, (1, 2)).unwrap(), 3);
}

#[procession::test]
fn a_worker_killed_while_idle_costs_nothing() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    for _ in 0..5 {
        pool.map(|x| x, 0..10_u64).unwrap();
        let pids = pool.worker_pids();
        kill(pids[0]);
        let sum: u64 = pool.map_chunked(|x| x, 0..100_u64, 1).unwrap().iter().sum();
        assert_eq!(sum, 4950);
        until(ms(20_000), || {
            let now = pool.worker_pids();
            (now.len() == 2 && !now.contains(&pids[0])).then_some(())
        })
        .expect("it is replaced");
    }
}

#[procession::test]
fn an_exit_in_a_task_is_the_loss_of_its_worker() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let error = pool
        .apply(|code: i32| -> u32 { std::process::exit(code) }, 3)
        .unwrap_err();
    assert_eq!(error.exit_status().unwrap().code(), Some(3));
    assert!(error.is_worker_lost());
    assert_eq!(pool.apply(add, (1, 1)).unwrap(), 2);
}

#[procession::test]
fn an_initializer_runs_in_every_worker_before_its_tasks() {
    let _watched = watched();
    use std::sync::OnceLock;
    static MINE: OnceLock<u64> = OnceLock::new();
    let count = Atomic::new(0_u64).unwrap();
    let pool = Pool::builder()
        .workers(2)
        .max_tasks_per_worker(5)
        .initializer(
            |count: Atomic<u64>, greeting: String| {
                count.fetch_add(1);
                MINE.set(greeting.len() as u64)
                    .expect("once in each process");
            },
            (count.clone(), "hello".to_owned()),
        );
    let pool = pool.build().unwrap();
    assert_eq!(
        pool.map_chunked(|_| *MINE.get().unwrap(), 0..40_u64, 1)
            .unwrap(),
        [5; 40]
    );
    let pids: HashSet<u32> = pool
        .map_chunked(|_| std::process::id(), 0..20_u64, 1)
        .unwrap()
        .into_iter()
        .collect();
    assert!(pids.len() >= 4, "20 tasks, at most 5 to a worker: {pids:?}");
    assert!(count.load() >= 8, "{}", count.load());
    pool.join().unwrap();
}

#[procession::test]
fn an_initializer_that_fails_breaks_the_pool_with_its_reason() {
    let _watched = watched();
    let pool = Pool::builder()
        .workers(2)
        .initializer(|| -> () { panic!("no dictionary") }, ())
        .build()
        .unwrap();
    let error = match pool.apply(add, (1, 2)) {
        Err(error) => error,
        Ok(_) => panic!("the pool works without its initializer"),
    };
    assert!(error.is_broken(), "{error}");
    assert_eq!(error.panic().expect("the cause").message(), "no dictionary");
    assert!(pool.apply(add, (1, 2)).unwrap_err().is_broken());
    assert!(pool.join().unwrap_err().is_broken());
}

#[procession::test]
fn an_initializer_that_returns_an_error_breaks_the_pool_with_it() {
    let _watched = watched();
    fn load(file: String) -> std::io::Result<()> {
        std::fs::read(file).map(drop)
    }
    let builder = Pool::builder().workers(2);
    let pool = builder
        .initializer(load, "/no/such/dictionary".to_owned())
        .build()
        .unwrap();
    let error = pool.apply(add, (1, 2)).unwrap_err();
    assert!(error.is_broken(), "{error}");
    let why = std::error::Error::source(&error)
        .expect("the cause")
        .to_string();
    assert!(why.contains("No such file"), "{why}");
    assert!(pool.join().unwrap_err().is_broken());

    let builder = Pool::builder().workers(2);
    let pool = builder
        .initializer(load, "/proc/self/stat".to_owned())
        .build()
        .unwrap();
    assert_eq!(pool.apply(add, (1, 2)).unwrap(), 3);
    pool.join().unwrap();
}

#[procession::test]
fn a_closed_pool_finishes_and_takes_no_more() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|i| pool.apply_async(|i: u64| pause(2) + i, i).unwrap())
        .collect();
    pool.close();
    let error = pool.apply(add, (1, 2)).unwrap_err();
    assert!(error.is_closed(), "{error}");
    pool.join().unwrap();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.get().unwrap(), 2 + i as u64);
    }
}

#[procession::test]
fn a_terminated_pool_tells_who_waits() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let running = pool.apply_async(pause, 60_000).unwrap();
    let waiting = pool.apply_async(pause, 1).unwrap();
    let began = Instant::now();
    pool.terminate();
    assert!(running.get().unwrap_err().is_terminated());
    assert!(waiting.get().unwrap_err().is_terminated());
    assert!(pool.apply(add, (1, 2)).unwrap_err().is_closed());
    pool.join().unwrap();
    assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
}

#[procession::test]
fn a_dropped_pool_ends_its_workers() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let task = pool.apply_async(pause, 60_000).unwrap();
    drop(pool);
    assert!(task.get().unwrap_err().is_terminated());
    // The census at the end of the test sees to the rest.
}

#[procession::test]
fn joining_with_a_time_limit_gives_the_pool_back() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let go = Event::new().unwrap();
    let task = pool.apply_async(pass, go.clone()).unwrap();
    let pool = pool.join_timeout(ms(20)).expect_err("a task is running");
    go.set();
    pool.join().unwrap();
    assert_eq!(task.get().unwrap(), 5);
}

#[procession::test]
fn bad_numbers_are_refused() {
    let _watched = watched();
    for workers in [0, 5000, usize::MAX] {
        let error = Pool::new(workers).unwrap_err();
        assert!(error.to_string().contains("workers"), "{error}");
    }
}

#[procession::test]
fn what_cannot_be_serialised_hurts_nobody_else() {
    let _watched = watched();
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Picky(#[serde(serialize_with = "refuse")] u32);
    fn refuse<S: serde::Serializer>(_: &u32, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("never"))
    }
    let pool = Pool::new(1).unwrap();
    let error = pool.apply(|picky: Picky| picky.0, Picky(1)).unwrap_err();
    assert!(
        error.is_serialisation() && error.to_string().contains("Picky"),
        "{error}"
    );
    let error = pool.apply(|| Picky(1), ()).err().unwrap();
    assert!(
        error.is_serialisation() && error.to_string().contains("Picky"),
        "{error}"
    );
    assert_eq!(pool.apply(add, (1, 2)).unwrap(), 3);
}

#[procession::test]
fn tasks_may_carry_handles_and_large_bytes_both_ways() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let queue: Queue<procession::Bytes> = pool
        .apply(
            |bytes: procession::Bytes| {
                let queue = Queue::unbounded().unwrap();
                queue.send(bytes.iter().rev().copied().collect()).unwrap();
                queue
            },
            procession::Bytes::from([1, 2, 3].repeat(100_000)),
        )
        .unwrap();
    let bytes = queue.recv().unwrap();
    assert_eq!((bytes.len(), &bytes[..3]), (300_000, &[3, 2, 1][..]));
}

#[procession::test]
fn a_pool_within_a_worker() {
    let _watched = watched();
    fn inner(number: u64) -> Result<Vec<u64>, String> {
        let pool = Pool::new(2).map_err(|error| error.to_string())?;
        pool.map(|x| x + 1, 0..number)
            .map_err(|error| error.to_string())
    }
    let pool = Pool::new(1).unwrap();
    assert_eq!(pool.apply(inner, 3).unwrap(), Ok(vec![1, 2, 3]));
    pool.join().unwrap();
}

#[procession::test]
fn workers_die_with_their_parent() {
    let _watched = watched();
    let pids = Queue::<Vec<u32>>::unbounded().unwrap();
    let parent = Process::spawn(
        |pids: Queue<Vec<u32>>| {
            let pool = Pool::new(2).unwrap();
            let _busy = pool.apply_async(pause, 60_000).unwrap();
            pids.send(pool.worker_pids()).unwrap();
            pause(60_000);
        },
        pids.clone(),
    );
    let parent = parent.unwrap();
    let workers = pids.recv_timeout(ms(20_000)).unwrap();
    parent.kill().unwrap();
    parent.wait();
    for pid in workers {
        until(ms(20_000), || ended(pid).then_some(())).expect("a worker dies, in time");
    }
}

#[procession::test]
fn pools_leave_no_descriptor() {
    let _watched = watched();
    let run = || {
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(|x| x, 0..10_u64).unwrap().len(), 10);
        pool.join().unwrap();
    };
    run();
    let before = descriptors();
    for _ in 0..5 {
        run();
    }
    until(ms(20_000), || (descriptors() <= before).then_some(())).expect("no descriptor is left");
}

#[procession::test]
fn errors_of_a_pool_are_one_type() {
    let _watched = watched();
    fn run() -> procession::Result<u64> {
        let pool = Pool::new(1)?;
        let numbers = pool.map(|x: u64| x, 0..10)?;
        let queue = Queue::unbounded()?;
        queue.send(numbers)?;
        Ok(queue.recv()?.iter().sum())
    }
    let sum: Result<u64, Error> = run();
    assert_eq!(sum.unwrap(), 45);
}

fn ended(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z'))
    })
}
