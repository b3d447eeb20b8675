//! Two producers, three consumers, and a queue of four places between them.

#![allow(clippy::print_stdout, reason = "it speaks to a person")]

use std::time::Duration;

use procession::{Process, Queue};

fn produce(queue: Queue<String>, who: char) {
    for number in 1..=6 {
        queue
            .send(format!("{who}{number}"))
            .expect("the queue is open");
    }
}

fn consume(queue: Queue<String>, who: u32) -> usize {
    let mut count = 0;
    for item in queue.iter() {
        println!("consumer {who} has {item}");
        std::thread::sleep(Duration::from_millis(20));
        count += 1;
    }
    count
}

#[procession::main]
fn main() -> procession::Result<()> {
    let queue = Queue::bounded(4)?;
    let producers: Vec<_> = ['a', 'b']
        .into_iter()
        .map(|who| Process::spawn(produce, (queue.clone(), who)))
        .collect::<Result<_, _>>()?;
    let consumers: Vec<_> = (1..=3)
        .map(|who| Process::spawn(consume, (queue.clone(), who)))
        .collect::<Result<_, _>>()?;

    for producer in producers {
        producer.join()?;
    }
    queue.close(); // whoever still waits for an item is told that none will come
    let mut total = 0;
    for consumer in consumers {
        total += consumer.join()?;
    }
    println!("{total} items were consumed");
    assert_eq!(total, 12);
    Ok(())
}
