//! Waiting for several things at once, and without a thread for each.
//!
//! Everything that can be waited for is a [`Source`]. A thread waits for several with [`wait_any`].
//! Asynchronous code has itself woken, by [`watch`]: for that there is one thread per process (one more
//! for each further 100 waits), started with the first wait, which sleeps on the words of all
//! sources at once and looks at each of them at least every 50 ms, for deaths wake nobody.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake as TaskWake, Waker};
use std::thread;
use std::time::Duration;

pub use procession_shm::Readiness;
use procession_shm::WaitError;
use procession_sys::futex::{self, Wake};
use procession_sys::poll::{self, PollFd, PollFlags};

use crate::Patience;
use crate::per_process::PerProcess;
use crate::slice::DividedSlice;
use crate::{Event, Lock, Queue, RLock, RwLock, Semaphore, Ticket, WaitQueue};

/// How often all sources are looked at, whatever their words do.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How many sources one thread watches.
const SHARE: usize = 100;

/// Something that can be waited for together with others.
pub trait Source: Send + Sync {
    /// One waits, from here on; before the first look.
    fn watch(&self) {}

    /// The end of that. Hands on a wake-up that was not used.
    fn unwatch(&self) {}

    /// Whether it is ready; if not, what to sleep on. Called after each wake-up and every 50 ms.
    fn look(&self) -> Readiness<'static>;
}

/// A message in a queue, or its close.
#[derive(Debug, Clone)]
pub struct Message(pub Queue);

impl Source for Message {
    fn watch(&self) {
        self.0.raw().watch_messages();
    }

    fn unwatch(&self) {
        self.0.raw().unwatch_messages();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.raw().look_for_message()
    }
}

/// Room in a queue, or its close.
#[derive(Debug, Clone)]
pub struct Room(pub Queue);

impl Source for Room {
    fn watch(&self) {
        self.0.raw().watch_room();
    }

    fn unwatch(&self) {
        self.0.raw().unwatch_room();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.raw().look_for_room()
    }
}

/// That all messages of a queue are done.
#[derive(Debug, Clone)]
pub struct AllDone(pub Queue);

impl Source for AllDone {
    fn watch(&self) {
        self.0.raw().watch_done();
    }

    fn unwatch(&self) {
        self.0.raw().unwatch_done();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.raw().look_for_done()
    }
}

/// That an event is set.
#[derive(Debug, Clone)]
pub struct Set(pub Event);

impl Source for Set {
    fn watch(&self) {
        self.0.raw().watch();
    }

    fn unwatch(&self) {
        self.0.raw().unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.raw().look()
    }
}

/// That a lock is free, or its owner dead.
#[derive(Debug, Clone)]
pub struct Free(pub Lock);

impl Source for Free {
    fn unwatch(&self) {
        self.0.raw().unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        let (raw, arena) = (self.0.raw(), self.0.arena());
        raw.look(arena)
    }
}

/// That the calling thread can take a recursive lock. Who looks is who would take it: not for
/// [`watch`], whose looks are another thread's.
#[derive(Debug, Clone)]
pub struct FreeOrMine(pub RLock);

impl Source for FreeOrMine {
    fn unwatch(&self) {
        self.0.unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.look()
    }
}

/// That a permit of a semaphore is free, or its owner dead.
#[derive(Debug, Clone)]
pub struct Permit(pub Semaphore);

impl Source for Permit {
    fn watch(&self) {
        self.0.watch();
    }

    fn unwatch(&self) {
        self.0.unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.look()
    }
}

/// That a reader-writer lock has no writer, or a dead one.
#[derive(Debug, Clone)]
pub struct Readable(pub RwLock);

impl Source for Readable {
    fn unwatch(&self) {
        self.0.raw().unwatch();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.look_to_read()
    }
}

/// That a reader-writer lock has neither a writer nor readers that live.
#[derive(Debug, Clone)]
pub struct Writable(pub RwLock);

impl Source for Writable {
    fn watch(&self) {
        self.0.raw().watch_to_write();
    }

    fn unwatch(&self) {
        self.0.raw().unwatch_to_write();
    }

    fn look(&self) -> Readiness<'static> {
        self.0.look_to_write()
    }
}

/// That a chunk of a slice is free, or its holder dead.
#[derive(Debug, Clone)]
pub struct FreeChunk(pub DividedSlice, pub usize);

impl Source for FreeChunk {
    fn unwatch(&self) {
        self.0.unwatch(self.1);
    }

    fn look(&self) -> Readiness<'static> {
        self.0.look(self.1)
    }
}

/// That one who waits for a condition was notified.
#[derive(Debug, Clone)]
pub struct Notified(pub WaitQueue, pub Ticket);

impl Source for Notified {
    fn look(&self) -> Readiness<'static> {
        self.0.look(self.1)
    }
}

/// Sources that are being watched by this thread.
struct Watched<'a>(&'a [&'a dyn Source]);

impl<'a> Watched<'a> {
    fn begin(sources: &'a [&'a dyn Source]) -> Watched<'a> {
        for source in sources {
            source.watch();
        }
        Watched(sources)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        for source in self.0 {
            source.unwatch();
        }
    }
}

/// Waits until one of the sources or one of the descriptors is ready, and says which: the place of a
/// source, or that of a descriptor behind the sources. Of several that are ready the first counts,
/// beginning to look at `start`.
///
/// # Errors
/// When the time has passed or the interrupt hook asked to give up.
pub fn wait_any(
    sources: &[&dyn Source],
    descriptors: &[BorrowedFd<'_>],
    start: usize,
    patience: &mut Patience<'_>,
) -> Result<usize, WaitError> {
    let all = sources.len() + descriptors.len();
    let _watched = Watched::begin(sources);
    // Made only where it is needed: to sleep on words and descriptors at once.
    let mut bell = None;
    loop {
        let mut words = Vec::with_capacity(sources.len());
        let ended = ready(descriptors, Duration::ZERO);
        for step in 0..all {
            let at = (start + step) % all;
            match sources.get(at).map(|source| source.look()) {
                None if ended[at - sources.len()] => return Ok(at),
                None => {}
                Some(Readiness::Ready) => return Ok(at),
                Some(Readiness::NotYet(word, seen)) => words.push((word, seen)),
            }
        }
        if patience.is_over() {
            return Err(WaitError::TimedOut);
        }
        if descriptors.is_empty() {
            if futex::wait_any(&words, patience.slice(LOOK_AGAIN)) != Wake::Woken {
                patience
                    .check()
                    .or_else(|error| last_look(sources, error))?;
            }
            continue;
        }
        let slice = patience.slice(if words.is_empty() {
            Duration::from_secs(3600)
        } else {
            LOOK_AGAIN
        });
        if words.is_empty() {
            ready(descriptors, slice);
        } else {
            let bell = match &mut bell {
                Some(bell) => bell,
                // No descriptors left: shorter sleeps will do.
                None => match Bell::new() {
                    Ok(new) => bell.insert(new),
                    Err(_) => {
                        futex::wait_any(&words, slice.min(Duration::from_millis(2)));
                        patience
                            .check()
                            .or_else(|error| last_look(sources, error))?;
                        continue;
                    }
                },
            };
            bell.sleep(&words, descriptors, slice);
        }
        patience
            .check()
            .or_else(|error| last_look(sources, error))?;
    }
}

/// What came with the last of the time is not missed: another round is worth it.
fn last_look(sources: &[&dyn Source], error: WaitError) -> Result<(), WaitError> {
    let there = sources.iter().any(|source| source.look().is_ready());
    if there && error == WaitError::TimedOut {
        Ok(())
    } else {
        Err(error)
    }
}

fn ready(descriptors: &[BorrowedFd<'_>], at_most: Duration) -> Vec<bool> {
    if descriptors.is_empty() {
        return Vec::new();
    }
    let mut entries: Vec<_> = descriptors
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    // An error is shortage of memory in the kernel: nothing is known to be ready.
    let _ = poll::poll(&mut entries, Some(at_most));
    entries
        .iter()
        .map(|entry| !entry.revents().is_empty())
        .collect()
}

/// What the watching thread rings, so that words can be slept on with descriptors.
struct Bell(Arc<Ringer>);

struct Ringer(OwnedFd);

impl TaskWake for Ringer {
    fn wake(self: Arc<Ringer>) {
        poll::ring(self.0.as_fd());
    }
}

/// A word that is no longer as it was seen.
struct Changed(&'static AtomicU32, u32);

impl Source for Changed {
    fn look(&self) -> Readiness<'static> {
        if self.0.load(Ordering::SeqCst) == self.1 {
            Readiness::NotYet(self.0, self.1)
        } else {
            Readiness::Ready
        }
    }
}

impl Bell {
    fn new() -> io::Result<Bell> {
        poll::bell().map(|bell| Bell(Arc::new(Ringer(bell))))
    }

    fn sleep(
        &self,
        words: &[(&'static AtomicU32, u32)],
        descriptors: &[BorrowedFd<'_>],
        at_most: Duration,
    ) {
        let waker = Waker::from(Arc::clone(&self.0));
        let watches: Vec<_> = words
            .iter()
            .filter_map(|&(word, seen)| watch(Arc::new(Changed(word, seen)), &waker).ok())
            .collect();
        let mut all = descriptors.to_vec();
        all.push(self.0.0.as_fd());
        let at_most = if watches.len() < words.len() {
            at_most.min(Duration::from_millis(2))
        } else {
            at_most
        };
        ready(&all, at_most);
        drop(watches);
        poll::silence(self.0.0.as_fd());
    }
}

/// A source that is watched; dropped, it is watched no more.
pub struct Watch {
    /// `None` only while it is dropped.
    watcher: Option<Arc<Watcher>>,
    number: u64,
    /// In which process, counted in forks.
    home: u32,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

struct Entry {
    number: u64,
    source: Arc<dyn Source>,
    waker: Waker,
    /// Since the thread's last look.
    sleeps_on: Option<&'static AtomicU32>,
}

impl Entry {
    /// A waker is the program's: should it panic, the hook for panics has said so, and the others are
    /// woken all the same.
    fn wake(self) {
        drop(catch_unwind(AssertUnwindSafe(move || {
            self.waker.wake_by_ref()
        })));
    }

    /// A source that panics counts as ready: who waits for it looks itself, and the panic is then where it
    /// belongs; the others are watched as before.
    fn look(&self) -> Readiness<'static> {
        catch_unwind(AssertUnwindSafe(|| self.source.look())).unwrap_or(Readiness::Ready)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.source.unwatch();
    }
}

/// What a thread watches.
#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    /// What it may still sleep on for entries that were dropped. A wake-up that comes there meanwhile
    /// was another's.
    left: Vec<&'static AtomicU32>,
}

/// One thread and what it watches.
#[derive(Default)]
struct Watcher {
    entries: Mutex<Entries>,
    /// Changed when there is something new for the thread.
    bell: AtomicU32,
    numbers: std::sync::atomic::AtomicU64,
}

static WATCHERS: PerProcess<Vec<Arc<Watcher>>> = PerProcess::new();

/// Has `waker` woken, once, when the source is ready: at once if it is so already.
///
/// # Errors
/// When the thread for it can't be started.
pub fn watch(source: Arc<dyn Source>, waker: &Waker) -> io::Result<Watch> {
    let watcher = WATCHERS.with(|watchers| -> io::Result<Arc<Watcher>> {
        if let Some(watcher) = watchers
            .iter()
            .find(|watcher| watcher.entries().list.len() < SHARE)
        {
            return Ok(Arc::clone(watcher));
        }
        let watcher = Arc::new(Watcher::default());
        let runs = Arc::clone(&watcher);
        thread::Builder::new()
            .name("wait watch".into())
            .stack_size(128 << 10)
            .spawn(move || {
                procession_sys::process::block_all_signals();
                runs.run();
            })?;
        watchers.push(Arc::clone(&watcher));
        Ok(watcher)
    })?;
    let number = watcher.numbers.fetch_add(1, Ordering::Relaxed);
    source.watch();
    watcher.entries().list.push(Entry {
        number,
        source,
        waker: waker.clone(),
        sleeps_on: None,
    });
    watcher.ring();
    Ok(Watch {
        watcher: Some(watcher),
        number,
        home: procession_sys::thread::forks(),
    })
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(watcher) = self.watcher.take() else {
            return;
        };
        if self.home != procession_sys::thread::forks() {
            // The thread is another process's, and may have had the lock when that forked.
            std::mem::forget(watcher);
            return;
        }
        let entry = {
            let mut entries = watcher.entries();
            let mut list = entries.list.iter();
            let at = list.position(|entry| entry.number == self.number);
            let entry = at.map(|at| entries.list.swap_remove(at));
            entries
                .left
                .extend(entry.as_ref().and_then(|entry| entry.sleeps_on));
            entry
        };
        if entry
            .as_ref()
            .is_some_and(|entry| entry.sleeps_on.is_some())
        {
            watcher.ring();
        }
        // Outside of the lock: what the source holds may end with it.
        drop(entry);
    }
}

impl Watcher {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing can panic half-way through a change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.fetch_add(1, Ordering::SeqCst);
        futex::wake(&self.bell, 1);
    }

    fn run(&self) {
        loop {
            let heard = self.bell.load(Ordering::SeqCst);
            let (woken, words) = self.look();
            if !woken.is_empty() {
                for entry in woken {
                    entry.wake();
                }
                continue;
            }
            let at_most = if words.is_empty() {
                Duration::from_secs(3600)
            } else {
                LOOK_AGAIN
            };
            let mut all = vec![(&self.bell, heard)];
            all.extend(words);
            futex::wait_any(&all, at_most);
        }
    }

    /// Takes out what is ready, and says what the rest sleeps on. Wake-ups that came for what is
    /// watched no more are handed on: perhaps there was none.
    fn look(&self) -> (Vec<Entry>, Vec<(&'static AtomicU32, u32)>) {
        let mut entries = self.entries();
        let Entries { list, left } = &mut *entries;
        for word in left.drain(..) {
            futex::wake(word, 1);
        }
        let mut words = Vec::with_capacity(list.len());
        let mut woken = Vec::new();
        let mut at = 0;
        while at < list.len() {
            match list[at].look() {
                Readiness::Ready => woken.push(list.swap_remove(at)),
                Readiness::NotYet(word, seen) => {
                    list[at].sleeps_on = Some(word);
                    words.push((word, seen));
                    at += 1;
                }
            }
        }
        (woken, words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Panics;

    impl TaskWake for Panics {
        fn wake(self: Arc<Panics>) {
            panic!("this waker panics, to see what becomes of the others");
        }
    }

    struct Broken;

    impl Source for Broken {
        fn look(&self) -> Readiness<'static> {
            panic!("this source panics, to see what becomes of the others");
        }
    }

    #[test]
    fn a_source_that_panics_is_looked_at_by_who_waits_for_it_and_leaves_the_others_alone() {
        let word: &'static AtomicU32 = Box::leak(Box::default());
        let [bell, good_bell] = [(); 2].map(|()| Bell::new().expect("has descriptors"));
        let waker = |bell: &Bell| Waker::from(Arc::clone(&bell.0));
        let _good = watch(Arc::new(Changed(word, 0)), &waker(&good_bell)).expect("has a thread");
        let _broken = watch(Arc::new(Broken), &waker(&bell)).expect("has a thread");
        let rung = ready(&[bell.0.0.as_fd()], Duration::from_secs(20));
        assert_eq!(rung, [true], "the broken one's is woken");
        word.store(1, Ordering::SeqCst);
        futex::wake(word, u32::MAX);
        let rung = ready(&[good_bell.0.0.as_fd()], Duration::from_secs(20));
        assert_eq!(rung, [true], "the other's is woken");
    }

    #[test]
    fn a_waker_that_panics_leaves_the_others_alone() {
        let word: &'static AtomicU32 = Box::leak(Box::default());
        let bad = Waker::from(Arc::new(Panics));
        for _ in 0..3 {
            let seen = word.load(Ordering::SeqCst);
            let _bad = watch(Arc::new(Changed(word, seen)), &bad).expect("has a thread");
            let bell = Bell::new().expect("has descriptors");
            let good = Waker::from(Arc::clone(&bell.0));
            let _good = watch(Arc::new(Changed(word, seen)), &good).expect("has a thread");
            word.store(seen + 1, Ordering::SeqCst);
            futex::wake(word, u32::MAX);
            let rung = ready(&[bell.0.0.as_fd()], Duration::from_secs(20));
            assert_eq!(rung, [true], "it is woken");
        }
    }
}
