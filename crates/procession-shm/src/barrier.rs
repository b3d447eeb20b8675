//! A meeting point for a fixed number of parties.
//!
//! `state` is `generation << 2 | phase`:
//!
//! | phase | meaning | leaves it |
//! | --- | --- | --- |
//! | FILLING | parties arrive, each in a record of its own | the last to arrive, to ACTION; a reset, to the next generation |
//! | ACTION | all are there; the last, the leader, runs the action | the leader, to FILLING of the next generation |
//! | BROKEN | nobody gets through | a reset, to FILLING of the next generation |
//!
//! Those who arrive and who reset do so under `lock`; all changes of `state` are one
//! compare-and-swap. A record is the member's id, with the last two bits of the generation on top:
//! one of another generation is none. There are two rows, used in turn, so nothing is moved or
//! cleared when a round ends. A round that ended by a reset leaves both rows zeros.
//!
//! Who waits looks at those who have arrived, and at those of the round before: if one of them has
//! died (of those before: not in good order), the barrier is broken. The last to arrive, who does not
//! wait, looks at the others too: perhaps nobody is left who does. At what the table says of them; and
//! at what the system says, which takes longer, if they have waited long enough to have looked themselves.

use std::fmt;

use procession_sys::clock;

use crate::arena::{Arena, Shared};
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::futex;
use crate::lock::RawLock;
use crate::member::MemberId;
use crate::patience::{CHECK_OWNER, Patience, WaitError};

const FILLING: u32 = 0;
const ACTION: u32 = 1;
const BROKEN: u32 = 2;
const PHASE: u32 = 3;

/// Why a party did not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarrierError {
    /// It is broken: by a time-out, an abort, a reset, or the death of a party.
    Broken {
        /// The party that died, if one did.
        dead: Option<MemberId>,
    },
    /// The time has passed; the barrier is broken now.
    TimedOut,
    /// The interrupt hook asked to give up; the barrier is broken now.
    Interrupted,
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BarrierError::Broken { dead: Some(_) } => {
                f.write_str("the barrier is broken: a process that took part in it has died")
            }
            BarrierError::Broken { dead: None } => {
                f.write_str("the barrier is broken: a party gave up, or it was reset")
            }
            BarrierError::TimedOut => {
                f.write_str("the barrier is broken: the others did not come in time")
            }
            BarrierError::Interrupted => {
                f.write_str("the barrier is broken: the wait was interrupted by a signal")
            }
        }
    }
}

impl std::error::Error for BarrierError {}

/// A party got through, or is the leader and has to let the others through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "if this is the leader, the others wait until it calls finish or abort"]
pub struct Arrival {
    /// 0 for the last to arrive, `parties - 1` for the first.
    pub index: u32,
    /// Whether this is the last to arrive, who runs the action and calls `finish`.
    pub leader: bool,
    generation: u32,
}

/// A barrier in shared memory; its records lie in two rows behind this structure: those who arrive
/// in rounds of even number, and of odd.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawBarrier {
    lock: RawLock,
    state: AtomicU32,
    parties: AtomicU32,
    /// The one whose death broke it, if that was it.
    dead: AtomicU32,
    /// One bit for each of the last 64 generations: it ended by a reset.
    resets: AtomicU64,
    /// When the first of this round arrived.
    first_at: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop, zeros valid.
unsafe impl Shared for RawBarrier {}

impl RawBarrier {
    /// Bytes behind the structure for the records of `parties`.
    pub fn record_bytes(parties: u32) -> usize {
        parties as usize * 2 * size_of::<AtomicU32>()
    }

    /// Sets the number of parties, before anyone else knows the barrier.
    pub fn prepare(&self, parties: u32) {
        self.parties.store(parties, Ordering::SeqCst);
    }

    /// How many it takes.
    pub fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    /// How many wait in it now.
    pub fn waiting(&self, records: &[AtomicU32]) -> u32 {
        let state = self.state.load(Ordering::SeqCst);
        if state & PHASE != FILLING {
            return 0;
        }
        members_of(records, state >> 2).count() as u32
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.state.load(Ordering::SeqCst) & PHASE == BROKEN
    }

    /// Arrives and waits until all have and the leader has called [`finish`](Self::finish). The
    /// leader itself, the last to arrive, does not wait.
    ///
    /// # Errors
    /// When the barrier is or gets broken. A time-out or an interruption breaks it.
    pub fn arrive(
        &self,
        arena: &Arena,
        me: MemberId,
        records: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<Arrival, BarrierError> {
        let (state, place) = loop {
            let held = self.lock.hold(arena, me, patience).map_err(|error| {
                let _ = self.break_it(self.state.load(Ordering::SeqCst), None);
                given_up(error)
            })?;
            let state = self.state.load(Ordering::SeqCst);
            match state & PHASE {
                FILLING => {
                    let row = row(records, state >> 2);
                    let place = row
                        .iter()
                        .position(|record| member_in(record, state >> 2).is_none());
                    // A full row cannot be: the last to arrive changes the phase under this lock,
                    // unless it died in between; then its death is what the others find.
                    let Some(place) = place else {
                        let _ = self.break_it(state, None);
                        return Err(BarrierError::Broken { dead: None });
                    };
                    if place == 0 {
                        self.first_at.store(clock::now(), Ordering::SeqCst);
                    }
                    if place + 1 == row.len()
                        && let Some(dead) = self.find_dead_before(arena, me, row, state >> 2)
                    {
                        // If not by this, it was broken by something else meanwhile.
                        let broken = self.break_it(state, Some(dead));
                        return Err(if broken {
                            BarrierError::Broken { dead: Some(dead) }
                        } else {
                            self.broken()
                        });
                    }
                    row[place].store(me.to_raw() | tag(state >> 2), Ordering::SeqCst);
                    if place + 1 == row.len() {
                        // 64 generations ago it meant another. Under the lock no reset comes between.
                        self.resets.fetch_and(!reset_bit(state), Ordering::SeqCst);
                        let all_there = self.state.compare_exchange(
                            state,
                            state & !PHASE | ACTION,
                            Ordering::SeqCst,
                            Ordering::SeqCst,
                        );
                        if all_there.is_err() {
                            // Somebody gave up or was found dead at the last moment.
                            return Err(self.broken());
                        }
                        return Ok(Arrival {
                            index: 0,
                            leader: true,
                            generation: state >> 2,
                        });
                    }
                    break (state, place);
                }
                BROKEN => return Err(self.broken()),
                // The last round's leader is still at work: its parties are all there, so this one
                // belongs to the next.
                _ => {
                    drop(held);
                    self.await_change(arena, me, state, records, patience)?;
                }
            }
        };
        let index = (records.len() / 2 - 1 - place) as u32;
        let mut now = state;
        loop {
            now = self.await_change(arena, me, now, records, patience)?;
            if now >> 2 != state >> 2 {
                break;
            }
        }
        if self.resets.load(Ordering::SeqCst) & reset_bit(state) != 0 {
            return Err(BarrierError::Broken { dead: None });
        }
        Ok(Arrival {
            index,
            leader: false,
            generation: state >> 2,
        })
    }

    /// For the last to arrive: one of the others who has died.
    fn find_dead_before(
        &self,
        arena: &Arena,
        me: MemberId,
        row: &[AtomicU32],
        generation: u32,
    ) -> Option<MemberId> {
        let waited = clock::since(self.first_at.load(Ordering::SeqCst));
        row.iter()
            .filter_map(|record| member_in(record, generation))
            .filter(|&id| id != me)
            .find(|&id| arena.is_known_dead(id) || (waited >= CHECK_OWNER && arena.is_dead(id)))
    }

    /// Sleeps until `state` is no longer `seen`; breaks the barrier if a party has died.
    fn await_change(
        &self,
        arena: &Arena,
        me: MemberId,
        seen: u32,
        records: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<u32, BarrierError> {
        let changed = || {
            let now = self.state.load(Ordering::SeqCst);
            (now != seen).then_some(now)
        };
        let mut now = changed().or_else(|| patience.spin(changed));
        while now.is_none() {
            // If it can't be broken any more, it was let through or broken meanwhile.
            if let Err(error) = patience.park(&self.state, seen, CHECK_OWNER)
                && self.break_it(seen, None)
            {
                return Err(given_up(error));
            }
            now = changed();
            if now.is_none()
                && let Some(dead) = find_dead(arena, me, records, seen >> 2)
                && self.break_it(seen, Some(dead))
            {
                return Err(BarrierError::Broken { dead: Some(dead) });
            }
        }
        match now.unwrap_or(seen) {
            state if state & PHASE == BROKEN => Err(self.broken()),
            state => Ok(state),
        }
    }

    fn broken(&self) -> BarrierError {
        BarrierError::Broken {
            dead: MemberId::from_raw(self.dead.load(Ordering::SeqCst)),
        }
    }

    /// Whether it was `seen` and is broken now.
    fn break_it(&self, seen: u32, dead: Option<MemberId>) -> bool {
        if seen & PHASE == BROKEN {
            return false;
        }
        if let Some(dead) = dead {
            self.dead.store(dead.to_raw(), Ordering::SeqCst);
        }
        let broken = self
            .state
            .compare_exchange(
                seen,
                seen & !PHASE | BROKEN,
                Ordering::SeqCst,
                Ordering::SeqCst,
            )
            .is_ok();
        if broken {
            futex::wake(&self.state, u32::MAX);
        } else if let Some(dead) = dead {
            let _ =
                self.dead
                    .compare_exchange(dead.to_raw(), 0, Ordering::SeqCst, Ordering::SeqCst);
        }
        broken
    }

    /// The leader lets the others through.
    ///
    /// # Errors
    /// When the barrier was broken while the action ran.
    pub fn finish(&self, arrival: &Arrival, _records: &[AtomicU32]) -> Result<(), BarrierError> {
        let seen = arrival.generation << 2 | ACTION;
        let next = arrival.generation.wrapping_add(1) << 2 | FILLING;
        if self.state.load(Ordering::SeqCst) != seen {
            return Err(self.broken());
        }
        let moved = self
            .state
            .compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        futex::wake(&self.state, u32::MAX);
        if moved { Ok(()) } else { Err(self.broken()) }
    }

    /// Breaks the barrier: all who wait get an error, and all who come until a reset.
    pub fn abort(&self) {
        loop {
            let seen = self.state.load(Ordering::SeqCst);
            if seen & PHASE == BROKEN || self.break_it(seen, None) {
                return;
            }
        }
    }

    /// Empties the barrier: all who wait get an error; who comes next starts anew.
    ///
    /// # Errors
    /// When the time has passed or the interrupt hook asked to give up.
    pub fn reset(
        &self,
        arena: &Arena,
        me: MemberId,
        records: &[AtomicU32],
        patience: &mut Patience<'_>,
    ) -> Result<(), WaitError> {
        let _held = self.lock.hold(arena, me, patience)?;
        // Broken first: whoever dies here leaves it so, and not with half the records gone.
        let seen = loop {
            let seen = self.state.load(Ordering::SeqCst);
            if seen & PHASE == BROKEN || self.break_it(seen, None) {
                break seen;
            }
        };
        for record in records {
            record.store(0, Ordering::SeqCst);
        }
        self.dead.store(0, Ordering::SeqCst);
        self.resets.fetch_or(reset_bit(seen), Ordering::SeqCst);
        self.state
            .store((seen >> 2).wrapping_add(1) << 2 | FILLING, Ordering::SeqCst);
        futex::wake(&self.state, u32::MAX);
        Ok(())
    }
}

fn reset_bit(state: u32) -> u64 {
    1 << ((state >> 2) % 64)
}

fn given_up(error: WaitError) -> BarrierError {
    match error {
        WaitError::TimedOut => BarrierError::TimedOut,
        WaitError::Interrupted => BarrierError::Interrupted,
    }
}

/// Where the parties of a generation are written down.
fn row(records: &[AtomicU32], generation: u32) -> &[AtomicU32] {
    let (even, odd) = records.split_at(records.len() / 2);
    if generation.is_multiple_of(2) {
        even
    } else {
        odd
    }
}

fn tag(generation: u32) -> u32 {
    generation << 30
}

/// Who is written down there, if it is for this generation.
fn member_in(record: &AtomicU32, generation: u32) -> Option<MemberId> {
    MemberId::from_raw(record.load(Ordering::SeqCst) ^ tag(generation))
}

fn members_of(records: &[AtomicU32], generation: u32) -> impl Iterator<Item = MemberId> {
    row(records, generation)
        .iter()
        .filter_map(move |record| member_in(record, generation))
}

fn find_dead(
    arena: &Arena,
    me: MemberId,
    records: &[AtomicU32],
    generation: u32,
) -> Option<MemberId> {
    let dead = members_of(records, generation).find(|&id| id != me && arena.is_dead(id));
    dead.or_else(|| {
        members_of(records, generation.wrapping_sub(1))
            .find(|&id| id != me && arena.is_dead(id) && !arena.has_left(id))
    })
}
