//! Memory files with a name, in /dev/shm, for processes that are not related.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const FOLDER: &str = "/dev/shm";

fn path(name: &str) -> io::Result<PathBuf> {
    let plain = Path::new(name).file_name() == Some(OsStr::new(name));
    if plain && !name.contains('\0') {
        Ok(Path::new(FOLDER).join(name))
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name of a shared segment is a file name: not empty, without a slash",
        ))
    }
}

/// Makes a file of `length` zeros with memory behind them, for this user alone. It has no name yet,
/// and goes with this process if it never gets one.
///
/// # Errors
/// The kernel's: `ENOSPC` when /dev/shm is full.
pub fn create(length: usize) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(FOLDER, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, length as u64)?;
    crate::memory::reserve_pages(file.as_fd(), 0, length)?;
    Ok(file)
}

/// Gives a file made by [`create`] its name: from here on others can open it, and it stays when all
/// of its users have ended.
///
/// # Errors
/// `EEXIST` when there is one of that name; `InvalidInput` for what is no file name.
pub fn publish(file: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let path = path(name)?;
    let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(
        CWD,
        unnamed,
        CWD,
        path,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

/// Opens the file of a name. It must be a regular file of this user's.
///
/// # Errors
/// `ENOENT` when there is none; `PermissionDenied` when it is another user's or no regular file.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::open(path(name)?, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
    if regular && stat.st_uid == rustix::process::geteuid().as_raw() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the file of that name is another user's, or no regular file",
        ))
    }
}

/// Takes a name away. Who has the file open keeps it.
///
/// # Errors
/// `ENOENT` when there is none.
pub fn unlink(name: &str) -> io::Result<()> {
    Ok(rustix::fs::unlink(path(name)?)?)
}

/// A lock on a whole file, which the kernel releases when its holder ends, however it does. Dropped,
/// it is released. Each one taken is apart from every other, in the same process too.
#[derive(Debug)]
pub struct FileLock(OwnedFd);

/// Locks a file, for one (`exclusive`) or for many; `None` if it is not to be had now and `wait` is
/// false. A signal does not end the wait.
///
/// # Errors
/// The kernel's: at the limit of descriptors.
pub fn lock(file: BorrowedFd<'_>, exclusive: bool, wait: bool) -> io::Result<Option<FileLock>> {
    // A lock belongs to an open file, so each has its own.
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let operation = match (exclusive, wait) {
        (true, true) => FlockOperation::LockExclusive,
        (true, false) => FlockOperation::NonBlockingLockExclusive,
        (false, true) => FlockOperation::LockShared,
        (false, false) => FlockOperation::NonBlockingLockShared,
    };
    loop {
        match rustix::fs::flock(&own, operation) {
            Ok(()) => return Ok(Some(FileLock(own))),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // By hand: a process forked meanwhile has the same open file.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// A shared, writable mapping, unmapped when dropped.
#[derive(Debug)]
pub struct OwnedMapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: plain memory, which any thread may unmap; what may be done with its bytes from several
// threads at once is decided by who uses the pointer.
unsafe impl Send for OwnedMapping {}
// SAFETY: as above.
unsafe impl Sync for OwnedMapping {}

impl OwnedMapping {
    /// Maps the first `length` bytes of a file; at least one.
    ///
    /// # Errors
    /// `ENOMEM` when the address space has no room.
    pub fn new(file: BorrowedFd<'_>, length: usize) -> io::Result<OwnedMapping> {
        // SAFETY: a null hint lets the kernel choose free addresses, so nothing is replaced.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(OwnedMapping { base, length })
    }

    /// The first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub fn length(&self) -> usize {
        self.length
    }
}

impl Drop for OwnedMapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and references into it borrow `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.length) };
    }
}
