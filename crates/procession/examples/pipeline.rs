//! A pipeline of three stages, each of several processes, with queues between them. A queue with few
//! places makes a fast stage wait for a slow one; closing a queue ends the stage behind it.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::collections::BTreeMap;

use procession::{Process, Queue};

const LINES: u32 = 2_000;

/// A stage: processes that take from one queue and put into another.
struct Stage<T> {
    processes: Vec<Process<usize>>,
    output: Queue<T>,
}

impl<T> Stage<T> {
    /// Waits until the stage has done its work, and tells the next one that there is no more.
    fn finish(self) -> procession::Result<usize> {
        let mut count = 0;
        for process in self.processes {
            count += process.join()?; // a stage that panicked or was killed would say so here
        }
        self.output.close();
        Ok(count)
    }
}

/// The first stage makes lines of a log.
fn write(lines: Queue<String>, first: u32, step: u32) -> usize {
    let mut count = 0;
    for number in (first..LINES).step_by(step as usize) {
        let level = ["info", "warning", "error"][(number % 7 % 3) as usize];
        let line = format!("{level} {number} something happened");
        if lines.send(line).is_err() {
            break; // nobody is left to read them
        }
        count += 1;
    }
    count
}

/// The second takes them apart.
fn parse(lines: Queue<String>, parsed: Queue<(String, u32)>) -> usize {
    let mut count = 0;
    for line in lines.iter() {
        let mut words = line.split(' ');
        let (Some(level), Some(number)) = (words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        if parsed.send((level.to_owned(), number)).is_err() {
            break;
        }
        count += 1;
    }
    count
}

/// The third adds them up.
fn count(parsed: Queue<(String, u32)>, totals: Queue<BTreeMap<String, u64>>) -> usize {
    let mut total = BTreeMap::new();
    let mut count = 0;
    for (level, number) in parsed.iter() {
        *total.entry(level).or_insert(0) += u64::from(number);
        count += 1;
    }
    totals.send(total).expect("there is a place for each");
    count
}

#[procession::main]
fn main() -> procession::Result<()> {
    let lines = Queue::bounded(64)?;
    let parsed = Queue::bounded(64)?;
    let totals = Queue::bounded(2)?;

    let first = Stage {
        processes: (0..2)
            .map(|number| Process::spawn(write, (lines.clone(), number, 2)))
            .collect::<Result<_, _>>()?,
        output: lines.clone(),
    };
    let second = Stage {
        processes: (0..3)
            .map(|_| Process::spawn(parse, (lines.clone(), parsed.clone())))
            .collect::<Result<_, _>>()?,
        output: parsed.clone(),
    };
    let third = Stage {
        processes: (0..2)
            .map(|_| Process::spawn(count, (parsed.clone(), totals.clone())))
            .collect::<Result<_, _>>()?,
        output: totals.clone(),
    };

    let written = first.finish()?;
    let understood = second.finish()?;
    let counted = third.finish()?;

    let mut sum = BTreeMap::new();
    for part in totals.iter() {
        for (level, number) in part {
            *sum.entry(level).or_insert(0) += number;
        }
    }
    for (level, number) in &sum {
        println!("{level}: {number}");
    }
    println!("{written} lines were written, {understood} understood, {counted} counted");
    assert_eq!((written, understood, counted), (2_000, 2_000, 2_000));
    let all: u64 = (0..u64::from(LINES)).sum();
    assert_eq!(sum.values().sum::<u64>(), all);
    Ok(())
}
