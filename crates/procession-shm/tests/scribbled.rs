//! A member that goes wrong has written over the shared memory. In the others that ends in an error, a
//! wrong value, a panic or a wait: never in a read or write outside of it, nor in memory asked for
//! without end.

#![allow(unsafe_code, reason = "the tests fork")]

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use procession_shm::*;

const RESERVE: usize = 16 << 20;

fn soon<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_millis(5))
}

/// Numbers that look random and are the same again from the same seed.
struct Chance(u64);

impl Chance {
    /// The splitmix64 sequence.
    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn of(&mut self, range: Range<u64>) -> u64 {
        range.start + self.any() % (range.end - range.start)
    }
}

/// One of everything, in use.
struct Scene {
    arena: &'static Arena,
    me: MemberId,
    queue: Handle,
    lock: Handle,
    rlock: Handle,
    semaphore: Handle,
    barrier: Handle,
    waiting: Handle,
    event: Handle,
    cell: Handle,
    block: Handle,
}

impl Scene {
    fn new() -> Scene {
        let arena: &'static Arena = Box::leak(Box::new(Arena::create(RESERVE).expect("arena")));
        let me = arena.enroll("me").expect("a member");
        let make = |length, kind| arena.allocate(me, length, kind).expect("memory");
        let scene = Scene {
            arena,
            me,
            queue: make(size_of::<RawQueue>(), Kind::Queue),
            lock: make(size_of::<RawLock>(), Kind::Lock),
            rlock: make(size_of::<RawRLock>(), Kind::RLock),
            semaphore: make(
                size_of::<RawSemaphore>() + RawSemaphore::owner_bytes(3),
                Kind::BoundedSemaphore,
            ),
            barrier: make(
                size_of::<RawBarrier>() + RawBarrier::record_bytes(2),
                Kind::Barrier,
            ),
            waiting: make(size_of::<RawWaitQueue>(), Kind::WaitQueue),
            event: make(size_of::<RawEvent>(), Kind::Event),
            cell: make(size_of::<RawCell>(), Kind::Cell),
            block: make(5000, Kind::Block),
        };
        let queue: &RawQueue = arena.object(scene.queue, Kind::Queue).expect("there");
        queue.prepare(arena, me, scene.queue, 0).expect("memory");
        let semaphore: &RawSemaphore = arena
            .object(scene.semaphore, Kind::BoundedSemaphore)
            .expect("there");
        semaphore.prepare(3, true);
        let barrier: &RawBarrier = arena.object(scene.barrier, Kind::Barrier).expect("there");
        barrier.prepare(2);
        scene.work();
        scene
    }

    /// Uses everything; what goes wrong is of no interest as long as the process lives.
    fn work(&self) {
        let (arena, me) = (self.arena, self.me);
        if let Ok(queue) = arena.object::<RawQueue>(self.queue, Kind::Queue) {
            for n in 0..6 {
                let bytes = vec![7; [10, 3000, 80_000][n % 3]];
                let contents = Contents {
                    tag: 1,
                    bytes: &bytes,
                    buffers: &[&bytes],
                    mentions: &[self.block],
                };
                let _ = queue.put(arena, me, self.queue, &contents, &mut soon());
            }
            for _ in 0..3 {
                if let Ok(Entry::Parcel { handle, .. }) =
                    queue.get(arena, me, &mut soon(), &mut |_, _, _| {})
                {
                    arena.release(me, handle);
                }
            }
            let _ = (queue.len(), queue.task_done(), queue.unfinished());
        }
        if let Ok(lock) = arena.object::<RawLock>(self.lock, Kind::Lock) {
            let _ = lock.acquire(arena, me, &mut soon());
            let _ = (lock.owner().and_then(|id| arena.member(id)), lock.waiters());
            let waiter = Waiter::beginning(me, self.lock, false);
            let published = arena.publish_wait(&waiter);
            let _ = (arena.circle(&waiter), arena.waiters_for(self.lock));
            if let Some(published) = published {
                arena.withdraw_wait(&waiter, published);
            }
            let _ = lock.release();
        }
        if let Ok(lock) = arena.object::<RawRLock>(self.rlock, Kind::RLock) {
            let _ = lock.acquire(arena, me, 2, &mut soon());
            let _ = lock.release_all(me);
        }
        if let (Ok(semaphore), Ok(owners)) = (
            arena.object::<RawSemaphore>(self.semaphore, Kind::BoundedSemaphore),
            arena.objects::<AtomicU32>(
                self.semaphore,
                Kind::BoundedSemaphore,
                size_of::<RawSemaphore>(),
                3,
            ),
        ) {
            let _ = semaphore.acquire(arena, me, owners, &mut soon());
            let _ = semaphore.release(me, owners, 1);
        }
        if let (Ok(barrier), Ok(records)) = (
            arena.object::<RawBarrier>(self.barrier, Kind::Barrier),
            arena.objects::<AtomicU32>(self.barrier, Kind::Barrier, size_of::<RawBarrier>(), 4),
        ) {
            let _ = barrier.arrive(arena, me, records, &mut soon());
            let _ = barrier.reset(arena, me, records, &mut soon());
        }
        if let Ok(waiting) = arena.object::<RawWaitQueue>(self.waiting, Kind::WaitQueue) {
            let ticket = waiting.enqueue(arena, me);
            let _ = waiting.notify(arena, me, 1);
            let _ = waiting.wait(arena, me, ticket, &mut soon());
            waiting.give_up(arena, me, ticket, true);
        }
        if let Ok(event) = arena.object::<RawEvent>(self.event, Kind::Event) {
            event.set();
            event.clear();
            let _ = event.wait(&mut soon());
        }
        if let Ok(cell) = arena.object::<RawCell>(self.cell, Kind::Cell) {
            let contents = Contents {
                tag: 3,
                bytes: b"value",
                buffers: &[],
                mentions: &[],
            };
            let _ = cell.replace(arena, me, self.cell, &contents);
        }
        let mut bytes = vec![0; 5000];
        let _ = arena.copy_out(self.block, Kind::Block, 0, &mut bytes);
        let _ = arena.copy_in(self.block, Kind::Block, 0, &bytes);
        let _ = (arena.members(), arena.stats());
        if let Ok(other) = arena.reserve_member(Some(me), "other", Role::Process) {
            arena.reap(me, other);
        }
        arena.reap_orphans(me);
        for length in [60, 5000, 200_000] {
            if let Ok(handle) = arena.allocate(me, length, Kind::Block) {
                arena.release(me, handle);
            }
        }
    }

    /// Writes wild words to places that are in use.
    fn scribble(&self, chance: &mut Chance) {
        let fd = self.arena.fd();
        let file = File::from(fd.try_clone_to_owned().expect("a descriptor"));
        let seek = |from: u64, what| {
            // SAFETY: an open descriptor and numbers.
            u64::try_from(unsafe { libc::lseek(fd.as_raw_fd(), from as libc::off_t, what) }).ok()
        };
        let mut used = Vec::new();
        let mut at = 0;
        while let Some(start) = seek(at, libc::SEEK_DATA) {
            at = seek(start, libc::SEEK_HOLE).expect("there is one at the end");
            used.push(start..at);
        }
        for _ in 0..chance.of(1..200) {
            let stretch = used[chance.of(0..used.len() as u64) as usize].clone();
            let place = chance.of(stretch) & !7;
            let mut word = [0; 8];
            file.read_exact_at(&mut word, place).expect("in the file");
            let old = u64::from_ne_bytes(word);
            let new = match chance.of(0..6) {
                0 => chance.any(),
                1 => u64::MAX,
                2 => 0,
                3 => old ^ 1 << chance.of(0..64),
                4 => old.wrapping_add(chance.of(0..100_000)),
                _ => chance.of(0..RESERVE as u64 * 2),
            };
            file.write_all_at(&new.to_ne_bytes(), place)
                .expect("in the file");
        }
    }
}

#[test]
fn scribbling_over_the_memory_makes_no_one_touch_what_is_outside() {
    let seed: u64 = std::env::var("SEED").map_or_else(
        |_| u64::from(std::process::id()),
        |seed| seed.parse().expect("a number"),
    );
    let rounds = std::env::var("ROUNDS").map_or(60, |rounds| rounds.parse().expect("a number"));
    let (mut well, mut panicked, mut hung) = (0, 0, 0);
    for round in 0..rounds {
        // SAFETY: the child runs what follows, and leaves by _exit or is killed.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed");
        if pid == 0 {
            procession_sys::thread::forget_after_fork();
            std::panic::set_hook(Box::new(|_| ()));
            // SAFETY: ends the child should it wait for ever.
            unsafe { libc::alarm(5) };
            let limit = libc::rlimit {
                rlim_cur: 1 << 30,
                rlim_max: 1 << 30,
            };
            // SAFETY: the limit is ours and initialised.
            unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) };
            let mut chance = Chance(seed.wrapping_add(round));
            let scene = Scene::new();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for _ in 0..3 {
                    scene.scribble(&mut chance);
                    scene.work();
                }
            }));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) };
        }
        let mut status = 0;
        // SAFETY: our own child; `status` is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        if libc::WIFSIGNALED(status) {
            assert_eq!(
                libc::WTERMSIG(status),
                libc::SIGALRM,
                "SEED={} ROUNDS=1: ended by a signal",
                seed.wrapping_add(round)
            );
            hung += 1;
        } else if status == 0 {
            well += 1;
        } else {
            panicked += 1;
        }
    }
    println!("{rounds} rounds from seed {seed}: {well} went on, {panicked} panicked, {hung} hung");
    assert!(
        well > 0,
        "everything fails: the test is not about what it says"
    );
}
