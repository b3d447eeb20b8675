//! Waiting for several things that processes do at once: end, and write to pipes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use procession_shm::Patience;
use procession_sys::poll::{self, PollFd, PollFlags};

use super::Child;

/// As long as one sleep may last.
const SLICE: Duration = Duration::from_secs(3600);

/// Waits until one of `descriptors` is readable: of a process, until it has ended. Gives the index
/// of the first that is; `None` when the patience has ended before.
///
/// # Errors
/// For more descriptors than this process may have open, or one that is not open.
pub fn wait_any(
    descriptors: &[BorrowedFd<'_>],
    patience: &mut Patience<'_>,
) -> io::Result<Option<usize>> {
    let mut entries: Vec<_> = descriptors
        .iter()
        .map(|&fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    loop {
        let slice = if patience.is_none() {
            Duration::ZERO
        } else {
            patience.slice(SLICE)
        };
        if poll::poll(&mut entries, Some(slice))? > 0 {
            return Ok(entries.iter().position(|entry| !entry.revents().is_empty()));
        }
        if patience.is_none() || patience.check().is_err() {
            return Ok(None);
        }
    }
}

/// Reads what `child` writes into `pipes`, hands each piece to `take` with the number of its pipe,
/// and returns when the child has ended and what it had written is read.
///
/// Returns before that when the patience has ended.
///
/// Others may have the pipes open still, such as processes that the child has started: they are not
/// waited for.
///
/// # Errors
/// When reading fails.
pub fn drain<const N: usize>(
    child: &Child,
    pipes: [Option<&File>; N],
    patience: &mut Patience<'_>,
    take: &mut impl FnMut(usize, &[u8]),
) -> io::Result<()> {
    let mut open = pipes;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let ended = !child.is_alive();
        let mut idle = true;
        for (number, slot) in open.iter_mut().enumerate() {
            let Some(mut pipe) = *slot else { continue };
            if !poll::readable(pipe.as_fd(), Some(Duration::ZERO))? {
                continue;
            }
            idle = false;
            match pipe.read(&mut buffer) {
                Ok(0) => *slot = None,
                Ok(count) => take(number, &buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if idle {
            if ended {
                return Ok(());
            }
            let descriptors: Vec<BorrowedFd<'_>> = open
                .iter()
                .flatten()
                .map(|pipe| pipe.as_fd())
                .chain([child.sentinel()])
                .collect();
            if wait_any(&descriptors, patience)?.is_none() {
                return Ok(());
            }
        }
    }
}
