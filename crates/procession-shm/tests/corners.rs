//! Scenarios that once went wrong, or nearly.

#![allow(unsafe_code, reason = "the tests fork")]

mod forked;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use forked::{fork, wait};
use procession_shm::*;

fn arena() -> &'static Arena {
    Box::leak(Box::new(Arena::create(1 << 30).expect("arena")))
}

fn seconds<'a>(n: u64) -> Patience<'a> {
    Patience::timeout(Duration::from_secs(n))
}

fn object<T: Shared>(arena: &'static Arena, me: MemberId, kind: Kind) -> &'static T {
    let handle = arena.allocate(me, size_of::<T>(), kind).expect("memory");
    arena.object(handle, kind).expect("there")
}

fn kill(pid: i32) {
    // SAFETY: our own descendant, which nobody has waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it never comes about");
        std::thread::yield_now();
    }
}

#[test]
fn who_is_out_of_descriptors_takes_nobody_for_dead() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let lock: &RawLock = object(arena, me, Kind::Lock);
    assert!(lock.try_take(me));
    let (pid, _) = fork(arena, me, |who| {
        let none = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `none` is a valid limit, for this process alone.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) }, 0);
        assert!(std::fs::File::open("/proc/self/stat").is_err());
        assert!(!arena.is_dead(me));
        let wait = &mut Patience::timeout(Duration::from_millis(120));
        assert_eq!(lock.acquire(arena, who, wait), Err(WaitError::TimedOut));
    });
    assert_eq!(wait(pid, "a corner"), 0);
    assert_eq!(lock.owner(), Some(me));
    lock.release().expect("held");
}

#[test]
fn who_leaves_at_its_end_counts_as_alive_until_then_and_as_one_that_has_left_from_then_on() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let made = arena.allocate(me, 64, Kind::Block).expect("memory");
    let words: &[AtomicU32] = arena.objects(made, Kind::Block, 0, 2).expect("there");
    let (pid, who) = fork(arena, me, |own| {
        let held = arena.allocate(own, 64, Kind::Lock).expect("memory");
        words[1].store(own.to_raw(), Ordering::SeqCst);
        let lock: &RawLock = arena.object(held, Kind::Lock).expect("there");
        assert!(lock.try_take(own));
        arena.leave_at_end(own);
        words[0].store(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(60));
    });
    until(|| words[0].load(Ordering::SeqCst) == 1);
    let before = arena.stats().objects;
    arena.reap_orphans(me);
    assert!(!arena.is_dead(who));
    assert!(arena.has_left(who));
    assert_eq!(arena.stats().objects, before, "what it holds");
    kill(pid);
    until(|| arena.is_dead(who));
    assert!(arena.has_left(who));
    arena.reap(me, who);
    assert_eq!(arena.stats().objects, before - 1);
    assert!(arena.has_left(who), "also of the last user of an entry");
    // The next user of the entry has said nothing yet.
    let (pid, next) = fork(arena, me, |_| std::thread::sleep(Duration::from_secs(60)));
    assert_eq!(next.to_raw() & 0xfff, who.to_raw() & 0xfff);
    assert!(!arena.has_left(next));
    kill(pid);
    assert!(!arena.has_left(next));
}

#[test]
fn who_has_left_but_runs_on_keeps_its_entry() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let shared = arena.allocate(me, 64, Kind::Block).expect("memory");
    let words: &[AtomicU32] = arena.objects(shared, Kind::Block, 0, 2).expect("there");
    let (parent, _) = fork(arena, me, |who| {
        let (pid, seat) = fork(arena, who, |own| {
            arena.leave(own);
            std::thread::sleep(Duration::from_secs(60));
        });
        words[1].store(seat.to_raw(), Ordering::SeqCst);
        words[0].store(pid as u32, Ordering::SeqCst);
    });
    assert_eq!(wait(parent, "a corner"), 0);
    let orphan = words[0].load(Ordering::SeqCst) as i32;
    let seat = MemberId::from_raw(words[1].load(Ordering::SeqCst)).expect("a seat");
    until(|| arena.has_left(seat));
    arena.reap_orphans(me);
    // The same entry twice would be the same reference bits twice.
    let index = |id: MemberId| id.to_raw() & 0xfff;
    let kept = (0..4).all(|_| {
        let next = arena.reserve_member(Some(me), "next", Role::Process);
        index(next.expect("a seat")) != index(seat)
    });
    kill(orphan);
    assert!(kept, "its entry was given to another while it ran");
    until(|| {
        arena.reap_orphans(me);
        arena
            .members()
            .iter()
            .all(|member| index(member.id) != index(seat))
    });
}

#[test]
fn memory_of_every_length_comes_back_as_zeros() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    for length in [
        1,
        64,
        4096,
        32_769,
        40_000,
        65_535,
        65_536,
        65_537,
        131_072,
        1 << 20,
    ] {
        for second in [length, length - length / 5] {
            let first = arena.allocate(me, length, Kind::Block).expect("memory");
            arena
                .copy_in(first, Kind::Block, 0, &vec![0xee; length])
                .expect("there");
            arena.release(me, first);
            let again = arena.allocate(me, second, Kind::Block).expect("memory");
            let mut bytes = vec![1; second];
            arena
                .copy_out(again, Kind::Block, 0, &mut bytes)
                .expect("there");
            assert!(bytes.iter().all(|&byte| byte == 0), "{length}, {second}");
            arena.release(me, again);
        }
    }
}

#[test]
fn slots_are_found_again_however_many_claim_and_free_at_once() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let places = std::sync::Mutex::new(std::collections::HashSet::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    let handle = arena.allocate(me, 100_000, Kind::Block).expect("memory");
                    let place = arena.address(handle).expect("there") as usize;
                    places.lock().expect("no panic").insert(place);
                    arena.release(me, handle);
                }
            });
        }
    });
    // Four at a time; the table is recounted as it doubles.
    let used = places.lock().expect("no panic").len();
    assert!(used <= 128, "{used} slots for four blocks");
    assert_eq!(arena.stats().objects, 0);
}

#[test]
fn a_dead_member_is_reaped_once_by_whichever_thread() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    for _ in 0..30 {
        let (pid, seat) = fork(arena, me, |who| {
            for _ in 0..50 {
                arena.allocate(who, 100, Kind::Block).expect("memory");
            }
        });
        assert_eq!(wait(pid, "a corner"), 0);
        let next = std::sync::Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    arena.reap(me, seat);
                    // As soon as one is done the entry may have a new user, who must keep what it takes.
                    let mut next = next.lock().expect("no panic");
                    if next.is_none() && arena.stats().objects == 0 {
                        let new = arena.enroll("new").expect("a member");
                        let objects: Vec<Handle> = (0..50)
                            .map(|_| arena.allocate(new, 100, Kind::Block).expect("memory"))
                            .collect();
                        *next = Some((new, objects));
                    }
                });
            }
        });
        let (new, objects) = next
            .into_inner()
            .expect("no panic")
            .expect("all was given back");
        for object in &objects {
            assert!(arena.length(*object).is_ok(), "freed under its holder");
        }
        arena.leave(new);
        arena.reap(me, new);
        assert_eq!(arena.stats().objects, 0);
    }
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
    let records = arena
        .objects(handle, Kind::Barrier, size, parties as usize * 2)
        .expect("there");
    (barrier, records)
}

#[test]
fn two_resets_in_a_row_let_nobody_through() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let (barrier, records) = barrier(arena, me, 2);
    for _ in 0..200 {
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| barrier.arrive(arena, me, records, &mut seconds(20)));
            until(|| barrier.waiting(records) == 1);
            for _ in 0..2 {
                barrier
                    .reset(arena, me, records, &mut seconds(5))
                    .expect("the lock is free");
            }
            let result = waiter.join().expect("no panic");
            assert_eq!(result, Err(BarrierError::Broken { dead: None }));
        });
    }
    assert!(!barrier.is_broken());
}

#[test]
fn a_leader_that_comes_too_late_does_no_harm_to_the_next_round() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let (barrier, records) = barrier(arena, me, 2);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| barrier.arrive(arena, me, records, &mut seconds(20)));
        until(|| barrier.waiting(records) == 1);
        let leader = barrier
            .arrive(arena, me, records, &mut seconds(20))
            .expect("all there");
        assert!(leader.leader);
        barrier
            .reset(arena, me, records, &mut seconds(5))
            .expect("the lock is free");
        assert!(first.join().expect("no panic").is_err());
        let next = scope.spawn(|| barrier.arrive(arena, me, records, &mut seconds(20)));
        until(|| barrier.waiting(records) == 1);
        assert!(barrier.finish(&leader, records).is_err());
        assert_eq!(barrier.waiting(records), 1);
        let leader = barrier
            .arrive(arena, me, records, &mut seconds(20))
            .expect("all there");
        barrier.finish(&leader, records).expect("not broken");
        assert!(next.join().expect("no panic").is_ok());
    });
}

#[test]
fn a_time_out_at_the_moment_of_the_last_arrival_is_all_or_nothing() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let (barrier, records) = barrier(arena, me, 2);
    let arrive = |mut patience: Patience<'_>| {
        let arrival = barrier.arrive(arena, me, records, &mut patience)?;
        if arrival.leader {
            barrier.finish(&arrival, records)?;
        }
        Ok::<(), BarrierError>(())
    };
    let mut through = 0;
    // A busy machine may be late each time, for a while.
    let deadline = Instant::now() + Duration::from_secs(20);
    for round in 0u64.. {
        if round >= 300 && (through > 0 || Instant::now() > deadline) {
            break;
        }
        let wait = Duration::from_micros(200 + round % 60 * 10);
        std::thread::scope(|scope| {
            let one = scope.spawn(|| arrive(Patience::timeout(wait)));
            std::thread::sleep(wait.mul_f64(0.7));
            let other = arrive(seconds(20));
            let one = one.join().expect("no panic");
            assert_eq!(one.is_ok(), other.is_ok(), "{one:?} {other:?}");
            through += u32::from(one.is_ok());
        });
        barrier
            .reset(arena, me, records, &mut seconds(5))
            .expect("the lock is free");
    }
    assert!(through > 0, "each and every time-out came first");
}

#[test]
fn an_interrupted_waiter_hands_its_notification_on() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let waiters: &RawWaitQueue = object(arena, me, Kind::WaitQueue);
    let first = waiters.enqueue(arena, me);
    let second = waiters.enqueue(arena, me);
    let notified = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| waiters.wait(arena, me, second, &mut seconds(20)));
        // Give it time to go to sleep; it makes no difference to the result.
        std::thread::sleep(Duration::from_millis(5));
        // The hook runs when the first sleep has ended by itself, and the notification comes then.
        let mut hook = || {
            if !notified.swap(true, Ordering::SeqCst) {
                assert_eq!(waiters.notify(arena, me, 1), 1);
            }
            true
        };
        let result = waiters.wait(arena, me, first, &mut seconds(20).with_interrupt(&mut hook));
        assert_eq!(result, Err(WaitError::Interrupted));
        assert_eq!(other.join().expect("no panic"), Ok(()));
    });
    assert_eq!(waiters.waiters(), 0);
}

#[test]
fn an_interruption_takes_no_permit_and_is_not_swallowed() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let semaphore: &RawSemaphore = object(arena, me, Kind::Semaphore);
    semaphore.prepare(0, false);
    let mut hook = || {
        semaphore.release(me, &[], 1).expect("no overflow");
        true
    };
    let result = semaphore.acquire(arena, me, &[], &mut seconds(20).with_interrupt(&mut hook));
    assert_eq!(result, Err(WaitError::Interrupted));
    assert_eq!(semaphore.value(&[]), 1);
    let event: &RawEvent = object(arena, me, Kind::Event);
    let mut hook = || {
        event.set();
        true
    };
    let result = event.wait(&mut seconds(20).with_interrupt(&mut hook));
    assert_eq!(result, Err(WaitError::Interrupted));
}

fn queue(arena: &'static Arena, me: MemberId, capacity: u32) -> (Handle, &'static RawQueue) {
    let handle = arena
        .allocate(me, size_of::<RawQueue>(), Kind::Queue)
        .expect("memory");
    let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
    queue.prepare(arena, me, handle, capacity).expect("memory");
    (handle, queue)
}

#[test]
fn a_put_wakes_one_who_takes_though_others_only_look() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let (handle, queue) = queue(arena, me, 0);
    let mut slept = Vec::new();
    for _ in 0..20 {
        std::thread::scope(|scope| {
            // The one who looks went to sleep first: it is woken first, and looking stays all it does.
            let looker = scope.spawn(|| queue.wait_readable(&mut seconds(20)));
            std::thread::sleep(Duration::from_millis(2));
            let taker = scope.spawn(|| queue.get(arena, me, &mut seconds(20), &mut |_, _, _| {}));
            std::thread::sleep(Duration::from_millis(2));
            let start = Instant::now();
            queue
                .put(arena, me, handle, &Contents::default(), &mut seconds(20))
                .expect("put");
            assert!(taker.join().expect("no panic").is_ok());
            slept.push(start.elapsed().as_millis());
            queue
                .put(arena, me, handle, &Contents::default(), &mut seconds(20))
                .expect("put");
            looker.join().expect("no panic").expect("in time");
            queue
                .get(arena, me, &mut seconds(20), &mut |_, _, _| {})
                .expect("there");
        });
    }
    // Sleepers look by themselves after 250 ms. A busy machine may be as late once or twice.
    slept.sort_unstable();
    assert!(slept[17] < 200, "{slept:?} ms: nobody woke it");
}

/// Calls again if it gave up because another thread had that side of the queue in its hands for 250 ms.
fn at_once<T, E: PartialEq + std::fmt::Debug>(call: impl Fn() -> Result<T, E>, gives_up: &E) -> T {
    loop {
        let start = Instant::now();
        match call() {
            Ok(done) => return done,
            Err(error) => assert_eq!(&error, gives_up),
        }
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(250), "{gives_up:?} at once");
    }
}

#[test]
fn neither_full_nor_empty_is_said_of_a_queue_that_never_is() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let (handle, queue) = queue(arena, me, 4);
    // Between one and three messages at any time: each of two threads takes one only after it put one.
    queue
        .put(
            arena,
            me,
            handle,
            &Contents::default(),
            &mut Patience::none(),
        )
        .expect("room");
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..3000 {
                    let put = || {
                        let none = &mut Patience::none();
                        queue.put(arena, me, handle, &Contents::default(), none)
                    };
                    let get = || queue.get(arena, me, &mut Patience::none(), &mut |_, _, _| {});
                    at_once(put, &PutError::Full);
                    drop(at_once(get, &GetError::Empty));
                }
            });
        }
        for _ in 0..20_000 {
            assert!((1..=3).contains(&queue.len()));
        }
    });
}

#[test]
fn several_at_once_keep_their_place_among_single_ones() {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let handle = arena
        .allocate(me, size_of::<RawQueue>(), Kind::Queue)
        .expect("memory");
    let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
    queue.prepare(arena, me, handle, 0).expect("memory");
    let long = vec![9; 100_000];
    let mut records = Records::default();
    assert!(
        !records.push(0, &[&[0; Records::LONGEST]]),
        "it is too long"
    );
    for n in 0..300u32 {
        if n % 10 == 9 {
            // Every other one is a parcel.
            let bytes = if n % 20 == 9 { &long[..] } else { b"alone" };
            let contents = Contents {
                tag: n,
                bytes,
                buffers: &[],
                mentions: &[],
            };
            queue
                .put(arena, me, handle, &contents, &mut seconds(1))
                .expect("has memory");
            continue;
        }
        assert!(records.push(n, &[&n.to_le_bytes(), &long[..n as usize]]));
        if n % 10 == 8 {
            queue
                .put_records(arena, me, handle, &records, &mut seconds(1))
                .expect("has memory");
            records.clear();
        }
    }
    let mut next = 0;
    while next < 300 {
        queue
            .take_records(arena, me, 7, 1000, &mut records)
            .expect("is sound");
        assert!(records.count() <= 7);
        for (tag, body) in records.iter() {
            assert_eq!(tag, next);
            if next % 10 == 9 {
                assert_eq!(body, b"alone");
            } else {
                assert_eq!(
                    body,
                    [&next.to_le_bytes()[..], &long[..next as usize]].concat()
                );
            }
            next += 1;
        }
        if records.count() == 0 {
            let Ok(Entry::Parcel { handle, view }) =
                queue.get(arena, me, &mut Patience::none(), &mut |_, _, _| {})
            else {
                panic!("{next} is a parcel");
            };
            assert_eq!((view.tag, next % 20), (next, 9));
            arena.release(me, handle);
            next += 1;
        }
    }
    assert_eq!((queue.len(), queue.taken()), (0, 300));
    queue.close();
    assert!(records.push(0, &[b"late"]));
    let late = queue.put_records(arena, me, handle, &records, &mut Patience::none());
    assert_eq!(late, Err(PutError::Closed));
}

/// A process whose parent has died waits for a message; its sister, who holds the same queue, until all in another
/// queue is done, where `put` messages lie and `taken` were taken and not reported done. Whether the first one's wait is in vain.
fn is_in_vain_beside_one_who_joins(put: u32, taken: u32, done: u32) -> bool {
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let shared = arena.allocate(me, 64, Kind::Block).expect("memory");
    let words: &[AtomicU32] = arena.objects(shared, Kind::Block, 0, 4).expect("there");
    let [joins, ready, may_begin, answer] = [0, 1, 2, 3].map(|at| &words[at]);
    let (parent, parents_id) = fork(arena, me, |parent| {
        let (awaited, _) = queue(arena, parent, 0);
        let (joined, messages) = queue(arena, parent, 0);
        for _ in 0..put {
            messages
                .put(arena, parent, joined, &Contents::default(), &mut seconds(1))
                .expect("has memory");
        }
        for _ in 0..taken {
            let got = messages.get(arena, parent, &mut seconds(1), &mut |_, _, _| {});
            got.expect("it is there");
        }
        (0..done).for_each(|_| messages.task_done().expect("they were put"));
        let (pid, _) = fork(arena, parent, |own| {
            arena.acquire(own, awaited).expect("its parent holds it");
            arena.acquire(own, joined).expect("its parent holds it");
            let wait = Waiter::lone(own, joined, Wanted::Done);
            let _written = arena.publish_wait(&wait).expect("there is room");
            ready.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(60));
        });
        joins.store(pid as u32, Ordering::SeqCst);
        fork(arena, parent, |own| {
            arena.acquire(own, awaited).expect("its parent holds it");
            let wait = Waiter::lone(own, awaited, Wanted::Message);
            ready.fetch_add(1, Ordering::SeqCst);
            until(|| may_begin.load(Ordering::SeqCst) == 1);
            let found = arena.orphaned_waits(&wait).is_some();
            answer.store(1 + u32::from(found), Ordering::SeqCst);
        });
        until(|| ready.load(Ordering::SeqCst) == 2);
    });
    assert_eq!(wait(parent, "the parent"), 0);
    assert!(arena.is_dead(parents_id));
    may_begin.store(1, Ordering::SeqCst);
    until(|| answer.load(Ordering::SeqCst) != 0);
    kill(joins.load(Ordering::SeqCst) as i32);
    answer.load(Ordering::SeqCst) == 2
}

#[test]
fn who_joins_a_queue_waits_for_what_is_to_be_done_and_not_for_a_message() {
    assert!(is_in_vain_beside_one_who_joins(1, 0, 0), "one to be taken");
    assert!(is_in_vain_beside_one_who_joins(1, 1, 0), "one to be done");
    // It is about to go on, and may put what the other waits for.
    assert!(!is_in_vain_beside_one_who_joins(1, 1, 1), "all is done");
}

#[test]
fn queues_in_messages_in_queues_are_freed_on_any_stack() {
    const MANY: usize = 4000;
    let arena = arena();
    let me = arena.enroll("me").expect("a member");
    let before = arena.stats().objects;
    let mut outermost = queue(arena, me, 0).0;
    for _ in 1..MANY {
        let (next, messages) = queue(arena, me, 0);
        let contents = Contents {
            mentions: &[outermost],
            ..Contents::default()
        };
        let put = messages.put(arena, me, next, &contents, &mut seconds(1));
        put.expect("has memory");
        arena.release(me, outermost);
        outermost = next;
    }
    assert!(arena.stats().objects >= before + MANY);
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let frees = small.spawn(move || arena.release(me, outermost));
    frees.expect("starts").join().expect("no panic");
    assert_eq!(arena.stats().objects, before);
}
