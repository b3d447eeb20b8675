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
//! | [`Builder`], [`Stdio`], [`Resource`] | what a process has around it, and what it may use |
//! | [`wait_any`] | the first of several to end |
//! | [`Pool`], [`PoolBuilder`], [`Task`], [`Imap`] | workers that carry out tasks, and what they may use |
//! | [`Lock`], [`RLock`], [`RwLock`], [`Semaphore`], [`Condition`], [`Event`], [`Barrier`], [`Once`] | to keep out of each other's way |
//! | [`Queue`], [`pipe()`], [`duplex()`], [`oneshot()`] | values from process to process |
//! | [`Select`] | waiting for several at once: values, room, locks, permits, events, tasks, processes, descriptors |
//! | [`SharedVec`], [`SharedSlice`], [`Chunks`], [`PlainLock`], [`SharedCells`] | arrays in shared memory, read and changed in place |
//! | [`NamedSlice`] | the same, for programs that are not related |
//! | [`Atomic`], [`OnceLock`], [`Bytes`] | a shared number; a value made once; large bytes in a message |
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
//! A closure that would capture is refused when the program is compiled. What it would capture are
//! arguments: [`Process::spawn_with`] takes the values first, so that the types need not be said.
//!
//! # Code that can't be trusted
//!
//! A process keeps what goes wrong in it to itself, and [`JoinError`] says what it was. The
//! [builder](Process::builder) bounds what it may do meanwhile: time, memory, and by a hook that runs
//! first in it whatever else the system can forbid. The examples `crash_proof` and `sandbox` are
//! programs to start from.
//!
//! ```
//! use std::time::Duration;
//!
//! use procession::{JoinErrorKind, Process};
//!
//! fn decode(file: Vec<u8>) -> usize {
//!     while !file.is_empty() {} // a decoder with a fault
//!     file.len()
//! }
//!
//! #[procession::main]
//! fn main() -> procession::Result<()> {
//!     let process = Process::builder()
//!         .memory_limit(256 << 20)
//!         .timeout(Duration::from_millis(100))
//!         .spawn(decode, vec![1, 2, 3])?;
//!     match process.join() {
//!         Ok(length) => println!("{length}"),
//!         Err(error) if error.kind() == JoinErrorKind::TimedOut => println!("it takes too long"),
//!         Err(error) => println!("{error}"), // a panic, a crash, out of memory, ...
//!     }
//!     Ok(())
//! }
//! ```
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
//! | a process, by its time-out, or in its setup | [`JoinError`], which says that |
//! | a pool's worker | its task alone fails, [`Error::is_worker_lost`]; the worker is replaced |
//! | the holder of a lock | the next one has it, as [`Poisoned`], with the guard inside |
//! | the writer of an [`RwLock`] | the same, readers too; of a reader nothing |
//! | who does something [once](Once) | the next does it |
//! | the holder of a permit of a [bounded](Semaphore::bounded) semaphore | the permit is free again |
//! | a process in the middle of sending or receiving | the value is there whole, or not at all |
//! | the last sender, the last receiver of a pipe | the end of the values; an error from `send` |
//! | a party to a barrier | an error in the others |
//! | the parent | its daemons and workers die with it; nothing is left behind |
//!
//! Whoever waits is told within 100 ms; only of a value whose sender was killed in the instant between
//! sending it and waking the receiver, within 250 ms. Nothing here waits for the dead.
//!
//! # Errors
//!
//! There is one [`Error`], with questions (`is_timeout`, `is_worker_lost`, ...) and causes. Where
//! there is more to give, an operation has its own: [`JoinError`] of a process, [`Poisoned`] and
//! [`TryLockError`] with the guard, [`SendError`] with the value. Each becomes an `Error` by `?`; and
//! [`Error::join_error`] leads back to what a process died of.
//!
//! A guard can't leave its lock, so in a function that returns another type of error (`anyhow::Error`,
//! `Box<dyn Error>`) a poisoned lock becomes an `Error` first, without its guard:
//!
//! ```
//! use procession::{Error, Lock};
//!
//! fn next(counter: &Lock<u64>) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
//!     let mut number = counter.lock().map_err(Error::from)?;
//!     *number += 1;
//!     Ok(*number)
//! }
//! # assert_eq!(next(&Lock::new(1).unwrap()).unwrap(), 2);
//! ```
//!
//! # Tests
//!
//! The harness owns `main` in tests, so there is
//! [`#[procession::test]`](test) in the place of `#[test]`, or above or below the attribute of a runtime,
//! such as `#[tokio::test]`. It works with `cargo test` and with nextest. (A process started by
//! [`Spawn`](StartMethod::Spawn) in a test runs the harness up to the test: where its standard output is
//! a pipe, the harness's first lines come first. In one started by [`Fork`](StartMethod::Fork) the
//! harness keeps what `println!` writes.)
//!
//! # Features
//!
//! | feature | what it adds |
//! | --- | --- |
//! | `ndarray` | views of shared arrays with the shapes of `ndarray`: `ArrayViews` |
//! | `tokio` | waiting in asynchronous code, without a thread for each wait: see below |
//!
//! Neither is on by default.
//!
//! # Asynchronous code
//!
//! With the feature `tokio`:
//!
//! | | |
//! | --- | --- |
//! | [`Process`] | `wait_async`, `join_async` |
//! | [`Task`], [`Imap`] | `wait_async`, `get_async`, `next_async` |
//! | [`Queue`], [`Receiver`], [`Sender`], [`Connection`], [`OneReceiver`] | `recv_async`, `recv_many_async`, `send_async`; of a queue `join_async` |
//! | [`Lock`], [`PlainLock`], [`Chunk`] | `lock_async` |
//! | [`RwLock`] | `read_async`, `write_async` |
//! | [`Semaphore`], [`Event`], [`Condition`] | `acquire_async`, `wait_async`, `wait_async` |
//!
//! One thread of the process watches what lies in shared memory (one more for each further 100 waits
//! at a time); processes are watched by the runtime. Only those need tokio's, all else any executor.
//! A future that is dropped before it is done has received nothing and holds nothing, and what would
//! have woken it wakes another. Deaths are noticed as by those who block.
//!
//! An [`RLock`] is not awaited: it is its thread's, and all tasks of that thread would have it at once.
//! Nor is a [`Barrier`], which breaks when a party gives up, as a dropped future does; nor a [`Once`].
//!
//! # Platform
//!
//! Linux 5.10 or later with glibc, x86-64 and aarch64; Rust 1.88 or later.
//!
//! How the same program looks with other crates, how long it takes there and what becomes of faults:
//! [`comparison`].

#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "tokio")]
mod asynchronous;
mod bytes;
#[cfg(doc)]
#[doc = include_str!("../comparison.md")]
pub mod comparison {}
mod current;
pub mod diagnostics;
mod entry;
mod error;
#[cfg(doctest)]
mod forbidden;
mod function;
mod oneshot;
mod panic;
mod pipe;
mod pool;
mod process;
mod queue;
mod run;
mod select;
mod shared;
mod start;
mod sync;
mod values;
mod wire;

use procession_engine as engine;

pub use bytemuck;
pub use bytes::Bytes;
pub use current::{
    ActiveChild, CurrentProcess, ParentProcess, active_children, current_process, parent_process,
};
pub use error::{Error, Result};
pub use function::{Function, Spread, Whole};
pub use oneshot::{OneReceiver, OneSender, oneshot};
pub use panic::{Panic, Place};
pub use pipe::{Connection, Receiver, Sender, duplex, pipe};
pub use pool::{
    Activity, Imap, Pool, PoolBuilder, PoolStatus, Progress, Task, Tasks, WorkerStatus,
    worker_state,
};
pub use process::{
    Builder, ExitStatus, JoinError, JoinErrorKind, Output, Process, Resource, SetupResult,
    StartMethod, Stdio, wait_any, wait_any_timeout,
};
pub use procession_macros::{main, test};
pub use queue::{Queue, SendError};
pub use run::Run;
pub use select::{Locks, Receives, Select, Sends};
pub use shared::Plain;
#[cfg(feature = "ndarray")]
#[cfg_attr(docsrs, doc(cfg(feature = "ndarray")))]
pub use shared::array::ArrayViews;
pub use shared::cells::SharedCells;
pub use shared::chunks::{AllChunks, Chunk, ChunkGuard, Chunks};
pub use shared::frozen::SharedSlice;
pub use shared::named::{NamedReadGuard, NamedSlice, NamedWriteGuard, Unfinished};
pub use shared::vec::SharedVec;
#[doc(hidden)]
pub use start::__test_entry;
pub use start::init;
pub use sync::Owner;
pub use sync::atomic::{Atomic, AtomicInteger, AtomicNumber};
pub use sync::barrier::{Barrier, BarrierWaitResult};
pub use sync::condition::Condition;
pub use sync::event::Event;
pub use sync::lock::{Lock, LockGuard};
pub use sync::once::{Once, OnceLock, OnceState};
pub use sync::plain_lock::{PlainLock, PlainLockGuard, PlainTarget};
pub use sync::poison::{Cause, LockResult, Poisoned, TryLockError, TryLockResult};
pub use sync::rlock::{RLock, RLockGuard};
pub use sync::rwlock::{ReadGuard, RwLock, WriteGuard};
pub use sync::semaphore::{Permit, Semaphore};
pub use values::{IntoValues, Values};
