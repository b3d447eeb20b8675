//! Anonymous memory files and their mappings.

use std::io;
#[cfg(not(miri))]
use std::os::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;

#[cfg(not(miri))]
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, fstat, ftruncate, memfd_create};
#[cfg(not(miri))]
use rustix::mm::{MapFlags, ProtFlags, mmap};

#[cfg(miri)]
pub use stand_in::{create_file, file_length, punch, reserve_pages};

#[cfg(miri)]
mod stand_in {
    //! Miri has no memory files: under it a file is a descriptor of nothing, and mapping it is an
    //! allocation, which no other mapping shares.

    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    /// A descriptor of nothing.
    pub fn create_file(_length: usize) -> io::Result<OwnedFd> {
        Ok(std::io::pipe()?.0.into())
    }

    /// It has none.
    pub fn file_length(_fd: BorrowedFd<'_>) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    /// All of an allocation is there.
    pub fn reserve_pages(_fd: BorrowedFd<'_>, _offset: usize, _length: usize) -> io::Result<()> {
        Ok(())
    }

    /// Nothing can be given back.
    pub fn punch(_fd: BorrowedFd<'_>, _offset: usize, _length: usize) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }
}

/// Makes a memory file of `length` bytes, all holes. It has no name and goes with its last user.
///
/// # Errors
/// The kernel's; `Unsupported` with an explanation when it has no `memfd_create` (before 3.17, or
/// forbidden by a filter). `EFBIG` when `length` is over the limit on file sizes.
#[cfg(not(miri))]
pub fn create_file(length: usize) -> io::Result<OwnedFd> {
    let fd = memfd_create(c"procession", MemfdFlags::CLOEXEC).map_err(|error| {
        if error == rustix::io::Errno::NOSYS {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel has no memfd_create (Linux 3.17 or later is needed, and no filter that forbids it)",
            )
        } else {
            error.into()
        }
    })?;
    // Only the owner may open the file through /proc.
    rustix::fs::fchmod(&fd, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    if limit.is_some_and(|limit| limit < length as u64) {
        // Asking would end the process by SIGXFSZ.
        return Err(io::Error::from(rustix::io::Errno::FBIG));
    }
    ftruncate(&fd, length as u64)?;
    Ok(fd)
}

/// The length of a file.
///
/// # Errors
/// The kernel's.
#[cfg(not(miri))]
pub fn file_length(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let length = fstat(fd)?.st_size;
    usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Makes sure that `length` bytes from `offset` are there, so that touching them can't fail.
///
/// # Errors
/// `ENOSPC` or `ENOMEM` when memory is short.
#[cfg(not(miri))]
pub fn reserve_pages(fd: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<()> {
    loop {
        match fallocate(fd, FallocateFlags::empty(), offset as u64, length as u64) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Gives the pages of a range back to the system; the range then reads as zeros.
///
/// # Errors
/// The kernel's.
#[cfg(not(miri))]
pub fn punch(fd: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match fallocate(fd, flags, offset as u64, length as u64) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// A shared, writable mapping of a whole file. It is never unmapped: whoever maps an arena keeps it.
#[derive(Debug, Clone, Copy)]
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping lives until the process ends and is plain memory; what may be done with its
// bytes from several threads at once is decided, block by block, by who uses the pointer.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `fd`.
    ///
    /// # Errors
    /// `ENOMEM` when the address space has no room (a limit on it, for instance).
    #[cfg(not(miri))]
    pub fn shared(fd: &impl AsFd, length: usize) -> io::Result<Mapping> {
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a null hint lets the kernel choose free addresses, so nothing is replaced.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Mapping { base, length })
    }

    /// An allocation of `length` bytes, shared by the threads of this process alone.
    #[cfg(miri)]
    pub fn shared(_fd: &impl AsFd, length: usize) -> io::Result<Mapping> {
        let no_room = || io::Error::from(io::ErrorKind::OutOfMemory);
        let layout = std::alloc::Layout::from_size_align(length, 4096).map_err(|_| no_room())?;
        // SAFETY: no arena is empty.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or_else(no_room)?;
        Ok(Mapping { base, length })
    }

    /// Makes a part of it this process's own: it keeps its bytes and its place, and what is written
    /// from here on, on either side, the other side does not see; unless the others write where this
    /// process has not yet, which they must not. `fd` is the file that is mapped; the part is whole pages.
    ///
    /// # Errors
    /// `EINVAL` for a part that is none, `ENOMEM` when there are too many parts. Nothing has changed then.
    pub fn separate(self, fd: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<()> {
        self.map_again(fd, offset, length, true)
    }

    /// Undoes [`separate`](Self::separate): what this process has written there is gone.
    ///
    /// # Errors
    /// As with that.
    pub fn rejoin(self, fd: BorrowedFd<'_>, offset: usize, length: usize) -> io::Result<()> {
        self.map_again(fd, offset, length, false)
    }

    /// An allocation belongs to this process as it is.
    #[cfg(miri)]
    fn map_again(self, _: BorrowedFd<'_>, _: usize, _: usize, _: bool) -> io::Result<()> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    #[cfg(not(miri))]
    fn map_again(
        self,
        fd: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        own: bool,
    ) -> io::Result<()> {
        let flags = if own {
            MapFlags::PRIVATE
        } else {
            MapFlags::SHARED
        };
        let inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.length);
        if !inside || length == 0 {
            return Err(io::Error::from(rustix::io::Errno::INVAL));
        }
        let place = self.base.as_ptr().wrapping_add(offset);
        // SAFETY: the range lies in this mapping, checked above, and is mapped to the same bytes of the
        // same file as before, readable and writable: no reference into it dangles, and those that there
        // are allow for bytes that change, since other processes write them.
        unsafe {
            mmap(
                place.cast(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                flags | MapFlags::NORESERVE | MapFlags::FIXED,
                fd,
                offset as u64,
            )
        }?;
        Ok(())
    }

    /// The first byte.
    pub fn base(self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub fn length(self) -> usize {
        self.length
    }
}

/// Bytes of a page.
pub fn page_size() -> usize {
    // Not by rustix, which reads the kernel's notes for the program by itself and crashes where valgrind has
    // changed them.
    // SAFETY: touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Every system says it.
    usize::try_from(size).unwrap_or(4096)
}

/// The limit on this process's address space, if there is one.
pub fn address_space_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// Bytes of memory that the system could give out now, or `None` if it doesn't say.
///
/// The least of what the machine and the control groups of this process have left.
pub fn available() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
            Some(kib * 1024)
        });
    let group = group_left();
    match (machine, group) {
        (Some(machine), Some(group)) => Some(machine.min(group)),
        (one, other) => one.or(other),
    }
}

fn group_left() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = std::path::Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    let number = |name: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let limit = number("memory.max")?;
    Some(limit.saturating_sub(number("memory.current")?))
}
