//! How the queue's two sides wait for each other, under loom: run by ci/loom.sh.
//!
//! The locks and the sleepers are those of the queue; the records are left out. What is modelled is
//! `ring.rs`: a put stores `tail` under one lock and then wakes, a get stores `head` under the other.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use procession_shm::atomic::{AtomicU32, AtomicU64, Ordering};
use procession_shm::model::Sleepers;
use procession_shm::{MemberId, Patience, RawLock};

#[derive(Default)]
struct Ends {
    put_lock: RawLock,
    get_lock: RawLock,
    tail: AtomicU64,
    head: AtomicU64,
    closed: AtomicU32,
    capacity: u64,
    getters: Sleepers,
    putters: Sleepers,
}

fn member(index: u32) -> MemberId {
    MemberId::from_raw(index).expect("an index of a member")
}

fn hold(lock: &RawLock, me: MemberId) {
    lock.acquire_among(|_| false, me, &mut Patience::forever())
        .expect("waits for ever");
}

impl Ends {
    fn length(&self) -> u64 {
        let mut tail = self.tail.load(Ordering::SeqCst);
        loop {
            let head = self.head.load(Ordering::SeqCst);
            let again = self.tail.load(Ordering::SeqCst);
            if again == tail {
                return tail - head;
            }
            tail = again;
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) != 0
    }

    fn is_full(&self) -> bool {
        self.capacity != 0 && self.length() >= self.capacity
    }

    fn close(&self) {
        self.closed.store(1, Ordering::SeqCst);
        self.getters.wake(u32::MAX);
        self.putters.wake(u32::MAX);
    }

    fn put(&self, me: MemberId) -> bool {
        loop {
            hold(&self.put_lock, me);
            if self.is_closed() {
                self.put_lock.release().expect("held");
                return false;
            }
            if !self.is_full() {
                break;
            }
            self.put_lock.release().expect("held");
            self.putters
                .sleep_until(&mut Patience::forever(), || {
                    !self.is_full() || self.is_closed()
                })
                .expect("waits for ever");
        }
        let tail = self.tail.load(Ordering::SeqCst);
        self.tail.store(tail + 1, Ordering::SeqCst);
        self.put_lock.release().expect("held");
        self.getters.wake(1);
        true
    }

    fn try_get(&self, me: MemberId) -> bool {
        hold(&self.get_lock, me);
        let head = self.head.load(Ordering::SeqCst);
        let there = head != self.tail.load(Ordering::SeqCst);
        if there {
            self.head.store(head + 1, Ordering::SeqCst);
        }
        self.get_lock.release().expect("held");
        there
    }

    fn get(&self, me: MemberId) -> bool {
        loop {
            if self.length() > 0 && self.try_get(me) {
                self.putters.wake(1);
                return true;
            }
            if self.is_closed() {
                hold(&self.put_lock, me);
                let empty = self.length() == 0;
                self.put_lock.release().expect("held");
                if empty {
                    return false;
                }
                continue;
            }
            self.getters
                .sleep_until(&mut Patience::forever(), || {
                    self.length() > 0 || self.is_closed()
                })
                .expect("waits for ever");
        }
    }
}

#[test]
fn a_message_wakes_the_one_who_waits_for_it() {
    loom::model(|| {
        let ends = Arc::new(Ends::default());
        let getter = {
            let ends = ends.clone();
            thread::spawn(move || assert!(ends.get(member(1))))
        };
        assert!(ends.put(member(2)));
        getter.join().expect("ends");
        assert_eq!(ends.length(), 0);
    });
}

#[test]
fn two_messages_wake_two() {
    loom::model(|| {
        let ends = Arc::new(Ends::default());
        let getters: Vec<_> = (1..3)
            .map(|index| {
                let ends = ends.clone();
                thread::spawn(move || assert!(ends.get(member(index))))
            })
            .collect();
        assert!(ends.put(member(3)));
        assert!(ends.put(member(3)));
        for getter in getters {
            getter.join().expect("ends");
        }
        assert_eq!(ends.length(), 0);
    });
}

#[test]
fn room_wakes_the_one_who_waits_for_it() {
    loom::model(|| {
        let ends = Arc::new(Ends {
            capacity: 1,
            ..Ends::default()
        });
        let putter = {
            let ends = ends.clone();
            thread::spawn(move || (0..2).for_each(|_| assert!(ends.put(member(1)))))
        };
        (0..2).for_each(|_| assert!(ends.get(member(2))));
        putter.join().expect("ends");
        assert_eq!(ends.length(), 0);
    });
}

#[test]
fn a_close_ends_the_waits_and_loses_no_message() {
    loom::model(|| {
        let ends = Arc::new(Ends::default());
        let getter = {
            let ends = ends.clone();
            thread::spawn(move || {
                let mut got = 0;
                while ends.get(member(1)) {
                    got += 1;
                }
                got
            })
        };
        let putter = {
            let ends = ends.clone();
            thread::spawn(move || u32::from(ends.put(member(2))))
        };
        ends.close();
        let put = putter.join().expect("ends");
        assert_eq!(getter.join().expect("ends"), put, "what was put is got");
    });
}
