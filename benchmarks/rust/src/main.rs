//! One measurement, in this process: `procession-bench ROW CONTESTANT FILE [--smoke]`.
//!
//! `benchmarks/crates.py` has the rows, calls this for each and makes the table. Every library here
//! starts its children as this very program, so each looks first whether it was that.

mod lock;
mod messages;
mod pool;
mod start;
mod timing;

use timing::Effort;

fn main() {
    let mut arguments: Vec<String> = std::env::args().collect();
    if arguments
        .first()
        .is_some_and(|first| first == "_crossmist_")
    {
        crossmist::init();
    }
    procession::init();
    procspawn::init();
    if arguments
        .get(1)
        .is_some_and(|first| first == messages::CHILD)
    {
        return messages::child(&arguments[2..]);
    }
    let effort = Effort::new(arguments.last().is_some_and(|last| last == "--smoke"));
    arguments.truncate(4);
    let [_, row, contestant, file] = &arguments[..] else {
        panic!("usage: procession-bench ROW CONTESTANT FILE [--smoke]");
    };
    if contestant.starts_with("crossmist") {
        crossmist::init();
    }
    let value = match row.as_str() {
        "start" => start::measure(contestant, effort),
        "apply_async" => pool::apply_async(contestant, effort),
        "map" => pool::map(contestant, effort),
        "lock" => lock::measure(contestant, effort),
        row => messages::measure(row, contestant, effort),
    };
    std::fs::write(file, format!("{{\"value\": {value:e}}}")).expect("the file can be written");
    // Rivals may have threads left that would keep a plain return waiting.
    std::process::exit(0);
}
