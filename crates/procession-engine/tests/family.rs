//! Families across forks: what a child holds, what a dead one gives back, what queues and locks do
//! when the process around them is replaced.

use std::time::Duration;

use procession_engine::*;
use procession_sys::poll;
use procession_sys::process::{Ended, fork_running, open_pidfd, send_signal, try_wait};

struct Child {
    seat: Seat,
    pidfd: std::os::fd::OwnedFd,
}

fn fork(body: impl FnOnce() -> i32) -> Child {
    let seat = prepare_child("child", Role::Process).expect("a seat");
    fork_with(seat);
    let pid = fork_running(body);
    fork_done();
    let pid = pid.expect("forks");
    child_started(seat, pid);
    Child {
        seat,
        pidfd: open_pidfd(pid).expect("a child of ours"),
    }
}

impl Child {
    fn wait(&self) -> Ended {
        use std::os::fd::AsFd;
        for _ in 0..20_000 {
            if let Some(ended) = try_wait(self.pidfd.as_fd(), true).expect("waits") {
                reap(self.seat.member());
                return ended;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.kill();
        panic!("the child hangs");
    }

    fn kill(&self) {
        use std::os::fd::AsFd;
        send_signal(self.pidfd.as_fd(), 9).expect("alive");
    }
}

fn patience() -> Patience<'static> {
    Patience::timeout(Duration::from_secs(20))
}

fn objects() -> usize {
    family().expect("a family").stats().objects
}

#[test]
fn a_child_holds_what_its_parent_held_when_it_forked() {
    let lock = Lock::new().expect("memory");
    let handle = lock.handle();
    let queue = Queue::new(None).expect("memory");
    let child = fork(|| {
        // The parent has dropped it by now.
        queue.get(&mut patience()).expect("a message");
        lock.acquire(&mut patience())
            .map_or(1, |acquired| i32::from(acquired.owner_died()))
    });
    drop(lock);
    assert!(Lock::from_handle(handle).is_ok(), "the child holds it");
    queue
        .put(&Outgoing::bytes(b"go"), &mut patience())
        .expect("put");
    assert_eq!(child.wait(), Ended::Exited(0));
    assert!(Lock::from_handle(handle).is_err(), "nobody holds it");
}

#[test]
fn a_handle_in_a_message_keeps_its_object_until_it_is_received() {
    let before = objects();
    let queue = Queue::new(None).expect("memory");
    let child = fork(|| {
        let event = Event::new().expect("memory");
        let name = event.handle().to_bytes();
        let message = Outgoing {
            bytes: &name,
            handles: &[event.handle()],
            ..Outgoing::default()
        };
        queue.put(&message, &mut patience()).map_or(1, |()| 0)
    });
    assert_eq!(child.wait(), Ended::Exited(0));
    // Its maker is gone.
    let message = queue.get(&mut patience()).expect("a message");
    let name: [u8; 16] = message.bytes.as_slice().try_into().expect("a name");
    let event = Event::from_handle(Handle::from_bytes(name)).expect("it lives in the message");
    drop(message);
    event.set();
    assert!(event.is_set());
    drop(event);
    assert!(Event::from_handle(Handle::from_bytes(name)).is_err());
    drop(queue);
    assert_eq!(objects(), before);
}

#[test]
fn large_buffers_arrive_as_blocks_and_are_recycled() {
    let before = objects();
    let queue = Queue::new(None).expect("memory");
    let big: Vec<u8> = (0..3_000_000u32).map(|n| (n % 253) as u8).collect();
    for _ in 0..5 {
        let child = fork(|| {
            let message = Outgoing {
                bytes: b"head",
                buffers: &[&big, b""],
                tag: 9,
                ..Outgoing::default()
            };
            queue.put(&message, &mut patience()).map_or(1, |()| 0)
        });
        let message = queue.get(&mut patience()).expect("a message");
        assert_eq!(
            (message.tag, message.bytes.as_slice()),
            (9, b"head".as_slice())
        );
        assert_eq!(message.buffers[0].to_vec(), big);
        assert!(message.buffers[1].is_empty());
        assert_eq!(child.wait(), Ended::Exited(0));
    }
    drop(queue);
    assert_eq!(objects(), before);
    assert!(
        family().expect("a family").stats().idle >= 3_000_000,
        "kept warm"
    );
}

#[test]
fn a_fork_that_nobody_announced_makes_a_member_of_its_own() {
    let lock = Lock::new().expect("memory");
    let _ = lock.acquire(&mut patience()).expect("free");
    let queue = Queue::new(None).expect("memory");
    let pid = fork_running(|| {
        // The lock is the parent's, not ours.
        let refused = lock.acquire(&mut Patience::none()).is_err();
        let bytes = [u8::from(refused)];
        queue
            .put(&Outgoing::bytes(&bytes), &mut patience())
            .map_or(1, |()| 0)
    })
    .expect("forks");
    assert_eq!(queue.get(&mut patience()).expect("a message").bytes, [1]);
    let members = family().expect("a family").members();
    assert!(members.iter().any(|member| member.pid == pid));
    use std::os::fd::AsFd;
    let pidfd = open_pidfd(pid).expect("a child");
    while try_wait(pidfd.as_fd(), true).expect("waits").is_none() {
        std::thread::yield_now();
    }
    lock.release().expect("held");
}

#[test]
fn a_killed_holder_is_named_to_the_next() {
    let lock = Lock::new().expect("memory");
    let ready = Event::new().expect("memory");
    let child = fork(|| {
        let _ = lock.acquire(&mut patience()).expect("free");
        ready.set();
        std::thread::sleep(Duration::from_secs(60));
        0
    });
    ready.wait(&mut patience()).expect("in time");
    let owner = lock.owner().expect("held");
    assert_eq!(
        (owner.member, owner.name.as_str()),
        (child.seat.member(), "child")
    );
    child.kill();
    assert_eq!(child.wait(), Ended::Killed(9));
    assert!(
        lock.acquire(&mut patience())
            .expect("given over")
            .owner_died()
    );
    lock.release().expect("ours");
    assert!(!lock.acquire(&mut patience()).expect("free").owner_died());
}

#[test]
fn an_interrupted_wait_gives_up() {
    let queue = Queue::new(None).expect("memory");
    let mut asked = 0;
    let mut hook = || {
        asked += 1;
        asked == 3
    };
    let mut patience = Patience::forever().with_interrupt(&mut hook);
    assert_eq!(queue.get(&mut patience).err(), Some(GetError::Interrupted));
    assert_eq!(asked, 3);
}

#[test]
fn threads_that_hold_and_drop_while_another_forks_leave_nothing() {
    let before = objects();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let shared = Lock::new().expect("memory");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let block = Block::zeroed(100).expect("memory");
                    drop((block.clone(), shared.clone(), block));
                }
            });
        }
        for _ in 0..30 {
            assert_eq!(
                fork(|| i32::from(shared.is_locked())).wait(),
                Ended::Exited(0)
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(shared);
    assert_eq!(objects(), before);
}

/// How the child of a fork that is not announced ends.
fn end_of_a_plain_fork(body: impl FnOnce() -> i32) -> Ended {
    use std::os::fd::AsFd;
    let pidfd = open_pidfd(fork_running(body).expect("forks")).expect("a child of ours");
    let ended = poll::readable(pidfd.as_fd(), Some(Duration::from_secs(20)));
    assert!(ended.expect("polls"), "the child hangs");
    let end = try_wait(pidfd.as_fd(), true).expect("waits");
    end.expect("it has ended")
}

#[test]
fn a_child_forked_when_the_family_is_full_lets_what_its_parent_holds_alone() {
    let lock = Lock::new().expect("memory");
    let handle = lock.handle();
    let seats: Vec<Seat> =
        std::iter::from_fn(|| prepare_child("child", Role::Process).ok()).collect();
    let mut only = Some(Lock::new().expect("memory"));
    let before = objects();
    let end = end_of_a_plain_fork(|| {
        let full = |made| matches!(made, Err(MakeError::Family(FamilyError::Full(_))));
        assert!(full(Lock::new()));
        assert!(Lock::from_handle(handle).is_err());
        drop(only.take());
        leave();
        0
    });
    assert_eq!(end, Ended::Exited(0));
    // What can't be an error is the end.
    let end = end_of_a_plain_fork(|| {
        let _ = lock.acquire(&mut Patience::none());
        0
    });
    assert_eq!(end, Ended::Exited(1));
    // So it is for a child of such a child.
    let end = end_of_a_plain_fork(
        || match end_of_a_plain_fork(|| i32::from(family().is_ok())) {
            Ended::Exited(code) => code,
            _ => 99,
        },
    );
    assert_eq!(end, Ended::Exited(0));
    assert_eq!(objects(), before);
    assert_eq!(lock.acquire(&mut Patience::none()), Ok(Acquired::Clean));
    seats.into_iter().for_each(cancel_child);
}
