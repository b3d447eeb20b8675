//! A lock that its holder takes again, in a function that takes it for itself.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use procession::{Process, RLock};

fn work(lock: RLock, i: u32) {
    let _held = lock.lock().expect("nobody died at it");
    say(&lock, i, "is running");
    std::thread::sleep(Duration::from_millis(10 + random() % 30));
    say(&lock, i, "is done");
}

/// Also called by those that don't hold the lock; so it takes it.
fn say(lock: &RLock, i: u32, what: &str) {
    let _held_once_more = lock.lock().expect("nobody died at it");
    println!("{i}:{} {what}", std::process::id());
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let lock = RLock::new()?;
    let processes: Vec<_> = (0..10)
        .map(|i| Process::spawn(work, (lock.clone(), i)))
        .collect::<Result<_, _>>()?;
    for process in processes {
        process.join()?;
    }
    Ok(())
}
