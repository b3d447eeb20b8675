//! Waiting for several things, one-time channels, and the work on what is in a queue.

mod support;

use std::time::{Duration, Instant};

use procession::{
    Chunk, Event, Lock, OneReceiver, OneSender, PlainLock, Pool, Process, Queue, RLock, Receiver,
    RwLock, Select, Semaphore, Sender, SharedVec, TryLockError,
};
use support::{descriptors, ms, until, watched};

const LONG: Duration = Duration::from_secs(30);

#[procession::test]
fn the_first_that_is_ready_is_named_whoever_makes_it_so() {
    let _watched = watched();
    let (first, second) = (
        Queue::<u32>::unbounded().unwrap(),
        Queue::unbounded().unwrap(),
    );
    let (go, done) = (Event::new().unwrap(), Event::new().unwrap());
    let helper = Process::spawn(
        |first: Queue<u32>, second: Queue<String>, go: Event, done: Event| {
            go.wait();
            second.send("x".into()).unwrap();
            done.wait();
            first.send(1).unwrap();
        },
        (first.clone(), second.clone(), go.clone(), done.clone()),
    )
    .unwrap();
    let mut select = Select::new();
    let one = select.recv(&first);
    let two = select.recv(&second);
    let set = select.event(&done);
    assert_eq!(select.try_ready(), None);
    let began = Instant::now();
    assert!(select.ready_timeout(ms(30)).unwrap_err().is_timeout());
    assert!(began.elapsed() >= ms(30));
    go.set();
    assert_eq!(select.ready_timeout(LONG).unwrap(), two);
    assert_eq!(second.try_recv().unwrap(), "x");
    done.set();
    assert_eq!(select.ready_timeout(LONG).unwrap(), set);
    // The event stays ready, and does not keep the others from their turn.
    while select.ready_timeout(LONG).unwrap() != one {
        std::thread::yield_now();
    }
    done.clear();
    assert_eq!(first.recv().unwrap(), 1);
    helper.join().unwrap();
    first.close();
    assert_eq!(
        select.ready(),
        one,
        "there is nothing to wait for in a closed queue"
    );
}

#[procession::test]
fn queues_processes_and_descriptors_together() {
    let _watched = watched();
    let lines = Queue::<u32>::unbounded().unwrap();
    let stop = Event::new().unwrap();
    let process = Process::spawn(
        |lines: Queue<u32>, stop: Event| {
            for line in 0..50 {
                std::thread::sleep(ms(1));
                lines.send(line).unwrap();
            }
            stop.wait();
        },
        (lines.clone(), stop.clone()),
    )
    .unwrap();
    let open = descriptors();
    let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut seen = Vec::new();
    {
        let mut select = Select::new();
        let line = select.recv(&lines);
        let readable = select.descriptor(&socket);
        let ended = select.process(&process);
        let mut heard = false;
        loop {
            match select.ready_timeout(LONG).unwrap() {
                index if index == line => seen.extend(lines.try_recv()),
                index if index == readable => {
                    use std::io::Read;
                    let mut byte = [0];
                    assert_eq!((&socket).read(&mut byte).unwrap(), 1);
                    heard = true;
                    stop.set();
                }
                index => {
                    assert_eq!(index, ended);
                    break;
                }
            }
            if seen.len() == 50 && !heard {
                use std::io::Write;
                (&other).write_all(b"x").unwrap();
            }
        }
        assert!(heard);
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    drop((socket, other));
    until(ms(20_000), || (descriptors() <= open).then_some(())).expect("no descriptor is left");
    process.join().unwrap();
}

#[procession::test]
fn a_killed_sender_ends_the_wait() {
    let _watched = watched();
    let (sender, receiver) = procession::pipe::<u32>().unwrap();
    let (here, there) = procession::duplex::<u32, u32>().unwrap();
    let ready = Event::new().unwrap();
    let process = Process::spawn(
        |_sender: Sender<u32>, _there: procession::Connection<u32, u32>, ready: Event| {
            ready.set();
            std::thread::sleep(LONG);
        },
        (sender, there, ready.clone()),
    )
    .unwrap();
    ready.wait();
    let mut select = Select::new();
    let end = select.recv(&receiver);
    assert!(select.ready_timeout(ms(100)).is_err());
    process.kill().unwrap();
    assert_eq!(select.ready_timeout(LONG).unwrap(), end);
    assert!(receiver.try_recv().unwrap_err().is_closed());
    let mut select = Select::new();
    let send = select.send(&here);
    assert_eq!(select.ready_timeout(LONG).unwrap(), send);
    assert!(here.send(1).unwrap_err().is_closed());
}

#[procession::test]
fn a_selector_that_is_killed_takes_no_wake_up_with_it() {
    let _watched = watched();
    let (queue, other) = (
        Queue::<u32>::unbounded().unwrap(),
        Queue::unbounded().unwrap(),
    );
    let ready = Event::new().unwrap();
    let selector = Process::spawn(
        |queue: Queue<u32>, other: Queue<u32>, ready: Event| {
            ready.set();
            let mut select = Select::new();
            select.recv(&other);
            select.recv(&queue);
            select.ready();
            // Has it, and does not use it.
            std::thread::sleep(LONG);
        },
        (queue.clone(), other.clone(), ready.clone()),
    )
    .unwrap();
    ready.wait();
    std::thread::sleep(ms(50));
    let taker = Process::spawn(|queue: Queue<u32>| queue.recv().unwrap(), queue.clone()).unwrap();
    std::thread::sleep(ms(50));
    queue.send(5).unwrap();
    assert_eq!(taker.join().unwrap(), 5);
    selector.kill().unwrap();
    selector.wait();
    let taker = Process::spawn(|queue: Queue<u32>| queue.recv().unwrap(), queue.clone()).unwrap();
    std::thread::sleep(ms(50));
    queue.send(6).unwrap();
    assert_eq!(taker.join().unwrap(), 6);
}

#[procession::test]
fn room_and_tasks_can_be_selected() {
    let _watched = watched();
    let queue = Queue::bounded(1).unwrap();
    queue.send(1).unwrap();
    let pool = Pool::new(1).unwrap();
    let go = Event::new().unwrap();
    let task = pool
        .apply_async(
            |(go, queue): (Event, Queue<u32>)| {
                go.wait();
                queue.recv().unwrap()
            },
            (go.clone(), queue.clone()),
        )
        .unwrap();
    let mut select = Select::new();
    let room = select.send(&queue);
    let done = select.task(&task);
    assert_eq!(select.try_ready(), None);
    go.set();
    let mut seen = vec![select.ready_timeout(LONG).unwrap()];
    while !seen.contains(&room) || !seen.contains(&done) {
        seen.push(select.ready_timeout(LONG).unwrap());
    }
    assert!(queue.try_send(2).is_ok() && task.is_ready());
    drop(select);
    assert_eq!(task.get().unwrap(), 1);
}

#[procession::test]
fn one_value_and_no_more() {
    let _watched = watched();
    let (sender, receiver) = procession::oneshot().unwrap();
    let process = Process::spawn(|sender: OneSender<u32>| sender.send(7).is_ok(), sender).unwrap();
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), 7);
    assert!(process.join().unwrap());
    assert!(receiver.try_recv().unwrap_err().is_closed());
    // A sender that is dropped, and one that is killed.
    let (sender, receiver) = procession::oneshot::<u32>().unwrap();
    drop(sender);
    assert!(receiver.recv().unwrap_err().is_closed());
    let (sender, receiver) = procession::oneshot::<u32>().unwrap();
    let ready = Event::new().unwrap();
    let process = Process::spawn(
        |_sender: OneSender<u32>, ready: Event| {
            ready.set();
            std::thread::sleep(LONG);
        },
        (sender, ready.clone()),
    )
    .unwrap();
    ready.wait();
    assert!(receiver.try_recv().unwrap_err().is_empty());
    process.kill().unwrap();
    assert!(receiver.recv().unwrap_err().is_closed());
    // A receiver that is gone.
    let (sender, receiver) = procession::oneshot().unwrap();
    let process = Process::spawn(|_receiver: OneReceiver<String>| (), receiver).unwrap();
    process.join().unwrap();
    let error = sender.send("kept".to_owned()).unwrap_err();
    assert!(error.is_closed());
    assert_eq!(error.into_inner(), "kept");
}

#[procession::test]
fn the_work_on_a_queue_is_waited_for() {
    let _watched = watched();
    let jobs = Queue::unbounded().unwrap();
    let worker = Process::spawn(
        |jobs: Queue<u32>| {
            for _job in jobs.iter() {
                jobs.task_done().unwrap();
            }
        },
        jobs.clone(),
    )
    .unwrap();
    for job in 0..100 {
        jobs.send(job).unwrap();
    }
    jobs.join();
    assert_eq!(jobs.unfinished(), 0);
    assert!(jobs.task_done().is_err());
    jobs.close();
    worker.join().unwrap();
    // One that dies with a job in hand leaves it undone.
    let jobs = Queue::unbounded().unwrap();
    jobs.send(1).unwrap();
    let worker = Process::spawn(
        |jobs: Queue<u32>| -> () {
            jobs.recv().unwrap();
            std::process::abort();
        },
        jobs.clone(),
    );
    worker.unwrap().wait();
    assert!(!jobs.join_timeout(ms(100)));
    let mut select = Select::new();
    let all = select.all_done(&jobs);
    assert_eq!(select.try_ready(), None);
    jobs.task_done().unwrap();
    assert_eq!(select.ready_timeout(LONG).unwrap(), all);
    assert!(jobs.join_timeout(ms(100)));
}

#[procession::test]
fn a_connection_sends_with_a_limit_of_time() {
    let _watched = watched();
    let (here, there) = procession::duplex::<u32, u32>().unwrap();
    while here.try_send(0).is_ok() {}
    assert!(here.send_timeout(1, ms(20)).unwrap_err().is_full());
    assert_eq!(there.try_recv().unwrap(), 0);
    here.send_timeout(1, LONG).unwrap();
    let receiver: Receiver<u32> = there.split().1;
    assert_eq!(receiver.try_iter().last(), Some(1));
}

#[procession::test]
fn locks_and_permits_can_be_selected_and_their_holders_may_die() {
    let _watched = watched();
    let (lock, rlock) = (Lock::new(1).unwrap(), RLock::new().unwrap());
    let plain = PlainLock::new(2_u64).unwrap();
    let chunk = SharedVec::<u8>::zeroed(4)
        .unwrap()
        .split(2)
        .unwrap()
        .get(1)
        .unwrap();
    let (readers, writers) = (RwLock::new(3).unwrap(), RwLock::new(4).unwrap());
    let permits = Semaphore::bounded(1).unwrap();
    type All = (
        Lock<i32>,
        RLock,
        PlainLock<u64>,
        Chunk<u8>,
        RwLock<i32>,
        RwLock<i32>,
        Semaphore,
    );
    let all: All = (
        lock.clone(),
        rlock.clone(),
        plain.clone(),
        chunk.clone(),
        readers.clone(),
        writers.clone(),
        permits.clone(),
    );
    // Each is let go of when its number comes; in the end the holder is killed with all of them.
    let hold = |all: All, numbers: Receiver<usize>, held: Event| {
        let (lock, rlock, plain, chunk, readers, writers, permits) = &all;
        for _ in 0..2 {
            let mut lock = Some(lock.lock());
            let mut rlock = Some(rlock.lock());
            let mut plain = Some(plain.lock());
            let mut chunk = Some(chunk.lock());
            let mut writing = Some(readers.write());
            let mut reading = Some(writers.read());
            let mut permit = Some(permits.acquire());
            held.set();
            for _ in 0..7 {
                match numbers.recv().unwrap() {
                    0 => drop(lock.take()),
                    1 => drop(rlock.take()),
                    2 => drop(plain.take()),
                    3 => drop(chunk.take()),
                    4 => drop(writing.take()),
                    5 => drop(reading.take()),
                    _ => drop(permit.take()),
                }
            }
            // All of them again.
            numbers.recv().unwrap();
        }
    };
    let (numbers, theirs) = procession::pipe().unwrap();
    let held = Event::new().unwrap();
    let holder = Process::spawn(hold, (all, theirs, held.clone())).unwrap();
    let selects = || {
        let mut select = Select::new();
        assert_eq!(select.lock(&lock), 0);
        assert_eq!(select.lock(&rlock), 1);
        assert_eq!(select.lock(&plain), 2);
        assert_eq!(select.lock(&chunk), 3);
        assert_eq!(select.read(&readers), 4);
        assert_eq!(select.write(&writers), 5);
        assert_eq!(select.permit(&permits), 6);
        select
    };
    held.wait();
    for number in [3, 0, 6, 5, 1, 4, 2] {
        let mut select = Select::new();
        let mut all = selects();
        if number == 3 {
            assert!(all.ready_timeout(ms(20)).unwrap_err().is_timeout());
            assert_eq!(all.try_ready(), None);
        }
        let only: usize = match number {
            0 => select.lock(&lock),
            1 => select.lock(&rlock),
            2 => select.lock(&plain),
            3 => select.lock(&chunk),
            4 => select.read(&readers),
            5 => select.write(&writers),
            _ => select.permit(&permits),
        };
        // With a descriptor beside it a helper thread watches the lock.
        if number % 2 == 0 {
            select.process(&holder);
        }
        assert!(select.ready_timeout(ms(10)).unwrap_err().is_timeout());
        numbers.send(number).unwrap();
        assert_eq!(select.ready_timeout(ms(10_000)).unwrap(), only);
        match number {
            0 => assert_eq!(*lock.lock().unwrap(), 1),
            1 => drop(rlock.lock().unwrap()),
            2 => assert_eq!(*plain.lock().unwrap(), 2),
            3 => assert_eq!(chunk.lock().unwrap().len(), 2),
            4 => assert_eq!(*readers.read().unwrap(), 3),
            5 => assert_eq!(*writers.write().unwrap(), 4),
            _ => drop(permits.acquire()),
        }
    }
    // The permit is the last that it takes.
    numbers.send(7).unwrap();
    let taken_again = until(ms(10_000), || permits.try_acquire().is_none().then_some(()));
    taken_again.expect("it takes them again");
    {
        let mut select = selects();
        assert!(select.ready_timeout(ms(10)).unwrap_err().is_timeout());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(ms(20));
                holder.kill().unwrap();
            });
            let mut seen = [false; 7];
            while seen != [true; 7] {
                seen[select.ready_timeout(ms(10_000)).unwrap()] = true;
            }
        });
    }
    holder.wait();
    assert!(matches!(lock.try_lock(), Err(TryLockError::Poisoned(_))));
    assert!(matches!(rlock.try_lock(), Err(TryLockError::Poisoned(_))));
    assert!(matches!(plain.try_lock(), Err(TryLockError::Poisoned(_))));
    assert!(matches!(chunk.try_lock(), Err(TryLockError::Poisoned(_))));
    assert!(matches!(readers.try_read(), Err(TryLockError::Poisoned(_))));
    assert!(
        writers.try_write().is_ok(),
        "of a dead reader nobody is told"
    );
    assert!(permits.try_acquire().is_some());
}

#[procession::test]
fn the_lock_of_this_thread_is_ready_for_it_and_for_no_other() {
    let _watched = watched();
    let lock = RLock::new().unwrap();
    let _held = lock.lock().unwrap();
    let ready = |lock: &RLock| {
        let mut select = Select::new();
        select.lock(lock);
        select.ready_timeout(ms(20)).is_ok()
    };
    assert!(ready(&lock));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| ready(&lock));
        assert!(!other.join().unwrap());
    });
}
