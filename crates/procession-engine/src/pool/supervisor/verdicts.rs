//! What the supervisor decides about tasks: those that run for too long are stopped, those that are to
//! be cancelled don't begin, those that were lost are tried again.

use std::time::{Duration, Instant};

use procession_shm::PutError;
use procession_shm::pool_state::{CancelWord, Held};
use procession_sys::{clock, process};

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::Patience;
use crate::message::{Block, Outgoing};
use crate::pool::answer::Overrun;
use crate::pool::jobs::{Book, Interest, JobId, Verdict};
use crate::pool::supervisor::{RETRY, SIGKILL, Supervisor, name_of};
use crate::pool::wire::{HEADER, Header, Notice};

/// For how long it may take until somebody has heard a verdict.
const HEARD: Duration = Duration::from_millis(5);

impl Supervisor {
    /// Sends out the verdicts. None once the pool has ended: those who wait are told of that.
    pub(super) fn tell(&mut self) {
        if self.untold.is_empty() && self.unheard.is_empty() {
            return;
        }
        if self.desk.book().end().is_some() {
            self.untold.clear();
            self.unheard.clear();
            return;
        }
        let results = self.desk.results();
        let unheard = &mut self.unheard;
        self.untold.retain(|number| {
            let mut bytes = [0; HEADER];
            Header {
                notice: Notice::VERDICT,
                job: *number,
                index: 0,
            }
            .write(&mut bytes);
            // Not for ever: a worker may have been stopped while it holds the lock of the queue.
            let put = results.put(&Outgoing::bytes(&bytes), &mut Patience::timeout(RETRY));
            let again = matches!(put, Err(PutError::Memory(_) | PutError::Full));
            if !again {
                unheard.push(*number);
            }
            again
        });
        self.have_it_heard();
    }

    /// Nobody may be waiting for results, and what follows from a verdict has to be done all the same.
    fn have_it_heard(&mut self) {
        self.desk.collect();
        let unheard = &mut self.unheard;
        let mut heard = |book: &mut Book, _: bool| {
            unheard.retain(|number| book.is_unheard(*number));
            unheard.is_empty().then_some(())
        };
        let done = heard(&mut self.desk.book(), false);
        if done.is_none() {
            // Somebody else is at it. If that takes longer, it is looked at again.
            let mut patience = Patience::timeout(HEARD);
            let _ = self.desk.wait(Interest::Verdicts, &mut patience, heard);
        }
    }

    /// Sees to what was asked for and what is due.
    pub(super) fn attend(&mut self) {
        self.cancel();
        self.tell();
        self.try_again();
        self.stop_overdue();
    }

    /// Puts lost tasks into the queue once more.
    fn try_again(&mut self) {
        let again = self.desk.book().take_again();
        for (id, index) in again {
            let Some(parcel) = self.desk.book().kept(id, index) else {
                // Cancelled meanwhile, as one that is in the queue: nobody will come upon it.
                let todo = self.desk.book().withdraw(id, index);
                self.desk.act(todo);
                continue;
            };
            let mut patience = Patience::timeout(RETRY);
            let put = self
                .desk
                .put_kept(id, index, parcel.handle(), &mut patience);
            if matches!(put, Err(PutError::Memory(_) | PutError::Full)) {
                self.desk.book().put_back(id, index);
                self.check_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Stops tasks that have run for longer than they may, and notes when to look again. A task that
    /// begins right after this is not overdue before the shortest time that any may run.
    fn stop_overdue(&mut self) {
        let Some(shortest) = self.desk.book().watch() else {
            self.check_at = self.check_at.filter(|at| *at > Instant::now());
            return;
        };
        let mut next = shortest;
        for slot in 0..self.posts.len() {
            let Some(held) = self.shared.slot(slot).held_now() else {
                continue;
            };
            let id = JobId::from_raw(held.job);
            let Some(limit) = self.desk.book().time_limit(id) else {
                continue;
            };
            // The clock may be behind when the task begins: never stop it too early.
            let left = (limit + clock::RESOLUTION).checked_sub(clock::since(held.since));
            match left.filter(|left| !left.is_zero()) {
                Some(left) => next = next.min(left),
                None => self.stop(slot, held, |worker, name, label| Verdict::Overran {
                    id,
                    index: held.index,
                    overrun: Overrun {
                        pid: worker.pid,
                        name: name_of(worker).unwrap_or_else(|| name.to_owned()),
                        limit,
                        label,
                    },
                }),
            }
        }
        // What is to be tried again may be due before that.
        let now = Instant::now();
        let before = self.check_at.filter(|at| *at > now);
        self.check_at = now.checked_add(next).into_iter().chain(before).min();
    }

    /// Kills the worker for the task in its hands, unless it is through with that.
    fn stop(
        &mut self,
        slot: usize,
        held: Held,
        verdict: impl FnOnce(&crate::pool::Launched, &str, &'static str) -> Verdict,
    ) {
        let post = &mut self.posts[slot];
        let Some(worker) = &post.worker else { return };
        if post.killed_for.is_some() || !self.shared.slot(slot).condemn(held) {
            return;
        }
        let label = self.desk.book().label(JobId::from_raw(held.job));
        let label = label.unwrap_or_default();
        post.killed_for = Some((held, verdict(worker, &post.name, label)));
        // One that has ended meanwhile needs no signal.
        let _ = process::send_signal(worker.pidfd.as_fd(), SIGKILL);
    }

    /// Sees to it that what was cancelled does not begin, and stops what has, if that is wanted.
    fn cancel(&mut self) {
        let asked = self.desk.book().take_cancels();
        for (id, running_too) in asked {
            // Without memory for the mark the tasks begin all the same: nothing was prevented.
            let marked = self.mark_cancelled(id);
            let mut running = Vec::new();
            for slot in 0..self.posts.len() {
                let held = self.shared.slot(slot).held();
                let Some(held) = held.filter(|held| JobId::from_raw(held.job) == id) else {
                    continue;
                };
                running.push(held.index);
                if running_too {
                    self.stop(slot, held, |_, _, _| Verdict::Stopped {
                        id,
                        index: held.index,
                    });
                }
            }
            let verdict = Verdict::Cancelled {
                id,
                running,
                marked: marked.is_some(),
            };
            let written = self.desk.book().write(verdict);
            self.untold.push(written);
        }
    }

    /// From now on no worker begins a task of this job.
    fn mark_cancelled(&mut self, id: JobId) -> Option<()> {
        let at = CancelWord::of(id.place()?)?;
        if self.levels.len() <= at.level {
            self.levels.resize(at.level + 1, None);
        }
        if self.levels[at.level].is_none() {
            let block = Block::zeroed(at.level_length() * size_of::<u64>()).ok()?;
            for word in 0..at.level_length() {
                block
                    .word(word * size_of::<u64>())?
                    .store(0, Ordering::Relaxed);
            }
            self.shared.head().add_cancelled(at.level, block.handle());
            self.levels[at.level] = Some(block);
        }
        let block = self.levels[at.level].as_ref()?;
        block
            .word(at.word * size_of::<u64>())?
            .store(id.to_raw(), Ordering::SeqCst);
        Some(())
    }
}
