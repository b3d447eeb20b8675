//! Queues of messages between the members of a family.

use std::num::NonZeroU32;

pub use procession_shm::{Front, GetError, PutError, Records, TooManyDone};
use procession_shm::{Gone, Handle, Kind, RawQueue, WaitError};

use crate::MakeError;
use crate::Patience;
use crate::diagnostics::{no_owners, watching};
use crate::family::Held;
use crate::message::{Message, Outgoing};

/// A queue: many producers, many consumers, first in, first out.
///
/// A message can be got as soon as `put` returns; a member that is killed in the middle of a put or
/// a get has done it or has not, and the queue works on.
#[derive(Debug, Clone)]
pub struct Queue {
    held: Held<RawQueue>,
}

impl Queue {
    /// A new queue of at most `capacity` messages, or without a limit.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(capacity: Option<NonZeroU32>) -> Result<Queue, MakeError> {
        let held: Held<RawQueue> = Held::new(Kind::Queue, 0)?;
        let (arena, me) = (held.family.arena(), held.family.me());
        let capacity = capacity.map_or(0, NonZeroU32::get);
        held.get()
            .prepare(arena, me, held.handle(), capacity)
            .map_err(MakeError::Memory)?;
        Ok(Queue { held })
    }

    /// The queue that somebody named.
    ///
    /// # Errors
    /// When it is gone.
    pub fn from_handle(handle: Handle) -> Result<Queue, Gone> {
        Held::from_handle(handle, Kind::Queue).map(|held| Queue { held })
    }

    /// Its name.
    pub fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn raw(&self) -> &'static RawQueue {
        self.held.get()
    }

    /// Puts a message at the end; waits for room as long as `patience` lasts.
    ///
    /// # Errors
    /// See [`PutError`]; the message is not in the queue then.
    pub fn put(&self, message: &Outgoing<'_>, patience: &mut Patience<'_>) -> Result<(), PutError> {
        let family = self.held.family;
        self.held.get().put(
            family.arena(),
            family.me(),
            self.handle(),
            &message.contents(),
            patience,
        )
    }

    /// Takes the message at the front; waits for one as long as `patience` lasts.
    ///
    /// # Errors
    /// See [`GetError`].
    pub fn get(&self, patience: &mut Patience<'_>) -> Result<Message, GetError> {
        self.get_with(patience, &mut |_, _, _| {})
    }

    /// The same; `taken` gets the message's number, tag and first bytes under the consumers' lock,
    /// just before the taking is committed. It must not block.
    ///
    /// # Errors
    /// See [`GetError`].
    pub fn get_with(
        &self,
        patience: &mut Patience<'_>,
        taken: &mut dyn FnMut(u32, u32, &[u8]),
    ) -> Result<Message, GetError> {
        let family = self.held.family;
        let entry = self
            .held
            .get()
            .get(family.arena(), family.me(), patience, taken)?;
        Message::from_entry(entry).map_err(|_| GetError::Gone)
    }

    /// Takes the message at the front if it is short, of bytes alone, and `judge` makes something of it;
    /// waits for nothing. `judge` runs under the consumers' lock, just before the taking is committed: it
    /// must not block. On `None` nothing was taken.
    #[inline]
    pub fn take_if<T>(&self, judge: impl FnOnce(Front<'_>) -> Option<T>) -> Option<T> {
        let family = self.held.family;
        self.held.get().take_if(family.arena(), family.me(), judge)
    }

    /// Puts several short messages at once, all or none, into a queue without a limit.
    ///
    /// # Errors
    /// See [`PutError`].
    pub(crate) fn put_records(
        &self,
        records: &Records,
        patience: &mut Patience<'_>,
    ) -> Result<(), PutError> {
        let family = self.held.family;
        self.held.get().put_records(
            family.arena(),
            family.me(),
            self.handle(),
            records,
            patience,
        )
    }

    /// Takes several short messages at once, at most `most` and about `size` bytes of them. None if there
    /// is none now, or the first is of another kind.
    ///
    /// # Errors
    /// When its memory was overwritten.
    pub(crate) fn take_records(
        &self,
        most: u32,
        size: usize,
        into: &mut Records,
    ) -> Result<(), GetError> {
        let family = self.held.family;
        self.held
            .get()
            .take_records(family.arena(), family.me(), most, size, into)
    }

    /// Waits until there is a message, without taking it. A closed queue counts.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn wait_readable(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        self.held.get().wait_readable(patience)
    }

    /// The same, or until there is something `elsewhere`: [`RawQueue::wait_readable_or`].
    pub(crate) fn wait_readable_or(
        &self,
        patience: &mut Patience<'_>,
        elsewhere: impl Fn() -> bool,
    ) -> Result<(), WaitError> {
        self.held.get().wait_readable_or(patience, elsewhere)
    }

    /// Wakes so many of those who sleep until there is a message: there is something for them elsewhere.
    pub(crate) fn wake_getters(&self, count: u32) {
        self.held.get().wake_getters(count);
    }

    /// If there is a message, has all who sleep until there is one look for themselves: the wake-up for it
    /// may have gone to one who died.
    pub fn rouse(&self) {
        self.held.get().rouse();
    }

    /// A watcher is about to show that there is no message; it has to look once more after this.
    pub fn begin_blind(&self) {
        self.held.get().begin_blind();
    }

    /// The watcher shows a message now, or is no more.
    pub fn end_blind(&self) {
        self.held.get().end_blind();
    }

    /// Whether there is a message that some watcher does not show yet.
    pub fn is_overlooked(&self) -> bool {
        self.held.get().is_overlooked()
    }

    /// Messages in it now.
    pub fn len(&self) -> u32 {
        self.held.get().len()
    }

    /// Whether it is empty now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most it may hold.
    pub fn capacity(&self) -> Option<NonZeroU32> {
        NonZeroU32::new(self.held.get().capacity())
    }

    /// Whether it is full now.
    pub fn is_full(&self) -> bool {
        self.capacity()
            .is_some_and(|capacity| self.len() >= capacity.get())
    }

    /// Messages ever taken, modulo 2^32: one of number `n` has been taken if this is past it.
    pub fn taken(&self) -> u32 {
        self.held.get().taken()
    }

    /// No more puts, in any process; gets go on until it is empty.
    pub fn close(&self) {
        self.held.get().close();
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.held.get().is_closed()
    }

    /// Reports one message done.
    ///
    /// # Errors
    /// When all that were put have been reported.
    pub fn task_done(&self) -> Result<(), TooManyDone> {
        self.held.get().task_done()
    }

    /// Messages put and not yet reported done.
    pub fn unfinished(&self) -> u32 {
        self.held.get().unfinished()
    }

    /// Waits until all messages put have been reported done.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn join(&self, patience: &mut Patience<'_>) -> Result<(), WaitError> {
        let queue = self.held.get();
        watching(
            self.held.family,
            self.handle(),
            Kind::Queue,
            &no_owners,
            patience,
            |patience| queue.join(patience),
        )
    }
}
