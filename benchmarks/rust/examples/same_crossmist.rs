//! A call, a pool with a fatal item, large buffers: with crossmist.
//!
//! Its release 1.1.2, built by Rust 1.95, panics in the first call.

mod work;

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crossmist::{Child, Duplex, Receiver};
use work::{BUFFERS, ITEMS, SEEN, SIZE, TEXT, WORKERS, look_at, timed};

type Failure = Box<dyn Error + Send + Sync>;

#[crossmist::func]
fn words(text: String) -> usize {
    work::words(text)
}

fn call() -> Result<usize, Failure> {
    Ok(words.run(TEXT.to_owned())?)
}

#[crossmist::func]
fn serve(mut tasks: Duplex<u64, u64>) {
    while let Ok(Some(number)) = tasks.recv() {
        if tasks.send(&work::square(number)).is_err() {
            break;
        }
    }
}

fn start() -> Result<(Child<()>, Duplex<u64, u64>), Failure> {
    let (ours, theirs) = crossmist::duplex()?;
    Ok((serve.spawn(theirs)?, ours))
}

#[derive(Default)]
struct Count {
    next: AtomicU64,
    done: AtomicU64,
    lost: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// Has a worker of its own, and another one when that has died.
fn feed_a_worker(count: &Count) -> Result<(), Failure> {
    let (mut child, mut tasks) = start()?;
    loop {
        let number = count.next.fetch_add(1, Ordering::Relaxed);
        if number >= ITEMS {
            break;
        }
        match tasks.request(&number) {
            Ok(_) => count.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                println!("{number}: {error}; {:?}", child.join().err());
                (child, tasks) = start()?;
                count.lost.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
    drop(tasks);
    Ok(child.join()?)
}

fn pool() -> Result<(u64, u64), Failure> {
    let count = Count::default();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                if let Err(error) = feed_a_worker(&count) {
                    *count.failure.lock().expect("nobody panics") = Some(error);
                }
            });
        }
    });
    match count.failure.into_inner()? {
        Some(failure) => Err(failure),
        None => Ok((count.done.into_inner(), count.lost.into_inner())),
    }
}

#[crossmist::func]
fn consume(mut buffers: Receiver<Vec<u8>>) -> u64 {
    let mut seen = 0;
    while let Ok(Some(buffer)) = buffers.recv() {
        seen += look_at(&buffer);
    }
    seen
}

fn buffers() -> Result<u64, Failure> {
    let (mut sender, receiver) = crossmist::channel()?;
    let consumer = consume.spawn(receiver)?;
    let buffer = vec![7; SIZE];
    for _ in 0..BUFFERS {
        sender.send(&buffer)?;
    }
    drop(sender);
    Ok(consumer.join()?)
}

#[crossmist::main]
fn main() -> Result<(), Failure> {
    assert_eq!(timed("call", call)?, 5);
    assert_eq!(timed("pool", pool)?, (ITEMS - 1, 1));
    assert_eq!(timed("buffers", buffers)?, SEEN);
    Ok(())
}
