//! Arrays with a name, between programs that are not related.

mod support;

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use procession::{Event, NamedSlice, Process};
use support::{descriptors, ms, until, watched};

/// A name of this test's own, taken away at its end.
struct Name(String);

impl Name {
    fn new(what: &str) -> Name {
        Name(format!("procession-test-{what}-{}", std::process::id()))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/dev/shm").join(&self.0)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

fn kind(error: &procession::Error) -> Option<ErrorKind> {
    let cause = std::error::Error::source(error)?;
    Some(cause.downcast_ref::<std::io::Error>()?.kind())
}

#[procession::test]
fn it_is_found_by_its_name_and_stays_until_that_is_taken_away() {
    let _watched = watched();
    let name = Name::new("stays");
    // So that the fork server is there.
    Process::spawn(|| (), ()).unwrap().join().unwrap();
    let open = descriptors();
    let here = NamedSlice::<u32>::create(&name.0, 1000).unwrap();
    let mode = std::fs::metadata(name.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let process = Process::spawn(
        |name: String| {
            let there = NamedSlice::<u32>::open(&name).unwrap();
            assert_eq!(there.len(), 1000);
            there.write().unwrap()[999] = 5;
        },
        name.0.clone(),
    );
    process.unwrap().join().unwrap();
    assert_eq!(here.read().unwrap()[999], 5);
    drop(here);
    let again = NamedSlice::<u32>::open(&name.0).unwrap();
    assert_eq!(again.read().unwrap()[999], 5);
    NamedSlice::<u32>::unlink(&name.0).unwrap();
    assert!(!name.path().exists());
    again.write().unwrap()[0] = 1;
    assert_eq!(again.read().unwrap()[0], 1);
    drop(again);
    until(ms(20_000), || (descriptors() == open).then_some(())).expect("no descriptor is left");
}

#[procession::test]
fn mistakes_are_errors() {
    let _watched = watched();
    let name = Name::new("mistakes");
    let none = NamedSlice::<u32>::open(&name.0).unwrap_err();
    assert_eq!(kind(&none), Some(ErrorKind::NotFound));
    assert_eq!(
        kind(&NamedSlice::<u32>::unlink(&name.0).unwrap_err()),
        Some(ErrorKind::NotFound)
    );
    for bad in ["", "a/b", "..", "/", "x\0"] {
        let error = NamedSlice::<u32>::create(bad, 1).unwrap_err();
        assert_eq!(kind(&error), Some(ErrorKind::InvalidInput), "{bad:?}");
    }
    let _one = NamedSlice::<u32>::create(&name.0, 1).unwrap();
    let twice = NamedSlice::<u32>::create(&name.0, 1).unwrap_err();
    assert_eq!(kind(&twice), Some(ErrorKind::AlreadyExists));
    let other = NamedSlice::<u64>::open(&name.0).unwrap_err();
    assert_eq!(kind(&other), Some(ErrorKind::InvalidData));
    // Something else under that name.
    let file = Name::new("file");
    std::fs::write(file.path(), [0; 200]).unwrap();
    let error = NamedSlice::<u8>::open(&file.0).unwrap_err();
    assert_eq!(kind(&error), Some(ErrorKind::InvalidData));
    std::fs::write(file.path(), [0; 3]).unwrap();
    assert!(NamedSlice::<u8>::open(&file.0).is_err());
    let link = Name::new("link");
    std::os::unix::fs::symlink(name.path(), link.path()).unwrap();
    assert!(NamedSlice::<u32>::open(&link.0).is_err());
}

#[procession::test]
fn readers_share_a_writer_is_alone_and_its_death_is_told() {
    let _watched = watched();
    let name = Name::new("locks");
    let here = NamedSlice::<u64>::create(&name.0, 4).unwrap();
    let reading = (here.read().unwrap(), here.try_read().unwrap().unwrap());
    assert!(here.try_write().is_none());
    drop(reading);
    let held = Event::new().unwrap();
    let writer = Process::spawn(
        |name: String, held: Event| {
            let there = NamedSlice::<u64>::open(&name).unwrap();
            let mut guard = there.write().unwrap();
            guard[1] = 7;
            held.set();
            std::thread::sleep(ms(60_000));
        },
        (name.0.clone(), held.clone()),
    )
    .unwrap();
    held.wait();
    assert!(here.try_read().is_none() && here.try_write().is_none());
    writer.kill().unwrap();
    // Dropped, the error changes nothing.
    for _ in 0..2 {
        let unfinished = here.read().unwrap_err();
        assert_eq!(unfinished.pid(), writer.pid());
        assert_eq!(*unfinished.into_inner(), [0, 7, 0, 0]);
        assert_eq!(here.write().unwrap_err().pid(), writer.pid());
    }
    here.write().unwrap_err().into_inner()[1] = 0;
    assert_eq!(*here.read().unwrap(), [0; 4]);
    // A panic as well.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = here.write().unwrap();
        panic!("in the middle");
    }));
    assert!(panicked.is_err());
    assert_eq!(here.read().unwrap_err().pid(), std::process::id());
    drop(here.write().unwrap_err().into_inner());
    drop(here.write().unwrap());
}
