//! Kernel calls as safe functions over owned descriptors: the only crate of Procession that speaks to Linux.
//!
//! ```
//! let word = std::sync::atomic::AtomicU32::new(0);
//! assert_eq!(procession_sys::futex::wake(&word, 1), 0);
//! assert!(procession_sys::liveness::start_time(std::process::id()).is_ok());
//! ```

#![allow(
    unsafe_code,
    reason = "this crate is where the calls are made; each block explains itself"
)]

pub mod clock;
pub mod fork_hooks;
pub mod futex;
pub mod liveness;
pub mod memory;
pub mod named;
pub mod poll;
pub mod process;
pub mod socket;
pub mod thread;
