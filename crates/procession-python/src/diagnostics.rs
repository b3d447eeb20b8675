//! Reports of waits that take long or never end, on the package's logger.

use std::cell::Cell;

use procession_engine::diagnostics::{self, Diagnosis};
use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::error::OrRaise;

thread_local! {
    /// What a signal handler has raised in the middle of a report. It is none of the logger's business.
    static RAISED: Cell<Option<PyErr>> = const { Cell::new(None) };
}

/// What is to end this thread's wait, if its report was interrupted.
pub(crate) fn raised() -> Option<PyErr> {
    RAISED.take()
}

/// From here on, diagnoses of this process go to `procession.util`.
pub(crate) fn install() {
    diagnostics::set_hook(|diagnosis: &Diagnosis| {
        // Called in the middle of a wait, without the interpreter. None: it is shutting down.
        let _ = Python::try_attach(|py| {
            let reported = py
                .import("procession.util")
                .and_then(|util| util.call_method1("_report_wait", (diagnosis.to_string(),)));
            match reported {
                Ok(_) => {}
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    error.write_unraisable(py, None);
                }
                Err(error) => RAISED.set(Some(error)),
            }
        });
    });
}

/// After how many seconds a wait is reported; None is never. For the whole family.
#[pyfunction]
pub(crate) fn set_deadlock_timeout(py: Python<'_>, seconds: Timeout) -> PyResult<()> {
    if seconds.is_zero() {
        return Err(PyValueError::new_err(
            "the time after which a wait is reported must be more than 0 seconds, or None for never",
        ));
    }
    diagnostics::set_deadlock_timeout(seconds.0).or_raise(py)
}

/// After how many seconds the wait for a lock is reported; None is never.
#[pyfunction]
pub(crate) fn deadlock_timeout(py: Python<'_>) -> PyResult<Option<f64>> {
    let timeout = diagnostics::deadlock_timeout().or_raise(py)?;
    Ok(timeout.map(|time| time.as_secs_f64()))
}
