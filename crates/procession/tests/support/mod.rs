//! What every test begins and ends with: a bound on its time, and a census of the processes that it
//! leaves behind.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) const METHODS: [procession::StartMethod; 3] = [
    procession::StartMethod::Spawn,
    procession::StartMethod::ForkServer,
    procession::StartMethod::Fork,
];

/// More than any test takes, on a slow machine.
const BOUND: Duration = Duration::from_secs(60);

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A test in progress. Dropped at its end, it looks for processes and shared memory that are left.
pub(crate) struct Watched {
    over: Arc<AtomicBool>,
    objects: usize,
    _turn: MutexGuard<'static, ()>,
}

/// Tests of one program run one after the other, so that each may count processes.
pub(crate) fn watched() -> Watched {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let over = Arc::new(AtomicBool::new(false));
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let seen = Arc::clone(&over);
    std::thread::spawn(move || {
        let deadline = Instant::now() + BOUND;
        while !seen.load(Ordering::Relaxed) {
            if Instant::now() > deadline {
                panic_and_abort(&format!("{test} did not end within {BOUND:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Watched {
        over,
        objects: objects(),
        _turn: turn,
    }
}

fn panic_and_abort(why: &str) {
    // Prints why; a panic of this thread alone would leave the test waiting.
    let _ = std::panic::catch_unwind(|| panic!("{why}"));
    std::process::abort();
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if !std::thread::panicking() {
            let left = until(Duration::from_secs(20), || {
                Some(relatives()).filter(Vec::is_empty)
            })
            .err();
            assert!(left.is_none(), "processes are left: {:?}", relatives());
            // What is left of children that nobody waited for, and of theirs, is cleared away with
            // later starts and ends.
            let left = until(Duration::from_secs(20), || {
                procession::Process::spawn(|| (), ())
                    .expect("starts")
                    .join()
                    .expect("ends");
                (objects() <= self.objects).then_some(())
            });
            let left = left.err();
            assert!(
                left.is_none(),
                "shared objects are left: {} instead of {}",
                objects(),
                self.objects
            );
        }
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T, ()> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The running processes that share this one's memory, wherever they have gone: all but this one
/// and fork servers.
pub(crate) fn relatives() -> Vec<String> {
    let Some(mine) = arena_of(std::process::id()) else {
        return Vec::new();
    };
    let processes = fs::read_dir("/proc").expect("there is /proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| pid != std::process::id() && arena_of(pid) == Some(mine))
        .map(|pid| (pid, thread_names(pid)))
        .filter(|(_, names)| !names.iter().any(|name| name == "fork server"))
        .map(|(pid, names)| format!("{pid} {names:?}"))
        .collect()
}

pub(crate) fn thread_names(pid: u32) -> Vec<String> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

pub(crate) fn arena_of(pid: u32) -> Option<u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    descriptors.flatten().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_string_lossy()
            .starts_with("/memfd:procession")
            .then(|| fs::metadata(entry.path()).ok().map(|file| file.ino()))?
    })
}

/// How many objects the processes share.
pub(crate) fn objects() -> usize {
    procession_engine::family()
        .expect("there is a family")
        .stats()
        .objects
}

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("there is /proc")
        .count()
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// SIGKILL, to a process that is not waited for here.
pub(crate) fn kill(pid: u32) {
    let killed = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(killed.expect("there is kill").success());
}

/// Whether there is no such process any more, or a zombie.
pub(crate) fn has_ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        let state = stat.rsplit(") ").next();
        state.is_some_and(|state| state.starts_with('Z') || state.starts_with('X'))
    })
}

/// The processes that have this memory file open.
pub(crate) fn holders_of(arena: u64) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("there is /proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&pid| arena_of(pid) == Some(arena))
        .collect()
}
