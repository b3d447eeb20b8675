//! The pool's object in the arena, as a process sees it that holds a reference to it.

use procession_shm::pool_state::{PoolState, WorkerSlot};
use procession_shm::{Gone, Handle, Kind};

use crate::MakeError;
use crate::family::Held;
use crate::pool::lanes::Lanes;
use crate::queue::Queue;

#[derive(Debug, Clone)]
pub(crate) struct Shared {
    held: Held<PoolState>,
    slots: &'static [WorkerSlot],
}

impl Shared {
    pub(crate) fn new(
        workers: u32,
        tasks: &Lanes,
        results: &Lanes,
        max_tasks: u64,
        max_memory: u64,
    ) -> Result<Shared, MakeError> {
        let held: Held<PoolState> = Held::new(
            Kind::Pool,
            PoolState::size_for(workers) - size_of::<PoolState>(),
        )?;
        let (common, answers) = (tasks.common().handle(), results.common().handle());
        held.get()
            .set_up(common, answers, workers, max_tasks, max_memory);
        let shared = Shared::with_slots(held).map_err(MakeError::Gone)?;
        let own = |lanes: &Lanes| lanes.own().iter().map(Queue::handle).collect::<Vec<_>>();
        let lanes: Vec<_> = own(tasks).into_iter().zip(own(results)).collect();
        shared.head().set_lanes(shared.slots(), &lanes);
        Ok(shared)
    }

    pub(crate) fn from_handle(handle: Handle) -> Result<Shared, Gone> {
        Shared::with_slots(Held::from_handle(handle, Kind::Pool)?)
    }

    fn with_slots(held: Held<PoolState>) -> Result<Shared, Gone> {
        let count = held.get().workers() as usize;
        let slots = held.family.arena().objects(
            held.handle(),
            Kind::Pool,
            size_of::<PoolState>(),
            count,
        )?;
        Ok(Shared { held, slots })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.held.handle()
    }

    pub(crate) fn head(&self) -> &'static PoolState {
        self.held.get()
    }

    pub(crate) fn slots(&self) -> &'static [WorkerSlot] {
        self.slots
    }

    /// # Panics
    /// When there is no such slot.
    pub(crate) fn slot(&self, slot: usize) -> &'static WorkerSlot {
        &self.slots[slot]
    }
}
