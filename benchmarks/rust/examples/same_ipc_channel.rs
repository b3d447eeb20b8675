//! A call, a pool with a fatal item, large buffers: with ipc-channel, and `std::process` for the processes.

mod work;

use std::error::Error;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ipc_channel::ipc::{self, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use work::{BUFFERS, ITEMS, SEEN, SIZE, TEXT, WORKERS, look_at, square, timed, words};

type Failure = Box<dyn Error + Send + Sync>;

/// How to send to a child, and what comes from it.
#[derive(Serialize, Deserialize)]
struct Ends<To, R> {
    to: To,
    results: IpcReceiver<R>,
}

/// Starts this program again. The first message from there has the ends of two channels.
fn start<To, R>(role: &str) -> Result<(Child, Ends<To, R>), Failure>
where
    Ends<To, R>: Serialize + DeserializeOwned,
{
    let (server, name) = IpcOneShotServer::new()?;
    let program = std::env::current_exe()?;
    let child = Command::new(program).args([role, &name]).spawn()?;
    let (_, ends) = server.accept()?; // for ever, if the child dies before it gets there
    Ok((child, ends))
}

/// The other side of `start`.
fn meet<To, R>(name: String, to: To) -> Result<IpcSender<R>, Failure>
where
    Ends<To, R>: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    let (sender, results) = ipc::channel()?;
    IpcSender::connect(name)?.send(Ends { to, results })?;
    Ok(sender)
}

fn child(role: &str, name: String) -> Result<(), Failure> {
    match role {
        "words" => {
            let (to, texts) = ipc::channel()?;
            let results = meet(name, to)?;
            results.send(words(texts.recv()?))?;
        }
        "square" => {
            let (to, numbers) = ipc::channel()?;
            let results = meet(name, to)?;
            while let Ok(number) = numbers.recv() {
                results.send(square(number))?;
            }
        }
        _ => {
            let (to, buffers) = ipc::bytes_channel()?;
            let results = meet(name, to)?;
            let mut seen = 0;
            while let Ok(buffer) = buffers.recv() {
                seen += look_at(&buffer);
            }
            results.send(seen)?;
        }
    }
    Ok(())
}

fn call() -> Result<usize, Failure> {
    let (mut child, ends) = start::<IpcSender<String>, usize>("words")?;
    ends.to.send(TEXT.to_owned())?;
    let result = ends.results.recv();
    let status = child.wait()?;
    result.map_err(|error| format!("{error}; {status}").into())
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
    let (mut child, mut ends) = start::<IpcSender<u64>, u64>("square")?;
    loop {
        let number = count.next.fetch_add(1, Ordering::Relaxed);
        if number >= ITEMS {
            break;
        }
        match ends.to.send(number).and_then(|()| ends.results.recv()) {
            Ok(_) => count.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                child.kill()?; // whatever it was
                println!("{number}: {error}; {}", child.wait()?);
                (child, ends) = start("square")?;
                count.lost.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
    drop(ends);
    child.wait()?;
    Ok(())
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

fn buffers() -> Result<u64, Failure> {
    let (mut child, ends) = start::<IpcBytesSender, u64>("look_at")?;
    let buffer = vec![7; SIZE];
    for _ in 0..BUFFERS {
        ends.to.send(&buffer)?;
    }
    drop(ends.to); // the end of the buffers
    let seen = ends.results.recv();
    child.wait()?;
    Ok(seen?)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(role), Some(name)) = (arguments.next(), arguments.next()) {
        return child(&role, name);
    }
    assert_eq!(timed("call", call)?, 5);
    assert_eq!(timed("pool", pool)?, (ITEMS - 1, 1));
    assert_eq!(timed("buffers", buffers)?, SEEN);
    Ok(())
}
