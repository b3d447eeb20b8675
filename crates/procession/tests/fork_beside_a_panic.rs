//! A fork while another thread is within the panic hook, which that thread holds a lock of the standard
//! library over. The hook is the whole process's, so these tests have a program to themselves.

mod support;

use std::sync::Mutex;
use std::sync::mpsc::channel;

use procession::{Process, StartMethod};
use support::{ms, watched};

const HELD: &str = "held in the hook";

fn forked() -> Option<u32> {
    let builder = Process::builder().start_method(StartMethod::Fork);
    let mut process = builder.kill_on_drop(true).spawn(|| 5, ()).ok()?;
    process.join_timeout(ms(20_000)).ok()?
}

#[procession::test]
fn a_child_forked_beside_a_panic_does_its_work() {
    let _watched = watched();
    let (entered, has_entered) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.payload().downcast_ref() == Some(&HELD) {
            entered.send(()).ok();
            released.lock().map(|released| released.recv().ok()).ok();
        } else {
            before(info);
        }
    }));
    assert_eq!(forked(), Some(5));

    let panicking = std::thread::spawn(|| std::panic::panic_any(HELD));
    has_entered.recv_timeout(ms(20_000)).unwrap();
    let forked = forked();
    drop(release);
    assert!(panicking.join().is_err());
    assert_eq!(forked, Some(5));

    // What the children panic with is noted, and its place.
    fn fail() {
        panic!("no");
    }
    let builder = Process::builder().start_method(StartMethod::Fork);
    let error = builder.spawn(fail, ()).unwrap().join().unwrap_err();
    let panic = error.panic().expect("it panicked");
    assert!(
        panic.message() == "no" && panic.place().is_some(),
        "{error}"
    );
}

#[procession::test]
fn a_child_forked_in_the_middle_of_a_panic_does_its_work() {
    let _watched = watched();
    struct Forks<'a>(&'a mut Option<u32>);
    impl Drop for Forks<'_> {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            *self.0 = forked();
        }
    }
    let mut result = None;
    let forks = Forks(&mut result);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _forks = forks;
        panic!("expected");
    }));
    assert!(caught.is_err());
    assert_eq!(result, Some(5));
}
