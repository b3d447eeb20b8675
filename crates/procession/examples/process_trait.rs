//! A process as a value of a type of one's own: its fields travel, `run` is its main.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use procession::{Process, Run};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Computer {
    name: String,
    worst: Duration,
}

impl Run for Computer {
    type Output = Duration;

    fn run(self) -> Duration {
        println!("started worker {}", self.name);
        let time = self.worst.mul_f64(random());
        std::thread::sleep(time);
        println!("{} worker finished in {time:.0?}", self.name);
        time
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }
}

/// From 0 to 1, another in each process.
fn random() -> f64 {
    let number = RandomState::new().hash_one(std::process::id());
    (number >> 11) as f64 / (1_u64 << 53) as f64
}

#[procession::main]
fn main() -> procession::Result<()> {
    let mut processes = Vec::new();
    for i in 0..5 {
        let name = format!("computer_{i}");
        let worst = Duration::from_millis(400);
        processes.push(Process::run(Computer { name, worst })?);
    }

    let mut longest = Duration::ZERO;
    for process in processes {
        longest = longest.max(process.join()?);
    }
    println!("the slowest took {longest:.0?}");
    Ok(())
}
