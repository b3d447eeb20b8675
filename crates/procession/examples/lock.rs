//! Ten processes that take turns: each prints its two lines without another's in between.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use procession::{Lock, Process};

fn work(turn: Lock<Vec<u32>>, i: u32) {
    let pid = std::process::id();
    let mut order = turn.lock().expect("nobody died at it");
    println!("{i}:{pid} is running");
    std::thread::sleep(Duration::from_millis(10 + random() % 30));
    order.push(i); // what the lock protects, shared by all
    println!("{i}:{pid} is done!");
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[procession::main]
fn main() -> procession::Result<()> {
    let turn = Lock::new(Vec::new())?;
    let mut processes = Vec::new();
    for i in 0..10 {
        processes.push(Process::spawn(work, (turn.clone(), i))?);
    }
    for process in processes {
        process.join()?;
    }
    println!("they came in this order: {:?}", turn.lock()?);
    Ok(())
}
