//! Memory files with a name, in /dev/shm, for processes that are not related.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::fork_hooks;

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
///
/// A forked child has the same open file, and would keep it locked after its parent's end; so it is closed there.
#[derive(Debug)]
pub struct FileLock {
    file: OwnedFd,
    /// The process that took it.
    owner: u32,
}

/// The descriptors of locks of this process, each and one; 0 is no descriptor. Of more locks than that at a
/// time a forked child keeps some.
static LOCKED: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

fn exchange(old: i32, new: i32) {
    let exchanged = |word: &AtomicI32| {
        word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    };
    let _ = LOCKED.iter().any(exchanged);
}

fn close_in_forked_children() {
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn nothing() {}
    if !REGISTERED.swap(true, Ordering::SeqCst) {
        // Without memory for it a child keeps its parent's locks.
        let _ = fork_hooks::register(nothing, nothing, close_locks);
    }
}

/// The numbers stay in use: the copies of the locks still have them.
extern "C" fn close_locks() {
    let mut nothing = None;
    for word in &LOCKED {
        let locked = word.swap(0, Ordering::SeqCst);
        if locked == 0 {
            continue;
        }
        let open =
            || rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if let Some(nothing) = nothing.get_or_insert_with(|| open().ok()) {
            // SAFETY: the descriptor is a lock's, which never closes it but by dropping its own; it is replaced
            // by one that is as good for that.
            unsafe { libc::dup3(nothing.as_raw_fd(), locked - 1, libc::O_CLOEXEC) };
        }
    }
}

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
            Ok(()) => {
                close_in_forked_children();
                exchange(0, own.as_raw_fd() + 1);
                return Ok(Some(FileLock {
                    file: own,
                    owner: std::process::id(),
                }));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

impl FileLock {
    /// Whether it is this process's, and not a copy in a forked child.
    pub fn is_own(&self) -> bool {
        self.owner == std::process::id()
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        if self.is_own() {
            exchange(self.file.as_raw_fd() + 1, 0);
            // By hand: a process forked just now may have the same open file.
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
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
