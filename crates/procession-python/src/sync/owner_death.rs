//! What is done when a lock was acquired whose owner had died.

use std::ffi::CString;
use std::sync::atomic::{AtomicU8, Ordering};

use procession_engine::Acquired;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error;

const WARN: u8 = 0;
const RAISE: u8 = 1;
const IGNORE: u8 = 2;

/// What a lock does then; a number, to travel in its pickle.
pub(crate) struct OnOwnerDeath(AtomicU8);

/// Whether a lock is still held when the death of its last owner makes the call raise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// The caller asked for the error and gets it together with the lock, to put things right.
    IfAskedFor,
    /// Nobody could release it: a `with` block that is not entered.
    Never,
    /// It must be, whatever is raised: a condition's lock after the wait.
    Always,
}

impl OnOwnerDeath {
    pub(crate) const fn new() -> OnOwnerDeath {
        OnOwnerDeath(AtomicU8::new(WARN))
    }

    pub(crate) fn set(&self, name: &str) -> PyResult<()> {
        let number = match name {
            "warn" => WARN,
            "raise" => RAISE,
            "ignore" => IGNORE,
            _ => {
                let message =
                    format!("on_owner_death must be 'warn', 'raise' or 'ignore', not {name:?}");
                return Err(PyValueError::new_err(message));
            }
        };
        self.set_number(number);
        Ok(())
    }

    pub(crate) fn set_number(&self, number: u8) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(crate) fn number(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self.number() {
            RAISE => "raise",
            IGNORE => "ignore",
            _ => "warn",
        }
    }

    /// Says that the owner has died, if it has. `release` undoes the acquire.
    ///
    /// # Errors
    /// `OwnerDiedError` if that was asked for, or the warning if warnings are errors. See [`Held`]
    /// for whether the lock is held then.
    #[inline]
    pub(crate) fn report(
        &self,
        py: Python<'_>,
        acquired: Acquired,
        held: Held,
        release: impl FnOnce(),
    ) -> PyResult<()> {
        match acquired {
            Acquired::Clean => Ok(()),
            died @ Acquired::OwnerDied { .. } => self.report_death(py, &died, held, release),
        }
    }

    #[cold]
    fn report_death(
        &self,
        py: Python<'_>,
        died: &Acquired,
        held: Held,
        release: impl FnOnce(),
    ) -> PyResult<()> {
        let policy = self.number();
        if policy == IGNORE {
            return Ok(());
        }
        let who = match died {
            Acquired::OwnerDied {
                info: Some(info), ..
            } => format!("process {} ({:?})", info.pid, info.name),
            _ => String::from("a process"),
        };
        let message = format!(
            "the last owner of this lock, {who}, ended without releasing it: what the lock protects may be half changed"
        );
        let error = if policy == RAISE {
            error::owner_died(py, message)
        } else {
            let text = CString::new(message).unwrap_or_default();
            match error::owner_died_warning(py)
                .and_then(|category| PyErr::warn(py, &category, &text, 1))
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        };
        let keep = held == Held::Always || (held == Held::IfAskedFor && policy == RAISE);
        if !keep {
            release();
        }
        Err(error)
    }
}
