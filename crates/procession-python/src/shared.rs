//! What all classes whose objects live in the arena have in common: one is made by `__init__` or
//! adopted by its handle, and pickles as that handle.

use std::sync::OnceLock;

use procession_engine::{Gone, Handle};
use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use crate::arguments::HandleBytes;
use crate::error::{OrRaise, not_made};
use crate::imported::{Imported, Name};
use crate::pickling;

static STATE: Name = Name::new("__getstate__");
static NEW: Name = Name::new("__new__");
static ADOPT: Name = Name::new("_adopt");

/// The object in the arena behind a Python object, once there is one.
pub(crate) struct Inner<T>(OnceLock<T>);

impl<T> Inner<T> {
    pub(crate) const fn new() -> Inner<T> {
        Inner(OnceLock::new())
    }

    pub(crate) fn with(value: T) -> Inner<T> {
        Inner(OnceLock::from(value))
    }

    /// It, for a method of class `C`.
    ///
    /// # Errors
    /// When `__init__` was not called.
    #[inline]
    pub(crate) fn get<C: PyClass>(&self) -> PyResult<&T> {
        self.0.get().ok_or_else(not_made::<C>)
    }

    pub(crate) fn get_opt(&self) -> Option<&T> {
        self.0.get()
    }

    /// Makes it, unless that was done: a second `__init__` changes nothing.
    pub(crate) fn make(&self, make: impl FnOnce() -> PyResult<T>) -> PyResult<()> {
        if self.0.get().is_none() {
            let made = make()?;
            // Another thread's, if that was quicker.
            let _ = self.0.set(made);
        }
        Ok(())
    }

    /// Takes on the object that a pickle named.
    pub(crate) fn adopt(
        &self,
        py: Python<'_>,
        handle: &HandleBytes,
        find: impl FnOnce(Handle) -> Result<T, Gone>,
    ) -> PyResult<()> {
        self.make(|| find(handle.0).or_raise(py))
    }
}

/// What `__reduce__` returns: the function, its arguments, the state of the Python object.
pub(crate) type Reduced<'py> = (
    Bound<'py, PyAny>,
    (Bound<'py, PyType>, Bound<'py, PyBytes>, u8),
    Bound<'py, PyAny>,
);

/// The pickle of an object of the arena: its class, its handle, a number of the class's own.
pub(crate) fn reduce<'py>(
    object: &Bound<'py, PyAny>,
    handle: Handle,
    own: u8,
) -> PyResult<Reduced<'py>> {
    static REBUILD: Imported = Imported::new("procession._procession", "_rebuild");
    let py = object.py();
    let rebuild = REBUILD.get(py)?;
    let state = object.call_method0(STATE.get(py))?;
    pickling::mention(object, handle);
    let name = PyBytes::new(py, &handle.to_bytes());
    Ok((rebuild, (object.get_type(), name, own), state))
}

/// Rebuilds an object of the arena in the process that unpickles it.
#[pyfunction]
pub(crate) fn _rebuild<'py>(
    cls: &Bound<'py, PyType>,
    handle: &Bound<'py, PyBytes>,
    own: u8,
) -> PyResult<Bound<'py, PyAny>> {
    let py = cls.py();
    let object = cls.call_method1(NEW.get(py), (cls,))?;
    object.call_method1(ADOPT.get(py), (handle, own))?;
    Ok(object)
}

/// The 16 bytes of a handle.
pub(crate) fn handle_bytes(py: Python<'_>, handle: Handle) -> Bound<'_, PyBytes> {
    PyBytes::new(py, &handle.to_bytes())
}
