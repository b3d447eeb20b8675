//! Reader-writer locks, and what is done once, under loom: run by ci/loom.sh.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32 as Plain;
use loom::thread;
use procession_shm::atomic::{AtomicU64, Ordering};
use procession_shm::model::tick;
use procession_shm::{MemberId, Patience, RawOnce, RawRwLock, Turn};

fn member(index: u32) -> MemberId {
    MemberId::from_raw(index).expect("an index of a member")
}

#[derive(Default)]
struct Shared {
    lock: RawRwLock,
    readers: [AtomicU64; 4],
    /// Written by writers alone, with no order of its own.
    value: Plain,
    deaths: Plain,
}

impl Shared {
    fn read(&self, me: u32, dead: u32) -> u32 {
        let is_dead = |who| who == member(dead);
        let mut died = |_| {
            self.deaths.fetch_add(1, Ordering::Relaxed);
        };
        self.lock
            .read_among(
                is_dead,
                member(me),
                &self.readers,
                &mut Patience::forever(),
                &mut died,
            )
            .expect("no end of patience");
        let first = self.value.load(Ordering::Relaxed);
        assert_eq!(
            first,
            self.value.load(Ordering::Relaxed),
            "a writer among readers"
        );
        self.lock.release_read(member(me), &self.readers);
        first
    }

    fn write(&self, me: u32, dead: u32) {
        let is_dead = |who| who == member(dead);
        let mut died = |_| {
            self.deaths.fetch_add(1, Ordering::Relaxed);
        };
        self.lock
            .write_among(
                is_dead,
                member(me),
                &self.readers,
                &mut Patience::forever(),
                &mut died,
            )
            .expect("no end of patience");
        let seen = self.value.load(Ordering::Relaxed);
        self.value.store(seen + 1, Ordering::Relaxed);
        self.lock.release_write();
    }
}

const NOBODY: u32 = 9;

#[test]
fn a_reader_and_a_writer_keep_out_of_each_others_way() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || shared.read(1, NOBODY))
        };
        shared.write(2, NOBODY);
        reader.join().expect("reads");
        assert_eq!(shared.read(2, NOBODY), 1);
    });
}

#[test]
fn two_writers_and_a_reader_come_to_an_end() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let others: Vec<_> = [(1, true), (2, false)]
            .into_iter()
            .map(|(me, writes)| {
                let shared = shared.clone();
                thread::spawn(move || {
                    if writes {
                        shared.write(me, NOBODY);
                    } else {
                        shared.read(me, NOBODY);
                    }
                })
            })
            .collect();
        shared.write(3, NOBODY);
        for other in others {
            other.join().expect("ends");
        }
        assert_eq!(shared.read(3, NOBODY), 2);
    });
}

#[test]
fn a_writer_does_not_wait_for_a_dead_reader() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        // Member 1 reads, and is dead from here on.
        shared
            .lock
            .read_among(
                |_| false,
                member(1),
                &shared.readers,
                &mut Patience::forever(),
                &mut |_| {},
            )
            .expect("it is free");
        let writer = {
            let shared = shared.clone();
            thread::spawn(move || shared.write(2, 1))
        };
        tick();
        writer.join().expect("writes");
        assert_eq!(
            shared.deaths.load(Ordering::Relaxed),
            0,
            "a reader leaves nothing half done"
        );
    });
}

/// One who would write, and waits for other things too, is woken when the last reader has gone.
#[test]
fn who_watches_for_the_readers_to_go_sees_it() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        let watcher = {
            let shared = shared.clone();
            thread::spawn(move || shared.lock.watch_until_unread(|_| false, &shared.readers))
        };
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.read(1, NOBODY);
            })
        };
        shared.read(2, NOBODY);
        reader.join().expect("reads");
        watcher.join().expect("is woken");
    });
}

#[test]
fn a_dead_writer_is_told_of_once() {
    loom::model(|| {
        let shared = Arc::new(Shared::default());
        shared
            .lock
            .write_among(
                |_| false,
                member(1),
                &shared.readers,
                &mut Patience::forever(),
                &mut |_| {},
            )
            .expect("it is free");
        let reader = {
            let shared = shared.clone();
            thread::spawn(move || shared.read(2, 1))
        };
        tick();
        shared.write(3, 1);
        reader.join().expect("reads");
        assert_eq!(shared.deaths.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn once_is_done_once() {
    loom::model(|| {
        let shared = Arc::new((RawOnce::default(), Plain::new(0)));
        let run = |shared: &(RawOnce, Plain), me| {
            let turn = shared
                .0
                .begin_among(|_| false, member(me), &mut Patience::forever())
                .expect("no end of patience");
            if turn != Turn::Done {
                let before = shared.1.load(Ordering::Relaxed);
                shared.1.store(before + 1, Ordering::Relaxed);
                shared.0.finish();
            }
            assert_eq!(shared.1.load(Ordering::Relaxed), 1);
        };
        let other = {
            let shared = shared.clone();
            thread::spawn(move || run(&shared, 1))
        };
        run(&shared, 2);
        other.join().expect("done");
    });
}

#[test]
fn what_a_dead_one_began_the_next_does() {
    loom::model(|| {
        let once = Arc::new(RawOnce::default());
        let begun = once.begin_among(|_| false, member(1), &mut Patience::forever());
        assert_eq!(begun, Ok(Turn::Mine { after_death: false }));
        let next = {
            let once = once.clone();
            thread::spawn(move || {
                let turn =
                    once.begin_among(|who| who == member(1), member(2), &mut Patience::forever());
                assert_eq!(turn, Ok(Turn::Mine { after_death: true }));
                once.finish();
            })
        };
        tick();
        next.join().expect("done");
        assert!(once.is_done());
    });
}
