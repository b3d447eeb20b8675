//! Tasks through a pool of two: `cargo bench -p procession-engine`.

mod workers;

use std::time::Duration;

use criterion::{Criterion, Throughput};
use procession_engine::Patience;
use procession_engine::pool::{Pool, Reply, Submission};

use crate::workers::{message, pool};

const BATCH: u64 = 1000;

fn collect(job: &procession_engine::pool::Job, count: u64) {
    for _ in 0..count {
        let (_, reply) = job
            .next(&mut Patience::forever())
            .expect("no time limit")
            .expect("one for each");
        assert!(matches!(reply, Reply::Done(_)), "the worker lives");
    }
}

fn tasks(criterion: &mut Criterion, pool: &Pool) {
    let mut group = criterion.benchmark_group("pool of 2");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("one job of 1000 tasks", |bencher| {
        bencher.iter(|| {
            let job = pool.job().expect("is running");
            for _ in 0..BATCH {
                job.submit(Submission::bytes(&mut message(b"task")))
                    .expect("memory");
            }
            job.seal();
            collect(&job, BATCH);
        });
    });
    group.bench_function("1000 jobs of one task", |bencher| {
        bencher.iter(|| {
            let jobs: Vec<_> = (0..BATCH)
                .map(|_| {
                    let job = pool.job().expect("is running");
                    job.submit_only(Submission::bytes(&mut message(b"task")))
                        .expect("memory");
                    job
                })
                .collect();
            for job in &jobs {
                collect(job, 1);
            }
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("there and back", |bencher| {
        bencher.iter(|| {
            let job = pool.job().expect("is running");
            job.submit_only(Submission::bytes(&mut message(b"task")))
                .expect("memory");
            collect(&job, 1);
        });
    });
    group.finish();
}

fn main() {
    let pool = pool(2);
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    tasks(&mut criterion, &pool);
    criterion.final_summary();
    pool.close();
    pool.join(&mut Patience::timeout(Duration::from_secs(20)))
        .expect("the workers end");
}
