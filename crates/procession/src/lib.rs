//! Processes, pools, locks, queues and pipes: parallelism between processes that reads like `std`.
//!
//! ```
//! use procession::{Lock, Pool, Process};
//!
//! fn greet(lock: Lock<()>, i: u32) {
//!     let _held = lock.lock().unwrap();
//!     println!("{i}: {} is running", std::process::id());
//! }
//!
//! #[procession::main] // or procession::init() in the first line of main
//! fn main() -> procession::Result<()> {
//!     let lock = Lock::new(())?;
//!     let children: Vec<_> =
//!         (0..10).map(|i| Process::spawn(greet, (lock.clone(), i))).collect::<Result<_, _>>()?;
//!     for child in children {
//!         child.join()?;
//!     }
//!
//!     let pool = Pool::new(4)?;
//!     let squares: Vec<u64> = pool.map(|x: u64| x * x, 0..1000)?;
//!     let one = pool.apply_async(|x: u64| x + 1, 41)?;
//!     assert_eq!((squares[9], one.get()?), (81, 42));
//!     Ok(())
//! }
//! ```
//!
//! Where a thread is not enough: code that may crash, leak or never end, a library with global
//! state, more memory than one process may have, work that must be stopped from outside.
//!
//! # What there is
//!
//! | | |
//! | --- | --- |
//! | [`Process`], [`Run`] | a process that runs one function, and its result |
//! | [`Pool`], [`Task`], [`Imap`] | workers that carry out tasks |
//! | [`Lock`], [`RLock`], [`Semaphore`], [`Condition`], [`Event`], [`Barrier`] | to keep out of each other's way |
//! | [`Queue`], [`pipe()`], [`duplex()`] | values from process to process |
//! | [`Atomic`], [`Bytes`] | a shared number; large bytes in a message |
//!
//! # The first line of main
//!
//! The children of a program are the same executable, started again: [`init`] turns such a process
//! into the child it was started as, and never returns there. So it comes before everything else in
//! `main`, by hand or by `#[procession::main]`. A program that forgets it gets an error that says
//! so, when it starts its first process.
//!
//! # Functions, arguments, results
//!
//! A process can call every [function and every closure without captures](Function) of the program.
//! What it is given and what it returns goes through [serde](https://serde.rs), in a compact binary
//! format, so it can be any type with `Serialize` and `Deserialize` that owns what it holds. A
//! function is named by its place in the executable, and what comes in is checked before it is
//! followed.
//!
//! # Handles travel
//!
//! A [`Lock`], a [`Queue`], the end of a [`pipe()`] and all their like are names for something that
//! the processes share. They are cloned at will, and can be part of arguments, of results, of
//! messages in queues and pipes, and of the value under a lock, at any time, to any process of the
//! family: this one, its children and theirs. What they name lives as long as anybody holds a name
//! for it, or one is on its way. (Into a file they can't be serialised: there they would mean
//! nothing.)
//!
//! # What dies, and what the others see
//!
//! | what dies | what the others see |
//! | --- | --- |
//! | a process's function, by a panic | [`JoinError`] with message and place |
//! | a process, by a signal or an exit | [`JoinError`] with the signal or the exit code |
//! | a pool's worker | its task alone fails, [`Error::is_worker_lost`]; the worker is replaced |
//! | the holder of a lock | the next one has it, as [`Poisoned`], with the guard inside |
//! | the holder of a permit of a [bounded](Semaphore::bounded) semaphore | the permit is free again |
//! | a process in the middle of sending or receiving | the value is there whole, or not at all |
//! | the last sender, the last receiver of a pipe | the end of the values; an error from `send` |
//! | a party to a barrier | an error in the others |
//! | the parent | its daemons and workers die with it; nothing is left behind |
//!
//! Whoever waits is told within 100 ms. Nothing here waits for the dead.
//!
//! # Errors
//!
//! There is one [`Error`], with questions (`is_timeout`, `is_worker_lost`, ...) and causes. Where
//! there is more to give, an operation has its own: [`JoinError`] of a process, [`Poisoned`] and
//! [`TryLockError`] with the guard, [`SendError`] with the value. Each becomes an `Error` by `?`.
//!
//! # Tests
//!
//! The harness owns `main` in tests, so there is
//! [`#[procession::test]`](test) in the place of `#[test]`. It works with `cargo test` and with
//! nextest.
//!
//! # Platform
//!
//! Linux 5.10 or later with glibc, x86-64 and aarch64.

#![deny(unsafe_code)]

mod bytes;
mod current;
mod entry;
mod error;
mod function;
mod panic;
mod pipe;
mod pool;
mod process;
mod queue;
mod run;
mod start;
mod sync;
mod wire;

use procession_engine as engine;

pub use bytes::Bytes;
pub use current::{
    ActiveChild, CurrentProcess, ParentProcess, active_children, current_process, parent_process,
};
pub use error::{Error, Result};
pub use function::{Function, Spread, Whole};
pub use panic::{Panic, Place};
pub use pipe::{Connection, Receiver, Sender, duplex, pipe};
pub use pool::{Imap, Pool, PoolBuilder, Task};
pub use process::{Builder, ExitStatus, JoinError, Process, StartMethod};
pub use procession_macros::{main, test};
pub use queue::{Queue, SendError};
pub use run::Run;
#[doc(hidden)]
pub use start::__test_entry;
pub use start::init;
pub use sync::Owner;
pub use sync::atomic::{Atomic, AtomicNumber};
pub use sync::barrier::{Barrier, BarrierWaitResult};
pub use sync::condition::Condition;
pub use sync::event::Event;
pub use sync::lock::{Lock, LockGuard};
pub use sync::poison::{Cause, LockResult, Poisoned, TryLockError, TryLockResult};
pub use sync::rlock::{RLock, RLockGuard};
pub use sync::semaphore::{Permit, Semaphore};
