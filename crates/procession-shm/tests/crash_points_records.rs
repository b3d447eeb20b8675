//! A process is killed at each of the named places while it puts and takes several messages at once:
//! each time all of them, or none. Some it takes one by one, having looked at them.

#![allow(unsafe_code, reason = "the tests fork")]

mod doomed;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procession_shm::crash::POINTS;
use procession_shm::*;

/// Messages at once.
const AT_ONCE: u64 = 7;

struct Scene {
    arena: &'static Arena,
    handle: Handle,
    queue: &'static RawQueue,
    put: &'static AtomicU64,
    got: &'static AtomicU64,
}

impl Scene {
    fn new(arena: &'static Arena, me: MemberId) -> Scene {
        let handle = arena
            .allocate(me, size_of::<RawQueue>(), Kind::Queue)
            .expect("memory");
        let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
        queue.prepare(arena, me, handle, 0).expect("memory");
        let counters = arena.allocate(me, 64, Kind::Block).expect("memory");
        let words: &[AtomicU64] = arena.objects(counters, Kind::Block, 0, 2).expect("there");
        Scene {
            arena,
            handle,
            queue,
            put: &words[0],
            got: &words[1],
        }
    }

    fn put(&self, me: MemberId, from: u64) {
        let mut records = Records::default();
        for n in from..from + AT_ONCE {
            let filling = vec![n as u8; (n % 5 * 60) as usize];
            assert!(records.push(n as u32, &[&n.to_le_bytes(), &filling]));
        }
        self.queue
            .put_records(
                self.arena,
                me,
                self.handle,
                &records,
                &mut Patience::timeout(Duration::from_secs(10)),
            )
            .expect("put");
    }

    /// Takes what there is, at most so many; the number of the first is `from`.
    fn take(&self, me: MemberId, from: u64) -> u64 {
        let mut records = Records::default();
        self.queue
            .take_records(self.arena, me, AT_ONCE as u32, 1 << 20, &mut records)
            .expect("take");
        for ((tag, body), n) in records.iter().zip(from..) {
            let (number, filling) = body.split_at(8);
            assert_eq!((tag, number), (n as u32, n.to_le_bytes().as_slice()));
            assert_eq!(filling, vec![n as u8; (n % 5 * 60) as usize]);
        }
        u64::from(records.count())
    }

    /// Takes the one that is to be number `from`, if there is one and its side is not held by a dead one.
    fn take_one(&self, me: MemberId, from: u64) -> u64 {
        let before = self.queue.taken();
        let declined = self.queue.take_if(self.arena, me, |front| {
            assert_eq!(front.tag(), from as u32);
            None::<()>
        });
        assert_eq!((declined, self.queue.taken()), (None, before));
        let body = self.queue.take_if(self.arena, me, |front| {
            let mut body = vec![0; front.len()];
            front.read(&mut body);
            Some(body)
        });
        let Some(body) = body else { return 0 };
        let (number, filling) = body.split_at(8);
        assert_eq!(number, from.to_le_bytes());
        assert_eq!(filling, vec![from as u8; (from % 5 * 60) as usize]);
        1
    }

    fn take_in_either_way(&self, me: MemberId, from: u64) -> u64 {
        match from % 3 {
            0 => match self.take_one(me, from) {
                0 => self.take(me, from),
                one => one,
            },
            _ => self.take(me, from),
        }
    }

    /// Over several segments.
    fn work(&self, me: MemberId) {
        let (mut put, mut got) = (0, 0);
        for round in 0..12 {
            let (puts, takes) = if round % 2 == 0 { (9, 2) } else { (2, 9) };
            for _ in 0..puts {
                self.put(me, put);
                put += AT_ONCE;
                self.put.store(put, Ordering::SeqCst);
            }
            for _ in 0..takes {
                got += self.take_in_either_way(me, got);
                self.got.store(got, Ordering::SeqCst);
            }
        }
        assert_eq!(put, 12 / 2 * 11 * AT_ONCE);
    }

    fn look(&self, me: MemberId, at: &str) {
        let put = self.put.load(Ordering::SeqCst);
        let got = self.got.load(Ordering::SeqCst);
        let front = u64::from(self.queue.taken());
        let end = front + u64::from(self.queue.len());
        assert_eq!(end % AT_ONCE, 0, "{at}: a part of what was put at once");
        assert!(
            end == put || end == put + AT_ONCE,
            "{at}: {put} were put, {end} is the end"
        );
        assert!(
            front >= got && front <= got + AT_ONCE,
            "{at}: {got} were taken, {front} is next"
        );
        let mut next = front;
        while next < end {
            let taken = self.take_in_either_way(me, next);
            assert!(taken > 0, "{at}: {next} is not to be had");
            next += taken;
        }
        assert_eq!(self.take(me, next), 0, "{at}");
        // And it works on. Numbers go on where the dead one was.
        self.put(me, next);
        self.put(me, next + AT_ONCE);
        assert_eq!(
            self.take(me, next) + self.take(me, next + AT_ONCE),
            2 * AT_ONCE,
            "{at}"
        );
    }
}

/// Whether the child came to the place.
fn killed_at(arena: &'static Arena, me: MemberId, point: &str, time: usize) -> bool {
    let scene = Scene::new(arena, me);
    let (seat, killed) = doomed::kill_at(arena, me, point, time, |seat| scene.work(seat));
    scene.look(me, point);
    arena.reap(me, seat);
    arena.release(me, scene.handle);
    killed
}

#[test]
fn whoever_is_killed_has_put_or_taken_all_or_none() {
    let arena: &'static Arena = Box::leak(Box::new(Arena::create(1 << 30).expect("arena")));
    let me = arena.enroll("me").expect("a member");
    let mut reached = Vec::new();
    for &point in POINTS {
        for time in [1, 2, 3, 5, 8, 30] {
            if killed_at(arena, me, point, time) {
                reached.push(point);
            }
        }
    }
    reached.dedup();
    for point in [
        "lock: taken",
        "put: segment linked",
        "put: written",
        "put: committed",
        "put: unlocked",
        "get: read",
        "get: committed",
        "get: unlocked",
        "get: head moved on",
    ] {
        assert!(reached.contains(&point), "nobody was killed at {point}");
    }
}
