//! Who waits for what, written down so that a deadlock is seen from outside.
//!
//! Each member's entry has a few records, one for each of its threads that has waited for a while.
//! A record:
//!
//! | `thread` | `object` | meaning | changed by |
//! | --- | --- | --- | --- |
//! | 0 | any | free | a thread of the member, `thread` by compare-and-swap |
//! | a thread | 0 | being filled in, or given back | that thread |
//! | a thread | an object's word | it waits for that object, since `since` | that thread |
//!
//! They are for those who look, and nothing is decided by them: what is read may be a moment old.
//! The records of a dead member count for nothing, and are emptied when its entry is used again.
//! A thread that finds no free record waits unseen.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use procession_sys::thread;

use crate::arena::{Arena, Shared};
use crate::event::RawEvent;
use crate::handle::{Handle, Kind};
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::once::RawOnce;
use crate::ring::RawQueue;
use crate::rlock::RawRLock;
use crate::rwlock::RawRwLock;
use crate::semaphore::RawSemaphore;
use crate::slice;
use crate::wait_queue::RawWaitQueue;

/// Threads of one member whose waits are seen.
const RECORDS: usize = 16;
/// A circle of more than that many is not looked for.
const LONGEST_CIRCLE: usize = 64;

/// One thread's wait.
#[repr(C)]
#[derive(Debug)]
struct Record {
    object: AtomicU64,
    /// Nanoseconds of the machine's monotonic clock.
    since: AtomicU64,
    thread: AtomicU32,
    /// Of [`LIMITED`] and the others.
    flags: AtomicU32,
}

/// It ends by itself.
const LIMITED: u32 = 1;
/// It is that of a process's only thread: nothing else happens there meanwhile.
const LONE: u32 = 2;
/// Of a queue, it waits for room and not for a message.
const FOR_ROOM: u32 = 4;
/// Of a queue, it waits until all is done and not for a message.
const FOR_DONE: u32 = 8;

/// What a wait at a queue is for. All else has only one thing to wait for, and is waited for as a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A message.
    Message,
    /// Room for one.
    Room,
    /// All that were put are reported done.
    Done,
}

/// The waits of one member's threads.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Waits([Record; RECORDS]);

// SAFETY: repr(C), atomics only, no Drop; zeros are free records.
unsafe impl Shared for Waits {}

impl Waits {
    /// Nobody waits any more: the entry has a new user.
    pub(crate) fn clear(&self) {
        for record in &self.0 {
            record.object.store(0, Ordering::Relaxed);
            record.thread.store(0, Ordering::Relaxed);
        }
    }
}

/// A thread that has waited for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiter {
    /// Its process.
    pub member: MemberId,
    /// The thread, by the kernel's id.
    pub thread: u32,
    /// What it waits for.
    pub object: Handle,
    /// Whether it gives up by itself after some time.
    pub limited: bool,
    /// Whether nothing else happens in its process meanwhile.
    lone: bool,
    wanted: Wanted,
    since: u64,
}

impl Waiter {
    /// A wait of the calling thread, which begins now.
    pub fn beginning(member: MemberId, object: Handle, limited: bool) -> Waiter {
        Waiter {
            member,
            thread: thread::id(),
            object,
            limited,
            lone: false,
            wanted: Wanted::Message,
            since: thread::monotonic_nanoseconds(),
        }
    }

    /// The same without end, of the only thread of the process that could do anything.
    pub fn lone(member: MemberId, object: Handle, wanted: Wanted) -> Waiter {
        Waiter {
            lone: true,
            wanted,
            ..Waiter::beginning(member, object, false)
        }
    }

    fn flags(&self) -> u32 {
        [
            (self.limited, LIMITED),
            (self.lone, LONE),
            (self.wanted == Wanted::Room, FOR_ROOM),
            (self.wanted == Wanted::Done, FOR_DONE),
        ]
        .into_iter()
        .filter_map(|(set, flag)| set.then_some(flag))
        .sum()
    }

    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(thread::monotonic_nanoseconds().saturating_sub(self.since))
    }
}

/// The place where a wait is written down.
#[derive(Debug)]
#[must_use = "a wait that is not withdrawn is taken to go on"]
pub struct Published(usize);

impl Arena {
    /// Writes down that the calling thread waits, unless too many of its process do.
    pub fn publish_wait(&self, waiter: &Waiter) -> Option<Published> {
        let waits = self.waits_of(waiter.member);
        let index = waits.0.iter().position(|record| {
            record
                .thread
                .compare_exchange(0, waiter.thread, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        let record = &waits.0[index];
        // SYNC POINT: who finds one of these words finds the wait before withdrawn; see `read_record`.
        fence(Ordering::Release);
        record.since.store(waiter.since, Ordering::Relaxed);
        record.flags.store(waiter.flags(), Ordering::Relaxed);
        // SYNC POINT: `since` and `flags` become visible with `object`; see `read_record`.
        record
            .object
            .store(waiter.object.to_word(), Ordering::Release);
        Some(Published(index))
    }

    /// The wait is over.
    pub fn withdraw_wait(&self, waiter: &Waiter, published: Published) {
        let Some(record) = self.waits_of(waiter.member).0.get(published.0) else {
            return;
        };
        // In the child of a fork in the middle of a wait, the record is the parent's.
        if waiter.thread == thread::id() && record.thread.load(Ordering::Relaxed) == waiter.thread {
            record.object.store(0, Ordering::Release);
            record.thread.store(0, Ordering::Release);
        }
    }

    fn read_record(&self, member: MemberId, record: &Record) -> Option<Waiter> {
        let thread = record.thread.load(Ordering::Acquire);
        let word = record.object.load(Ordering::Acquire);
        if thread == 0 || word == 0 {
            return None;
        }
        let flags = record.flags.load(Ordering::Relaxed);
        let waiter = Waiter {
            member,
            thread,
            object: self.handle_from_word(word)?,
            limited: flags & LIMITED != 0,
            lone: flags & LONE != 0,
            wanted: match flags & (FOR_ROOM | FOR_DONE) {
                FOR_ROOM => Wanted::Room,
                FOR_DONE => Wanted::Done,
                _ => Wanted::Message,
            },
            since: record.since.load(Ordering::Relaxed),
        };
        // What was read between two sights of the same wait belongs to it.
        fence(Ordering::Acquire);
        let same = record.thread.load(Ordering::Acquire) == thread
            && record.object.load(Ordering::Acquire) == word;
        same.then_some(waiter)
    }

    fn waiters_of(&self, member: MemberId) -> impl Iterator<Item = Waiter> {
        let waits = self.waits_of(member);
        waits
            .0
            .iter()
            .filter_map(move |record| self.read_record(member, record))
    }

    /// Those who are known to wait for an object, dead ones left out.
    pub fn waiters_for(&self, object: Handle) -> Vec<Waiter> {
        let mut found: Vec<Waiter> = self
            .member_ids()
            .flat_map(|member| self.waiters_of(member))
            .filter(|waiter| waiter.object == object)
            .collect();
        found.retain(|waiter| !self.is_dead(waiter.member));
        found.sort_by_key(|waiter| waiter.since);
        found
    }

    /// The thread that holds a lock, if the object is a lock and one thread holds it: readers of a
    /// reader-writer lock are not known by thread, and a slice may have many chunks.
    pub fn holder_of(&self, object: Handle) -> Option<(MemberId, u32)> {
        match self.kind(object).ok()? {
            Kind::Lock => {
                let lock: &RawLock = self.object(object, Kind::Lock).ok()?;
                Some((lock.owner()?, lock.owner_thread()?))
            }
            Kind::RLock => {
                let lock: &RawRLock = self.object(object, Kind::RLock).ok()?;
                Some((lock.owner()?, lock.owner_thread()?))
            }
            Kind::RwLock => {
                let lock: &RawRwLock = self.object(object, Kind::RwLock).ok()?;
                lock.writing()
            }
            Kind::Once => {
                let once: &RawOnce = self.object(object, Kind::Once).ok()?;
                once.doing()
            }
            Kind::Chunks => slice::holder_of_only_chunk(self, object),
            _ => None,
        }
    }

    /// The circle of threads, each of which holds what the one before waits for, that begins and ends
    /// with `waiter`; nothing if there is none.
    ///
    /// What is read was not read in one instant. A circle that is found twice, with some time in
    /// between, was there: each of its waits has gone on all the while, and who waits lets go of
    /// nothing. Only another process or thread than the holder can end it, where that is allowed.
    pub fn circle(&self, waiter: &Waiter) -> Option<Vec<Waiter>> {
        let mut circle = vec![*waiter];
        let mut last = *waiter;
        loop {
            let (member, thread) = self.holder_of(last.object)?;
            if (member, thread) == (waiter.member, waiter.thread) {
                return Some(circle);
            }
            let known = |seen: &Waiter| (seen.member, seen.thread) == (member, thread);
            if circle.len() == LONGEST_CIRCLE || circle.iter().any(known) {
                return None;
            }
            last = self
                .waiters_of(member)
                .find(|waiter| waiter.thread == thread)?;
            circle.push(last);
        }
    }

    /// The waits that nobody is left to end, `waiter`'s among them: its process has lost its parent, and
    /// all who hold what it waits for wait like it, and so on. None if somebody may still come.
    ///
    /// What is read was not read in one instant. If the same is found twice, with some time in between, none
    /// of them did anything all the while; that what they wait for was not there is seen the second time.
    pub fn orphaned_waits(&self, waiter: &Waiter) -> Option<Vec<Waiter>> {
        let parent = self.member(waiter.member)?.parent?;
        if !self.is_dead(parent) {
            return None;
        }
        // What the dead were about to send holds nothing any more.
        self.reap_orphans(waiter.member);
        let mut found = vec![*waiter];
        let mut at = 0;
        while let Some(object) = found.get(at).map(|wait| wait.object) {
            at += 1;
            for holder in self.holders(waiter.member, object)? {
                if found.iter().any(|wait| wait.member == holder) {
                    continue;
                }
                let wait = self.waiters_of(holder).find(|wait| wait.lone)?;
                if found.len() == LONGEST_CIRCLE || !self.is_in_vain(&wait) {
                    return None;
                }
                found.push(wait);
            }
        }
        Some(found)
    }

    /// Whether what another process waits for is not there, for certain.
    fn is_in_vain(&self, wait: &Waiter) -> bool {
        if let Ok(queue) = self.object::<RawQueue>(wait.object, Kind::Queue) {
            return match wait.wanted {
                Wanted::Message => queue.is_empty() && !queue.is_closed(),
                Wanted::Room => queue.is_full() && !queue.is_closed(),
                Wanted::Done => queue.unfinished() != 0,
            };
        }
        if let Ok(waiters) = self.object::<RawWaitQueue>(wait.object, Kind::WaitQueue) {
            return waiters.is_waiting(wait.member);
        }
        if let Ok(semaphore) = self.object::<RawSemaphore>(wait.object, Kind::Semaphore) {
            return semaphore.value(&[]) == 0;
        }
        self.object::<RawEvent>(wait.object, Kind::Event)
            .is_ok_and(|event| !event.is_set())
    }
}
