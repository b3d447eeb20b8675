//! Plain data in the arena: a header, then the bytes.
//!
//! The header's state word (`who << 8 | state`) says who may do what with the bytes:
//!
//! | state | meaning | leaves it |
//! | --- | --- | --- |
//! | 0 | being made, or not ours | its maker, to OWNED |
//! | OWNED | one value in member `who` reads and writes; nobody else can open it | that value, to any other |
//! | FROZEN | everyone reads, nobody writes | never |
//! | DIVIDED | who holds the lock of a chunk reads and writes that chunk | who holds the locks of all, to FROZEN or OWNED |
//! | CELLS | everyone reads and writes, by atomics alone | never |
//!
//! Who takes the lock of a chunk looks at the state after that: as long as a lock is held nobody
//! else holds all, so the state stays. Only the types of this file turn the bytes into references, and
//! each does so in its own state alone. That is what makes them sound among members that use these
//! types. A member that writes where it should not, by a stray pointer, breaks it, as a thread would.
//!
//! SYNC POINTS: store of FROZEN, DIVIDED and CELLS (release) with the load in `open` (acquire); the
//! bytes of a chunk by its lock.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::arena::{AllocError, Arena, Gone, Shared};
use crate::crash::crash_point;
use crate::handle::{Handle, Kind};
use crate::lock::{Acquired, RawLock};
use crate::member::MemberId;
use crate::patience::{Patience, WaitError};
use crate::readiness::Readiness;

const OWNED: u64 = 1;
const FROZEN: u64 = 2;
const DIVIDED: u64 = 3;
const CELLS: u64 = 4;

/// Bytes of the header: what follows is aligned for every element.
const HEADER: usize = 64;

#[repr(C)]
#[derive(Debug)]
struct RawSlice {
    state: AtomicU64,
    /// Size and alignment of an element.
    element: AtomicU64,
    /// Which table of chunks is the one that counts, while DIVIDED.
    table: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are a slice that nobody can open.
unsafe impl Shared for RawSlice {}

#[repr(C)]
#[derive(Debug)]
struct RawChunk {
    lock: RawLock,
    _apart: AtomicU32,
    /// For the users of the lock: how its last holder ended.
    flag: AtomicU64,
    /// Where in the slice, in bytes. Set before anyone else knows the table.
    start: AtomicU64,
    end: AtomicU64,
}

// SAFETY: repr(C), atomics and a lock, which is `Shared` itself; no Drop; zeros are an empty chunk.
unsafe impl Shared for RawChunk {}

/// What the elements of a slice are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Bytes.
    pub size: u32,
    /// Alignment, 64 at most.
    pub align: u32,
}

impl Element {
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.size) << 32 | u64::from(self.align)
    }
}

/// The process that a value is in: its arena, and which member it is now (another after a fork).
#[derive(Clone, Copy)]
pub struct Home {
    /// The family's memory.
    pub arena: &'static Arena,
    /// Asks which member this process is.
    pub me: fn() -> MemberId,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("me", &(self.me)()).finish()
    }
}

/// A reference of this process to an object, given back when dropped.
#[derive(Debug)]
struct Hold {
    home: Home,
    handle: Handle,
}

impl Hold {
    fn acquire(home: Home, handle: Handle) -> Result<Hold, Gone> {
        home.arena.acquire((home.me)(), handle)?;
        Ok(Hold { home, handle })
    }
}

impl Clone for Hold {
    fn clone(&self) -> Hold {
        // It is held: taking it once more can't fail.
        let _ = self.home.arena.acquire((self.home.me)(), self.handle);
        Hold {
            home: self.home,
            handle: self.handle,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.home.arena.release((self.home.me)(), self.handle);
    }
}

/// What all of them are made of: a slice that is held, and where its bytes are.
#[derive(Debug, Clone)]
struct Place {
    hold: Hold,
    header: &'static RawSlice,
    first: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pointer is into memory that stays mapped; what may be done with it is said by the type
// that holds the place.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    fn of(hold: Hold) -> Result<Place, Gone> {
        let arena = hold.home.arena;
        let header: &RawSlice = arena.object(hold.handle, Kind::Slice)?;
        let bytes = arena.length(hold.handle)?.checked_sub(HEADER).ok_or(GONE)?;
        let first = arena.pointer(hold.handle, Kind::Slice, HEADER)?;
        Ok(Place {
            hold,
            header,
            first,
            bytes,
        })
    }

    fn open(home: Home, handle: Handle, element: Element, state: u64) -> Result<Place, Gone> {
        let place = Place::of(Hold::acquire(home, handle).map_err(|_| GONE)?)?;
        let sound = place.state() == state
            && place.header.element.load(Ordering::Relaxed) == element.to_word();
        if sound { Ok(place) } else { Err(GONE) }
    }

    fn state(&self) -> u64 {
        self.header.state.load(Ordering::Acquire) & 0xff
    }

    fn me(&self) -> MemberId {
        (self.hold.home.me)()
    }

    /// # Safety
    /// Nobody writes to these bytes while the reference lives, and the place is held for as long.
    unsafe fn bytes<'a>(&self, range: Range<usize>) -> &'a [u8] {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "beyond the end of a slice"
        );
        // SAFETY: in bounds, as just checked.
        let first = unsafe { self.first.add(range.start) };
        // SAFETY: the object is mapped and initialised (zeros or what was written); the caller sees to
        // the rest.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), range.len()) }
    }

    /// # Safety
    /// Nobody else reads or writes these bytes while the reference lives, and the place is held for
    /// as long.
    unsafe fn bytes_mut<'a>(&self, range: Range<usize>) -> &'a mut [u8] {
        assert!(
            range.start <= range.end && range.end <= self.bytes,
            "beyond the end of a slice"
        );
        // SAFETY: in bounds, as just checked.
        let first = unsafe { self.first.add(range.start) };
        // SAFETY: as in `bytes`; the caller has them to itself.
        unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), range.len()) }
    }
}

const GONE: Gone = Gone {
    expected: Some(Kind::Slice),
};

const FORKED: &str =
    "plain shared data that one process has for itself was used in a process forked from it";

/// Bytes that this value has to itself.
#[derive(Debug)]
pub struct OwnedSlice {
    place: Place,
    who: MemberId,
}

impl OwnedSlice {
    /// New ones, zeros.
    ///
    /// # Errors
    /// When there is no memory; the message names the size.
    pub fn zeroed(home: Home, element: Element, bytes: usize) -> Result<OwnedSlice, AllocError> {
        OwnedSlice::allocate(home, element, bytes, bytes)
    }

    /// Copies of these.
    ///
    /// # Errors
    /// When there is no memory; the message names the size.
    pub fn copied(home: Home, element: Element, bytes: &[u8]) -> Result<OwnedSlice, AllocError> {
        let mut slice = OwnedSlice::allocate(home, element, bytes.len(), 0)?;
        slice.bytes_mut().copy_from_slice(bytes);
        Ok(slice)
    }

    fn allocate(
        home: Home,
        element: Element,
        bytes: usize,
        zeroed: usize,
    ) -> Result<OwnedSlice, AllocError> {
        let who = (home.me)();
        let length = bytes.saturating_add(HEADER);
        let handle = home.arena.allocate_zeroed_to(
            who,
            length,
            Kind::Slice,
            zeroed.saturating_add(HEADER),
        )?;
        let hold = Hold { home, handle };
        let place = Place::of(hold).map_err(|_| AllocError::Memory { asked: length })?;
        place
            .header
            .element
            .store(element.to_word(), Ordering::Relaxed);
        place
            .header
            .state
            .store(u64::from(who.to_raw()) << 8 | OWNED, Ordering::Release);
        Ok(OwnedSlice { place, who })
    }

    /// # Panics
    /// In a process that was forked from the one it belongs to.
    fn check(&self) {
        assert!(self.place.me() == self.who, "{FORKED}");
    }

    /// The bytes.
    ///
    /// # Panics
    /// In a process that was forked from the one it belongs to.
    pub fn bytes(&self) -> &[u8] {
        self.check();
        // SAFETY: OWNED, by this value: nobody else can open it, and writing takes `&mut self`.
        unsafe { self.place.bytes(0..self.place.bytes) }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    /// In a process that was forked from the one it belongs to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.check();
        // SAFETY: OWNED, by this value, which is borrowed as a whole.
        unsafe { self.place.bytes_mut(0..self.place.bytes) }
    }

    /// From now on everyone may read and nobody can write.
    ///
    /// # Panics
    /// In a process that was forked from the one it belongs to.
    pub fn freeze(self) -> FrozenSlice {
        self.check();
        self.place.header.state.store(FROZEN, Ordering::Release);
        FrozenSlice { place: self.place }
    }

    /// From now on everyone may read and write by atomics.
    ///
    /// # Panics
    /// In a process that was forked from the one it belongs to.
    pub fn into_cells(self) -> CellSlice {
        self.check();
        self.place.header.state.store(CELLS, Ordering::Release);
        CellSlice { place: self.place }
    }

    /// From now on there is a lock for each chunk; `ends` are the ends of the chunks in bytes, each
    /// of which begins where the one before ends.
    ///
    /// # Errors
    /// When there is no memory for the locks.
    ///
    /// # Panics
    /// When the ends go backwards or are not those of the whole slice; and in a process that was
    /// forked from the one it belongs to.
    pub fn divide(self, ends: &[usize]) -> Result<DividedSlice, AllocError> {
        self.check();
        let home = self.place.hold.home;
        let length = size_of_val(ends) / size_of::<usize>() * size_of::<RawChunk>();
        let handle = home.arena.allocate(self.who, length, Kind::Chunks)?;
        let table = Hold { home, handle };
        let chunks: &'static [RawChunk] = home
            .arena
            .objects(handle, Kind::Chunks, 0, ends.len())
            .map_err(|_| AllocError::Memory { asked: length })?;
        let mut start = 0;
        for (chunk, &end) in chunks.iter().zip(ends) {
            assert!(start <= end, "the chunks of a slice overlap");
            chunk.start.store(start as u64, Ordering::Relaxed);
            chunk.end.store(end as u64, Ordering::Relaxed);
            start = end;
        }
        assert!(
            start == self.place.bytes,
            "the chunks of a slice don't cover it"
        );
        let header = self.place.header;
        header.table.store(handle.to_word(), Ordering::Relaxed);
        crash_point!("slice: has its table");
        header.state.store(DIVIDED, Ordering::Release);
        Ok(DividedSlice {
            place: self.place,
            table,
            chunks,
        })
    }
}

/// Bytes that nobody can change any more.
#[derive(Debug, Clone)]
pub struct FrozenSlice {
    place: Place,
}

impl FrozenSlice {
    /// The ones that somebody named.
    ///
    /// # Errors
    /// When they are gone, not frozen, or of other elements.
    pub fn open(home: Home, handle: Handle, element: Element) -> Result<FrozenSlice, Gone> {
        Place::open(home, handle, element, FROZEN).map(|place| FrozenSlice { place })
    }

    /// Their name.
    pub fn handle(&self) -> Handle {
        self.place.hold.handle
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: FROZEN: it was OWNED, or all of its locks were held, when that was stored, and no
        // way leads out of it.
        unsafe { self.place.bytes(0..self.place.bytes) }
    }
}

/// Bytes that everyone reads and writes, by atomics.
#[derive(Debug, Clone)]
pub struct CellSlice {
    place: Place,
}

impl CellSlice {
    /// The ones that somebody named.
    ///
    /// # Errors
    /// When they are gone, in another state, or of other elements.
    pub fn open(home: Home, handle: Handle, element: Element) -> Result<CellSlice, Gone> {
        Place::open(home, handle, element, CELLS).map(|place| CellSlice { place })
    }

    /// Their name.
    pub fn handle(&self) -> Handle {
        self.place.hold.handle
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.place.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.place.bytes == 0
    }

    /// All of them as words. Who uses words of different sizes on the same bytes at the same time is
    /// not promised any order between them.
    pub fn words<A: Shared>(&self) -> &[A] {
        let count = self.place.bytes / size_of::<A>();
        self.place
            .hold
            .home
            .arena
            .objects(self.handle(), Kind::Slice, HEADER, count)
            .unwrap_or_default()
    }
}

/// Bytes in chunks, with a lock for each.
#[derive(Debug, Clone)]
pub struct DividedSlice {
    place: Place,
    table: Hold,
    chunks: &'static [RawChunk],
}

impl DividedSlice {
    /// The ones that somebody named.
    ///
    /// # Errors
    /// When they are gone, undivided by now, or of other elements.
    pub fn open(
        home: Home,
        [slice, table]: [Handle; 2],
        element: Element,
    ) -> Result<DividedSlice, Gone> {
        let place = Place::open(home, slice, element, DIVIDED)?;
        let table = Hold::acquire(home, table).map_err(|_| GONE)?;
        let count = home.arena.length(table.handle)? / size_of::<RawChunk>();
        let chunks = home.arena.objects(table.handle, Kind::Chunks, 0, count)?;
        let divided = DividedSlice {
            place,
            table,
            chunks,
        };
        if divided.is_current() {
            Ok(divided)
        } else {
            Err(GONE)
        }
    }

    /// Its names: of the bytes and of the locks.
    pub fn handles(&self) -> [Handle; 2] {
        [self.place.hold.handle, self.table.handle]
    }

    /// Chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    fn is_current(&self) -> bool {
        self.place.state() == DIVIDED
            && self.place.header.table.load(Ordering::Relaxed) == self.table.handle.to_word()
    }

    /// The place of a chunk, in bytes.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn range(&self, chunk: usize) -> Range<usize> {
        let chunk = &self.chunks[chunk];
        // Both lie within a slice that is mapped.
        chunk.start.load(Ordering::Relaxed) as usize..chunk.end.load(Ordering::Relaxed) as usize
    }

    /// The word that users of a chunk's lock leave each other a note in.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn flag(&self, chunk: usize) -> &'static AtomicU64 {
        &self.chunks[chunk].flag
    }

    /// Who holds a chunk, and in which thread.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn owner(&self, chunk: usize) -> Option<(MemberId, u32)> {
        let lock = &self.chunks[chunk].lock;
        Some((lock.owner()?, lock.owner_thread()?))
    }

    /// How many sleep waiting for a chunk, about.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn waiters(&self, chunk: usize) -> u32 {
        self.chunks[chunk].lock.waiters()
    }

    /// Takes the lock of a chunk, waiting as long as `patience` lasts. A dead holder's is taken over
    /// within 50 ms, and the result says so: the bytes are as it left them.
    ///
    /// # Errors
    /// See [`ChunkError`].
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn lock(
        &self,
        chunk: usize,
        patience: &mut Patience<'_>,
    ) -> Result<(HeldChunk<'_>, Acquired), ChunkError> {
        let who = self.place.me();
        let arena = self.place.hold.home.arena;
        let acquired = self.chunks[chunk]
            .lock
            .acquire(arena, who, patience)
            .map_err(ChunkError::Wait)?;
        let held = HeldChunk {
            slice: self,
            chunk,
            who,
        };
        if self.is_current() {
            Ok((held, acquired))
        } else {
            Err(ChunkError::Withdrawn)
        }
    }

    /// Whether the lock of a chunk can be had, from a dead holder too. See [`Readiness`].
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn look(&self, chunk: usize) -> Readiness<'static> {
        self.chunks[chunk].lock.look(self.place.hold.home.arena)
    }

    /// The end of waiting for a chunk's lock and for other things too.
    ///
    /// # Panics
    /// When there is no such chunk.
    pub fn unwatch(&self, chunk: usize) {
        self.chunks[chunk].lock.unwatch();
    }

    /// All chunks as one, from their locks: as many as there are, in any order.
    pub fn gather(held: Vec<HeldChunk<'_>>) -> Option<HeldWhole<'_>> {
        let slice = held.first()?.slice;
        let mut seen = vec![false; slice.len()];
        for one in &held {
            if one.slice.handles() != slice.handles() || one.who != slice.place.me() {
                return None;
            }
            seen[one.chunk] = true;
        }
        seen.iter()
            .all(|seen| *seen)
            .then_some(HeldWhole { slice, held })
    }
}

/// Who holds the chunk of a slice that is one chunk. Of one of several the table's name doesn't say
/// which.
pub(crate) fn holder_of_only_chunk(arena: &Arena, table: Handle) -> Option<(MemberId, u32)> {
    let count = arena.length(table).ok()? / size_of::<RawChunk>();
    let chunks: &[RawChunk] = arena.objects(table, Kind::Chunks, 0, count).ok()?;
    let [chunk] = chunks else { return None };
    Some((chunk.lock.owner()?, chunk.lock.owner_thread()?))
}

/// Why a chunk is not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// The wait ended without it.
    Wait(WaitError),
    /// The slice is not divided any more: it was frozen, or is one value's again.
    Withdrawn,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChunkError::Wait(error) => error.fmt(f),
            ChunkError::Withdrawn => f.write_str("the slice is not divided into chunks any more"),
        }
    }
}

impl std::error::Error for ChunkError {}

/// A chunk whose lock is held. Dropped, it releases the lock.
#[derive(Debug)]
pub struct HeldChunk<'a> {
    slice: &'a DividedSlice,
    chunk: usize,
    who: MemberId,
}

impl HeldChunk<'_> {
    fn check(&self) {
        assert!(self.slice.place.me() == self.who, "{FORKED}");
    }

    /// Which chunk.
    pub fn index(&self) -> usize {
        self.chunk
    }

    /// The bytes.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds it.
    pub fn bytes(&self) -> &[u8] {
        self.check();
        // SAFETY: chunks don't overlap, and this one's lock is held by this value: others write
        // neither in this process nor in another.
        unsafe { self.slice.place.bytes(self.slice.range(self.chunk)) }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.check();
        // SAFETY: as in `bytes`, and the value is borrowed as a whole.
        unsafe { self.slice.place.bytes_mut(self.slice.range(self.chunk)) }
    }
}

impl Drop for HeldChunk<'_> {
    fn drop(&mut self) {
        // A copy in a forked child holds nothing.
        if self.slice.place.me() == self.who {
            // It is held: `self` is the proof.
            let _ = self.slice.chunks[self.chunk].lock.release();
        }
    }
}

/// All chunks of a slice, whose locks are held. Dropped, it releases them.
#[derive(Debug)]
pub struct HeldWhole<'a> {
    slice: &'a DividedSlice,
    held: Vec<HeldChunk<'a>>,
}

impl HeldWhole<'_> {
    fn check(&self) {
        assert!(
            self.held.iter().all(|one| one.who == one.slice.place.me()),
            "{FORKED}"
        );
    }

    /// The bytes of all.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds them.
    pub fn bytes(&self) -> &[u8] {
        self.check();
        // SAFETY: the locks of all chunks are held by this value.
        unsafe { self.slice.place.bytes(0..self.slice.place.bytes) }
    }

    /// The bytes of all, to be changed.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.check();
        // SAFETY: the locks of all chunks are held by this value, which is borrowed as a whole.
        unsafe { self.slice.place.bytes_mut(0..self.slice.place.bytes) }
    }

    /// From now on everyone may read and nobody can write: who takes the lock of a chunk is told that
    /// there are no chunks any more.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds them.
    pub fn freeze(self) -> FrozenSlice {
        self.check();
        let place = self.slice.place.clone();
        // Before the locks are released, and with them the next to take one looks.
        place.header.state.store(FROZEN, Ordering::Release);
        crash_point!("slice: frozen");
        FrozenSlice { place }
    }

    /// From now on one value has the bytes: who takes the lock of a chunk is told that there are no
    /// chunks any more.
    ///
    /// # Panics
    /// In a process that was forked from the one that holds them.
    pub fn reclaim(self) -> OwnedSlice {
        self.check();
        let place = self.slice.place.clone();
        let who = place.me();
        place
            .header
            .state
            .store(u64::from(who.to_raw()) << 8 | OWNED, Ordering::Release);
        OwnedSlice { place, who }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    const BYTE: Element = Element { size: 1, align: 1 };
    const WORD: Element = Element { size: 4, align: 4 };

    fn home() -> Home {
        static ARENA: OnceLock<(Arena, MemberId)> = OnceLock::new();
        fn both() -> &'static (Arena, MemberId) {
            ARENA.get_or_init(|| {
                let arena = Arena::create(1 << 24).expect("an arena");
                let me = arena.enroll("test").expect("a place");
                (arena, me)
            })
        }
        Home {
            arena: &both().0,
            me: || both().1,
        }
    }

    #[test]
    fn a_slice_is_opened_as_what_it_is_and_as_nothing_else() {
        let home = home();
        let owned = OwnedSlice::copied(home, WORD, &[1; 8]).expect("memory");
        let handle = owned.place.hold.handle;
        let as_frozen = |element| FrozenSlice::open(home, handle, element);
        assert!(as_frozen(WORD).is_err(), "one value has it to itself");
        assert!(CellSlice::open(home, handle, WORD).is_err());
        let frozen = owned.freeze();
        assert_eq!(as_frozen(WORD).expect("frozen").bytes(), [1; 8]);
        assert!(as_frozen(BYTE).is_err(), "of other elements");
        assert!(
            CellSlice::open(home, handle, WORD).is_err(),
            "nobody writes"
        );
        assert!(DividedSlice::open(home, [handle, handle], WORD).is_err());
        drop(frozen);
        assert!(as_frozen(WORD).is_err(), "it is gone");
    }

    #[test]
    fn an_old_table_of_chunks_is_not_taken_for_the_present_one() {
        let home = home();
        let owned = OwnedSlice::zeroed(home, BYTE, 10).expect("memory");
        let old = owned.divide(&[4, 10]).expect("memory");
        let mut forever = Patience::forever();
        let all = (0..2).map(|at| old.lock(at, &mut forever).expect("free").0);
        let whole = DividedSlice::gather(all.collect()).expect("all of them");
        assert!(matches!(
            old.lock(0, &mut Patience::none()),
            Err(ChunkError::Wait(_))
        ));
        let new = whole.reclaim().divide(&[5, 10]).expect("memory");
        assert_eq!(
            old.lock(0, &mut forever).map(|_| ()),
            Err(ChunkError::Withdrawn)
        );
        assert!(DividedSlice::open(home, old.handles(), BYTE).is_err());
        assert!(DividedSlice::open(home, new.handles(), BYTE).is_ok());
        let (held, acquired) = new.lock(1, &mut forever).expect("free");
        assert_eq!((held.bytes().len(), acquired), (5, Acquired::Clean));
        assert!(DividedSlice::gather(vec![held]).is_none(), "one is missing");
    }

    #[test]
    #[should_panic(expected = "don't cover it")]
    fn chunks_that_leave_something_out_are_a_mistake() {
        let owned = OwnedSlice::zeroed(home(), BYTE, 10).expect("memory");
        let _ = owned.divide(&[4, 9]);
    }
}
