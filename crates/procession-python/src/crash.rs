//! For tests: has this process killed when it reaches a named place.

use procession_engine::crash::{POINTS, arm};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The names of all the places there are.
#[pyfunction]
pub(crate) fn _crash_points() -> Vec<&'static str> {
    POINTS.to_vec()
}

/// This process is killed when it reaches the place for the `time`th time, counted from 1.
#[pyfunction]
pub(crate) fn _arm_crash_point(name: &str, time: usize) -> PyResult<()> {
    if !POINTS.contains(&name) {
        return Err(PyValueError::new_err(format!("no crash point {name}")));
    }
    arm(name, time);
    Ok(())
}
