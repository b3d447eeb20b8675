//! Whole programs that end in every way, with processes and a pool at work: by a signal to them and to
//! their whole group, by SIGKILL, and by simply returning. Nobody is left behind, nor is their memory.
//! The programs are this test program, run again.

mod support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use procession::{Pool, Process, StartMethod};
use support::{METHODS, arena_of, has_ended, holders_of, ms, until};

const WHAT: &str = "PROCESSION_TEST_PROGRAM";
const WHERE: &str = "PROCESSION_TEST_NOTES";

fn sleep(milliseconds: u64) -> u64 {
    std::thread::sleep(ms(milliseconds));
    milliseconds
}

/// The program: says who is there, and goes on until it is ended, or returns at once.
#[procession::test]
fn the_program() {
    let (Ok(what), Ok(notes)) = (std::env::var(WHAT), std::env::var(WHERE)) else {
        return;
    };
    let (method, returns) = what.split_once(' ').expect("two words");
    let method = METHODS
        .into_iter()
        .find(|one| format!("{one:?}") == method)
        .expect("a start method");
    let pool = Pool::builder()
        .workers(2)
        .start_method(method)
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| pool.apply_async(sleep, 60_000).unwrap())
        .collect();
    let start = |daemon: bool| {
        let builder = Process::builder().daemon(daemon).start_method(method);
        builder.spawn(sleep, 60_000).unwrap()
    };
    let daemon = start(true);
    // One that is no daemon outlives its parent, unless it gets the signal itself.
    let other = (returns == "group").then(|| start(false));
    let mut pids = pool.worker_pids();
    pids.push(daemon.pid());
    pids.extend(other.as_ref().map(Process::pid));
    let arena = arena_of(std::process::id()).unwrap();
    let text = format!(
        "{arena} {}",
        pids.iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    );
    // All at once, for who waits for it.
    std::fs::write(format!("{notes}.new"), text).unwrap();
    std::fs::rename(format!("{notes}.new"), notes).unwrap();
    if returns != "returns" {
        sleep(60_000);
    }
    drop(tasks);
}

struct Program {
    child: Child,
    arena: u64,
    pids: Vec<u32>,
    notes: PathBuf,
}

impl Program {
    fn start(method: StartMethod, how: &str) -> Program {
        let name = format!("procession-endings-{}-{method:?}-{how}", std::process::id());
        let notes = std::env::temp_dir().join(name);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["the_program", "--exact", "--nocapture"])
            .env(WHAT, format!("{method:?} {how}"))
            .env(WHERE, &notes)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let text = until(ms(30_000), || std::fs::read_to_string(&notes).ok());
        let text = text.expect("the program gets as far as its work");
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().unwrap());
        Program {
            child,
            arena: numbers.next().unwrap(),
            pids: numbers.map(|pid| u32::try_from(pid).unwrap()).collect(),
            notes,
        }
    }

    fn signal(&self, number: &str, whole_group: bool) {
        let pid = self.child.id();
        let target = if whole_group {
            format!("-{pid}")
        } else {
            pid.to_string()
        };
        let sent = Command::new("kill")
            .args([number, "--", &target])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; how it ended and what it said. Nobody is left.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let status = until(ms(30_000), || self.child.try_wait().unwrap());
        let status = status.expect("the program ends");
        // A promise of one second; a test on a busy machine waits for longer.
        let gone = until(ms(20_000), || {
            let left = self.pids.iter().any(|&pid| !has_ended(pid));
            (!left && holders_of(self.arena).is_empty()).then_some(())
        });
        assert!(
            gone.is_ok(),
            "left: {:?} of {:?}",
            holders_of(self.arena),
            self.pids
        );
        // All who could write there have ended.
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        let _ = std::fs::remove_file(&self.notes);
        (status, said)
    }
}

#[test]
fn a_signal_to_the_program_ends_its_daemons_and_workers_silently() {
    for method in METHODS {
        for (name, number) in [("-INT", 2), ("-TERM", 15), ("-KILL", 9)] {
            let program = Program::start(method, "alone");
            program.signal(name, false);
            let (status, said) = program.end();
            assert_eq!(status.signal(), Some(number), "{method:?}");
            assert_eq!(said, "", "{method:?} {name}");
        }
    }
}

#[test]
fn ctrl_c_ends_the_whole_group_silently() {
    for method in METHODS {
        for (name, number) in [("-INT", 2), ("-TERM", 15)] {
            let program = Program::start(method, "group");
            assert_eq!(program.pids.len(), 4);
            program.signal(name, true);
            let (status, said) = program.end();
            assert_eq!(status.signal(), Some(number), "{method:?}");
            assert_eq!(said, "", "{method:?} {name}");
        }
    }
}

#[test]
fn a_program_that_returns_without_a_join_ends_at_once_and_says_nothing() {
    for method in METHODS {
        let (status, said) = Program::start(method, "returns").end();
        assert_eq!(status.code(), Some(0), "{method:?}: {said}");
        assert_eq!(said, "", "{method:?}");
    }
}

/// What has a name is there until it is unlinked, whoever dies; nothing else has one.
#[test]
fn a_killed_program_leaves_no_names() {
    let names = || -> Vec<_> {
        let folder = std::fs::read_dir("/dev/shm").unwrap();
        folder
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("procession"))
            .collect()
    };
    let before = names();
    let program = Program::start(StartMethod::Spawn, "alone");
    program.signal("-KILL", false);
    program.end();
    let new = || -> Vec<_> {
        let names = names().into_iter();
        names.filter(|name| !before.contains(name)).collect()
    };
    // Other tests, at the same time, have some for a while.
    let gone = until(ms(20_000), || new().is_empty().then_some(()));
    assert!(gone.is_ok(), "left: {:?}", new());
}
