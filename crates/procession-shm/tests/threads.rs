//! Threads of one process at the shared structures, with plain data in between: whoever looks for data
//! races and for undefined behaviour (ci/miri.sh, ci/tsan.sh) sees here whether what one side writes
//! before it lets go is there for who comes next.

#![allow(unsafe_code, reason = "plain data that the structures alone protect")]

use std::cell::UnsafeCell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use procession_shm::*;

/// Miri is some thousand times slower.
const ROUNDS: u64 = if cfg!(miri) { 15 } else { 3000 };
const THREADS: u64 = 3;

fn arena() -> &'static Arena {
    let bytes = if cfg!(miri) { 1 << 24 } else { 1 << 28 };
    Box::leak(Box::new(Arena::create(bytes).expect("an arena")))
}

/// Long enough for Miri, and bounded.
fn patience() -> Patience<'static> {
    Patience::timeout(Duration::from_secs(if cfg!(miri) { 1000 } else { 100 }))
}

/// A member for each thread, and one more that sets up.
fn members(arena: &Arena) -> (MemberId, Vec<MemberId>) {
    let enroll = |_| arena.enroll("a thread").expect("a place");
    (
        arena.enroll("set-up").expect("a place"),
        (0..THREADS).map(enroll).collect(),
    )
}

fn object<T: Shared>(
    arena: &'static Arena,
    me: MemberId,
    kind: Kind,
    more: usize,
) -> (Handle, &'static T) {
    let handle = arena
        .allocate(me, size_of::<T>() + more, kind)
        .expect("memory");
    (handle, arena.object(handle, kind).expect("there"))
}

/// Two numbers that are always equal for who may look.
struct Plain(UnsafeCell<[u64; 2]>);

// SAFETY: that is what is tested: each use is under the protection of a structure.
unsafe impl Sync for Plain {}

impl Plain {
    const fn new() -> Plain {
        Plain(UnsafeCell::new([0; 2]))
    }

    fn raise(&self) {
        let pair = self.0.get();
        // SAFETY: the caller is alone with it, if the structure under test is right.
        let [one, other] = unsafe { pair.read() };
        assert_eq!(one, other);
        // SAFETY: as above.
        unsafe { pair.write([one + 1, other + 1]) };
    }

    fn look(&self) -> u64 {
        // SAFETY: nobody changes it now, if the structure under test is right.
        let [one, other] = unsafe { self.0.get().read() };
        assert_eq!(one, other);
        one
    }
}

fn each(members: &[MemberId], work: impl Fn(MemberId) + Sync) {
    std::thread::scope(|scope| {
        for &who in members {
            scope.spawn({
                let work = &work;
                move || work(who)
            });
        }
    });
}

#[test]
fn a_lock_hands_on_what_it_protects() {
    let arena = arena();
    let (me, members) = members(arena);
    let (_, lock): (_, &RawLock) = object(arena, me, Kind::Lock, 0);
    let plain = Plain::new();
    each(&members, |who| {
        for _ in 0..ROUNDS {
            let _ = lock.acquire(arena, who, &mut patience()).expect("in time");
            plain.raise();
            lock.release().expect("held");
        }
    });
    assert_eq!(plain.look(), THREADS * ROUNDS);
    assert_eq!(lock.waiters(), 0);
}

#[test]
fn a_recursive_lock_does_too() {
    let arena = arena();
    let (me, members) = members(arena);
    let (_, lock): (_, &RawRLock) = object(arena, me, Kind::RLock, 0);
    let plain = Plain::new();
    each(&members, |who| {
        for _ in 0..ROUNDS {
            let _ = lock
                .acquire(arena, who, 1, &mut patience())
                .expect("in time");
            assert!(lock.try_take(who, 1), "it is held already");
            plain.raise();
            lock.release(who).expect("held twice");
            lock.release(who).expect("held once");
        }
    });
    assert_eq!(plain.look(), THREADS * ROUNDS);
}

#[test]
fn readers_see_what_the_writer_before_them_wrote() {
    const BEHIND: usize = size_of::<RawRwLock>().next_multiple_of(8);
    let arena = arena();
    let (me, members) = members(arena);
    let words = size_of::<AtomicU64>() * RawRwLock::READERS + BEHIND;
    let (handle, lock): (_, &RawRwLock) = object(arena, me, Kind::RwLock, words);
    let readers: &[AtomicU64] = arena
        .objects(handle, Kind::RwLock, BEHIND, RawRwLock::READERS)
        .expect("there");
    let plain = Plain::new();
    let nobody_dies = &mut |who| panic!("{who:?} is not dead");
    each(&members, |who| {
        for round in 0..ROUNDS {
            if round % 3 == 0 {
                lock.write(arena, who, readers, &mut patience(), &mut |_| panic!())
                    .expect("in time");
                plain.raise();
                lock.release_write();
            } else {
                lock.read(arena, who, readers, &mut patience(), &mut |_| panic!())
                    .expect("in time");
                plain.look();
                lock.release_read(who, readers);
            }
        }
    });
    lock.read(arena, me, readers, &mut patience(), nobody_dies)
        .expect("free");
    assert_eq!(plain.look(), THREADS * ROUNDS.div_ceil(3));
}

#[test]
fn what_is_done_once_is_seen_by_all() {
    let arena = arena();
    let (me, members) = members(arena);
    for _ in 0..ROUNDS.min(200) {
        let (handle, once): (_, &RawOnce) = object(arena, me, Kind::Once, 0);
        let plain = Plain::new();
        each(&members, |who| {
            match once.begin(arena, who, &mut patience()).expect("in time") {
                Turn::Mine { after_death } => {
                    assert!(!after_death);
                    plain.raise();
                    once.finish();
                }
                Turn::Done => {}
            }
            assert_eq!(plain.look(), 1);
        });
        arena.release(me, handle);
    }
}

#[test]
fn semaphores_hand_on_what_was_done_before_a_release() {
    let arena = arena();
    let (me, members) = members(arena);
    for bounded in [false, true] {
        let bytes = if bounded {
            RawSemaphore::owner_bytes(1)
        } else {
            0
        };
        let (handle, semaphore): (_, &RawSemaphore) = object(arena, me, Kind::Semaphore, bytes);
        let owners: &[AtomicU32] = arena
            .objects(
                handle,
                Kind::Semaphore,
                size_of::<RawSemaphore>(),
                bytes / size_of::<AtomicU32>(),
            )
            .expect("there");
        semaphore.prepare(1, bounded);
        let plain = Plain::new();
        each(&members, |who| {
            for _ in 0..ROUNDS {
                semaphore
                    .acquire(arena, who, owners, &mut patience())
                    .expect("in time");
                plain.raise();
                semaphore.release(who, owners, 1).expect("held");
            }
        });
        assert_eq!(plain.look(), THREADS * ROUNDS);
    }
}

#[test]
fn an_event_and_a_notification_bring_along_what_was_done_before() {
    let arena = arena();
    let (me, members) = members(arena);
    for _ in 0..ROUNDS.min(100) {
        let (told, event): (_, &RawEvent) = object(arena, me, Kind::Event, 0);
        let (queued, waiters): (_, &RawWaitQueue) = object(arena, me, Kind::WaitQueue, 0);
        let (set, notified) = (Plain::new(), Plain::new());
        std::thread::scope(|scope| {
            for &who in &members {
                let (set, notified) = (&set, &notified);
                scope.spawn(move || {
                    event.wait(&mut patience()).expect("set");
                    assert_eq!(set.look(), 1);
                    let ticket = waiters.enqueue(arena, who);
                    waiters
                        .wait(arena, who, ticket, &mut patience())
                        .expect("notified");
                    assert_eq!(notified.look(), 1);
                    waiters.give_up(arena, who, ticket, true);
                });
            }
            set.raise();
            event.set();
            while u64::from(waiters.waiters()) < THREADS {
                std::thread::yield_now();
            }
            notified.raise();
            assert_eq!(u64::from(waiters.notify(arena, me, u32::MAX)), THREADS);
        });
        arena.release(me, told);
        arena.release(me, queued);
    }
}

#[test]
fn parties_of_a_barrier_see_what_the_others_did_before_it() {
    let arena = arena();
    let (me, members) = members(arena);
    let parties = THREADS as u32;
    let (handle, barrier): (_, &RawBarrier) =
        object(arena, me, Kind::Barrier, RawBarrier::record_bytes(parties));
    barrier.prepare(parties);
    let records: &[AtomicU32] = arena
        .objects(
            handle,
            Kind::Barrier,
            size_of::<RawBarrier>(),
            parties as usize * 2,
        )
        .expect("there");
    let plains = [const { Plain::new() }; THREADS as usize];
    each(&members, |who| {
        let mine = members
            .iter()
            .position(|&each| each == who)
            .expect("one of them");
        let through = || {
            let arrival = barrier
                .arrive(arena, who, records, &mut patience())
                .expect("not broken");
            if arrival.leader {
                barrier.finish(&arrival, records).expect("not broken");
            }
        };
        for round in 0..ROUNDS.min(300) {
            plains[mine].raise();
            through();
            assert!(plains.iter().all(|plain| plain.look() == round + 1));
            through();
        }
    });
}

fn queue(arena: &'static Arena, me: MemberId, capacity: u32) -> (Handle, &'static RawQueue) {
    let (handle, queue): (_, &RawQueue) = object(arena, me, Kind::Queue, 0);
    queue.prepare(arena, me, handle, capacity).expect("memory");
    (handle, queue)
}

#[test]
fn messages_go_from_several_threads_to_several() {
    let arena = arena();
    let (me, members) = members(arena);
    // The largest goes by itself, as a parcel; the others make the ring go round, and grow.
    let sizes = [8, 40, 900, if cfg!(miri) { 3000 } else { 20_000 }, 70_000];
    // An unbounded queue may come to hold them all.
    let rounds: u64 = if cfg!(miri) { 5 } else { 500 };
    for capacity in [0, 3] {
        let before = arena.stats().objects;
        let (handle, queue) = queue(arena, me, capacity);
        let sum = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for &who in &members {
                let sum = &sum;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let mut bytes = vec![round as u8; sizes[round as usize % sizes.len()]];
                        bytes[..8].copy_from_slice(&(round + 1).to_le_bytes());
                        let contents = Contents {
                            bytes: &bytes,
                            ..Contents::default()
                        };
                        queue
                            .put(arena, who, handle, &contents, &mut patience())
                            .expect("put");
                    }
                });
                scope.spawn(move || {
                    for _ in 0..rounds {
                        let entry = queue
                            .get(arena, who, &mut patience(), &mut |_, _, _| {})
                            .expect("a message");
                        let bytes = match entry {
                            Entry::Inline { bytes, .. } => bytes,
                            Entry::Parcel { handle, view } => {
                                arena.release(who, handle);
                                view.bytes
                            }
                        };
                        let number = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
                        assert_eq!(bytes[8..], vec![(number - 1) as u8; bytes.len() - 8]);
                        sum.fetch_add(number, Ordering::Relaxed);
                        queue.task_done().expect("one was put");
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), THREADS * rounds * (rounds + 1) / 2);
        queue.join(&mut patience()).expect("all are done");
        assert_eq!((queue.len(), queue.unfinished()), (0, 0));
        arena.release(me, handle);
        assert_eq!(arena.stats().objects, before);
    }
}

#[test]
fn objects_are_made_shared_and_freed_by_several_threads() {
    let arena = arena();
    let (me, members) = members(arena);
    let before = arena.stats();
    let (passed_on, queue) = queue(arena, me, 0);
    each(&members, |who| {
        for round in 0..ROUNDS.min(1000) {
            let size = 64 << (round % 4);
            let block = arena.allocate(who, size, Kind::Block).expect("memory");
            arena
                .copy_in(block, Kind::Block, 0, &[round as u8; 64])
                .expect("there");
            let contents = Contents {
                bytes: b"x",
                mentions: &[block],
                ..Contents::default()
            };
            queue
                .put(arena, who, passed_on, &contents, &mut patience())
                .expect("put");
            arena.release(who, block);
            let entry = queue
                .get(arena, who, &mut patience(), &mut |_, _, _| {})
                .expect("somebody's");
            let Entry::Parcel { handle, view } = entry else {
                panic!("what mentions something is a parcel");
            };
            let mentioned = view.mentions;
            for &block in &mentioned {
                arena.acquire(who, block).expect("the parcel keeps it");
            }
            arena.release(who, handle);
            assert_eq!(mentioned.len(), 1);
            for block in mentioned {
                let mut bytes = [0; 64];
                arena
                    .copy_out(block, Kind::Block, 0, &mut bytes)
                    .expect("it is held");
                assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                arena.release(who, block);
            }
        }
    });
    arena.release(me, passed_on);
    assert_eq!(arena.stats().objects, before.objects);
}

#[test]
fn chunks_are_written_in_turns_and_read_by_all_once_frozen() {
    static PLACE: OnceLock<(&'static Arena, MemberId)> = OnceLock::new();
    let arena = arena();
    let me = arena.enroll("all threads").expect("a place");
    PLACE.set((arena, me)).expect("set once");
    let home = Home {
        arena,
        me: || PLACE.get().expect("set above").1,
    };
    let byte = Element { size: 1, align: 1 };
    let divided = OwnedSlice::zeroed(home, byte, 200)
        .and_then(|owned| owned.divide(&[100, 200]))
        .expect("memory");
    let rounds = ROUNDS.min(80);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..rounds as usize {
                    let (mut chunk, acquired) =
                        divided.lock(round % 2, &mut patience()).expect("in time");
                    assert_eq!(acquired, Acquired::Clean);
                    chunk.bytes_mut().iter_mut().for_each(|byte| *byte += 1);
                }
            });
        }
    });
    let all = (0..2).map(|at| divided.lock(at, &mut patience()).expect("free").0);
    let frozen = DividedSlice::gather(all.collect())
        .expect("all of them")
        .freeze();
    let expected = (THREADS * rounds / 2) as u8;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                assert!(
                    frozen
                        .bytes()
                        .iter()
                        .all(|&byte| byte.abs_diff(expected) <= THREADS as u8)
                )
            });
        }
    });
}

#[test]
fn a_mailbox_hands_on_what_was_done_before_a_message() {
    let arena = arena();
    let (me, _) = members(arena);
    let (handle, mailbox): (_, &RawMailbox) = object(arena, me, Kind::Mailbox, 0);
    let plain = Plain::new();
    let send = |way: Way, number: u64| {
        plain.raise();
        let message = number.to_le_bytes().repeat(number as usize % 5 + 1);
        assert!(mailbox.try_post(way, &message), "one at a time");
    };
    let receive = |way: Way, number: u64| {
        while mailbox.look(way).is_none() {
            std::thread::yield_now();
        }
        let message = mailbox.take(way).expect("nobody sleeps here");
        assert_eq!(
            message,
            number.to_le_bytes().repeat(number as usize % 5 + 1)
        );
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                receive(Way::There, round);
                send(Way::Back, round + 1);
            }
        });
        for round in 0..ROUNDS {
            send(Way::There, round);
            receive(Way::Back, round + 1);
        }
    });
    assert_eq!(plain.look(), 2 * ROUNDS);
    arena.release(me, handle);
}

#[test]
fn a_message_that_is_looked_at_before_it_is_taken_hands_on_too() {
    let arena = arena();
    let (me, members) = members(arena);
    let (handle, queue): (_, &RawQueue) = object(arena, me, Kind::Queue, 0);
    queue.prepare(arena, me, handle, 0).expect("memory");
    let plain = Plain::new();
    // One token, which goes from thread to thread: who has it is alone.
    let put = |who, number: u64| {
        let contents = Contents {
            bytes: &number.to_le_bytes(),
            ..Contents::default()
        };
        queue
            .put(arena, who, handle, &contents, &mut patience())
            .expect("put");
    };
    put(me, 0);
    each(&members, |who| {
        let mut turns = 0;
        while turns < ROUNDS {
            let taken = queue.take_if(arena, who, |front| {
                let mut number = [0; 8];
                front.read(&mut number);
                Some(u64::from_le_bytes(number))
            });
            let Some(number) = taken else {
                std::thread::yield_now();
                continue;
            };
            assert_eq!(plain.look(), number);
            plain.raise();
            turns += 1;
            put(who, number + 1);
        }
    });
    assert_eq!(plain.look(), THREADS * ROUNDS);
    assert_eq!(queue.len(), 1);
    arena.release(me, handle);
}
