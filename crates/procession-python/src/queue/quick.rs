//! Puts and gets of short objects that need no pickle, when there is nothing to wait for: without PyO3,
//! as [`sync::quick`](crate::sync) does it for locks, and says why.
//!
//! `put(obj)` and `get()` with nothing else are tried here. Whatever is not done at once is left
//! undone, and the call goes on to PyO3's method as it came.

#![allow(
    unsafe_code,
    reason = "functions that the interpreter calls directly; each block explains itself"
)]

use std::ffi::c_void;
use std::sync::atomic::AtomicPtr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::Queue;
use crate::imported::Name;
use crate::sync::quick::{nothing, pass_on_arguments, put_before};

/// PyO3's methods.
static PUT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static GET: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// Puts the quick functions before the methods. To be called once, when the class is there.
pub(crate) fn make_quick(py: Python<'_>) -> PyResult<()> {
    static NEW: Name = Name::new("__new__");
    // Not made: nothing is shared yet.
    let class = py.get_type::<Queue>();
    let sample = class.call_method1(NEW.get(py), (&class,))?;
    let flags = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
    let put = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: put,
    };
    put_before(&sample, "put", put, flags, &PUT)?;
    let get = ffi::PyMethodDefPointer {
        PyCFunctionFastWithKeywords: get,
    };
    put_before(&sample, "get", get, flags, &GET)
}

/// The queue behind a method's `self`, and the token for this call.
///
/// # Safety
/// `slf` is an instance of the class, alive for as long as the pointer is borrowed, and the interpreter
/// is held.
#[inline]
unsafe fn queue_of(slf: &*mut ffi::PyObject) -> (Python<'_>, &Queue) {
    // SAFETY: the caller says so.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: not null: an instance. It outlives the borrow.
    let object = unsafe { Bound::ref_from_ptr(py, slf) };
    // SAFETY: of this class, the caller says.
    (py, unsafe { object.cast_unchecked::<Queue>() }.get())
}

unsafe extern "C" fn put(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    if count == 1 && names.is_null() {
        // SAFETY: the interpreter calls this with an instance and is held.
        let (py, queue) = unsafe { queue_of(&slf) };
        // SAFETY: one argument lies there, by the count, and lives until this returns.
        let first = unsafe { &*args };
        // SAFETY: a live object, not null.
        let object = unsafe { Bound::ref_from_ptr(py, first) };
        if queue.put_quickly(object).is_some() {
            return nothing();
        }
    }
    // SAFETY: as the interpreter called this.
    unsafe { pass_on_arguments(&PUT, slf, args, count, names) }
}

unsafe extern "C" fn get(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    if count == 0 && names.is_null() {
        // SAFETY: the interpreter calls this with an instance and is held.
        let (py, queue) = unsafe { queue_of(&slf) };
        if let Some(object) = queue.get_quickly(py) {
            return object.into_ptr();
        }
    }
    // SAFETY: as the interpreter called this.
    unsafe { pass_on_arguments(&GET, slf, args, count, names) }
}
