//! Why a shared object could not be made.

use std::fmt;

use procession_shm::{AllocError, Gone};

use crate::family::FamilyError;

/// Why a shared object could not be made.
#[derive(Debug)]
pub enum MakeError {
    /// There is no family for it to live in.
    Family(FamilyError),
    /// There is no memory; the message names the size.
    Memory(AllocError),
    /// It was there and is gone: its memory was overwritten.
    Gone(Gone),
}

impl fmt::Display for MakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MakeError::Family(error) => error.fmt(f),
            MakeError::Memory(error) => error.fmt(f),
            MakeError::Gone(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MakeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            MakeError::Family(error) => Some(error),
            MakeError::Memory(error) => Some(error),
            MakeError::Gone(error) => Some(error),
        }
    }
}
