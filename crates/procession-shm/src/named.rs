//! Plain data in a file with a name, for processes that are not of one family.
//!
//! The file is a header and the bytes. It is made without a name and gets one when it is whole, so
//! nobody finds it half made. The kernel's lock on the file says who may do what: many read, or one
//! writes; it is released by the end of its holder. `writing` in the header, `pid << 8 | 1`, is set
//! by a writer as its first act and cleared as its last: whoever has the lock and finds it set comes
//! after one that has ended in between.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use procession_sys::memory::file_length;
use procession_sys::named::{self, FileLock, OwnedMapping};

use crate::slice::Element;

const HEADER: usize = 64;
const MAGIC: u64 = u64::from_le_bytes(*b"procnam1");

#[repr(C)]
struct Header {
    magic: AtomicU64,
    element: AtomicU64,
    bytes: AtomicU64,
    writing: AtomicU64,
}

/// A named segment, open in this process.
#[derive(Debug)]
pub struct NamedSegment {
    file: OwnedFd,
    mapping: OwnedMapping,
    bytes: usize,
}

impl NamedSegment {
    /// Makes a new one of zeros.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidInput` for what is no file name; the kernel's when memory is short.
    pub fn create(name: &str, element: Element, bytes: usize) -> io::Result<NamedSegment> {
        let length = bytes
            .checked_add(HEADER)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let file = named::create(length)?;
        let mapping = OwnedMapping::new(file.as_fd(), length)?;
        let segment = NamedSegment {
            file,
            mapping,
            bytes,
        };
        let header = segment.header();
        header.element.store(element.to_word(), Ordering::Relaxed);
        header.bytes.store(bytes as u64, Ordering::Relaxed);
        header.magic.store(MAGIC, Ordering::Release);
        named::publish(segment.file.as_fd(), name)?;
        Ok(segment)
    }

    /// Opens the one of that name.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` when it is another user's; `InvalidData` when it is something
    /// else, or of other elements.
    pub fn open(name: &str, element: Element) -> io::Result<NamedSegment> {
        let foreign = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the file of that name is no shared segment of these elements",
            )
        };
        let file = named::open(name)?;
        let length = file_length(file.as_fd())?;
        let bytes = length.checked_sub(HEADER).ok_or_else(foreign)?;
        let mapping = OwnedMapping::new(file.as_fd(), length)?;
        let segment = NamedSegment {
            file,
            mapping,
            bytes,
        };
        let header = segment.header();
        let known = header.magic.load(Ordering::Acquire) == MAGIC
            && header.element.load(Ordering::Relaxed) == element.to_word()
            && header.bytes.load(Ordering::Relaxed) == bytes as u64;
        if known { Ok(segment) } else { Err(foreign()) }
    }

    fn header(&self) -> &Header {
        // SAFETY: the mapping begins at a page and is at least HEADER long; the header is made of
        // atomics, for which any bytes are valid and which others may change.
        unsafe { self.mapping.base().cast::<Header>().as_ref() }
    }

    fn first(&self) -> NonNull<u8> {
        // SAFETY: the mapping is HEADER bytes longer than the data.
        unsafe { self.mapping.base().add(HEADER) }
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Becomes a reader; `None` if there is a writer and `wait` is false.
    ///
    /// # Errors
    /// At the limit of descriptors.
    pub fn read(&self, wait: bool) -> io::Result<Option<SegmentReader<'_>>> {
        let lock = named::lock(self.file.as_fd(), false, wait)?;
        Ok(lock.map(|lock| SegmentReader {
            segment: self,
            _lock: lock,
        }))
    }

    /// Becomes the writer; `None` if there is another, or a reader, and `wait` is false. With it: the
    /// process id of a writer that has ended before it was done, if the last one has; then that stays
    /// so unless this one [begins](SegmentWriter::begin).
    ///
    /// # Errors
    /// At the limit of descriptors.
    pub fn write(&self, wait: bool) -> io::Result<Option<(SegmentWriter<'_>, Option<u32>)>> {
        let lock = named::lock(self.file.as_fd(), true, wait)?;
        Ok(lock.map(|lock| {
            let before = self.unfinished();
            let mut writer = SegmentWriter {
                segment: self,
                done: false,
                lock,
            };
            if before.is_none() {
                writer.begin();
            }
            (writer, before)
        }))
    }

    fn unfinished(&self) -> Option<u32> {
        let word = self.header().writing.load(Ordering::SeqCst);
        (word != 0).then_some((word >> 8) as u32)
    }
}

/// One of the readers.
#[derive(Debug)]
pub struct SegmentReader<'a> {
    segment: &'a NamedSegment,
    _lock: FileLock,
}

impl SegmentReader<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let segment = self.segment;
        // SAFETY: mapped as long as the segment lives; who writes holds the lock for one, and this
        // value holds it for many.
        unsafe { std::slice::from_raw_parts(segment.first().as_ptr(), segment.bytes) }
    }

    /// The writer that has ended before it was done, if the last one has.
    pub fn unfinished(&self) -> Option<u32> {
        self.segment.unfinished()
    }
}

/// The writer. Dropped, it is done if it had begun, and the lock is released.
#[derive(Debug)]
pub struct SegmentWriter<'a> {
    segment: &'a NamedSegment,
    done: bool,
    lock: FileLock,
}

impl SegmentWriter<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let segment = self.segment;
        // SAFETY: mapped as long as the segment lives, and this value holds the lock for one.
        unsafe { std::slice::from_raw_parts(segment.first().as_ptr(), segment.bytes) }
    }

    /// The bytes, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let segment = self.segment;
        // SAFETY: as in `bytes`, and the value is borrowed as a whole.
        unsafe { std::slice::from_raw_parts_mut(segment.first().as_ptr(), segment.bytes) }
    }

    /// From here on the array is this writer's to put in order.
    pub fn begin(&mut self) {
        let mine = u64::from(std::process::id()) << 8 | 1;
        self.segment.header().writing.store(mine, Ordering::SeqCst);
        self.done = true;
    }

    /// It did not come to its end: the next one is told.
    pub fn leave_unfinished(&mut self) {
        self.done = false;
    }
}

impl Drop for SegmentWriter<'_> {
    fn drop(&mut self) {
        if self.done && self.lock.is_own() {
            self.segment.header().writing.store(0, Ordering::SeqCst);
        }
    }
}
