//! What happens in a program whose `main` doesn't begin with `init`: an error, and no process. No
//! test in this file may call it, so these are ordinary tests.

use procession::{Lock, Pool, Process, StartMethod};

#[test]
fn starting_without_init_is_an_error_that_says_so() {
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let error = Process::builder()
            .start_method(method)
            .spawn(|x: u32| x, 1)
            .unwrap_err();
        assert!(error.is_not_initialised());
        let text = error.to_string();
        assert!(
            text.contains("procession::init()") && text.contains("main"),
            "{text}"
        );

        let error = Pool::builder()
            .workers(2)
            .start_method(method)
            .build()
            .unwrap_err();
        assert!(error.is_not_initialised(), "{error}");
    }
    let children =
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", std::process::id()));
    assert_eq!(children.unwrap_or_default(), "");
}

#[test]
fn what_starts_nothing_needs_no_init() {
    let lock = Lock::new(1).unwrap();
    *lock.lock().unwrap() += 1;
    assert_eq!(*lock.lock().unwrap(), 2);
}
