//! What is looked up in a Python module once, and names that are made into Python strings once.
//!
//! Not by `PyOnceLock::import` and `intern!`: those keep their cell locked while they wait for the
//! interpreter, and while Python code runs, and so maybe while another thread forks. In the child
//! nobody would ever unlock it, and whoever asks would wait for ever. Here the value is made first,
//! perhaps by several threads, and the cell is filled in one step with the interpreter held.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyType};

/// An attribute of a module.
pub(crate) struct Imported {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<Py<PyAny>>,
}

impl Imported {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Imported {
        Imported {
            module,
            name,
            found: PyOnceLock::new(),
        }
    }

    /// The attribute, as it was when it was first asked for.
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(found) = self.found.get(py) {
            return Ok(found.bind(py).clone());
        }
        let found = py.import(self.module)?.getattr(self.name)?.unbind();
        // Another thread may have been first.
        let _ = self.found.set(py, found);
        let found = self.found.get(py).map(|found| found.bind(py).clone());
        found.ok_or_else(|| PyRuntimeError::new_err("a cell that was filled is empty"))
    }

    /// The same, of a class.
    pub(crate) fn class<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        Ok(self.get(py)?.cast_into::<PyType>()?)
    }
}

/// A name, for attributes and methods.
pub(crate) struct Name {
    text: &'static str,
    made: PyOnceLock<Py<PyString>>,
}

impl Name {
    pub(crate) const fn new(text: &'static str) -> Name {
        Name {
            text,
            made: PyOnceLock::new(),
        }
    }

    /// The name as a string of Python's.
    #[inline]
    pub(crate) fn get<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        match self.made.get(py) {
            Some(made) => made.bind(py).clone(),
            None => self.make(py),
        }
    }

    #[cold]
    fn make<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let made = PyString::intern(py, self.text);
        // Another thread may have been first.
        let _ = self.made.set(py, made.clone().unbind());
        made
    }
}
