//! Tasks that do nothing, through two workers.

use procession::Pool;

use crate::timing::Effort;

const WORKERS: usize = 2;

fn successor(x: u64) -> u64 {
    x + 1
}

/// The results of `count` tasks, each checked.
fn check(results: impl Iterator<Item = u64>, count: u64) -> u64 {
    let found = results
        .zip(1..)
        .inspect(|&(result, expected)| assert_eq!(result, expected));
    assert_eq!(found.count() as u64, count);
    count
}

/// Tasks submitted one by one, then their results taken one by one.
pub fn apply_async(contestant: &str, effort: Effort) -> f64 {
    match contestant {
        "procession" => {
            let count = effort.count(20_000);
            let pool = Pool::new(WORKERS).expect("starts");
            effort.per_item(|| {
                let tasks: Vec<_> = (0..count)
                    .map(|x| pool.apply_async(successor, x).expect("is taken"))
                    .collect();
                check(
                    tasks.into_iter().map(|task| task.get().expect("succeeds")),
                    count,
                )
            })
        }
        "procspawn" => {
            // More at a time need more descriptors than a process may have.
            let count = effort.count(100);
            let pool = procspawn::Pool::new(WORKERS).expect("starts");
            effort.per_item(|| {
                let tasks: Vec<_> = (0..count).map(|x| pool.spawn(x, successor)).collect();
                check(
                    tasks.into_iter().map(|task| task.join().expect("succeeds")),
                    count,
                )
            })
        }
        "rayon" => {
            let count = effort.count(20_000);
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(WORKERS)
                .build()
                .expect("starts");
            effort.per_item(|| {
                let (sender, results) = std::sync::mpsc::channel();
                for x in 0..count {
                    let sender = sender.clone();
                    pool.spawn(move || sender.send((x, successor(x))).expect("is waited for"));
                }
                drop(sender);
                let mut found: Vec<(u64, u64)> = results.into_iter().collect();
                found.sort_unstable();
                check(found.into_iter().map(|(_, result)| result), count)
            })
        }
        other => panic!("{other} has no pool"),
    }
}

/// A map with one task for each item.
pub fn map(contestant: &str, effort: Effort) -> f64 {
    let count = effort.count(20_000);
    match contestant {
        "procession" => {
            let pool = Pool::new(WORKERS).expect("starts");
            effort.per_item(|| {
                let results = pool.map_chunked(successor, 0..count, 1).expect("succeeds");
                check(results.into_iter(), count)
            })
        }
        "rayon" => {
            use rayon::prelude::*;
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(WORKERS)
                .build()
                .expect("starts");
            effort.per_item(|| {
                let items = (0..count as usize).into_par_iter().with_max_len(1);
                let results: Vec<u64> =
                    pool.install(|| items.map(|x| successor(x as u64)).collect());
                check(results.into_iter(), count)
            })
        }
        other => panic!("{other} has no map"),
    }
}
