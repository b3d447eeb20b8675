//! Pools of real processes, and what becomes of them when somebody dies.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use procession_engine::ExitStatus;
use procession_engine::pool::{
    HEADER, Job, JoinError, LaunchError, Launched, Launcher, NotRunning, Options, Phase, Pool,
    Reply, State, Submission, SubmitError, Why,
};
use procession_engine::{Handle, Patience, Records, WaitError};
use procession_sys::process;

mod forks;

use forks::*;

#[test]
fn every_task_gets_its_own_result() {
    let (pool, _) = pool(3);
    assert_eq!(done(ask(&pool, b"ehello")), b"hello");
    let job = pool.job().expect("is running");
    for number in 0..1000u32 {
        let mut bytes = message(b"e");
        bytes.extend_from_slice(&number.to_le_bytes());
        let index = job
            .submit(Submission {
                tag: number,
                ..Submission::bytes(&mut bytes)
            })
            .expect("is submitted");
        assert_eq!(index, u64::from(number));
    }
    job.seal();
    let mut seen = [false; 1000];
    while let Some((index, reply)) = job.next(&mut limit()).expect("in time") {
        let Reply::Done(answer) = reply else {
            panic!("{reply:?}")
        };
        let index = usize::try_from(index).expect("small");
        assert_eq!(
            answer.payload(),
            u32::try_from(index).expect("small").to_le_bytes()
        );
        assert_eq!(answer.tag() as usize, index);
        assert!(
            !std::mem::replace(&mut seen[index], true),
            "{index} came twice"
        );
    }
    assert!(seen.iter().all(|seen| *seen));
    assert_eq!(job.counts(), (1000, 0));
    finish(&pool);
}

#[test]
fn tasks_submitted_several_at_once_are_as_any_others() {
    let (pool, _) = pool(2);
    let job = pool.job().expect("is running");
    let mut seen = [false; 500];
    let mut replies = Vec::new();
    let mut tasks = Records::default();
    for number in 0..500u32 {
        if number % 50 == 49 {
            // One by itself has its place among them.
            let mut bytes = message(b"e");
            bytes.extend_from_slice(&number.to_le_bytes());
            job.submit_several(&mut tasks).expect("is submitted");
            tasks.clear();
            let index = job.submit(Submission::bytes(&mut bytes));
            assert_eq!(index.expect("is submitted"), u64::from(number));
        } else {
            let body: [&[u8]; 3] = [&[0; HEADER], b"e", &number.to_le_bytes()];
            assert!(tasks.push(0, &body));
        }
    }
    job.seal();
    while let Some(first) = job.next(&mut limit()).expect("in time") {
        replies.push(first);
        job.take_replies(10, &mut replies);
        assert!(replies.len() <= 11);
        for (index, reply) in replies.drain(..) {
            let index = usize::try_from(index).expect("small");
            let number = u32::try_from(index).expect("small");
            assert_eq!(done(reply), number.to_le_bytes());
            assert!(
                !std::mem::replace(&mut seen[index], true),
                "{index} came twice"
            );
        }
    }
    assert!(seen.iter().all(|seen| *seen));
    finish(&pool);
    assert!(tasks.push(0, &[&[0; HEADER], b"e"]));
    assert!(job.submit_several(&mut tasks).is_err(), "it is sealed");
    assert_eq!(job.counts(), (500, 0));
}

#[test]
fn a_worker_that_dies_of_a_wake_up_leaves_the_task_to_the_others() {
    let (pool, _) = pool(3);
    let mut took = Vec::new();
    for _ in 0..3 {
        until("ready", || all_ready(&pool));
        assert_eq!(done(ask(&pool, b"ehello")), b"hello");
        // By then they look for themselves only now and then: not in the next three seconds.
        thread::sleep(Duration::from_millis(1500));
        for worker in &pool.workers()[..2] {
            assert!(kill(worker.pid));
        }
        let start = Instant::now();
        assert_eq!(done(ask(&pool, b"ehello")), b"hello");
        took.push(start.elapsed());
    }
    took.sort();
    assert!(took[1] < Duration::from_secs(2), "{took:?}");
    finish(&pool);
}

#[test]
fn large_buffers_are_no_obstacle() {
    let (pool, _) = pool(1);
    let job = pool.job().expect("is running");
    let large = vec![7u8; 1 << 20];
    let mut bytes = message(b"elook");
    let task = Submission {
        buffers: &[&large],
        ..Submission::bytes(&mut bytes)
    };
    job.submit_only(task).expect("is submitted");
    let (_, reply) = job.next(&mut limit()).expect("in time").expect("one");
    assert_eq!(done(reply), b"look");
    finish(&pool);
}

#[test]
fn a_worker_killed_in_a_task_costs_that_task_alone() {
    let (pool, forks) = pool(2);
    let job = pool.job().expect("is running");
    for payload in [&b"e1"[..], b"k", b"e2", b"x\x03", b"e3"] {
        submit(&job, payload).expect("is submitted");
    }
    job.seal();
    let mut outcomes = HashMap::new();
    while let Some((index, reply)) = job.next(&mut limit()).expect("in time") {
        let text = match reply {
            Reply::Done(answer) => String::from_utf8_lossy(answer.payload()).into_owned(),
            Reply::Lost(loss) => loss.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(outcomes.insert(index, text).is_none(), "{index} came twice");
    }
    assert_eq!(
        (
            outcomes[&0].as_str(),
            outcomes[&2].as_str(),
            outcomes[&4].as_str()
        ),
        ("1", "2", "3")
    );
    assert!(
        outcomes[&1].ends_with("was killed by SIGKILL"),
        "{outcomes:?}"
    );
    assert!(outcomes[&3].ends_with("exited with code 3"), "{outcomes:?}");
    // Both places are filled again.
    until("replaced", || all_ready(&pool));
    assert_eq!(forks.launched.load(Ordering::SeqCst), 4);
    finish(&pool);
}

#[test]
fn a_loss_is_told_at_once() {
    let (pool, _) = pool(2);
    assert_eq!(done(ask(&pool, b"e")), b"");
    let mut took = Vec::new();
    for _ in 0..11 {
        let start = Instant::now();
        assert!(matches!(ask(&pool, b"k"), Reply::Lost(_)));
        took.push(start.elapsed());
    }
    took.sort();
    assert!(took[5] < Duration::from_secs(2), "{took:?}");
    finish(&pool);
}

#[test]
fn an_idle_worker_killed_is_replaced_and_nothing_is_lost() {
    let (pool, forks) = pool(2);
    for round in 1..=5 {
        until("ready", || all_ready(&pool));
        let victim = pool.workers()[0].pid;
        assert!(kill(victim));
        until("seen", || {
            forks.ended().iter().any(|(pid, _)| *pid == victim)
        });
        assert_eq!(done(ask(&pool, b"estill here")), b"still here");
        until("replaced", || {
            forks.launched.load(Ordering::SeqCst) == 2 + round
        });
    }
    finish(&pool);
}

#[test]
fn workers_killed_at_start_dont_break_a_pool_in_which_one_works() {
    let (pool, forks) = pool(2);
    until("ready", || all_ready(&pool));
    let healthy = pool.workers()[1].pid;
    for _ in 0..8 {
        let launched = forks.launched.load(Ordering::SeqCst);
        let victim = pool.workers()[0].pid;
        if victim != 0 && kill(victim) {
            until("replaced", || {
                forks.launched.load(Ordering::SeqCst) > launched
            });
        }
    }
    assert_eq!(done(ask(&pool, b"estill")), b"still");
    assert_eq!(pool.workers()[1].pid, healthy);
    assert_eq!(pool.state(), State::Running);
    finish(&pool);
}

/// Workers are killed at any instant for a while: each task still has exactly one reply, each that
/// was done has its own result, and no more are lost than workers were killed.
#[test]
fn under_fire_every_task_has_exactly_one_outcome() {
    let (pool, _) = pool(4);
    let (mut kills, mut results, mut losses) = (0, 0, 0);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let end = Instant::now() + Duration::from_secs(3);
    // A busy machine takes its time to start workers that can be killed.
    while Instant::now() < end || kills <= 20 && Instant::now() < end + 2 * LIMIT {
        let job = pool.job().expect("is running");
        for number in 0..200u32 {
            let mut bytes = message(b"e");
            bytes.extend_from_slice(&number.to_le_bytes());
            job.submit(Submission::bytes(&mut bytes))
                .expect("is submitted");
        }
        job.seal();
        let mut seen = [false; 200];
        loop {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if random >> 33 & 31 == 0 {
                let worker = &pool.workers()[(random >> 40) as usize % 4];
                kills +=
                    u32::from(worker.phase == Phase::Ready && worker.pid != 0 && kill(worker.pid));
            }
            let Some((index, reply)) = job.next(&mut limit()).expect("in time") else {
                break;
            };
            let seen = &mut seen[usize::try_from(index).expect("small")];
            assert!(
                !std::mem::replace(seen, true),
                "task {index} has two outcomes"
            );
            match reply {
                Reply::Done(answer) => {
                    assert_eq!(
                        answer.payload(),
                        u32::try_from(index).expect("small").to_le_bytes()
                    );
                    results += 1;
                }
                Reply::Lost(loss) => {
                    assert_eq!(loss.status, ExitStatus::Signal(9));
                    losses += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(seen.iter().all(|seen| *seen), "a task has no outcome");
    }
    assert!(kills > 20, "{kills} kills are no fire");
    assert!(losses <= kills, "{losses} tasks lost to {kills} kills");
    assert!(results > losses);
    finish(&pool);
}

#[test]
fn workers_end_after_their_number_of_tasks() {
    let forks = Forks::new(Manner::Good);
    let options = Options {
        workers: 2,
        max_tasks_per_worker: NonZeroU64::new(3),
        ..Options::default()
    };
    let pool = Pool::new(options, Arc::clone(&forks) as _).expect("starts");
    let mut pids = HashMap::new();
    for _ in 0..24 {
        *pids.entry(done(ask(&pool, b"p"))).or_insert(0) += 1;
    }
    assert!(pids.len() >= 8, "{pids:?}");
    assert!(pids.values().all(|count| *count <= 3), "{pids:?}");
    finish(&pool);
    assert!(
        forks
            .ended()
            .iter()
            .all(|(_, status)| *status == ExitStatus::Code(0))
    );
}

#[test]
fn a_closed_pool_finishes_what_it_has() {
    let (pool, _) = pool(2);
    let job = pool.job().expect("is running");
    for _ in 0..6 {
        submit(&job, b"s\x14").expect("is submitted");
    }
    pool.close();
    assert!(matches!(pool.job(), Err(NotRunning::Closed)));
    // A job that was open may still get tasks.
    submit(&job, b"elate").expect("the job is open");
    job.seal();
    assert!(matches!(
        submit(&job, b"e"),
        Err(SubmitError::NotRunning(NotRunning::Closed))
    ));
    pool.join(&mut limit()).expect("ends");
    let mut count = 0;
    while let Some((_, reply)) = job.next(&mut Patience::none()).expect("all are in") {
        done(reply);
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn a_worker_killed_after_the_close_costs_only_its_task() {
    let (pool, _) = pool(1);
    let job = pool.job().expect("is running");
    for payload in [&b"k"[..], b"e1", b"k", b"e3"] {
        submit(&job, payload).expect("is submitted");
    }
    job.seal();
    finish(&pool);
    let mut lost = 0;
    while let Some((index, reply)) = job.next(&mut Patience::none()).expect("all are in") {
        match reply {
            Reply::Lost(_) => {
                assert_eq!(index % 2, 0);
                lost += 1;
            }
            reply => assert_eq!(done(reply), if index == 1 { b"1" } else { b"3" }),
        }
    }
    assert_eq!(lost, 2);
}

#[test]
fn terminate_tells_everybody_who_waits() {
    let (pool, forks) = pool(2);
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let job = pool.job().expect("is running");
            for _ in 0..3 {
                submit(&job, b"l").expect("is submitted");
            }
            thread::spawn(move || {
                // Not sealed: told all the same, once for each task and once for those to come.
                let replies = (0..4).map(|_| job.next(&mut limit()).expect("in time"));
                replies
                    .filter(|reply| matches!(reply, Some((_, Reply::Terminated))))
                    .count()
            })
        })
        .collect();
    until("under way", || {
        pool.workers().iter().all(|worker| worker.task.is_some())
    });
    let start = Instant::now();
    pool.terminate();
    assert!(matches!(pool.job(), Err(NotRunning::Terminated)));
    for thread in waiting {
        assert_eq!(thread.join().expect("no panic"), 4);
    }
    pool.join(&mut limit()).expect("ends");
    assert!(start.elapsed() < LIMIT, "took {:?}", start.elapsed());
    assert_eq!(pool.state(), State::Terminated);
    assert_eq!(forks.ended().len(), 2);
}

#[test]
fn what_was_done_before_the_end_is_still_given_out() {
    let (pool, _) = pool(1);
    let job = pool.job().expect("is running");
    job.submit_only(Submission::bytes(&mut message(b"edone")))
        .expect("is submitted");
    until("done", || pool.workers()[0].done == 1);
    pool.terminate();
    let (_, reply) = job.next(&mut limit()).expect("in time").expect("one");
    assert_eq!(done(reply), b"done");
    pool.join(&mut limit()).expect("ends");
}

#[test]
fn workers_that_never_get_ready_break_the_pool() {
    for (manner, answer) in [
        (Manner::DieAtStart, None),
        (Manner::FailAtStart, Some(b"no licence".to_vec())),
    ] {
        let (pool, forks) = start(2, manner);
        // The pool may be broken already.
        if let Ok(job) = pool.job()
            && job
                .submit_only(Submission::bytes(&mut message(b"e")))
                .is_ok()
        {
            let (_, reply) = job.next(&mut limit()).expect("in time").expect("one");
            assert!(matches!(reply, Reply::Broken(_)), "{reply:?}");
        }
        until("broken", || pool.state() == State::Broken);
        let why = pool.breakage().expect("is broken");
        assert!(
            matches!(why.why, Why::DiedAtStart { times: 3, .. }),
            "{why:?}"
        );
        let expected = if answer.is_some() {
            "initializer"
        } else {
            "exited with code 7"
        };
        assert_eq!(
            why.answer.as_ref().map(|answer| answer.payload().to_vec()),
            answer
        );
        let refused = pool.job().expect_err("is broken").to_string();
        assert!(refused.contains(expected), "{refused}");
        pool.join(&mut limit()).expect("ends");
        assert!(forks.launched.load(Ordering::SeqCst) <= 5);
    }
}

#[test]
fn a_worker_that_cant_be_replaced_breaks_the_pool_with_the_cause() {
    let (pool, forks) = pool(1);
    assert_eq!(done(ask(&pool, b"e")), b"");
    forks.refuse.store(true, Ordering::SeqCst);
    assert!(matches!(ask(&pool, b"k"), Reply::Lost(_)));
    until("broken", || pool.state() == State::Broken);
    let error = pool.job().expect_err("is broken").to_string();
    assert!(error.contains("no more processes"), "{error}");
    pool.join(&mut limit()).expect("ends");
}

#[test]
fn a_pool_that_cant_start_leaves_nobody_behind() {
    #[derive(Debug)]
    struct Third(Arc<Forks>);
    impl Launcher for Third {
        fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
            if slot == 2 {
                return Err(LaunchError {
                    message: "three is too many".into(),
                    fatal: false,
                });
            }
            self.0.launch(pool, slot)
        }
        fn ended(&self, slot: u32, worker: &Launched, status: ExitStatus) {
            Launcher::ended(self.0.as_ref(), slot, worker, status);
        }
    }
    let forks = Forks::new(Manner::Good);
    let options = Options {
        workers: 4,
        ..Options::default()
    };
    let error = Pool::new(options, Arc::new(Third(Arc::clone(&forks)))).expect_err("fails");
    assert!(error.to_string().contains("three is too many"), "{error}");
    assert_eq!(forks.ended().len(), 2);
    for workers in [0, u32::MAX] {
        let options = Options {
            workers,
            ..Options::default()
        };
        assert!(Pool::new(options, Arc::clone(&forks) as _).is_err());
    }
}

#[test]
fn joining_a_running_pool_is_refused() {
    let (pool, _) = pool(1);
    assert_eq!(pool.join(&mut limit()), Err(JoinError::StillRunning));
    assert!(JoinError::StillRunning.to_string().contains("close()"));
    finish(&pool);
    finish(&pool);
}

#[test]
fn waits_end_in_time_and_by_interrupt() {
    let (pool, _) = pool(1);
    let gate = Gate::new("waits");
    let job = pool.job().expect("is running");
    job.submit_only(Submission::bytes(&mut message(&gate.task())))
        .expect("is submitted");
    assert_eq!(
        job.next(&mut Patience::none()).err(),
        Some(WaitError::TimedOut)
    );
    let start = Instant::now();
    assert_eq!(
        job.wait_all(&mut Patience::timeout(Duration::from_millis(20)))
            .err(),
        Some(WaitError::TimedOut)
    );
    assert!(start.elapsed() >= Duration::from_millis(20));
    // The hook may wait for the same pool itself: nothing of ours is held while it runs.
    let mut hook = || {
        job.wait_all(&mut Patience::timeout(Duration::from_millis(1)))
            .is_err()
    };
    assert_eq!(
        job.wait_all(&mut Patience::timeout(LIMIT).with_interrupt(&mut hook))
            .err(),
        Some(WaitError::Interrupted)
    );
    gate.open();
    job.wait_all(&mut limit()).expect("in time");
    finish(&pool);
}

/// Many threads wait at once; whoever leads serves the others, and no wake-up is lost when it goes.
#[test]
fn threads_that_wait_serve_each_other() {
    let (pool, _) = pool(2);
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..8u8 {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..100u8 {
                    assert_eq!(done(ask(pool, &[b'e', thread, round])), [thread, round]);
                }
            });
        }
    });
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
    finish(&pool);
}

#[test]
fn ends_of_jobs_are_announced() {
    let (pool, _) = pool(2);
    let jobs: Vec<_> = (0..20).map(|_| pool.job().expect("is running")).collect();
    let empty = pool.job().expect("is running");
    let announced = thread::scope(|scope| {
        let listener = scope.spawn(|| {
            let mut numbers = Vec::new();
            while let Some(number) = pool.next_announced(&mut limit()).expect("in time") {
                numbers.push(number);
            }
            numbers
        });
        for job in &jobs {
            job.announce();
            job.submit_only(Submission::bytes(&mut message(b"e")))
                .expect("is submitted");
        }
        empty.announce();
        empty.seal();
        pool.close();
        pool.join(&mut limit()).expect("ends");
        let mut announced = listener.join().expect("no panic");
        announced.sort_unstable();
        announced
    });
    let mut expected: Vec<_> = jobs.iter().chain([&empty]).map(Job::number).collect();
    expected.sort_unstable();
    assert_eq!(announced, expected);
}

#[test]
fn abandoned_jobs_leave_nothing() {
    let (pool, _) = pool(2);
    for _ in 0..500 {
        let job = pool.job().expect("is running");
        submit(&job, b"e").expect("is submitted");
    }
    assert_eq!(done(ask(&pool, b"elast")), b"last");
    finish(&pool);
    assert_eq!(pool.outstanding(), 0);
}

fn exit_code(child: u32) -> Option<process::Ended> {
    let pidfd = process::open_pidfd(child).expect("is there");
    assert!(procession_sys::poll::readable(pidfd.as_fd(), Some(LIMIT)).expect("polls"));
    process::try_wait(pidfd.as_fd(), true).expect("is ours")
}

#[test]
fn a_forked_child_does_not_own_the_pool() {
    let (pool, _) = pool(1);
    let pool = Arc::new(pool);
    let job = pool.job().expect("is running");
    let copy = Arc::clone(&pool);
    let child = process::fork_running(move || {
        let mut problems = 0;
        problems += i32::from(copy.is_home());
        problems += i32::from(!matches!(copy.job(), Err(NotRunning::Foreign)));
        problems += i32::from(copy.join(&mut limit()) != Err(JoinError::Foreign));
        problems += i32::from(submit(&job, b"e").is_ok());
        copy.terminate();
        drop(job);
        drop(copy);
        problems
    });
    assert_eq!(
        exit_code(child.expect("forks")),
        Some(process::Ended::Exited(0))
    );
    assert_eq!(done(ask(&pool, b"estill")), b"still");
    pool.close();
    pool.join(&mut limit()).expect("ends");
}

#[test]
fn a_dropped_pool_takes_its_workers_along() {
    let (pool, forks) = pool(3);
    until("ready", || all_ready(&pool));
    drop(pool);
    until("gone", || forks.ended().len() == 3);
}
