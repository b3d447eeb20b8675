//! `Guarded`: what the wrapper of a single value does on each access.

use std::sync::OnceLock;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyAttributeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::quick::Quick;
use super::{Lock, RLock};
use crate::error::{OrRaise, Raise};
use crate::imported::Name;

static ACQUIRE: Name = Name::new("acquire");
static RELEASE: Name = Name::new("release");
static VALUE: Name = Name::new("value");

/// Holds an object and a lock, which are set once, as `_obj` and `_lock`. Its `value` is the object's,
/// read and written with the lock held.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Guarded {
    object: OnceLock<Py<PyAny>>,
    lock: OnceLock<AnyLock>,
}

/// A lock that is known to be one of ours needs no look-up of its methods.
enum AnyLock {
    Lock(Py<Lock>),
    RLock(Py<RLock>),
    Other(Py<PyAny>),
}

impl AnyLock {
    fn of(lock: &Bound<'_, PyAny>) -> PyResult<AnyLock> {
        // A class with an `acquire` or `release` of its own is to have it called.
        let class = lock.get_type();
        let py = lock.py();
        let plain = |base: Bound<'_, pyo3::types::PyType>| -> PyResult<bool> {
            Ok(class
                .getattr(ACQUIRE.get(py))?
                .is(&base.getattr(ACQUIRE.get(py))?)
                && class
                    .getattr(RELEASE.get(py))?
                    .is(&base.getattr(RELEASE.get(py))?))
        };
        if let Ok(lock) = lock.cast::<RLock>()
            && plain(py.get_type::<RLock>())?
        {
            return Ok(AnyLock::RLock(lock.clone().unbind()));
        }
        if let Ok(lock) = lock.cast::<Lock>()
            && plain(py.get_type::<Lock>())?
        {
            return Ok(AnyLock::Lock(lock.clone().unbind()));
        }
        Ok(AnyLock::Other(lock.clone().unbind()))
    }

    fn as_any(&self) -> &Py<PyAny> {
        match self {
            AnyLock::Lock(lock) => lock.as_any(),
            AnyLock::RLock(lock) => lock.as_any(),
            AnyLock::Other(lock) => lock,
        }
    }

    #[inline]
    fn acquire(&self, py: Python<'_>) -> PyResult<()> {
        let taken = match self {
            AnyLock::Lock(lock) => lock.get().take_quickly(),
            AnyLock::RLock(lock) => lock.get().take_quickly(),
            AnyLock::Other(_) => false,
        };
        if taken {
            return Ok(());
        }
        self.as_any().call_method0(py, ACQUIRE.get(py)).map(drop)
    }

    #[inline]
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            AnyLock::Lock(lock) => released(py, lock.get().release_quickly()),
            AnyLock::RLock(lock) => released(py, lock.get().release_quickly()),
            AnyLock::Other(lock) => lock.call_method0(py, RELEASE.get(py)).map(drop),
        }
    }
}

fn released<E: Raise>(py: Python<'_>, released: Option<Result<(), E>>) -> PyResult<()> {
    // None is for a lock that was not made: it can't have been acquired.
    released.unwrap_or(Ok(())).or_raise(py)
}

fn missing() -> PyErr {
    PyAttributeError::new_err("the wrapper has no object and lock yet: its __init__ was not called")
}

fn set_already() -> PyErr {
    PyAttributeError::new_err("the object and the lock of a wrapper can't be replaced")
}

impl Guarded {
    /// Runs `act` with the lock held.
    #[inline]
    fn held<T>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>,
    ) -> PyResult<T> {
        let (object, lock) = self.object.get().zip(self.lock.get()).ok_or_else(missing)?;
        lock.acquire(py)?;
        let done = act(object.bind(py));
        // What went wrong first is told.
        let released = lock.release(py);
        done.and_then(|done| released.map(|()| done))
    }
}

#[pymethods]
impl Guarded {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "()")]
    fn new(
        _args: &Bound<'_, pyo3::types::PyTuple>,
        _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> Guarded {
        Guarded {
            object: OnceLock::new(),
            lock: OnceLock::new(),
        }
    }

    /// The object, whose use takes no lock.
    #[getter]
    fn _obj(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.object
            .get()
            .map(|object| object.clone_ref(py))
            .ok_or_else(missing)
    }

    #[setter(_obj)]
    fn set_object(&self, object: Py<PyAny>) -> PyResult<()> {
        self.object.set(object).map_err(|_| set_already())
    }

    /// The lock.
    #[getter]
    fn _lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.lock
            .get()
            .map(|lock| lock.as_any().clone_ref(py))
            .ok_or_else(missing)
    }

    #[setter(_lock)]
    fn set_lock(&self, lock: &Bound<'_, PyAny>) -> PyResult<()> {
        self.lock.set(AnyLock::of(lock)?).map_err(|_| set_already())
    }

    /// The lock.
    fn get_lock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self._lock(py)
    }

    /// The object's value, read or written with the lock held.
    #[getter]
    fn value(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.held(py, |object| {
            object.getattr(VALUE.get(py)).map(Bound::unbind)
        })
    }

    #[setter]
    fn set_value(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.held(py, |object| object.setattr(VALUE.get(py), value))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.object.get())?;
        visit.call(self.lock.get().map(AnyLock::as_any))
    }
}
