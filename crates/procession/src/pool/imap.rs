//! Results as they come.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::{Fuse, FusedIterator};
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::pool::{Job, Reply};
use crate::entry::EntryName;
use crate::error::{Error, Result};
use crate::pool::{submit, task, wait_next};

/// So many items are with each worker, or on their way, before results are asked for.
const AHEAD: usize = 16;

/// The results of [`Pool::imap`](crate::Pool::imap) and
/// [`Pool::imap_unordered`](crate::Pool::imap_unordered): an iterator that waits for each.
///
/// Dropping it before its end throws away what was not yet given out.
pub struct Imap<I, R> {
    job: Job,
    entry: EntryName,
    items: Fuse<I>,
    /// How many may be out.
    window: usize,
    out: usize,
    sealed: bool,
    ordered: bool,
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
        workers: usize,
        ordered: bool,
    ) -> Imap<I, R> {
        Imap {
            job,
            entry,
            items: items.fuse(),
            window: workers * AHEAD,
            out: 0,
            sealed: false,
            ordered,
            early: BTreeMap::new(),
            next: 0,
            failed: None,
            result: PhantomData,
        }
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

    /// The reply whose turn it is.
    fn reply(&mut self) -> Option<Reply> {
        if self.ordered
            && let Some(reply) = self.early.remove(&self.next)
        {
            return Some(reply);
        }
        loop {
            let (index, reply) = wait_next(&self.job)?;
            if !self.ordered || index == self.next {
                return Some(reply);
            }
            self.early.insert(index, reply);
        }
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
        self.out -= 1;
        let reply = self.reply();
        self.next += 1;
        Some(reply.map_or_else(|| Err(Error::terminated()), task::open))
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
