//! A member is killed at each marked place of reader-writer locks, of what is done once, of plain data
//! and of mailboxes, and the others find them in order.

#![allow(unsafe_code, reason = "the tests fork")]

mod doomed;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use procession_shm::crash::LATER_POINTS;
use procession_shm::{
    Arena, Arrived, DividedSlice, Element, Home, Kind, MAILBOX_ROOM, MemberId, OwnedSlice,
    Patience, Posted, RawMailbox, RawOnce, RawRwLock, Turn, Way,
};

static ARENA: OnceLock<Arena> = OnceLock::new();
static ME: AtomicU32 = AtomicU32::new(0);

fn me() -> MemberId {
    MemberId::from_raw(ME.load(Ordering::SeqCst)).expect("a member")
}

fn seconds<'a>(n: u64) -> Patience<'a> {
    Patience::timeout(Duration::from_secs(n))
}

/// What the one does that is to be killed.
fn work(home: Home, lock: &RawRwLock, readers: &[AtomicU64], once: &RawOnce, mailbox: &RawMailbox) {
    let arena = home.arena;
    let mut nobody = |_| panic!("nobody has died");
    lock.read(arena, me(), readers, &mut seconds(10), &mut nobody)
        .expect("it is free");
    lock.release_read(me(), readers);
    lock.write(arena, me(), readers, &mut seconds(10), &mut nobody)
        .expect("it is free");
    lock.release_write();
    let turn = once.begin(arena, me(), &mut seconds(10)).expect("is free");
    assert_eq!(turn, Turn::Mine { after_death: false });
    once.finish();
    let element = Element { size: 8, align: 8 };
    let owned = OwnedSlice::zeroed(home, element, 8000).expect("memory");
    let divided = owned.divide(&[4000, 8000]).expect("memory");
    let held = (0..2).map(|chunk| divided.lock(chunk, &mut seconds(10)).expect("free").0);
    let whole = DividedSlice::gather(held.collect()).expect("both");
    drop(whole.freeze());
    assert_eq!(mailbox.post(Way::There, b"request"), Posted::Here);
    assert!(mailbox.take(Way::There).is_some());
    let long = [0; MAILBOX_ROOM + 1];
    assert_eq!(mailbox.post(Way::Back, &long), Posted::Away);
}

fn killed_at(point: &str) {
    let home = Home {
        arena: ARENA.get().expect("is made"),
        me,
    };
    let arena = home.arena;
    let before = arena.stats().objects;
    let length = 64 + RawRwLock::READERS * 8;
    let (lock_at, once_at) = (
        arena.allocate(me(), length, Kind::RwLock).expect("memory"),
        arena
            .allocate(me(), size_of::<RawOnce>(), Kind::Once)
            .expect("memory"),
    );
    let lock: &RawRwLock = arena.object(lock_at, Kind::RwLock).expect("there");
    let readers: &[AtomicU64] = arena
        .objects(lock_at, Kind::RwLock, 64, RawRwLock::READERS)
        .expect("there");
    let once: &RawOnce = arena.object(once_at, Kind::Once).expect("there");
    let mailbox_at = arena
        .allocate(me(), size_of::<RawMailbox>(), Kind::Mailbox)
        .expect("memory");
    let mailbox: &RawMailbox = arena.object(mailbox_at, Kind::Mailbox).expect("there");
    let (seat, killed) = doomed::kill_at(arena, me(), point, 1, |seat| {
        ME.store(seat.to_raw(), Ordering::SeqCst);
        work(home, lock, readers, once, mailbox);
    });
    assert!(killed, "{point} is not reached");

    let mut deaths = 0;
    let mut died = |who| {
        assert_eq!(who, seat);
        deaths += 1;
    };
    lock.read(arena, me(), readers, &mut seconds(10), &mut died)
        .unwrap_or_else(|error| panic!("{point}: reading: {error}"));
    lock.release_read(me(), readers);
    lock.write(arena, me(), readers, &mut seconds(10), &mut died)
        .unwrap_or_else(|error| panic!("{point}: writing: {error}"));
    lock.release_write();
    assert_eq!(deaths, u32::from(point == "rwlock: writes"), "{point}");
    assert_eq!(lock.readers(arena, readers), 0, "{point}");
    let turn = once.begin(arena, me(), &mut seconds(10)).expect("is free");
    match turn {
        Turn::Done => assert!(!point.starts_with("rwlock"), "{point}"),
        Turn::Mine { after_death } => {
            assert!(point.starts_with("rwlock") && !after_death, "{point}");
            once.give_up();
        }
    }
    // The request is there whole, or not at all; and so is the word that an answer is at the descriptor.
    let (there, back) = match point {
        "mailbox: read" => (Some(Arrived::Here), None),
        "mailbox: away" => (None, Some(Arrived::Away)),
        _ => (None, None),
    };
    let found = (mailbox.look(Way::There), mailbox.look(Way::Back));
    assert_eq!(found, (there, back), "{point}");
    let request = there.map(|_| b"request".to_vec());
    assert_eq!(mailbox.take(Way::There), request, "{point}");
    arena.reap(me(), seat);
    arena.release(me(), mailbox_at);
    arena.release(me(), lock_at);
    arena.release(me(), once_at);
    assert_eq!(arena.stats().objects, before, "{point}: objects are left");
}

#[test]
fn whoever_is_killed_wherever_leaves_locks_and_slices_in_order() {
    let arena = ARENA.get_or_init(|| Arena::create(256 << 20).expect("arena"));
    ME.store(
        arena.enroll("me").expect("a member").to_raw(),
        Ordering::SeqCst,
    );
    for point in LATER_POINTS {
        killed_at(point);
    }
}
