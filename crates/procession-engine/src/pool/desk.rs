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
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use procession_shm::{GetError, Handle, Patience, PutError, Records, WaitError};
use procession_sys::{futex, thread};

use crate::MakeError;
use crate::message::{Message, Outgoing, Parcel};
use crate::pool::Submission;
use crate::pool::error::{Breakage, NotRunning, SubmitError, Why};
use crate::pool::jobs::{Book, End, Interest, JobId, Todo};
use crate::pool::lanes::Lanes;
use crate::pool::supervisor::Bell;
use crate::pool::wire::{HEADER, Header, Notice};
use crate::queue::Queue;

/// Who waits looks for itself this often, should a wake-up be lost for want of memory.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a nudge may wait for its turn at the result queue.
const NUDGED_WITHIN: Duration = Duration::from_millis(20);
/// After this many submissions the results that are there are taken in, so that they don't pile up
/// in shared memory when nobody waits for them.
const COLLECT_EVERY: u32 = 128;
/// So many results are taken in at once, at most, and about so many bytes of them.
const AT_ONCE: u32 = 128;
const BYTES_AT_ONCE: usize = 16 << 10;
/// So often a thread that leads takes results in before it gives the lead up and asks its hook.
const ROUNDS: u32 = 32;
/// How long tasks take is looked at again after so many results.
const PACE_OVER: u32 = 64;
/// A worker that takes less than this for each, on average, has short tasks.
const SHORT: Duration = Duration::from_micros(50);

/// The parent's side of a pool's queues.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Of which process, counted in forks.
    home: u32,
    tasks: Lanes,
    results: Lanes,
    book: Mutex<Book>,
    leading: AtomicBool,
    /// Results on their way into the book. Of the leader alone.
    taken: Mutex<Taking>,
    /// Whether tasks have been short lately: then they go into the lanes, to each by turns.
    short: AtomicBool,
    lane: AtomicUsize,
    followers: AtomicUsize,
    submissions: AtomicU32,
    /// The supervisor's, once there is one.
    bell: OnceLock<Bell>,
}

/// How a task is submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// It is the only one of its job, which is sealed with it.
    pub(crate) only: bool,
    /// It is kept, to be tried again.
    pub(crate) kept: bool,
}

/// What the leader takes in.
#[derive(Debug)]
struct Taking {
    common: Records,
    lane: Records,
    /// How many have come since when.
    count: u32,
    since: Instant,
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
    pub(crate) fn new(tasks: Lanes, results: Lanes, is_failure: fn(u32) -> bool) -> Desk {
        Desk {
            home: thread::forks(),
            tasks,
            results,
            book: Mutex::new(Book::new(is_failure)),
            leading: AtomicBool::new(false),
            taken: Mutex::new(Taking {
                common: Records::default(),
                lane: Records::default(),
                count: 0,
                since: Instant::now(),
            }),
            short: AtomicBool::new(false),
            lane: AtomicUsize::new(0),
            followers: AtomicUsize::new(0),
            submissions: AtomicU32::new(0),
            bell: OnceLock::new(),
        }
    }

    /// What `ring` rings from now on.
    pub(crate) fn set_bell(&self, bell: Bell) {
        // There is one supervisor for each desk.
        let _ = self.bell.set(bell);
    }

    /// Has the supervisor look at the book.
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    pub(crate) fn tasks(&self) -> &Lanes {
        &self.tasks
    }

    /// The common queue of results: who waits for any waits there.
    pub(crate) fn results(&self) -> &Queue {
        self.results.common()
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
        if todo.ring {
            self.ring();
        }
    }

    /// Has the leader look again.
    fn nudge(&self) {
        let mut bytes = [0; HEADER];
        Header {
            notice: Notice::VERDICT,
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
            .results()
            .put(&nudge, &mut Patience::timeout(NUDGED_WITHIN));
    }

    /// Submits a task.
    pub(crate) fn submit(
        &self,
        id: JobId,
        task: Submission<'_>,
        manner: Manner,
    ) -> Result<u64, SubmitError> {
        if !self.is_home() {
            return Err(NotRunning::Foreign.into());
        }
        let parcel = manner.kept.then(|| store(&task)).transpose()?;
        let name = parcel.as_ref().map(Parcel::handle);
        // Sealing comes with the index, before the task is out: its reply then finds the job complete.
        let (index, todo) = if manner.only {
            self.book().submit_only(id, parcel)?
        } else {
            self.book().submit(id, parcel)?
        };
        let put = match name {
            Some(name) => self.put_kept(id, index, name, &mut Patience::forever()),
            None => {
                Header {
                    notice: Notice::Plain,
                    job: id.to_raw(),
                    index,
                }
                .write(task.bytes);
                self.tasks
                    .common()
                    .put(&task.outgoing(), &mut Patience::forever())
            }
        };
        if put.is_err() {
            let undo = self.book().withdraw(id, index);
            self.act(undo);
        }
        self.act(todo);
        put.map_err(|error| self.not_put(error))?;
        self.count_submissions(1);
        Ok(index)
    }

    fn count_submissions(&self, count: u32) {
        let before = self.submissions.fetch_add(count, Ordering::Relaxed);
        if before % COLLECT_EVERY + count >= COLLECT_EVERY {
            self.collect();
        }
    }

    /// Submits several tasks whose bodies begin with room for the header: all of them or none.
    pub(crate) fn submit_several(&self, id: JobId, tasks: &mut Records) -> Result<(), SubmitError> {
        if !self.is_home() {
            return Err(NotRunning::Foreign.into());
        }
        let count = tasks.count();
        let (first, todo) = self.book().submit_several(id, count)?;
        let mut index = first;
        tasks.each_body(|body| {
            Header {
                notice: Notice::Plain,
                job: id.to_raw(),
                index,
            }
            .write(body);
            index += 1;
        });
        let put = self.put_records(tasks);
        if put.is_err() {
            // The last first: then nothing is left of them.
            for index in (first..index).rev() {
                let undo = self.book().withdraw(id, index);
                self.act(undo);
            }
        }
        self.act(todo);
        put.map_err(|error| self.not_put(error))?;
        self.count_submissions(count);
        Ok(())
    }

    /// Into the lanes by turns, if tasks are short; else into the common queue, from which each worker
    /// takes the next when it is done.
    fn put_records(&self, tasks: &Records) -> Result<(), PutError> {
        let lanes = self.tasks.own();
        if lanes.is_empty() || !self.short.load(Ordering::Relaxed) {
            return self
                .tasks
                .common()
                .put_records(tasks, &mut Patience::forever());
        }
        let turn = self.lane.fetch_add(1, Ordering::Relaxed) % lanes.len();
        lanes[turn].put_records(tasks, &mut Patience::forever())?;
        self.tasks.wake(tasks.count());
        Ok(())
    }

    fn not_put(&self, error: PutError) -> SubmitError {
        if let PutError::Memory(error) = error {
            return SubmitError::Memory(error);
        }
        let book = self.book();
        book.end()
            .map_or(NotRunning::Closed, End::not_running)
            .into()
    }

    /// Puts a task into the queue that is stored in a parcel.
    pub(crate) fn put_kept(
        &self,
        id: JobId,
        index: u64,
        parcel: Handle,
        patience: &mut Patience<'_>,
    ) -> Result<(), PutError> {
        let mut bytes = [0; HEADER + 16];
        Header {
            notice: Notice::Kept,
            job: id.to_raw(),
            index,
        }
        .write(&mut bytes);
        bytes[HEADER..].copy_from_slice(&parcel.to_bytes());
        let message = Outgoing {
            handles: &[parcel],
            ..Outgoing::bytes(&bytes)
        };
        self.tasks.common().put(&message, patience)
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
        // It may say that a worker has died: not before what that worker has sent.
        let mut taken = self.taken();
        self.accept_lanes(&mut taken);
        drop(taken);
        let todo = self.book().accept(message);
        self.act_as_leader(todo);
    }

    /// The leader is the one who accepts: no nudge.
    fn act_as_leader(&self, todo: Todo) {
        self.act(Todo {
            nudge: false,
            ..todo
        });
    }

    /// Takes in several results at once, for the leader, which `look`s then; whether there were some.
    fn accept_several<T>(&self, look: impl FnOnce(&mut Book) -> Option<T>) -> (bool, Option<T>) {
        let mut taken = self.taken();
        // First the common queue, and into the book last: it may say that a worker has died, and that is
        // to be heard after what that worker has sent.
        let common = &mut taken.common;
        // After an error there are none in it, and who asks for a single message hears of the error.
        let _ = self.results().take_records(AT_ONCE, BYTES_AT_ONCE, common);
        let common = common.count();
        let of_lanes = self.accept_lanes(&mut taken);
        if common + of_lanes == 0 {
            return (false, None);
        }
        let mut book = self.book();
        let todo = book.accept_records(&taken.common);
        let found = look(&mut book);
        drop(book);
        self.note_pace(&mut taken, common + of_lanes);
        drop(taken);
        self.act_as_leader(todo);
        (true, found)
    }

    fn taken(&self) -> MutexGuard<'_, Taking> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what is in the lanes by now: how many results that were.
    fn accept_lanes(&self, taken: &mut Taking) -> u32 {
        let mut all = 0;
        for lane in self.results.own() {
            let mut there = lane.len();
            while there > 0 {
                match lane.take_records(AT_ONCE, BYTES_AT_ONCE, &mut taken.lane) {
                    Err(GetError::Gone) => {
                        self.give_up();
                        break;
                    }
                    // Its lock is not to be had just now.
                    Err(_) => break,
                    Ok(()) if taken.lane.count() == 0 => break,
                    Ok(()) => {}
                }
                let todo = self.book().accept_records(&taken.lane);
                self.act_as_leader(todo);
                all += taken.lane.count();
                there = there.saturating_sub(taken.lane.count());
            }
        }
        all
    }

    /// Whether tasks are short is known from how their results come.
    fn note_pace(&self, taken: &mut Taking, count: u32) {
        taken.count += count;
        if taken.count < PACE_OVER {
            return;
        }
        let lanes = self.results.own().len().max(1) as u32;
        let each = taken.since.elapsed() * lanes / taken.count;
        self.short.store(each < SHORT, Ordering::Relaxed);
        taken.count = 0;
        taken.since = Instant::now();
    }

    /// Takes in what is there, unless somebody else is at it.
    pub(crate) fn collect(&self) {
        if self.results.is_empty() || !self.is_home() {
            return;
        }
        if let Some(_lead) = self.try_lead() {
            loop {
                while self.accept_several(|_| None::<()>).0 {}
                match self.results().get(&mut Patience::none()) {
                    Ok(message) => self.accept(message),
                    Err(GetError::Gone) => return self.give_up(),
                    Err(_) => return,
                }
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
        // However fast results of others come, the hook is asked now and then.
        for _ in 0..ROUNDS {
            // Read before the queue is found empty: what came before the end of the pool is in then.
            let ended = self.book().end().is_some();
            match self.accept_several(|book| look(book, false)) {
                (_, Some(found)) => return Ok(Some(found)),
                (true, None) => continue,
                (false, None) => {}
            }
            let message = match self.results().get(&mut Patience::none()) {
                Ok(message) => message,
                Err(error) => {
                    if error == GetError::Gone && !ended {
                        self.give_up();
                        continue;
                    }
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
                    let came = match error {
                        GetError::Empty => self.sleep_on_results(patience),
                        // Garbled: nothing will come but by the book.
                        _ => {
                            futex::wait(&AtomicU32::new(0), 0, patience.slice(LOOK_AGAIN));
                            false
                        }
                    };
                    self.book().lead(None);
                    if came {
                        continue;
                    }
                    // The worker that was woken for a task may have been stopped.
                    self.tasks.rouse();
                    return Ok(None);
                }
            };
            self.accept(message);
            if let Some(found) = look(&mut self.book(), false) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// One sleep: ended by a message (true), a signal, or time.
    fn sleep_on_results(&self, patience: &Patience<'_>) -> bool {
        let slice = patience.slice(LOOK_AGAIN);
        let mut leave = || true;
        let mut sleep = Patience::timeout(slice);
        if slice < LOOK_AGAIN {
            // There may be a hook that wants to hear of signals.
            sleep = sleep.with_interrupt(&mut leave);
        }
        self.results.wait_readable(&mut sleep).is_ok()
    }

    /// A result can't be read, and those behind it may be gone with it: whoever waits is told.
    fn give_up(&self) {
        let breakage = Breakage {
            why: Why::Garbled,
            answer: None,
        };
        let todo = self.book().end_with(End::Broken(Arc::new(breakage)));
        if let Some(todo) = todo {
            // The leader is the one who calls this: no nudge.
            self.act(Todo {
                nudge: false,
                ring: true,
                ..todo
            });
        }
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

/// Stores a task, so that it can be had again and again.
fn store(task: &Submission<'_>) -> Result<Parcel, SubmitError> {
    Parcel::store(&task.outgoing()).map_err(|error| match error {
        MakeError::Memory(error) => SubmitError::Memory(error),
        MakeError::Family(_) | MakeError::Gone(_) => SubmitError::NotRunning(NotRunning::Foreign),
    })
}
