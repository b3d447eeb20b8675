//! What goes wrong in the engine, as the exceptions that users of `multiprocessing` already catch.
//!
//! This is the one place where that is decided. An interrupted wait is not here: what the signal
//! handler raised is raised instead (see `wait`).

use std::io;

use procession_engine::connection::{RecvError, SendError};
use procession_engine::{
    AllocError, ArenaError, BarrierError, FamilyError, GetError, Gone, MakeError, NotHeld,
    NotOwner, PutError, ReleaseError, TooManyDone,
};
use pyo3::PyClass;
use pyo3::exceptions::{
    PyAssertionError, PyEOFError, PyInterruptedError, PyMemoryError, PyOSError, PyRuntimeError,
    PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::imported::Imported;

const EPIPE: i32 = 32;
const EAGAIN: i32 = 11;
const EBADF: i32 = 9;

/// An error of the engine that Python is to see.
pub(crate) trait Raise {
    /// The exception for it.
    fn raise(self, py: Python<'_>) -> PyErr;
}

/// `result.or_raise(py)?`
pub(crate) trait OrRaise<T> {
    /// The value, or the exception.
    fn or_raise(self, py: Python<'_>) -> PyResult<T>;
}

impl<T, E: Raise> OrRaise<T> for Result<T, E> {
    #[inline]
    fn or_raise(self, py: Python<'_>) -> PyResult<T> {
        self.map_err(|error| error.raise(py))
    }
}

/// An exception of a class that is written in Python.
fn python_error(py: Python<'_>, class: &'static Imported, message: String) -> PyErr {
    match class.class(py) {
        Ok(class) => PyErr::from_type(class, (message,)),
        Err(error) => error,
    }
}

macro_rules! python_class {
    ($function:ident, $module:literal, $name:literal) => {
        pub(crate) fn $function(py: Python<'_>, message: String) -> PyErr {
            static CLASS: Imported = Imported::new($module, $name);
            python_error(py, &CLASS, message)
        }
    };
}

python_class!(full, "queue", "Full");
python_class!(empty, "queue", "Empty");
python_class!(broken_barrier, "threading", "BrokenBarrierError");
python_class!(gone, "procession._errors", "Gone");
python_class!(process_error, "procession._errors", "ProcessError");
python_class!(owner_died, "procession._errors", "OwnerDiedError");
python_class!(timed_out, "procession._errors", "TimeoutError");
python_class!(unpickling, "_pickle", "UnpicklingError");

/// The category of the warning that a lock's owner has died.
pub(crate) fn owner_died_warning(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static CLASS: Imported = Imported::new("procession._errors", "OwnerDiedWarning");
    CLASS.get(py)
}

/// The message did not fit; it is the exception's argument.
pub(crate) fn buffer_too_short(py: Python<'_>, message: &[u8]) -> PyErr {
    static CLASS: Imported = Imported::new("procession._errors", "BufferTooShort");
    match CLASS.class(py) {
        Ok(class) => PyErr::from_type(class, (PyBytes::new(py, message).unbind(),)),
        Err(error) => error,
    }
}

/// An operation on something closed, as `OSError`.
pub(crate) fn closed(what: &str) -> PyErr {
    PyOSError::new_err(format!("{what} is closed"))
}

/// A number that is no open descriptor.
pub(crate) fn bad_descriptor(number: i32) -> PyErr {
    PyOSError::new_err((EBADF, format!("{number} is not an open file descriptor")))
}

/// `OSError` with the number if there is one, which picks the subclass.
pub(crate) fn system(message: String, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, message)),
        None if error.kind() == io::ErrorKind::InvalidInput => PyValueError::new_err(message),
        None => PyOSError::new_err(message),
    }
}

impl Raise for io::Error {
    fn raise(self, _py: Python<'_>) -> PyErr {
        system(self.to_string(), &self)
    }
}

impl Raise for AllocError {
    fn raise(self, _py: Python<'_>) -> PyErr {
        match self {
            AllocError::Memory { .. } | AllocError::Range { .. } | AllocError::Count { .. } => {
                PyMemoryError::new_err(self.to_string())
            }
        }
    }
}

impl Raise for Gone {
    fn raise(self, py: Python<'_>) -> PyErr {
        gone(py, self.to_string())
    }
}

impl Raise for FamilyError {
    fn raise(self, py: Python<'_>) -> PyErr {
        let message = self.to_string();
        match self {
            FamilyError::Memory(ArenaError::System(error)) | FamilyError::System(error) => {
                system(message, &error)
            }
            FamilyError::Memory(ArenaError::NoRoom { .. }) => PyMemoryError::new_err(message),
            FamilyError::Memory(ArenaError::Foreign) | FamilyError::AlreadyMember => {
                PyRuntimeError::new_err(message)
            }
            FamilyError::Full(_) => PyOSError::new_err((EAGAIN, message)),
            FamilyError::SeatLost => process_error(py, message),
        }
    }
}

impl Raise for MakeError {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            MakeError::Family(error) => error.raise(py),
            MakeError::Memory(error) => error.raise(py),
            MakeError::Gone(error) => error.raise(py),
        }
    }
}

impl Raise for NotHeld {
    fn raise(self, _py: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for NotOwner {
    fn raise(self, _py: Python<'_>) -> PyErr {
        PyAssertionError::new_err(self.to_string())
    }
}

impl Raise for ReleaseError {
    fn raise(self, _py: Python<'_>) -> PyErr {
        match self {
            ReleaseError::Overflow | ReleaseError::TooMany => {
                PyValueError::new_err(self.to_string())
            }
        }
    }
}

impl Raise for TooManyDone {
    fn raise(self, _py: Python<'_>) -> PyErr {
        PyValueError::new_err(self.to_string())
    }
}

impl Raise for BarrierError {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            BarrierError::Broken { .. } | BarrierError::TimedOut | BarrierError::Interrupted => {
                broken_barrier(py, self.to_string())
            }
        }
    }
}

impl Raise for PutError {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            PutError::Full => full(py, self.to_string()),
            PutError::Closed => PyValueError::new_err(self.to_string()),
            PutError::Interrupted => PyInterruptedError::new_err(self.to_string()),
            PutError::Memory(error) => match error {
                AllocError::Memory { .. } | AllocError::Range { .. } | AllocError::Count { .. } => {
                    PyMemoryError::new_err(self.to_string())
                }
            },
            PutError::Gone => gone(py, self.to_string()),
        }
    }
}

impl Raise for GetError {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            GetError::Empty => empty(py, self.to_string()),
            GetError::Closed => PyValueError::new_err(self.to_string()),
            GetError::Interrupted => PyInterruptedError::new_err(self.to_string()),
            GetError::Gone => gone(py, self.to_string()),
        }
    }
}

impl Raise for SendError {
    fn raise(self, py: Python<'_>) -> PyErr {
        let message = self.to_string();
        match self {
            SendError::NotWritable | SendError::Broken => PyOSError::new_err(message),
            SendError::Closed => PyOSError::new_err((EPIPE, message)),
            SendError::TimedOut => PyTimeoutError::new_err(message),
            SendError::Interrupted => PyInterruptedError::new_err(message),
            SendError::NotFamily => PyValueError::new_err(message),
            SendError::Memory(error) => error.raise(py),
            SendError::Io(error) => system(message, &error),
            _ => PyRuntimeError::new_err(message),
        }
    }
}

impl Raise for RecvError {
    fn raise(self, py: Python<'_>) -> PyErr {
        let message = self.to_string();
        match self {
            RecvError::Closed => PyEOFError::new_err(message),
            RecvError::NotReadable
            | RecvError::Truncated
            | RecvError::TooLong { .. }
            | RecvError::Garbled
            | RecvError::NotBytes
            | RecvError::LostDescriptors { .. } => PyOSError::new_err(message),
            RecvError::TimedOut => PyTimeoutError::new_err(message),
            RecvError::Interrupted => PyInterruptedError::new_err(message),
            RecvError::Gone(_) => gone(py, message),
            RecvError::Io(error) => system(message, &error),
            _ => PyRuntimeError::new_err(message),
        }
    }
}

/// What is there before `__init__` was called.
pub(crate) fn not_made<T: PyClass>() -> PyErr {
    PyRuntimeError::new_err(format!("{}.__init__() has not been called", T::NAME))
}
