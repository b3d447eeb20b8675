//! Circles of waits, and waits that take long, are reported: by whom, of whom, and once.

use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use procession_engine::diagnostics::{self, Diagnosis};
use procession_engine::*;
use procession_sys::process::{Ended, fork_running, open_pidfd, send_signal, try_wait};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Has all diagnoses of this process, one test at a time.
struct Reports {
    sent: Receiver<Diagnosis>,
    _turn: MutexGuard<'static, ()>,
}

impl Reports {
    fn after(timeout: Option<Duration>) -> Reports {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, sent) = channel();
        diagnostics::set_hook(move |diagnosis| drop(sender.send(diagnosis.clone())));
        diagnostics::set_deadlock_timeout(timeout).expect("a family");
        Reports { sent, _turn: turn }
    }

    fn next(&self) -> Diagnosis {
        self.sent
            .recv_timeout(Duration::from_secs(20))
            .expect("a report")
    }

    /// Of a wait that goes on until it is reported.
    fn of(&self, wait: impl FnOnce(&mut Patience<'_>) -> Result<(), WaitError>) -> Diagnosis {
        let mut report = None;
        let mut told = || {
            report = self.sent.try_recv().ok();
            report.is_some()
        };
        let patience = Patience::timeout(Duration::from_secs(60));
        let waited = wait(&mut patience.with_interrupt(&mut told));
        assert_eq!(waited, Err(WaitError::Interrupted));
        report.expect("a report")
    }

    fn none_within(&self, time: Duration) {
        let more = self.sent.recv_timeout(time);
        assert!(more.is_err(), "{}", more.expect("just seen"));
    }
}

const LONG: Option<Duration> = Some(Duration::from_secs(100));
const SOON: Option<Duration> = Some(Duration::from_millis(300));

fn seconds(n: u64) -> Patience<'static> {
    Patience::timeout(Duration::from_secs(n))
}

/// Threads, each of which holds a lock and waits for the next one's, until they are told to give up.
fn circle(count: usize) -> (Arc<Mutex<bool>>, Vec<thread::JoinHandle<()>>) {
    let locks: Vec<_> = (0..count).map(|_| RLock::new().expect("memory")).collect();
    let all_hold = Arc::new(Barrier::new(count));
    let over = Arc::new(Mutex::new(false));
    let threads = (0..count).map(|n| {
        let (own, next) = (locks[n].clone(), locks[(n + 1) % count].clone());
        let (all_hold, over) = (all_hold.clone(), over.clone());
        thread::spawn(move || {
            let _ = own.acquire(&mut seconds(10)).expect("free");
            all_hold.wait();
            let mut give_up = || *over.lock().expect("no panics");
            let patience = Patience::forever();
            let waited = next.acquire(&mut patience.with_interrupt(&mut give_up));
            if waited.is_ok() {
                next.release().expect("acquired just now");
            }
            own.release().expect("acquired above");
        })
    });
    let threads = threads.collect();
    (over, threads)
}

#[test]
fn each_thread_of_a_circle_reports_it_once() {
    for count in [2, 3] {
        let reports = Reports::after(LONG);
        let began = Instant::now();
        let (over, threads) = circle(count);
        let found: Vec<_> = (0..count).map(|_| reports.next()).collect();
        assert!(began.elapsed() < Duration::from_secs(60));
        reports.none_within(Duration::from_millis(400));
        *over.lock().expect("no panics") = true;
        for thread in threads {
            thread.join().expect("ends");
        }
        let mut reporters: Vec<_> = found.iter().map(|one| one.waiting.who.thread).collect();
        reporters.sort_unstable();
        reporters.dedup();
        assert_eq!(reporters.len(), count, "each by itself");
        for one in found {
            assert!(one.is_deadlock());
            assert_eq!(one.circle.len(), count);
            assert_eq!(one.circle[0].who, one.waiting.who);
            assert_eq!(one.owners, [one.circle[1].who.clone()]);
            assert_eq!(one.waiting.who.pid, std::process::id());
            assert!(one.to_string().contains("wait for each other"), "{one}");
        }
    }
}

/// A thread has a lock and waits for the one of another kind that this one has, which waits for the
/// first.
fn circle_with(
    kind: Kind,
    take: impl FnOnce() -> Box<dyn FnOnce()>,
    waits: impl FnOnce() + Send + 'static,
) {
    let reports = Reports::after(LONG);
    let lock = Lock::new().expect("memory");
    let first = lock.clone();
    let let_go = take();
    let (sender, holds) = channel();
    let other = thread::spawn(move || {
        let _ = first.acquire(&mut seconds(10)).expect("free");
        sender.send(()).expect("heard");
        waits();
        first.release().expect("held");
    });
    holds.recv().expect("the other holds it");
    let found = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&found);
    let mut patience_hook = || {
        let mut seen = seen.lock().expect("no panics");
        seen.extend(reports.sent.try_iter());
        seen.len() == 2
    };
    let waited = lock.acquire(&mut Patience::forever().with_interrupt(&mut patience_hook));
    assert_eq!(waited, Err(WaitError::Interrupted));
    let_go();
    other.join().expect("goes on");
    for one in found.lock().expect("no panics").iter() {
        assert_eq!(one.circle.len(), 2, "{one}");
        let mut kinds: Vec<_> = one.circle.iter().map(|waiting| waiting.kind).collect();
        kinds.sort_unstable_by_key(|one| *one as u32);
        assert_eq!(kinds, [Kind::Lock, kind]);
    }
}

#[test]
fn circles_through_other_locks_are_seen() {
    for reads in [false, true] {
        let lock = RwLock::new().expect("memory");
        let same = lock.clone();
        circle_with(
            Kind::RwLock,
            move || {
                let nobody = &mut |_| panic!("nobody dies");
                lock.write(&mut seconds(10), nobody).expect("free");
                Box::new(move || lock.release_write())
            },
            move || {
                let nobody = &mut |_| panic!("nobody dies");
                if reads {
                    same.read(&mut Patience::forever(), nobody).expect("let go");
                    same.release_read();
                } else {
                    same.write(&mut Patience::forever(), nobody)
                        .expect("let go");
                    same.release_write();
                }
            },
        );
    }
    let once = Once::new().expect("memory");
    let same = once.clone();
    circle_with(
        Kind::Once,
        move || {
            let turn = once.begin(&mut seconds(10)).expect("free");
            assert_eq!(turn, Turn::Mine { after_death: false });
            Box::new(move || once.finish())
        },
        move || assert_eq!(same.begin(&mut Patience::forever()), Ok(Turn::Done)),
    );
}

#[test]
fn a_writer_that_waits_for_a_reader_is_in_no_circle_and_names_it_after_a_while() {
    let reports = Reports::after(SOON);
    let lock = RwLock::new().expect("memory");
    let nobody = &mut |_| panic!("nobody dies");
    lock.read(&mut seconds(10), nobody).expect("free");
    let same = lock.clone();
    let writer = thread::spawn(move || {
        let nobody = &mut |_| panic!("nobody dies");
        same.write(&mut Patience::forever(), nobody)
            .expect("let go");
        same.release_write();
    });
    let report = reports.next();
    assert!(!report.is_deadlock(), "{report}");
    assert_eq!(report.waiting.kind, Kind::RwLock);
    assert_eq!(report.owners[0].pid, std::process::id());
    // It waits for more than a second: a circle of one would be reported by then.
    reports.none_within(Duration::from_millis(1300));
    lock.release_read();
    writer.join().expect("goes on");
}

#[test]
fn a_thread_that_waits_for_itself_says_so_and_goes_on_when_another_releases() {
    let reports = Reports::after(LONG);
    let lock = Lock::new().expect("memory");
    let same = lock.clone();
    let waiting = thread::spawn(move || {
        for _ in 0..2 {
            assert_eq!(same.acquire(&mut Patience::forever()), Ok(Acquired::Clean));
        }
    });
    let report = reports.next();
    assert_eq!(report.circle.len(), 1);
    assert!(report.waiting.waited >= Duration::from_secs(1));
    assert!(report.to_string().contains("holds itself"), "{report}");
    lock.release().expect("held");
    waiting.join().expect("goes on");
}

#[test]
fn a_circle_that_ends_by_itself_is_none() {
    let reports = Reports::after(LONG);
    let (first, second) = (Lock::new().expect("memory"), Lock::new().expect("memory"));
    let _ = first.acquire(&mut seconds(10)).expect("free");
    let (one, two) = (first.clone(), second.clone());
    let gives_up = thread::spawn(move || {
        let _ = two.acquire(&mut seconds(10)).expect("free");
        let waited = one.acquire(&mut Patience::timeout(Duration::from_millis(1500)));
        assert_eq!(waited, Err(WaitError::TimedOut));
        two.release().expect("held");
    });
    while !second.is_locked() && !gives_up.is_finished() {
        thread::yield_now();
    }
    let _ = second.acquire(&mut Patience::forever()).expect("released");
    gives_up.join().expect("ends");
    reports.none_within(Duration::ZERO);
}

#[test]
fn a_long_wait_names_owner_and_waiters_and_is_told_once() {
    let reports = Reports::after(SOON);
    let lock = Lock::new().expect("memory");
    let _ = lock.acquire(&mut seconds(10)).expect("free");
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let lock = lock.clone();
            thread::spawn(move || {
                let _ = lock.acquire(&mut seconds(20)).expect("released at last");
                lock.release().expect("held");
            })
        })
        .collect();
    let told = [reports.next(), reports.next()];
    reports.none_within(Duration::from_millis(700));
    lock.release().expect("held");
    for thread in threads {
        thread.join().expect("ends");
    }
    for one in &told {
        assert!(!one.is_deadlock());
        assert!(one.waiting.waited >= Duration::from_millis(300));
        assert_eq!(one.owners.len(), 1);
        assert_eq!(one.owners[0].pid, std::process::id());
        assert_eq!(one.waiting.kind, Kind::Lock);
    }
    assert_ne!(told[0].waiting.who, told[1].waiting.who);
    let other = &told[1].others[0];
    assert_eq!(other.who, told[0].waiting.who, "{}", told[1]);
}

#[test]
fn owners_of_permits_are_named_and_waits_for_events_are_reported_only_if_asked_for() {
    let reports = Reports::after(SOON);
    let semaphore = Semaphore::bounded(1).expect("memory");
    semaphore.acquire(&mut seconds(10)).expect("free");
    let report = reports.of(|patience| semaphore.acquire(patience));
    assert_eq!(report.waiting.kind, Kind::BoundedSemaphore);
    assert_eq!(report.owners[0].pid, std::process::id());
    let event = Event::new().expect("memory");
    let report = reports.of(|patience| event.wait(patience));
    assert_eq!((report.waiting.kind, report.owners.len()), (Kind::Event, 0));
    diagnostics::set_deadlock_timeout(None).expect("a family");
    assert_eq!(diagnostics::deadlock_timeout().expect("a family"), None);
    let mut half_second = Patience::timeout(Duration::from_millis(600));
    assert!(semaphore.acquire(&mut half_second).is_err());
    reports.none_within(Duration::ZERO);
}

/// A child holds `second` and waits for `first`, which a thread of this process holds, while it
/// waits for `second`. The child is killed.
#[test]
fn a_circle_across_processes_is_seen_and_its_end_by_death_too() {
    let reports = Reports::after(LONG);
    let (first, second) = (Lock::new().expect("memory"), Lock::new().expect("memory"));
    let seat = prepare_child("the other", Role::Process).expect("a seat");
    fork_with(seat);
    let pid = fork_running(|| {
        let _ = second.acquire(&mut seconds(10));
        while !first.is_locked() {
            thread::yield_now();
        }
        let _ = first.acquire(&mut Patience::forever());
        0
    });
    fork_done();
    let pid = pid.expect("forks");
    child_started(seat, pid);
    let pidfd = open_pidfd(pid).expect("a child of ours");
    while !second.is_locked() {
        thread::yield_now();
    }
    let (one, two) = (first.clone(), second.clone());
    let waiting = thread::spawn(move || {
        let _ = one.acquire(&mut seconds(10)).expect("free");
        let acquired = two.acquire(&mut Patience::forever());
        assert!(acquired.expect("its owner died").owner_died());
        one.release().expect("held");
        two.release().expect("held");
    });
    let report = reports.next();
    assert_eq!(report.circle.len(), 2, "{report}");
    assert_eq!(report.circle[1].who.pid, pid);
    assert_eq!(report.circle[1].who.name, "the other");
    assert_eq!(report.circle[1].object, first.handle());
    send_signal(pidfd.as_fd(), 9).expect("alive");
    waiting.join().expect("has taken it over");
    reports.none_within(Duration::ZERO);
    while try_wait(pidfd.as_fd(), true).expect("waits") != Some(Ended::Killed(9)) {
        thread::yield_now();
    }
    reap(seat.member());
}
