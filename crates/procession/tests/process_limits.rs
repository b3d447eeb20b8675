//! What a process may use, and how long it may run.

mod support;

use std::time::{Duration, Instant};

use procession::{Builder, Event, JoinErrorKind, Process, Resource, StartMethod, Stdio};
use support::{METHODS, descriptors, ms, watched};

fn by(method: StartMethod) -> Builder {
    Process::builder().start_method(method)
}

#[procession::test]
fn limits_hold_in_the_child_and_nowhere_else() {
    let _watched = watched();
    for method in METHODS {
        let read = || {
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            let line = |name: &str| {
                let line = limits.lines().find_map(|line| line.strip_prefix(name));
                let words: Vec<&str> = line.unwrap().split_whitespace().take(2).collect();
                words.join(" ")
            };
            (line("Max open files"), line("Max core file size"))
        };
        let builder = by(method)
            .limit(Resource::OpenFiles, 40, 50)
            .limit(Resource::Core, 0, 0);
        let limited = builder.spawn(read, ()).unwrap().join().unwrap();
        assert_eq!(
            limited,
            ("40 50".to_owned(), "0 0".to_owned()),
            "{method:?}"
        );
        assert_ne!(read().0, "40 50");
        let other = by(method).spawn(read, ()).unwrap().join().unwrap();
        assert_eq!(other, read(), "{method:?}");

        // More than may be had: the function is not called.
        let builder =
            by(method)
                .limit(Resource::OpenFiles, 40, 40)
                .limit(Resource::OpenFiles, 50, 40);
        let error = builder.spawn(read, ()).unwrap().join().unwrap_err();
        assert_eq!(error.kind(), JoinErrorKind::Setup, "{error}");
        assert!(error.to_string().contains("open files"), "{error}");
    }
}

#[procession::test]
fn too_much_memory_ends_one_process() {
    let _watched = watched();
    for method in METHODS {
        // Looking for names of functions takes longer than all the rest.
        let builder = by(method)
            .memory_limit(64 << 20)
            .env("RUST_BACKTRACE", "0")
            .stderr(Stdio::piped());
        let fits = |mib: usize| {
            vec![1_u8; mib << 20]
                .iter()
                .map(|&byte| byte as usize)
                .sum()
        };
        let process = builder.clone().spawn(fits, 5).unwrap();
        let sum: usize = process.join().unwrap();
        assert_eq!(sum, 5 << 20, "{method:?}");
        let process: Process<usize> = builder.clone().spawn(fits, 200).unwrap();
        let error = process.join().unwrap_err();
        assert_eq!(error.signal_name(), Some("SIGABRT"), "{method:?}: {error}");
        assert!(error.to_string().contains("memory limit"), "{error}");
    }
}

fn spin(seconds: u64) -> u64 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        count += 1;
    }
    count
}

#[procession::test]
fn too_much_cpu_time_ends_one_process() {
    let _watched = watched();
    // A second of it can take long when others want the processor too: by one method only.
    let builder = Process::builder().cpu_limit(ms(200));
    let error = builder.spawn(spin, 100).unwrap().join().unwrap_err();
    assert_eq!(error.signal_name(), Some("SIGXCPU"), "{error}");
}

#[procession::test]
fn a_time_out_needs_no_parent() {
    let _watched = watched();
    for method in METHODS {
        let (tell, told) = procession::pipe::<u32>().unwrap();
        let parent = Process::spawn(
            |tell: procession::Sender<u32>, spawn: bool, fork: bool| {
                let method = match (spawn, fork) {
                    (true, _) => StartMethod::Spawn,
                    (_, true) => StartMethod::Fork,
                    _ => StartMethod::ForkServer,
                };
                let child = by(method).timeout(ms(700)).spawn(spin, 60).unwrap();
                tell.send(child.pid()).unwrap();
                child.wait();
                // For who kills it a moment later.
                spin(60);
            },
            (
                tell,
                method == StartMethod::Spawn,
                method == StartMethod::Fork,
            ),
        );
        let parent = parent.unwrap();
        let child = told.recv().unwrap();
        parent.kill().unwrap();
        assert!(parent.join().unwrap_err().is_signal());
        let stat = || std::fs::read_to_string(format!("/proc/{child}/stat"));
        let running = || stat().is_ok_and(|stat| !stat.contains(") Z"));
        support::until(ms(20_000), || (!running()).then_some(())).expect("is ended by the kernel");
    }
}

#[procession::test]
fn a_time_out_ends_whatever_does_not_end() {
    let _watched = watched();
    for method in METHODS {
        let start = || by(method).timeout(ms(300)).spawn(spin, 60).unwrap();
        let began = Instant::now();
        let (joined, waited, polled) = (start(), start(), start());
        let error = joined.join().unwrap_err();
        assert!(error.is_timeout() && !error.is_signal(), "{error}");
        assert_eq!(error.kind(), JoinErrorKind::TimedOut);
        assert!(error.to_string().contains("300ms"), "{error}");
        assert!(began.elapsed() >= ms(300), "{:?}", began.elapsed());
        waited.wait();
        assert!(waited.join().unwrap_err().is_timeout(), "{method:?}");
        // Without anybody who waits.
        support::until(ms(20_000), || (!polled.is_alive()).then_some(())).expect("is ended");
        assert!(polled.join().unwrap_err().is_timeout());

        let in_time = by(method).timeout(Duration::from_secs(60));
        assert_eq!(in_time.spawn(|| 1, ()).unwrap().join().unwrap(), 1);
        let killed = by(method).timeout(Duration::from_secs(60));
        let killed = killed.spawn(spin, 60).unwrap();
        killed.kill().unwrap();
        let error = killed.join().unwrap_err();
        assert_eq!(error.kind(), JoinErrorKind::Signal, "{error}");
    }
}

#[procession::test]
fn a_time_out_ends_a_stopped_process_too() {
    let _watched = watched();
    for method in METHODS {
        // Long enough for it to come to its function first, on a busy machine too.
        let builder = by(method).timeout(ms(1000)).stdout(Stdio::piped());
        let process = builder.spawn(stop, ()).unwrap();
        let began = Instant::now();
        let error = process.join_with_output().result.unwrap_err();
        assert!(error.is_timeout(), "{method:?}: {error}");
        assert_eq!(error.signal_name(), Some("SIGKILL"));
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}

/// A stopped process does not get the signal of the timer, but SIGKILL it does.
fn stop() {
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::STOP).unwrap();
    // This need not be the thread that gets the signal.
    spin(60);
}

#[procession::test]
fn a_dropped_process_is_killed_if_asked() {
    let _watched = watched();
    for method in METHODS {
        let go = Event::new().unwrap();
        let start = |kill: bool| {
            let builder = by(method)
                .kill_on_drop(kill)
                .timeout(Duration::from_secs(60));
            let wait = |go: Event| {
                go.wait();
            };
            builder.spawn(wait, go.clone()).unwrap()
        };
        let (kept, killed) = (start(false), start(true));
        let alive = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z"))
        };
        let (kept_pid, killed_pid) = (kept.pid(), killed.pid());
        drop((kept, killed));
        support::until(ms(20_000), || (!alive(killed_pid)).then_some(())).expect("is killed");
        assert!(alive(kept_pid), "{method:?}");
        go.set();
        support::until(ms(20_000), || (!alive(kept_pid)).then_some(())).expect("ends by itself");
        // One that was joined is not killed, whatever its pid is by then.
        assert_eq!(
            by(method)
                .kill_on_drop(true)
                .spawn(|| 3, ())
                .unwrap()
                .join()
                .unwrap(),
            3
        );
    }
}

#[procession::test]
fn running_out_of_descriptors_is_an_error_and_no_process() {
    let _watched = watched();
    for method in METHODS {
        let process = by(method).limit(Resource::OpenFiles, 64, 64).spawn(
            |spawn: bool, fork: bool| {
                let method = match (spawn, fork) {
                    (true, _) => StartMethod::Spawn,
                    (_, true) => StartMethod::Fork,
                    _ => StartMethod::ForkServer,
                };
                let start = || {
                    by(method)
                        .stdin(Stdio::piped())
                        .stdout(Stdio::piped())
                        .stderr(Stdio::piped())
                        .current_dir("/")
                        .spawn(|| 1, ())
                };
                assert_eq!(start().unwrap().join().unwrap(), 1);
                let before = descriptors();
                let mut refused = 0;
                for free in 0..16 {
                    let mut held = Vec::new();
                    while let Ok(file) = std::fs::File::open("/dev/null") {
                        held.push(file);
                    }
                    held.truncate(held.len() - free);
                    match start() {
                        Ok(process) => {
                            drop(held);
                            assert_eq!(process.join().unwrap(), 1);
                        }
                        Err(error) => {
                            refused += 1;
                            let text = error.to_string();
                            assert!(!text.is_empty());
                        }
                    }
                }
                assert_eq!(start().unwrap().join().unwrap(), 1);
                (before, descriptors(), refused)
            },
            (method == StartMethod::Spawn, method == StartMethod::Fork),
        );
        let (before, after, refused) = process.unwrap().join().unwrap();
        assert_eq!(before, after, "{method:?}");
        assert!(refused > 4, "{method:?}: {refused} were refused");
    }
}
