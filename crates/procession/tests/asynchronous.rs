//! Waiting in asynchronous code.
#![cfg(feature = "tokio")]

mod support;

use std::time::Duration;

use procession::{
    Cause, Chunk, Condition, Event, Lock, OneSender, PlainLock, Pool, Process, Queue, RwLock,
    Semaphore, Sender, SharedVec, StartMethod,
};
use support::{METHODS, descriptors, ms, until, watched};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { timeout(LONG, future).await.expect("comes to an end") })
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[procession::test]
#[tokio::test]
async fn a_test_may_have_a_runtime_below() {
    let _watched = watched();
    for method in METHODS {
        let process = Process::builder().start_method(method).spawn(|| 5, ());
        assert_eq!(process.unwrap().join_async().await.unwrap().unwrap(), 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[procession::test]
async fn a_test_may_have_a_runtime_above() {
    let process = Process::builder().start_method(StartMethod::Spawn);
    let process = process.spawn(|| 5, ()).unwrap();
    assert_eq!(process.join_async().await.unwrap().unwrap(), 5);
}

#[procession::test]
fn values_come_from_queues_and_pipes() {
    let _watched = watched();
    let queue = Queue::unbounded().unwrap();
    let (sender, receiver) = procession::pipe().unwrap();
    let (one, answer) = procession::oneshot().unwrap();
    let process = Process::spawn(
        |queue: Queue<u32>, sender: Sender<String>, one: OneSender<bool>| {
            for number in 0..200 {
                queue.send(number).unwrap();
                sender.send(number.to_string()).unwrap();
                if number % 50 == 0 {
                    std::thread::sleep(ms(5));
                }
            }
            one.send(true).unwrap();
        },
        (queue.clone(), sender, one),
    )
    .unwrap();
    block_on(async {
        let numbers = async {
            for number in 0..200 {
                assert_eq!(queue.recv_async().await.unwrap(), number);
            }
        };
        let texts = async {
            for number in 0..200 {
                assert_eq!(receiver.recv_async().await.unwrap(), number.to_string());
            }
            assert!(receiver.recv_async().await.unwrap_err().is_closed());
        };
        let ((), (), answer) = tokio::join!(numbers, texts, answer.recv_async());
        assert!(answer.unwrap());
        process.join_async().await.unwrap().unwrap();
    });
}

#[procession::test]
fn many_waits_have_no_thread_each() {
    let _watched = watched();
    let queues: Vec<_> = (0..150)
        .map(|_| Queue::<u32>::unbounded().unwrap())
        .collect();
    let before = threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let with_runtime = threads();
    runtime.block_on(async {
        let tasks: Vec<_> = queues
            .iter()
            .map(|queue| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.recv_async().await.unwrap() })
            })
            .collect();
        tokio::time::sleep(ms(50)).await;
        assert!(
            threads() <= with_runtime.max(before) + 3,
            "{} threads",
            threads()
        );
        let filler = Process::spawn(
            |queues: Vec<Queue<u32>>| {
                for (number, queue) in queues.iter().enumerate() {
                    queue.send(number as u32).unwrap();
                }
            },
            queues.clone(),
        )
        .unwrap();
        for (number, task) in tasks.into_iter().enumerate() {
            let got = timeout(LONG, task).await.expect("is woken").unwrap();
            assert_eq!(got, number as u32);
        }
        filler.join_async().await.unwrap().unwrap();
    });
}

#[procession::test]
fn sending_waits_for_room_and_a_dropped_wait_sends_nothing() {
    let _watched = watched();
    let queue = Queue::bounded(1).unwrap();
    queue.send(0).unwrap();
    block_on(async {
        assert!(timeout(ms(20), queue.send_async(9)).await.is_err());
        let taker = Process::spawn(
            |queue: Queue<u32>| {
                std::thread::sleep(ms(20));
                (queue.recv().unwrap(), queue.recv().unwrap())
            },
            queue.clone(),
        )
        .unwrap();
        queue.send_async(1).await.unwrap();
        assert_eq!(taker.join_async().await.unwrap().unwrap(), (0, 1));
        // The wait that was given up took no value either.
        assert!(timeout(ms(20), queue.recv_async()).await.is_err());
        queue.send_async(2).await.unwrap();
        assert_eq!(queue.recv_async().await.unwrap(), 2);
        queue.close();
        assert!(queue.recv_async().await.unwrap_err().is_closed());
        let error = queue.send_async(3).await.unwrap_err();
        assert!(error.is_closed());
        assert_eq!(error.into_inner(), 3);
    });
}

#[procession::test]
fn a_lock_comes_when_its_holder_lets_go_or_dies() {
    let _watched = watched();
    let lock = Lock::new(1).unwrap();
    let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
    let holder = |lock: Lock<i32>, held: Event, go: Event| {
        let mut guard = lock.lock().unwrap();
        held.set();
        go.wait();
        *guard += 1;
        drop(guard);
        let _guard = lock.lock().unwrap();
        go.clear();
        held.set();
        go.wait();
    };
    let process = Process::spawn(holder, (lock.clone(), held.clone(), go.clone())).unwrap();
    block_on(async {
        held.wait_async().await.unwrap();
        assert!(timeout(ms(50), lock.lock_async()).await.is_err());
        held.clear();
        go.set();
        // The holder takes it again at once, or after this.
        {
            let waiting = timeout(ms(200), lock.lock_async()).await;
            if let Ok(guard) = waiting {
                assert_eq!(*guard.unwrap().unwrap(), 2);
            }
        }
        held.wait_async().await.unwrap();
        process.kill().unwrap();
        let poisoned = lock.lock_async().await.unwrap().unwrap_err();
        assert_eq!(poisoned.cause(), Cause::Died { pid: process.pid() });
        assert_eq!(*poisoned.into_inner(), 2);
        process.wait_async().await.unwrap();
    });
}

#[procession::test]
fn tasks_of_a_pool_and_their_losses() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let open = descriptors();
    block_on(async {
        let squares: Vec<_> = (0..50_u64)
            .map(|x| pool.apply_async(|x: u64| x * x, x).unwrap().get_async())
            .collect();
        for (x, square) in squares.into_iter().enumerate() {
            assert_eq!(square.await.unwrap(), (x * x) as u64);
        }
        let lost = pool
            .apply_async(|()| -> () { std::process::abort() }, ())
            .unwrap();
        let slow = pool
            .apply_async(
                |x: u64| {
                    std::thread::sleep(ms(50));
                    x
                },
                5,
            )
            .unwrap();
        let (lost, slow) = tokio::join!(lost.get_async(), slow.get_async());
        assert!(lost.unwrap_err().is_worker_lost());
        assert_eq!(slow.unwrap(), 5);
    });
    drop(pool);
    until(ms(20_000), || (descriptors() <= open).then_some(())).expect("no descriptor is left");
}

#[procession::test]
fn a_killed_process_is_awaited() {
    let _watched = watched();
    let open = descriptors();
    let process = Process::spawn(|| std::thread::sleep(LONG), ()).unwrap();
    block_on(async {
        assert!(timeout(ms(20), process.wait_async()).await.is_err());
        process.kill().unwrap();
        let (first, second) = tokio::join!(process.wait_async(), process.wait_async());
        assert_eq!(first.unwrap().signal(), Some(9));
        assert_eq!(second.unwrap().signal(), Some(9));
    });
    drop(process);
    until(ms(20_000), || (descriptors() <= open + 2).then_some(())).expect("no descriptor is left");
}

/// Holds what it is given until `go`, or until it is killed.
fn hold(holding: impl Sized, held: &Event, go: &Event) {
    held.set();
    go.wait();
    drop(holding);
}

#[procession::test]
fn data_in_place_come_when_their_holder_lets_go_or_dies() {
    let _watched = watched();
    let plain = PlainLock::new(1_u64).unwrap();
    let chunks = SharedVec::<u32>::zeroed(10).unwrap().split(2).unwrap();
    let chunk = chunks.get(1).unwrap();
    let holder = |plain: PlainLock<u64>, chunk: Chunk<u32>, held: Event, go: Event| {
        let (mut number, mut numbers) = (plain.lock().unwrap(), chunk.lock().unwrap());
        *number += 1;
        numbers[0] = 5;
        hold((number, numbers), &held, &go);
    };
    for dies in [false, true] {
        let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
        let arguments = (plain.clone(), chunk.clone(), held.clone(), go.clone());
        let process = Process::spawn(holder, arguments).unwrap();
        block_on(async {
            held.wait_async().await.unwrap();
            assert!(timeout(ms(20), plain.lock_async()).await.is_err());
            assert!(timeout(ms(20), chunk.lock_async()).await.is_err());
            let end = async {
                tokio::time::sleep(ms(20)).await;
                if dies {
                    process.kill().unwrap();
                } else {
                    go.set();
                }
            };
            let (number, numbers, ()) = tokio::join!(
                async {
                    match plain.lock_async().await.unwrap() {
                        Ok(number) => (*number, None),
                        Err(poisoned) => (*poisoned.into_inner(), Some(true)),
                    }
                },
                async {
                    match chunk.lock_async().await.unwrap() {
                        Ok(numbers) => (numbers[0], None),
                        Err(poisoned) => (poisoned.into_inner()[0], Some(true)),
                    }
                },
                end
            );
            assert_eq!(number, if dies { (3, Some(true)) } else { (2, None) });
            assert_eq!(numbers, (5, dies.then_some(true)));
            process.wait_async().await.unwrap();
        });
    }
}

#[procession::test]
fn readers_and_writers_wait_for_each_other_and_not_for_the_dead() {
    let _watched = watched();
    let lock = RwLock::new(10).unwrap();
    let read = |lock: RwLock<i32>, held: Event, go: Event| hold(lock.read(), &held, &go);
    let write = |lock: RwLock<i32>, held: Event, go: Event| {
        let mut guard = lock.write().unwrap();
        *guard += 1;
        hold(guard, &held, &go);
    };
    let start = |writes: bool| {
        let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
        let arguments = (lock.clone(), held.clone(), go.clone());
        let process = if writes {
            Process::spawn(write, arguments)
        } else {
            Process::spawn(read, arguments)
        };
        let process = process.unwrap();
        held.wait();
        (process, go)
    };
    block_on(async {
        // A reader keeps writers out, until it goes; then until it dies.
        let (one, go) = start(false);
        let (other, _) = start(false);
        assert_eq!(*lock.read_async().await.unwrap().unwrap(), 10);
        assert!(timeout(ms(20), lock.write_async()).await.is_err());
        go.set();
        one.join_async().await.unwrap().unwrap();
        assert!(timeout(ms(20), lock.write_async()).await.is_err());
        let (written, ()) = tokio::join!(
            async { *lock.write_async().await.unwrap().unwrap() += 5 },
            async {
                tokio::time::sleep(ms(20)).await;
                other.kill().unwrap();
            }
        );
        let () = written;
        other.wait_async().await.unwrap();

        // A writer keeps everybody out.
        let (writer, go) = start(true);
        assert!(timeout(ms(20), lock.read_async()).await.is_err());
        assert!(timeout(ms(20), lock.write_async()).await.is_err());
        let (first, second, ()) = tokio::join!(
            async { *lock.read_async().await.unwrap().unwrap() },
            async { *lock.write_async().await.unwrap().unwrap() },
            async {
                tokio::time::sleep(ms(20)).await;
                go.set();
            }
        );
        assert_eq!((first, second), (16, 16));
        writer.join_async().await.unwrap().unwrap();

        // Of one that dies both are told, and the value is as it was before.
        let (writer, _) = start(true);
        let (told, ()) = tokio::join!(
            async {
                let poisoned = lock.read_async().await.unwrap().unwrap_err();
                (poisoned.cause(), *poisoned.into_inner())
            },
            async {
                tokio::time::sleep(ms(20)).await;
                writer.kill().unwrap();
            }
        );
        assert_eq!(told, (Cause::Died { pid: writer.pid() }, 16));
        writer.wait_async().await.unwrap();
        assert_eq!(*lock.write_async().await.unwrap().unwrap(), 16);
    });
}

#[procession::test]
fn permits_come_when_they_are_given_back_or_their_holders_die() {
    let _watched = watched();
    for permits in [Semaphore::bounded(2).unwrap(), Semaphore::new(2).unwrap()] {
        let bounded = permits.release(1).is_err();
        if !bounded {
            permits.acquire().forget();
        }
        let (held, go) = (Event::new().unwrap(), Event::new().unwrap());
        let holder = |permits: Semaphore, held: Event, go: Event| {
            hold((permits.acquire(), permits.acquire()), &held, &go);
        };
        let arguments = (permits.clone(), held.clone(), go.clone());
        let process = Process::spawn(holder, arguments.clone()).unwrap();
        block_on(async {
            held.wait_async().await.unwrap();
            // Waits that were given up hold nothing.
            for _ in 0..3 {
                assert!(timeout(ms(10), permits.acquire_async()).await.is_err());
            }
            let (one, two, ()) =
                tokio::join!(permits.acquire_async(), permits.acquire_async(), async {
                    tokio::time::sleep(ms(20)).await;
                    go.set();
                });
            assert_eq!(permits.available(), 0);
            drop((one, two));
            assert_eq!(permits.available(), 2);
            process.join_async().await.unwrap().unwrap();

            held.clear();
            go.clear();
            let process = Process::spawn(holder, arguments).unwrap();
            held.wait_async().await.unwrap();
            process.kill().unwrap();
            process.wait_async().await.unwrap();
            let waits = async { tokio::join!(permits.acquire_async(), permits.acquire_async()) };
            let got = timeout(ms(if bounded { 20_000 } else { 1000 }), waits).await;
            assert_eq!(
                got.is_ok(),
                bounded,
                "a plain one does not know its holders"
            );
        });
    }
}

/// A wake-up that comes to a wait which is given up goes to another.
#[procession::test]
fn who_gives_up_takes_no_wake_up_along() {
    let _watched = watched();
    let permits = Semaphore::new(0).unwrap();
    let queue = Queue::unbounded().unwrap();
    let lock = Lock::new(0_u32).unwrap();
    let worker = |permits: Semaphore, queue: Queue<u32>, lock: Lock<u32>| {
        for round in 0..100 {
            permits.acquire().forget();
            *lock.lock().unwrap() += 1;
            assert_eq!(queue.recv().unwrap(), round);
        }
    };
    let arguments = (permits.clone(), queue.clone(), lock.clone());
    let process = Process::spawn(worker, arguments).unwrap();
    block_on(async {
        for round in 0..100 {
            let lost = async {
                tokio::select! {
                    biased;
                    () = tokio::task::yield_now() => {}
                    _ = permits.acquire_async() => unreachable!("there was none"),
                }
            };
            lost.await;
            permits.release(1).unwrap();
            let given_up = timeout(std::time::Duration::from_micros(50), lock.lock_async()).await;
            drop(given_up);
            queue.send_async(round).await.unwrap();
            while *lock.lock_async().await.unwrap().unwrap() <= round {
                tokio::task::yield_now().await;
            }
        }
        process.join_async().await.unwrap().unwrap();
    });
}

#[procession::test]
fn a_condition_is_awaited_and_given_up() {
    let _watched = watched();
    let level = Lock::new(0_u32).unwrap();
    let changed = Condition::new().unwrap();
    let fill = |level: Lock<u32>, changed: Condition| {
        for _ in 0..20 {
            *level.lock().unwrap() += 1;
            changed.notify_one();
            std::thread::sleep(ms(1));
        }
    };
    let process = Process::spawn(fill, (level.clone(), changed.clone())).unwrap();
    block_on(async {
        let mut guard = level.lock_async().await.unwrap().unwrap();
        while *guard < 20 {
            // May be given up at any moment; the lock is free then.
            match timeout(ms(1), changed.wait_async(guard)).await {
                Ok(woken) => guard = woken.unwrap().unwrap(),
                Err(_) => guard = level.lock_async().await.unwrap().unwrap(),
            }
        }
        drop(guard);
        process.join_async().await.unwrap().unwrap();

        // One that was notified and given up hands that on: to a process that blocks.
        let waiter = |level: Lock<u32>, changed: Condition, waits: Event| {
            let guard = level.lock().unwrap();
            waits.set();
            *changed.wait(guard).unwrap()
        };
        let first = changed.wait_async(level.lock().unwrap());
        let waits = Event::new().unwrap();
        let second =
            Process::spawn(waiter, (level.clone(), changed.clone(), waits.clone())).unwrap();
        waits.wait_async().await.unwrap();
        let guard = level.lock_async().await.unwrap().unwrap();
        changed.notify_one();
        drop(guard);
        drop(first);
        let second = timeout(ms(10_000), second.join_async()).await;
        assert_eq!(second.expect("is woken").unwrap().unwrap(), 20);
    });
}

#[procession::test]
fn a_task_and_the_work_on_a_queue_can_be_asked_again() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    let jobs = Queue::<u32>::unbounded().unwrap();
    jobs.send_many([1, 2]).unwrap();
    let go = Event::new().unwrap();
    let work = |jobs: Queue<u32>, go: Event| {
        let mut got = Vec::new();
        while got.len() < 2 {
            jobs.recv_many(&mut got, 2).unwrap();
        }
        go.wait();
        for _ in &got {
            std::thread::sleep(ms(30));
            jobs.task_done().unwrap();
        }
        got
    };
    let arguments = (jobs.clone(), go.clone());
    let task = pool.apply_async(work, arguments).unwrap();
    block_on(async {
        assert!(timeout(ms(5), task.wait_async()).await.is_err());
        assert!(timeout(ms(5), jobs.join_async()).await.is_err());
        go.set();
        jobs.join_async().await.unwrap();
        task.wait_async().await.unwrap();
        assert!(task.is_ready());
        assert_eq!(task.get_async().await.unwrap(), [1, 2]);

        let mut batch = Vec::new();
        assert!(
            timeout(ms(5), jobs.recv_many_async(&mut batch, 3))
                .await
                .is_err()
        );
        jobs.send_many(0..5).unwrap();
        assert_eq!(jobs.recv_many_async(&mut batch, 3).await.unwrap(), 3);
        assert_eq!(jobs.recv_many_async(&mut batch, 30).await.unwrap(), 2);
        assert_eq!(batch, [0, 1, 2, 3, 4]);
        jobs.close();
        assert!(
            jobs.recv_many_async(&mut batch, 1)
                .await
                .unwrap_err()
                .is_closed()
        );
    });
}

#[procession::test]
fn pipes_are_awaited_and_the_death_at_their_other_end() {
    let _watched = watched();
    let (there, from_here) = procession::duplex::<u32, String>().unwrap();
    let peer = |peer: procession::Connection<String, u32>| {
        for number in peer.iter() {
            peer.send("x".repeat(number as usize)).unwrap();
        }
    };
    let process = Process::spawn(peer, from_here).unwrap();
    block_on(async {
        for number in 0..10 {
            there.send_async(number).await.unwrap();
            assert_eq!(there.recv_async().await.unwrap().len(), number as usize);
        }
        // Given up, and nothing is lost.
        assert!(timeout(ms(5), there.recv_async()).await.is_err());
        there.send_async(3).await.unwrap();
        assert_eq!(there.recv_async().await.unwrap(), "xxx");
        let (ended, ()) = tokio::join!(there.recv_async(), async {
            tokio::time::sleep(ms(10)).await;
            process.kill().unwrap();
        });
        assert!(ended.unwrap_err().is_closed());
        let refused = until(ms(20_000), || there.try_send(1).err()).unwrap();
        assert!(refused.is_closed());
        assert!(there.send_async(1).await.unwrap_err().is_closed());
        process.wait_async().await.unwrap();
    });
}

#[procession::test]
fn results_of_a_pool_are_awaited_as_they_come() {
    let _watched = watched();
    let pool = Pool::new(2).unwrap();
    let work = |x: u64| {
        if x == 7 {
            std::process::abort();
        }
        std::thread::sleep(ms(x % 3));
        x * x
    };
    block_on(async {
        let mut ordered = pool.imap(work, 0..40).unwrap();
        let mut any = pool.imap_unordered(work, 100..140).unwrap();
        let (mut at, mut sum) = (0, 0);
        let both = async {
            while let Some(result) = ordered.next_async().await {
                match result {
                    Ok(square) => assert_eq!(square, at * at),
                    Err(error) => assert!(at == 7 && error.is_worker_lost(), "{at}: {error}"),
                }
                at += 1;
            }
        };
        let other = async {
            loop {
                // Given up again and again, and none is lost.
                match timeout(ms(1), any.next_async()).await {
                    Ok(Some(square)) => sum += square.unwrap(),
                    Ok(None) => break,
                    Err(_) => {}
                }
            }
        };
        tokio::join!(both, other);
        assert_eq!((at, sum), (40, (100..140).map(|x: u64| x * x).sum()));
    });
    pool.join().unwrap();
}
