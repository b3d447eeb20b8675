//! Children: how they start by each method, how they end, and what is left when somebody is killed.
//!
//! A child of this test program is the program again, run as the test `child_of_this_program`, whose
//! first act is what `init()` would be.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use procession_engine::launch::{
    Entry, LaunchError, LaunchRequest, StartMethod, allow_threads_in_server, child_entry, finish,
    fork_running, launch, set_child_arguments, stop_fork_server,
};
use procession_engine::process::{Child, SpawnRequest, die_with, spawn};
use procession_engine::{Block, ExitStatus, Handle, Outgoing, Patience, Role, WaitError, family};
use procession_sys::{poll, process as sys, socket};

const METHODS: [StartMethod; 3] = [
    StartMethod::Spawn,
    StartMethod::ForkServer,
    StartMethod::Fork,
];
const CHILD: [&str; 5] = [
    "child_of_this_program",
    "--exact",
    "--nocapture",
    "--quiet",
    "--test-threads=1",
];

/// Tests that change what all of this process sees, or count what it has, run alone.
static TOGETHER: RwLock<()> = RwLock::new(());

fn together() -> RwLockReadGuard<'static, ()> {
    begin();
    TOGETHER.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    begin();
    TOGETHER.write().unwrap_or_else(PoisonError::into_inner)
}

/// What main would do, were it ours.
fn begin() {
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
    let entry = child_entry().expect("can be what it was started as");
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

// What children do.
const EXIT: u64 = 0;
const DESCRIBE: u64 = 1;
const SLEEP: u64 = 2;
const COUNT: u64 = 3;
const WRITE_HERE: u64 = 4;
const BE_PARENT: u64 = 5;
const PANIC: u64 = 6;

fn run(entry: Entry) -> i32 {
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

fn write_to(fd: &OwnedFd, bytes: &[u8]) {
    File::from(sys::duplicate(fd).expect("duplicates"))
        .write_all(bytes)
        .expect("writes");
}

fn soon<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_secs(20))
}

struct Start<'a> {
    name: &'a str,
    role: Role,
    daemon: bool,
    payload: Outgoing<'a>,
    fds: &'a [BorrowedFd<'a>],
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
    fn by(&self, method: StartMethod, entry: u64) -> Result<Child, LaunchError> {
        let Start {
            name,
            role,
            daemon,
            ref payload,
            fds,
        } = *self;
        launch(&LaunchRequest {
            method,
            name,
            role,
            daemon,
            entry,
            payload,
            fds,
            run,
        })
    }
}

fn start(method: StartMethod, entry: u64) -> Child {
    Start::default()
        .by(method, entry)
        .unwrap_or_else(|error| panic!("{method:?}: {error}"))
}

fn end_of(child: &Child) -> ExitStatus {
    child.wait(&mut soon()).expect("ends in time")
}

fn eventually(what: &str, within: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !check() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What is in the pipe now: it may stay open for a while in forked children of other tests.
fn read_once(pipe: &mut std::io::PipeReader) -> String {
    let mut bytes = vec![0; 4096];
    let count = pipe.read(&mut bytes).expect("reads");
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

fn open_fds() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("has /proc")
        .count()
}

fn kernel_children() -> HashSet<u32> {
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

fn server_pid() -> Option<u32> {
    let family = family().expect("is there");
    let mine = |info: &&procession_engine::MemberInfo| {
        info.role == Role::ForkServer && info.alive && info.parent == Some(family.me())
    };
    family.members().iter().find(mine).map(|info| info.pid)
}

fn kill_by_pid(pid: u32) {
    let pidfd = sys::open_pidfd(pid).expect("is there");
    sys::send_signal(pidfd.as_fd(), 9).expect("is ours");
    assert!(poll::readable(pidfd.as_fd(), Some(Duration::from_secs(10))).expect("polls"));
}

#[test]
fn exit_codes_and_signals_are_told_by_every_method() {
    let _together = together();
    for method in METHODS {
        for code in [0, 3, 255] {
            let payload = Outgoing::bytes(std::slice::from_ref(&code));
            let child = Start {
                payload,
                ..Start::default()
            }
            .by(method, EXIT)
            .expect("starts");
            assert_eq!(end_of(&child), ExitStatus::Code(code.into()), "{method:?}");
            assert_eq!(end_of(&child), ExitStatus::Code(code.into()), "asked again");
            assert!(child.checked_in() && !child.is_alive());
            child.kill(15).expect("nothing happens to the dead");
        }
        let child = start(method, SLEEP);
        assert!(child.is_alive() && child.try_wait().is_none());
        child.kill(15).expect("is there");
        assert_eq!(end_of(&child), ExitStatus::Signal(15), "{method:?}");
        assert_eq!(child.try_wait(), Some(ExitStatus::Signal(15)));
        let panicked = start(method, PANIC);
        assert_eq!(end_of(&panicked), ExitStatus::Code(101), "{method:?}");
    }
}

#[test]
fn a_child_gets_what_it_was_launched_with() {
    let _together = together();
    for method in METHODS {
        let (mut read_one, one) = std::io::pipe().expect("pipe");
        let (mut read_two, two) = std::io::pipe().expect("pipe");
        let large = vec![1u8; 1 << 20];
        let request = Start {
            name: "the name of this child",
            role: Role::Worker,
            daemon: true,
            payload: Outgoing {
                tag: 9,
                bytes: b"hello",
                buffers: &[&large, b"\x05"],
                handles: &[],
            },
            // One of them twice.
            fds: &[one.as_fd(), two.as_fd(), one.as_fd()],
        };
        let child = request.by(method, DESCRIBE).expect("starts");
        drop((one, two));
        assert_eq!(end_of(&child), ExitStatus::Code(0), "{method:?}");
        let expected = format!(
            "the name of this child Worker true {method:?} {} 9 hello {}",
            std::process::id(),
            (1 << 20) + 5
        );
        assert_eq!(read_once(&mut read_one), expected);
        assert_eq!(read_once(&mut read_two), "second");
        assert_eq!(child.name(), "the name of this child");
    }
}

#[test]
fn waiting_ends_when_it_should() {
    let _together = together();
    for method in METHODS {
        let child = start(method, SLEEP);
        let begin = Instant::now();
        assert_eq!(
            child.wait(&mut Patience::timeout(Duration::from_millis(30))),
            Err(WaitError::TimedOut)
        );
        assert!(begin.elapsed() >= Duration::from_millis(30));
        assert_eq!(child.wait(&mut Patience::none()), Err(WaitError::TimedOut));
        let mut hook = || true;
        assert_eq!(
            child.wait(&mut soon().with_interrupt(&mut hook)),
            Err(WaitError::Interrupted)
        );
        assert!(!poll::readable(child.sentinel(), Some(Duration::ZERO)).expect("polls"));
        child.kill(9).expect("is there");
        assert!(poll::readable(child.sentinel(), Some(Duration::from_secs(10))).expect("polls"));
        // Whoever was told by the sentinel gets the status at once.
        assert_eq!(child.try_wait(), Some(ExitStatus::Signal(9)), "{method:?}");
    }
}

#[test]
fn a_child_that_ends_before_it_checks_in_is_noticed() {
    let _alone = alone();
    stop_fork_server();
    set_child_arguments(vec!["--list".into()]);
    let child = start(StartMethod::Spawn, EXIT);
    let status = end_of(&child);
    let served = Start::default().by(StartMethod::ForkServer, EXIT);
    set_child_arguments(CHILD.map(Into::into).to_vec());
    assert_eq!(status, ExitStatus::Code(0));
    assert!(!child.checked_in(), "it never called init");
    let error = served.expect_err("its server never called init");
    assert!(
        matches!(
            error,
            LaunchError::ServerDied {
                checked_in: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("procession::init()"), "{error}");

    let killed = start(StartMethod::Spawn, SLEEP);
    killed.kill(9).expect("is there");
    assert_eq!(end_of(&killed), ExitStatus::Signal(9));
}

#[test]
fn nothing_is_left_of_children() {
    let _alone = alone();
    for method in METHODS {
        // The server stays.
        end_of(&start(method, EXIT));
        let objects = family().expect("is there").stats().objects;
        let (fds, children) = (open_fds(), kernel_children());
        let large = vec![7u8; 300_000];
        let payload = Outgoing {
            bytes: &large,
            buffers: &[&large],
            ..Outgoing::default()
        };
        let request = Start {
            payload,
            ..Start::default()
        };
        let running: Vec<Child> = (0..30)
            .map(|_| request.by(method, EXIT).expect("starts"))
            .collect();
        for (number, child) in running.iter().enumerate() {
            if number % 3 == 0 {
                // At whatever moment this hits it.
                child.kill(9).expect("is ours");
            }
        }
        for child in &running {
            end_of(child);
        }
        drop(running);
        let family = family().expect("is there");
        assert_eq!(open_fds(), fds, "{method:?}");
        assert_eq!(kernel_children(), children, "{method:?}");
        assert_eq!(
            family.stats().objects,
            objects,
            "{method:?}: what children held has gone back"
        );
        let others = family
            .members()
            .iter()
            .filter(|info| info.parent == Some(family.me()) && info.role != Role::ForkServer)
            .count();
        assert_eq!(others, 0, "{method:?}");
    }
}

#[test]
fn children_that_were_let_go_of_are_cleared_away_later() {
    let _alone = alone();
    let before = kernel_children();
    let pids: Vec<u32> = METHODS.map(|method| start(method, EXIT).pid()).to_vec();
    eventually("their remains are gone", Duration::from_secs(10), || {
        end_of(&start(StartMethod::Fork, EXIT));
        let now = kernel_children();
        !pids.iter().any(|pid| now.contains(pid))
    });
    let server: Vec<u32> = server_pid().into_iter().collect();
    let now = kernel_children();
    assert!(
        now.iter()
            .all(|pid| before.contains(pid) || server.contains(pid)),
        "{now:?}"
    );
}

#[test]
fn many_threads_may_launch_at_once() {
    let _together = together();
    let block = Block::zeroed(64).expect("has memory");
    let name = block.handle().to_bytes();
    let handles = [block.handle()];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for method in [StartMethod::ForkServer, StartMethod::Spawn] {
                    let payload = Outgoing {
                        bytes: &name,
                        handles: &handles,
                        ..Outgoing::default()
                    };
                    let request = Start {
                        payload,
                        ..Start::default()
                    };
                    let children: Vec<_> = (0..10)
                        .map(|_| request.by(method, COUNT).expect("starts"))
                        .collect();
                    for child in children {
                        assert_eq!(end_of(&child), ExitStatus::Code(0));
                    }
                }
            });
        }
    });
    assert_eq!(
        block
            .word(0)
            .expect("has words")
            .load(std::sync::atomic::Ordering::SeqCst),
        80
    );
}

#[test]
fn a_fork_server_that_was_killed_is_replaced() {
    let _alone = alone();
    let running = start(StartMethod::ForkServer, SLEEP);
    let exits = start(StartMethod::ForkServer, EXIT);
    end_of(&exits);
    let old = server_pid().expect("is there");
    kill_by_pid(old);
    let child = start(StartMethod::ForkServer, EXIT);
    assert_eq!(end_of(&child), ExitStatus::Code(0));
    let new = server_pid().expect("is there");
    assert_ne!(old, new);
    // A child of the old one goes on; how a signal ends it nobody knows any more, but it ends.
    assert!(running.is_alive());
    running.kill(15).expect("is there");
    assert_eq!(end_of(&running), ExitStatus::Unknown);
    stop_fork_server();
    eventually("the server has ended", Duration::from_secs(5), || {
        server_pid().is_none()
    });
}

#[test]
fn a_child_whose_server_was_killed_tells_its_own_exit_code() {
    let _alone = alone();
    let (read, write) = std::io::pipe().expect("pipe");
    let child = Start {
        fds: &[read.as_fd()],
        ..Start::default()
    }
    .by(StartMethod::ForkServer, BE_PARENT)
    .expect("starts");
    kill_by_pid(server_pid().expect("is there"));
    assert!(child.is_alive());
    // BE_PARENT without its second descriptor waits for the end of the first, and gives 7.
    drop((read, write));
    assert_eq!(end_of(&child), ExitStatus::Code(7));
}

#[test]
fn a_fork_server_killed_at_any_moment_loses_no_launch_and_doubles_none() {
    let _alone = alone();
    let block = Block::zeroed(64).expect("has memory");
    let name = block.handle().to_bytes();
    let handles = [block.handle()];
    let payload = Outgoing {
        bytes: &name,
        handles: &handles,
        ..Outgoing::default()
    };
    let request = Start {
        payload,
        ..Start::default()
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut launched, mut failed) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 1;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(pidfd) = server_pid().and_then(|pid| sys::open_pidfd(pid).ok()) {
                    let _ = sys::send_signal(pidfd.as_fd(), 9);
                }
                pause = pause * 7 % 4001;
                std::thread::sleep(Duration::from_micros(pause));
            }
        });
        let mut children = Vec::new();
        for _ in 0..120 {
            match request.by(StartMethod::ForkServer, COUNT) {
                Ok(child) => {
                    launched += 1;
                    children.push(child);
                }
                Err(LaunchError::ServerDied { .. }) => failed += 1,
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for child in children {
            let status = end_of(&child);
            assert_eq!(status, ExitStatus::Code(0), "it says so itself");
        }
    });
    let ran = block
        .word(0)
        .expect("has words")
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ran, launched, "{failed} launches failed");
    assert!(
        launched > 0 && failed > 0,
        "{launched} launched, {failed} failed: the server was not killed at bad moments"
    );
    end_of(&start(StartMethod::ForkServer, EXIT));
}

#[test]
fn a_served_child_has_the_settings_of_its_requester() {
    let _alone = alone();
    let (mut read, write) = std::io::pipe().expect("pipe");
    // In a process of its own, which may change its settings.
    let requester = fork_running("requester", Role::Process, false, || {
        let Ok(only) = sys::Alone::check() else {
            return 2;
        };
        sys::replace_standard(1, write.as_fd()).expect("is open");
        for (folder, setting, mask) in [("/usr", "one", 0o27), ("/", "two", 0o77)] {
            std::env::set_current_dir(folder).expect("is there");
            only.replace_environment(&[("SETTING".into(), setting.into())]);
            sys::set_file_mask(mask);
            for method in [StartMethod::Spawn, StartMethod::ForkServer] {
                if !end_of(&start(method, WRITE_HERE)).success() {
                    return 3;
                }
            }
        }
        0
    })
    .expect("forks");
    drop(write);
    assert_eq!(end_of(&requester), ExitStatus::Code(0));
    let mut text = String::new();
    read.read_to_string(&mut text).expect("reads");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("Some")).collect();
    let one = r#"/usr Some("one") None 27"#;
    let two = r#"/ Some("two") None 77"#;
    // By Spawn the variable can't be removed, the harness having threads.
    let served: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.contains("None"))
        .collect();
    assert_eq!(served, [one, two], "{text}");
    let spawned: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| !line.contains("None"))
        .collect();
    assert!(
        spawned[0].starts_with(r#"/usr Some("one")"#) && spawned[0].ends_with(" 27"),
        "{text}"
    );
    assert!(
        spawned[1].starts_with(r#"/ Some("two")"#) && spawned[1].ends_with(" 77"),
        "{text}"
    );
}

/// Launches daemons by each method, from the main thread and from another, and one that is none.
/// Writes their pids and waits to be killed.
fn be_parent(fds: &[OwnedFd]) -> i32 {
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

#[test]
fn daemons_die_with_a_killed_parent_and_others_do_not() {
    let _alone = alone();
    for method in METHODS {
        let (read, write) = std::io::pipe().expect("pipe");
        let parent = Start {
            fds: &[read.as_fd(), write.as_fd()],
            ..Start::default()
        }
        .by(method, BE_PARENT);
        let parent = parent.expect("starts");
        drop(write);
        let mut line = String::new();
        let mut byte = [0];
        let mut reader = &read;
        while reader.read(&mut byte).expect("reads") == 1 && byte != *b"\n" {
            line.push(byte[0].into());
        }
        let pidfds: Vec<OwnedFd> = line
            .split(' ')
            .map(|pid| sys::open_pidfd(pid.parse().expect("a pid")).expect("is alive"))
            .collect();
        assert_eq!(pidfds.len(), 8, "{method:?}: {line}");
        // So that none is killed before it could arrange for its death: that is another test.
        std::thread::sleep(Duration::from_millis(300));
        let ended =
            |pidfd: &OwnedFd| poll::readable(pidfd.as_fd(), Some(Duration::ZERO)).expect("polls");
        assert!(
            !pidfds.iter().any(ended),
            "{method:?}: all live as long as the parent does"
        );
        parent.kill(9).expect("is there");
        let begin = Instant::now();
        eventually(
            "daemons and fork server are gone",
            Duration::from_secs(1),
            || {
                pidfds
                    .iter()
                    .enumerate()
                    .all(|(at, pidfd)| at == 6 || ended(pidfd))
            },
        );
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(!ended(&pidfds[6]), "{method:?}: it was no daemon");
        sys::send_signal(pidfds[6].as_fd(), 9).expect("is there");
        assert_eq!(end_of(&parent), ExitStatus::Signal(9));
    }
}

#[test]
fn a_daemon_outlives_the_thread_that_launched_it() {
    let _together = together();
    for method in METHODS {
        let child = std::thread::spawn(move || {
            Start {
                daemon: true,
                ..Start::default()
            }
            .by(method, SLEEP)
        });
        let child = child.join().expect("ends").expect("starts");
        let early = child.wait(&mut Patience::timeout(Duration::from_millis(300)));
        assert_eq!(early, Err(WaitError::TimedOut), "{method:?}");
        child.kill(9).expect("is there");
        end_of(&child);
    }
}

#[test]
fn daemons_of_a_parent_killed_at_any_moment_end() {
    let _alone = alone();
    for round in 0..25u64 {
        let (mut read, write) = std::io::pipe().expect("pipe");
        // The children keep the pipe open as long as they live.
        let parent = fork_running("parent", Role::Process, false, || {
            loop {
                for method in METHODS {
                    let start = Start {
                        daemon: true,
                        fds: &[write.as_fd()],
                        ..Start::default()
                    };
                    if start.by(method, SLEEP).is_err() {
                        return 1;
                    }
                }
            }
        })
        .expect("forks");
        drop(write);
        std::thread::sleep(Duration::from_micros(round * 397));
        parent.kill(9).expect("is there");
        assert_eq!(end_of(&parent), ExitStatus::Signal(9));
        let begin = Instant::now();
        assert!(
            poll::readable(read.as_fd(), Some(Duration::from_secs(5))).expect("polls"),
            "round {round}: somebody lives on"
        );
        assert!(
            begin.elapsed() < Duration::from_secs(1),
            "{:?}",
            begin.elapsed()
        );
        assert_eq!(read.read(&mut [0]).expect("reads"), 0);
    }
}

#[test]
fn dying_with_the_dead_is_dying() {
    let _together = together();
    let gone = fork_running("gone", Role::Process, false, || 0).expect("forks");
    let pid = gone.pid();
    end_of(&gone);
    let child = fork_running("late", Role::Process, false, || {
        let _ = die_with(pid);
        3
    });
    assert_eq!(end_of(&child.expect("forks")), ExitStatus::Signal(9));
    // By a watcher: a process that is no parent.
    let other = start(StartMethod::Spawn, SLEEP);
    let pid = other.pid();
    let child = fork_running("watcher", Role::Process, false, || {
        die_with(pid).expect("can be watched");
        std::thread::sleep(Duration::from_secs(60));
        3
    });
    let child = child.expect("forks");
    assert_eq!(
        child.wait(&mut Patience::timeout(Duration::from_millis(100))),
        Err(WaitError::TimedOut)
    );
    other.kill(9).expect("is there");
    assert_eq!(end_of(&child), ExitStatus::Signal(9));
}

#[test]
fn the_kernel_watches_a_parents_main_thread_and_a_thread_any_other() {
    let _together = together();
    let threads_of_daemon = || {
        let report = Block::zeroed(64).expect("has memory");
        let word = report.word(0).expect("has words");
        let me = std::process::id();
        let child = fork_running("daemon", Role::Process, false, || {
            die_with(me).expect("is alive");
            let threads = std::fs::read_dir("/proc/self/task")
                .expect("has /proc")
                .count();
            word.store(threads as u64, std::sync::atomic::Ordering::SeqCst);
            0
        });
        assert!(end_of(&child.expect("forks")).success());
        word.load(std::sync::atomic::Ordering::SeqCst)
    };
    // A test runs in a thread of the harness, a forked child in its main thread.
    let report = Block::zeroed(64).expect("has memory");
    let word = report.word(0).expect("has words");
    let main_thread = fork_running("main", Role::Process, false, || {
        word.store(threads_of_daemon(), std::sync::atomic::Ordering::SeqCst);
        0
    });
    assert!(end_of(&main_thread.expect("forks")).success());
    assert_eq!(word.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(
        std::thread::spawn(threads_of_daemon).join().expect("ends"),
        2
    );
}

#[test]
fn without_init_nothing_is_started() {
    let _together = together();
    // In a fresh process, which has not called child_entry.
    let run = |marker: Option<&str>| {
        let mut command = Command::new(std::env::current_exe().expect("has a path"));
        command.args(["a_main_without_init", "--exact", "--ignored", "--nocapture"]);
        if let Some(marker) = marker {
            command.env("PROCESSION_CHILD", marker);
        }
        let output = command.output().expect("runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
    };
    run(None);
    run(Some("00"));
}

#[test]
#[ignore = "run by without_init_nothing_is_started, in a process of its own"]
fn a_main_without_init() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let error = Start::default()
            .by(method, EXIT)
            .expect_err("init is missing");
        assert!(matches!(error, LaunchError::InitMissing), "{error}");
        assert!(error.to_string().contains("procession::init()"), "{error}");
        assert!(kernel_children().is_empty());
    }
    end_of(&start(StartMethod::Fork, EXIT));
}

#[test]
fn a_program_that_only_inherits_the_variable_is_nobodys_child() {
    let _together = together();
    let child = start(StartMethod::Spawn, SLEEP);
    let mut marker = String::new();
    eventually("its environment is there", Duration::from_secs(10), || {
        let path = format!("/proc/{}/environ", child.pid());
        let environment = std::fs::read_to_string(path).expect("is text");
        let mut settings = environment.split('\0');
        let found = settings.find_map(|setting| setting.strip_prefix("PROCESSION_CHILD="));
        found.is_some_and(|found| {
            marker = found.to_owned();
            true
        })
    });
    child.kill(9).expect("is there");
    end_of(&child);
    let output = Command::new(std::env::current_exe().expect("has a path"))
        .args(["nobodys_child", "--exact", "--ignored", "--nocapture"])
        .env("PROCESSION_CHILD", marker)
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by a_program_that_only_inherits_the_variable_is_nobodys_child, in a process of its own"]
fn nobodys_child() {
    assert!(std::env::var_os("PROCESSION_CHILD").is_some());
    assert!(child_entry().expect("is an ordinary program").is_none());
    assert!(child_entry().expect("asked again").is_none());
}

#[test]
fn misuse_is_told() {
    let _together = together();
    let (read, _write) = std::io::pipe().expect("pipe");
    let many = vec![read.as_fd(); 201];
    for method in METHODS {
        let error = Start {
            fds: &many,
            ..Start::default()
        }
        .by(method, EXIT)
        .expect_err("too many");
        assert!(
            matches!(error, LaunchError::TooManyFds { given: 201 }),
            "{error}"
        );
        let enough = Start {
            fds: &many[..200],
            ..Start::default()
        }
        .by(method, EXIT)
        .expect("starts");
        assert_eq!(end_of(&enough), ExitStatus::Code(0), "{method:?}");
        let child = start(method, SLEEP);
        assert_eq!(
            child.kill(12345).expect_err("is no signal").raw_os_error(),
            Some(22)
        );
        child.kill(9).expect("is there");
        end_of(&child);
    }
}

#[test]
fn programs_are_spawned_with_what_they_are_given() {
    let _together = together();
    let (mut read, write) = std::io::pipe().expect("pipe");
    let script = format!("echo $0 $1 $SETTING $PWD >&{}", write.as_raw_fd());
    let request = SpawnRequest {
        program: "/bin/sh".into(),
        args: ["sh", "-c", &script, "zero", "one"]
            .map(Into::into)
            .to_vec(),
        env: Some(vec![("SETTING".into(), "set".into())]),
        inherit: vec![write.as_raw_fd()],
        cwd: Some("/usr".into()),
    };
    let seat = procession_engine::prepare_child("shell", Role::Process).expect("has room");
    let spawned = spawn(&request).expect("starts");
    procession_engine::child_started(seat, spawned.pid);
    let child = Child::adopt(seat, spawned, "shell");
    drop(write);
    assert_eq!(end_of(&child), ExitStatus::Code(0));
    assert!(!child.checked_in(), "a shell does not");
    let mut text = String::new();
    read.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "zero one set /usr\n");
    let zero = SpawnRequest {
        program: "/bin/sh".into(),
        args: vec!["a\0b".into()],
        ..SpawnRequest::default()
    };
    assert!(
        spawn(&zero)
            .expect_err("can't be passed")
            .to_string()
            .contains("zero byte")
    );
}

#[test]
fn a_copy_of_a_child_in_a_forked_process_is_somebody_elses() {
    let _together = together();
    let child = start(StartMethod::Spawn, SLEEP);
    let seat = child.seat();
    let fork = fork_running("fork", Role::Process, false, || {
        if child.try_wait().is_some()
            || child.wait(&mut Patience::none()) != Err(WaitError::TimedOut)
        {
            return 1;
        }
        child.kill(9).expect("is there");
        // It can be seen to end, not how, and its seat stays its parent's to clear.
        match child.wait(&mut soon()) {
            Ok(ExitStatus::Unknown) => 0,
            _ => 2,
        }
    });
    assert_eq!(end_of(&fork.expect("forks")), ExitStatus::Code(0));
    let family = family().expect("is there");
    assert!(family.arena().member(seat.member()).is_some());
    assert_eq!(end_of(&child), ExitStatus::Signal(9));
    assert!(family.arena().member(seat.member()).is_none());
}

#[test]
fn sockets_of_the_library_do_not_leak_into_programs() {
    let _together = together();
    end_of(&start(StartMethod::ForkServer, EXIT));
    let (one, _two) = socket::pair().expect("pair");
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("socket:") && !text.contains("memfd") && !text.contains("pidfd"),
        "{text}"
    );
    assert!(sys::is_open(&one));
}
