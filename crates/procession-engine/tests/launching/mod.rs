//! What tests of launching share: children, and what they do.
//!
//! A child of a test program is the program again, run as the test `child_of_this_program`, whose
//! first act is what `init()` would be.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use procession_engine::launch::{
    Entry, LaunchError, LaunchRequest, StartMethod, allow_threads_in_server, child_entry, finish,
    launch, set_child_arguments,
};
use procession_engine::process::Child;
use procession_engine::{Block, ExitStatus, Handle, Outgoing, Patience, Role, family};
use procession_sys::{poll, process as sys};

pub(crate) const METHODS: [StartMethod; 3] = [
    StartMethod::Spawn,
    StartMethod::ForkServer,
    StartMethod::Fork,
];
pub(crate) const CHILD: [&str; 5] = [
    "launching::child_of_this_program",
    "--exact",
    "--nocapture",
    "--quiet",
    "--test-threads=1",
];

/// Tests that change what all of this process sees, or count what it has, run alone.
pub(crate) static TOGETHER: RwLock<()> = RwLock::new(());

pub(crate) fn together() -> RwLockReadGuard<'static, ()> {
    begin();
    TOGETHER.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    begin();
    TOGETHER.write().unwrap_or_else(PoisonError::into_inner)
}

/// What main would do, were it ours.
pub(crate) fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_child_arguments(CHILD.map(Into::into).to_vec());
        // The harness has a thread that waits for the test.
        allow_threads_in_server();
        assert!(child_entry().expect("is nobody's child").is_none());
    });
}

#[test]
fn child_of_this_program() {
    allow_threads_in_server();
    set_child_arguments(CHILD.map(Into::into).to_vec());
    let entry = child_entry().unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "{error}");
        std::process::exit(1)
    });
    if let Some(entry) = entry {
        // What comes of a panic is the front door's to say.
        let code = std::panic::catch_unwind(|| run(entry));
        finish(code.unwrap_or(101));
    }
    assert!(
        std::env::var_os("PROCESSION_CHILD").is_none(),
        "only children are run as this test alone"
    );
}

#[test]
fn child_of_a_careful_program() {
    if let Some(entry) = child_entry().expect("can be what it was started as") {
        finish(run(entry));
    }
    assert!(std::env::var_os("PROCESSION_CHILD").is_none());
}

// What children do.
pub(crate) const EXIT: u64 = 0;
pub(crate) const DESCRIBE: u64 = 1;
pub(crate) const SLEEP: u64 = 2;
pub(crate) const COUNT: u64 = 3;
pub(crate) const WRITE_HERE: u64 = 4;
pub(crate) const BE_PARENT: u64 = 5;
pub(crate) const PANIC: u64 = 6;
pub(crate) const DROP_AND_SLEEP: u64 = 7;

pub(crate) fn run(entry: Entry) -> i32 {
    let Entry {
        entry: what,
        payload,
        fds,
        ..
    } = &entry;
    match *what {
        EXIT => payload.bytes.first().copied().unwrap_or(0).into(),
        DESCRIBE => {
            let sum: usize = payload
                .buffers
                .iter()
                .flat_map(Block::to_vec)
                .map(usize::from)
                .sum();
            let text = format!(
                "{} {:?} {} {:?} {} {} {} {sum}",
                entry.name,
                entry.role,
                entry.daemon,
                entry.method,
                entry.parent,
                payload.tag,
                String::from_utf8_lossy(&payload.bytes)
            );
            write_to(&fds[0], text.as_bytes());
            write_to(&fds[1], b"second");
            0
        }
        DROP_AND_SLEEP => {
            drop(entry);
            std::thread::sleep(Duration::from_secs(60));
            1
        }
        SLEEP => {
            std::thread::sleep(Duration::from_secs(60));
            1
        }
        COUNT => {
            let handle = Handle::from_bytes(payload.bytes[..16].try_into().expect("a handle"));
            let block = Block::from_handle(handle).expect("is kept alive");
            block
                .word(0)
                .expect("has words")
                .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            0
        }
        WRITE_HERE => {
            let folder = std::env::current_dir().expect("has one");
            let _ = writeln!(
                std::io::stdout(),
                "{} {:?} {:?} {:o}",
                folder.display(),
                std::env::var_os("SETTING"),
                std::env::var_os("PROCESSION_CHILD"),
                sys::file_mask().expect("has /proc")
            );
            0
        }
        BE_PARENT => be_parent(fds),
        _ => panic!("as it was told"),
    }
}

pub(crate) fn write_to(fd: &OwnedFd, bytes: &[u8]) {
    File::from(sys::duplicate(fd).expect("duplicates"))
        .write_all(bytes)
        .expect("writes");
}

pub(crate) fn soon<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_secs(20))
}

pub(crate) struct Start<'a> {
    pub(crate) name: &'a str,
    pub(crate) role: Role,
    pub(crate) daemon: bool,
    pub(crate) payload: Outgoing<'a>,
    pub(crate) fds: &'a [BorrowedFd<'a>],
}

impl Default for Start<'_> {
    fn default() -> Self {
        Start {
            name: "child",
            role: Role::Process,
            daemon: false,
            payload: Outgoing::default(),
            fds: &[],
        }
    }
}

impl Start<'_> {
    pub(crate) fn request(&self, method: StartMethod, entry: u64) -> LaunchRequest<'_> {
        LaunchRequest {
            method,
            name: self.name,
            role: self.role,
            daemon: self.daemon,
            entry,
            payload: &self.payload,
            fds: self.fds,
            run,
        }
    }

    pub(crate) fn by(&self, method: StartMethod, entry: u64) -> Result<Child, LaunchError> {
        launch(&self.request(method, entry))
    }
}

pub(crate) fn start(method: StartMethod, entry: u64) -> Child {
    Start::default()
        .by(method, entry)
        .unwrap_or_else(|error| panic!("{method:?}: {error}"))
}

pub(crate) fn end_of(child: &Child) -> ExitStatus {
    child.wait(&mut soon()).expect("ends in time")
}

pub(crate) fn eventually(what: &str, within: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !check() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is in the pipe now: it may stay open for a while in forked children of other tests.
pub(crate) fn read_once(pipe: &mut std::io::PipeReader) -> String {
    let mut bytes = vec![0; 4096];
    let count = pipe.read(&mut bytes).expect("reads");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

pub(crate) fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("has /proc")
        .count()
}

pub(crate) fn kernel_children() -> HashSet<u32> {
    let mut children = HashSet::new();
    for task in std::fs::read_dir("/proc/self/task")
        .expect("has /proc")
        .flatten()
    {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(
            list.split_ascii_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    children
}

pub(crate) fn server_pid() -> Option<u32> {
    let family = family().expect("is there");
    let mine = |info: &&procession_engine::MemberInfo| {
        info.role == Role::ForkServer && info.alive && info.parent == Some(family.me())
    };
    family.members().iter().find(mine).map(|info| info.pid)
}

pub(crate) fn kill_by_pid(pid: u32) {
    let pidfd = sys::open_pidfd(pid).expect("is there");
    sys::send_signal(pidfd.as_fd(), 9).expect("is ours");
    assert!(poll::readable(pidfd.as_fd(), Some(Duration::from_secs(20))).expect("polls"));
}

/// Launches daemons by each method, from the main thread and from another, and one that is none.
/// Writes their pids and waits to be killed.
pub(crate) fn be_parent(fds: &[OwnedFd]) -> i32 {
    let Some(report) = fds.get(1) else {
        let mut rest = Vec::new();
        let _ = File::from(sys::duplicate(&fds[0]).expect("duplicates")).read_to_end(&mut rest);
        return 7;
    };
    let daemon = |method| {
        Start {
            daemon: true,
            ..Start::default()
        }
        .by(method, SLEEP)
        .expect("starts")
    };
    let mut children: Vec<Child> = METHODS.iter().map(|&method| daemon(method)).collect();
    let keep = std::sync::mpsc::channel::<()>();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for method in METHODS {
            sender.send(daemon(method)).expect("is waited for");
        }
        // The thread lives on: what dies with it is not what is tested here.
        let _ = keep.1.recv();
    });
    children.extend(receiver.iter().take(3));
    children.push(start(StartMethod::Spawn, SLEEP));
    let mut pids: Vec<String> = children
        .iter()
        .map(|child| child.pid().to_string())
        .collect();
    pids.push(server_pid().expect("is there").to_string());
    write_to(report, format!("{}\n", pids.join(" ")).as_bytes());
    std::thread::sleep(Duration::from_secs(60));
    1
}
