//! What a Rust programmer expects of types without reading about them: `for` loops, `{:?}` that fits a
//! line, an `unwrap` that says why, and texts in the program's own words.

mod support;

use std::fmt::Debug;

use procession::{
    Barrier, Condition, Error, Event, JoinError, JoinErrorKind, NamedSlice, Once, Pool, Process,
    Queue, Semaphore, SharedSlice, SharedVec, duplex, pipe, worker_state,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use support::{ms, watched};

#[procession::test]
fn a_for_loop_receives_until_no_more_can_come() {
    let _watched = watched();
    let queue = Queue::<u32>::unbounded().unwrap();
    let process = Process::spawn_with(queue.clone(), |queue| {
        queue.send_many(0..6).unwrap();
        queue.close();
    })
    .unwrap();
    let mut values = Vec::new();
    for value in &queue {
        values.push(value);
        if value == 2 {
            break;
        }
    }
    for value in queue {
        values.push(value);
    }
    assert_eq!(values, [0, 1, 2, 3, 4, 5]);
    process.join().unwrap();

    let (sender, receiver) = pipe::<u32>().unwrap();
    let process = Process::spawn_with(sender, |sender| {
        sender.send_many(0..6).unwrap();
    })
    .unwrap();
    let mut values = Vec::new();
    for value in &receiver {
        values.push(value);
        if value == 2 {
            break;
        }
    }
    values.extend(receiver);
    assert_eq!(values, [0, 1, 2, 3, 4, 5]);
    process.join().unwrap();

    let (here, there) = duplex::<(), u32>().unwrap();
    let process = Process::spawn_with(there, |there| there.send(7).unwrap()).unwrap();
    let mut values = Vec::new();
    for value in &here {
        values.push(value);
    }
    assert_eq!(values, [7]);
    process.join().unwrap();
}

#[procession::test]
fn a_for_loop_goes_over_a_shared_array() {
    let _watched = watched();
    let mut numbers = SharedVec::<u64>::zeroed(3).unwrap();
    for (number, index) in (&mut numbers).into_iter().zip(1..) {
        *number = index;
    }
    numbers.as_mut()[2] += 7;
    let mut sum = 0;
    for number in &numbers {
        sum += number;
    }
    let numbers = numbers.freeze();
    for number in &numbers {
        sum += number;
    }
    assert_eq!(sum, 26);
    fn equal<T: Eq>(one: &T, other: &T) -> bool {
        one == other
    }
    assert!(equal(
        &numbers,
        &SharedSlice::from_slice(&[1, 2, 10]).unwrap()
    ));
}

#[procession::test]
fn handles_print_themselves_in_a_line() {
    let _watched = watched();
    fn shows(handle: &dyn Debug, parts: &[&str]) {
        let text = format!("{handle:?}");
        assert!(
            text.len() < 100 && parts.iter().all(|part| text.contains(part)),
            "{text}"
        );
    }
    let semaphore = Semaphore::new(3).unwrap();
    let permit = semaphore.acquire();
    shows(&semaphore, &["Semaphore", "available: 2"]);
    shows(&permit, &["Permit"]);
    let event = Event::new().unwrap();
    event.set();
    shows(&event, &["Event", "set: true"]);
    let barrier = Barrier::new(2).unwrap();
    shows(
        &barrier,
        &["Barrier", "parties: 2", "waiting: 0", "broken: false"],
    );
    shows(&Condition::new().unwrap(), &["Condition"]);
    let once = Once::new().unwrap();
    once.call_once(|| ());
    shows(&once, &["Once", "completed: true"]);
    shows(&Queue::<u32>::bounded(2).unwrap(), &["Queue", "len: 0"]);
    shows(&pipe::<u32>().unwrap().1.into_iter(), &["IntoValues"]);
}

#[procession::test]
fn what_unwrap_prints_is_the_message() {
    let _watched = watched();
    fn fail() {
        std::process::exit(3)
    }
    let error: JoinError = Process::builder()
        .name("failing")
        .spawn(fail, ())
        .unwrap()
        .join()
        .unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(text, error.to_string());
    assert!(
        text.contains("failing") && text.contains("exit code 3"),
        "{text}"
    );
    // Through `?` nothing is lost.
    let error = Error::from(error);
    let why = error.join_error().expect("it is one");
    assert_eq!((why.exit_code(), why.name()), (Some(3), "failing"));
    let other = Queue::<u32>::bounded(1).unwrap().try_recv().unwrap_err();
    assert!(other.join_error().is_none());
}

#[procession::test]
fn a_result_that_was_had_is_not_a_process_without_one() {
    let _watched = watched();
    let mut process = Process::spawn(|| 5, ()).unwrap();
    assert_eq!(process.join_timeout(ms(60_000)).unwrap(), Some(5));
    let error = process.join_timeout(ms(60_000)).unwrap_err();
    assert_eq!(error.kind(), JoinErrorKind::Taken, "{error}");
    let error = process.join().unwrap_err();
    assert_eq!(error.kind(), JoinErrorKind::Taken, "{error}");
    assert!(error.to_string().contains("can be had once"), "{error}");

    // How a process ended that had no result can be asked again and again.
    let mut process = Process::spawn(|| -> () { std::process::exit(3) }, ()).unwrap();
    for _ in 0..2 {
        let error = process.join_timeout(ms(60_000)).unwrap_err();
        assert_eq!(error.kind(), JoinErrorKind::Exit, "{error}");
    }
}

/// Can't be serialised.
#[derive(Debug)]
struct Stubborn;

impl Serialize for Stubborn {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Stubborn, D::Error> {
        Ok(Stubborn)
    }
}

#[procession::test]
fn texts_name_what_the_program_knows() {
    let _watched = watched();
    let pool = Pool::new(1).unwrap();
    for error in [
        Process::spawn(|_: Stubborn| (), (Stubborn,)).unwrap_err(),
        pool.apply(|_: Stubborn| (), (Stubborn,)).unwrap_err(),
        Pool::builder()
            .initializer(|_: Stubborn| (), (Stubborn,))
            .build()
            .unwrap_err(),
        Process::builder()
            .setup(|_: Stubborn| (), (Stubborn,))
            .spawn(|| (), ())
            .unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("Stubborn"), "{text}");
        assert!(!text.contains("procession::"), "{text}");
    }

    // What a worker died of is told as what a process died of.
    let error = pool
        .apply(|| -> () { std::process::abort() }, ())
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("SIGABRT") && text.contains("its standard error says which"),
        "{text}"
    );

    let error = pool
        .apply(|| worker_state(|number: &mut u32| *number), ())
        .unwrap_err();
    let place = error
        .panic()
        .and_then(|panic| panic.place())
        .expect("it panicked");
    assert!(place.to_string().contains("conventions.rs"), "{place}");

    pool.close();
    let error = pool.apply(|| (), ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pool takes no more tasks: it was closed"
    );
    let error = Pool::new(0).unwrap_err();
    assert!(
        error.to_string().starts_with("a pool has from 1 to"),
        "{error}"
    );

    let error = Process::builder()
        .current_dir("/no/such/folder")
        .spawn(|| (), ())
        .unwrap_err();
    let text = format!("{error:?}");
    assert_eq!(text.matches("No such file").count(), 1, "{text}");

    let error = NamedSlice::<u32>::open("procession-no-such-array").unwrap_err();
    assert!(
        error.to_string().contains("\"procession-no-such-array\""),
        "{error}"
    );
}
