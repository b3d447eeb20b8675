//! A program whose main takes another way in children than in their parent, and misses `init`
//! there: its starts fail and say why, and it does not multiply. It has a `main` of its own, so it
//! speaks the harness's language as far as needed.

#![allow(clippy::print_stdout, reason = "the harness reads it")]

use std::time::{Duration, Instant};

use procession::{JoinErrorKind, Process, StartMethod};

fn main() {
    if std::env::var_os("PROCESSION_CHILD").is_some() {
        go_wrong();
    }
    procession::init();
    let has = |argument: &str| std::env::args().any(|given| given == argument);
    if !has("--list") {
        the_parent_is_told();
        println!("ok");
    } else if !has("--ignored") {
        println!("a_child_that_misses_init_is_told_apart: test");
    }
}

/// What the code behind a missing `init` would do: what its parent did.
fn go_wrong() -> ! {
    let error = Process::spawn(|| (), ()).expect_err("nothing can be started here");
    assert!(error.is_not_initialised(), "{error}");
    std::process::exit(23)
}

fn the_parent_is_told() {
    let began = Instant::now();
    let process = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(|| 1, ());
    let error = process
        .expect("it is started")
        .join()
        .expect_err("and never comes to its function");
    assert_eq!(error.exit_code(), Some(23));
    assert_eq!(error.kind(), JoinErrorKind::NotInitialised);
    assert!(error.to_string().contains("procession::init()"), "{error}");

    let process = Process::builder()
        .start_method(StartMethod::ForkServer)
        .spawn(|| 1, ());
    let error = process.expect_err("the server does not come up");
    assert!(error.to_string().contains("procession::init()"), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}
