//! Children: how they start by each method, what they get, and how they end.

mod launching;

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::{Duration, Instant};

use launching::*;
use procession_engine::launch::{
    LaunchError, StartMethod, child_entry, fork_running, launch_stored,
};
use procession_engine::process::{self, Child, SpawnRequest, spawn};
use procession_engine::{Block, ExitStatus, Outgoing, Parcel, Patience, Role, WaitError, family};
use procession_sys::{poll, process as sys, socket};

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
fn a_parent_that_has_ended_is_told_from_one_that_lives() {
    let _together = together();
    let has_ended = |parent: u32| {
        let pidfd = process::pidfd_of_parent(parent).expect("has descriptors");
        poll::readable(pidfd.as_fd(), Some(Duration::ZERO)).expect("polls")
    };
    assert!(!has_ended(sys::parent_id()));
    assert!(has_ended(std::process::id()), "another has its number");
    let mut child = Command::new("true").spawn().expect("starts");
    child.wait().expect("ends");
    assert!(has_ended(child.id()), "nobody has its number");
}

#[test]
fn a_signal_sent_right_after_the_launch_is_not_lost() {
    let _together = together();
    for method in METHODS {
        for _ in 0..20 {
            let child = start(method, SLEEP);
            child.kill(2).expect("is there");
            assert_eq!(end_of(&child), ExitStatus::Signal(2), "{method:?}");
        }
    }
}

#[test]
fn a_payload_goes_when_the_child_has_dropped_it() {
    let _alone = alone();
    for method in METHODS {
        let block = Block::zeroed(64).expect("has memory");
        let handle = block.handle();
        let (bytes, handles) = (handle.to_bytes(), [handle]);
        let payload = Outgoing {
            bytes: &bytes,
            handles: &handles,
            ..Outgoing::default()
        };
        let request = Start {
            payload,
            ..Start::default()
        };
        let parcel = Parcel::store(&payload).expect("has memory");
        drop(block);
        let request = request.request(method, DROP_AND_SLEEP);
        let child = launch_stored(&request, parcel).expect("starts");
        eventually("nobody holds it", Duration::from_secs(20), || {
            Block::from_handle(handle).is_err()
        });
        assert!(child.is_alive(), "{method:?}");
        child.kill(9).expect("is there");
        end_of(&child);
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
        assert!(poll::readable(child.sentinel(), Some(Duration::from_secs(20))).expect("polls"));
        // Whoever was told by the sentinel gets the status at once.
        assert_eq!(child.try_wait(), Some(ExitStatus::Signal(9)), "{method:?}");
    }
}

#[test]
fn children_that_were_let_go_of_are_cleared_away_later() {
    let _alone = alone();
    let before = kernel_children();
    let pids: Vec<u32> = METHODS.map(|method| start(method, EXIT).pid()).to_vec();
    eventually("their remains are gone", Duration::from_secs(20), || {
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
    eventually("its environment is there", Duration::from_secs(20), || {
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
    let script = format!(
        "echo $0 $1 $SETTING $PWD > /proc/self/fd/{}",
        write.as_raw_fd()
    );
    let request = SpawnRequest {
        program: "/bin/sh".into(),
        args: ["sh", "-c", &script, "zero", "one"]
            .map(Into::into)
            .to_vec(),
        env: Some(vec![("SETTING".into(), "set".into())]),
        inherit: vec![write.as_raw_fd()],
        cwd: Some("/usr".into()),
        blocked: Vec::new(),
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
    assert!(
        family
            .members()
            .iter()
            .all(|member| member.id != seat.member())
    );
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
