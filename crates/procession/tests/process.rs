//! Processes: what comes back from them, and how they end.

mod support;

use std::os::fd::AsFd;

use procession::{
    Error, Event, JoinErrorKind, Process, Queue, Run, StartMethod, active_children,
    current_process, parent_process, wait_any, wait_any_timeout,
};
use serde::{Deserialize, Serialize};
use support::{METHODS, descriptors, kill, ms, until, watched};

fn add(one: u32, other: u32) -> u32 {
    one + other
}

fn sleep_for(milliseconds: u64) {
    std::thread::sleep(ms(milliseconds));
}

#[procession::test]
fn results_come_back_by_every_start_method() {
    let _watched = watched();
    for method in METHODS {
        let builder = || Process::builder().start_method(method);
        assert_eq!(
            builder().spawn(add, (20, 22)).unwrap().join().unwrap(),
            42,
            "{method:?}"
        );
        assert_eq!(
            builder().spawn(|x: u64| x * x, 12).unwrap().join().unwrap(),
            144
        );
        let words = vec!["one".to_owned(), "two".to_owned()];
        let joined = builder()
            .spawn(|words: Vec<String>| words.join(" "), words)
            .unwrap();
        assert_eq!(joined.join().unwrap(), "one two");
        let told = builder()
            .spawn(|| format!("{:?}", current_process().start_method()), ())
            .unwrap();
        assert_eq!(told.join().unwrap(), format!("{:?}", Some(method)));
    }
}

#[procession::test]
fn a_panic_comes_back_with_message_and_place() {
    let _watched = watched();
    const LINE: u32 = line!() + 2;
    fn fail(why: String) {
        panic!("no luck: {why}");
    }
    for method in METHODS {
        let process = Process::builder().start_method(method).name("unlucky");
        let process = process.spawn(fail, "rain".to_owned()).unwrap();
        let pid = process.pid();
        let error = process.join().unwrap_err();
        let panic = error.panic().expect("it was a panic");
        assert_eq!(panic.message(), "no luck: rain");
        assert_eq!(panic.pid(), pid);
        let place = panic.place().expect("the hook was there");
        assert!(place.file.ends_with("tests/process.rs"), "{place}");
        assert_eq!(place.line, LINE);
        assert_eq!(error.exit_code(), Some(101));
        assert!(error.to_string().starts_with("unlucky: "), "{error}");
        assert_eq!(error.kind(), JoinErrorKind::Panic);
        // The harness names threads after tests, and a forked thread keeps its name.
        assert!(panic.thread().is_some());
        assert!(Error::from(error).is_panic());
    }
}

#[procession::test]
fn the_first_of_several_to_end_is_found() {
    let _watched = watched();
    assert_eq!(wait_any(&[] as &[Process]), None);
    for method in METHODS {
        let start = |milliseconds: u64| {
            let builder = Process::builder().start_method(method);
            builder.spawn(sleep_for, milliseconds).unwrap()
        };
        let mut processes = vec![start(20_000), start(0), start(20_000)];
        assert_eq!(wait_any(&processes), Some(1), "{method:?}");
        assert_eq!(wait_any(&processes), Some(1), "asked again");
        processes.remove(1).join().unwrap();
        assert_eq!(wait_any_timeout(&processes, ms(20)), None);
        processes[1].kill().unwrap();
        assert_eq!(wait_any_timeout(&processes, ms(20_000)), Some(1));
        let answer = Process::spawn(|| 42, ()).unwrap();
        let different: [&dyn AsFd; 2] = [&processes[0], &answer];
        assert_eq!(wait_any(&different), Some(1));
        assert_eq!(answer.join().unwrap(), 42);
        for process in processes {
            process.kill().unwrap();
            assert!(process.join().unwrap_err().is_signal());
        }
    }
}

#[procession::test]
fn values_go_where_a_closure_would_capture_them() {
    let _watched = watched();
    for method in METHODS {
        let queue = Queue::unbounded().unwrap();
        let (name, factor) = ("Ada".to_owned(), 3);
        let builder = Process::builder().start_method(method);
        let process = builder.spawn_with(
            (queue.clone(), name.clone(), factor),
            |(queue, name, factor)| {
                queue.send(name.repeat(factor)).unwrap();
                name.len()
            },
        );
        assert_eq!(process.unwrap().join().unwrap(), 3, "{method:?}");
        assert_eq!(queue.recv().unwrap(), "AdaAdaAda");
        let one = Process::spawn_with(name, |name| name.len()).unwrap();
        assert_eq!(one.join().unwrap(), 3);
    }
}

#[procession::test]
fn a_panic_with_a_value_that_is_no_text() {
    let _watched = watched();
    let process = Process::spawn(|| -> u32 { std::panic::panic_any(7_u8) }, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(
        error.panic().unwrap().message().contains("no text"),
        "{error}"
    );
}

#[procession::test]
fn exit_codes_and_signals_are_told_apart() {
    let _watched = watched();
    for method in METHODS {
        let builder = || Process::builder().start_method(method);
        fn exit(code: i32) -> u32 {
            std::process::exit(code)
        }
        let error = builder().spawn(exit, 7).unwrap().join().unwrap_err();
        assert_eq!(
            (error.exit_code(), error.signal(), error.is_panic()),
            (Some(7), None, false)
        );
        assert_eq!(error.kind(), JoinErrorKind::Exit);
        // Without a result there is none, whatever the code says.
        let error = builder().spawn(exit, 0).unwrap().join().unwrap_err();
        assert_eq!(error.exit_code(), Some(0), "{error}");
    }
}

#[procession::test]
fn signals_end_a_process() {
    let _watched = watched();
    for method in METHODS {
        let start = || {
            Process::builder()
                .start_method(method)
                .spawn(sleep_for, 60_000)
                .unwrap()
        };
        let (terminated, killed, interrupted) = (start(), start(), start());
        assert!(terminated.is_alive() && killed.is_alive() && interrupted.is_alive());
        terminated.terminate().unwrap();
        killed.kill().unwrap();
        interrupted.interrupt().unwrap();
        assert_eq!(terminated.join().unwrap_err().signal(), Some(15));
        let error = killed.join().unwrap_err();
        assert_eq!((error.signal(), error.exit_code()), (Some(9), None));
        assert!(error.to_string().contains("killed by SIGKILL"), "{error}");
        assert_eq!(interrupted.join().unwrap_err().signal(), Some(2));
    }
}

#[procession::test]
fn a_crash_is_a_signal() {
    let _watched = watched();
    let process = Process::spawn(|| -> u32 { std::process::abort() }, ()).unwrap();
    assert_eq!(process.join().unwrap_err().signal(), Some(6));
}

#[procession::test]
fn joining_with_a_time_limit() {
    let _watched = watched();
    let go = Event::new().unwrap();
    let wait = |go: Event| {
        go.wait();
    };
    let mut process = Process::spawn(wait, go.clone()).unwrap();
    assert!(process.join_timeout(ms(30)).unwrap().is_none());
    assert!(process.wait_timeout(ms(10)).is_none() && process.exit_status().is_none());
    go.set();
    assert_eq!(process.join_timeout(ms(20_000)).unwrap(), Some(()));
    assert!(process.exit_status().unwrap().success() && !process.is_alive());
    // A signal to one that has ended does nothing.
    process.kill().unwrap();
    // The result can be had once.
    assert!(process.join().is_err());
}

#[procession::test]
fn the_descriptor_of_a_process_tells_its_end() {
    let _watched = watched();
    let process = Process::spawn(sleep_for, 100).unwrap();
    assert!(process.as_fd().try_clone_to_owned().is_ok());
    assert_eq!(process.wait().code(), Some(0));
}

#[procession::test]
fn names_parents_and_children() {
    let _watched = watched();
    assert!(parent_process().is_none());
    assert_eq!(current_process().name(), "main");
    for method in METHODS {
        let (tell, told) = procession::pipe().unwrap();
        let (go_on, wait) = procession::pipe::<()>().unwrap();
        let process = Process::builder()
            .name("middle")
            .daemon(true)
            .start_method(method)
            .spawn(
                |tell: procession::Sender<(String, bool, Option<u32>, bool)>,
                 wait: procession::Receiver<()>| {
                    let (me, parent) = (current_process(), parent_process());
                    let alive = parent.as_ref().is_some_and(|parent| parent.is_alive());
                    tell.send((
                        me.name().to_owned(),
                        me.is_daemon(),
                        parent.map(|parent| parent.pid()),
                        alive,
                    ))
                    .unwrap();
                    wait.recv().unwrap();
                },
                (tell, wait),
            );
        let process = process.unwrap();
        assert_eq!(
            told.recv().unwrap(),
            ("middle".to_owned(), true, Some(std::process::id()), true)
        );
        let children = active_children();
        assert!(
            children
                .iter()
                .any(|child| child.pid() == process.pid() && child.name() == "middle")
        );
        go_on.send(()).unwrap();
        let pid = process.pid();
        process.join().unwrap();
        assert!(active_children().iter().all(|child| child.pid() != pid));
    }
}

#[procession::test]
fn grandchildren_can_be_started_and_answer() {
    let _watched = watched();
    fn descend(depth: u32) -> u32 {
        if depth == 0 {
            1
        } else {
            1 + Process::spawn(descend, depth - 1).unwrap().join().unwrap()
        }
    }
    for method in METHODS {
        let process = Process::builder()
            .start_method(method)
            .spawn(descend, 2)
            .unwrap();
        assert_eq!(process.join().unwrap(), 3, "{method:?}");
    }
}

#[procession::test]
fn a_daemon_dies_with_its_parent_and_others_do_not() {
    let _watched = watched();
    for method in METHODS {
        let pids = Queue::<(u32, u32)>::unbounded().unwrap();
        let parent = Process::spawn(
            |pids: Queue<(u32, u32)>, spawn: bool, fork: bool| {
                let method = match (spawn, fork) {
                    (true, _) => StartMethod::Spawn,
                    (_, true) => StartMethod::Fork,
                    _ => StartMethod::ForkServer,
                };
                let start = |daemon: bool| {
                    Process::builder()
                        .daemon(daemon)
                        .start_method(method)
                        .spawn(sleep_for, 30_000)
                        .unwrap()
                };
                pids.send((start(true).pid(), start(false).pid())).unwrap();
                sleep_for(30_000);
            },
            (
                pids.clone(),
                method == StartMethod::Spawn,
                method == StartMethod::Fork,
            ),
        );
        let parent = parent.unwrap();
        let (daemon, other) = pids.recv().unwrap();
        parent.kill().unwrap();
        assert_eq!(parent.join().unwrap_err().signal(), Some(9));
        let ended = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
                stat.rsplit(") ")
                    .next()
                    .is_some_and(|rest| rest.starts_with('Z'))
            })
        };
        until(ms(20_000), || ended(daemon).then_some(())).expect("the daemon dies");
        assert!(!ended(other), "{method:?}: one that is no daemon runs on");
        kill(other);
    }
}

#[procession::test]
fn dropping_a_handle_leaves_the_process_running() {
    let _watched = watched();
    let done = Queue::unbounded().unwrap();
    let process = Process::spawn(
        |done: Queue<u32>| {
            sleep_for(100);
            done.send(std::process::id()).unwrap();
        },
        done.clone(),
    );
    let pid = process.as_ref().map(Process::pid).unwrap();
    drop(process);
    assert_eq!(done.recv_timeout(ms(20_000)).unwrap(), pid);
}

#[derive(Serialize, Deserialize)]
struct Sum {
    numbers: Vec<u64>,
}

impl Run for Sum {
    type Output = (u64, String);

    fn run(self) -> (u64, String) {
        (
            self.numbers.iter().sum(),
            current_process().name().to_owned(),
        )
    }

    fn name(&self) -> Option<String> {
        Some(format!("sum of {}", self.numbers.len()))
    }
}

#[procession::test]
fn a_type_with_a_run_of_its_own() {
    let _watched = watched();
    let process = Process::run(Sum {
        numbers: vec![1, 2, 3],
    })
    .unwrap();
    assert_eq!(process.join().unwrap(), (6, "sum of 3".to_owned()));
    let named = Process::builder()
        .name("other")
        .run(Sum { numbers: vec![] })
        .unwrap();
    assert_eq!(named.join().unwrap(), (0, "other".to_owned()));
}

/// Refuses to be read, or to be written.
#[derive(Debug)]
struct Stubborn {
    write: bool,
}

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.write {
            serializer.serialize_bool(true)
        } else {
            Err(serde::ser::Error::custom("will not"))
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Stubborn, D::Error> {
        Err(serde::de::Error::custom("will not"))
    }
}

#[procession::test]
fn what_cannot_be_serialised_is_an_error_on_the_side_that_tried() {
    let _watched = watched();
    let error = Process::spawn(|_: Stubborn| {}, Stubborn { write: false }).unwrap_err();
    assert!(error.to_string().contains("Stubborn"), "{error}");
    let error = Process::spawn(|_: Stubborn| {}, Stubborn { write: true })
        .unwrap()
        .join()
        .unwrap_err();
    let error = Error::from(error);
    assert!(format!("{error:?}").contains("Stubborn"), "{error:?}");
    let error = Process::spawn(|| Stubborn { write: false }, ())
        .unwrap()
        .join()
        .unwrap_err();
    assert_eq!(error.kind(), JoinErrorKind::Serialisation);
    assert!(format!("{:?}", Error::from(error)).contains("Stubborn"));
}

/// Panics when it is dropped in another process than the first.
#[derive(Serialize, Deserialize)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(parent_process().is_none(), "dropped");
    }
}

#[procession::test]
fn a_panic_of_a_destructor_ends_the_process_and_nothing_else() {
    let _watched = watched();
    for method in METHODS {
        let builder = || Process::builder().start_method(method);
        // Of an argument: part of the call.
        let error = builder().spawn(|_: Bomb| 1, Bomb).unwrap().join();
        assert_eq!(error.unwrap_err().panic().unwrap().message(), "dropped");
        // Of the result: when it has been sent.
        let process = builder().spawn(|| Bomb, ()).unwrap();
        assert_eq!(process.wait().code(), Some(101));
        assert!(process.join().is_ok());
    }
}

#[procession::test]
fn large_arguments_and_results_come_through_whole() {
    let _watched = watched();
    let bytes: procession::Bytes = (0..3_000_000_u32).map(|number| number as u8).collect();
    for method in METHODS {
        let process = Process::builder().start_method(method).spawn(
            |mut bytes: procession::Bytes, plain: Vec<u8>| {
                assert_eq!(&bytes[..], &plain[..]);
                let mut vector = std::mem::take(&mut bytes).into_vec();
                vector.reverse();
                procession::Bytes::from(vector)
            },
            (bytes.clone(), bytes.to_vec()),
        );
        let back = process.unwrap().join().unwrap();
        assert!(back.iter().rev().eq(bytes.iter()));
    }
}

#[procession::test]
fn a_result_does_not_wait_to_be_fetched() {
    let _watched = watched();
    let process = Process::spawn(|| vec![7_u8; 5_000_000], ()).unwrap();
    // The process ends though nobody reads.
    assert!(process.wait_timeout(ms(20_000)).is_some());
    assert_eq!(process.join().unwrap().len(), 5_000_000);
}

#[procession::test]
fn many_starts_leave_no_descriptor() {
    let _watched = watched();
    for method in METHODS {
        let run = |count: u32| {
            for number in 0..count {
                let process = Process::builder()
                    .start_method(method)
                    .spawn(add, (number, 1))
                    .unwrap();
                assert_eq!(process.join().unwrap(), number + 1);
            }
        };
        run(2);
        let before = descriptors();
        run(20);
        until(ms(20_000), || (descriptors() <= before).then_some(()))
            .unwrap_or_else(|()| panic!("{method:?}: {before} became {}", descriptors()));
    }
}
