//! Memory that all processes of the family see, as a Python object with a buffer.

use std::ffi::c_int;
use std::sync::OnceLock;

use procession_engine::Block as RawBlock;
use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::arguments::HandleBytes;
use crate::buffer;
use crate::error::OrRaise;
use crate::frozen::Mark;
use crate::shared::{Inner, Reduced, handle_bytes, reduce};

/// Bytes in the memory of the family, zeros at first.
///
/// It has a writable buffer: `memoryview(block)`, `numpy.frombuffer(block)`; a frozen one has a
/// read-only buffer. It travels to other processes by name, without being copied, and lives until the
/// last of its views is gone.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Block {
    inner: Inner<RawBlock>,
    /// Set before anyone else has this object.
    frozen: OnceLock<Mark>,
}

/// What the pickle of a frozen block says of it.
const FROZEN: u8 = 1;

impl From<RawBlock> for Block {
    fn from(block: RawBlock) -> Block {
        Block {
            inner: Inner::with(block),
            frozen: OnceLock::new(),
        }
    }
}

impl Block {
    /// One to which nobody has a writable view, in any process, or will have.
    pub(crate) fn frozen(block: RawBlock) -> Block {
        Block {
            frozen: OnceLock::from(Mark::new(&block)),
            inner: Inner::with(block),
        }
    }

    pub(crate) fn raw(&self) -> PyResult<&RawBlock> {
        self.inner.get::<Block>()
    }

    fn is_frozen(&self) -> bool {
        self.frozen.get().is_some()
    }
}

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(size)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Block {
        Block {
            inner: Inner::new(),
            frozen: OnceLock::new(),
        }
    }

    fn __init__(&self, py: Python<'_>, size: i64) -> PyResult<()> {
        let size = usize::try_from(size).map_err(|_| {
            PyValueError::new_err(format!(
                "a block can't have {size} bytes: the size must not be negative"
            ))
        })?;
        self.inner.make(|| RawBlock::zeroed(size).or_raise(py))
    }

    fn __len__(&self) -> PyResult<usize> {
        Ok(self.raw()?.len())
    }

    /// Its name in the family, 16 bytes.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(handle_bytes(py, self.raw()?.handle()))
    }

    /// Where it lies in this process; another address in another.
    #[getter]
    fn address(&self) -> PyResult<usize> {
        Ok(self.raw()?.as_ptr() as usize)
    }

    /// Whether it can only be read, in every process.
    #[getter(frozen)]
    fn is_read_only(&self) -> bool {
        self.is_frozen()
    }

    fn __repr__(&self) -> String {
        match self.inner.get_opt() {
            Some(block) => format!(
                "<procession._procession.Block {} of {} bytes>",
                block.handle(),
                block.len()
            ),
            None => String::from("<procession._procession.Block, not made>"),
        }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        let handle = slf.get().raw()?.handle();
        let own = if slf.get().is_frozen() { FROZEN } else { 0 };
        reduce(slf.as_any(), handle, own)
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, own: u8) -> PyResult<()> {
        self.inner.adopt(py, &handle, RawBlock::from_handle)?;
        if own == FROZEN {
            let block = self.raw()?;
            self.frozen.get_or_init(|| Mark::new(block));
        }
        Ok(())
    }

    #[allow(unsafe_code, reason = "the signature of the buffer protocol")]
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let block = slf.get().raw()?;
        // SAFETY: the interpreter passes its request on.
        unsafe { buffer::export(slf.as_any(), block, slf.get().is_frozen(), view, flags) }
    }
}
