//! What is left, and who is told, when children, fork servers and parents are killed.

mod launching;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use launching::*;
use procession_engine::launch::{
    LaunchError, Standard, StartMethod, Surroundings, fork_running, launch_in, set_child_arguments,
    stop_fork_server,
};
use procession_engine::process::{Child, die_with};
use procession_engine::{Block, ExitStatus, Outgoing, Patience, Role, WaitError, family};
use procession_sys::{poll, process as sys};

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
        eventually(
            "what other tests left is gone",
            Duration::from_secs(20),
            || {
                end_of(&start(method, EXIT));
                family().expect("is there").stats().objects == 0
            },
        );
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
            0,
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
    eventually("the server has ended", Duration::from_secs(20), || {
        server_pid().is_none()
    });
}

#[test]
fn a_killed_fork_server_costs_no_child_its_surroundings() {
    let _alone = alone();
    let surroundings = Surroundings {
        variables: vec![("SETTING".into(), Some("new".into()))],
        folder: Some("/usr".into()),
        standard: [Standard::Null, Standard::Pipe, Standard::Inherit],
        ..Surroundings::default()
    };
    end_of(&start(StartMethod::Spawn, EXIT));
    let before = open_fds();
    for _ in 0..5 {
        end_of(&start(StartMethod::ForkServer, EXIT));
        // Between this look and the request, so that the request has to be made again; or the server
        // is seen to be dead before.
        let server = sys::open_pidfd(server_pid().expect("is there")).expect("is there");
        sys::send_signal(server.as_fd(), 9).expect("is ours");
        let start = Start::default();
        let request = start.request(StartMethod::ForkServer, WRITE_HERE);
        let (child, [stdin, stdout, stderr]) =
            launch_in(&request, &surroundings).expect("a new server makes it");
        assert!(stdin.is_none() && stderr.is_none());
        assert_eq!(end_of(&child), ExitStatus::Code(0));
        let mut text = String::new();
        std::fs::File::from(stdout.expect("was asked for"))
            .read_to_string(&mut text)
            .expect("reads to the end");
        assert!(text.starts_with("/usr Some(\"new\") None "), "{text}");
    }
    stop_fork_server();
    eventually("all is closed", Duration::from_secs(20), || {
        end_of(&start(StartMethod::Spawn, EXIT));
        open_fds() <= before
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
    // How many launches failed one after another: the more, the more time the next one gets.
    let in_vain = std::sync::atomic::AtomicU64::new(0);
    let (mut launched, mut failed) = (0, 0);
    let give_up = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = 1;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(pidfd) = server_pid().and_then(|pid| sys::open_pidfd(pid).ok()) {
                    let _ = sys::send_signal(pidfd.as_fd(), 9);
                }
                pause = pause * 7 % 4001;
                let times = 1 + in_vain.load(std::sync::atomic::Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(pause * times));
            }
        });
        let mut children = Vec::new();
        while launched + failed < 120 || (launched == 0 || failed == 0) && Instant::now() < give_up
        {
            match request.by(StartMethod::ForkServer, COUNT) {
                Ok(child) => {
                    launched += 1;
                    in_vain.store(0, std::sync::atomic::Ordering::Relaxed);
                    children.push(child);
                }
                Err(LaunchError::ServerDied { .. }) => {
                    failed += 1;
                    in_vain.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
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
        // Within a second on an idle machine; this one may be busy.
        eventually(
            "daemons and fork server are gone",
            Duration::from_secs(30),
            || {
                pidfds
                    .iter()
                    .enumerate()
                    .all(|(at, pidfd)| at == 6 || ended(pidfd))
            },
        );
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
        // Some are just starting, and die when they get as far as to notice.
        assert!(
            poll::readable(read.as_fd(), Some(Duration::from_secs(20))).expect("polls"),
            "round {round}: somebody lives on"
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
fn a_server_with_threads_that_nobody_vouches_for_does_not_fork() {
    let _alone = alone();
    stop_fork_server();
    let careful = [
        "launching::child_of_a_careful_program",
        "--exact",
        "--nocapture",
        "--quiet",
    ];
    set_child_arguments(careful.map(Into::into).to_vec());
    let refused = Start::default().by(StartMethod::ForkServer, EXIT);
    set_child_arguments(CHILD.map(Into::into).to_vec());
    let error = refused.expect_err("the harness has threads");
    assert!(
        matches!(error, LaunchError::ServerHasThreads { count: 2.. }),
        "{error}"
    );
    assert!(error.to_string().contains("StartMethod::Spawn"), "{error}");
    eventually("the server has ended", Duration::from_secs(20), || {
        server_pid().is_none()
    });
    end_of(&start(StartMethod::ForkServer, EXIT));
}

#[test]
fn a_fork_server_ends_when_it_is_told_to_whoever_has_its_socket() {
    let _alone = alone();
    end_of(&start(StartMethod::ForkServer, EXIT));
    // A forked child has a copy of all descriptors.
    let other = start(StartMethod::Fork, SLEEP);
    let served = start(StartMethod::ForkServer, SLEEP);
    stop_fork_server();
    assert!(
        server_pid().is_some(),
        "it stays while it has a child, to say how that ends"
    );
    served.kill(15).expect("is there");
    assert_eq!(end_of(&served), ExitStatus::Signal(15));
    eventually("the server has ended", Duration::from_secs(20), || {
        server_pid().is_none()
    });
    other.kill(9).expect("is there");
    end_of(&other);
}

#[test]
fn a_launch_that_runs_out_of_descriptors_leaves_no_child() {
    let _alone = alone();
    // In a process of its own, which has no others to disturb.
    let requester = fork_running("requester", Role::Process, false, || {
        for method in METHODS {
            let (mut failed, mut started) = (0, 0);
            for spare in 0..24 {
                stop_fork_server();
                let mut taken: Vec<OwnedFd> = Vec::new();
                while let Ok(fd) = sys::duplicate(std::io::stdin()) {
                    taken.push(fd);
                }
                taken.truncate(taken.len() - spare);
                let result = Start {
                    fds: &[taken[0].as_fd(), taken[0].as_fd()],
                    ..Start::default()
                }
                .by(method, EXIT);
                taken.truncate(1);
                match result {
                    Ok(child) => {
                        started += 1;
                        assert_eq!(
                            end_of(&child),
                            ExitStatus::Code(0),
                            "{method:?}, {spare} to spare"
                        );
                    }
                    Err(LaunchError::Start(_) | LaunchError::Server(_)) => failed += 1,
                    Err(error) => panic!("{method:?}, {spare} to spare: {error}"),
                }
                stop_fork_server();
                // A server that was given up is cleared away by a later launch.
                eventually("no child is left", Duration::from_secs(20), || {
                    end_of(&start(StartMethod::Fork, EXIT));
                    kernel_children().is_empty()
                });
            }
            assert!(
                failed > 0 && started > 0,
                "{method:?}: {failed} failed, {started} started"
            );
        }
        0
    });
    assert_eq!(
        requester
            .expect("forks")
            .wait(&mut Patience::timeout(Duration::from_secs(100))),
        Ok(ExitStatus::Code(0))
    );
}
