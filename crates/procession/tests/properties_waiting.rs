//! What processes wait in, against a model: conditions and barriers, and with them recursive locks and
//! one-time channels. Four processes do what proptest makes up; some wait for others meanwhile, some are
//! killed where they wait; who goes on, and with which answer, is what the model says.

mod support;

use std::time::Duration;

use procession::{
    Barrier, Cause, Condition, Connection, Lock, OneReceiver, OneSender, Process, RLock,
    RLockGuard, TryLockError,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::{Deserialize, Serialize};
use support::{ms, until, watched};

const ACTORS: usize = 4;
const PARTIES: usize = 3;
/// Nobody is to wait for so long.
const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Step {
    /// Waits until it is notified.
    Wait,
    /// Waits for a moment.
    WaitBriefly,
    NotifyOne,
    NotifyAll,
    /// Waits for the others.
    Arrive,
    ArriveBriefly,
    Abort,
    Reset,
    RLock,
    RUnlock,
    OneSend(u16),
    OneRecv,
    DropSender,
    DropReceiver,
}

#[derive(Debug, Clone, Copy)]
enum Move {
    Do(usize, Step),
    /// A new one-time channel: who sends, who receives.
    Pair(usize, usize),
    /// Is killed, and another hired.
    Kill(usize),
}

#[derive(Serialize, Deserialize)]
enum Order {
    Do(Step),
    Sender(OneSender<u16>),
    Receiver(OneReceiver<u16>),
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Answer {
    Done,
    No,
    Closed,
    Value(u32),
    /// The one before died.
    Poisoned(u32),
    Notified,
    TimedOut,
    Through {
        index: u32,
        leader: bool,
    },
    Broken,
}

/// What the processes share.
#[derive(Clone, Serialize, Deserialize)]
struct Objects {
    /// How many have begun to wait for the condition.
    waits: Lock<usize>,
    condition: Condition,
    barrier: Barrier,
    rlock: RLock,
}

#[derive(Default)]
struct Holding<'a> {
    guards: Vec<RLockGuard<'a>>,
    sender: Option<OneSender<u16>>,
    receiver: Option<OneReceiver<u16>>,
}

fn act<'a>(objects: &'a Objects, holding: &mut Holding<'a>, step: Step) -> Answer {
    let through = |result: procession::Result<procession::BarrierWaitResult>| match result {
        Ok(through) => Answer::Through {
            index: through.index(),
            leader: through.is_leader(),
        },
        Err(error) => {
            assert!(error.is_broken(), "{error}");
            Answer::Broken
        }
    };
    match step {
        Step::Wait | Step::WaitBriefly => {
            let limit = if matches!(step, Step::Wait) {
                LONG
            } else {
                ms(5)
            };
            let mut waits = objects.waits.lock().unwrap();
            *waits += 1;
            let (_, timed_out) = objects.condition.wait_timeout(waits, limit).unwrap();
            if timed_out {
                Answer::TimedOut
            } else {
                Answer::Notified
            }
        }
        Step::NotifyOne => {
            let _held = objects.waits.lock().unwrap();
            objects.condition.notify_one();
            Answer::Done
        }
        Step::NotifyAll => {
            objects.condition.notify_all();
            Answer::Done
        }
        Step::Arrive => through(objects.barrier.wait_timeout(LONG)),
        Step::ArriveBriefly => through(objects.barrier.wait_timeout(ms(5))),
        Step::Abort => {
            objects.barrier.abort();
            Answer::Done
        }
        Step::Reset => {
            objects.barrier.reset();
            Answer::Done
        }
        Step::RLock => {
            let (guard, poisoned) = match objects.rlock.try_lock() {
                Ok(guard) => (guard, false),
                Err(TryLockError::Poisoned(poisoned)) => {
                    assert!(matches!(poisoned.cause(), Cause::Died { .. }));
                    (poisoned.into_inner(), true)
                }
                Err(TryLockError::Locked) => return Answer::No,
            };
            holding.guards.push(guard);
            let times = holding.guards.len() as u32;
            if poisoned {
                Answer::Poisoned(times)
            } else {
                Answer::Value(times)
            }
        }
        Step::RUnlock => {
            drop(holding.guards.pop().expect("held"));
            Answer::Done
        }
        Step::OneSend(value) => match holding.sender.take().expect("there is one").send(value) {
            Ok(()) => Answer::Done,
            Err(error) => {
                assert!(error.is_closed() && error.into_inner() == value);
                Answer::Closed
            }
        },
        Step::OneRecv => match holding.receiver.as_ref().expect("there is one").try_recv() {
            Ok(value) => Answer::Value(value.into()),
            Err(error) if error.is_empty() => Answer::No,
            Err(error) if error.is_closed() => Answer::Closed,
            Err(error) => panic!("{error}"),
        },
        Step::DropSender => {
            drop(holding.sender.take().expect("there is one"));
            Answer::Done
        }
        Step::DropReceiver => {
            drop(holding.receiver.take().expect("there is one"));
            Answer::Done
        }
    }
}

/// A process that does as it is told.
fn obey(peer: Connection<Answer, Order>, objects: Objects) {
    let mut holding = Holding::default();
    for order in peer.iter() {
        let answer = match order {
            Order::Do(step) => act(&objects, &mut holding, step),
            Order::Sender(sender) => {
                holding.sender = Some(sender);
                Answer::Done
            }
            Order::Receiver(receiver) => {
                holding.receiver = Some(receiver);
                Answer::Done
            }
        };
        if peer.send(answer).is_err() {
            // At the end nobody hears from those who still waited.
            return;
        }
    }
}

struct Actor {
    process: Process,
    peer: Connection<Order, Answer>,
}

fn hire(objects: &Objects) -> Actor {
    let (peer, theirs) = procession::duplex().unwrap();
    let process = Process::spawn(obey, (theirs, objects.clone())).unwrap();
    Actor { process, peer }
}

impl Actor {
    fn answer(&self) -> Answer {
        self.peer.receiver().recv_timeout(LONG).expect("it answers")
    }
}

/// One who has arrived at the barrier; `None`: it is dead.
type Party = Option<usize>;

#[derive(Debug, Default)]
struct Pair {
    sender: Option<usize>,
    receiver: Option<usize>,
    value: Option<u16>,
}

#[derive(Debug, Default)]
struct Model {
    /// Who waits for the condition, in order.
    waiting: Vec<usize>,
    waits: usize,
    inside: Vec<Party>,
    /// Of the round before.
    before: Vec<Party>,
    broken: bool,
    holder: Option<(usize, u32)>,
    died: bool,
    pairs: Vec<Pair>,
}

impl Model {
    fn is_busy(&self, actor: usize) -> bool {
        self.waiting.contains(&actor) || (!self.broken && self.inside.contains(&Some(actor)))
    }

    /// Those who wait at the barrier are sent on with an error.
    fn break_barrier(&mut self) -> Vec<(usize, Answer)> {
        self.broken = true;
        let living = std::mem::take(&mut self.inside).into_iter().flatten();
        living.map(|actor| (actor, Answer::Broken)).collect()
    }

    /// Somebody waits there, and one that it waits with is dead.
    fn is_hopeless(&self) -> bool {
        let all = || self.inside.iter().chain(&self.before);
        !self.broken && self.inside.iter().any(Option::is_some) && all().any(Option::is_none)
    }

    fn arrive(&mut self, actor: usize, briefly: bool) -> Vec<(usize, Answer)> {
        if self.broken {
            return vec![(actor, Answer::Broken)];
        }
        self.inside.push(Some(actor));
        if self.inside.len() == PARTIES {
            self.before = std::mem::take(&mut self.inside);
            let places = self.before.iter().enumerate();
            let through = places.filter_map(|(place, party)| {
                let index = (PARTIES - 1 - place) as u32;
                let leader = index == 0;
                party.map(|actor| (actor, Answer::Through { index, leader }))
            });
            return through.collect();
        }
        if briefly || self.is_hopeless() {
            return self.break_barrier();
        }
        Vec::new()
    }

    fn pair(&mut self, find: impl Fn(&Pair) -> bool) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| find(pair))
    }

    /// Who answers after this step, and what; `None` if this actor can't do it now.
    fn expect(&mut self, actor: usize, step: Step) -> Option<Vec<(usize, Answer)>> {
        let one = |answer| Some(vec![(actor, answer)]);
        let and_done = |mut others: Vec<(usize, Answer)>| {
            others.push((actor, Answer::Done));
            Some(others)
        };
        match step {
            Step::Wait => {
                self.waits += 1;
                self.waiting.push(actor);
                Some(Vec::new())
            }
            Step::WaitBriefly => {
                self.waits += 1;
                one(Answer::TimedOut)
            }
            Step::NotifyOne | Step::NotifyAll => {
                let all = matches!(step, Step::NotifyAll);
                let count = if all { usize::MAX } else { 1 }.min(self.waiting.len());
                let notified = self.waiting.drain(..count);
                and_done(notified.map(|actor| (actor, Answer::Notified)).collect())
            }
            Step::Arrive => Some(self.arrive(actor, false)),
            Step::ArriveBriefly => Some(self.arrive(actor, true)),
            Step::Abort => and_done(self.break_barrier()),
            Step::Reset => {
                let others = self.break_barrier();
                (self.broken, self.before) = (false, Vec::new());
                and_done(others)
            }
            Step::RLock => match &mut self.holder {
                Some((holder, _)) if *holder != actor => one(Answer::No),
                holder => {
                    let times = holder.map_or(0, |(_, times)| times) + 1;
                    *holder = Some((actor, times));
                    one(if std::mem::take(&mut self.died) {
                        Answer::Poisoned(times)
                    } else {
                        Answer::Value(times)
                    })
                }
            },
            Step::RUnlock => {
                let (_, times) = self.holder.filter(|(holder, _)| *holder == actor)?;
                self.holder = (times > 1).then_some((actor, times - 1));
                one(Answer::Done)
            }
            Step::OneSend(value) => {
                let pair = self.pair(|pair| pair.sender == Some(actor))?;
                pair.sender = None;
                let received = pair.receiver.is_some();
                pair.value = received.then_some(value);
                one(if received {
                    Answer::Done
                } else {
                    Answer::Closed
                })
            }
            Step::OneRecv => {
                let pair = self.pair(|pair| pair.receiver == Some(actor))?;
                one(match (pair.value.take(), pair.sender) {
                    (Some(value), _) => Answer::Value(value.into()),
                    (None, Some(_)) => Answer::No,
                    (None, None) => Answer::Closed,
                })
            }
            Step::DropSender => {
                self.pair(|pair| pair.sender == Some(actor))?.sender = None;
                one(Answer::Done)
            }
            Step::DropReceiver => {
                self.pair(|pair| pair.receiver == Some(actor))?.receiver = None;
                one(Answer::Done)
            }
        }
    }

    /// Who goes on because it dies.
    fn die(&mut self, actor: usize) -> Vec<(usize, Answer)> {
        self.waiting.retain(|&waiting| waiting != actor);
        for party in self.inside.iter_mut().chain(&mut self.before) {
            party.take_if(|party| *party == actor);
        }
        self.died |= self
            .holder
            .take_if(|(holder, _)| *holder == actor)
            .is_some();
        for pair in &mut self.pairs {
            pair.sender.take_if(|sender| *sender == actor);
            pair.receiver.take_if(|receiver| *receiver == actor);
        }
        if self.is_hopeless() {
            self.break_barrier()
        } else {
            Vec::new()
        }
    }

    fn can_pair(&self, sender: usize, receiver: usize) -> bool {
        let taken = |pair: &Pair| pair.sender == Some(sender) || pair.receiver == Some(receiver);
        !self.pairs.iter().any(taken) && !self.is_busy(sender) && !self.is_busy(receiver)
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        4 => Just(Step::Wait),
        1 => Just(Step::WaitBriefly),
        3 => Just(Step::NotifyOne),
        1 => Just(Step::NotifyAll),
        6 => Just(Step::Arrive),
        1 => Just(Step::ArriveBriefly),
        1 => Just(Step::Abort),
        2 => Just(Step::Reset),
        3 => Just(Step::RLock),
        3 => Just(Step::RUnlock),
        3 => any::<u16>().prop_map(Step::OneSend),
        3 => Just(Step::OneRecv),
        1 => Just(Step::DropSender),
        1 => Just(Step::DropReceiver),
    ];
    let one = prop_oneof![
        24 => (0..ACTORS, step).prop_map(|(actor, step)| Move::Do(actor, step)),
        3 => (0..ACTORS, 0..ACTORS).prop_map(|(sender, receiver)| Move::Pair(sender, receiver)),
        2 => (0..ACTORS).prop_map(Move::Kill),
    ];
    proptest::collection::vec(one, 1..100)
}

fn play(moves: &[Move]) -> Result<(), TestCaseError> {
    let objects = Objects {
        waits: Lock::new(0).unwrap(),
        condition: Condition::new().unwrap(),
        barrier: Barrier::new(PARTIES as u32).unwrap(),
        rlock: RLock::new().unwrap(),
    };
    let mut actors: Vec<Actor> = (0..ACTORS).map(|_| hire(&objects)).collect();
    let mut model = Model::default();
    for (at, &this) in moves.iter().enumerate() {
        let expected = match this {
            Move::Do(actor, _) if model.is_busy(actor) => continue,
            Move::Do(actor, step) => {
                let Some(expected) = model.expect(actor, step) else {
                    continue;
                };
                actors[actor].peer.send(Order::Do(step)).unwrap();
                expected
            }
            Move::Pair(sender, receiver) if model.can_pair(sender, receiver) => {
                model.pairs.push(Pair {
                    sender: Some(sender),
                    receiver: Some(receiver),
                    value: None,
                });
                let (tx, rx) = procession::oneshot().unwrap();
                actors[sender].peer.send(Order::Sender(tx)).unwrap();
                actors[receiver].peer.send(Order::Receiver(rx)).unwrap();
                vec![(sender, Answer::Done), (receiver, Answer::Done)]
            }
            Move::Pair(..) => continue,
            Move::Kill(actor) => {
                actors[actor].process.kill().unwrap();
                actors[actor].process.wait();
                let expected = model.die(actor);
                actors[actor] = hire(&objects);
                expected
            }
        };
        for (actor, expected) in expected {
            let answer = actors[actor].answer();
            prop_assert_eq!(answer, expected, "move {}: {:?}, {}", at, this, actor);
        }
        // Who begins to wait has begun before the next move.
        let waits = until(LONG, || {
            (*objects.waits.lock().unwrap() == model.waits).then_some(())
        });
        prop_assert!(waits.is_ok(), "move {}: {:?}", at, this);
        let inside = if model.broken { 0 } else { model.inside.len() };
        let arrived = until(LONG, || {
            (objects.barrier.waiting() as usize == inside).then_some(())
        });
        prop_assert!(arrived.is_ok(), "move {}: {:?}", at, this);
        prop_assert_eq!(objects.barrier.is_broken(), model.broken, "move {}", at);
    }
    // All go home.
    objects.condition.notify_all();
    objects.barrier.abort();
    for actor in actors {
        drop(actor.peer);
        actor.process.join().unwrap();
    }
    Ok(())
}

#[procession::test]
fn who_waits_goes_on_as_the_model_says() {
    let _watched = watched();
    let config = Config {
        cases: 16,
        max_shrink_iters: 100,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&moves(), |moves| play(&moves))
        .unwrap();
}

/// All at the same time: rounds of a barrier never mix, and each has one leader.
#[procession::test]
fn rounds_of_a_barrier_do_not_mix() {
    let _watched = watched();
    let config = Config {
        cases: 8,
        failure_persistence: None,
        max_shrink_iters: 10,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&(2_u32..5, 1_u64..80), |(parties, rounds)| {
            let barrier = Barrier::new(parties).unwrap();
            let arrived = procession::Atomic::new(0_u64).unwrap();
            let run = |barrier: Barrier, arrived: procession::Atomic<u64>, rounds: u64| -> u64 {
                let parties = u64::from(barrier.parties());
                let rounds = (1..=rounds).filter(|round| {
                    arrived.fetch_add(1);
                    let through = barrier.wait().unwrap();
                    // All of this round are here, and none of them can be two rounds further.
                    let seen = arrived.load();
                    assert!((round * parties..(round + 1) * parties).contains(&seen));
                    through.is_leader()
                });
                rounds.count() as u64
            };
            let racers: Vec<_> = (0..parties)
                .map(|_| Process::spawn(run, (barrier.clone(), arrived.clone(), rounds)).unwrap())
                .collect();
            let led: u64 = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
            prop_assert_eq!(led, rounds);
            Ok(())
        })
        .unwrap();
}
