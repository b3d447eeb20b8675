//! What lives in the bytes that the processes of a family share: the arena, its members, locks and rings.
//!
//! Nothing here knows of processes' lives beyond "is this member still there", nor of what the
//! bytes mean. Every structure is made of atomic words and is changed by **one commit word** at a
//! time, so that a process killed at any instruction leaves it as it was before or as it is after.
//!
//! ```
//! use procession_shm::{Arena, Kind, MemberId, Patience, RawLock};
//!
//! let arena: &'static Arena = Box::leak(Box::new(Arena::create(1 << 24)?));
//! let me = arena.enroll("example")?;
//! let handle = arena.allocate(me, size_of::<RawLock>(), Kind::Lock)?;
//! let lock: &RawLock = arena.object(handle, Kind::Lock)?;
//! lock.acquire(arena, me, &mut Patience::forever()).expect("nobody holds it");
//! assert_eq!(lock.owner(), Some(me));
//! lock.release().expect("it is ours");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[allow(
    unsafe_code,
    reason = "the one place that turns offsets into references"
)]
mod arena;
#[cfg(not(loom))]
mod atomic;
#[cfg(loom)]
pub mod atomic;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod barrier;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod cell;
#[cfg(not(feature = "crash-points"))]
mod crash;
#[cfg(feature = "crash-points")]
pub mod crash;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod event;
mod futex;
mod geometry;
mod handle;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod lock;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod mailbox;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod member;
#[cfg(loom)]
pub mod model;
#[allow(
    unsafe_code,
    reason = "turns the bytes of a named file into slices, for those who hold its lock"
)]
mod named;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod once;
mod parcel;
mod patience;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
pub mod pool_state;
mod readiness;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod ring;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod rlock;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod rwlock;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod semaphore;
mod sleepers;
#[allow(
    unsafe_code,
    reason = "the one place that turns plain shared bytes into slices, for those who have them to themselves"
)]
mod slice;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod wait_queue;
#[allow(unsafe_code, reason = "declares what may live in shared memory")]
mod waits;

pub use arena::{AllocError, Arena, ArenaError, ArenaStats, Gone, HeldStill, Shared};
pub use barrier::{Arrival, BarrierError, RawBarrier};
pub use cell::RawCell;
pub use event::RawEvent;
pub use handle::{Handle, Kind};
pub use lock::{Acquired, NotHeld, RawLock};
pub use mailbox::{Arrived, MAILBOX_ROOM, Posted, RawMailbox, Way};
pub use member::{MemberId, MemberInfo, MembersFull, Role};
pub use named::{NamedSegment, SegmentReader, SegmentWriter};
pub use once::{RawOnce, Turn};
pub use parcel::{Contents, ParcelView};
pub use patience::{Patience, WaitError};
pub use readiness::Readiness;
pub use ring::{Entry, Front, GetError, PutError, RawQueue, Records, TooManyDone};
pub use rlock::{NotOwner, RawRLock};
pub use rwlock::RawRwLock;
pub use semaphore::{RawSemaphore, ReleaseError};
pub use slice::{
    CellSlice, ChunkError, DividedSlice, Element, FrozenSlice, HeldChunk, HeldWhole, Home,
    OwnedSlice,
};
pub use wait_queue::{RawWaitQueue, Ticket};
pub use waits::{Published, Waiter, Wanted};
