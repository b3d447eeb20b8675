//! Five processes that run the same function, and the main process that waits for them.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::time::Duration;

use procession::Process;

fn work(name: String) {
    std::thread::sleep(Duration::from_millis(300));
    println!("test process: {name}");
}

#[procession::main]
fn main() -> procession::Result<()> {
    let mut processes = Vec::new();
    for i in 0..5 {
        let name = format!("rust_process_{i}");
        processes.push(Process::spawn(work, name)?);
    }

    for process in processes {
        process.join()?;
    }

    println!("main process finish!");
    Ok(())
}
