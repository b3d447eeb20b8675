//! Descriptors that came with the start of the program.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// Takes over a descriptor of which the process that started this program told the number. From
/// now on it is close-on-exec.
///
/// Only one without close-on-exec is taken, as those are that outlived the start. Everything that
/// Rust's standard library and Procession open is close-on-exec from birth, so a wrong number is
/// refused, and so is a second attempt on the same one. The standard three are never taken.
///
/// # Errors
/// `EBADF` when it is not open; `InvalidInput` when it can't have come with the start.
pub fn claim_inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the standard descriptors are not handed over",
        ));
    }
    // SAFETY: only asked for its flags and given one; if it is not open, both fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = rustix::io::fcntl_getfd(borrowed)?;
    if flags.contains(FdFlags::CLOEXEC) {
        let text = "the descriptor was opened by this program, so it can't be one that came with its start";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    rustix::io::fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: open, and of the kind described above: nobody in this program owns it, and none can
    // take it after us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Another descriptor for the same thing, close-on-exec, with a number above the standard three.
///
/// # Errors
/// `EMFILE` at the limit of open descriptors.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}

/// Whether there is something behind it. The standard three may have been closed by the program, or
/// before it started.
pub fn is_open(fd: impl AsFd) -> bool {
    rustix::io::fcntl_getfd(fd).is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn only_what_came_with_the_start_is_taken_and_only_once() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        assert!(
            claim_inherited(file.as_raw_fd()).is_err(),
            "close-on-exec: ours"
        );
        assert!(claim_inherited(1).is_err());
        assert_eq!(
            claim_inherited(9999).expect_err("not open").raw_os_error(),
            Some(libc::EBADF)
        );
        let plain = duplicate(&file).expect("duplicates");
        rustix::io::fcntl_setfd(&plain, FdFlags::empty()).expect("is open");
        let number = plain.into_raw_fd();
        let taken = claim_inherited(number).expect("is without close-on-exec");
        assert!(claim_inherited(number).is_err(), "has an owner now");
        assert_eq!(taken.as_raw_fd(), number);
    }
}
