//! The memory of a family: one anonymous file, mapped once by each member, with objects in it.
//!
//! Each size class has a table of **slots**; a slot owns its stretch of memory for good and is
//! recycled with it, so that a block is warm when it comes back. The word of a slot
//! (`generation << 32 | state << 30 | who`) is what commits:
//!
//! | state | meaning | leaves it |
//! | --- | --- | --- |
//! | FREE | nobody's | `allocate`, by compare-and-swap to CLAIMED |
//! | CLAIMED | member `who` is preparing an object | `who`, to LIVE; when `who` is dead a reaper, to FREE |
//! | LIVE | an object | whoever finds it unreferenced, to FREEING |
//! | FREEING | `who` is taking it apart | `who`, to FREE with the next generation, or back to LIVE if somebody took a reference meanwhile; when `who` is dead another, to FREEING by itself |
//!
//! An object lives while one of these holds:
//! - a **reference bit**: one per member and slot, in planes of 64 members. Set and cleared by one
//!   atomic operation each; a dead member's bits are cleared by whoever reaps it.
//! - a **claim**: the object says in which container it is and at which place. A claim counts only
//!   while the container's own commit words confirm it, so a process that dies between writing the
//!   claim and committing the message, or after taking it, leaves nothing behind.
//! - **transit**: a count of messages on their way that mention it. A sender that is killed between
//!   the count and the message leaves the object alive until the family ends: the only leak, and
//!   only of objects sent inside messages.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use procession_sys::memory::{self, Mapping};

use crate::geometry::{self, CLASSES, Geometry, MEMBER, PAGE, SLOT, class_size};
use crate::handle::{Handle, Kind};
use crate::member::{Entry, MemberId};

mod allocate;
mod error;
mod references;

pub use error::{AllocError, ArenaError, Gone};
pub(crate) use references::Descent;
pub use references::HeldStill;

/// What may live in shared memory.
///
/// # Safety
/// The type is `repr(C)`, made of atomics (or arrays and structs of such types) only, has no
/// pointer and no `Drop`, is aligned to 64 bytes or less, and all zeros is a valid value of it.
pub unsafe trait Shared: Sized + Sync {}

/// What an arena holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Objects alive.
    pub objects: usize,
    /// Bytes asked for by them.
    pub bytes: u64,
    /// Bytes of memory kept warm for later ones.
    pub idle: u64,
    /// Bytes of the address range.
    pub reserve: usize,
}

#[repr(C)]
#[derive(Debug)]
struct ClassState {
    /// Slots that have ever been used lie below.
    carved: AtomicU32,
    /// Slots that somebody may have begun to use lie below: raised first, so that who clears away
    /// after the dead looks at these and touches no others.
    begun: AtomicU32,
    /// Where to look for a free one.
    hint: AtomicU32,
    /// How many are free, give or take what dying processes left uncounted; may be negative for a
    /// moment.
    free: AtomicU32,
}

#[repr(C)]
#[derive(Debug)]
struct Header {
    magic: AtomicU64,
    reserve: AtomicU64,
    /// Objects are carved from here.
    top: AtomicU64,
    /// Bytes of committed memory in free slots, give or take.
    idle: AtomicU64,
    members_in_use: AtomicU32,
    /// A setting that the family has in common; see `shared_setting`.
    setting: AtomicU64,
    classes: [ClassState; CLASSES],
}

// SAFETY: repr(C), atomics only, no Drop, zeros valid.
unsafe impl Shared for Header {}

#[repr(C)]
#[derive(Debug)]
struct Slot {
    word: AtomicU64,
    offset: AtomicU64,
    /// Bytes asked for.
    length: AtomicU64,
    /// Bytes from the start that are known to have memory.
    committed: AtomicU64,
    claim: AtomicU64,
    claim_at: AtomicU32,
    transit: AtomicU32,
    kind: AtomicU32,
    /// Changed before each new kind of reference is made.
    moves: AtomicU32,
}

// SAFETY: repr(C), atomics only, no Drop, zeros are a FREE slot without memory.
unsafe impl Shared for Slot {}

const MAGIC: u64 = u64::from_le_bytes(*b"procsn01");
const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const LIVE: u64 = 2;
const FREEING: u64 = 3;

/// Objects of this size on get their pages before they are written to.
const LARGE: usize = 64 << 10;
/// Before this much is taken at once, the system is asked what it has.
const ASK_FIRST: usize = 16 << 20;
/// Memory of idle blocks above this goes back to the system.
const KEEP_IDLE: u64 = 1 << 30;
/// What is left to the rest of the machine.
const SPARE: u64 = 64 << 20;
/// The range asked for first.
const RESERVE: usize = 64 << 30;

fn slot_word(generation: u32, state: u64, who: Option<MemberId>) -> u64 {
    u64::from(generation) << 32 | state << 30 | u64::from(who.map_or(0, MemberId::to_raw))
}

fn state_of(word: u64) -> u64 {
    word >> 30 & 3
}

fn generation_of(word: u64) -> u32 {
    (word >> 32) as u32
}

fn who_of(word: u64) -> Option<MemberId> {
    MemberId::from_raw(word as u32 & ((1 << 30) - 1))
}

type HeldMap = HashMap<(MemberId, Handle), HeldObject>;

/// What this process knows of an object that it holds.
#[derive(Debug, Clone, Copy)]
struct HeldObject {
    /// How many values stand for it.
    values: u32,
    view: View,
}

/// How this process sees the bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Shared,
    /// Nobody else uses them. After a fork parent and child each have their own.
    Copy,
    /// That has happened: the range is mapped privately, and nobody writes to the file there.
    Private,
}

impl HeldObject {
    const fn first() -> HeldObject {
        HeldObject {
            values: 1,
            view: View::Shared,
        }
    }
}

/// The memory of a family, as this process has it mapped.
///
/// The range stays mapped until the process ends, so a reference to a shared object is always a
/// reference to atomics: if the object is gone, it says something stale, nothing worse.
///
/// A member has one reference bit for an object; how many values in its process stand for it is
/// counted in `held`, on this side.
#[derive(Debug)]
pub struct Arena {
    fd: OwnedFd,
    mapping: Mapping,
    geometry: Geometry,
    /// Bytes of a page of the system: 4, 16 or 64 KiB.
    page: usize,
    held: Mutex<HeldMap>,
}

impl Arena {
    /// Makes the memory of a new family with the largest range of addresses that is to be had.
    ///
    /// # Errors
    /// When the system refuses, or has not even room for the smallest range.
    pub fn new() -> Result<Arena, ArenaError> {
        let mut reserve = RESERVE;
        // Under a limit the program needs the rest of the addresses for itself.
        let share = memory::address_space_limit().and_then(|limit| usize::try_from(limit / 4).ok());
        while share.is_some_and(|share| reserve > share) && reserve / 2 >= Geometry::LEAST {
            reserve /= 2;
        }
        loop {
            match Arena::create(reserve) {
                Err(ArenaError::NoRoom { .. }) if reserve / 2 >= Geometry::LEAST => reserve /= 2,
                other => return other,
            }
        }
    }

    /// Makes one with `reserve` bytes of addresses.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn create(reserve: usize) -> Result<Arena, ArenaError> {
        let reserve = reserve.max(Geometry::LEAST).next_multiple_of(PAGE);
        let no_room = |error: io::Error| match error.raw_os_error().map(rustix_errno) {
            Some(Errno::NoRoom) => ArenaError::NoRoom { asked: reserve },
            _ => ArenaError::System(error),
        };
        let fd = memory::create_file(reserve).map_err(no_room)?;
        let mapping = Mapping::shared(&fd, reserve).map_err(no_room)?;
        let arena = Arena::from_parts(fd, mapping, reserve);
        let header = arena.header();
        header.reserve.store(reserve as u64, Ordering::Relaxed);
        header
            .top
            .store(arena.geometry.objects as u64, Ordering::Relaxed);
        header.members_in_use.store(1, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        Ok(arena)
    }

    /// Maps the memory of a family from its descriptor.
    ///
    /// # Errors
    /// When it is no arena of this version, or can't be mapped.
    pub fn open(fd: OwnedFd) -> Result<Arena, ArenaError> {
        let reserve = memory::file_length(fd.as_fd()).map_err(ArenaError::System)?;
        if reserve < Geometry::LEAST || reserve % PAGE != 0 {
            return Err(ArenaError::Foreign);
        }
        let mapping = Mapping::shared(&fd, reserve).map_err(|error| {
            match error.raw_os_error().map(rustix_errno) {
                Some(Errno::NoRoom) => ArenaError::NoRoom { asked: reserve },
                _ => ArenaError::System(error),
            }
        })?;
        let arena = Arena::from_parts(fd, mapping, reserve);
        let header = arena.header();
        let known = header.magic.load(Ordering::Acquire) == MAGIC
            && header.reserve.load(Ordering::Relaxed) == reserve as u64;
        if known {
            Ok(arena)
        } else {
            Err(ArenaError::Foreign)
        }
    }

    fn from_parts(fd: OwnedFd, mapping: Mapping, reserve: usize) -> Arena {
        Arena {
            fd,
            mapping,
            geometry: Geometry::new(reserve),
            page: memory::page_size(),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, HeldMap> {
        // Nothing panics while it is locked.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor of the memory, for children.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether `offset .. offset + length` lies where objects are.
    fn in_objects(&self, offset: usize, length: usize) -> bool {
        offset >= self.geometry.objects
            && offset
                .checked_add(length)
                .is_some_and(|end| end <= self.geometry.reserve)
    }

    /// A shared structure at a place that this crate computed, or checked.
    ///
    /// # Panics
    /// When it would not lie within the mapping, aligned.
    pub(crate) fn at<T: Shared>(&self, offset: usize) -> &T {
        assert!(
            offset.is_multiple_of(align_of::<T>())
                && offset
                    .checked_add(size_of::<T>())
                    .is_some_and(|end| end <= self.mapping.length()),
            "a shared structure lies outside the arena"
        );
        // SAFETY: the range was checked to lie in the mapping.
        let place = unsafe { self.mapping.base().add(offset) };
        // SAFETY: in bounds and aligned (the mapping starts at a page); T is `Shared`: atomics only,
        // for which any bytes are valid and which others may change; mapped as long as `self`.
        unsafe { place.cast::<T>().as_ref() }
    }

    fn header(&self) -> &Header {
        self.at(0)
    }

    /// A number for the engine to keep, the same for all members: after how long a wait is reported.
    pub fn shared_setting(&self) -> &AtomicU64 {
        &self.header().setting
    }

    pub(crate) fn member_entry(&self, index: usize) -> &Entry {
        const { assert!(size_of::<Entry>() <= MEMBER) };
        self.at(self.geometry.members + index * MEMBER)
    }

    pub(crate) fn members_in_use(&self) -> usize {
        (self.header().members_in_use.load(Ordering::SeqCst) as usize).min(geometry::MEMBERS)
    }

    pub(crate) fn note_member(&self, index: usize) {
        self.header()
            .members_in_use
            .fetch_max(index as u32 + 1, Ordering::SeqCst);
    }

    fn class_state(&self, class: usize) -> &ClassState {
        &self.header().classes[class]
    }

    fn slot(&self, class: usize, index: u32) -> &Slot {
        const { assert!(size_of::<Slot>() <= SLOT) };
        self.at(self.geometry.slots[class] + index as usize * SLOT)
    }

    /// The reference bits of 64 members for a slot.
    fn bits(&self, plane: usize, class: usize, index: u32) -> &AtomicU64 {
        let bit_word = (self.geometry.before[class] + index as usize) * 8;
        let word: &Bits =
            self.at(self.geometry.planes + plane * self.geometry.plane_bytes + bit_word);
        &word.0
    }

    /// The class and index that a handle's slot number stands for, if there is such a slot.
    fn split(&self, slot: u32) -> Option<(usize, u32)> {
        let (class, index) = ((slot >> 24) as usize, slot & 0xff_ffff);
        (class < CLASSES && index < self.geometry.capacity[class]).then_some((class, index))
    }

    /// The living object that a handle names: its place, the bytes asked for, and what it is.
    fn find(&self, handle: Handle) -> Option<(usize, usize, Kind)> {
        let (class, index) = self.split(handle.slot)?;
        let slot = self.slot(class, index);
        let word = slot.word.load(Ordering::SeqCst);
        if generation_of(word) != handle.generation || state_of(word) == FREE {
            return None;
        }
        let offset = usize::try_from(slot.offset.load(Ordering::Relaxed)).ok()?;
        let length = usize::try_from(slot.length.load(Ordering::Relaxed)).ok()?;
        let kind = Kind::from_word(slot.kind.load(Ordering::Relaxed))?;
        let sound = offset as u64 == handle.offset
            && length <= class_size(class)
            && self.in_objects(offset, class_size(class));
        sound.then_some((offset, length, kind))
    }

    /// The place and length of the living object of this kind.
    pub(crate) fn place(&self, handle: Handle, kind: Kind) -> Result<(usize, usize), Gone> {
        match self.find(handle) {
            Some((offset, length, found)) if found == kind => Ok((offset, length)),
            _ => Err(Gone {
                expected: Some(kind),
            }),
        }
    }

    /// The shared structure that a handle names.
    ///
    /// # Errors
    /// When there is none (any more), it is of another kind, or too small for a `T`.
    pub fn object<T: Shared>(&self, handle: Handle, kind: Kind) -> Result<&T, Gone> {
        let (offset, length) = self.place(handle, kind)?;
        if length < size_of::<T>() || align_of::<T>() > geometry::SMALLEST {
            return Err(Gone {
                expected: Some(kind),
            });
        }
        Ok(self.at(offset))
    }

    /// `count` shared structures in a row, `skip` bytes into the object.
    ///
    /// # Errors
    /// As [`object`](Self::object).
    pub fn objects<T: Shared>(
        &self,
        handle: Handle,
        kind: Kind,
        skip: usize,
        count: usize,
    ) -> Result<&[T], Gone> {
        let gone = Gone {
            expected: Some(kind),
        };
        let (offset, length) = self.place(handle, kind)?;
        let bytes = count.checked_mul(size_of::<T>()).ok_or(gone)?;
        let end = skip.checked_add(bytes).ok_or(gone)?;
        if end > length || !(offset + skip).is_multiple_of(align_of::<T>()) {
            return Err(gone);
        }
        // SAFETY: `find` checked that the object lies in the mapping, and `skip` is within it.
        let place = unsafe { self.mapping.base().add(offset + skip) };
        // SAFETY: `count` aligned `Shared` values lie there (checked above); they are atomics, any
        // bytes are valid, others may change them; mapped as long as `self`.
        Ok(unsafe { std::slice::from_raw_parts(place.cast::<T>().as_ptr(), count) })
    }

    /// The kind of the object that a handle names.
    ///
    /// # Errors
    /// When there is none (any more).
    pub fn kind(&self, handle: Handle) -> Result<Kind, Gone> {
        self.find(handle)
            .map(|(_, _, kind)| kind)
            .ok_or(Gone { expected: None })
    }

    /// Bytes that were asked for when the object was made.
    ///
    /// # Errors
    /// When there is none (any more).
    pub fn length(&self, handle: Handle) -> Result<usize, Gone> {
        self.find(handle)
            .map(|(_, length, _)| length)
            .ok_or(Gone { expected: None })
    }

    /// The first byte of a block in this process. What may be done with it is for the holder of a
    /// reference to say: other members may write there too.
    ///
    /// # Errors
    /// When it is gone.
    pub fn address(&self, handle: Handle) -> Result<*mut u8, Gone> {
        let (offset, _) = self.place(handle, Kind::Block)?;
        // SAFETY: `find` checked that the object lies in the mapping.
        Ok(unsafe { self.mapping.base().add(offset) }.as_ptr())
    }

    /// A byte of an object. What may be done with it is for the types of that kind to say.
    pub(crate) fn pointer(
        &self,
        handle: Handle,
        kind: Kind,
        skip: usize,
    ) -> Result<NonNull<u8>, Gone> {
        let (offset, length) = self.place(handle, kind)?;
        if skip > length {
            return Err(Gone {
                expected: Some(kind),
            });
        }
        // SAFETY: `find` checked that the object lies in the mapping, and `skip` is within it.
        Ok(unsafe { self.mapping.base().add(offset + skip) })
    }

    /// Copies bytes out of an object.
    ///
    /// # Errors
    /// When it is gone or shorter than that.
    pub fn copy_out(
        &self,
        handle: Handle,
        kind: Kind,
        at: usize,
        into: &mut [u8],
    ) -> Result<(), Gone> {
        let (offset, length) = self.place(handle, kind)?;
        if at.checked_add(into.len()).is_none_or(|end| end > length) {
            return Err(Gone {
                expected: Some(kind),
            });
        }
        self.read(offset + at, into);
        Ok(())
    }

    /// Copies bytes into an object.
    ///
    /// # Errors
    /// When it is gone or shorter than that.
    pub fn copy_in(&self, handle: Handle, kind: Kind, at: usize, from: &[u8]) -> Result<(), Gone> {
        let (offset, length) = self.place(handle, kind)?;
        if at.checked_add(from.len()).is_none_or(|end| end > length) {
            return Err(Gone {
                expected: Some(kind),
            });
        }
        self.write(offset + at, from);
        Ok(())
    }

    /// # Panics
    /// When the range is not within the arena: callers have checked.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(
            self.in_objects(offset, into.len()),
            "a read outside the arena"
        );
        // SAFETY: in the mapping, as just checked.
        let from = unsafe { self.mapping.base().add(offset) };
        // SAFETY: `into` is this process's own and does not overlap the mapping. Another member
        // that writes there at the same time breaks the protocol and gets torn bytes read, no more.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
    }

    /// Reads to the end of a vector: without zeros written there first.
    ///
    /// # Panics
    /// When the range is not within the arena: callers have checked.
    pub(crate) fn append(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        assert!(self.in_objects(offset, length), "a read outside the arena");
        into.reserve(length);
        // SAFETY: in the mapping, as just checked.
        let from = unsafe { self.mapping.base().add(offset) };
        let place = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: room for `length` bytes was just reserved, of this process's own memory, which does
        // not overlap the mapping. Of members that write there at the same time see `read`.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), place, length) };
        let length = into.len() + length;
        // SAFETY: within what was reserved, and filled in just now.
        unsafe { into.set_len(length) };
    }

    /// # Panics
    /// When the range is not within the arena: callers have checked.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) {
        assert!(
            self.in_objects(offset, from.len()),
            "a write outside the arena"
        );
        // SAFETY: in the mapping, as just checked.
        let into = unsafe { self.mapping.base().add(offset) };
        // SAFETY: the destination is mapped and writable; no Rust reference to plain data exists in
        // the arena. `from` may lie in the arena too (a view that is sent on), hence not the
        // non-overlapping copy.
        unsafe { std::ptr::copy(from.as_ptr(), into.as_ptr(), from.len()) };
    }

    fn zero(&self, offset: usize, length: usize) {
        assert!(self.in_objects(offset, length), "a write outside the arena");
        // SAFETY: in the mapping, as just checked.
        let place = unsafe { self.mapping.base().add(offset) };
        // SAFETY: mapped and writable, and the object is not given out yet.
        unsafe { std::ptr::write_bytes(place.as_ptr(), 0, length) };
    }

    fn handle_of(&self, class: usize, index: u32) -> Handle {
        let slot = self.slot(class, index);
        Handle {
            offset: slot.offset.load(Ordering::Relaxed),
            slot: (class as u32) << 24 | index,
            generation: generation_of(slot.word.load(Ordering::SeqCst)),
        }
    }

    /// The handle that [`Handle::to_word`] was made of, if its object lives.
    pub(crate) fn handle_from_word(&self, word: u64) -> Option<Handle> {
        let (slot, generation) = ((word >> 32) as u32, word as u32);
        let (class, index) = self.split(slot)?;
        let handle = self.handle_of(class, index);
        (handle.generation == generation && generation != 0).then_some(handle)
    }
}

/// One word of reference bits.
#[repr(C)]
struct Bits(AtomicU64);

// SAFETY: repr(C), one atomic, no Drop, zeros valid.
unsafe impl Shared for Bits {}

macro_rules! shared_atomics {
    ($($atomic:ident)*) => {$(
        // SAFETY: an atomic of the standard library: any bytes are valid, no Drop, no pointer.
        unsafe impl Shared for std::sync::atomic::$atomic {}
    )*};
}

shared_atomics!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize);
shared_atomics!(AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);

enum Errno {
    NoRoom,
    Other,
}

/// `ENOMEM` from mapping and `EFBIG` from sizing mean: ask for less.
fn rustix_errno(code: i32) -> Errno {
    const ENOMEM: i32 = 12;
    const EFBIG: i32 = 27;
    if code == ENOMEM || code == EFBIG {
        Errno::NoRoom
    } else {
        Errno::Other
    }
}
