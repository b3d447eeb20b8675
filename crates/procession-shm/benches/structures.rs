//! What each structure in shared memory costs when nobody else wants it: `cargo bench -p procession-shm`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use procession_shm::{
    Arena, Contents, Handle, Kind, MemberId, Patience, RawEvent, RawLock, RawQueue, RawRLock,
    RawSemaphore, Shared,
};

/// An arena and this process in it, for the whole run.
#[derive(Clone, Copy)]
struct Place {
    arena: &'static Arena,
    me: MemberId,
}

impl Place {
    fn new() -> Place {
        let arena: &'static Arena = Box::leak(Box::new(Arena::create(4 << 30).expect("memory")));
        let me = arena.enroll("bench").expect("room");
        Place { arena, me }
    }

    fn make<T: Shared>(self, kind: Kind) -> (Handle, &'static T) {
        let handle = self.arena.allocate(self.me, size_of::<T>(), kind);
        let handle = handle.expect("memory");
        (handle, self.arena.object(handle, kind).expect("is there"))
    }
}

fn locks(criterion: &mut Criterion, place: Place) {
    let Place { arena, me } = place;
    let mut group = criterion.benchmark_group("uncontended");
    let (_, lock) = place.make::<RawLock>(Kind::Lock);
    group.bench_function("lock: acquire, release", |bencher| {
        bencher.iter(|| {
            let _ = black_box(lock).acquire(arena, me, &mut Patience::forever());
            lock.release().expect("is ours");
        });
    });
    let (_, rlock) = place.make::<RawRLock>(Kind::RLock);
    group.bench_function("rlock: acquire, release", |bencher| {
        bencher.iter(|| {
            let _ = black_box(rlock).acquire(arena, me, 1, &mut Patience::forever());
            rlock.release(me).expect("is ours");
        });
    });
    let _ = rlock.acquire(arena, me, 1, &mut Patience::forever());
    group.bench_function("rlock that is ours: acquire, release", |bencher| {
        bencher.iter(|| {
            let _ = black_box(rlock).acquire(arena, me, 1, &mut Patience::forever());
            rlock.release(me).expect("is ours");
        });
    });
    let (_, semaphore) = place.make::<RawSemaphore>(Kind::Semaphore);
    semaphore.prepare(1, false);
    group.bench_function("semaphore: acquire, release", |bencher| {
        bencher.iter(|| {
            let _ = black_box(semaphore).acquire(arena, me, &[], &mut Patience::forever());
            semaphore.release(me, &[], 1).expect("has room");
        });
    });
    let (_, event) = place.make::<RawEvent>(Kind::Event);
    group.bench_function("event: set, wait, clear", |bencher| {
        bencher.iter(|| {
            black_box(event).set();
            event.wait(&mut Patience::forever()).expect("is set");
            event.clear();
        });
    });
    group.finish();
}

fn queues(criterion: &mut Criterion, place: Place) {
    let Place { arena, me } = place;
    let mut group = criterion.benchmark_group("queue: put, get");
    for (name, length) in [
        ("8 bytes", 8),
        ("1 KiB", 1 << 10),
        ("32 KiB", 32 << 10),
        ("1 MiB, a parcel", 1 << 20),
    ] {
        let (handle, queue) = place.make::<RawQueue>(Kind::Queue);
        queue.prepare(arena, me, handle, 0).expect("memory");
        let bytes = vec![7; length];
        let contents = Contents {
            bytes: &bytes,
            ..Contents::default()
        };
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                queue
                    .put(arena, me, handle, &contents, &mut Patience::forever())
                    .expect("memory");
                let entry = queue.get(arena, me, &mut Patience::forever(), &mut |_, _, _| {});
                match entry.expect("is there") {
                    procession_shm::Entry::Inline { bytes, .. } => assert_eq!(bytes.len(), length),
                    procession_shm::Entry::Parcel { handle, view } => {
                        assert_eq!(view.bytes.len(), length);
                        arena.release(me, handle);
                    }
                }
            });
        });
    }
    group.finish();
}

fn memory(criterion: &mut Criterion, place: Place) {
    let Place { arena, me } = place;
    let mut group = criterion.benchmark_group("arena: allocate, release");
    for (name, length) in [("64 bytes", 64), ("64 KiB", 64 << 10), ("16 MiB", 16 << 20)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let block = arena.allocate(me, black_box(length), Kind::Block);
                arena.release(me, block.expect("memory"));
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("parcel: write, read, release");
    let buffer = vec![7; 1 << 20];
    for (name, buffers) in [("bytes", &[][..]), ("and 1 MiB beside", &[&buffer[..]][..])] {
        let contents = Contents {
            bytes: b"a message",
            buffers,
            ..Contents::default()
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parcel = arena.write_parcel(me, &contents).expect("memory");
                let view = arena.read_parcel(parcel).expect("is there");
                assert_eq!(view.blocks.len(), buffers.len());
                arena.release(me, parcel);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let place = Place::new();
    locks(&mut criterion, place);
    queues(&mut criterion, place);
    memory(&mut criterion, place);
    criterion.final_summary();
}
