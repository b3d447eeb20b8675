//! A call, a pool with a fatal item, large buffers: with procession.

mod work;

use procession::{Pool, Process, Queue, Result, SharedSlice};
use work::{BUFFERS, ITEMS, SEEN, SIZE, TEXT, WORKERS, look_at, square, timed, words};

fn call() -> Result<usize> {
    Ok(Process::spawn(words, TEXT.to_owned())?.join()?)
}

fn pool() -> Result<(u64, u64)> {
    let pool = Pool::new(WORKERS)?;
    let (mut done, mut lost) = (0, 0);
    for result in pool.imap(square, 0..ITEMS)? {
        match result {
            Ok(_) => done += 1,
            Err(error) => {
                lost += 1;
                println!("{error}");
            }
        }
    }
    pool.join()?;
    Ok((done, lost))
}

fn consume(queue: Queue<SharedSlice<u8>>) -> u64 {
    queue.iter().map(|buffer| look_at(&buffer)).sum()
}

fn buffers() -> Result<u64> {
    let queue = Queue::bounded(4)?;
    let consumer = Process::spawn(consume, queue.clone())?;
    let buffer = vec![7; SIZE];
    for _ in 0..BUFFERS {
        queue.send(SharedSlice::from_slice(&buffer)?)?;
    }
    queue.close();
    Ok(consumer.join()?)
}

#[procession::main]
fn main() -> Result<()> {
    assert_eq!(timed("call", call)?, 5);
    assert_eq!(timed("pool", pool)?, (ITEMS - 1, 1));
    assert_eq!(timed("buffers", buffers)?, SEEN);
    Ok(())
}
