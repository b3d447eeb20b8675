//! Memory that Python and the engine see both: buffers of Python objects on their way into the
//! arena, blocks of the arena as buffers of Python objects.
//!
//! The only unsafe code of the extension, beside taking over descriptors.

#![allow(
    unsafe_code,
    reason = "the buffer protocol is one of pointers; each block explains itself"
)]

use std::ffi::c_int;

use procession_engine::Block;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The bytes of a Python object with a contiguous buffer, which can't be freed or moved meanwhile.
pub(crate) struct View(PyUntypedBuffer);

impl View {
    /// # Errors
    /// `TypeError` for an object without a buffer, or one that is not contiguous.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<View> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyTypeError::new_err(
                "the buffer is not C-contiguous: pass a copy of it in one piece",
            ));
        }
        Ok(View(buffer))
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.0.readonly()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len_bytes()
    }

    /// The bytes, to be copied. A program that changes them in another thread meanwhile gets some of
    /// the old and some of the new, as from every function that takes a buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the exporter promised `len_bytes` contiguous bytes at `buf_ptr` for as long as the
        // buffer is not released, which is longer than `self` is borrowed. They are initialised, as
        // all memory of Python objects with buffers is, and u8 has no invalid values. That nobody
        // writes to them is not certain; see above. The engine only copies from them.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.len()) }
    }

    /// Copies `from` to the place `at` bytes into the buffer.
    ///
    /// # Panics
    /// When the buffer is read-only or too short.
    pub(crate) fn write(&self, at: usize, from: &[u8]) {
        assert!(
            !self.is_read_only() && at <= self.len() && from.len() <= self.len() - at,
            "checked by the caller"
        );
        let start = self.0.buf_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: `start` and the `from.len()` bytes after it are inside the exported buffer, which is
        // writable: asserted above. `from` is memory of Rust's, so they don't overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), start, from.len()) }
    }
}

/// Fills a request for a buffer with a view of a block, writable unless `read_only`. `owner` has the block and lives as
/// long as the view.
///
/// # Safety
/// `view` is the request that the interpreter passed to `bf_getbuffer` of `owner`.
pub(crate) unsafe fn export(
    owner: &Bound<'_, PyAny>,
    block: &Block,
    read_only: bool,
    view: *mut ffi::Py_buffer,
    flags: c_int,
) -> PyResult<()> {
    let length = block.len() as ffi::Py_ssize_t;
    // SAFETY: `view` is valid for writes by this function's own contract. The block's memory is
    // mapped at this address as long as the process lives, and the block is not recycled before
    // `owner` is dropped, to which the view now holds a reference. The interpreter is held.
    let filled = unsafe {
        ffi::PyBuffer_FillInfo(
            view,
            owner.as_ptr(),
            block.as_ptr().cast(),
            length,
            read_only.into(),
            flags,
        )
    };
    if filled < 0 {
        Err(PyErr::fetch(owner.py()))
    } else {
        Ok(())
    }
}

/// A `bytes` object with a copy of a block.
pub(crate) fn bytes_of<'py>(py: Python<'py>, block: &Block) -> PyResult<Bound<'py, PyBytes>> {
    let length = block.len() as ffi::Py_ssize_t;
    // SAFETY: the block's memory is mapped, `len` bytes long, and held by `block` during the call,
    // which copies it. The interpreter is held.
    let bytes = unsafe { ffi::PyBytes_FromStringAndSize(block.as_ptr().cast(), length) };
    // SAFETY: that is a new reference, or null with an exception set.
    let bytes = unsafe { Bound::from_owned_ptr_or_err(py, bytes) }?;
    Ok(bytes.cast_into()?)
}
