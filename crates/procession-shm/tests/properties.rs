//! Operations made up at random, against models: the queue, handles, the arena with several members.

use std::collections::{HashMap, VecDeque};

use procession_shm::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn arena(size: usize) -> &'static Arena {
    Box::leak(Box::new(Arena::create(size).expect("arena")))
}

fn few(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Sizes of messages: most small, some around where a message becomes a parcel, where a segment is
/// full, where a class of objects ends.
fn message_size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0usize..300,
        2 => (0usize..17).prop_map(|more| (64 << 10) - 8 + more),
        2 => (0usize..34).prop_map(|more| 2048 - 32 + more),
        1 => (0usize..66).prop_map(|more| 4096 - 48 + more),
        1 => (0usize..66).prop_map(|more| (128 << 10) - 48 + more),
        1 => 0usize..(200 << 10),
    ]
}

/// Bytes that tell one message from another, and one place in it from another.
fn body(seed: u32, size: usize) -> Vec<u8> {
    (0..size as u32)
        .map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ seed.wrapping_mul(97)) as u8)
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Put {
        size: usize,
        tag: u32,
        buffers: Vec<usize>,
        /// Which of the objects at hand are mentioned.
        mentions: Vec<prop::sample::Index>,
    },
    Get,
    GetMany(usize),
    TaskDone,
    /// The sender lets go of an object that messages may mention.
    Drop(prop::sample::Index),
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let put = (
        message_size(),
        0u32..1 << 31,
        prop_oneof![5 => Just(vec![]), 1 => vec(message_size(), 1..4)],
        prop_oneof![4 => Just(vec![]), 1 => vec(any::<prop::sample::Index>(), 1..4)],
    );
    prop_oneof![
        10 => put.prop_map(|(size, tag, buffers, mentions)| Step::Put { size, tag, buffers, mentions }),
        6 => Just(Step::Get),
        1 => (1usize..30).prop_map(Step::GetMany),
        2 => Just(Step::TaskDone),
        1 => any::<prop::sample::Index>().prop_map(Step::Drop),
    ]
}

struct Expected {
    tag: u32,
    bytes: Vec<u8>,
    buffers: Vec<Vec<u8>>,
    mentions: Vec<(Handle, Vec<u8>)>,
}

/// A queue with one member that puts and one that takes, and what should be in it.
struct Model {
    arena: &'static Arena,
    sender: MemberId,
    receiver: MemberId,
    handle: Handle,
    queue: &'static RawQueue,
    capacity: u32,
    waiting: VecDeque<Expected>,
    /// Objects that the sender holds, and what is in them.
    objects: Vec<(Handle, Vec<u8>)>,
    put: u32,
    taken: u32,
    done: u32,
    closed: bool,
}

impl Model {
    fn put(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let Step::Put {
            size,
            tag,
            buffers,
            mentions,
        } = step
        else {
            return Ok(());
        };
        let bytes = body(self.put, *size);
        let buffers: Vec<Vec<u8>> = buffers.iter().map(|&size| body(!self.put, size)).collect();
        let mentions: Vec<_> = mentions
            .iter()
            .filter(|_| !self.objects.is_empty())
            .map(|index| index.get(&self.objects).clone())
            .collect();
        let views: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
        let names: Vec<Handle> = mentions.iter().map(|(handle, _)| *handle).collect();
        let contents = Contents {
            tag: *tag,
            bytes: &bytes,
            buffers: &views,
            mentions: &names,
        };
        let done = self.queue.put(
            self.arena,
            self.sender,
            self.handle,
            &contents,
            &mut Patience::none(),
        );
        let full = self.capacity != 0 && self.waiting.len() as u32 >= self.capacity;
        match done {
            Err(PutError::Closed) => prop_assert!(self.closed),
            Err(PutError::Full) => prop_assert!(full && !self.closed),
            Ok(()) => {
                prop_assert!(!full && !self.closed);
                self.put += 1;
                self.waiting.push_back(Expected {
                    tag: *tag,
                    bytes,
                    buffers,
                    mentions,
                });
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
        Ok(())
    }

    fn get(&mut self) -> Result<(), TestCaseError> {
        let mut seen = None;
        let got = self.queue.get(
            self.arena,
            self.receiver,
            &mut Patience::none(),
            &mut |number, tag, peek| seen = Some((number, tag, peek.to_vec())),
        );
        let Some(expected) = self.waiting.pop_front() else {
            let error = if self.closed {
                GetError::Closed
            } else {
                GetError::Empty
            };
            prop_assert_eq!(got.err(), Some(error));
            return Ok(());
        };
        let got = got.map_err(|error| TestCaseError::fail(error.to_string()))?;
        let peek = expected.bytes[..expected.bytes.len().min(64)].to_vec();
        prop_assert_eq!(seen, Some((self.taken, expected.tag, peek)));
        self.taken += 1;
        match got {
            Entry::Inline { tag, bytes } => {
                prop_assert!(expected.buffers.is_empty() && expected.mentions.is_empty());
                prop_assert_eq!(tag, expected.tag);
                prop_assert!(bytes == expected.bytes, "other bytes");
            }
            Entry::Parcel { handle, view } => {
                self.unpack(&view, &expected)?;
                self.arena.release(self.receiver, handle);
            }
        }
        Ok(())
    }

    fn unpack(&self, view: &ParcelView, expected: &Expected) -> Result<(), TestCaseError> {
        prop_assert_eq!(view.tag, expected.tag);
        prop_assert!(view.bytes == expected.bytes, "other bytes");
        prop_assert_eq!(view.blocks.len(), expected.buffers.len());
        let names: Vec<Handle> = expected.mentions.iter().map(|mention| mention.0).collect();
        prop_assert_eq!(&view.mentions, &names);
        let blocks = view.blocks.iter().copied().zip(&expected.buffers);
        let mentions = expected
            .mentions
            .iter()
            .map(|(handle, bytes)| (*handle, bytes));
        for (block, bytes) in blocks.chain(mentions) {
            self.arena
                .acquire(self.receiver, block)
                .map_err(|gone| TestCaseError::fail(gone.to_string()))?;
            let mut there = vec![0; bytes.len()];
            self.arena
                .copy_out(block, Kind::Block, 0, &mut there)
                .map_err(|gone| TestCaseError::fail(gone.to_string()))?;
            prop_assert!(&there == bytes, "other bytes in a block");
            self.arena.release(self.receiver, block);
        }
        Ok(())
    }

    fn apply(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put { .. } => self.put(step)?,
            Step::Get => self.get()?,
            Step::GetMany(count) => (0..*count).try_for_each(|_| self.get())?,
            Step::TaskDone => {
                let result = self.queue.task_done();
                prop_assert_eq!(result.is_ok(), self.done < self.put);
                self.done += u32::from(result.is_ok());
            }
            Step::Drop(index) => {
                if !self.objects.is_empty() {
                    let (handle, _) = self.objects.remove(index.index(self.objects.len()));
                    self.arena.release(self.sender, handle);
                }
            }
            Step::Close => {
                self.queue.close();
                self.closed = true;
            }
        }
        prop_assert_eq!(self.queue.len() as usize, self.waiting.len());
        prop_assert_eq!(self.queue.is_empty(), self.waiting.is_empty());
        prop_assert_eq!(self.queue.unfinished(), self.put - self.done);
        prop_assert_eq!(self.queue.taken(), self.taken);
        Ok(())
    }
}

thread_local! {
    // One for all cases: what one leaves behind is another's dirty memory.
    static QUEUES: &'static Arena = arena(1 << 30);
}

fn run_queue(
    capacity: u32,
    steps: &[Step],
    close: bool,
    drain: bool,
    receiver_leaves: bool,
) -> Result<(), TestCaseError> {
    let arena = QUEUES.with(|arena| *arena);
    let sender = arena.enroll("sender").expect("a member");
    let receiver = arena.enroll("receiver").expect("a member");
    let before = arena.stats();
    let handle = arena
        .allocate(sender, size_of::<RawQueue>(), Kind::Queue)
        .expect("memory");
    let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("there");
    queue
        .prepare(arena, sender, handle, capacity)
        .expect("memory");
    arena.acquire(receiver, handle).expect("there");
    let objects = [0, 5, 3000, 50_000]
        .map(|size| {
            let object = arena.allocate(sender, size, Kind::Block).expect("memory");
            let bytes = body(size as u32, size);
            arena
                .copy_in(object, Kind::Block, 0, &bytes)
                .expect("there");
            (object, bytes)
        })
        .to_vec();
    let mut model = Model {
        arena,
        sender,
        receiver,
        handle,
        queue,
        capacity,
        waiting: VecDeque::new(),
        objects,
        put: 0,
        taken: 0,
        done: 0,
        closed: false,
    };
    steps.iter().try_for_each(|step| model.apply(step))?;
    if close {
        model.apply(&Step::Close)?;
        model.put(&Step::Put {
            size: 1,
            tag: 0,
            buffers: vec![],
            mentions: vec![],
        })?;
    }
    if drain {
        (0..=model.waiting.len()).try_for_each(|_| model.get())?;
    }
    for (object, _) in model.objects {
        arena.release(sender, object);
    }
    arena.release(sender, handle);
    if receiver_leaves {
        arena.leave(receiver);
    } else {
        arena.release(receiver, handle);
    }
    let after = arena.stats();
    prop_assert_eq!(after.objects, before.objects, "all that was made is gone");
    prop_assert_eq!(after.bytes, before.bytes);
    arena.leave(sender);
    arena.leave(receiver);
    let me = arena.enroll("reaper").expect("a member");
    arena.reap(me, sender);
    arena.reap(me, receiver);
    arena.leave(me);
    let next = arena.enroll("reaper").expect("a member");
    arena.reap(next, me);
    arena.leave(next);
    Ok(())
}

proptest! {
    #![proptest_config(few(96))]

    #[test]
    fn a_queue_does_what_a_list_does(
        capacity in prop_oneof![3 => Just(0u32), 1 => 1u32..6],
        steps in vec(step(), 0..60),
        close: bool,
        drain: bool,
        receiver_leaves: bool,
    ) {
        run_queue(capacity, &steps, close, drain, receiver_leaves)?;
    }

    /// Many of one size: the segments fill to the last unit, and positions wrap round in them.
    #[test]
    fn a_queue_of_equal_messages_fills_its_segments(
        size in message_size(),
        rounds in vec((1usize..40, 1usize..40), 1..12),
    ) {
        let mut steps = Vec::new();
        for (puts, gets) in rounds {
            let put = Step::Put { size, tag: 7, buffers: vec![], mentions: vec![] };
            steps.extend(std::iter::repeat_n(put, if size > 4096 { puts / 4 + 1 } else { puts }));
            steps.push(Step::GetMany(gets));
        }
        run_queue(0, &steps, false, false, false)?;
    }
}

#[derive(Debug, Clone)]
enum Act {
    Allocate {
        who: usize,
        size: usize,
    },
    Acquire {
        who: usize,
        object: prop::sample::Index,
    },
    Release {
        who: usize,
        object: prop::sample::Index,
    },
    SetOut {
        who: usize,
        object: prop::sample::Index,
    },
    Arrive {
        who: usize,
        object: prop::sample::Index,
    },
    /// A handle of an object that is gone is used.
    Stale {
        who: usize,
        object: prop::sample::Index,
    },
    /// A member leaves and is cleared away; another takes its place.
    Replace {
        who: usize,
    },
}

const MEMBERS: usize = 3;

fn act() -> impl Strategy<Value = Act> {
    let who = 0..MEMBERS;
    let object = any::<prop::sample::Index>;
    let size = prop_oneof![
        6 => 0usize..200,
        3 => 4000usize..4200,
        // Around where memory is taken beforehand.
        3 => 30_000usize..70_000,
        1 => 100_000usize..140_000,
        1 => 1usize << 20..3 << 20,
    ];
    prop_oneof![
        6 => (who.clone(), size).prop_map(|(who, size)| Act::Allocate { who, size }),
        5 => (who.clone(), object()).prop_map(|(who, object)| Act::Acquire { who, object }),
        9 => (who.clone(), object()).prop_map(|(who, object)| Act::Release { who, object }),
        2 => (who.clone(), object()).prop_map(|(who, object)| Act::SetOut { who, object }),
        3 => (who.clone(), object()).prop_map(|(who, object)| Act::Arrive { who, object }),
        3 => (who.clone(), object()).prop_map(|(who, object)| Act::Stale { who, object }),
        1 => who.prop_map(|who| Act::Replace { who }),
    ]
}

struct Object {
    handle: Handle,
    bytes: Vec<u8>,
    held: [u32; MEMBERS],
    transit: u32,
}

impl Object {
    fn is_held(&self) -> bool {
        self.transit > 0 || self.held.iter().any(|&count| count > 0)
    }
}

thread_local! {
    static OBJECTS: &'static Arena = arena(1 << 30);
}

fn run_arena(acts: &[Act]) -> Result<(), TestCaseError> {
    let arena = OBJECTS.with(|arena| *arena);
    let keeper = arena.enroll("keeper").expect("a member");
    let mut members = [(); MEMBERS].map(|()| arena.enroll("member").expect("a member"));
    let before = arena.stats();
    let mut living: Vec<Object> = Vec::new();
    let mut gone: Vec<Handle> = Vec::new();
    for (number, act) in (0u32..).zip(acts) {
        match act {
            Act::Allocate { who, size } => {
                let handle = arena
                    .allocate(members[*who], *size, Kind::Block)
                    .expect("memory");
                let mut bytes = vec![1; *size];
                arena
                    .copy_out(handle, Kind::Block, 0, &mut bytes)
                    .expect("there");
                prop_assert!(bytes.iter().all(|&byte| byte == 0), "not all zeros");
                let bytes = body(number, *size);
                arena
                    .copy_in(handle, Kind::Block, 0, &bytes)
                    .expect("there");
                let mut held = [0; MEMBERS];
                held[*who] = 1;
                living.push(Object {
                    handle,
                    bytes,
                    held,
                    transit: 0,
                });
            }
            Act::Stale { who, object } => {
                if !gone.is_empty() {
                    let handle = *object.get(&gone);
                    prop_assert!(arena.acquire(members[*who], handle).is_err());
                    prop_assert!(!arena.set_out(handle));
                    arena.arrive(members[*who], handle);
                    arena.release(members[*who], handle);
                    prop_assert!(arena.length(handle).is_err());
                }
            }
            Act::Replace { who } => {
                let old = members[*who];
                arena.leave(old);
                arena.reap(keeper, old);
                prop_assert!(arena.is_dead(old));
                prop_assert!(arena.has_left(old));
                members[*who] = arena.enroll("member").expect("a member");
                living.iter_mut().for_each(|object| object.held[*who] = 0);
            }
            Act::Acquire { who, object }
            | Act::Release { who, object }
            | Act::SetOut { who, object }
            | Act::Arrive { who, object } => {
                if living.is_empty() {
                    continue;
                }
                let at = object.index(living.len());
                let object = &mut living[at];
                let (me, handle) = (members[*who], object.handle);
                match act {
                    Act::Acquire { .. } => {
                        prop_assert!(arena.acquire(me, handle).is_ok());
                        object.held[*who] += 1;
                    }
                    Act::Release { .. } => {
                        arena.release(me, handle);
                        object.held[*who] = object.held[*who].saturating_sub(1);
                    }
                    Act::SetOut { .. } => {
                        prop_assert!(arena.set_out(handle));
                        object.transit += 1;
                    }
                    _ if object.transit > 0 => {
                        arena.arrive(me, handle);
                        object.transit -= 1;
                    }
                    _ => {}
                }
            }
        }
        let (kept, ended) = living.into_iter().partition(Object::is_held);
        living = kept;
        gone.extend(ended.iter().map(|object: &Object| object.handle));
        prop_assert_eq!(arena.stats().objects, before.objects + living.len());
        let held: u64 = living.iter().map(|object| object.bytes.len() as u64).sum();
        prop_assert_eq!(arena.stats().bytes, before.bytes + held);
    }
    let mut places = HashMap::new();
    for object in &living {
        let mut bytes = vec![0; object.bytes.len()];
        arena
            .copy_out(object.handle, Kind::Block, 0, &mut bytes)
            .expect("held");
        prop_assert!(bytes == object.bytes, "an object was written over");
        let start = arena.address(object.handle).expect("held") as usize;
        prop_assert!(places.insert(start, object.handle).is_none());
    }
    for object in &living {
        (0..object.transit).for_each(|_| arena.arrive(keeper, object.handle));
    }
    for member in members {
        arena.leave(member);
        arena.reap(keeper, member);
    }
    prop_assert_eq!(arena.stats().objects, before.objects);
    arena.leave(keeper);
    let last = arena.enroll("last").expect("a member");
    arena.reap(last, keeper);
    arena.leave(last);
    Ok(())
}

proptest! {
    #![proptest_config(few(128))]

    #[test]
    fn an_object_lives_exactly_as_long_as_it_is_held(acts in vec(act(), 0..120)) {
        run_arena(&acts)?;
    }
}

thread_local! {
    static FORGED: (&'static Arena, MemberId, Handle) = {
        let arena = arena(64 << 20);
        let me = arena.enroll("me").expect("a member");
        let lock = arena.allocate(me, size_of::<RawLock>(), Kind::Lock).expect("memory");
        (arena, me, lock)
    };
}

proptest! {
    #![proptest_config(few(4096))]

    /// Nothing that is not a living object's own handle names anything, and using it harms nothing.
    #[test]
    fn a_forged_handle_names_nothing(
        bytes: [u8; 16],
        // How many of its bytes are the true ones: the nearer, the more checks it passes.
        like_true in 0usize..16,
        rotated in 0usize..16,
        length in 0usize..1 << 40,
    ) {
        let (arena, me, lock) = FORGED.with(|forged| *forged);
        let mut bytes = bytes;
        let truth = lock.to_bytes();
        (0..like_true).for_each(|n| bytes[(n + rotated) % 16] = truth[(n + rotated) % 16]);
        let forged = Handle::from_bytes(bytes);
        prop_assert_eq!(forged.to_bytes(), bytes);
        prop_assume!(forged != lock);
        prop_assert!(arena.acquire(me, forged).is_err());
        prop_assert!(arena.object::<RawLock>(forged, Kind::Lock).is_err());
        prop_assert!(arena.objects::<RawLock>(forged, Kind::Lock, length, length).is_err());
        prop_assert!(arena.copy_out(forged, Kind::Block, length, &mut [0; 9]).is_err());
        prop_assert!(arena.copy_in(forged, Kind::Block, length, &[0; 9]).is_err());
        prop_assert!(arena.address(forged).is_err());
        prop_assert!(arena.read_parcel(forged).is_err());
        prop_assert!(!arena.set_out(forged));
        arena.release(me, forged);
        arena.arrive(me, forged);
        prop_assert!(arena.object::<RawLock>(lock, Kind::Lock).is_ok(), "the true one is as it was");
        prop_assert_eq!(arena.stats().objects, 1);
        // Nor does one of another kind, or a stretch beyond the object's end.
        prop_assert!(arena.object::<RawQueue>(lock, Kind::Queue).is_err());
        prop_assert!(arena.objects::<RawLock>(lock, Kind::Lock, length | 1 << 12, 1).is_err());
    }
}
