//! Tasks that are tried again, stopped or cancelled; what workers keep; what a pool tells of itself.

mod support;

use std::collections::HashSet;
use std::time::Instant;

use procession::{Activity, Atomic, Pool, Task, worker_state};
use support::{METHODS, ms, until, watched};

fn pause(milliseconds: u64) -> u64 {
    std::thread::sleep(ms(milliseconds));
    milliseconds
}

fn count(counter: Atomic<u64>) -> u64 {
    counter.fetch_add(1) + 1
}

/// Dies until it was called so often.
fn survive(counter: Atomic<u64>, times: u64) -> u64 {
    if count(counter) < times {
        std::process::abort()
    }
    times
}

fn abort_always(counter: Atomic<u64>) {
    count(counter);
    std::process::abort()
}

#[procession::test]
fn tasks_are_tried_again_by_every_start_method() {
    let _watched = watched();
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap();
        let counter = Atomic::new(0_u64).unwrap();
        let tasks = pool.tasks().retries(2);
        assert_eq!(tasks.apply(survive, (counter.clone(), 3)).unwrap(), 3);
        assert_eq!(counter.load(), 3, "{method:?}");
        let error = tasks.apply(abort_always, counter.clone()).unwrap_err();
        assert!(error.is_poison_task() && error.is_worker_lost());
        assert_eq!(error.exit_status().unwrap().signal(), Some(6));
        let text = error.to_string();
        assert!(text.contains("abort_always has cost 3 workers"), "{text}");
        assert_eq!(text.matches("killed by SIGABRT").count(), 3, "{text}");
        assert_eq!(counter.load(), 6, "{method:?}");
        let error = pool.apply(abort_always, counter.clone()).unwrap_err();
        assert!(error.is_worker_lost() && !error.is_poison_task());
        assert!(!error.is_probably_out_of_memory());
        let text = error.to_string();
        assert!(
            text.contains("(PoolWorker-") && text.contains("while it ran"),
            "{text}"
        );
        assert!(text.contains("it aborted"), "{text}");
        let status = pool.status();
        assert_eq!((status.done, status.lost, status.retried), (1, 2, 4));
        pool.join().unwrap();
    }
}

#[procession::test]
fn a_whole_pool_may_try_again() {
    let _watched = watched();
    let pool = Pool::builder().workers(2).retries(5).build().unwrap();
    let counters: Vec<Atomic<u64>> = (0..20).map(|_| Atomic::new(0).unwrap()).collect();
    let items = counters.iter().map(|counter| (counter.clone(), 2));
    let results = pool.map_chunked(|(counter, times)| survive(counter, times), items, 1);
    assert_eq!(results.unwrap(), [2; 20]);
    assert!(counters.iter().all(|counter| counter.load() == 2));
    let items = counters.iter().map(|counter| (counter.clone(), 4));
    let results = pool.imap(|(counter, times)| survive(counter, times), items);
    assert_eq!(
        results.unwrap().collect::<Result<Vec<_>, _>>().unwrap(),
        [4; 20]
    );
    pool.join().unwrap();
}

#[procession::test]
fn what_runs_too_long_is_stopped_by_every_start_method() {
    let _watched = watched();
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap();
        let others: Vec<Task<u64>> = (0..20)
            .map(|_| pool.apply_async(pause, 10).unwrap())
            .collect();
        let start = Instant::now();
        let error = pool
            .tasks()
            .time_limit(ms(80))
            .apply(pause, 60_000)
            .unwrap_err();
        assert!(error.is_task_timeout() && !error.is_timeout(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("pause ran for longer than the 80ms"),
            "{text}"
        );
        assert!(start.elapsed() < ms(20_000));
        for task in others {
            assert_eq!(task.get().unwrap(), 10);
        }
        assert_eq!(pool.status().timed_out, 1);
        pool.join().unwrap();
    }
}

#[procession::test]
fn a_task_is_cancelled_before_it_begins_or_stopped_in_the_middle() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let counter = Atomic::new(0_u64).unwrap();
    let blocker = pool.apply_async(pause, 60_000).unwrap();
    until(ms(20_000), || (pool.status().running == 1).then_some(())).expect("it runs");
    let waiting: Vec<Task<u64>> = (0..20)
        .map(|_| pool.apply_async(count, counter.clone()).unwrap())
        .collect();
    for task in waiting {
        assert!(task.cancel());
        assert!(task.is_ready() && !task.cancel());
        let error = task.get().unwrap_err();
        assert!(error.is_cancelled(), "{error}");
    }
    let after = pool.apply_async(count, counter.clone()).unwrap();
    assert!(!blocker.cancel(), "it runs");
    assert!(!blocker.is_ready());
    blocker.abort();
    assert!(blocker.get().unwrap_err().is_cancelled());
    assert_eq!(after.get().unwrap(), 1, "none of the others has run");
    assert_eq!(pool.status().cancelled, 21);
    pool.join().unwrap();
}

struct Tally {
    pid: u32,
    calls: u64,
}

fn make_tally(start: u64) -> Tally {
    assert!(start != 13, "no tally of 13");
    Tally {
        pid: std::process::id(),
        calls: start,
    }
}

#[procession::test]
fn workers_keep_what_they_have_made() {
    let _watched = watched();
    for method in METHODS {
        let pool = Pool::builder()
            .workers(2)
            .start_method(method)
            .worker_state(make_tally, 100)
            .build()
            .unwrap();
        let tally = |_: u64| {
            worker_state(|tally: &mut Tally| {
                assert_eq!(tally.pid, std::process::id());
                tally.calls += 1;
                (tally.pid, tally.calls)
            })
        };
        let calls = pool.map_chunked(tally, 0..50, 1).unwrap();
        assert_eq!(calls.iter().collect::<HashSet<_>>().len(), 50);
        assert!(calls.iter().all(|(_, calls)| (101..=150).contains(calls)));
        let error = pool
            .apply(|| worker_state(|_: &mut String| ()), ())
            .unwrap_err();
        assert!(
            error.panic().unwrap().message().contains("String"),
            "{error}"
        );
        pool.join().unwrap();
    }
    let pool = Pool::new(1).unwrap();
    let error = pool
        .apply(|| worker_state(|_: &mut Tally| ()), ())
        .unwrap_err();
    assert!(
        error.panic().unwrap().message().contains("no worker state"),
        "{error}"
    );
    pool.join().unwrap();
    let pool = Pool::builder()
        .workers(1)
        .worker_state(make_tally, 13)
        .build()
        .unwrap();
    let error = pool.apply(pause, 1).unwrap_err();
    assert!(error.is_broken());
    assert!(error.panic().unwrap().message().contains("no tally of 13"));
}

#[procession::test]
fn a_pool_tells_how_far_it_is_and_what_its_workers_do() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let mut told = Vec::new();
    let results = pool.map_with_progress(|x: u64| x + 1, 0..1000, |progress| told.push(progress));
    assert_eq!(results.unwrap().len(), 1000);
    assert!(told.windows(2).all(|pair| pair[0].done < pair[1].done));
    let last = told.last().unwrap();
    assert_eq!((last.done, last.total, told.len()), (1000, 1000, 8));
    assert_eq!(pool.status().done, 8, "a chunk is a task");
    assert!(pool.apply(|x: u64| 1 / x, 0).is_err());
    assert_eq!(pool.status().failed, 1);
    let tasks: Vec<Task<u64>> = (0..6)
        .map(|_| pool.apply_async(pause, 60_000).unwrap())
        .collect();
    let busy = until(ms(20_000), || {
        let status = pool.status();
        (status.running == 2 && status.queued == 4).then(|| pool.worker_status())
    });
    let busy = busy.expect("both are busy");
    let mut pids = pool.worker_pids();
    pids.sort_unstable();
    let mut found: Vec<u32> = busy.iter().map(|worker| worker.pid).collect();
    found.sort_unstable();
    assert_eq!(found, pids);
    for worker in busy {
        assert!(worker.name.starts_with("PoolWorker-"), "{worker:?}");
        let Activity::Running(function, since) = worker.activity else {
            panic!("{worker:?}");
        };
        assert!(function.ends_with("pause") && since < ms(20_000));
    }
    for task in tasks {
        task.abort();
        task.wait();
    }
    let idle = |pool: &Pool| {
        let workers = pool.worker_status();
        workers
            .iter()
            .all(|worker| worker.activity == Activity::Idle)
    };
    until(ms(20_000), || idle(&pool).then_some(())).expect("both are idle");
    pool.join().unwrap();
}

fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<u64> = text
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    pages[1] * 4096
}

#[procession::test]
fn imap_over_endless_items_holds_few_of_them() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let asked = std::cell::Cell::new(0_u64);
    let endless = || {
        std::iter::from_fn(|| {
            asked.set(asked.get() + 1);
            Some("x".repeat(10_000))
        })
    };
    let mut before = 0;
    let results = pool.imap(|text: String| text, endless()).unwrap();
    for (given, result) in (0..4_000).zip(results) {
        assert_eq!(result.unwrap().len(), 10_000);
        assert!(asked.get() - given <= 33, "{} ahead", asked.get() - given);
        if given == 500 {
            before = own_memory();
        }
    }
    let grown = own_memory().saturating_sub(before);
    assert!(
        grown < 12 << 20,
        "35 MB went through, {grown} bytes have stayed"
    );
    asked.set(0);
    let mut few = pool
        .tasks()
        .prefetch(3)
        .imap_unordered(|text: String| text.len(), endless());
    assert_eq!(few.as_mut().unwrap().next().unwrap().unwrap(), 10_000);
    assert_eq!(asked.get(), 3);
    drop(few);
    pool.join().unwrap();
}

fn leak(megabytes: usize) -> u32 {
    std::mem::forget(vec![1_u8; megabytes << 20]);
    std::process::id()
}

#[procession::test]
fn workers_that_have_grown_are_replaced() {
    let _watched = watched();
    let pool = Pool::builder()
        .workers(1)
        .max_memory_per_worker(100 << 20)
        .build()
        .unwrap();
    let pids: Vec<u32> = (0..9).map(|_| pool.apply(leak, 40).unwrap()).collect();
    let mut runs = pids.clone();
    runs.dedup();
    assert_eq!(runs.len(), pids.iter().collect::<HashSet<_>>().len());
    assert_eq!(runs.len(), 3, "each stands three: {pids:?}");
    assert_eq!(pool.status().done, 9);
    pool.join().unwrap();
}
