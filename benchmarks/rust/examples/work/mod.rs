//! What the program does, whichever library it does it with.

#![allow(
    dead_code,
    reason = "the programs find the words of a library in different places"
)]

use std::time::Instant;

pub const TEXT: &str = "how many words are these";
pub const WORKERS: usize = 2;
pub const ITEMS: u64 = 1000;
/// The item that crashes its worker.
pub const FATAL: u64 = 500;
pub const BUFFERS: u64 = 32;
pub const SIZE: usize = 16 << 20;

pub fn words(text: String) -> usize {
    text.split_whitespace().count()
}

pub fn square(number: u64) -> u64 {
    if number == FATAL {
        std::process::abort();
    }
    number * number
}

/// Something of each page, so that a buffer has to be there.
pub fn look_at(buffer: &[u8]) -> u64 {
    buffer
        .iter()
        .step_by(4096)
        .map(|&byte| u64::from(byte))
        .sum()
}

/// What `look_at` finds in all buffers, which are full of sevens.
pub const SEEN: u64 = BUFFERS * (SIZE as u64 / 4096) * 7;

/// Runs one part, and says how long it took.
pub fn timed<T>(what: &str, part: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = part();
    println!("{what}: {:.3} ms", began.elapsed().as_secs_f64() * 1e3);
    result
}
