//! No descriptors left: an error that says so, and the program goes on when there are some again.

use std::fs::File;
use std::time::Duration;

use procession_engine::process::{SpawnRequest, spawn};
use procession_engine::*;
use procession_sys::process::try_wait;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn shell() -> SpawnRequest {
    SpawnRequest {
        program: "/bin/true".into(),
        args: vec!["true".into()],
        env: None,
        inherit: Vec::new(),
        cwd: None,
        blocked: Vec::new(),
    }
}

fn starts() -> std::io::Result<()> {
    use std::os::fd::AsFd;
    let spawned = spawn(&shell())?;
    while try_wait(spawned.pidfd.as_fd(), true)?.is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn without_descriptors_what_needs_them_fails_and_all_else_works() {
    let queue = Queue::new(None).expect("memory");
    let lock = Lock::new().expect("memory");
    starts().expect("there are descriptors");
    let before = getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(40),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, few).expect("it is lowered");
    let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!held.is_empty());

    let error = starts().expect_err("a pidfd is a descriptor");
    assert_eq!(
        error.raw_os_error(),
        Some(rustix::io::Errno::MFILE.raw_os_error())
    );
    let error = pair(true).expect_err("so are the ends of a pipe");
    assert!(error.to_string().contains("Too many open files"), "{error}");
    // Nothing of these needs any.
    queue
        .put(&Outgoing::bytes(&[1; 100_000]), &mut Patience::none())
        .expect("memory");
    assert_eq!(
        queue.get(&mut Patience::none()).expect("put").bytes.len(),
        100_000
    );
    assert_eq!(lock.acquire(&mut Patience::none()), Ok(Acquired::Clean));
    // Whether an owner lives can't be read any more: it is taken to.
    assert_eq!(
        lock.acquire(&mut Patience::timeout(Duration::from_millis(120))),
        Err(WaitError::TimedOut)
    );
    lock.release().expect("held");

    drop(held);
    setrlimit(Resource::Nofile, before).expect("as it was");
    starts().expect("there are descriptors again");
    drop(pair(true).expect("likewise"));
}
