//! The engine of Procession: families of processes, and what they share, in bytes.
//!
//! It knows neither the types of Rust programs nor Python: a payload is bytes, large buffers and
//! the objects that the bytes mention. Both front doors stand on it.
//!
//! ```
//! use procession_engine::{Outgoing, Patience, Queue};
//!
//! let queue = Queue::new(None)?;
//! queue.put(&Outgoing::bytes(b"hello"), &mut Patience::forever())?;
//! assert_eq!(queue.get(&mut Patience::forever())?.bytes, b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod connection;
#[cfg(test)]
mod decoders;
pub mod diagnostics;
mod exit_status;
pub mod family;
pub mod launch;
mod make_error;
pub mod message;
pub mod per_process;
pub mod pool;
pub mod process;
pub mod queue;
pub mod readiness;
mod rwlock;
pub mod slice;
pub mod sync;
mod ticket;
mod zygote;

pub use connection::{Connection, ReceivedInto, RecvError, SendError, pair};
pub use exit_status::ExitStatus;
pub use family::{
    Family, FamilyError, Seat, cancel_child, child_started, collected, exit_status, family,
    fork_child, fork_done, fork_spare, fork_with, join_family, leave, leave_at_end, lend_to,
    note_exit, prepare_child, reap, release_dead, take_seat,
};
pub use make_error::MakeError;
pub use message::{Block, Cell, Message, Outgoing, Parcel};
pub use process::Child;
#[cfg(feature = "crash-points")]
pub use procession_shm::crash;
pub use procession_shm::{
    AllocError, ArenaError, ArenaStats, Gone, Handle, Kind, MemberId, MemberInfo, MembersFull,
    Patience, Role, Shared,
};
pub use procession_sys::clock;
pub use queue::{Front, GetError, PutError, Queue, Records, TooManyDone};
pub use rwlock::{Once, RwLock, Turn};
pub use sync::{
    Acquired, Arrival, Barrier, BarrierError, Event, Lock, NotHeld, NotOwner, Owner, RLock,
    ReleaseError, Semaphore, Ticket, WaitError, WaitQueue,
};
