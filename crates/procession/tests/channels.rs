//! Queues and pipes between processes, and what becomes of them when a process dies.

mod support;

use std::time::Instant;

use procession::{
    Bytes, Connection, Event, Lock, Pool, Process, Queue, Receiver, Sender, StartMethod,
};
use serde::{Deserialize, Serialize};
use support::{METHODS, ms, until, watched};

#[procession::test]
fn values_go_through_a_queue_in_order_and_once() {
    let _watched = watched();
    for method in METHODS {
        let queue = Queue::bounded(8).unwrap();
        let producer = Process::builder().start_method(method).spawn(
            |queue: Queue<(u32, String)>| {
                for number in 0..500 {
                    queue.send((number, format!("value {number}"))).unwrap();
                }
            },
            queue.clone(),
        );
        for number in 0..500 {
            assert_eq!(
                queue.recv_timeout(ms(20_000)).unwrap(),
                (number, format!("value {number}"))
            );
        }
        producer.unwrap().join().unwrap();
        assert!(queue.is_empty());
    }
}

#[procession::test]
fn many_senders_and_receivers_lose_nothing() {
    let _watched = watched();
    let (work, sums) = (Queue::unbounded().unwrap(), Queue::unbounded().unwrap());
    let receivers: Vec<_> = (0..2)
        .map(|_| {
            let receive =
                |work: Queue<u64>, sums: Queue<u64>| sums.send(work.iter().sum()).unwrap();
            Process::spawn(receive, (work.clone(), sums.clone())).unwrap()
        })
        .collect();
    let senders: Vec<_> = (0..3)
        .map(|_| {
            Process::spawn(
                |work: Queue<u64>| (1..=1000).for_each(|n| work.send(n).unwrap()),
                work.clone(),
            )
            .unwrap()
        })
        .collect();
    for sender in senders {
        sender.join().unwrap();
    }
    work.close();
    for receiver in receivers {
        receiver.join().unwrap();
    }
    assert_eq!(sums.try_iter().sum::<u64>(), 3 * 500_500);
}

#[procession::test]
fn a_queue_that_is_full_empty_or_closed_says_so() {
    let _watched = watched();
    let queue = Queue::bounded(2).unwrap();
    assert_eq!((queue.capacity(), queue.len()), (Some(2), 0));
    assert!(queue.try_recv().unwrap_err().is_empty());
    assert!(queue.recv_timeout(ms(10)).unwrap_err().is_timeout());
    queue.send("one".to_owned()).unwrap();
    queue.send("two".to_owned()).unwrap();
    assert!(queue.is_full());
    let error = queue.try_send("three".to_owned()).unwrap_err();
    assert!(error.is_full() && !error.is_closed());
    assert_eq!(error.into_inner(), "three");
    assert!(
        queue
            .send_timeout("three".to_owned(), ms(10))
            .unwrap_err()
            .is_full()
    );
    queue.close();
    assert!(queue.send("four".to_owned()).unwrap_err().is_closed());
    assert_eq!(queue.iter().collect::<Vec<_>>(), ["one", "two"]);
    assert!(queue.recv().unwrap_err().is_closed());
    assert!(Queue::<u32>::bounded(0).is_err());
}

#[procession::test]
fn a_value_is_there_when_its_sender_has_ended() {
    let _watched = watched();
    let queue = Queue::unbounded().unwrap();
    let sender = Process::spawn(
        |queue: Queue<Bytes>| -> () {
            queue.send(Bytes::from(vec![5; 10_000_000])).unwrap();
            // Nothing runs after this.
            std::process::abort();
        },
        queue.clone(),
    );
    assert_eq!(sender.unwrap().wait().signal(), Some(6));
    let bytes = queue.try_recv().unwrap();
    assert!(bytes.len() == 10_000_000 && bytes.iter().all(|&byte| byte == 5));
}

#[procession::test]
fn a_sender_killed_at_any_moment_leaves_whole_values() {
    let _watched = watched();
    for round in 0..10 {
        let queue = Queue::unbounded().unwrap();
        let sender = Process::spawn(
            |queue: Queue<Vec<u64>>| {
                for length in 0.. {
                    queue.send((0..length % 300).collect()).unwrap();
                }
            },
            queue.clone(),
        );
        let sender = sender.unwrap();
        for length in 0..20 + round {
            assert_eq!(queue.recv_timeout(ms(20_000)).unwrap().len() as u64, length);
        }
        sender.kill().unwrap();
        sender.wait();
        let rest: Vec<usize> = queue
            .try_iter()
            .map(|value: Vec<u64>| value.len())
            .collect();
        assert!(
            rest.iter()
                .enumerate()
                .all(|(i, &length)| length == (i + 20 + round as usize) % 300)
        );
        queue.send(vec![1, 2]).unwrap();
        assert_eq!(queue.recv().unwrap(), [1, 2]);
    }
}

#[derive(Serialize, Deserialize)]
struct Parcel {
    lock: Lock<u32>,
    queue: Queue<Parcel>,
    reply: Option<Sender<u32>>,
}

#[procession::test]
fn handles_travel_in_arguments_messages_results_and_values() {
    let _watched = watched();
    for method in METHODS {
        let outer = Queue::<Parcel>::unbounded().unwrap();
        let process = Process::builder().start_method(method).spawn(
            |outer: Queue<Parcel>| {
                let parcel = outer.recv().unwrap();
                *parcel.lock.lock().unwrap() += 1;
                parcel.reply.unwrap().send(7).unwrap();
                // On to whoever reads there, with a queue of this process's own.
                let made_here = Queue::unbounded().unwrap();
                parcel
                    .queue
                    .send(Parcel {
                        lock: parcel.lock,
                        queue: made_here.clone(),
                        reply: None,
                    })
                    .unwrap();
                made_here
            },
            outer.clone(),
        );
        let process = process.unwrap();
        let (lock, inner) = (Lock::new(41).unwrap(), Queue::unbounded().unwrap());
        let (sender, receiver) = procession::pipe().unwrap();
        // The only names for these are in the message for a while.
        outer
            .send(Parcel {
                lock,
                queue: inner.clone(),
                reply: Some(sender),
            })
            .unwrap();
        assert_eq!(receiver.recv().unwrap(), 7);
        assert!(
            receiver.recv_timeout(ms(20_000)).unwrap_err().is_closed(),
            "its only sender is gone"
        );
        let parcel = inner.recv().unwrap();
        assert_eq!(*parcel.lock.lock().unwrap(), 42);
        let made_there = process.join().unwrap();
        made_there
            .send(Parcel {
                lock: parcel.lock,
                queue: inner,
                reply: None,
            })
            .unwrap();
        assert_eq!(*parcel.queue.recv().unwrap().lock.lock().unwrap(), 42);
    }
}

#[procession::test]
fn a_handle_means_nothing_outside_of_messages() {
    let _watched = watched();
    let queue = Queue::<u32>::unbounded().unwrap();
    assert!(postcard::to_stdvec(&queue).is_err());
    assert!(postcard::from_bytes::<Queue<u32>>(&[0; 16]).is_err());
}

#[procession::test]
fn the_end_of_all_senders_is_the_end_of_a_pipe() {
    let _watched = watched();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let (sender, receiver) = procession::pipe().unwrap();
        let (_never, stay) = procession::pipe().unwrap();
        let process = Process::builder().start_method(method).spawn(
            |sender: Sender<u32>, stay: Receiver<()>| {
                (1..=3).for_each(|number| sender.send(number).unwrap());
                drop(sender);
                // The process lives on; its end of the pipe does not.
                stay.recv().unwrap();
            },
            (sender, stay),
        );
        let process = process.unwrap();
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(receiver.try_recv().unwrap_err().is_closed());
        assert!(process.is_alive());
        process.kill().unwrap();
        process.wait();
    }
}

#[procession::test]
fn the_death_of_the_last_sender_ends_a_pipe() {
    let _watched = watched();
    for method in METHODS {
        let (sender, receiver) = procession::pipe::<u32>().unwrap();
        let process = Process::builder().start_method(method).spawn(
            |sender: Sender<u32>| {
                sender.send(1).unwrap();
                std::thread::sleep(ms(60_000));
            },
            sender,
        );
        let process = process.unwrap();
        assert_eq!(receiver.recv().unwrap(), 1);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(ms(50));
            process.kill().unwrap();
            // Nobody has waited for it yet.
            process
        });
        let began = Instant::now();
        assert!(receiver.recv().unwrap_err().is_closed(), "{method:?}");
        assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
        drop(killer.join().unwrap());
    }
}

#[procession::test]
fn the_death_of_a_sender_before_it_has_its_arguments_ends_a_pipe() {
    let _watched = watched();
    for method in METHODS {
        let (sender, receiver) = procession::pipe::<u32>().unwrap();
        let dies = || -> Result<(), String> { std::process::abort() };
        let producer = Process::builder()
            .start_method(method)
            .setup(dies, ())
            .spawn(|sender: Sender<u32>| sender.send(1).unwrap(), sender)
            .unwrap();
        // The parent of the dead one waits for another, and does not look.
        let mut consumer = Process::spawn(
            |receiver: Receiver<u32>| receiver.recv().unwrap_err().is_closed(),
            receiver,
        )
        .unwrap();
        let heard = consumer.join_timeout(ms(20_000)).unwrap();
        assert_eq!(heard, Some(true), "{method:?}");
        assert_eq!(producer.wait().signal(), Some(6));
    }
}

#[procession::test]
fn the_death_of_somebody_elses_child_ends_a_pipe() {
    let _watched = watched();
    let (sender, receiver) = procession::pipe::<u32>().unwrap();
    let parent = Process::spawn(
        |sender: Sender<u32>| {
            let child = Process::spawn(
                |sender: Sender<u32>| {
                    sender.send(std::process::id()).unwrap();
                    std::thread::sleep(ms(60_000));
                },
                sender,
            );
            // Never looked at again.
            std::mem::forget(child.unwrap());
            std::thread::sleep(ms(60_000));
        },
        sender,
    );
    let parent = parent.unwrap();
    let child = receiver.recv().unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-9", &child.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let began = Instant::now();
    assert!(receiver.recv_timeout(ms(20_000)).unwrap_err().is_closed());
    assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
    parent.kill().unwrap();
    parent.wait();
}

#[procession::test]
fn who_never_waits_learns_of_the_death_too() {
    let _watched = watched();
    let (here, there) = procession::duplex::<u32, u32>().unwrap();
    let parent = Process::spawn(
        |there: procession::Connection<u32, u32>| {
            let child = Process::spawn(
                |there: procession::Connection<u32, u32>| {
                    there.send(std::process::id()).unwrap();
                    std::thread::sleep(ms(60_000));
                },
                there,
            );
            // Never looked at again.
            std::mem::forget(child.unwrap());
            std::thread::sleep(ms(60_000));
        },
        there,
    );
    let parent = parent.unwrap();
    let child = here.recv().unwrap();
    let (sender, receiver) = here.split();
    sender.try_send(1).unwrap();
    assert!(receiver.try_recv().unwrap_err().is_empty());
    let killed = std::process::Command::new("kill")
        .args(["-9", &child.to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let refused = until(ms(20_000), || sender.try_send(1).err()).unwrap();
    assert!(refused.is_closed());
    let end = until(ms(20_000), || {
        receiver.try_recv().err().filter(|error| !error.is_empty())
    });
    assert!(end.unwrap().is_closed());
    parent.kill().unwrap();
    parent.wait();
}

#[procession::test]
fn sending_to_nobody_is_an_error() {
    let _watched = watched();
    let (sender, receiver) = procession::pipe().unwrap();
    drop(receiver);
    let error = sender.send(5_u32).unwrap_err();
    assert!(error.is_closed());
    assert_eq!(error.into_inner(), 5);

    // Also for one who waits for room.
    let (sender, receiver) = procession::pipe::<u32>().unwrap();
    let ready = Event::new().unwrap();
    let process = Process::spawn(
        |receiver: Receiver<u32>, ready: Event| {
            ready.set();
            std::thread::sleep(ms(60_000));
            drop(receiver);
        },
        (receiver, ready.clone()),
    );
    let process = process.unwrap();
    ready.wait();
    while sender.try_send(1).is_ok() {}
    assert!(sender.send_timeout(1, ms(20)).unwrap_err().is_full());
    process.kill().unwrap();
    let began = Instant::now();
    assert!(sender.send(1).unwrap_err().is_closed());
    assert!(began.elapsed() < ms(20_000), "{:?}", began.elapsed());
}

#[procession::test]
fn an_end_on_its_way_counts_as_there() {
    let _watched = watched();
    let (sender, receiver) = procession::pipe().unwrap();
    let post = Queue::unbounded().unwrap();
    post.send(sender).unwrap();
    assert!(receiver.recv_timeout(ms(200)).unwrap_err().is_timeout());
    let sender: Sender<u32> = post.recv().unwrap();
    sender.send(3).unwrap();
    post.send(sender).unwrap();
    drop(post);
    assert_eq!(receiver.recv().unwrap(), 3);
    assert!(
        receiver.recv().unwrap_err().is_closed(),
        "the message was dropped with its queue"
    );
}

#[procession::test]
fn a_conversation_has_two_directions() {
    let _watched = watched();
    let (here, there) = procession::duplex::<String, usize>().unwrap();
    let process = Process::spawn(
        |peer: Connection<usize, String>| {
            peer.iter()
                .map(|text| peer.send(text.len()).unwrap())
                .count()
        },
        there,
    );
    for text in ["a", "bc", ""] {
        here.send(text.to_owned()).unwrap();
        assert_eq!(here.recv().unwrap(), text.len());
    }
    assert!(here.try_recv().unwrap_err().is_empty());
    let (sender, receiver) = here.split();
    drop(sender);
    assert_eq!(process.unwrap().join().unwrap(), 3);
    assert!(receiver.recv().unwrap_err().is_closed());
}

#[procession::test]
fn pipe_ends_in_tasks_of_a_pool_are_gone_when_the_task_drops_them() {
    let _watched = watched();
    let go = Event::new().unwrap();
    let pool = Pool::new(1).unwrap();
    let (sender, receiver) = procession::pipe().unwrap();
    let task = pool.apply_async(
        |sender: Sender<u32>, go: Event| {
            sender.send(1).unwrap();
            drop(sender);
            go.wait();
        },
        (sender, go.clone()),
    );
    // Ends while the task runs.
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [1]);
    go.set();
    task.unwrap().get().unwrap();
}

#[procession::test]
fn what_cannot_be_read_is_an_error_and_the_next_value_can() {
    let _watched = watched();
    #[derive(Serialize, Debug)]
    struct Odd(u32);
    impl<'de> Deserialize<'de> for Odd {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
            let number = u32::deserialize(deserializer)?;
            if number % 2 == 1 {
                Ok(Odd(number))
            } else {
                Err(serde::de::Error::custom("even"))
            }
        }
    }
    let queue = Queue::unbounded().unwrap();
    queue.send(Odd(2)).unwrap();
    queue.send(Odd(3)).unwrap();
    let error = queue.recv().unwrap_err();
    assert!(
        error.is_serialisation() && error.to_string().contains("Odd"),
        "{error}"
    );
    assert_eq!(queue.recv().unwrap().0, 3);
}

#[procession::test]
fn values_go_in_batches_and_nobody_gets_one_twice() {
    const EACH: u32 = 3000;
    let _watched = watched();
    let queue = Queue::bounded(100).unwrap();
    let senders: Vec<_> = (0..2)
        .map(|sender| {
            let send = |queue: Queue<(u32, u32)>, sender: u32| {
                let values = (0..EACH).map(|number| (sender, number));
                queue.send_many(values).unwrap()
            };
            Process::spawn(send, (queue.clone(), sender)).unwrap()
        })
        .collect();
    let receiver = |queue: Queue<(u32, u32)>| {
        let (mut all, mut largest) = (Vec::new(), 0);
        while let Ok(received) = queue.recv_many(&mut all, 40) {
            assert!((1..=40).contains(&received));
            largest = largest.max(received);
        }
        (all, largest)
    };
    let receivers = [(); 2].map(|()| Process::spawn(receiver, queue.clone()).unwrap());
    for sender in senders {
        assert_eq!(sender.join().unwrap(), EACH as usize);
    }
    queue.close();
    let mut all = Vec::new();
    for receiver in receivers {
        let (got, largest) = receiver.join().unwrap();
        assert!(largest <= 40);
        for sender in 0..2 {
            assert!(got.iter().filter(|(of, _)| *of == sender).is_sorted());
        }
        all.extend(got);
    }
    all.sort_unstable();
    let sent = (0..2).flat_map(|sender| (0..EACH).map(move |number| (sender, number)));
    assert!(all.into_iter().eq(sent));
}

#[procession::test]
fn a_batch_that_ends_early_says_where() {
    let _watched = watched();
    let queue = Queue::bounded(10).unwrap();
    let mut batch = vec![7];
    queue.send_many(0..5).unwrap();
    assert_eq!(queue.recv_many(&mut batch, 0).unwrap(), 0);
    assert_eq!(queue.recv_many(&mut batch, 3).unwrap(), 3);
    assert_eq!(queue.recv_many(&mut batch, 100).unwrap(), 2);
    assert_eq!(batch, [7, 0, 1, 2, 3, 4]);
    queue.close();
    assert!(queue.recv_many(&mut batch, 1).unwrap_err().is_closed());
    let mut values = 5..9;
    let error = queue.send_many(values.by_ref()).unwrap_err();
    assert!(error.is_closed());
    assert_eq!((error.into_inner(), values), (5, 6..9));

    let (sender, receiver) = procession::pipe::<u32>().unwrap();
    let fill = |sender: Sender<u32>| -> () {
        sender.send_many(0..2000).unwrap();
        std::process::abort()
    };
    let filler = Process::spawn(fill, sender).unwrap();
    let mut got = Vec::new();
    let end = loop {
        match receiver.recv_many(&mut got, 64) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(end.is_closed(), "{end}");
    assert!(
        got.into_iter().eq(0..2000),
        "what was sent before its sender died is there"
    );
    assert!(filler.join().unwrap_err().is_signal());
}

/// Killed in the middle of a batch: some of the first values are there, whole and in order, and none of
/// the rest.
#[procession::test]
fn a_sender_of_many_killed_at_any_moment_has_sent_the_first_of_them() {
    let _watched = watched();
    for round in 0..12_u64 {
        let queue = Queue::unbounded().unwrap();
        let began = Event::new().unwrap();
        let send = |queue: Queue<(u64, String)>, began: Event| -> usize {
            began.set();
            let values = (0..).map(|number: u64| (number, "x".repeat((number % 90) as usize)));
            queue.send_many(values).unwrap()
        };
        let sender = Process::spawn(send, (queue.clone(), began.clone())).unwrap();
        began.wait();
        std::thread::sleep(std::time::Duration::from_micros(round * 300));
        sender.kill().unwrap();
        sender.wait();
        queue.close();
        let mut got = Vec::new();
        while queue.recv_many(&mut got, 1000).is_ok() {}
        for (at, (number, text)) in got.iter().enumerate() {
            assert_eq!((*number, text.len()), (at as u64, at % 90));
        }
    }
}
