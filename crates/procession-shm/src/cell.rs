//! A place for one message, which can be replaced as a whole.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{AllocError, Arena, Descent, Gone, Shared};
use crate::handle::{Handle, Kind};
use crate::member::MemberId;
use crate::parcel::Contents;

/// A cell in shared memory: the name of a parcel, or 0. Replacing is one store; what was there before
/// is freed afterwards, by whoever looks if the replacer dies in between. Callers keep two replacers,
/// or a replacer and a reader, apart by a lock.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RawCell {
    current: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are an empty cell.
unsafe impl Shared for RawCell {}

impl RawCell {
    /// Puts a message in the place of what is there.
    ///
    /// # Errors
    /// When there is no memory; the cell is unchanged then.
    pub fn replace(
        &self,
        arena: &Arena,
        me: MemberId,
        cell: Handle,
        contents: &Contents<'_>,
    ) -> Result<(), AllocError> {
        let parcel = arena.write_parcel(me, contents)?;
        arena.claim(parcel, cell, 0);
        // The commit.
        let old = self.current.swap(parcel.to_word(), Ordering::SeqCst);
        arena.release(me, parcel);
        if let Some(old) = arena.handle_from_word(old) {
            arena.reconsider(me, old);
        }
        Ok(())
    }

    /// The parcel that is there, with a reference of `me` taken.
    ///
    /// # Errors
    /// When its memory was overwritten.
    pub fn current(&self, arena: &Arena, me: MemberId) -> Result<Option<Handle>, Gone> {
        let Some(parcel) = arena.handle_from_word(self.current.load(Ordering::SeqCst)) else {
            return Ok(None);
        };
        arena.acquire(me, parcel)?;
        Ok(Some(parcel))
    }
}

pub(crate) fn confirms(arena: &Arena, cell: Handle, object: Handle) -> bool {
    let raw = arena.object::<RawCell>(cell, Kind::Cell);
    raw.is_ok_and(|raw| raw.current.load(Ordering::SeqCst) == object.to_word())
}

pub(crate) fn take_apart(arena: &Arena, me: MemberId, cell: Handle, descent: &mut Descent) {
    let Ok(raw) = arena.object::<RawCell>(cell, Kind::Cell) else {
        return;
    };
    if let Some(parcel) = arena.handle_from_word(raw.current.load(Ordering::SeqCst)) {
        arena.disown(me, parcel, cell, descent);
    }
}
