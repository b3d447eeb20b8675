//! What dies, and what the others see: each row of the table has a test, most of them beside the other
//! tests of the thing in question.
//!
//! | what dies | test |
//! | --- | --- |
//! | a pool's worker with a task | `pool::a_worker_that_dies_fails_its_task_alone`, `pool::a_worker_killed_from_outside_is_noticed_at_once`; tried again: `pool_outcomes::tasks_are_tried_again_by_every_start_method` |
//! | an idle worker | `pool::a_worker_killed_while_idle_costs_nothing`; at each instruction: `pool_crash_points` of the engine |
//! | a worker at its start, again and again | `pool::an_initializer_that_fails_breaks_the_pool_with_its_reason` |
//! | the holder of a lock | `sync::the_lock_of_a_killed_holder_comes_with_a_warning`, `sync::who_waits_for_a_lock_is_woken_by_the_death_of_its_holder`, `rwlock::a_killed_writer_is_told_of_to_readers_and_writers`, `shared::plain_data_of_a_killed_holder_come_with_a_warning_and_half_changed` |
//! | the holder of a recursive lock | `the_holder_of_a_recursive_lock`, below |
//! | the holder of a permit | `sync::permits_of_the_dead_come_back_in_a_bounded_semaphore` |
//! | a sender in the middle of a value | `channels::a_sender_killed_at_any_moment_leaves_whole_values` |
//! | a receiver in the middle of a value | `a_receiver_in_the_middle_of_values`, below |
//! | the last sender of a pipe, its last receiver | `channels::the_death_of_the_last_sender_ends_a_pipe`, `the_last_receiver_of_a_pipe`, below |
//! | a party to a barrier | `sync::a_barrier_has_one_leader_and_breaks_when_a_party_dies` |
//! | the fork server | `the_fork_server`, below |
//! | the parent | `process::a_daemon_dies_with_its_parent_and_others_do_not`, `pool::workers_die_with_their_parent` |

mod support;

use procession::{Cause, Event, Process, Queue, RLock, Receiver};
use support::{ms, until, watched};

fn sleep() {
    std::thread::sleep(ms(60_000));
}

#[procession::test]
fn the_holder_of_a_recursive_lock() {
    let _watched = watched();
    let lock = RLock::new().unwrap();
    let held = Event::new().unwrap();
    let hold = |lock: RLock, held: Event| {
        let _twice = (lock.lock(), lock.lock());
        held.set();
        sleep();
    };
    let holder = Process::spawn(hold, (lock.clone(), held.clone())).unwrap();
    held.wait();
    holder.kill().unwrap();
    let poisoned = lock.lock().unwrap_err();
    assert_eq!(poisoned.cause(), Cause::Died { pid: holder.pid() });
    drop(poisoned.into_inner());
    holder.wait();
}

#[procession::test]
fn a_receiver_in_the_middle_of_values() {
    const COUNT: u64 = 20_000;
    let _watched = watched();
    let values = Queue::<u64>::unbounded().unwrap();
    (0..COUNT).for_each(|value| values.send(value).unwrap());
    let seen = Queue::<u64>::unbounded().unwrap();
    let take = |values: Queue<u64>, seen: Queue<u64>| {
        for value in values.iter() {
            seen.send(value).unwrap();
        }
    };
    const ROUNDS: u64 = 10;
    for round in 0..ROUNDS {
        let receiver = Process::spawn(take, (values.clone(), seen.clone())).unwrap();
        std::thread::sleep(ms(round % 4));
        receiver.kill().unwrap();
        receiver.wait();
    }
    values.close();
    let rest: Vec<u64> = values.try_iter().collect();
    let taken: Vec<u64> = seen.try_iter().collect();
    let all = [taken, rest].concat();
    let in_order = all.is_sorted_by(|one, next| one < next);
    assert!(in_order, "nothing twice, nothing out of order");
    // A receiver that was killed had one value in its hands at most.
    assert!(all.len() as u64 >= COUNT - ROUNDS, "{}", all.len());
}

#[procession::test]
fn the_last_receiver_of_a_pipe() {
    let _watched = watched();
    let (sender, receiver) = procession::pipe::<u64>().unwrap();
    let taken = Queue::<u64>::unbounded().unwrap();
    let take = |receiver: Receiver<u64>, taken: Queue<u64>| {
        taken.send(receiver.recv().unwrap()).unwrap();
        sleep();
    };
    let process = Process::spawn(take, (receiver, taken.clone())).unwrap();
    sender.send(1).unwrap();
    assert_eq!(taken.recv_timeout(ms(20_000)).unwrap(), 1);
    process.kill().unwrap();
    process.wait();
    let refused = until(ms(20_000), || sender.send(2).err()).expect("nobody is there to read it");
    assert!(refused.is_closed());
}

/// The process id of this program's fork server.
fn fork_server() -> Option<u32> {
    let processes = std::fs::read_dir("/proc").expect("there is /proc");
    let me = std::process::id().to_string();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|&pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
            let mut rest = rest.split(' ');
            let is_running_child = rest.next() != Some("Z") && rest.next() == Some(&me);
            is_running_child
                && support::thread_names(pid)
                    .iter()
                    .any(|it| it == "fork server")
        })
}

#[procession::test]
fn the_fork_server() {
    let _watched = watched();
    assert_eq!(Process::spawn(|| 1, ()).unwrap().join().unwrap(), 1);
    let first = fork_server().expect("the first start made one");
    let process = Process::spawn(sleep, ()).unwrap();
    let pid = rustix::process::Pid::from_raw(first as i32).expect("is not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until(ms(20_000), || (fork_server() != Some(first)).then_some(())).expect("it dies");
    assert!(process.is_alive(), "what it has started goes on");
    process.kill().unwrap();
    assert_eq!(Process::spawn(|| 2, ()).unwrap().join().unwrap(), 2);
    assert!(fork_server().is_some_and(|second| second != first));
    assert!(!process.is_alive() || process.wait_timeout(ms(20_000)).is_some());
}
