//! Results as they come.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::{Fuse, FusedIterator};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "tokio")]
use crate::asynchronous::until;
use crate::engine::Patience;
use crate::engine::pool::{Job, Reply};
use crate::entry::EntryName;
use crate::error::{Error, Result};
use crate::pool::{submit, task};

/// So many items are with each worker, or on their way, before results are asked for.
const AHEAD: usize = 16;

/// In which order results are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    OfItems,
    OfResults,
}

/// The results of [`Pool::imap`](crate::Pool::imap) and
/// [`Pool::imap_unordered`](crate::Pool::imap_unordered): an iterator that waits for each.
///
/// Dropping it before its end throws away what was not yet given out.
#[must_use = "dropped, it throws away the results that were not given out"]
pub struct Imap<I, R> {
    job: Job,
    entry: EntryName,
    items: Fuse<I>,
    /// How many may be out.
    window: usize,
    out: usize,
    sealed: bool,
    order: Order,
    /// Replies that came before their turn.
    early: BTreeMap<u64, Reply>,
    next: u64,
    /// An item could not be sent: told when the results before it have been.
    failed: Option<Error>,
    result: PhantomData<fn() -> R>,
}

impl<I: Iterator, R> Imap<I, R> {
    pub(crate) fn new(
        job: Job,
        entry: EntryName,
        items: I,
        window: usize,
        order: Order,
    ) -> Imap<I, R> {
        Imap {
            job,
            entry,
            items: items.fuse(),
            window,
            out: 0,
            sealed: false,
            order,
            early: BTreeMap::new(),
            next: 0,
            failed: None,
            result: PhantomData,
        }
    }

    pub(crate) fn window_of(workers: usize) -> usize {
        workers * AHEAD
    }

    fn send(&mut self)
    where
        I::Item: Serialize,
    {
        while self.out < self.window && !self.sealed {
            match self
                .items
                .next()
                .map(|item| submit(&self.job, self.entry, &item))
            {
                Some(Ok(())) => {
                    self.out += 1;
                    continue;
                }
                Some(Err(error)) => self.failed = Some(error),
                None => {}
            }
            self.job.seal();
            self.sealed = true;
        }
    }

    /// The reply whose turn it is, of those that come while `patience` lasts; `Some(None)` when none will.
    fn reply(&mut self, patience: &mut Patience<'_>) -> Option<Option<Reply>> {
        let ordered = self.order == Order::OfItems;
        if ordered && let Some(reply) = self.early.remove(&self.next) {
            return Some(Some(reply));
        }
        loop {
            let Some((index, reply)) = self.job.next(patience).ok()? else {
                return Some(None);
            };
            if !ordered || index == self.next {
                return Some(Some(reply));
            }
            self.early.insert(index, reply);
        }
    }

    fn give(&mut self, reply: Option<Reply>) -> Result<R>
    where
        R: DeserializeOwned,
    {
        self.out -= 1;
        self.next += 1;
        reply.map_or_else(|| Err(Error::terminated()), task::open)
    }

    /// Gives the next result, in asynchronous code. Needs the feature `tokio`, and no particular runtime.
    /// `None` at the end. Dropped before it is done, it has taken none.
    #[cfg(feature = "tokio")]
    pub async fn next_async(&mut self) -> Option<Result<R>>
    where
        I::Item: Serialize,
        R: DeserializeOwned,
    {
        self.send();
        if self.out == 0 {
            return self.failed.take().map(Err);
        }
        let news = self.job.has_next();
        let reply = until(news, || self.reply(&mut Patience::none())).await;
        Some(reply.and_then(|reply| self.give(reply)))
    }
}

impl<I, R> Iterator for Imap<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = Result<R>;

    fn next(&mut self) -> Option<Result<R>> {
        self.send();
        if self.out == 0 {
            return self.failed.take().map(Err);
        }
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            if let Some(reply) = self.reply(&mut Patience::forever()) {
                return Some(self.give(reply));
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let more = self.out + usize::from(self.failed.is_some());
        if self.sealed {
            return (more, Some(more));
        }
        let (least, most) = self.items.size_hint();
        (
            least.saturating_add(more),
            most.and_then(|most| most.checked_add(more)),
        )
    }
}

impl<I, R> FusedIterator for Imap<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
}

impl<I, R> fmt::Debug for Imap<I, R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Imap")
            .field("out", &self.out)
            .field("given", &self.next)
            .finish_non_exhaustive()
    }
}
