//! That the last holder of a lock did not come to the end of what it did.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::Patience;
use crate::error::Error;

/// The word in shared memory, written by the holder of the lock: `pid << 8 | what`.
///
/// | what | meaning | set by | cleared by |
/// | --- | --- | --- | --- |
/// | 0 | in order | | |
/// | 1 | a holder died | who takes the lock over from it | [`Poisoned::into_inner`] |
/// | 2 | a holder panicked | its guard, or its [`Witness`] | [`Poisoned::into_inner`] |
/// | 3 | a holder could not store the value | its guard | [`Poisoned::into_inner`] |
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag(pub(crate) &'static AtomicU64);

impl Flag {
    pub(crate) fn get(self) -> Option<Cause> {
        // Relaxed: read and written only by holders of the lock, whose acquiring and releasing
        // order it.
        let word = self.0.load(Ordering::Relaxed);
        let pid = (word >> 8) as u32;
        match word & 0xff {
            1 => Some(Cause::Died { pid }),
            2 => Some(Cause::Panicked { pid }),
            3 => Some(Cause::NotStored { pid }),
            _ => None,
        }
    }

    pub(crate) fn set(self, cause: Cause) {
        let (what, pid) = match cause {
            Cause::Died { pid } => (1, pid),
            Cause::Panicked { pid } => (2, pid),
            Cause::NotStored { pid } => (3, pid),
        };
        self.0.store(u64::from(pid) << 8 | what, Ordering::Relaxed);
    }

    pub(crate) fn clear(self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Leaves word in the flag of a lock whose guard is dropped by a panic.
pub(crate) struct Witness {
    flag: Flag,
    /// Whether the thread was panicking already when it took the lock.
    panicking: bool,
}

impl Witness {
    /// Of a lock that was just taken.
    pub(crate) fn new(flag: Flag) -> Witness {
        Witness {
            flag,
            panicking: std::thread::panicking(),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.panicking {
            self.flag.set(Cause::Panicked {
                pid: std::process::id(),
            });
        }
    }
}

/// What happened to the holder of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The process ended while it held the lock: killed, crashed, or by `std::process::exit`.
    Died {
        /// Its process id, 0 if that is not known any more.
        pid: u32,
    },
    /// It panicked while it held the lock.
    Panicked {
        /// Its process id.
        pid: u32,
    },
    /// The value could not be put back: serialising it failed, or there was no memory for it.
    NotStored {
        /// Its process id.
        pid: u32,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Died { pid: 0 } => out.write_str("a process ended while it held it"),
            Cause::Died { pid } => write!(out, "process {pid} ended while it held it"),
            Cause::Panicked { pid } => write!(out, "process {pid} panicked while it held it"),
            Cause::NotStored { pid } => write!(
                out,
                "process {pid} could not store the value it had changed"
            ),
        }
    }
}

/// The lock is acquired, and its last holder did not come to the end of what it did.
///
/// The guard is inside. The value under a [`Lock`](crate::Lock) is whole: it is what it was before that
/// holder took the lock, and so is that of an [`RwLock`](crate::RwLock). What is changed in place
/// ([`PlainLock`](crate::PlainLock), [`Chunk`](crate::Chunk)) is as that holder left it, some of
/// it changed and some not. Whether what the lock stands for is in order is for the program to say.
/// [`into_inner`](Self::into_inner) says so: the lock is in order from then on. If the error is
/// dropped instead, the lock is released and the next holder is told as well.
pub struct Poisoned<G> {
    pub(crate) guard: G,
    pub(crate) flag: Flag,
    /// Of other locks that were taken with it.
    pub(crate) also: Vec<Flag>,
    pub(crate) cause: Cause,
    pub(crate) what: &'static str,
}

impl<G> Poisoned<G> {
    /// The guard. From here on the lock counts as in order.
    pub fn into_inner(self) -> G {
        self.flag.clear();
        self.also.into_iter().for_each(Flag::clear);
        self.guard
    }

    /// What happened.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// A guard that was acquired; as an error if its last holders have left something undone.
    pub(crate) fn told(
        guard: G,
        flag: Flag,
        cause: Option<Cause>,
        what: &'static str,
    ) -> TryLockResult<G> {
        match cause {
            None => Ok(guard),
            Some(cause) => Err(TryLockError::Poisoned(Poisoned {
                guard,
                flag,
                also: Vec::new(),
                cause,
                what,
            })),
        }
    }

    pub(crate) fn map<H>(self, change: impl FnOnce(G) -> H) -> Poisoned<H> {
        Poisoned {
            guard: change(self.guard),
            flag: self.flag,
            also: self.also,
            cause: self.cause,
            what: self.what,
        }
    }
}

impl<G> fmt::Display for Poisoned<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the {} is poisoned: {}", self.what, self.cause)
    }
}

impl<G> fmt::Debug for Poisoned<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Poisoned")
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl<G> std::error::Error for Poisoned<G> {}

impl<G> From<Poisoned<G>> for Error {
    /// Releases the lock, which stays poisoned.
    fn from(poisoned: Poisoned<G>) -> Error {
        Error::poisoned(poisoned.what, &poisoned.cause)
    }
}

/// A lock acquired: its guard, or its guard with a warning.
pub type LockResult<G> = std::result::Result<G, Poisoned<G>>;

/// A lock acquired, or not.
pub type TryLockResult<G> = std::result::Result<G, TryLockError<G>>;

/// Acquires a lock however long it takes.
#[inline]
pub(crate) fn forever<G>(
    mut acquire: impl FnMut(&mut Patience<'_>) -> TryLockResult<G>,
) -> LockResult<G> {
    loop {
        match acquire(&mut Patience::forever()) {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
            // Patience without end runs out only where somebody asked to be interrupted.
            Err(TryLockError::Locked) => {}
        }
    }
}

/// Why a lock was not acquired, or not as usual.
pub enum TryLockError<G> {
    /// It was acquired, and its last holder did not come to the end of what it did.
    Poisoned(Poisoned<G>),
    /// Somebody else holds it, and did so for as long as the caller would wait.
    Locked,
}

impl<G> fmt::Display for TryLockError<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::Poisoned(poisoned) => poisoned.fmt(out),
            TryLockError::Locked => out.write_str("somebody else holds the lock"),
        }
    }
}

impl<G> fmt::Debug for TryLockError<G> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TryLockError::Poisoned(poisoned) => poisoned.fmt(out),
            TryLockError::Locked => out.write_str("Locked"),
        }
    }
}

impl<G> std::error::Error for TryLockError<G> {}

impl<G> From<TryLockError<G>> for Error {
    fn from(error: TryLockError<G>) -> Error {
        match error {
            TryLockError::Poisoned(poisoned) => poisoned.into(),
            TryLockError::Locked => Error::timed_out("the lock", None),
        }
    }
}
