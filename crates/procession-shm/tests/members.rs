//! Several members in one process (threads) and in several (forks, some of them killed).

#![allow(unsafe_code, reason = "the tests fork")]

mod forked;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procession_shm::*;

fn arena() -> &'static Arena {
    Box::leak(Box::new(Arena::create(1 << 30).expect("arena")))
}

fn seconds(n: u64) -> Patience<'static> {
    Patience::timeout(Duration::from_secs(n))
}

fn fork(arena: &'static Arena, by: MemberId, body: impl FnOnce(MemberId)) -> Child {
    let (pid, seat) = forked::fork(arena, by, body);
    Child { pid, seat }
}

struct Child {
    pid: i32,
    seat: MemberId,
}

impl Child {
    fn kill(&self) {
        // SAFETY: our own child, not waited for yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Whether it sleeps: has come to where it waits.
    fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("runs");
        stat.rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('S'))
    }

    /// Waits, 20 s at most; the exit code, or the signal below zero.
    fn wait(&self) -> i32 {
        let status = forked::wait(self.pid, "a member");
        if libc::WIFSIGNALED(status) {
            -libc::WTERMSIG(status)
        } else {
            libc::WEXITSTATUS(status)
        }
    }
}

fn counter(arena: &'static Arena, me: MemberId) -> &'static AtomicU64 {
    let handle = arena.allocate(me, 64, Kind::Block).expect("a block");
    &arena
        .objects::<AtomicU64>(handle, Kind::Block, 0, 1)
        .expect("there")[0]
}

fn queue(arena: &'static Arena, me: MemberId, capacity: u32) -> (Handle, &'static RawQueue) {
    let handle = arena
        .allocate(me, size_of::<RawQueue>(), Kind::Queue)
        .expect("a queue");
    let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
    queue.prepare(arena, me, handle, capacity).expect("memory");
    (handle, queue)
}

fn put(arena: &Arena, me: MemberId, (handle, queue): (Handle, &RawQueue), bytes: &[u8]) {
    let contents = Contents {
        bytes,
        ..Contents::default()
    };
    queue
        .put(arena, me, handle, &contents, &mut seconds(20))
        .expect("put");
}

fn get(arena: &Arena, me: MemberId, (_, queue): (Handle, &RawQueue)) -> Vec<u8> {
    match queue
        .get(arena, me, &mut seconds(20), &mut |_, _, _| {})
        .expect("get")
    {
        Entry::Inline { bytes, .. } => bytes,
        Entry::Parcel { handle, view } => {
            arena.release(me, handle);
            view.bytes
        }
    }
}

#[test]
fn an_object_lives_as_long_as_somebody_holds_it() {
    let arena = arena();
    let one = arena.enroll("one").expect("member");
    let two = arena.enroll("two").expect("member");
    let before = arena.stats();
    let handle = arena.allocate(one, 100, Kind::Block).expect("memory");
    arena
        .copy_in(handle, Kind::Block, 0, b"hello")
        .expect("there");
    arena.acquire(two, handle).expect("alive");
    arena.release(one, handle);
    let mut text = [0; 5];
    arena
        .copy_out(handle, Kind::Block, 0, &mut text)
        .expect("two holds it");
    assert_eq!(&text, b"hello");
    arena.release(two, handle);
    assert_eq!(arena.acquire(one, handle), Err(Gone { expected: None }));
    assert_eq!(arena.stats().objects, before.objects);
    // Recycled: the same place, another generation, zeros.
    let again = arena.allocate(one, 100, Kind::Block).expect("memory");
    assert_ne!(again, handle);
    arena
        .copy_out(again, Kind::Block, 0, &mut text)
        .expect("there");
    assert_eq!(text, [0; 5]);
    assert!(
        arena.acquire(two, handle).is_err(),
        "a stale handle must not hold the new object"
    );
    arena.release(one, again);
    assert_eq!(arena.stats().objects, before.objects);
}

#[test]
fn wrong_handles_are_refused() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let lock = arena
        .allocate(me, size_of::<RawLock>(), Kind::Lock)
        .expect("memory");
    assert!(arena.object::<RawQueue>(lock, Kind::Queue).is_err());
    assert!(
        arena.object::<RawWaitQueue>(lock, Kind::Lock).is_err(),
        "too small for it"
    );
    let mut state = 12345u64;
    for _ in 0..100_000 {
        // xorshift: any bytes at all.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut bytes = lock.to_bytes();
        bytes[(state % 16) as usize] ^= (state >> 8) as u8 | 1;
        let bad = Handle::from_bytes(bytes);
        assert!(arena.object::<RawLock>(bad, Kind::Lock).is_err(), "{bad:?}");
        assert!(arena.acquire(me, bad).is_err());
    }
}

#[test]
fn a_size_that_nothing_can_hold_is_named() {
    let arena = Arena::create(16 << 20).expect("arena");
    let me = arena.enroll("me").expect("member");
    let error = arena
        .allocate(me, 1 << 30, Kind::Block)
        .expect_err("too large");
    assert!(error.to_string().contains("1073741824"), "{error}");
    // And the arena is as good as before.
    assert!(arena.allocate(me, 1 << 10, Kind::Block).is_ok());
}

#[test]
fn the_range_runs_out_and_comes_back() {
    let arena = Arena::create(16 << 20).expect("arena");
    let me = arena.enroll("me").expect("member");
    let mut all = Vec::new();
    let error = loop {
        match arena.allocate(me, 1 << 20, Kind::Block) {
            Ok(handle) => all.push(handle),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("1048576"), "{error}");
    let count = all.len();
    assert!(count > 2);
    for handle in all.drain(..) {
        arena.release(me, handle);
    }
    for _ in 0..count {
        all.push(
            arena
                .allocate(me, 1 << 20, Kind::Block)
                .expect("it came back"),
        );
    }
}

#[test]
fn a_lock_keeps_threads_and_processes_apart() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawLock>(), Kind::Lock)
        .expect("memory");
    let lock: &RawLock = arena.object(handle, Kind::Lock).expect("there");
    let shared = counter(arena, me);
    let work = |who: MemberId| {
        for _ in 0..20_000 {
            let _ = lock.acquire(arena, who, &mut seconds(20)).expect("in time");
            // Not atomic on purpose.
            shared.store(shared.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            lock.release().expect("held");
        }
    };
    let children: Vec<_> = (0..3).map(|_| fork(arena, me, work)).collect();
    work(me);
    assert!(children.iter().all(|child| child.wait() == 0));
    assert_eq!(shared.load(Ordering::Relaxed), 80_000);
    assert_eq!(lock.release(), Err(NotHeld));
    assert_eq!(lock.waiters(), 0);
}

#[test]
fn the_lock_of_a_killed_process_goes_to_the_next_who_is_told() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawLock>(), Kind::Lock)
        .expect("memory");
    let lock: &RawLock = arena.object(handle, Kind::Lock).expect("there");
    let child = fork(arena, me, |who| {
        let _ = lock.acquire(arena, who, &mut seconds(5)).expect("free");
        std::thread::sleep(Duration::from_secs(60));
    });
    while lock.owner() != Some(child.seat) {
        std::thread::yield_now();
    }
    let error = lock
        .acquire(
            arena,
            me,
            &mut Patience::timeout(Duration::from_millis(120)),
        )
        .expect_err("held by the living");
    assert_eq!(error, WaitError::TimedOut);
    let waiter = std::thread::spawn(move || lock.acquire(arena, me, &mut seconds(20)));
    std::thread::sleep(Duration::from_millis(20));
    child.kill();
    let start = Instant::now();
    let acquired = waiter.join().expect("no panic").expect("in time");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(matches!(acquired, Acquired::OwnerDied { owner, .. } if owner == child.seat));
    assert_eq!(child.wait(), -libc::SIGKILL);
    assert_eq!(lock.owner(), Some(me));
    lock.release().expect("held");
}

#[test]
fn a_recursive_lock_counts_and_belongs_to_its_thread() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawRLock>(), Kind::RLock)
        .expect("memory");
    let lock: &RawRLock = arena.object(handle, Kind::RLock).expect("there");
    for _ in 0..3 {
        let _ = lock
            .acquire(arena, me, 1, &mut Patience::forever())
            .expect("mine");
    }
    assert_eq!(lock.count(), 3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(lock.release(me), Err(NotOwner));
            assert_eq!(
                lock.acquire(arena, me, 1, &mut Patience::none()),
                Err(WaitError::TimedOut)
            );
        });
    });
    assert_eq!(lock.release_all(me), Ok(3));
    assert_eq!(lock.release(me), Err(NotOwner));
}

#[test]
fn messages_of_all_sizes_arrive_once_and_in_order() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let other = arena.enroll("other").expect("member");
    let before = arena.stats().objects;
    let q = queue(arena, me, 0);
    let sizes = [
        0, 1, 7, 8, 9, 100, 4000, 60_000, 65_535, 65_536, 70_000, 2_000_000,
    ];
    let message = |n: usize| vec![(n % 251) as u8; sizes[n % sizes.len()]];
    std::thread::scope(|scope| {
        scope.spawn(|| (0..600).for_each(|n| put(arena, other, q, &message(n))));
        for n in 0..600 {
            assert_eq!(get(arena, me, q), message(n), "message {n}");
        }
    });
    // Not one block or segment is left but the queue itself and its last segment.
    assert_eq!(arena.stats().objects, before + 2);
    arena.release(me, q.0);
    assert_eq!(arena.stats().objects, before);
}

#[test]
fn a_queue_that_goes_takes_its_messages_along() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let before = arena.stats().objects;
    let q = queue(arena, me, 0);
    let lock = arena.allocate(me, 64, Kind::Lock).expect("memory");
    for _ in 0..50 {
        put(arena, me, q, &[1; 100_000]);
        put(arena, me, q, &[2; 1000]);
        let contents = Contents {
            bytes: b"x",
            buffers: &[&[3; 70_000]],
            mentions: &[lock],
            tag: 7,
        };
        q.1.put(arena, me, q.0, &contents, &mut seconds(5))
            .expect("put");
    }
    arena.release(me, lock);
    assert!(arena.kind(lock).is_ok(), "the messages keep it");
    arena.release(me, q.0);
    assert!(arena.kind(lock).is_err(), "nothing keeps it");
    assert_eq!(arena.stats().objects, before);
}

#[test]
fn a_bounded_queue_holds_back_its_producers() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let q = queue(arena, me, 3);
    for n in 0..3u8 {
        put(arena, me, q, &[n]);
    }
    let more = Contents {
        bytes: b"4",
        ..Contents::default()
    };
    assert_eq!(
        q.1.put(arena, me, q.0, &more, &mut Patience::none()),
        Err(PutError::Full)
    );
    let start = Instant::now();
    let wait = Duration::from_millis(60);
    assert_eq!(
        q.1.put(arena, me, q.0, &more, &mut Patience::timeout(wait)),
        Err(PutError::Full)
    );
    assert!(start.elapsed() >= wait);
    std::thread::scope(|scope| {
        scope.spawn(|| put(arena, me, q, b"4"));
        assert_eq!(get(arena, me, q), [0]);
    });
    assert_eq!(q.1.len(), 3);
    q.1.close();
    assert_eq!(
        q.1.put(arena, me, q.0, &more, &mut Patience::none()),
        Err(PutError::Closed)
    );
    (0..3).for_each(|_| drop(get(arena, me, q)));
    let closed =
        q.1.get(arena, me, &mut Patience::forever(), &mut |_, _, _| {});
    assert_eq!(closed.err(), Some(GetError::Closed));
}

#[test]
fn tasks_done_are_counted() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let q = queue(arena, me, 0);
    assert_eq!(q.1.task_done(), Err(TooManyDone));
    put(arena, me, q, b"1");
    put(arena, me, q, b"2");
    drop(get(arena, me, q));
    q.1.task_done().expect("one was put");
    assert_eq!(q.1.unfinished(), 1);
    assert_eq!(
        q.1.join(&mut Patience::timeout(Duration::from_millis(30))),
        Err(WaitError::TimedOut)
    );
    std::thread::scope(|scope| {
        scope.spawn(|| q.1.join(&mut seconds(20)).expect("done in time"));
        q.1.task_done().expect("two were put");
    });
}

#[test]
fn producers_and_consumers_killed_at_random_lose_and_double_nothing() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let q = queue(arena, me, 0);
    let baseline = arena.stats().objects;
    let mut random = 88_172_645_463_325_252u64;
    for round in 0..40u64 {
        let put_count = counter(arena, me);
        // Each message carries its number; the count is written after the put: at most one ahead.
        let large = round % 2 == 0;
        let child = fork(arena, me, |who| {
            for n in 0u64.. {
                let mut bytes = vec![n as u8; if large { 70_000 } else { 200 }];
                bytes[..8].copy_from_slice(&n.to_le_bytes());
                put(arena, who, q, &bytes);
                put_count.store(n + 1, Ordering::SeqCst);
            }
        });
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        while put_count.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(random % 3000));
        child.kill();
        assert_eq!(child.wait(), -libc::SIGKILL);
        arena.reap(me, child.seat);
        let sure = put_count.load(Ordering::SeqCst);
        let there = u64::from(q.1.len());
        assert!(
            there == sure || there == sure + 1,
            "put {sure}, there {there}"
        );
        // The queue works on.
        put(arena, me, q, b"last....");
        for n in 0..there {
            let bytes = get(arena, me, q);
            assert_eq!(bytes[..8], n.to_le_bytes(), "round {round}");
            assert!(
                bytes[8..].iter().all(|&byte| byte == n as u8),
                "a torn message"
            );
        }
        assert_eq!(get(arena, me, q), b"last....");
        let leaked = arena.stats().objects as i64 - baseline as i64 - round as i64 - 1;
        assert!(
            leaked <= 1,
            "round {round}: {leaked} objects more than counters and a segment"
        );
    }
}

#[test]
fn consumers_killed_at_random_take_at_most_what_they_took() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    for round in 0..30u64 {
        let q = queue(arena, me, 0);
        let size = if round % 2 == 0 { 70_000 } else { 100 };
        for n in 0..300u64 {
            let mut bytes = vec![0; size];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            put(arena, me, q, &bytes);
        }
        let got = counter(arena, me);
        let child = fork(arena, me, |who| {
            for n in 0..u64::MAX {
                assert_eq!(get(arena, who, q)[..8], n.to_le_bytes());
                got.store(n + 1, Ordering::SeqCst);
            }
        });
        while got.load(Ordering::SeqCst) < 3 {
            std::thread::yield_now();
        }
        child.kill();
        assert_eq!(child.wait(), -libc::SIGKILL);
        arena.reap(me, child.seat);
        let sure = got.load(Ordering::SeqCst);
        let left = u64::from(q.1.len());
        assert!(
            left + sure == 300 || left + sure == 299,
            "took {sure}, left {left}"
        );
        for n in 300 - left..300 {
            assert_eq!(get(arena, me, q)[..8], n.to_le_bytes());
        }
        arena.release(me, q.0);
    }
    assert_eq!(
        arena.stats().objects,
        30,
        "the counters are all that is left"
    );
}

#[test]
fn what_a_dead_member_held_goes_back() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let before = arena.stats().objects;
    let child = fork(arena, me, |who| {
        for size in [10, 1000, 100_000, 5_000_000] {
            arena.allocate(who, size, Kind::Block).expect("memory");
        }
        let q = queue(arena, who, 0);
        put(arena, who, q, &[1; 100_000]);
    });
    assert_eq!(child.wait(), 0);
    assert_eq!(arena.stats().objects, before + 4 + 3);
    arena.reap(me, child.seat);
    arena.reap_orphans(me);
    assert_eq!(arena.stats().objects, before);
    assert!(arena.is_dead(child.seat));
    assert!(arena.members().iter().all(|member| member.id == me));
}

fn bounded_semaphore(
    arena: &'static Arena,
    me: MemberId,
    permits: u32,
) -> (&'static RawSemaphore, &'static [AtomicU32]) {
    let (kind, size) = (Kind::BoundedSemaphore, size_of::<RawSemaphore>());
    let all = size + RawSemaphore::owner_bytes(permits);
    let handle = arena.allocate(me, all, kind).expect("memory");
    let semaphore: &RawSemaphore = arena.object(handle, kind).expect("there");
    semaphore.prepare(permits, true);
    let owners = arena.objects(handle, kind, size, permits as usize);
    (semaphore, owners.expect("there"))
}

#[test]
fn a_bounded_semaphore_gives_the_permits_of_the_dead() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let (semaphore, owners) = bounded_semaphore(arena, me, 2);
    assert_eq!(semaphore.release(me, owners, 1), Err(ReleaseError::TooMany));
    let child = fork(arena, me, |who| {
        semaphore
            .acquire(arena, who, owners, &mut seconds(5))
            .expect("free");
        semaphore
            .acquire(arena, who, owners, &mut seconds(5))
            .expect("free");
        std::thread::sleep(Duration::from_secs(60));
    });
    while semaphore.value(owners) > 0 {
        std::thread::yield_now();
    }
    assert_eq!(
        semaphore.acquire(arena, me, owners, &mut Patience::none()),
        Err(WaitError::TimedOut)
    );
    child.kill();
    semaphore
        .acquire(arena, me, owners, &mut seconds(20))
        .expect("given back");
    semaphore
        .acquire(arena, me, owners, &mut seconds(20))
        .expect("given back");
    assert_eq!(child.wait(), -libc::SIGKILL);
    semaphore.release(me, owners, 2).expect("ours");
    assert_eq!(semaphore.value(owners), 2);
}

#[test]
fn a_permit_of_the_dead_comes_back_also_where_no_wait_lasts() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let (semaphore, owners) = bounded_semaphore(arena, me, 2);
    let child = fork(arena, me, |who| {
        let taken = semaphore.acquire(arena, who, owners, &mut seconds(5));
        taken.expect("free");
    });
    assert_eq!(child.wait(), 0);
    assert_eq!(semaphore.value(owners), 1);
    // They take turns at the permit that is left: hardly a sleep ends by itself.
    let (held, most) = (AtomicU32::new(0), AtomicU32::new(0));
    let both_are_there = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                both_are_there.wait();
                for _ in 0..500 {
                    let taken = semaphore.acquire(arena, me, owners, &mut seconds(5));
                    taken.expect("free in a moment");
                    most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(200));
                    held.fetch_sub(1, Ordering::SeqCst);
                    semaphore.release(me, owners, 1).expect("ours");
                }
            });
        }
    });
    assert_eq!(most.into_inner(), 2, "both permits are in use");
}

#[test]
fn a_plain_semaphore_counts() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawSemaphore>(), Kind::Semaphore)
        .expect("memory");
    let semaphore: &RawSemaphore = arena.object(handle, Kind::Semaphore).expect("there");
    semaphore.prepare(0, false);
    let done = counter(arena, me);
    let children: Vec<_> = (0..3)
        .map(|_| {
            fork(arena, me, |who| {
                for _ in 0..2000 {
                    semaphore
                        .acquire(arena, who, &[], &mut seconds(20))
                        .expect("in time");
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..6000 {
        semaphore.release(me, &[], 1).expect("no overflow");
    }
    assert!(children.iter().all(|child| child.wait() == 0));
    assert_eq!(
        (done.load(Ordering::SeqCst), semaphore.value(&[])),
        (6000, 0)
    );
    semaphore
        .release(me, &[], i32::MAX as u32)
        .expect("as many as there may be");
    assert_eq!(semaphore.release(me, &[], 1), Err(ReleaseError::Overflow));
}

#[test]
fn a_killed_waiter_costs_no_notification() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawWaitQueue>(), Kind::WaitQueue)
        .expect("memory");
    let waiters: &RawWaitQueue = arena.object(handle, Kind::WaitQueue).expect("there");
    let doomed = fork(arena, me, |who| {
        let ticket = waiters.enqueue(arena, who);
        waiters
            .wait(arena, who, ticket, &mut seconds(60))
            .expect("never");
    });
    while waiters.waiters() < 1 {
        std::thread::yield_now();
    }
    let lucky = fork(arena, me, |who| {
        let ticket = waiters.enqueue(arena, who);
        waiters
            .wait(arena, who, ticket, &mut seconds(10))
            .expect("notified");
        waiters.give_up(arena, who, ticket, true);
    });
    while waiters.waiters() < 2 {
        std::thread::yield_now();
    }
    doomed.kill();
    assert_eq!(doomed.wait(), -libc::SIGKILL);
    assert_eq!(waiters.notify(arena, me, 1), 1);
    assert_eq!(lucky.wait(), 0);
    assert_eq!((waiters.notify(arena, me, 5), waiters.waiters()), (0, 0));
}

/// `others` have a place when the second one comes.
fn notified_and_killed(others: u32) {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawWaitQueue>(), Kind::WaitQueue)
        .expect("memory");
    let waiters: &RawWaitQueue = arena.object(handle, Kind::WaitQueue).expect("there");
    let heard = counter(arena, me);
    let doomed = fork(arena, me, |who| {
        let ticket = waiters.enqueue(arena, who);
        waiters
            .wait(arena, who, ticket, &mut seconds(60))
            .expect("notified");
        heard.store(1, Ordering::SeqCst);
        // As one that waits for the lock.
        std::thread::sleep(Duration::from_secs(60));
    });
    while waiters.waiters() < 1 {
        std::thread::yield_now();
    }
    let tickets: Vec<Ticket> = (0..others).map(|_| waiters.enqueue(arena, me)).collect();
    let lucky = fork(arena, me, |who| {
        let ticket = waiters.enqueue(arena, who);
        waiters
            .wait(arena, who, ticket, &mut seconds(60))
            .expect("notified");
        waiters.give_up(arena, who, ticket, true);
    });
    while waiters.waiters() < others + 2 {
        std::thread::yield_now();
    }
    for ticket in tickets {
        waiters.give_up(arena, me, ticket, true);
    }
    assert_eq!(waiters.notify(arena, me, 1), 1);
    while heard.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    doomed.kill();
    assert_eq!(doomed.wait(), -libc::SIGKILL);
    let killed = Instant::now();
    assert_eq!(lucky.wait(), 0);
    assert!(killed.elapsed() < Duration::from_secs(15));
    assert_eq!((waiters.notify(arena, me, 5), waiters.waiters()), (0, 0));
}

#[test]
fn who_is_notified_and_killed_before_it_has_the_lock_costs_no_notification() {
    notified_and_killed(0);
    // The second one finds no place of its own.
    notified_and_killed(249);
}

#[test]
fn notify_wakes_as_many_as_it_says_and_a_time_out_gives_the_place_up() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawWaitQueue>(), Kind::WaitQueue)
        .expect("memory");
    let waiters: &RawWaitQueue = arena.object(handle, Kind::WaitQueue).expect("there");
    let ticket = waiters.enqueue(arena, me);
    assert_eq!(
        waiters.wait(
            arena,
            me,
            ticket,
            &mut Patience::timeout(Duration::from_millis(10))
        ),
        Err(WaitError::TimedOut)
    );
    assert_eq!(waiters.notify(arena, me, 1), 0);
    let woken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let ticket = waiters.enqueue(arena, me);
                waiters
                    .wait(arena, me, ticket, &mut seconds(20))
                    .expect("notified");
                waiters.give_up(arena, me, ticket, true);
                woken.fetch_add(1, Ordering::SeqCst);
            });
        }
        while waiters.waiters() < 5 {
            std::thread::yield_now();
        }
        assert_eq!(waiters.notify(arena, me, 2), 2);
        let deadline = Instant::now() + Duration::from_secs(10);
        while woken.load(Ordering::SeqCst) < 2 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(woken.load(Ordering::SeqCst), 2);
        assert_eq!(waiters.notify(arena, me, u32::MAX), 3);
    });
}

#[test]
fn an_event_lets_through_even_those_who_look_late() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, size_of::<RawEvent>(), Kind::Event)
        .expect("memory");
    let event: &RawEvent = arena.object(handle, Kind::Event).expect("there");
    assert_eq!(event.wait(&mut Patience::none()), Err(WaitError::TimedOut));
    let ready = counter(arena, me);
    let children: Vec<_> = (0..3)
        .map(|_| {
            fork(arena, me, |_| {
                ready.fetch_add(1, Ordering::SeqCst);
                event.wait(&mut seconds(10)).expect("set");
            })
        })
        .collect();
    while ready.load(Ordering::SeqCst) < 3 {
        std::thread::yield_now();
    }
    while !children.iter().all(Child::sleeps) {
        std::thread::yield_now();
    }
    // A pulse: set and cleared before the sleepers can have looked.
    event.set();
    event.clear();
    assert!(children.iter().all(|child| child.wait() == 0));
    assert!(!event.is_set());
}

fn barrier(
    arena: &'static Arena,
    me: MemberId,
    parties: u32,
) -> (&'static RawBarrier, &'static [AtomicU32]) {
    let size = size_of::<RawBarrier>();
    let handle = arena
        .allocate(me, size + RawBarrier::record_bytes(parties), Kind::Barrier)
        .expect("memory");
    let barrier: &RawBarrier = arena.object(handle, Kind::Barrier).expect("there");
    barrier.prepare(parties);
    (
        barrier,
        arena
            .objects(handle, Kind::Barrier, size, parties as usize * 2)
            .expect("there"),
    )
}

#[test]
fn a_barrier_lets_all_through_many_times() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let (barrier, records) = barrier(arena, me, 3);
    let rounds = counter(arena, me);
    let work = |who: MemberId| {
        for round in 0..200 {
            let arrival = barrier
                .arrive(arena, who, records, &mut seconds(20))
                .expect("through");
            if arrival.leader {
                assert_eq!(rounds.fetch_add(1, Ordering::SeqCst), round);
                barrier.finish(&arrival, records).expect("not broken");
            }
            assert!(rounds.load(Ordering::SeqCst) > round);
        }
        arena.leave(who);
    };
    let children: Vec<_> = (0..3).map(|_| fork(arena, me, work)).collect();
    assert!(children.iter().all(|child| child.wait() == 0));
    assert_eq!(rounds.load(Ordering::SeqCst), 200);
}

#[test]
fn a_barrier_breaks_when_a_party_dies_or_gives_up_and_mends_by_a_reset() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let (barrier, records) = barrier(arena, me, 3);
    let doomed = fork(arena, me, |who| {
        let _ = barrier.arrive(arena, who, records, &mut seconds(60));
    });
    let other = fork(arena, me, |who| {
        let error = barrier
            .arrive(arena, who, records, &mut seconds(10))
            .expect_err("broken");
        assert!(
            matches!(error, BarrierError::Broken { dead: Some(_) }),
            "{error:?}"
        );
    });
    while barrier.waiting(records) < 2 {
        std::thread::yield_now();
    }
    doomed.kill();
    assert_eq!(doomed.wait(), -libc::SIGKILL);
    assert_eq!(other.wait(), 0);
    assert!(barrier.is_broken());
    barrier
        .reset(arena, me, records, &mut seconds(5))
        .expect("reset");
    assert!(!barrier.is_broken());
    let error = barrier.arrive(
        arena,
        me,
        records,
        &mut Patience::timeout(Duration::from_millis(20)),
    );
    assert_eq!(error, Err(BarrierError::TimedOut));
    assert!(barrier.is_broken());
}

#[test]
fn a_writer_notices_a_dead_reader_though_others_keep_trying_to_read() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let handle = arena
        .allocate(me, 64 + RawRwLock::READERS * 8, Kind::RwLock)
        .expect("memory");
    let lock: &RawRwLock = arena.object(handle, Kind::RwLock).expect("there");
    let readers: &[AtomicU64] = arena
        .objects(handle, Kind::RwLock, 64, RawRwLock::READERS)
        .expect("there");
    let reads = counter(arena, me);
    let reader = fork(arena, me, |who| {
        lock.read(arena, who, readers, &mut seconds(10), &mut |_| {})
            .expect("it is free");
        reads.store(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(60));
    });
    while reads.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let written = lock.write(arena, me, readers, &mut seconds(60), &mut |_| {});
            (written, Instant::now())
        });
        while lock.writer().is_none() {
            std::thread::yield_now();
        }
        // Past its first look.
        std::thread::sleep(Duration::from_millis(20));
        reader.kill();
        let killed = Instant::now();
        while !writer.is_finished() && killed.elapsed() < Duration::from_secs(20) {
            assert!(!lock.try_read(me, readers), "there is a writer");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (written, at) = writer.join().expect("no panic");
        assert_eq!(written, Ok(()));
        assert!(at - killed < Duration::from_secs(15), "{:?}", at - killed);
    });
    assert_eq!(reader.wait(), -libc::SIGKILL);
}

#[test]
fn what_the_dead_hold_goes_back_before_their_parents_look_after_them() {
    let arena = arena();
    let me = arena.enroll("me").expect("member");
    let before = arena.stats().objects;
    let token = || arena.allocate(me, 8, Kind::Block).expect("memory");

    // A message that mentions it, and that a dead one had in its hands.
    let mentioned = token();
    let reader = fork(arena, me, |who| {
        let contents = Contents {
            mentions: &[mentioned],
            ..Contents::default()
        };
        arena.write_parcel(who, &contents).expect("memory");
    });
    assert_eq!(reader.wait(), 0);
    arena.release(me, mentioned);
    assert!(arena.release_dead(me, mentioned), "a message holds it");
    arena.give_back_dead(me);
    assert!(arena.kind(mentioned).is_err(), "nobody holds it");
    assert!(!arena.release_dead(me, mentioned));
    // Its parent can still ask who it was.
    assert!(arena.member(reader.seat).is_some());
    arena.reap(me, reader.seat);

    // A seat that one who has died since kept for a child.
    let lent = token();
    let parent = fork(arena, me, |who| {
        let seat = arena
            .reserve_member(Some(who), "a child", Role::Process)
            .expect("a seat");
        arena.lend(seat, lent).expect("there");
    });
    assert_eq!(parent.wait(), 0);
    arena.release(me, lent);
    assert!(!arena.release_dead(me, lent));
    assert!(arena.kind(lent).is_err(), "nobody holds it");
    arena.reap(me, parent.seat);
    assert_eq!(arena.stats().objects, before);
}
