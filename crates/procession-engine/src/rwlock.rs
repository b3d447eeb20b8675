//! A lock for readers and writers that any member can use, and what is done once for all of them.

use std::sync::atomic::AtomicU64;

pub use procession_shm::Turn;
use procession_shm::{Gone, Handle, Kind, MemberId, RawOnce, RawRwLock, Readiness, WaitError};

use crate::diagnostics::{no_owners, watching};
use crate::family::Held;
use crate::sync::{self, Owner};
use crate::{MakeError, Patience};

/// Many readers or one writer.
#[derive(Debug, Clone)]
pub struct RwLock {
    held: Held<RawRwLock>,
    readers: &'static [AtomicU64],
}

impl RwLock {
    /// A new lock, free.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<RwLock, MakeError> {
        let extra = RawRwLock::READERS * size_of::<AtomicU64>();
        let held = Held::new(Kind::RwLock, extra + PAD)?;
        let readers = readers(&held).map_err(MakeError::Gone)?;
        Ok(RwLock { held, readers })
    }

    /// The lock that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<RwLock, Gone> {
        let held = Held::from_handle(handle, Kind::RwLock)?;
        let readers = readers(&held)?;
        Ok(RwLock { held, readers })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn look_to_read(&self) -> Readiness<'static> {
        self.held.get().look_to_read(self.held.family.arena())
    }

    pub(crate) fn look_to_write(&self) -> Readiness<'static> {
        let arena = self.held.family.arena();
        self.held.get().look_to_write(arena, self.readers)
    }

    pub(crate) fn raw(&self) -> &'static RawRwLock {
        self.held.get()
    }

    /// Which member this process is: a guard that a forked child finds in its memory is not its own.
    pub fn me(&self) -> MemberId {
        self.held.family.me()
    }

    /// Becomes a reader, waiting as long as `patience` lasts. `died` is called before anyone else gets
    /// the lock, with the process id (0 if not known) of a writer that ended while it had it.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn read(
        &self,
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(u32),
    ) -> Result<(), WaitError> {
        let (arena, me) = (self.held.family.arena(), self.me());
        let (lock, readers) = (self.held.get(), self.readers);
        if lock.try_read(me, readers) {
            return Ok(());
        }
        let mut died = |member| died(arena.member(member).map_or(0, |info| info.pid));
        self.watching(patience, |patience| {
            lock.read(arena, me, readers, patience, &mut died)
        })
    }

    /// Becomes the writer, waiting as long as `patience` lasts. `died` as in [`read`](Self::read).
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn write(
        &self,
        patience: &mut Patience<'_>,
        died: &mut dyn FnMut(u32),
    ) -> Result<(), WaitError> {
        let (arena, me) = (self.held.family.arena(), self.me());
        let (lock, readers) = (self.held.get(), self.readers);
        let mut died = |member| died(arena.member(member).map_or(0, |info| info.pid));
        self.watching(patience, |patience| {
            lock.write(arena, me, readers, patience, &mut died)
        })
    }

    fn watching<T>(
        &self,
        patience: &mut Patience<'_>,
        call: impl FnOnce(&mut Patience<'_>) -> T,
    ) -> T {
        let family = self.held.family;
        let holders = || self.held.get().holders(family.arena(), self.readers);
        watching(
            family,
            self.handle(),
            Kind::RwLock,
            &holders,
            patience,
            call,
        )
    }

    /// Is a reader no more.
    pub fn release_read(&self) {
        self.held.get().release_read(self.me(), self.readers);
    }

    /// Is the writer no more. To be called by it.
    pub fn release_write(&self) {
        self.held.get().release_write();
    }

    /// The writer, or one that waits for readers to go.
    pub fn writer(&self) -> Option<Owner> {
        sync::owner(self.held.family, self.held.get().writer(), None)
    }

    /// How many readers there are, about: the dead are counted until a writer comes.
    pub fn readers(&self) -> u32 {
        self.held
            .get()
            .readers(self.held.family.arena(), self.readers)
    }
}

/// So that the words of the readers begin aligned.
const PAD: usize = size_of::<RawRwLock>().next_multiple_of(64) - size_of::<RawRwLock>();

fn readers(held: &Held<RawRwLock>) -> Result<&'static [AtomicU64], Gone> {
    let skip = size_of::<RawRwLock>() + PAD;
    let arena = held.family.arena();
    arena.objects(held.handle(), Kind::RwLock, skip, RawRwLock::READERS)
}

/// Something that one member does, for all.
#[derive(Debug, Clone)]
pub struct Once {
    held: Held<RawOnce>,
}

impl Once {
    /// A new one, not done.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Once, MakeError> {
        Held::new(Kind::Once, 0).map(|held| Once { held })
    }

    /// The one that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Once, Gone> {
        Held::from_handle(handle, Kind::Once).map(|held| Once { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    /// Whether it is done.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.held.get().is_done()
    }

    /// Waits, as long as `patience` lasts, until it is done or it is the caller's turn.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn begin(&self, patience: &mut Patience<'_>) -> Result<Turn, WaitError> {
        let family = self.held.family;
        let once = self.held.get();
        if once.is_done() {
            return Ok(Turn::Done);
        }
        watching(
            family,
            self.handle(),
            Kind::Once,
            &no_owners,
            patience,
            |patience| once.begin(family.arena(), family.me(), patience),
        )
    }

    /// It is done. To be called by whose turn it is.
    pub fn finish(&self) {
        self.held.get().finish();
    }

    /// Leaves it to the next. To be called by whose turn it is.
    pub fn give_up(&self) {
        self.held.get().give_up();
    }
}
