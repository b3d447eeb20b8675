//! What a process can be given besides its function: environment, folder, streams, groups, a hook.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use procession::{Builder, JoinErrorKind, Lock, Process, StartMethod, Stdio};
use support::{METHODS, descriptors, kill, ms, watched};

fn by(method: StartMethod) -> Builder {
    Process::builder().start_method(method)
}

/// Not by `println`: what that writes in a forked child is kept by the harness.
fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).unwrap();
}

fn complain(text: &str) {
    let mut out = std::io::stderr();
    writeln!(out, "{text}").unwrap();
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[procession::test]
fn the_environment_is_as_it_was_put_together() {
    let _watched = watched();
    let path = variable("PATH").expect("has a path");
    for method in METHODS {
        let read = || (variable("PATH"), variable("COLOUR"), variable("SIZE"));
        let process = by(method).spawn(read, ()).unwrap();
        assert_eq!(process.join().unwrap(), (Some(path.clone()), None, None));

        let builder = by(method).env("COLOUR", "grün").envs([("SIZE", "a b=c")]);
        let process = builder.clone().spawn(read, ()).unwrap();
        let (colour, size) = (Some("grün".to_owned()), Some("a b=c".to_owned()));
        assert_eq!(
            process.join().unwrap(),
            (Some(path.clone()), colour, size.clone()),
            "{method:?}"
        );

        let builder = builder.env_remove("COLOUR").env_remove("PATH");
        let process = builder.spawn(read, ()).unwrap();
        assert_eq!(process.join().unwrap(), (None, None, size), "{method:?}");

        let builder = by(method).env("SIZE", "1").env_clear().env("COLOUR", "red");
        let process = builder
            .spawn(
                || {
                    // In tests by `Spawn` our own variable stays, because the harness has a thread.
                    let ours = |(name, _): &(String, String)| name != "PROCESSION_CHILD";
                    std::env::vars().filter(ours).collect::<Vec<_>>()
                },
                (),
            )
            .unwrap();
        let only = vec![("COLOUR".to_owned(), "red".to_owned())];
        assert_eq!(process.join().unwrap(), only, "{method:?}");

        let error = by(method).env("A=B", "1").spawn(read, ()).unwrap_err();
        assert!(error.to_string().contains("A=B"), "{error}");
    }
    assert_eq!(variable("COLOUR"), None);
}

#[procession::test]
fn the_working_directory_is_the_one_asked_for() {
    let _watched = watched();
    let here = std::env::current_dir().unwrap();
    let folder = || std::env::current_dir().unwrap();
    for method in METHODS {
        let process = by(method).current_dir("/usr").spawn(folder, ()).unwrap();
        assert_eq!(process.join().unwrap().as_os_str(), "/usr", "{method:?}");
        // From here, not from where a fork server was started.
        let process = by(method).current_dir("src").spawn(folder, ()).unwrap();
        assert_eq!(process.join().unwrap(), here.join("src"), "{method:?}");
        let process = by(method).spawn(folder, ()).unwrap();
        assert_eq!(process.join().unwrap(), here);
        for wrong in ["/no/such/folder", "/etc/passwd"] {
            let error = by(method).current_dir(wrong).spawn(folder, ());
            let text = error.unwrap_err().to_string();
            assert!(text.contains(wrong), "{text}");
        }
    }
}

fn shout() -> usize {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    say(&text.to_uppercase());
    complain(&format!("{} bytes", text.len()));
    text.len()
}

#[procession::test]
fn streams_are_pipes_files_or_nothing() {
    let _watched = watched();
    for method in METHODS {
        let piped = || {
            by(method)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
        };
        let mut process = piped().spawn(shout, ()).unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(b"hello").unwrap();
        drop(stdin);
        let output = process.join_with_output();
        assert_eq!(output.result.unwrap(), 5, "{method:?}");
        // Started by `Spawn`, the harness has spoken first.
        assert!(output.stdout.ends_with(b"HELLO\n"), "{method:?}");
        assert_eq!(output.stderr, b"5 bytes\n");

        // Joining closes the input, and makes room in what nobody reads.
        let process = piped()
            .spawn(|| shout() + (0..20_000).map(|_| say("row")).count(), ())
            .unwrap();
        assert_eq!(process.join().unwrap(), 20_000, "{method:?}");

        let process = by(method)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn(shout, ())
            .unwrap();
        assert_eq!(process.join().unwrap(), 0, "{method:?}");

        // The output of one is the input of the other.
        let (read, write) = std::io::pipe().unwrap();
        let first = by(method)
            .stdout(write)
            .spawn(|| say("from the first"), ())
            .unwrap();
        let second = by(method)
            .stdin(read)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn(shout, ())
            .unwrap();
        first.join().unwrap();
        assert!(second.join().unwrap() >= 15, "{method:?}");
    }
}

#[procession::test]
fn output_does_not_wait_for_strangers_that_have_the_pipe() {
    let _watched = watched();
    for method in METHODS {
        let builder = by(method).stdout(Stdio::piped());
        let process = builder.spawn(
            || {
                say("before");
                let mut sleeper = std::process::Command::new("sleep");
                let sleeper = sleeper.arg("60").stderr(std::process::Stdio::null());
                sleeper.spawn().unwrap().id()
            },
            (),
        );
        let began = Instant::now();
        let output = process.unwrap().join_with_output();
        assert!(output.stdout.ends_with(b"before\n"));
        assert!(
            began.elapsed() < ms(30_000),
            "{method:?} waits for the other"
        );
        kill(output.result.unwrap());
    }
}

#[procession::test]
fn what_a_crashed_process_wrote_is_not_lost() {
    let _watched = watched();
    for method in METHODS {
        let builder = by(method).stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = builder.spawn(
            || {
                say(&"x".repeat(300_000));
                complain("last words");
                std::process::abort()
            },
            (),
        );
        let output = process.unwrap().join_with_output();
        let error = output.result.map(|()| "a result").unwrap_err();
        assert_eq!(error.kind(), JoinErrorKind::Signal);
        assert_eq!(error.signal_name(), Some("SIGABRT"));
        assert!(output.stdout.len() > 300_000, "{method:?}");
        assert_eq!(output.stderr, b"last words\n");
    }
}

#[procession::test]
fn groups_sessions_and_niceness() {
    let _watched = watched();
    fn own() -> (u32, u32, u32, i64) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let number = |index: usize| fields[index].parse().unwrap();
        (
            std::process::id(),
            number(2),
            number(3),
            fields[16].parse().unwrap(),
        )
    }
    let (_, group, session, nice) = own();
    for method in METHODS {
        let (_, theirs, its_session, niceness) = by(method).spawn(own, ()).unwrap().join().unwrap();
        assert_eq!((theirs, its_session, niceness), (group, session, nice));
        let builder = by(method).process_group(0).nice(2);
        let (pid, theirs, its_session, niceness) = builder.spawn(own, ()).unwrap().join().unwrap();
        assert_eq!((theirs, its_session), (pid, session), "{method:?}");
        assert_eq!(niceness, (nice + 2).min(19));
        let builder = by(method).new_session(true);
        let (pid, theirs, its_session, _) = builder.spawn(own, ()).unwrap().join().unwrap();
        assert_eq!((theirs, its_session), (pid, pid), "{method:?}");
        let builder = by(method).process_group(999_999_999);
        let error = builder.spawn(own, ()).unwrap().join().unwrap_err();
        assert!(
            error.is_setup() && error.to_string().contains("999999999"),
            "{error}"
        );
    }
}

#[procession::test]
fn a_hook_comes_first_and_may_say_no() {
    let _watched = watched();
    fn hook(seen: Lock<Vec<String>>, why: Option<String>) -> Result<(), std::io::Error> {
        seen.lock().unwrap().push("hook".to_owned());
        match why {
            None => Ok(()),
            Some(why) => Err(std::io::Error::other(why)),
        }
    }
    fn function(seen: Lock<Vec<String>>) {
        seen.lock().unwrap().push("function".to_owned());
    }
    for method in METHODS {
        let seen = Lock::new(Vec::new()).unwrap();
        let builder = by(method).setup(hook, (seen.clone(), None));
        for _ in 0..2 {
            let process = builder.clone().spawn(function, seen.clone());
            process.unwrap().join().unwrap();
        }
        drop(builder);
        let order = ["hook", "function", "hook", "function"];
        assert_eq!(*seen.lock().unwrap(), order, "{method:?}");

        let builder = by(method)
            .name("careful")
            .setup(hook, (seen.clone(), Some("no such user".to_owned())));
        let error = builder.spawn(function, seen.clone()).unwrap().join();
        let error = error.unwrap_err();
        assert_eq!(error.kind(), JoinErrorKind::Setup);
        let text = error.to_string();
        assert!(
            text.contains("no such user") && text.starts_with("careful"),
            "{text}"
        );
        assert_eq!(seen.lock().unwrap().len(), 5, "{method:?}");
        assert!(error.panic().is_none() && error.exit_code() == Some(1));

        let builder = by(method).setup(|| -> Result<(), String> { panic!("in the hook") }, ());
        let error = builder.spawn(function, seen.clone()).unwrap().join();
        let error = error.unwrap_err();
        assert!(error.is_setup() && !error.is_panic(), "{error}");
        assert_eq!(error.panic().unwrap().message(), "in the hook");

        let builder = by(method).setup(|| -> Result<(), String> { std::process::abort() }, ());
        let error = builder.spawn(function, seen.clone()).unwrap().join();
        assert_eq!(error.unwrap_err().kind(), JoinErrorKind::Signal);
        assert_eq!(seen.lock().unwrap().len(), 5, "{method:?}");
    }
}

/// Is made from bytes only behind the hook.
struct Careful;

impl serde::Serialize for Careful {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> serde::Deserialize<'de> for Careful {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Careful, D::Error> {
        let folder = std::env::current_dir().unwrap();
        assert_eq!(folder.as_os_str(), "/", "the hook came first");
        Ok(Careful)
    }
}

#[procession::test]
fn arguments_are_read_behind_the_hook() {
    let _watched = watched();
    for method in METHODS {
        let builder = by(method)
            .current_dir("/usr")
            .setup(|| std::env::set_current_dir("/"), ());
        builder
            .spawn(|_: Careful| (), Careful)
            .unwrap()
            .join()
            .unwrap();
        let without = by(method)
            .current_dir("/usr")
            .spawn(|_: Careful| (), Careful);
        let error = without.unwrap().join().unwrap_err();
        assert!(
            error
                .panic()
                .unwrap()
                .message()
                .contains("the hook came first")
        );
    }
}

#[procession::test]
fn nothing_stays_open_here() {
    let _watched = watched();
    for method in METHODS {
        let run = || {
            let builder = by(method)
                .env("A", "1")
                .current_dir("/")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .timeout(Duration::from_secs(60))
                .setup(|| (), ());
            let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let inside = builder.clone().spawn(count, ()).unwrap().join().unwrap();
            let killed = builder.clone().spawn(sleep, ()).unwrap();
            killed.kill().unwrap();
            assert_eq!(killed.join().unwrap_err().signal(), Some(9));
            drop(builder.clone().spawn(|| (), ()).unwrap());
            let wrong = builder.current_dir("/no/such/folder");
            assert!(wrong.spawn(|| (), ()).is_err());
            inside
        };
        run();
        let plain = by(method)
            .spawn(|| std::fs::read_dir("/proc/self/fd").unwrap().count(), ())
            .unwrap();
        let plain = plain.join().unwrap();
        // What was let go of is cleared away with a later start. On a busy machine it may not have ended
        // by the first look: then there are fewer at the last one.
        let settle = || {
            std::thread::sleep(ms(50));
            by(method).spawn(|| (), ()).unwrap().join().unwrap();
        };
        settle();
        let before = descriptors();
        for _ in 0..5 {
            let inside = run();
            assert!(
                method == StartMethod::Fork || inside == plain,
                "{method:?}: the child has {inside} descriptors, and {plain} otherwise"
            );
        }
        support::until(ms(20_000), || {
            settle();
            (descriptors() <= before).then_some(())
        })
        .unwrap_or_else(|()| panic!("{method:?}: {before} became {}", descriptors()));
    }
}

#[procession::test]
fn killed_at_any_moment_it_is_a_signal_and_leaves_nothing() {
    let _watched = watched();
    for method in METHODS {
        let mut seen = std::collections::HashSet::new();
        for step in 0..25 {
            let builder = by(method)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .timeout(Duration::from_secs(60))
                .setup(|| say("hook"), ());
            let process = builder.spawn(shout, ()).unwrap();
            std::thread::sleep(Duration::from_micros(step * 200));
            process.kill().unwrap();
            let error = process.join_with_output().result.unwrap_err();
            assert_eq!(error.kind(), JoinErrorKind::Signal, "{method:?}: {error}");
            seen.insert(error.signal());
        }
        assert_eq!(seen, [Some(9)].into());
    }
}

fn sleep() {
    std::thread::sleep(Duration::from_secs(60));
}
