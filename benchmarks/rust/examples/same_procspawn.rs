//! A call, a pool with a fatal item, large buffers: with procspawn, and ipc-channel for the buffers
//! (whose bytes are the quickest of its ways).

mod work;

use std::collections::VecDeque;
use std::error::Error;

use ipc_channel::ipc::{self, IpcBytesReceiver};
use procspawn::{JoinHandle, Pool, SpawnError};
use work::{BUFFERS, ITEMS, SEEN, SIZE, TEXT, WORKERS, look_at, square, timed, words};

/// A task has two channels. A thousand at once would be more descriptors than the usual 1024.
const AT_ONCE: usize = 64;

fn call() -> Result<usize, SpawnError> {
    procspawn::spawn(TEXT.to_owned(), words).join()
}

#[derive(Default)]
struct Count {
    done: u64,
    lost: u64,
}

impl Count {
    fn settle(&mut self, task: JoinHandle<u64>) {
        match task.join() {
            Ok(_) => self.done += 1,
            Err(error) => {
                self.lost += 1;
                println!("{error}");
            }
        }
    }
}

fn pool() -> Result<(u64, u64), SpawnError> {
    let pool = Pool::new(WORKERS)?;
    let mut count = Count::default();
    let mut waiting = VecDeque::new();
    for number in 0..ITEMS {
        if waiting.len() == AT_ONCE {
            waiting
                .pop_front()
                .into_iter()
                .for_each(|task| count.settle(task));
        }
        waiting.push_back(pool.spawn(number, square));
    }
    waiting.into_iter().for_each(|task| count.settle(task));
    pool.shutdown();
    Ok((count.done, count.lost))
}

fn consume(buffers: IpcBytesReceiver) -> u64 {
    let mut seen = 0;
    while let Ok(buffer) = buffers.recv() {
        seen += look_at(&buffer);
    }
    seen
}

fn buffers() -> Result<u64, Box<dyn Error>> {
    let (sender, receiver) = ipc::bytes_channel()?;
    let consumer = procspawn::spawn(receiver, consume);
    let buffer = vec![7; SIZE];
    for _ in 0..BUFFERS {
        sender.send(&buffer)?;
    }
    drop(sender);
    Ok(consumer.join()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    procspawn::init();
    assert_eq!(timed("call", call)?, 5);
    assert_eq!(timed("pool", pool)?, (ITEMS - 1, 1));
    assert_eq!(timed("buffers", buffers)?, SEEN);
    Ok(())
}
