//! What becomes of a fault in the other process: `faults LIBRARY FAULT`, each tried, and what it said printed.
//!
//! LIBRARY is procession, procspawn or ipc-channel (with `std::process`). FAULT:
//!
//! - `panic`, `crash`: of the function in the process
//! - `hang`: it never ends; is waited for with a limit of 300 ms. Does it go on afterwards?
//! - `garbage`: its result can't be read. And a message of a channel; does the next one come?
//! - `early`: the process dies before it has come to the start of the function
//! - `torn`: a sender of large values is killed in the middle, 20 times
//! - `thousand`: a pool has a thousand tasks at once; try it with `ulimit -n 1024`
//! - `order`: of two tasks the second is waited for first, in a pool of one worker
//! - `orphan`: this program is killed; its child's pid is printed, and that of a pool's worker

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use procession::{Bytes, Process};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LIMIT: Duration = Duration::from_millis(300);

/// Can be written, and not be read unless it is right.
#[derive(Debug)]
struct Fussy {
    right: bool,
}

impl Serialize for Fussy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.right.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fussy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fussy, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(Fussy { right: true }),
            false => Err(Error::custom("this is not right")),
        }
    }
}

fn panics(_: u8) -> u32 {
    panic!("a case that cannot happen")
}

fn crashes(_: u8) -> u32 {
    std::process::abort()
}

fn hangs(_: u8) -> u32 {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn mistaken(_: u8) -> Fussy {
    Fussy { right: false }
}

fn number(x: u8) -> u32 {
    x.into()
}

fn pid(_: u8) -> u32 {
    std::process::id()
}

fn is_running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

/// Says what the wait gave, after how long, and whether the process goes on half a second later.
fn report<T: std::fmt::Debug, E: std::fmt::Display>(pid: u32, wait: impl FnOnce() -> Result<T, E>) {
    let began = Instant::now();
    match wait() {
        Ok(value) => println!("result: {value:?}"),
        Err(error) => println!("error: {error}"),
    }
    println!("after {} ms", began.elapsed().as_millis());
    std::thread::sleep(Duration::from_millis(500));
    if is_running(pid) {
        println!("the process {pid} goes on");
        kill(pid);
    }
}

fn kill(pid: u32) {
    let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
}

fn within(wait: impl FnOnce() -> Vec<u32> + Send + 'static) {
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(wait()));
    match done.recv_timeout(Duration::from_secs(5)) {
        Ok(results) => println!("results: {results:?}"),
        Err(_) => println!("after 5 s it still waits"),
    }
}

/// Kills a sender of large values in its middle, again and again, and counts what came whole; `receive` gives the
/// length of the next value, `None` at the end of values.
fn tear(
    mut start: impl FnMut() -> (
        u32,
        Box<dyn FnMut() -> Result<Option<Vec<u8>>, String> + Send>,
    ),
) {
    let (mut whole, mut torn, mut errors, mut hanging) = (0, 0, 0, 0);
    for round in 0..20 {
        let (pid, mut receive) = start();
        let (sender, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let (mut whole, mut torn) = (0, 0);
            let ended = loop {
                match receive() {
                    Ok(Some(value))
                        if value.len() == LARGE && value.iter().all(|&b| b == value[0]) =>
                    {
                        whole += 1
                    }
                    Ok(Some(_)) => torn += 1,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            let _ = sender.send((whole, torn, ended));
        });
        std::thread::sleep(Duration::from_millis(15 + 3 * round));
        kill(pid);
        match outcome.recv_timeout(Duration::from_secs(3)) {
            Ok((some, half, ended)) => {
                whole += some;
                torn += half;
                if let Err(error) = ended {
                    errors += 1;
                    println!("{error}");
                }
            }
            Err(_) => hanging += 1,
        }
    }
    println!(
        "{whole} whole, {torn} torn; of 20 receivers {errors} had an error, {hanging} wait for ever"
    );
}

const LARGE: usize = 4 << 20;

// --- procession ------------------------------------------------------------------------------------

fn by_procession(fault: &str) {
    let join = |process: Process<u32>| report(process.pid(), || process.join());
    match fault {
        "panic" => join(Process::spawn(panics, 0).expect("starts")),
        "crash" => join(Process::spawn(crashes, 0).expect("starts")),
        "hang" => {
            join(
                Process::builder()
                    .timeout(LIMIT)
                    .spawn(hangs, 0)
                    .expect("starts"),
            );
            let pool = procession::Pool::new(1).expect("starts");
            let worker = pool.apply(pid, 0).expect("is said");
            report(worker, || pool.tasks().time_limit(LIMIT).apply(hangs, 0));
            report(0, || pool.apply(number, 7));
        }
        "garbage" => {
            let process = Process::spawn(mistaken, 0).expect("starts");
            report(process.pid(), || process.join());
            let (sender, receiver) = procession::pipe().expect("there are descriptors");
            for right in [false, true] {
                assert!(sender.send(Fussy { right }).is_ok());
                report(0, || receiver.recv());
            }
        }
        "early" => {
            // The setup is what comes first in a process of this library.
            let dies = || -> Result<(), String> { std::process::abort() };
            join(
                Process::builder()
                    .setup(dies, ())
                    .spawn(number, 7)
                    .expect("starts"),
            );
        }
        "torn" => tear(|| {
            let (sender, receiver) = procession::pipe::<Bytes>().expect("there are descriptors");
            let child = Process::spawn(send_by_procession, sender).expect("starts");
            let receive = move || match receiver.recv() {
                Ok(value) => Ok(Some(value.into_vec())),
                Err(error) if error.is_closed() => Ok(None),
                Err(error) => Err(error.to_string()),
            };
            (child.pid(), Box::new(receive))
        }),
        "thousand" => {
            let pool = procession::Pool::new(2).expect("starts");
            let tasks: Vec<_> = (0..1000)
                .map(|_| pool.apply_async(number, 7).expect("is taken"))
                .collect();
            println!(
                "{}",
                tasks.into_iter().filter_map(|task| task.get().ok()).count()
            );
        }
        "order" => {
            let pool = procession::Pool::new(1).expect("starts");
            let tasks = [1, 2].map(|x| pool.apply_async(number, x).expect("is taken"));
            let [first, second] = tasks;
            within(move || {
                vec![
                    second.get().expect("ends well"),
                    first.get().expect("ends well"),
                ]
            });
        }
        "orphan" => {
            let plain = Process::spawn(hangs, 0).expect("starts");
            let daemon = Process::builder()
                .daemon(true)
                .spawn(hangs, 0)
                .expect("starts");
            let pool = procession::Pool::new(1).expect("starts");
            let worker = pool.apply(pid, 0).expect("is said");
            let _task = pool.apply_async(hangs, 0).expect("is taken");
            println!(
                "process {} daemon {} worker {worker}",
                plain.pid(),
                daemon.pid()
            );
            std::thread::sleep(Duration::from_millis(200));
            kill(std::process::id());
        }
        other => panic!("there is no fault {other}"),
    }
}

fn send_by_procession(sender: procession::Sender<Bytes>) {
    for value in 0..=u8::MAX {
        if sender.send(Bytes::from(vec![value; LARGE])).is_err() {
            break;
        }
    }
}

// --- procspawn -------------------------------------------------------------------------------------

fn by_procspawn(fault: &str) {
    let join = |handle: procspawn::JoinHandle<u32>| {
        report(handle.pid().unwrap_or(0), || handle.join());
    };
    match fault {
        "panic" => join(procspawn::spawn(0, panics)),
        "crash" => join(procspawn::spawn(0, crashes)),
        "hang" => {
            let mut handle = procspawn::spawn(0, hangs);
            report(handle.pid().unwrap_or(0), || handle.join_timeout(LIMIT));
            let pool = procspawn::Pool::new(1).expect("starts");
            let worker = pool.spawn(0, pid).join().expect("is said");
            let mut task = pool.spawn(0, hangs);
            report(worker, || task.join_timeout(LIMIT));
            report(0, || pool.spawn(7, number).join());
        }
        "garbage" => {
            let handle = procspawn::spawn(0, mistaken);
            report(handle.pid().unwrap_or(0), || handle.join());
            println!("it has no channels of its own");
        }
        "thousand" => {
            let pool = procspawn::Pool::new(2).expect("starts");
            let tasks: Vec<_> = (0..1000).map(|_| pool.spawn(7, number)).collect();
            println!(
                "{}",
                tasks
                    .into_iter()
                    .filter_map(|task| task.join().ok())
                    .count()
            );
        }
        "order" => {
            let pool = procspawn::Pool::new(1).expect("starts");
            let [first, second] = [1, 2].map(|x| pool.spawn(x, number));
            within(move || {
                vec![
                    second.join().expect("ends well"),
                    first.join().expect("ends well"),
                ]
            });
        }
        "orphan" => {
            let plain = procspawn::spawn(0, hangs);
            let pool = procspawn::Pool::new(1).expect("starts");
            let worker = pool.spawn(0, pid).join().expect("is said");
            let _task = pool.spawn(0, hangs);
            println!("process {} worker {worker}", plain.pid().unwrap_or(0));
            std::thread::sleep(Duration::from_millis(200));
            kill(std::process::id());
        }
        "early" | "torn" => println!("its processes and channels are those of ipc-channel"),
        other => panic!("there is no fault {other}"),
    }
}

// --- ipc-channel -----------------------------------------------------------------------------------

/// Starts this program again; what comes from it comes by the receiver.
fn start<T: Serialize + for<'de> Deserialize<'de>>(role: &str) -> (Child, IpcReceiver<T>) {
    let (server, name) = IpcOneShotServer::<IpcReceiver<T>>::new().expect("there are descriptors");
    let program = std::env::current_exe().expect("is known");
    let child = Command::new(program)
        .args(["--child", role, &name])
        .spawn()
        .expect("starts");
    let (_, receiver) = server.accept().expect("the child comes");
    (child, receiver)
}

fn meet<T: Serialize + for<'de> Deserialize<'de>>(name: String) -> IpcSender<T> {
    let (to, from) = ipc::channel().expect("there are descriptors");
    IpcSender::connect(name)
        .expect("is there")
        .send(from)
        .expect("is read");
    to
}

fn child_of_ipc_channel(role: &str, name: String) {
    match role {
        "early" => std::process::abort(),
        "garbage" => {
            let to = meet(name);
            for right in [false, true] {
                to.send(Fussy { right }).expect("is read");
            }
        }
        "torn" => {
            let to = meet(name);
            for value in 0..=u8::MAX {
                if to.send(vec![value; LARGE]).is_err() {
                    break;
                }
            }
        }
        other => {
            let function = match other {
                "panic" => panics,
                "crash" => crashes,
                _ => hangs,
            };
            let to = meet(name);
            to.send(function(0)).expect("is read");
        }
    }
}

fn by_ipc_channel(fault: &str) {
    match fault {
        "panic" | "crash" => {
            let (mut child, results) = start::<u32>(fault);
            report(child.id(), || results.recv());
            println!("and the process: {}", child.wait().expect("is ours"));
        }
        "hang" => {
            let (child, results) = start::<u32>(fault);
            report(child.id(), || results.try_recv_timeout(LIMIT));
        }
        "garbage" => {
            let (mut child, results) = start::<Fussy>(fault);
            report(0, || results.recv());
            report(0, || results.recv());
            println!("and the process: {}", child.wait().expect("is ours"));
        }
        "early" => {
            let (sender, done) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(start::<u32>("early").0.id()));
            match done.recv_timeout(Duration::from_secs(5)) {
                Ok(pid) => println!("{pid} has come"),
                Err(_) => {
                    println!("after 5 s it still waits for the dead process to introduce itself")
                }
            }
        }
        "torn" => tear(|| {
            let (child, results) = start::<Vec<u8>>("torn");
            let receive = move || match results.recv() {
                Ok(value) => Ok(Some(value)),
                Err(ipc_channel::IpcError::Disconnected) => Ok(None),
                Err(error) => Err(error.to_string()),
            };
            (child.id(), Box::new(receive))
        }),
        "orphan" => {
            let (child, _results) = start::<u32>("hang");
            println!("process {}", child.id());
            std::thread::sleep(Duration::from_millis(200));
            kill(std::process::id());
        }
        _ => println!("it has no pool"),
    }
}

fn main() {
    procession::init();
    procspawn::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", role, name] => child_of_ipc_channel(role, name.to_owned()),
        ["procession", fault] => by_procession(fault),
        ["procspawn", fault] => by_procspawn(fault),
        ["ipc-channel", fault] => by_ipc_channel(fault),
        _ => panic!("usage: faults LIBRARY FAULT"),
    }
}
