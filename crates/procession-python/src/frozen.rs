//! Frozen blocks: nobody writes to them any more, so they are passed on by name, without being copied.
//!
//! A block is frozen from its birth: it is the copy of a read-only buffer, made for a message, and
//! whoever receives it gets read-only views. So what lies in one can be sent on as it is, to any number
//! of receivers, none of whom can tell that from a copy. A read-only buffer anywhere else may still be
//! written to by somebody who has the memory behind it, and is copied.
//!
//! What a view shows is found by its address: a process knows the frozen blocks that it has objects
//! for, and a view keeps the object alive whose memory it shows.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_engine::{Block as RawBlock, Handle};
use pyo3::prelude::*;
use pyo3::types::{PyMemoryView, PySlice};

use crate::block::Block;

/// By the address of the first byte.
static KNOWN: Mutex<BTreeMap<usize, Known>> = Mutex::new(BTreeMap::new());

struct Known {
    handle: Handle,
    length: usize,
    /// Objects that stand for it in this process.
    objects: usize,
}

/// Locked for a moment with the interpreter held, so never across a fork.
fn known() -> MutexGuard<'static, BTreeMap<usize, Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// That an object stands for a frozen block.
pub(crate) struct Mark {
    address: usize,
}

impl Mark {
    pub(crate) fn new(block: &RawBlock) -> Mark {
        let address = block.as_ptr() as usize;
        let mut known = known();
        let entry = known.entry(address).or_insert_with(|| Known {
            handle: block.handle(),
            length: block.len(),
            objects: 0,
        });
        entry.objects += 1;
        Mark { address }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut known = known();
        if let Some(entry) = known.get_mut(&self.address) {
            entry.objects -= 1;
            if entry.objects == 0 {
                known.remove(&self.address);
            }
        }
    }
}

/// Some of the bytes of a frozen block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) handle: Handle,
    pub(crate) at: usize,
    pub(crate) length: usize,
}

/// The part of a frozen block in which these bytes lie. None if they lie somewhere else, or are so
/// small a part that they had better not keep all of it in memory.
pub(crate) fn part_of(bytes: &[u8]) -> Option<Part> {
    let (start, length) = (bytes.as_ptr() as usize, bytes.len());
    let known = known();
    let (address, block) = known.range(..=start).next_back()?;
    let at = start - address;
    let inside = at < block.length && length <= block.length - at;
    (inside && length >= block.length / 2).then_some(Part {
        handle: block.handle,
        at,
        length,
    })
}

/// A read-only view of a frozen block, or of a part of it. None if it has no such part.
pub(crate) fn view<'py>(
    py: Python<'py>,
    block: RawBlock,
    at: usize,
    length: usize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let end = at.checked_add(length).filter(|&end| end <= block.len());
    let Some(end) = end else { return Ok(None) };
    let whole = length == block.len();
    let object = Bound::new(py, Block::frozen(block))?;
    let view = PyMemoryView::from(object.as_any())?.into_any();
    if whole {
        return Ok(Some(view));
    }
    let slice = PySlice::new(py, at as isize, end as isize, 1);
    view.get_item(slice).map(Some)
}
