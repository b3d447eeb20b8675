//! A conversation with another process, and a pipe sent through a pipe.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use procession::{Connection, Process, Sender};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
enum Question {
    Length(String),
    /// The answer is to go somewhere else.
    CountTo(u32, Sender<u32>),
}

fn answer(peer: Connection<usize, Question>) {
    for question in peer.iter() {
        match question {
            Question::Length(text) => peer.send(text.len()).expect("the other side waits for it"),
            Question::CountTo(last, numbers) => {
                for number in 1..=last {
                    numbers.send(number).expect("the other side waits for it");
                }
            }
        }
    }
    println!("the other side has hung up");
}

#[procession::main]
fn main() -> procession::Result<()> {
    let (here, there) = procession::duplex()?;
    let process = Process::spawn(answer, there)?;

    here.send(Question::Length("how long is this?".into()))?;
    println!("it has {} characters", here.recv()?);

    let (sender, receiver) = procession::pipe()?;
    here.send(Question::CountTo(5, sender))?;
    let numbers: Vec<u32> = receiver.iter().collect();
    println!("it counted {numbers:?}");

    drop(here);
    process.join()?;
    Ok(())
}
