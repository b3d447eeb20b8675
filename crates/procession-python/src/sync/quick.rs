//! The calls of locks that have nothing to wait for, made as short as those of the standard library's.
//!
//! PyO3's way into a method (its bookkeeping of attached threads, the reading of arguments, a net for
//! panics) costs as much as the taking of a free lock itself. The functions of this file stand before
//! four methods of each kind of lock: they do what can be done at once, without PyO3, and pass every
//! other call on to the method that PyO3 has made, as it came.

#![allow(
    unsafe_code,
    reason = "functions that the interpreter calls directly; each block explains itself"
)]

use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::{PyClass, ffi};

use crate::error::Raise;

/// Methods of one class as PyO3 has made them.
pub(crate) struct Originals {
    acquire: AtomicPtr<c_void>,
    release: AtomicPtr<c_void>,
    enter: AtomicPtr<c_void>,
    exit: AtomicPtr<c_void>,
}

impl Originals {
    pub(crate) const fn new() -> Originals {
        Originals {
            acquire: AtomicPtr::new(std::ptr::null_mut()),
            release: AtomicPtr::new(std::ptr::null_mut()),
            enter: AtomicPtr::new(std::ptr::null_mut()),
            exit: AtomicPtr::new(std::ptr::null_mut()),
        }
    }
}

/// A lock with calls that can be made quickly. They run nothing of Python's, and should one panic, the
/// process ends.
pub(crate) trait Quick: PyClass<Frozen = True> + Sync {
    /// For this class.
    const ORIGINALS: &'static Originals;
    /// Why a lock can't be released.
    type Error: Raise;

    /// Takes the lock if nothing has to be looked into for that.
    fn take_quickly(&self) -> bool;

    /// Releases it. `None`: it was not made, nothing was done.
    fn release_quickly(&self) -> Option<Result<(), Self::Error>>;
}

/// Puts the quick functions before the methods of the class of `sample`.
pub(super) fn install<T: Quick>(sample: &Bound<'_, T>) -> PyResult<()> {
    let with_arguments = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let none = ffi::METH_NOARGS;
    let originals = T::ORIGINALS;
    let acquire = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: acquire::<T>,
    };
    let exit = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: exit::<T>,
    };
    let release = ffi::PyMethodDefPointer {
        PyCFunction: release::<T>,
    };
    let enter = ffi::PyMethodDefPointer {
        PyCFunction: enter::<T>,
    };
    for (name, function, flags, original) in [
        ("acquire", acquire, with_arguments, &originals.acquire),
        ("release", release, none, &originals.release),
        ("__enter__", enter, none, &originals.enter),
        ("__exit__", exit, with_arguments, &originals.exit),
    ] {
        put_before(sample.as_any(), name, function, flags, original)?;
    }
    Ok(())
}

pub(crate) fn put_before(
    sample: &Bound<'_, PyAny>,
    name: &str,
    function: ffi::PyMethodDefPointer,
    flags: c_int,
    original: &AtomicPtr<c_void>,
) -> PyResult<()> {
    let py = sample.py();
    let other = || PyRuntimeError::new_err(format!("{name} is not the method it should be"));
    let method = sample.getattr(name)?;
    // SAFETY: a live object; of another type than a built-in method the call says so.
    let found = unsafe { ffi::PyCFunction_GetFlags(method.as_ptr()) };
    if PyErr::take(py).is_some() || found != flags {
        // It would have to be called in another way.
        return Err(other());
    }
    // SAFETY: as above; that it is a built-in method is known by now.
    let theirs = unsafe { ffi::PyCFunction_GetFunction(method.as_ptr()) }.ok_or_else(other)?;
    original.store(theirs as *mut c_void, Ordering::Relaxed);
    let text =
        |attribute: &str| -> PyResult<Option<String>> { method.getattr(attribute)?.extract() };
    let signature =
        text("__text_signature__")?.map(|signature| format!("{name}{signature}\n--\n\n"));
    let doc = signature.unwrap_or_default() + &text("__doc__")?.unwrap_or_default();
    // For as long as the process lives, like every method of a built-in class.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: CString::new(name)?.into_raw(),
        ml_meth: function,
        ml_flags: flags,
        ml_doc: CString::new(doc)?.into_raw(),
    }));
    let class = sample.get_type();
    // SAFETY: a live class, and a definition that is never freed, whose flags are those of its function.
    let descriptor = unsafe { ffi::PyDescr_NewMethod(class.as_type_ptr(), definition) };
    // SAFETY: that is a new reference, or null with an exception set.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(py, descriptor) }?;
    class.setattr(name, descriptor)
}

/// The lock behind a method's `self`.
///
/// # Safety
/// `slf` is an instance of T, alive for as long as the pointer is borrowed, and the interpreter is held.
#[inline]
unsafe fn lock_of<T: Quick>(slf: &*mut ffi::PyObject) -> &T {
    // SAFETY: the caller says so. Nothing is done with the token but to call what needs one.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: not null: an instance. It outlives the borrow.
    let object = unsafe { Bound::ref_from_ptr(py, slf) };
    // SAFETY: of this class, the caller says.
    unsafe { object.cast_unchecked::<T>() }.get()
}

/// What is returned for a lock that was taken.
#[inline]
fn truth() -> *mut ffi::PyObject {
    // SAFETY: the interpreter is held by all callers, which it has called. A constant of it.
    let truth = unsafe { ffi::Py_True() };
    // SAFETY: as above: a live object.
    unsafe { ffi::Py_IncRef(truth) };
    truth
}

#[inline]
pub(crate) fn nothing() -> *mut ffi::PyObject {
    // SAFETY: the interpreter is held by all callers, which it has called. A constant of it.
    let none = unsafe { ffi::Py_None() };
    // SAFETY: as above: a live object.
    unsafe { ffi::Py_IncRef(none) };
    none
}

#[cold]
fn raise(error: impl Raise) -> *mut ffi::PyObject {
    Python::attach(|py| error.raise(py).restore(py));
    std::ptr::null_mut()
}

/// # Safety
/// As the interpreter calls a method: `slf` is an instance of the class, the arguments live.
pub(crate) unsafe fn pass_on_arguments(
    original: &AtomicPtr<c_void>,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let function = original.load(Ordering::Relaxed);
    // SAFETY: `put_before` took it from a method with these flags, before anyone could call this.
    let function: ffi::PyCFunctionFastWithKeywords = unsafe { std::mem::transmute(function) };
    // SAFETY: with what the interpreter gave, in its own way.
    unsafe { function(slf, args, count, names) }
}

/// # Safety
/// As the interpreter calls a method: `slf` is an instance of the class.
unsafe fn pass_on(original: &AtomicPtr<c_void>, slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let function = original.load(Ordering::Relaxed);
    // SAFETY: `put_before` took it from a method with these flags, before anyone could call this.
    let function: ffi::PyCFunction = unsafe { std::mem::transmute(function) };
    // SAFETY: with what the interpreter gave, in its own way.
    unsafe { function(slf, std::ptr::null_mut()) }
}

unsafe extern "C" fn acquire<T: Quick>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with an instance and is held.
    if count == 0 && names.is_null() && unsafe { lock_of::<T>(&slf) }.take_quickly() {
        return truth();
    }
    // SAFETY: as the interpreter called this.
    unsafe { pass_on_arguments(&T::ORIGINALS.acquire, slf, args, count, names) }
}

unsafe extern "C" fn enter<T: Quick>(
    slf: *mut ffi::PyObject,
    _none: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with an instance and is held.
    if unsafe { lock_of::<T>(&slf) }.take_quickly() {
        return truth();
    }
    // SAFETY: as the interpreter called this.
    unsafe { pass_on(&T::ORIGINALS.enter, slf) }
}

unsafe extern "C" fn release<T: Quick>(
    slf: *mut ffi::PyObject,
    _none: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with an instance and is held.
    match unsafe { lock_of::<T>(&slf) }.release_quickly() {
        Some(Ok(())) => nothing(),
        Some(Err(error)) => raise(error),
        // SAFETY: as the interpreter called this.
        None => unsafe { pass_on(&T::ORIGINALS.release, slf) },
    }
}

unsafe extern "C" fn exit<T: Quick>(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    if count == 3 && names.is_null() {
        // SAFETY: the interpreter calls this with an instance and is held.
        match unsafe { lock_of::<T>(&slf) }.release_quickly() {
            Some(Ok(())) => return nothing(),
            Some(Err(error)) => return raise(error),
            None => {}
        }
    }
    // SAFETY: as the interpreter called this.
    unsafe { pass_on_arguments(&T::ORIGINALS.exit, slf, args, count, names) }
}
