//! Starting a process that runs a function, and waiting for its result.

use procession::{Process, StartMethod};

use crate::timing::Effort;

fn successor(x: u64) -> u64 {
    x + 1
}

#[crossmist::func]
fn successor_by_crossmist(x: u64) -> u64 {
    x + 1
}

pub fn measure(contestant: &str, effort: Effort) -> f64 {
    let ours = |method| {
        move |x| {
            let child = Process::builder().start_method(method).spawn(successor, x);
            child.expect("starts").join().expect("ends well")
        }
    };
    let call: Box<dyn Fn(u64) -> u64> = match contestant {
        "procession" => Box::new(ours(StartMethod::ForkServer)),
        "procession spawn" => Box::new(ours(StartMethod::Spawn)),
        "procession fork" => Box::new(ours(StartMethod::Fork)),
        "procspawn" => Box::new(|x| procspawn::spawn(x, successor).join().expect("ends well")),
        "crossmist" => Box::new(|x| successor_by_crossmist.run(x).expect("ends well")),
        "std::thread" => Box::new(|x| {
            std::thread::spawn(move || successor(x))
                .join()
                .expect("ends well")
        }),
        other => panic!("{other} starts nothing"),
    };
    effort.per_item(|| {
        assert_eq!(call(1), 2);
        1
    })
}
