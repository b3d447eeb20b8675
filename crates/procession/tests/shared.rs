//! Plain data in shared memory, and what becomes of it when a process dies.

mod support;

use procession::bytemuck::{Pod, Zeroable};
use procession::{
    Cause, Chunk, Error, Event, Lock, PlainLock, Pool, Process, Queue, SharedCells, SharedSlice,
    SharedVec, StartMethod, TryLockError,
};
use support::{ms, objects, watched};

#[derive(Debug, Clone, Copy, PartialEq, Default, Pod, Zeroable)]
#[bytemuck(crate = "procession::bytemuck")]
#[repr(C)]
struct Particle {
    position: [f64; 3],
    kind: u32,
    flags: [u8; 4],
}

#[procession::test]
fn a_frozen_array_is_read_in_place_wherever_it_goes() {
    let _watched = watched();
    let mut particles = SharedVec::zeroed(3).unwrap();
    particles[2] = Particle {
        kind: 7,
        ..Particle::default()
    };
    let particles = particles.freeze();
    // By arguments and results.
    let (same, kind) = Process::spawn(
        |particles: SharedSlice<Particle>| {
            let kind = particles[2].kind;
            (particles, kind)
        },
        particles.clone(),
    )
    .unwrap()
    .join()
    .unwrap();
    assert_eq!(kind, 7);
    assert_eq!(same.as_ptr(), particles.as_ptr(), "the memory itself");
    // Made by another process that has ended since, through a queue, a pipe, a lock and a pool.
    let queue = Queue::unbounded().unwrap();
    let (sender, receiver) = procession::pipe().unwrap();
    let lock = Lock::new(None).unwrap();
    Process::spawn(
        |queue: Queue<SharedSlice<u16>>,
         sender: procession::Sender<Vec<SharedSlice<u16>>>,
         lock: Lock<Option<SharedSlice<u16>>>| {
            let one = SharedSlice::from_slice(&[1, 2, 3]).unwrap();
            queue.send(one.clone()).unwrap();
            sender.send(vec![one.clone(), one.clone()]).unwrap();
            *lock.lock().unwrap() = Some(one);
        },
        (queue.clone(), sender, lock.clone()),
    )
    .unwrap()
    .join()
    .unwrap();
    let one = queue.recv().unwrap();
    let two = receiver.recv().unwrap();
    assert_eq!((&*one, &*two[1]), (&[1, 2, 3][..], &[1, 2, 3][..]));
    assert_eq!(
        one.as_ptr(),
        lock.lock().unwrap().as_ref().unwrap().as_ptr()
    );
    let pool = Pool::new(1).unwrap();
    let made: Vec<SharedSlice<u32>> = pool
        .map(|n: u32| SharedSlice::from_slice(&[n, n + 1]).unwrap(), 0..3)
        .unwrap();
    assert_eq!(
        made.iter().map(|slice| slice[1]).collect::<Vec<_>>(),
        [1, 2, 3]
    );
}

fn fill(chunk: Chunk<u32>) {
    let range = chunk.range();
    for (number, into) in range.zip(chunk.lock().unwrap().iter_mut()) {
        *into = number as u32;
    }
}

#[procession::test]
fn workers_fill_the_chunks_of_an_array() {
    let _watched = watched();
    let chunks = SharedVec::<u32>::zeroed(10_007).unwrap().split(7).unwrap();
    assert_eq!(chunks.get(6).unwrap().range(), 8578..10_007);
    let pool = Pool::new(2).unwrap();
    pool.map(fill, chunks.iter()).unwrap();
    drop(pool);
    let all = chunks.lock_all().unwrap();
    assert!(
        all.iter()
            .enumerate()
            .all(|(at, &number)| at as u32 == number)
    );
    // All of them are held.
    assert!(matches!(
        chunks.get(3).unwrap().try_lock(),
        Err(TryLockError::Locked)
    ));
    let mut vec = all.into_vec();
    vec[0] = 5;
    let rows = vec.split_every(5000).unwrap();
    let lengths: Vec<usize> = rows.iter().map(|row| row.range().len()).collect();
    assert_eq!(lengths, [5000, 5000, 7]);
    assert_eq!(rows.lock_all().unwrap().freeze()[..2], [5, 1]);
}

#[procession::test]
fn a_chunk_of_an_array_that_was_frozen_can_not_be_taken() {
    let _watched = watched();
    let chunks = SharedVec::<u32>::zeroed(8).unwrap().split(2).unwrap();
    let (go, ready) = (Event::new().unwrap(), Event::new().unwrap());
    let late = Process::spawn(
        |chunk: Chunk<u32>, go: Event, ready: Event| {
            ready.set();
            go.wait();
            chunk.lock().unwrap()[0] = 9;
        },
        (chunks.get(1).unwrap(), go.clone(), ready.clone()),
    )
    .unwrap();
    ready.wait();
    let frozen = chunks.lock_all().unwrap().freeze();
    go.set();
    let error = late.join().unwrap_err();
    let panic = error.panic().expect("it panics");
    assert!(panic.to_string().contains("no longer in chunks"), "{panic}");
    assert_eq!(*frozen, [0; 8]);
    // Nor can it be opened again as what it was.
    let probe = Process::spawn(|chunk: Chunk<u32>| chunk.index(), chunks.get(0).unwrap());
    assert!(probe.unwrap().join().is_err());
}

#[procession::test]
fn a_plain_lock_keeps_processes_apart_and_its_data_in_place() {
    let _watched = watched();
    let lock = PlainLock::new(Particle::default()).unwrap();
    let row = SharedVec::<u64>::zeroed(1000).unwrap().into_lock().unwrap();
    let processes: Vec<_> = (0..4)
        .map(|_| {
            Process::spawn(
                |lock: PlainLock<Particle>, row: PlainLock<[u64]>| {
                    for _ in 0..1000 {
                        let mut held = lock.lock().unwrap();
                        held.position[1] += 1.0;
                        held.kind += 1;
                        row.lock()
                            .unwrap()
                            .iter_mut()
                            .for_each(|number| *number += 1);
                    }
                },
                (lock.clone(), row.clone()),
            )
            .unwrap()
        })
        .collect();
    for process in processes {
        process.join().unwrap();
    }
    let held = lock.lock().unwrap();
    assert_eq!((held.position[1], held.kind), (4000.0, 4000));
    assert!(row.lock().unwrap().iter().all(|&number| number == 4000));
    assert_eq!(lock.owner().unwrap().pid(), std::process::id());
    assert!(matches!(
        lock.lock_timeout(ms(10)),
        Err(TryLockError::Locked)
    ));
}

/// Keeps its process from ending for a while, after all that Procession does at the end.
struct LongEnd;

impl Drop for LongEnd {
    fn drop(&mut self) {
        std::thread::sleep(ms(400));
    }
}

thread_local! {
    static END: std::cell::RefCell<Option<LongEnd>> = const { std::cell::RefCell::new(None) };
}

fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    }) || !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[procession::test]
fn what_a_thread_holds_when_main_returns_is_nobody_elses_before_the_process_is_gone() {
    let _watched = watched();
    for method in support::METHODS {
        let chunks = SharedVec::<u64>::zeroed(2).unwrap().split(2).unwrap();
        let (lock, plain) = (Lock::new(0_u64).unwrap(), PlainLock::new(0_u64).unwrap());
        let held = Event::new().unwrap();
        let holder = Process::builder()
            .start_method(method)
            .spawn(
                |chunk: Chunk<u64>, lock: Lock<u64>, plain: PlainLock<u64>, held: Event| {
                    let taken = held.clone();
                    std::thread::spawn(move || {
                        let (mut chunk, mut plain) = (chunk.lock().unwrap(), plain.lock().unwrap());
                        let _lock = lock.lock().unwrap();
                        taken.set();
                        loop {
                            chunk[0] += 1;
                            *plain += 1;
                        }
                    });
                    held.wait();
                    END.with_borrow_mut(|end| *end = Some(LongEnd));
                },
                (
                    chunks.get(1).unwrap(),
                    lock.clone(),
                    plain.clone(),
                    held.clone(),
                ),
            )
            .unwrap();
        held.wait();
        let pid = holder.pid();
        std::thread::scope(|scope| {
            let died = Cause::Died { pid };
            scope.spawn(move || {
                let poisoned = chunks.get(1).unwrap().lock().map(drop).unwrap_err().cause();
                assert!(has_ended(pid), "the chunk while {pid} runs");
                assert_eq!(poisoned, died);
            });
            scope.spawn(move || {
                let poisoned = plain.lock().map(drop).unwrap_err().cause();
                assert!(has_ended(pid), "the plain lock while {pid} runs");
                assert_eq!(poisoned, died);
            });
            scope.spawn(move || {
                let _now = lock.lock();
                assert!(has_ended(pid), "the lock while {pid} runs");
            });
        });
        holder.join().unwrap();
    }
}

#[procession::test]
fn plain_data_of_a_killed_holder_come_with_a_warning_and_half_changed() {
    let _watched = watched();
    let chunks = SharedVec::<u32>::zeroed(6).unwrap().split(3).unwrap();
    let held = Event::new().unwrap();
    let holder = Process::spawn(
        |chunk: Chunk<u32>, held: Event| {
            let mut guard = chunk.lock().unwrap();
            guard[0] = 1;
            held.set();
            std::thread::sleep(ms(60_000));
            guard[1] = 1;
        },
        (chunks.get(1).unwrap(), held.clone()),
    )
    .unwrap();
    held.wait();
    holder.kill().unwrap();
    let pid = holder.pid();
    drop(
        chunks
            .get(0)
            .unwrap()
            .lock()
            .expect("another chunk is in order"),
    );
    let poisoned = chunks.lock_all().unwrap_err();
    assert_eq!(poisoned.cause(), Cause::Died { pid });
    drop(poisoned);
    let error = Error::from(chunks.get(1).unwrap().lock().unwrap_err());
    assert!(error.is_poisoned(), "{error}");
    let mut all = chunks.lock_all().unwrap_err().into_inner();
    assert_eq!(*all, [0, 0, 1, 0, 0, 0]);
    all[3] = 1;
    drop(all);
    assert_eq!(*chunks.lock_all().unwrap(), [0, 0, 1, 1, 0, 0]);
    // The same by a panic, and in this process.
    let lock = PlainLock::new(1_u8).unwrap();
    let same = lock.clone();
    let panicked = std::thread::spawn(move || {
        *same.lock().unwrap() = 2;
        let _held = same.lock().unwrap();
        panic!("while it holds the lock");
    });
    assert!(panicked.join().is_err());
    let poisoned = lock.lock().unwrap_err();
    assert!(matches!(poisoned.cause(), Cause::Panicked { .. }));
    assert_eq!(*poisoned.into_inner(), 2);
    drop(lock.lock().unwrap());
}

#[procession::test]
fn cells_are_never_torn() {
    let _watched = watched();
    let cells = SharedCells::<u64>::zeroed(64).unwrap();
    let stop = Event::new().unwrap();
    let writers: Vec<_> = [0x1111_1111_1111_1111_u64, u64::MAX]
        .into_iter()
        .map(|value| {
            Process::spawn(
                |cells: SharedCells<u64>, stop: Event, value: u64| {
                    while !stop.is_set() {
                        cells.write(0, &[value; 64]);
                    }
                },
                (cells.clone(), stop.clone(), value),
            )
            .unwrap()
        })
        .collect();
    for _ in 0..2000 {
        for value in cells.read(..) {
            assert!(
                [0, 0x1111_1111_1111_1111, u64::MAX].contains(&value),
                "{value:#x}"
            );
        }
    }
    stop.set();
    for writer in writers {
        writer.join().unwrap();
    }
    let particles = SharedCells::<Particle>::zeroed(2).unwrap();
    let one = Particle {
        position: [1.0, 2.0, 3.0],
        kind: 4,
        flags: [5; 4],
    };
    particles.set(1, one);
    assert_eq!(
        (particles.get(0), particles.get(1)),
        (Particle::default(), one)
    );
    let bytes = SharedCells::<[u8; 3]>::zeroed(5).unwrap();
    bytes.write(2, &[[1, 2, 3], [4, 5, 6]]);
    assert_eq!(bytes.read(1..4), [[0; 3], [1, 2, 3], [4, 5, 6]]);
    assert!(std::panic::catch_unwind(|| bytes.get(5)).is_err());
    assert!(bytes.read(5..).is_empty());
}

#[procession::test]
fn arrays_are_gone_with_their_last_user_however_it_ends() {
    let _watched = watched();
    let before = objects();
    let chunks = SharedVec::<u64>::zeroed(100_000).unwrap().split(4).unwrap();
    let ready = Event::new().unwrap();
    let users: Vec<_> = chunks
        .iter()
        .map(|chunk| {
            let user = Process::spawn(
                |chunk: Chunk<u64>, ready: Event| {
                    let _guard = chunk.lock();
                    let _own = SharedVec::<u8>::zeroed(5000).unwrap();
                    ready.set();
                    std::thread::sleep(ms(60_000));
                },
                (chunk, ready.clone()),
            )
            .unwrap();
            ready.wait();
            ready.clear();
            user
        })
        .collect();
    drop(chunks);
    for user in &users {
        user.kill().unwrap();
        user.wait();
    }
    drop((users, ready));
    let gone = support::until(ms(20_000), || {
        Process::spawn(|| (), ()).unwrap().join().unwrap();
        (objects() <= before).then_some(())
    });
    assert!(gone.is_ok(), "{} objects instead of {before}", objects());
}

#[procession::test]
fn what_one_process_has_for_itself_is_not_a_forked_childs() {
    static VEC: std::sync::Mutex<Option<SharedVec<u32>>> = std::sync::Mutex::new(None);
    let _watched = watched();
    *VEC.lock().unwrap() = Some(SharedVec::filled(4, 3).unwrap());
    let child = Process::builder()
        .start_method(StartMethod::Fork)
        .spawn(|| VEC.lock().unwrap().as_ref().unwrap()[0], ())
        .unwrap();
    let error = child.join().unwrap_err();
    assert!(
        error.panic().unwrap().to_string().contains("forked"),
        "{error}"
    );
    assert_eq!(VEC.lock().unwrap().take().unwrap()[0], 3);
}

#[procession::test]
fn mistakes_are_errors() {
    let _watched = watched();
    assert!(SharedVec::<u8>::zeroed(8).unwrap().split(0).is_err());
    assert!(SharedVec::<u8>::zeroed(8).unwrap().split_every(0).is_err());
    let error = SharedVec::<u64>::zeroed(usize::MAX / 4).unwrap_err();
    assert!(error.is_out_of_memory(), "{error}");
    let empty = SharedVec::<u64>::zeroed(0).unwrap();
    assert!(empty.is_empty());
    let chunks = empty.split(3).unwrap();
    assert!(chunks.lock_all().unwrap().freeze().is_empty());
}

#[cfg(feature = "ndarray")]
#[procession::test]
fn an_array_has_the_shapes_of_ndarray() {
    use ndarray::{Array2, s};
    use procession::ArrayViews;
    let _watched = watched();
    let matrix = Array2::from_shape_fn((4, 3), |(row, column)| (row * 10 + column) as f64);
    let rows = SharedVec::from_array(&matrix.t())
        .unwrap()
        .split_every(4)
        .unwrap();
    Process::spawn(
        |row: Chunk<f64>| {
            let mut row = row.lock().unwrap();
            row.array_view_mut((2, 2))
                .unwrap()
                .slice_mut(s![1, ..])
                .fill(-1.0);
        },
        rows.get(2).unwrap(),
    )
    .unwrap()
    .join()
    .unwrap();
    let shared = rows.lock_all().unwrap().freeze();
    let there = shared.array_view((3, 4)).unwrap();
    assert_eq!(there.row(1), matrix.column(1));
    assert_eq!(there.row(2).to_vec(), [2.0, 12.0, -1.0, -1.0]);
    assert!(shared.array_view((4, 4)).is_err());
}
