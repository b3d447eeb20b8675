//! Arrays of plain data in shared memory: read and written where they are, never serialised.

#[cfg(feature = "ndarray")]
pub(crate) mod array;
pub(crate) mod cells;
pub(crate) mod chunks;
pub(crate) mod frozen;
pub(crate) mod named;
pub(crate) mod vec;

use crate::engine::slice::{Element, Home, home};
use crate::error::Result;

/// What may lie in shared memory as it is: integers, floats, arrays of them, and structures that
/// derive [`bytemuck::Pod`].
///
/// Implemented for every `Pod` type that threads may share, and only for these. `Pod` means that
/// every pattern of bytes is a value, that there is no padding, no pointer, no `Drop` and no interior
/// mutability; its derive checks that when the program is compiled. Types of other crates (complex
/// numbers, vectors, pixels) often have it behind a feature called `bytemuck`.
///
/// ```
/// use procession::bytemuck::{Pod, Zeroable};
///
/// #[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
/// #[bytemuck(crate = "procession::bytemuck")]
/// #[repr(C)]
/// struct Particle {
///     position: [f32; 3],
///     mass: f32,
/// }
///
/// let particles = procession::SharedVec::<Particle>::zeroed(1000)?;
/// assert_eq!(particles[999].mass, 0.0);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// A reference means nothing in another process, and a `bool` of 7 is no `bool`:
///
/// ```compile_fail,E0599
/// procession::SharedVec::<&u32>::zeroed(1);
/// ```
///
/// ```compile_fail,E0599
/// procession::SharedVec::<bool>::zeroed(1);
/// ```
///
/// Types without size and with an alignment above 64 are refused when the program is built.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't lie in shared memory as it is",
    note = "derive `bytemuck::Pod` and `bytemuck::Zeroable` for a `#[repr(C)]` structure of numbers; a type that owns \
            memory, or refers to some, goes into a `Lock` or a message, which serialise it"
)]
pub trait Plain: bytemuck::Pod + Send + Sync {}

impl<T: bytemuck::Pod + Send + Sync> Plain for T {}

/// What shared memory has to know of a type.
pub(crate) fn element<T: Plain>() -> Element {
    const {
        assert!(
            size_of::<T>() > 0,
            "a type without size has nothing to share"
        );
        assert!(
            size_of::<T>() < u32::MAX as usize,
            "one element is larger than 4 GiB"
        );
        assert!(
            align_of::<T>() <= 64,
            "the alignment in shared memory is 64 bytes at most"
        );
    }
    Element {
        size: size_of::<T>() as u32,
        align: align_of::<T>() as u32,
    }
}

/// Where what is made here lives.
pub(crate) fn here() -> Result<Home> {
    Ok(home()?)
}

/// Bytes of so many elements; more than any memory has if that can't be said.
pub(crate) fn bytes_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
}

/// The elements that these bytes are. The sizes agree: the type was checked when the slice was made
/// or opened.
pub(crate) fn view<T: Plain>(bytes: &[u8]) -> &[T] {
    bytemuck::cast_slice(bytes)
}

pub(crate) fn view_mut<T: Plain>(bytes: &mut [u8]) -> &mut [T] {
    bytemuck::cast_slice_mut(bytes)
}
