//! Shared memory in which somebody has written nonsense: whoever reads it is told, and does not
//! panic, ask for gigabytes, or go on for ever.

use std::time::{Duration, Instant};

use procession_shm::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Far more than any of it takes; a loop over what a garbled count says takes minutes.
const SOON: Duration = Duration::from_secs(20);

thread_local! {
    static PLACE: (&'static Arena, MemberId) = {
        let arena: &'static Arena = Box::leak(Box::new(Arena::create(1 << 30).expect("arena")));
        (arena, arena.enroll("me").expect("a member"))
    };
}

/// A word that is likely to do harm.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..4,
        (0u64..64).prop_map(|bit| 1 << bit),
        (0u64..64).prop_map(|bit| (1 << bit) - 1),
        (any::<u32>(), 0u32..70_000).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low)),
        (0u32..70_000, any::<u32>()).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_garbled_parcel_is_refused_or_read_within_its_bounds(
        words in vec((0usize..12, word()), 1..6),
        length in 0usize..2000,
        buffers in 0usize..3,
    ) {
        let (arena, me) = PLACE.with(|place| *place);
        let mentioned = arena.allocate(me, 64, Kind::Block).expect("memory");
        let buffer = [7u8; 5000];
        let contents = Contents {
            tag: 5,
            bytes: &vec![3; length],
            buffers: &[&buffer[..], &buffer[..]][..buffers.min(2)],
            mentions: &[mentioned],
        };
        let parcel = arena.write_parcel(me, &contents).expect("memory");
        let whole = arena.length(parcel).expect("is there");
        for (at, word) in words {
            // Beyond the end there is nothing to be written.
            let _ = arena.copy_in(parcel, Kind::Parcel, at * 8, &word.to_ne_bytes());
        }
        let began = Instant::now();
        if let Ok(view) = arena.read_parcel(parcel) {
            prop_assert!(view.bytes.len() <= whole);
            prop_assert!(8 * (view.blocks.len() + view.mentions.len()) <= whole);
        }
        arena.release(me, parcel);
        arena.release(me, mentioned);
        prop_assert!(began.elapsed() < SOON);
    }

    /// Of the queue's own words those that say where its messages lie; its locks are another matter.
    #[test]
    fn a_garbled_queue_is_refused_or_used_within_its_bounds(
        words in vec((prop_oneof![2usize..4, 10usize..12], word()), 1..4),
        messages in 0usize..6,
    ) {
        let (arena, me) = PLACE.with(|place| *place);
        let handle = arena.allocate(me, size_of::<RawQueue>(), Kind::Queue).expect("memory");
        let queue: &RawQueue = arena.object(handle, Kind::Queue).expect("is there");
        queue.prepare(arena, me, handle, 0).expect("memory");
        let put = |length: usize| {
            let contents = Contents { tag: 1, bytes: &vec![9; length], ..Contents::default() };
            queue.put(arena, me, handle, &contents, &mut Patience::none())
        };
        for message in 0..messages {
            put([10, 70_000, 0, 900, 60_000, 5][message]).expect("is sound as yet");
        }
        for (at, word) in words {
            arena.copy_in(handle, Kind::Queue, at * 8, &word.to_ne_bytes()).expect("lies in it");
        }
        let began = Instant::now();
        let _ = (queue.len(), queue.unfinished());
        for length in [10, 70_000] {
            let _ = put(length);
            let _ = queue.get(arena, me, &mut Patience::none(), &mut |_, _, _| {});
        }
        arena.release(me, handle);
        prop_assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    }
}
