//! Five tasks for a pool of four workers.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use procession::Pool;

fn long_time_task(name: u32) {
    println!("run task {name}, {}", std::process::id());
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(random() % 400));
    println!(
        "task {name} runs {:.2} seconds.",
        start.elapsed().as_secs_f64()
    );
}

fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[procession::main]
fn main() -> procession::Result<()> {
    println!("Parent process {}.", std::process::id());
    let pool = Pool::new(4)?;
    let mut tasks = Vec::new();
    for i in 0..5 {
        tasks.push(pool.apply_async(long_time_task, i)?);
    }
    pool.join()?; // takes no more tasks, and waits for those it has
    for task in tasks {
        task.get()?; // a task that panicked, or whose worker was killed, would say so here
    }
    println!("All subprocess done.");
    Ok(())
}
