//! Where results come in: whoever waits collects them, for itself and for the others.
//!
//! There is no thread for it. Of the threads that wait, one is the **leader**: it waits on the
//! result queue and enters what comes into the book. The others are **followers** and sleep on a
//! word of their own; they are woken when what they wait for has come, or when the leader leaves.
//! One leader at a time also means that messages are entered in the order of the queue: the result
//! of a task always before the notice that its worker has died since.
//!
//! A thread leads for one sleep at a time and gives the lead up before it runs the caller's interrupt
//! hook: what runs there (a signal handler) may want to wait itself.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use procession_shm::{GetError, Patience, PutError, WaitError};
use procession_sys::{futex, thread};

use crate::message::{Message, Outgoing};
use crate::pool::Submission;
use crate::pool::error::{NotRunning, SubmitError};
use crate::pool::jobs::{Book, End, Interest, JobId, Todo};
use crate::pool::wire::{HEADER, Header, Notice};
use crate::queue::Queue;

/// Who waits looks for itself this often, should a wake-up be lost for want of memory.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a nudge may wait for its turn at the result queue.
const NUDGED_WITHIN: Duration = Duration::from_millis(20);
/// After this many submissions the results that are there are taken in, so that they don't pile up
/// in shared memory when nobody waits for them.
const COLLECT_EVERY: u32 = 128;

/// The parent's side of a pool's queues.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Of which process, counted in forks.
    home: u32,
    tasks: Queue,
    results: Queue,
    book: Mutex<Book>,
    leading: AtomicBool,
    followers: AtomicUsize,
    submissions: AtomicU32,
}

/// The lead, held.
struct Lead<'a>(&'a Desk);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let desk = self.0;
        desk.leading.store(false, Ordering::SeqCst);
        // SYNC POINT (lead): a follower counts itself before it tries to lead for the last time.
        // Either it gets the lead, or it is seen here.
        if desk.followers.load(Ordering::SeqCst) > 0 {
            desk.book().hand_over();
        }
    }
}

impl Desk {
    pub(crate) fn new(tasks: Queue, results: Queue) -> Desk {
        Desk {
            home: thread::forks(),
            tasks,
            results,
            book: Mutex::default(),
            leading: AtomicBool::new(false),
            followers: AtomicUsize::new(0),
            submissions: AtomicU32::new(0),
        }
    }

    pub(crate) fn tasks(&self) -> &Queue {
        &self.tasks
    }

    pub(crate) fn results(&self) -> &Queue {
        &self.results
    }

    /// Whether this is the process that made the pool. In a child forked from it the book may be
    /// locked, or half written, by a thread that does not exist there: it must not be touched.
    pub(crate) fn is_home(&self) -> bool {
        self.home == thread::forks()
    }

    /// Only at home.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // Each step of the book leaves it whole, so that a panic between two of them does no harm.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what a step of the book has left to do.
    pub(crate) fn act(&self, todo: Todo) {
        if todo.close_tasks {
            self.tasks.close();
        }
        if todo.nudge {
            self.nudge();
        }
    }

    /// Has the leader look again.
    fn nudge(&self) {
        let mut bytes = [0; HEADER];
        Header {
            notice: Notice::Nudge,
            job: 0,
            index: 0,
        }
        .write(&mut bytes);
        let nudge = Outgoing {
            bytes: &bytes,
            buffers: &[],
            handles: &[],
            tag: 0,
        };
        // Should there be no memory for 16 bytes, or a worker be stopped while it holds the lock of
        // the queue, the leader looks for itself when its slice of sleep is over.
        let _ = self
            .results
            .put(&nudge, &mut Patience::timeout(NUDGED_WITHIN));
    }

    /// Submits a task; with `only` the job is sealed with it.
    pub(crate) fn submit(
        &self,
        id: JobId,
        task: Submission<'_>,
        only: bool,
    ) -> Result<u64, SubmitError> {
        if !self.is_home() {
            return Err(NotRunning::Foreign.into());
        }
        // Sealing comes with the index, before the task is out: its reply then finds the job complete.
        let (index, todo) = if only {
            self.book().submit_only(id)?
        } else {
            (self.book().submit(id)?, Todo::NOTHING)
        };
        Header {
            notice: Notice::Result,
            job: id.to_raw(),
            index,
        }
        .write(task.bytes);
        let message = Outgoing {
            bytes: task.bytes,
            buffers: task.buffers,
            handles: task.handles,
            tag: task.tag,
        };
        let put = self.tasks.put(&message, &mut Patience::forever());
        if put.is_err() {
            let undo = self.book().withdraw(id, index);
            self.act(undo);
        }
        self.act(todo);
        match put {
            Ok(()) => {}
            Err(PutError::Memory(error)) => return Err(SubmitError::Memory(error)),
            Err(_) => {
                let end = self
                    .book()
                    .end()
                    .map_or(NotRunning::Closed, End::not_running);
                return Err(end.into());
            }
        }
        if self.submissions.fetch_add(1, Ordering::Relaxed) % COLLECT_EVERY == COLLECT_EVERY - 1 {
            self.collect();
        }
        Ok(index)
    }

    fn try_lead(&self) -> Option<Lead<'_>> {
        let free = !self.leading.load(Ordering::SeqCst)
            && self
                .leading
                .compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
        free.then(|| Lead(self))
    }

    fn accept(&self, message: Message) {
        let todo = self.book().accept(message);
        // The leader is the one who accepts: no nudge.
        if todo.close_tasks {
            self.tasks.close();
        }
    }

    /// Takes in what is there, unless somebody else is at it.
    pub(crate) fn collect(&self) {
        if self.results.is_empty() || !self.is_home() {
            return;
        }
        if let Some(_lead) = self.try_lead() {
            while let Ok(message) = self.results.get(&mut Patience::none()) {
                self.accept(message);
            }
        }
    }

    /// Waits until `look` finds in the book what it looks for. It is told whether all results that
    /// there were when the state of the pool was read are in.
    pub(crate) fn wait<T>(
        &self,
        interest: Interest,
        patience: &mut Patience<'_>,
        mut look: impl FnMut(&mut Book, bool) -> Option<T>,
    ) -> Result<T, WaitError> {
        if let Some(found) = look(&mut self.book(), false) {
            return Ok(found);
        }
        let result = loop {
            let found = match self.try_lead() {
                Some(lead) => self.lead(lead, interest, patience, &mut look),
                None => self.follow(interest, patience, &mut look),
            };
            match found {
                Ok(Some(found)) => break Ok(found),
                // The lead and the book are free now: the hook may do what it likes.
                Ok(None) => {
                    if let Err(error) = patience.check() {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        // This thread may have been woken to take the lead, and does not.
        if self.followers.load(Ordering::SeqCst) > 0 && !self.leading.load(Ordering::SeqCst) {
            self.book().hand_over();
        }
        result
    }

    /// `Ok(None)`: it is time to ask the hook.
    fn lead<T>(
        &self,
        _lead: Lead<'_>,
        interest: Interest,
        patience: &mut Patience<'_>,
        look: &mut impl FnMut(&mut Book, bool) -> Option<T>,
    ) -> Result<Option<T>, WaitError> {
        loop {
            // Read before the queue is found empty: what came before the end of the pool is in then.
            let ended = self.book().end().is_some();
            let message = match self.results.get(&mut Patience::none()) {
                Ok(message) => message,
                Err(error) => {
                    {
                        let mut book = self.book();
                        if let Some(found) = look(&mut book, ended) {
                            return Ok(Some(found));
                        }
                        if patience.is_none() {
                            return Err(WaitError::TimedOut);
                        }
                        if !ended && book.end().is_some() {
                            continue;
                        }
                        // From here on whoever changes the book nudges.
                        book.lead(Some(interest));
                    }
                    let message = match error {
                        GetError::Empty => self.sleep_on_results(patience),
                        // Garbled, and not ended: nothing will come but by the book.
                        _ => {
                            futex::wait(&AtomicU32::new(0), 0, patience.slice(LOOK_AGAIN));
                            None
                        }
                    };
                    self.book().lead(None);
                    let Some(message) = message else {
                        return Ok(None);
                    };
                    message
                }
            };
            self.accept(message);
            if let Some(found) = look(&mut self.book(), false) {
                return Ok(Some(found));
            }
        }
    }

    /// One sleep: ended by a message, a signal, or time.
    fn sleep_on_results(&self, patience: &Patience<'_>) -> Option<Message> {
        let slice = patience.slice(LOOK_AGAIN);
        let mut leave = || true;
        let mut sleep = Patience::timeout(slice);
        if slice < LOOK_AGAIN {
            // There may be a hook that wants to hear of signals.
            sleep = sleep.with_interrupt(&mut leave);
        }
        self.results.get(&mut sleep).ok()
    }

    /// `Ok(None)`: look again, and ask the hook.
    fn follow<T>(
        &self,
        interest: Interest,
        patience: &mut Patience<'_>,
        look: &mut impl FnMut(&mut Book, bool) -> Option<T>,
    ) -> Result<Option<T>, WaitError> {
        if patience.is_none() {
            return Err(WaitError::TimedOut);
        }
        let told = Arc::new(AtomicU32::new(0));
        {
            let mut book = self.book();
            if let Some(found) = look(&mut book, false) {
                return Ok(Some(found));
            }
            book.follow(interest, &told);
        }
        self.followers.fetch_add(1, Ordering::SeqCst);
        // SYNC POINT (lead): counted above, so a leader that leaves from now on sees this thread.
        if self.leading.load(Ordering::SeqCst) {
            futex::wait(&told, 0, patience.slice(LOOK_AGAIN));
        }
        self.followers.fetch_sub(1, Ordering::SeqCst);
        let mut book = self.book();
        book.unfollow(&told);
        Ok(look(&mut book, false))
    }
}
