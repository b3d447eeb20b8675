//! Locks, semaphores, conditions, events and barriers that any member can use.
//!
//! Cloning one gives another name for the same object. None of them hangs on a dead process: who
//! waits finds out within 50 ms.

use std::sync::atomic::AtomicU32;

pub use procession_shm::{
    Acquired, Arrival, BarrierError, NotHeld, NotOwner, ReleaseError, Ticket, WaitError,
};
use procession_shm::{
    Gone, Handle, Kind, MemberId, RawBarrier, RawEvent, RawLock, RawRLock, RawSemaphore,
    RawWaitQueue, Readiness,
};

use crate::diagnostics::{no_owners, watching};
use crate::family::{Family, Held};
use crate::{MakeError, Patience};

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The process, by its place in the family.
    pub member: MemberId,
    /// Its process id.
    pub pid: u32,
    /// The thread, by the kernel's id.
    pub thread: u32,
    /// The process's name.
    pub name: String,
}

pub(crate) fn owner(
    family: &Family,
    member: Option<MemberId>,
    thread: Option<u32>,
) -> Option<Owner> {
    let member = member?;
    let info = family.members().into_iter().find(|info| info.id == member);
    let (pid, name) = info.map_or((0, String::from("(ended)")), |info| (info.pid, info.name));
    Some(Owner {
        member,
        pid,
        thread: thread.unwrap_or(0),
        name,
    })
}

/// Mutual exclusion between processes. May be released by another process or thread than acquired it.
#[derive(Debug, Clone)]
pub struct Lock {
    held: Held<RawLock>,
}

impl Lock {
    /// A new lock, free.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Lock, MakeError> {
        Held::new(Kind::Lock, 0).map(|held| Lock { held })
    }

    /// The lock that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Lock, Gone> {
        Held::from_handle(handle, Kind::Lock).map(|held| Lock { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn raw(&self) -> &'static RawLock {
        self.held.get()
    }

    /// Which member this process is: a guard that a forked child finds in its memory is not its own.
    pub fn me(&self) -> MemberId {
        self.held.family.me()
    }

    pub(crate) fn arena(&self) -> &'static procession_shm::Arena {
        self.held.family.arena()
    }

    /// Acquires it if it is free and its owner not dead, at once, without looking further.
    #[inline]
    pub fn try_take(&self) -> bool {
        self.held.get().try_take(self.held.family.me())
    }

    /// Acquires it, waiting as long as `patience` lasts. If the owner has died, it is acquired and
    /// the result says so.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    #[inline]
    pub fn acquire(&self, patience: &mut Patience<'_>) -> Result<Acquired, WaitError> {
        if self.try_take() {
            return Ok(Acquired::Clean);
        }
        self.acquire_slowly(patience)
    }

    #[inline(never)]
    fn acquire_slowly(&self, patience: &mut Patience<'_>) -> Result<Acquired, WaitError> {
        let (lock, family) = (self.held.get(), self.held.family);
        let (arena, me) = (family.arena(), family.me());
        watching(
            family,
            self.handle(),
            Kind::Lock,
            &no_owners,
            patience,
            |patience| lock.acquire(arena, me, patience),
        )
    }

    /// Releases it.
    ///
    /// # Errors
    /// When it is not held.
    #[inline]
    pub fn release(&self) -> Result<(), NotHeld> {
        self.held.get().release()
    }

    /// Whether anybody holds it.
    pub fn is_locked(&self) -> bool {
        self.held.get().owner().is_some()
    }

    /// Who holds it.
    pub fn owner(&self) -> Option<Owner> {
        owner(
            self.held.family,
            self.held.get().owner(),
            self.held.get().owner_thread(),
        )
    }

    /// How many sleep waiting for it, about.
    pub fn waiters(&self) -> u32 {
        self.held.get().waiters()
    }
}

/// Mutual exclusion between processes that a thread which holds it may acquire again.
#[derive(Debug, Clone)]
pub struct RLock {
    held: Held<RawRLock>,
}

impl RLock {
    /// A new lock, free.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<RLock, MakeError> {
        Held::new(Kind::RLock, 0).map(|held| RLock { held })
    }

    /// The lock that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<RLock, Gone> {
        Held::from_handle(handle, Kind::RLock).map(|held| RLock { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn look(&self) -> Readiness<'static> {
        let family = self.held.family;
        self.held.get().look(family.arena(), family.me())
    }

    pub(crate) fn unwatch(&self) {
        self.held.get().unwatch();
    }

    /// Acquires it if it is free or this thread's, at once, without looking further.
    #[inline]
    pub fn try_take(&self) -> bool {
        self.held.get().try_take(self.held.family.me(), 1)
    }

    /// Acquires it, or once more if this thread holds it.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    #[inline]
    pub fn acquire(&self, patience: &mut Patience<'_>) -> Result<Acquired, WaitError> {
        self.acquire_times(1, patience)
    }

    /// Acquires it several times at once, as [`release_all`](Self::release_all) undid it.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    #[inline]
    pub fn acquire_times(
        &self,
        times: u32,
        patience: &mut Patience<'_>,
    ) -> Result<Acquired, WaitError> {
        if self.held.get().try_take(self.held.family.me(), times) {
            return Ok(Acquired::Clean);
        }
        self.acquire_slowly(times, patience)
    }

    #[inline(never)]
    fn acquire_slowly(
        &self,
        times: u32,
        patience: &mut Patience<'_>,
    ) -> Result<Acquired, WaitError> {
        let (lock, family) = (self.held.get(), self.held.family);
        let (arena, me) = (family.arena(), family.me());
        watching(
            family,
            self.handle(),
            Kind::RLock,
            &no_owners,
            patience,
            |patience| lock.acquire(arena, me, times, patience),
        )
    }

    /// Undoes one acquire.
    ///
    /// # Errors
    /// When this thread does not hold it.
    #[inline]
    pub fn release(&self) -> Result<(), NotOwner> {
        self.held.get().release(self.held.family.me())
    }

    /// Undoes all acquires and says how many there were.
    ///
    /// # Errors
    /// When this thread does not hold it.
    pub fn release_all(&self) -> Result<u32, NotOwner> {
        self.held.get().release_all(self.held.family.me())
    }

    /// Whether this thread holds it.
    pub fn is_mine(&self) -> bool {
        self.held.get().is_mine(self.held.family.me())
    }

    /// Whether anybody holds it.
    pub fn is_locked(&self) -> bool {
        self.held.get().owner().is_some()
    }

    /// How many times its owner has acquired it.
    pub fn count(&self) -> u32 {
        self.held.get().count()
    }

    /// Who holds it.
    pub fn owner(&self) -> Option<Owner> {
        owner(
            self.held.family,
            self.held.get().owner(),
            self.held.get().owner_thread(),
        )
    }

    /// How many sleep waiting for it, about.
    pub fn waiters(&self) -> u32 {
        self.held.get().waiters()
    }
}

/// A counter of permits.
///
/// A bounded one (of up to 65,536 permits) knows who holds each: the permits of a process that died
/// go to whoever waits. A plain one does not; it may be used for signalling, and giving back would
/// make up a signal.
#[derive(Debug, Clone)]
pub struct Semaphore {
    held: Held<RawSemaphore>,
    owners: &'static [AtomicU32],
    kind: Kind,
}

impl Semaphore {
    /// A new semaphore with `value` permits, which may become more.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(value: u32) -> Result<Semaphore, MakeError> {
        let held: Held<RawSemaphore> = Held::new(Kind::Semaphore, 0)?;
        held.get().prepare(value, false);
        Ok(Semaphore {
            held,
            owners: &[],
            kind: Kind::Semaphore,
        })
    }

    /// A new semaphore that never has more than `value` permits.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn bounded(value: u32) -> Result<Semaphore, MakeError> {
        let held: Held<RawSemaphore> =
            Held::new(Kind::BoundedSemaphore, RawSemaphore::owner_bytes(value))?;
        held.get().prepare(value, true);
        let owners = owners(&held).map_err(MakeError::Gone)?;
        Ok(Semaphore {
            held,
            owners,
            kind: Kind::BoundedSemaphore,
        })
    }

    /// The semaphore that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Semaphore, Gone> {
        if let Ok(held) = Held::from_handle(handle, Kind::Semaphore) {
            return Ok(Semaphore {
                held,
                owners: &[],
                kind: Kind::Semaphore,
            });
        }
        let held = Held::from_handle(handle, Kind::BoundedSemaphore)?;
        let owners = owners(&held)?;
        Ok(Semaphore {
            held,
            owners,
            kind: Kind::BoundedSemaphore,
        })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn watch(&self) {
        self.held.get().watch();
    }

    pub(crate) fn unwatch(&self) {
        self.held.get().unwatch(self.owners);
    }

    pub(crate) fn look(&self) -> Readiness<'static> {
        let arena = self.held.family.arena();
        self.held.get().look(arena, self.owners)
    }

    /// Which member this process is: a permit that a forked child finds in its memory is not its own.
    pub fn me(&self) -> MemberId {
        self.held.family.me()
    }

    /// Whether it is bounded.
    pub fn is_bounded(&self) -> bool {
        self.kind == Kind::BoundedSemaphore
    }

    /// Takes a permit, waiting as long as `patience` lasts.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn acquire(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let (semaphore, family) = (self.held.get(), self.held.family);
        let (arena, me) = (family.arena(), family.me());
        if semaphore.try_take(me, self.owners) {
            return Ok(());
        }
        let owners = || RawSemaphore::owners(self.owners).collect();
        watching(
            family,
            self.handle(),
            self.kind,
            &owners,
            patience,
            |patience| semaphore.acquire(arena, me, self.owners, patience),
        )
    }

    /// Gives `count` permits back, or adds them.
    ///
    /// # Errors
    /// When there would be too many; then none is added.
    pub fn release(&self, count: u32) -> Result<(), ReleaseError> {
        self.held
            .get()
            .release(self.held.family.me(), self.owners, count)
    }

    /// Permits free now.
    pub fn value(&self) -> u32 {
        self.held.get().value(self.owners)
    }

    /// How many sleep waiting, about.
    pub fn waiters(&self) -> u32 {
        self.held.get().waiters()
    }
}

fn owners(held: &Held<RawSemaphore>) -> Result<&'static [AtomicU32], Gone> {
    let arena = held.family.arena();
    let skip = size_of::<RawSemaphore>();
    let count = (arena.length(held.handle())?.saturating_sub(skip)) / size_of::<AtomicU32>();
    arena.objects(held.handle(), Kind::BoundedSemaphore, skip, count)
}

/// What a condition is made of, beside its lock: the list of those who wait.
///
/// ```text
/// wait:    ticket = queue.enqueue();  lock.release();  queue.wait(ticket);
///          lock.acquire();  queue.give_up(ticket, true)
/// notify:  queue.notify(n);           as enqueue, while the lock is held
/// ```
#[derive(Debug, Clone)]
pub struct WaitQueue {
    held: Held<RawWaitQueue>,
}

impl WaitQueue {
    /// A new, empty one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<WaitQueue, MakeError> {
        Held::new(Kind::WaitQueue, 0).map(|held| WaitQueue { held })
    }

    /// The one that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<WaitQueue, Gone> {
        Held::from_handle(handle, Kind::WaitQueue).map(|held| WaitQueue { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    /// Joins the queue, while the lock is held. The ticket must be waited on.
    pub fn enqueue(&self) -> Ticket {
        self.held
            .get()
            .enqueue(self.held.family.arena(), self.held.family.me())
    }

    /// Waits to be notified, without the lock. The place is kept then, to be [given up](Self::give_up)
    /// once the lock is held again: should this process die before that, another is notified.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up; the place is given up then.
    pub fn wait(&self, ticket: Ticket, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let queue = self.held.get();
        let (arena, me) = (self.held.family.arena(), self.held.family.me());
        watching(
            self.held.family,
            self.handle(),
            Kind::WaitQueue,
            &no_owners,
            patience,
            |patience| queue.wait(arena, me, ticket, patience),
        )
    }

    /// Gives up a ticket instead of waiting on it, or after it was notified. If it was, and nobody `heard` of
    /// that, another is.
    pub fn give_up(&self, ticket: Ticket, heard: bool) {
        let (arena, me) = (self.held.family.arena(), self.held.family.me());
        self.held.get().give_up(arena, me, ticket, heard);
    }

    pub(crate) fn look(&self, ticket: Ticket) -> Readiness<'static> {
        let (arena, me) = (self.held.family.arena(), self.held.family.me());
        self.held.get().look(arena, me, ticket)
    }

    /// Lets the `count` longest-waiting go on, while the lock is held; says how many there were.
    pub fn notify(&self, count: u32) -> u32 {
        self.held
            .get()
            .notify(self.held.family.arena(), self.held.family.me(), count)
    }

    /// How many wait, about.
    pub fn waiters(&self) -> u32 {
        self.held.get().waiters()
    }
}

/// A flag to wait for.
#[derive(Debug, Clone)]
pub struct Event {
    held: Held<RawEvent>,
}

impl Event {
    /// A new one, not set.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Event, MakeError> {
        Held::new(Kind::Event, 0).map(|held| Event { held })
    }

    /// The one that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Event, Gone> {
        Held::from_handle(handle, Kind::Event).map(|held| Event { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn raw(&self) -> &'static RawEvent {
        self.held.get()
    }

    /// Sets it and lets through all who wait.
    pub fn set(&self) {
        self.held.get().set();
    }

    /// Clears it.
    pub fn clear(&self) {
        self.held.get().clear();
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.held.get().is_set()
    }

    /// Waits until it is set.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn wait(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let event = self.held.get();
        if event.is_set() {
            return Ok(());
        }
        watching(
            self.held.family,
            self.handle(),
            Kind::Event,
            &no_owners,
            patience,
            |patience| event.wait(patience),
        )
    }
}

/// A meeting point for a fixed number of parties.
#[derive(Debug, Clone)]
pub struct Barrier {
    held: Held<RawBarrier>,
    records: &'static [AtomicU32],
}

impl Barrier {
    /// A new one.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(parties: std::num::NonZeroU32) -> Result<Barrier, MakeError> {
        let held: Held<RawBarrier> =
            Held::new(Kind::Barrier, RawBarrier::record_bytes(parties.get()))?;
        held.get().prepare(parties.get());
        let records = records(&held).map_err(MakeError::Gone)?;
        Ok(Barrier { held, records })
    }

    /// The one that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Barrier, Gone> {
        let held = Held::from_handle(handle, Kind::Barrier)?;
        let records = records(&held)?;
        Ok(Barrier { held, records })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    /// Arrives, and waits for the others and for the leader's [`finish`](Self::finish). The leader,
    /// the last to arrive, does not wait: it runs what is to be run once, then calls `finish`, or
    /// `abort` if that failed.
    ///
    /// # Errors
    /// When the barrier is or gets broken: by a time-out, an abort, a reset, a party's death.
    pub fn arrive(&self, patience: &mut Patience<'_>) -> Result<Arrival, BarrierError> {
        let (barrier, family) = (self.held.get(), self.held.family);
        let (arena, me) = (family.arena(), family.me());
        watching(
            family,
            self.handle(),
            Kind::Barrier,
            &no_owners,
            patience,
            |patience| barrier.arrive(arena, me, self.records, patience),
        )
    }

    /// The leader lets the others through.
    ///
    /// # Errors
    /// When the barrier was broken meanwhile.
    pub fn finish(&self, arrival: &Arrival) -> Result<(), BarrierError> {
        self.held.get().finish(arrival, self.records)
    }

    /// Breaks it.
    pub fn abort(&self) {
        self.held.get().abort();
    }

    /// Empties it; who waits gets an error.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn reset(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        self.held.get().reset(
            self.held.family.arena(),
            self.held.family.me(),
            self.records,
            patience,
        )
    }

    /// How many it takes.
    pub fn parties(&self) -> u32 {
        self.held.get().parties()
    }

    /// How many wait in it now.
    pub fn waiting(&self) -> u32 {
        self.held.get().waiting(self.records)
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.held.get().is_broken()
    }
}

fn records(held: &Held<RawBarrier>) -> Result<&'static [AtomicU32], Gone> {
    let count = held.get().parties() as usize * 2;
    held.family
        .arena()
        .objects(held.handle(), Kind::Barrier, size_of::<RawBarrier>(), count)
}
