//! What workers of a pool have around them, and what they may use: as of any process, and for those that
//! take a dead one's place too.

mod support;

use std::fs::File;
use std::io::Read;

use procession::{Pool, PoolBuilder, Resource, StartMethod, Stdio};
use support::{METHODS, descriptors, ms, until, watched};

fn by(method: StartMethod) -> PoolBuilder {
    Pool::builder().workers(1).start_method(method)
}

fn surroundings() -> (Option<String>, Option<String>, String) {
    let variable = |name| std::env::var(name).ok();
    let folder = std::env::current_dir().unwrap();
    let folder = folder.to_str().unwrap().to_owned();
    (
        variable("PROCESSION_ONE"),
        variable("PROCESSION_TWO"),
        folder,
    )
}

fn name() -> String {
    procession::current_process().name().to_owned()
}

/// Its first worker is replaced.
fn lose_a_worker(pool: &Pool) {
    let lost = pool.apply(|()| -> () { std::process::abort() }, ());
    assert!(lost.unwrap_err().is_worker_lost());
}

#[procession::test]
fn surroundings_hold_for_every_worker_by_every_start_method() {
    let _watched = watched();
    for method in METHODS {
        let pool = by(method)
            .name("decoder")
            .env("PROCESSION_ONE", "1")
            .envs([("PROCESSION_TWO", "2")])
            .env_remove("PROCESSION_TWO")
            .current_dir("/")
            .build()
            .unwrap();
        let expected = (Some("1".to_owned()), None, "/".to_owned());
        assert_eq!(
            pool.apply(surroundings, ()).unwrap(),
            expected,
            "{method:?}"
        );
        assert_eq!(pool.apply(name, ()).unwrap(), "decoder-1");
        lose_a_worker(&pool);
        assert_eq!(
            pool.apply(surroundings, ()).unwrap(),
            expected,
            "{method:?}"
        );
        assert_eq!(pool.apply(name, ()).unwrap(), "decoder-2");
        pool.join().unwrap();
    }
    assert_eq!(std::env::var("PROCESSION_ONE").ok(), None);
}

#[procession::test]
fn what_workers_write_goes_where_it_is_to() {
    let _watched = watched();
    let open = descriptors();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let pool = by(method)
            .stdin(Stdio::null())
            .stderr(writer)
            .build()
            .unwrap();
        let speak = |text: String| {
            assert_eq!(std::io::stdin().read(&mut [0; 8]).unwrap(), 0);
            eprintln!("{text}");
        };
        pool.apply(speak, "one".to_owned()).unwrap();
        lose_a_worker(&pool);
        pool.apply(speak, "two".to_owned()).unwrap();
        pool.join().unwrap();
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert!(
            said.starts_with("one\n") && said.ends_with("two\n"),
            "{said}"
        );
    }
    let piped = Pool::builder().stdout(Stdio::piped()).build().unwrap_err();
    assert!(
        piped.to_string().contains("nobody has the other end"),
        "{piped}"
    );
    let gone = Pool::builder()
        .workers(1)
        .current_dir("/no/such/folder")
        .build();
    assert!(gone.unwrap_err().to_string().contains("/no/such/folder"));
    // The thread that closes the last ones may still be at it.
    until(ms(20_000), || (descriptors() <= open + 2).then_some(())).expect("no descriptor is left");
}

#[procession::test]
fn limits_cost_the_task_that_goes_beyond_them() {
    let _watched = watched();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let devnull = File::options().write(true).open("/dev/null").unwrap();
        let pool = by(method)
            .memory_limit(128 << 20)
            .cpu_limit(ms(1000))
            .limit(Resource::OpenFiles, 64, 64)
            .nice(3)
            .stderr(devnull)
            .build()
            .unwrap();
        let take = |bytes: usize| vec![1_u8; bytes].len();
        let greedy = pool.apply(take, 512 << 20).unwrap_err();
        assert!(greedy.is_worker_lost(), "{method:?}: {greedy}");
        assert_eq!(pool.apply(take, 1 << 20).unwrap(), 1 << 20);
        let files = || {
            let open: Vec<_> = (0..100)
                .map_while(|_| File::open("/dev/null").ok())
                .collect();
            open.len()
        };
        assert!(pool.apply(files, ()).unwrap() < 64);
        // Once will do: it takes a second of the processor.
        if method == StartMethod::ForkServer {
            let endless = |mut x: u64| {
                while x > 0 {
                    x = std::hint::black_box(x);
                }
            };
            let endless = pool.apply(endless, 1);
            assert!(endless.unwrap_err().is_worker_lost());
        }
        assert_eq!(pool.apply(take, 1 << 20).unwrap(), 1 << 20);
        pool.join().unwrap();
    }
}

fn enter(folder: String) -> std::io::Result<()> {
    std::env::set_current_dir(folder)
}

#[procession::test]
fn a_hook_runs_before_the_initializer_and_its_failure_breaks_the_pool() {
    let _watched = watched();
    for method in METHODS {
        let pool = by(method)
            .setup(enter, "/proc".to_owned())
            .worker_state(surroundings, ())
            .build()
            .unwrap();
        let seen = |()| {
            procession::worker_state(|seen: &mut (Option<String>, Option<String>, String)| {
                seen.2.clone()
            })
        };
        assert_eq!(pool.apply(seen, ()).unwrap(), "/proc", "{method:?}");
        lose_a_worker(&pool);
        assert_eq!(pool.apply(seen, ()).unwrap(), "/proc", "{method:?}");
        pool.join().unwrap();
    }
    let fails: [(PoolBuilder, &str); 3] = [
        (
            Pool::builder().setup(enter, "/no/such/folder".to_owned()),
            "No such file or directory",
        ),
        (
            Pool::builder().setup(|| -> () { panic!("no sandbox") }, ()),
            "no sandbox",
        ),
        (
            Pool::builder().limit(Resource::OpenFiles, u64::MAX - 1, u64::MAX - 1),
            "open files can't be limited",
        ),
    ];
    for (builder, why) in fails {
        let pool = builder.workers(1).build().unwrap();
        let error = pool.apply(name, ()).unwrap_err();
        assert!(error.is_broken(), "{error}");
        let cause = std::error::Error::source(&error)
            .expect("it has one")
            .to_string();
        assert!(cause.contains(why), "{cause}");
        assert!(pool.join().unwrap_err().is_broken());
    }
}
