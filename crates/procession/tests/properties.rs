//! Channels and locks against a model: three processes do what proptest makes up, one step at a time,
//! some of them are killed with what they hold, and every answer is what the model says.

mod support;

use std::collections::VecDeque;

use procession::{
    Cause, Chunk, Connection, Event, Lock, LockGuard, OnceLock, Permit, PlainLock, PlainLockGuard,
    Process, Queue, ReadGuard, Receiver, RwLock, Semaphore, Sender, SharedCells, SharedVec,
    TryLockError, WriteGuard,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::{Deserialize, Serialize};
use support::watched;

const ACTORS: usize = 3;
const CAPACITY: usize = 3;
const PERMITS: usize = 2;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Step {
    QueueSend(u16),
    QueueRecv,
    PipeSend(u16),
    PipeRecv,
    /// Takes it; the value changes when it is released.
    Lock,
    Unlock,
    /// Takes it and changes the value at once, in place.
    PlainLock,
    PlainUnlock,
    ChunkLockAndChange,
    Read,
    Write,
    EndRead,
    EndWrite,
    Acquire,
    Give,
    Set,
    Clear,
    IsSet,
    MakeOnce(u16),
    CellsAdd,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Answer {
    Done,
    /// Somebody holds it, or there is nothing, or no room.
    No,
    Value(u32),
    /// The one before died.
    Poisoned(u32),
}

/// What the processes share.
#[derive(Clone, Serialize, Deserialize)]
struct Objects {
    queue: Queue<u16>,
    sender: Sender<u16>,
    receiver: Receiver<u16>,
    lock: Lock<u32>,
    plain: PlainLock<u32>,
    chunk: Chunk<u32>,
    rwlock: RwLock<u32>,
    semaphore: Semaphore,
    event: Event,
    once: OnceLock<u16>,
    cells: SharedCells<u32>,
}

#[derive(Default)]
struct Holding<'a> {
    lock: Option<LockGuard<'a, u32>>,
    plain: Option<PlainLockGuard<'a, u32>>,
    reading: Option<ReadGuard<'a, u32>>,
    writing: Option<WriteGuard<'a, u32>>,
    permits: Vec<Permit<'a>>,
}

fn taken<G>(
    result: Result<G, TryLockError<G>>,
    slot: &mut Option<G>,
    value: impl FnOnce(&mut G) -> u32,
) -> Answer {
    match result {
        Ok(mut guard) => {
            let value = value(&mut guard);
            *slot = Some(guard);
            Answer::Value(value)
        }
        Err(TryLockError::Poisoned(poisoned)) => {
            assert!(matches!(poisoned.cause(), Cause::Died { .. }));
            let mut guard = poisoned.into_inner();
            let value = value(&mut guard);
            *slot = Some(guard);
            Answer::Poisoned(value)
        }
        Err(TryLockError::Locked) => Answer::No,
    }
}

fn act<'a>(objects: &'a Objects, holding: &mut Holding<'a>, step: Step) -> Answer {
    let done = |ok: bool| if ok { Answer::Done } else { Answer::No };
    match step {
        Step::QueueSend(value) => done(objects.queue.try_send(value).is_ok()),
        Step::QueueRecv => objects
            .queue
            .try_recv()
            .map_or(Answer::No, |value| Answer::Value(value.into())),
        Step::PipeSend(value) => done(objects.sender.try_send(value).is_ok()),
        Step::PipeRecv => objects
            .receiver
            .try_recv()
            .map_or(Answer::No, |value| Answer::Value(value.into())),
        Step::Lock => taken(objects.lock.try_lock(), &mut holding.lock, |guard| **guard),
        Step::Unlock => {
            *holding.lock.take().expect("held") += 1;
            Answer::Done
        }
        Step::PlainLock => taken(objects.plain.try_lock(), &mut holding.plain, |guard| {
            **guard += 1;
            **guard
        }),
        Step::PlainUnlock => done(holding.plain.take().is_some()),
        Step::ChunkLockAndChange => {
            let mut slot = None;
            taken(objects.chunk.try_lock(), &mut slot, |guard| {
                guard[0] += 1;
                guard[0]
            })
        }
        Step::Read => taken(objects.rwlock.try_read(), &mut holding.reading, |guard| {
            **guard
        }),
        Step::Write => taken(objects.rwlock.try_write(), &mut holding.writing, |guard| {
            **guard
        }),
        Step::EndRead => done(holding.reading.take().is_some()),
        Step::EndWrite => {
            *holding.writing.take().expect("held") += 1;
            Answer::Done
        }
        Step::Acquire => {
            let permit = objects.semaphore.try_acquire();
            let got = permit.is_some();
            holding.permits.extend(permit);
            done(got)
        }
        Step::Give => done(holding.permits.pop().is_some()),
        Step::Set => {
            objects.event.set();
            Answer::Done
        }
        Step::Clear => {
            objects.event.clear();
            Answer::Done
        }
        Step::IsSet => done(objects.event.is_set()),
        Step::MakeOnce(value) => {
            Answer::Value((*objects.once.get_or_init(|| value).unwrap()).into())
        }
        Step::CellsAdd => {
            let value = objects.cells.get(1) + 1;
            objects.cells.set(1, value);
            Answer::Value(value)
        }
    }
}

/// A process that does as it is told.
fn obey(peer: Connection<Answer, Step>, objects: Objects) {
    let mut holding = Holding::default();
    for step in peer.iter() {
        let answer = act(&objects, &mut holding, step);
        peer.send(answer).unwrap();
    }
}

struct Actor {
    process: Process,
    peer: Connection<Step, Answer>,
}

fn hire(objects: &Objects) -> Actor {
    let (peer, theirs) = procession::duplex().unwrap();
    let process = Process::spawn(obey, (theirs, objects.clone())).unwrap();
    Actor { process, peer }
}

/// A lock in the model: who holds it, the value, and whether a holder has died since it was last
/// taken.
#[derive(Debug, Default)]
struct ModelLock {
    holder: Option<usize>,
    value: u32,
    died: bool,
}

impl ModelLock {
    fn answer(&mut self) -> Answer {
        if std::mem::take(&mut self.died) {
            Answer::Poisoned(self.value)
        } else {
            Answer::Value(self.value)
        }
    }

    fn die(&mut self, actor: usize) {
        if self.holder == Some(actor) {
            self.holder = None;
            self.died = true;
        }
    }
}

#[derive(Debug, Default)]
struct Model {
    queue: VecDeque<u16>,
    pipe: VecDeque<u16>,
    lock: ModelLock,
    plain: ModelLock,
    chunk: u32,
    write: ModelLock,
    reading: [bool; ACTORS],
    permits: [usize; ACTORS],
    set: bool,
    once: Option<u16>,
    cell: u32,
}

impl Model {
    /// What the step's answer must be; `None` if this actor can't do it now.
    fn expect(&mut self, actor: usize, step: Step) -> Option<Answer> {
        let done = |ok: bool| if ok { Answer::Done } else { Answer::No };
        let value =
            |value: Option<u16>| value.map_or(Answer::No, |value| Answer::Value(value.into()));
        Some(match step {
            Step::QueueSend(value) => {
                let room = self.queue.len() < CAPACITY;
                if room {
                    self.queue.push_back(value);
                }
                done(room)
            }
            Step::QueueRecv => value(self.queue.pop_front()),
            Step::PipeSend(value) => {
                self.pipe.push_back(value);
                Answer::Done
            }
            Step::PipeRecv => value(self.pipe.pop_front()),
            // In the thread that holds it, it is held as well.
            Step::Lock if self.lock.holder.is_some() => Answer::No,
            Step::Lock => {
                self.lock.holder = Some(actor);
                self.lock.answer()
            }
            Step::Unlock => {
                self.lock.holder.take_if(|holder| *holder == actor)?;
                self.lock.value += 1;
                Answer::Done
            }
            Step::PlainLock if self.plain.holder.is_some() => Answer::No,
            Step::PlainLock => {
                self.plain.holder = Some(actor);
                self.plain.value += 1;
                self.plain.answer()
            }
            Step::PlainUnlock => {
                self.plain.holder.take_if(|holder| *holder == actor)?;
                Answer::Done
            }
            Step::ChunkLockAndChange => {
                self.chunk += 1;
                Answer::Value(self.chunk)
            }
            Step::Read if self.reading[actor] => return None,
            Step::Read if self.write.holder.is_some() => Answer::No,
            Step::Read => {
                self.reading[actor] = true;
                self.write.answer()
            }
            Step::Write if self.write.holder.is_some() || self.reading.contains(&true) => {
                Answer::No
            }
            Step::Write => {
                self.write.holder = Some(actor);
                self.write.answer()
            }
            Step::EndRead => std::mem::take(&mut self.reading[actor]).then_some(Answer::Done)?,
            Step::EndWrite => {
                self.write.holder.take_if(|holder| *holder == actor)?;
                self.write.value += 1;
                Answer::Done
            }
            Step::Acquire => {
                let free = self.permits.iter().sum::<usize>() < PERMITS;
                self.permits[actor] += usize::from(free);
                done(free)
            }
            Step::Give => {
                self.permits[actor] = self.permits[actor].checked_sub(1)?;
                Answer::Done
            }
            Step::Set => {
                self.set = true;
                Answer::Done
            }
            Step::Clear => {
                self.set = false;
                Answer::Done
            }
            Step::IsSet => done(self.set),
            Step::MakeOnce(value) => Answer::Value((*self.once.get_or_insert(value)).into()),
            Step::CellsAdd => {
                self.cell += 1;
                Answer::Value(self.cell)
            }
        })
    }

    fn die(&mut self, actor: usize) {
        self.lock.die(actor);
        self.plain.die(actor);
        self.write.die(actor);
        self.reading[actor] = false;
        self.permits[actor] = 0;
    }
}

/// What an actor is to do next; `None`: it is killed, and another hired.
fn steps() -> impl Strategy<Value = Vec<(usize, Option<Step>)>> {
    let step = prop_oneof![
        3 => any::<u16>().prop_map(Step::QueueSend),
        3 => Just(Step::QueueRecv),
        2 => any::<u16>().prop_map(Step::PipeSend),
        2 => Just(Step::PipeRecv),
        3 => Just(Step::Lock),
        2 => Just(Step::Unlock),
        3 => Just(Step::PlainLock),
        2 => Just(Step::PlainUnlock),
        1 => Just(Step::ChunkLockAndChange),
        4 => Just(Step::Read),
        3 => Just(Step::Write),
        2 => Just(Step::EndRead),
        2 => Just(Step::EndWrite),
        3 => Just(Step::Acquire),
        2 => Just(Step::Give),
        1 => Just(Step::Set),
        1 => Just(Step::Clear),
        2 => Just(Step::IsSet),
        1 => any::<u16>().prop_map(Step::MakeOnce),
        1 => Just(Step::CellsAdd),
    ];
    let step = prop_oneof![30 => step.prop_map(Some), 1 => Just(None)];
    proptest::collection::vec((0..ACTORS, step), 1..120)
}

fn play(steps: &[(usize, Option<Step>)]) -> Result<(), TestCaseError> {
    let (sender, receiver) = procession::pipe().unwrap();
    let objects = Objects {
        queue: Queue::bounded(CAPACITY).unwrap(),
        sender,
        receiver,
        lock: Lock::new(0).unwrap(),
        plain: PlainLock::new(0).unwrap(),
        chunk: SharedVec::zeroed(10)
            .unwrap()
            .split(3)
            .unwrap()
            .get(1)
            .unwrap(),
        rwlock: RwLock::new(0).unwrap(),
        semaphore: Semaphore::bounded(PERMITS as u32).unwrap(),
        event: Event::new().unwrap(),
        once: OnceLock::new().unwrap(),
        cells: SharedCells::zeroed(3).unwrap(),
    };
    let mut actors: Vec<Actor> = (0..ACTORS).map(|_| hire(&objects)).collect();
    let mut model = Model::default();
    for (at, &(actor, step)) in steps.iter().enumerate() {
        let Some(step) = step else {
            actors[actor].process.kill().unwrap();
            actors[actor].process.wait();
            model.die(actor);
            actors[actor] = hire(&objects);
            continue;
        };
        let Some(expected) = model.expect(actor, step) else {
            continue;
        };
        actors[actor].peer.send(step).unwrap();
        let answer = actors[actor].peer.recv().unwrap();
        prop_assert_eq!(answer, expected, "step {}: {:?} by {}", at, step, actor);
    }
    for actor in actors {
        drop(actor.peer);
        actor.process.join().unwrap();
    }
    Ok(())
}

#[procession::test]
fn every_answer_is_what_the_model_says() {
    let _watched = watched();
    let config = Config {
        cases: 24,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&steps(), |steps| play(&steps))
        .unwrap();
}

/// All at the same time: nothing is lost, nothing is there twice, and each sender's order is kept.
#[procession::test]
fn what_many_send_at_once_arrives_once_and_in_order() {
    let _watched = watched();
    let config = Config {
        cases: 12,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::default()
    };
    let shape = (
        1_u32..4,
        1_u32..4,
        1_u32..300,
        proptest::option::of(1_usize..20),
    );
    TestRunner::new(config)
        .run(&shape, |(senders, receivers, each, capacity)| {
            let queue = match capacity {
                Some(capacity) => Queue::bounded(capacity).unwrap(),
                None => Queue::unbounded().unwrap(),
            };
            let sending: Vec<_> = (0..senders)
                .map(|sender| {
                    Process::spawn(
                        |queue: Queue<(u32, u32)>, sender: u32, each: u32| {
                            for number in 0..each {
                                queue.send((sender, number)).unwrap();
                            }
                        },
                        (queue.clone(), sender, each),
                    )
                    .unwrap()
                })
                .collect();
            let receiving: Vec<_> = (0..receivers)
                .map(|_| {
                    Process::spawn(
                        |queue: Queue<(u32, u32)>| queue.iter().collect::<Vec<_>>(),
                        queue.clone(),
                    )
                    .unwrap()
                })
                .collect();
            for process in sending {
                process.join().unwrap();
            }
            queue.close();
            let mut all = Vec::new();
            for process in receiving {
                let got = process.join().unwrap();
                for sender in 0..senders {
                    let mine: Vec<u32> = got
                        .iter()
                        .filter(|(of, _)| *of == sender)
                        .map(|(_, number)| *number)
                        .collect();
                    prop_assert!(mine.is_sorted(), "{:?}", mine);
                }
                all.extend(got);
            }
            all.sort_unstable();
            let sent: Vec<_> = (0..senders)
                .flat_map(|sender| (0..each).map(move |number| (sender, number)))
                .collect();
            prop_assert_eq!(all, sent);
            Ok(())
        })
        .unwrap();
}
