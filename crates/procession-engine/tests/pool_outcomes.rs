//! Tasks that are tried again, stopped, or cancelled, and workers that are given up for their memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use procession_engine::pool::{Job, Options, Phase, Pool, Reply, Submission, TaskOptions};
use procession_engine::{ExitStatus, Patience};

mod forks;

use forks::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A file for notes that is not there yet, and goes with this value.
struct Notes(String);

impl Notes {
    fn new(name: &str) -> Notes {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Notes(path.to_str().expect("is text").to_owned())
    }

    fn task(&self, what: &[u8]) -> Vec<u8> {
        [what, self.0.as_bytes()].concat()
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn only(pool: &Pool, options: TaskOptions, payload: &[u8]) -> Job {
    let job = pool.job_with(options).expect("is running");
    job.submit_only(Submission::bytes(&mut message(payload)))
        .expect("is submitted");
    job
}

fn reply(job: &Job) -> Reply {
    let (_, reply) = job.next(&mut limit()).expect("in time").expect("one reply");
    assert!(job.next(&mut limit()).expect("in time").is_none());
    reply
}

fn tries(retries: u32) -> TaskOptions {
    TaskOptions {
        label: "the task",
        retries,
        ..TaskOptions::default()
    }
}

fn within(time_limit: Duration) -> TaskOptions {
    TaskOptions {
        label: "the task",
        time_limit: Some(time_limit),
        ..TaskOptions::default()
    }
}

#[test]
fn a_task_is_tried_again_as_often_as_it_may_be() {
    let (pool, forks) = pool(2);
    for kills in 0..4 {
        let notes = Notes::new("tried-again");
        let reply = reply(&only(&pool, tries(3), &notes.task(&[b'u', kills + 1])));
        assert_eq!(done(reply), b"survived");
        assert_eq!(noted(&notes.0), u64::from(kills) + 1);
    }
    assert_eq!(pool.status().totals.retried, 6);
    finish(&pool);
    let killed = forks
        .ended()
        .iter()
        .filter(|(_, status)| *status == ExitStatus::Signal(9))
        .count();
    assert_eq!(killed, 6);
}

#[test]
fn a_task_that_kills_every_worker_is_given_up_with_all_causes() {
    let (pool, _) = pool(2);
    let notes = Notes::new("poison");
    let others: Vec<Job> = (0..20).map(|_| only(&pool, tries(0), b"s\x05")).collect();
    match reply(&only(&pool, tries(2), &notes.task(b"N"))) {
        Reply::Poison(losses) => {
            let pids: HashSet<u32> = losses.iter().map(|loss| loss.pid).collect();
            assert_eq!((losses.len(), pids.len()), (3, 3));
            for loss in losses {
                assert_eq!(loss.status, ExitStatus::Signal(9));
                assert_eq!((loss.label, loss.name.as_str()), ("the task", "worker"));
            }
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(noted(&notes.0), 3, "it was tried three times");
    for job in &others {
        assert_eq!(done(reply(job)), b"slept");
    }
    match reply(&only(&pool, tries(0), b"k")) {
        Reply::Lost(loss) => assert_eq!(loss.label, "the task"),
        other => panic!("{other:?}"),
    }
    let totals = pool.status().totals;
    assert_eq!((totals.done, totals.lost, totals.retried), (20, 2, 2));
    finish(&pool);
}

#[test]
fn retries_go_on_after_the_close_and_while_nobody_asks() {
    let (pool, _) = pool(1);
    let notes = Notes::new("retry-closed");
    let job = only(&pool, tries(5), &notes.task(&[b'u', 4]));
    pool.close();
    until("it is tried four times", || noted(&notes.0) == 4);
    pool.join(&mut limit()).expect("ends");
    assert_eq!(done(reply(&job)), b"survived");
}

#[test]
fn large_tasks_and_dropped_jobs_are_tried_again_too() {
    let (pool, _) = pool(1);
    let notes = Notes::new("retry-dropped");
    drop(only(&pool, tries(1), &notes.task(&[b'u', 2])));
    let mut bytes = message(b"e");
    bytes.resize(200_000, 7);
    let job = pool.job_with(tries(1)).expect("is running");
    job.submit_only(Submission::bytes(&mut bytes))
        .expect("is submitted");
    assert_eq!(done(reply(&job)).len(), 200_000 - 17);
    // Tried again it stands behind the other.
    until("tried again", || noted(&notes.0) == 2);
    finish(&pool);
}

/// Many in a row that are killed before they are ready break a pool.
fn kill_if_ready(pool: &Pool, slot: usize) {
    let worker = &pool.workers()[slot];
    if worker.phase == Phase::Ready && worker.pid != 0 {
        kill(worker.pid);
    }
}

#[test]
fn under_fire_no_task_that_may_be_tried_again_is_lost() {
    let (pool, _) = pool(3);
    let job = pool.job_with(tries(1000)).expect("is running");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fire_at = &pool;
    thread::scope(|scope| {
        let over = Arc::clone(&stop);
        scope.spawn(move || {
            let mut turn = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                turn += 1;
                kill_if_ready(fire_at, turn % 3);
                thread::sleep(ms(3));
            }
        });
        for number in 0..1500_u32 {
            submit(&job, &[b"e".as_slice(), &number.to_le_bytes()].concat()).expect("is submitted");
        }
        job.seal();
        let mut seen = HashSet::new();
        while let Some((index, reply)) = job.next(&mut limit()).expect("in time") {
            assert_eq!(done(reply), (index as u32).to_le_bytes());
            assert!(seen.insert(index), "two outcomes");
        }
        assert_eq!(seen.len(), 1500);
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    finish(&pool);
}

#[test]
fn a_task_that_runs_too_long_is_stopped_and_no_other() {
    let (pool, forks) = pool(2);
    let others: Vec<Job> = (0..40).map(|_| only(&pool, tries(0), b"s\x0a")).collect();
    let start = Instant::now();
    let overdue = only(&pool, within(ms(60)), b"l");
    let quick: Vec<Job> = (0..40)
        .map(|_| only(&pool, within(LIMIT), b"s\x05"))
        .collect();
    match reply(&overdue) {
        Reply::TimedOut(overrun) => {
            assert_eq!((overrun.limit, overrun.label), (ms(60), "the task"));
            assert!(overrun.pid > 0);
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() >= ms(60) && start.elapsed() < LIMIT);
    for job in others.iter().chain(&quick) {
        assert_eq!(done(reply(job)), b"slept");
    }
    assert_eq!(pool.status().totals.timed_out, 1);
    finish(&pool);
    assert_eq!(forks.ended().len(), 3);
}

#[test]
fn the_time_in_the_queue_does_not_count() {
    let (pool, _) = pool(1);
    // The last ones begin when the limit of all has passed.
    let jobs: Vec<Job> = (0..12)
        .map(|_| only(&pool, within(ms(2000)), b"s\xfa"))
        .collect();
    for job in &jobs {
        assert_eq!(done(reply(job)), b"slept");
    }
    finish(&pool);
}

#[test]
fn at_its_limit_a_task_is_done_or_stopped_and_the_next_one_is_unharmed() {
    let (pool, _) = pool(2);
    let mut stopped = 0;
    for round in 0..60 {
        let close = only(&pool, within(ms(20)), b"s\x1c");
        let next: Vec<Job> = (0..4).map(|_| only(&pool, tries(0), b"s\x01")).collect();
        match reply(&close) {
            Reply::Done(_) => {}
            Reply::TimedOut(_) => stopped += 1,
            other => panic!("{round}: {other:?}"),
        }
        for job in &next {
            assert_eq!(done(reply(job)), b"slept", "{round}: {stopped}");
        }
    }
    finish(&pool);
}

#[test]
fn what_has_not_begun_never_does_once_it_is_cancelled() {
    let (pool, _) = pool(1);
    let (notes, gate) = (Notes::new("cancelled"), Gate::new("cancelled"));
    let running = only(&pool, tries(0), &gate.task());
    until("it runs", || pool.workers()[0].task.is_some());
    let waiting: Vec<Job> = (0..50)
        .map(|n| only(&pool, tries(n % 2), &notes.task(b"n")))
        .collect();
    let many = pool.job().expect("is running");
    for _ in 0..100 {
        submit(&many, &notes.task(b"n")).expect("is submitted");
    }
    for job in &waiting {
        let cancelled = job.cancel(false, &mut limit()).expect("in time");
        assert_eq!((cancelled.prevented, cancelled.running), (1, 0));
        assert!(matches!(reply(job), Reply::Cancelled));
        assert_eq!(
            job.cancel(true, &mut limit()).expect("in time").prevented,
            0
        );
    }
    let cancelled = many.cancel(false, &mut limit()).expect("in time");
    assert_eq!((cancelled.prevented, cancelled.running), (100, 0));
    assert!(submit(&many, b"e").is_err(), "it gets no more");
    let cancelled = running.cancel(false, &mut limit()).expect("in time");
    assert_eq!((cancelled.prevented, cancelled.running), (0, 1));
    gate.open();
    assert_eq!(done(reply(&running)), b"went through");
    drop(waiting);
    // Other jobs in the places of those that were cancelled.
    for _ in 0..200 {
        assert_eq!(done(ask(&pool, b"eover")), b"over");
    }
    assert_eq!(pool.status().totals.cancelled, 150);
    finish(&pool);
    assert_eq!(noted(&notes.0), 0);
}

#[test]
fn a_running_task_is_stopped_if_that_is_wanted() {
    let (pool, _) = pool(2);
    let gate = Gate::new("stopped");
    let victim = only(&pool, tries(3), b"l");
    let other = only(&pool, tries(0), &gate.task());
    until("both run", || {
        pool.workers().iter().all(|worker| worker.task.is_some())
    });
    let cancelled = victim.cancel(true, &mut limit()).expect("in time");
    assert_eq!((cancelled.prevented, cancelled.running), (0, 1));
    assert!(
        matches!(reply(&victim), Reply::Cancelled),
        "it is not tried again"
    );
    gate.open();
    assert_eq!(done(reply(&other)), b"went through");
    finish(&pool);
}

#[test]
fn whether_done_cancelled_or_killed_each_task_has_one_outcome() {
    let (pool, _) = pool(2);
    let notes = Notes::new("races");
    let mut outcomes = [0; 4];
    let mut begun = 0;
    for round in 0..4000_u32 {
        if round >= 400 && outcomes[0] > 0 && outcomes[1] > 0 {
            break;
        }
        let job = only(&pool, tries(round % 2), &notes.task(b"n"));
        for _ in 0..round % 23 {
            thread::yield_now();
        }
        let attacked = round % 7 == 3;
        if attacked {
            kill_if_ready(&pool, round as usize % 2);
        }
        let cancelled = job.cancel(round % 5 == 0, &mut limit()).expect("in time");
        match reply(&job) {
            Reply::Done(_) => {
                outcomes[0] += 1;
                begun += 1;
                assert_eq!(cancelled.prevented, 0);
            }
            Reply::Cancelled => {
                outcomes[1] += 1;
                begun += cancelled.running;
                // It may have had a try before it was prevented from another.
                begun += u64::from(attacked && round % 2 == 1);
            }
            Reply::Lost(_) | Reply::Poison(_) => {
                outcomes[2] += 1;
                begun += 2;
                assert_eq!(cancelled.prevented, 0);
            }
            other => panic!("{round}: {other:?}"),
        }
    }
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
    finish(&pool);
    assert!(noted(&notes.0) <= begun, "one that was prevented has run");
    assert_eq!(pool.outstanding(), 0);
}

#[test]
fn a_job_may_be_cancelled_after_the_end_of_its_pool() {
    let (pool, _) = pool(1);
    let job = only(&pool, tries(0), b"ehello");
    pool.close();
    // Nobody takes in the result meanwhile.
    until("all workers are gone", || pool.is_finished());
    let cancelled = job.cancel(false, &mut limit()).expect("in time");
    assert_eq!((cancelled.prevented, cancelled.running), (0, 0));
    assert_eq!(done(reply(&job)), b"hello");
}

#[test]
fn a_cancelled_job_may_be_dropped_at_once() {
    let (pool, _) = pool(1);
    let gate = Gate::new("dropped");
    let blocker = only(&pool, tries(0), &gate.task());
    for _ in 0..30 {
        let job = only(&pool, tries(0), b"k");
        assert_eq!(
            job.cancel(false, &mut limit()).expect("in time").prevented,
            1
        );
    }
    gate.open();
    assert_eq!(done(reply(&blocker)), b"went through");
    assert_eq!(done(ask(&pool, b"ehello")), b"hello");
    finish(&pool);
    assert_eq!(pool.status().totals.lost, 0);
}

#[test]
fn workers_that_have_grown_are_replaced_and_nothing_is_lost() {
    let forks = Forks::new(Manner::Good);
    let options = Options {
        workers: 2,
        max_memory_per_worker: std::num::NonZeroU64::new(64 << 20),
        ..Options::default()
    };
    let pool = Pool::new(options, Arc::clone(&forks) as _).expect("starts");
    let small: Vec<Job> = (0..50).map(|_| only(&pool, tries(0), b"s\x01")).collect();
    for job in &small {
        assert_eq!(done(reply(job)), b"slept");
    }
    assert!(forks.ended().is_empty());
    let leaks: Vec<Job> = (0..12).map(|_| only(&pool, tries(0), b"m\x28")).collect();
    for job in &leaks {
        assert_eq!(done(reply(job)), b"leaked");
    }
    // Each stands two of them.
    until("some were replaced", || forks.ended().len() >= 5);
    assert!(forks.ended().iter().all(|(_, status)| status.success()));
    finish(&pool);
}

#[test]
fn a_pool_tells_what_is_going_on() {
    let (pool, _) = pool(2);
    let jobs: Vec<Job> = (0..10).map(|_| only(&pool, tries(0), b"l")).collect();
    until("both work", || pool.status().running == 2);
    assert_eq!(pool.status().queued, 8);
    thread::sleep(ms(50));
    for worker in pool.workers() {
        assert_eq!(worker.name, "worker");
        let task = worker.task.expect("it works");
        assert_eq!(task.label, "the task");
        assert!(
            task.since >= ms(30) && task.since < LIMIT,
            "{:?}",
            task.since
        );
        assert!(jobs.iter().any(|job| job.number() == task.job));
    }
    for job in &jobs {
        job.cancel(true, &mut limit()).expect("in time");
        job.wait_all(&mut limit()).expect("in time");
    }
    let totals = pool.status().totals;
    assert_eq!(totals.cancelled + totals.done, 10);
    assert_eq!((pool.status().queued, pool.status().running), (0, 0));
    finish(&pool);
}

#[test]
fn an_idle_pool_uses_no_processor_after_time_limits_and_cancels() {
    let (pool, _) = pool(1);
    assert_eq!(
        done(reply(&only(&pool, within(ms(20)), b"ehello"))),
        b"hello"
    );
    let job = only(&pool, within(ms(20)), b"l");
    assert!(matches!(reply(&job), Reply::TimedOut(_)));
    until("replaced", || all_ready(&pool));
    let switches = || -> u64 {
        // This thread sleeps, so what is left is the supervisor's.
        let tasks = std::fs::read_dir("/proc/self/task").expect("is there");
        let statuses = tasks.filter_map(|task| {
            let folder = task.ok()?.path();
            let name = std::fs::read_to_string(folder.join("comm")).ok()?;
            (name.trim() == "procession-pool")
                .then(|| std::fs::read_to_string(folder.join("status")).ok())?
        });
        let count = |status: String| -> u64 {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .expect("is there");
            line.trim().parse().expect("a number")
        };
        statuses.map(count).sum()
    };
    // A busy machine takes its time until nothing is left to do.
    until("the supervisor sleeps", || {
        let before = switches();
        thread::sleep(ms(400));
        switches() - before <= 1
    });
    finish(&pool);
    assert!(job.next(&mut Patience::none()).expect("is over").is_none());
}

#[test]
fn cancelling_what_is_done_and_not_taken_in_does_not_wait() {
    let (pool, forks) = pool(1);
    let job = only(&pool, tries(0), b"ehello");
    pool.close();
    until("the worker has ended", || forks.ended().len() == 1);
    thread::sleep(ms(50));
    let cancelled = job.cancel(true, &mut limit()).expect("in time");
    assert_eq!((cancelled.prevented, cancelled.running), (0, 0));
    assert_eq!(done(reply(&job)), b"hello");
    pool.join(&mut limit()).expect("ends");
    pool.terminate();
    assert_eq!(
        job.cancel(true, &mut limit()).expect("in time").prevented,
        0
    );
}
