//! What a worker's place in a pool shows, under loom: run by ci/loom.sh.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;
use procession_shm::pool_state::{Held, WorkerSlot};

/// A task all of whose words are the same number.
fn task(number: u64) -> Held {
    Held {
        item: number,
        job: number,
        index: number,
        since: number,
    }
}

#[test]
fn what_is_shown_of_a_task_at_work_is_of_one_task() {
    loom::model(|| {
        let slot = Arc::new(WorkerSlot::default());
        slot.take(task(1));
        let worker = {
            let slot = slot.clone();
            thread::spawn(move || {
                slot.settle();
                slot.take(task(2));
            })
        };
        if let Some(held) = slot.held_now() {
            assert_eq!(held, task(held.item));
        }
        worker.join().expect("ends");
    });
}

#[test]
fn who_is_killed_for_a_task_has_taken_no_other() {
    loom::model(|| {
        let slot = Arc::new(WorkerSlot::default());
        slot.take(task(1));
        let worker = {
            let slot = slot.clone();
            thread::spawn(move || {
                slot.settle();
                !slot.is_condemned()
            })
        };
        let killed = slot.condemn(task(1));
        let goes_on = worker.join().expect("ends");
        assert!(!(killed && goes_on), "it takes another, and is killed");
    });
}
