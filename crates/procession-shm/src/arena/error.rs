//! What can go wrong with the arena and its objects.

use std::fmt;
use std::io;

use crate::handle::Kind;

/// Why an arena could not be made or joined.
#[derive(Debug)]
pub enum ArenaError {
    /// The system refused.
    System(io::Error),
    /// Not even the smallest range of addresses was to be had.
    NoRoom {
        /// Bytes of addresses asked for last.
        asked: usize,
    },
    /// The file is no arena, or one of another version.
    Foreign,
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArenaError::System(error) => write!(f, "the shared memory of the family can't be set up: {error}"),
            ArenaError::NoRoom { asked } => write!(
                f,
                "no address range of {asked} bytes is free for the shared memory of the family: raise the limit on address space (ulimit -v) or on file size (ulimit -f)"
            ),
            ArenaError::Foreign => f.write_str(
                "the descriptor given is not this version's shared memory: parent and child must use the same version of procession",
            ),
        }
    }
}

impl std::error::Error for ArenaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ArenaError::System(error) => Some(error),
            _ => None,
        }
    }
}

/// Memory for an object was not to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllocError {
    /// The system has too little memory left.
    Memory {
        /// Bytes asked for.
        asked: usize,
    },
    /// The address range of the arena is used up, or the object is larger than all of it.
    Range {
        /// Bytes asked for.
        asked: usize,
        /// Bytes of the whole range.
        reserve: usize,
    },
    /// There are as many objects of this size as there may be.
    Count {
        /// Bytes asked for.
        asked: usize,
        /// How many objects there may be.
        limit: u32,
    },
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AllocError::Memory { asked } => write!(
                f,
                "out of memory: {asked} bytes of shared memory were asked for, and the system does not have them"
            ),
            AllocError::Range { asked, reserve } => write!(
                f,
                "out of shared memory: {asked} bytes were asked for, and the family's range of {reserve} bytes has no such stretch left"
            ),
            AllocError::Count { asked, limit } => {
                write!(
                    f,
                    "out of shared memory: there are already {limit} objects of the size of {asked} bytes"
                )
            }
        }
    }
}

impl std::error::Error for AllocError {}

/// The object that a handle names is not there (any more), or is something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// What was expected, if anything certain was.
    pub expected: Option<Kind>,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.expected.map_or("object", Kind::name);
        write!(
            f,
            "this {what} no longer exists: the last process that held it has dropped it or ended (keep it referenced in one process while others use it), or it belongs to another family of processes"
        )
    }
}

impl std::error::Error for Gone {}
