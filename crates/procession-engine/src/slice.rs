//! Plain data in shared memory: see `procession_shm`'s types, which this process's family is put
//! under here.

use procession_shm::{Acquired, Kind, MemberId};
pub use procession_shm::{
    CellSlice, ChunkError, DividedSlice, Element, FrozenSlice, HeldChunk, HeldWhole, Home,
    NamedSegment, OwnedSlice, SegmentReader, SegmentWriter,
};
/// Takes the name of a [`NamedSegment`] away.
pub use procession_sys::named::unlink;

use crate::Patience;
use crate::diagnostics::watching;
use crate::family::{FamilyError, family};
use crate::sync::{self, Owner};

/// Where the slices of this process live; the family is made on first use.
///
/// # Errors
/// When its memory can't be set up.
pub fn home() -> Result<Home, FamilyError> {
    Ok(Home {
        arena: family()?.arena(),
        me,
    })
}

fn me() -> MemberId {
    // A home is had from a family.
    family()
        .expect("the family that this slice belongs to is there")
        .me()
}

/// Takes the lock of a chunk, as [`DividedSlice::lock`]; a wait that takes long is reported. Of a slice
/// with several chunks no circle is seen: that a thread waits is written down, but not for which.
///
/// # Errors
/// See [`ChunkError`].
///
/// # Panics
/// When there is no such chunk.
pub fn lock<'a>(
    slice: &'a DividedSlice,
    chunk: usize,
    patience: &mut Patience<'_>,
) -> Result<(HeldChunk<'a>, Acquired), ChunkError> {
    let Ok(family) = family() else {
        return slice.lock(chunk, patience);
    };
    let [_, table] = slice.handles();
    let owners = || {
        slice
            .owner(chunk)
            .map(|(member, _)| member)
            .into_iter()
            .collect()
    };
    watching(family, table, Kind::Chunks, &owners, patience, |patience| {
        slice.lock(chunk, patience)
    })
}

/// Who holds a chunk.
///
/// # Panics
/// When there is no such chunk.
pub fn owner(slice: &DividedSlice, chunk: usize) -> Option<Owner> {
    let (member, thread) = slice.owner(chunk)?;
    sync::owner(family().ok()?, Some(member), Some(thread))
}
