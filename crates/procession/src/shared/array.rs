//! Views of shared arrays in the shapes of `ndarray`.

use ndarray::{ArrayBase, ArrayView, ArrayViewMut, Data, Dimension, ShapeError, StrideShape};

use crate::error::Result;
use crate::shared::Plain;
use crate::shared::vec::SharedVec;

/// Elements in shared memory as an `ndarray`, in place: for [`SharedVec`], [`SharedSlice`], the guards
/// of [`PlainLock`] and [`Chunk`], and every other slice.
///
/// ```
/// use ndarray::s;
/// use procession::{ArrayViews, SharedVec};
///
/// let mut picture = SharedVec::<f32>::zeroed(480 * 640)?;
/// picture.array_view_mut((480, 640)).unwrap().slice_mut(s![10..20, ..]).fill(1.0);
/// let picture = picture.freeze();
/// assert_eq!(picture.array_view((480, 640)).unwrap().sum(), 6400.0);
/// # Ok::<(), procession::Error>(())
/// ```
///
/// [`SharedSlice`]: crate::SharedSlice
/// [`PlainLock`]: crate::PlainLock
/// [`Chunk`]: crate::Chunk
pub trait ArrayViews<T> {
    /// A view in this shape. Does not block.
    ///
    /// # Errors
    /// When the shape has more elements than there are.
    fn array_view<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError>;

    /// A view in this shape, to be changed. Does not block.
    ///
    /// # Errors
    /// When the shape has more elements than there are, or some of them twice.
    fn array_view_mut<D: Dimension>(
        &mut self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayViewMut<'_, T, D>, ShapeError>;
}

impl<T> ArrayViews<T> for [T] {
    fn array_view<D: Dimension>(
        &self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayView<'_, T, D>, ShapeError> {
        ArrayView::from_shape(shape, self)
    }

    fn array_view_mut<D: Dimension>(
        &mut self,
        shape: impl Into<StrideShape<D>>,
    ) -> Result<ArrayViewMut<'_, T, D>, ShapeError> {
        ArrayViewMut::from_shape(shape, self)
    }
}

impl<T: Plain> SharedVec<T> {
    /// A copy of an array's elements in shared memory, in its logical order (row by row).
    ///
    /// # Errors
    /// When there is no memory ([`Error::is_out_of_memory`](crate::Error::is_out_of_memory)).
    pub fn from_array<S: Data<Elem = T>, D: Dimension>(
        array: &ArrayBase<S, D>,
    ) -> Result<SharedVec<T>> {
        if let Some(elements) = array.as_slice() {
            return SharedVec::from_slice(elements);
        }
        let mut vec = SharedVec::zeroed(array.len())?;
        for (into, from) in vec.iter_mut().zip(array) {
            *into = *from;
        }
        Ok(vec)
    }
}
