//! Socket pairs and pipes: reading and writing without waiting, and passing descriptors.
//!
//! Nothing here waits. A call that can't go on says so by `None`, whether or not the descriptor is
//! in non-blocking mode, which is a property of the open file and so not ours to change: other
//! processes may have it open.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;

use crate::poll;

/// As many descriptors as the kernel lets travel in one message.
pub const MOST_FDS: usize = 253;

/// A write of this size to a pipe that has room does not wait, and is not torn.
const PIPE_BUF: usize = 4096;

/// What one read of a pipe can give at most, by default.
const ONE_READ: usize = 64 << 10;

/// What kind of channel a descriptor is: each has its own way of not waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// A socket.
    Socket,
    /// A pipe, a terminal, or whatever else can be read or written.
    Other,
}

impl Channel {
    /// Looks what `fd` is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn of(fd: impl AsFd) -> io::Result<Channel> {
        let mode = rustix::fs::fstat(fd)?.st_mode;
        Ok(if FileType::from_raw_mode(mode) == FileType::Socket {
            Channel::Socket
        } else {
            Channel::Other
        })
    }
}

/// Two connected stream sockets, close-on-exec.
///
/// # Errors
/// `EMFILE` and `ENFILE` at the limits of open descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A pipe: the end to read from and the end to write to, close-on-exec.
///
/// # Errors
/// `EMFILE` and `ENFILE` at the limits of open descriptors.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

/// No more is sent or received through this socket, whoever has it open. What has arrived before
/// can still be read; the other side's writes fail with `EPIPE`.
///
/// # Errors
/// `ENOTCONN` when the other side is gone already.
pub fn shut_down(fd: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(fd, Shutdown::Both)?)
}

/// Turns "would wait" into `None`, and tries again after a signal.
fn settle(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<Option<usize>> {
    loop {
        match call() {
            Ok(count) => return Ok(Some(count)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether this kernel can be asked to read or write a pipe without waiting (it has been since 6.5).
static ASKABLE: AtomicBool = AtomicBool::new(true);

/// Makes `call` without waiting: with the flag that asks the kernel for that (the argument is
/// true), or, where it can't be asked, when the descriptor is `ready`.
fn unwaiting(
    ready: impl FnOnce() -> io::Result<bool>,
    mut call: impl FnMut(bool) -> rustix::io::Result<usize>,
) -> io::Result<Option<usize>> {
    if ASKABLE.load(Ordering::Relaxed) {
        match settle(|| call(true)) {
            // This file can't be asked, or no file can.
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::OPNOTSUPP) => {}
                Some(Errno::NOSYS) => ASKABLE.store(false, Ordering::Relaxed),
                _ => return Err(error),
            },
            done => return done,
        }
    }
    if ready()? {
        settle(|| call(false))
    } else {
        Ok(None)
    }
}

/// Reads what is there, up to the length of `into`: the number of bytes, 0 at the end of the
/// stream, `None` when there is nothing yet.
///
/// On a pipe with several readers in different processes, and a kernel before 6.5, it may wait.
///
/// # Errors
/// The kernel's, such as `ECONNRESET`.
pub fn read(fd: BorrowedFd<'_>, channel: Channel, into: &mut [u8]) -> io::Result<Option<usize>> {
    match channel {
        Channel::Socket => settle(|| {
            rustix::net::recv(fd, &mut *into, RecvFlags::DONTWAIT).map(|(count, _)| count)
        }),
        Channel::Other => unwaiting(
            || poll::readable(fd, Some(Duration::ZERO)),
            |asking| {
                if asking {
                    rustix::io::preadv2(
                        fd,
                        &mut [IoSliceMut::new(into)],
                        u64::MAX,
                        ReadWriteFlags::NOWAIT,
                    )
                } else {
                    rustix::io::read(fd, &mut *into)
                }
            },
        ),
    }
}

/// The same, appending at most `most` bytes to `onto`, for which there is room already: whatever
/// fits into its spare capacity is read, it does not grow.
///
/// # Errors
/// As [`read`].
pub fn read_onto(
    fd: BorrowedFd<'_>,
    channel: Channel,
    onto: &mut Vec<u8>,
    most: usize,
) -> io::Result<Option<usize>> {
    let spare = onto.capacity() - onto.len();
    if spare > most || channel == Channel::Other {
        // The exact stretch, zeroed, and no longer than what one call may bring.
        let start = onto.len();
        let length = most.min(spare).min(ONE_READ);
        onto.resize(start + length, 0);
        let result = read(fd, channel, &mut onto[start..]);
        onto.truncate(start + result.as_ref().ok().copied().flatten().unwrap_or(0));
        return result;
    }
    settle(|| {
        rustix::net::recv(fd, spare_capacity(onto), RecvFlags::DONTWAIT).map(|(count, _)| count)
    })
}

/// Writes as much of `parts` as there is room for: the number of bytes, `None` when there is none.
///
/// # Errors
/// `EPIPE` when nobody will read it (no SIGPIPE from sockets; from pipes only where the program has
/// not ignored it, as Rust and Python do).
pub fn write(
    fd: BorrowedFd<'_>,
    channel: Channel,
    parts: &[IoSlice<'_>],
) -> io::Result<Option<usize>> {
    match channel {
        Channel::Socket => {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            settle(|| rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), flags))
        }
        Channel::Other => unwaiting(
            || poll::writable(fd, Some(Duration::ZERO)),
            |asking| {
                if asking {
                    return rustix::io::pwritev2(fd, parts, u64::MAX, ReadWriteFlags::NOWAIT);
                }
                // More might wait half-way. The first part is what there is room for at least.
                let first = parts
                    .iter()
                    .find(|part| !part.is_empty())
                    .map_or(&[][..], |part| &part[..]);
                rustix::io::write(fd, &first[..first.len().min(PIPE_BUF)])
            },
        ),
    }
}

/// Sends `bytes`, which are not empty, with descriptors, which are duplicated to whoever receives
/// the first of the bytes. The number of bytes sent, `None` when there is no room.
///
/// # Errors
/// `EPIPE`; `EINVAL` for more than [`MOST_FDS`]; `ETOOMANYREFS` when too many are on their way.
pub fn send_fds(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<Option<usize>> {
    if fds.len() > MOST_FDS || bytes.is_empty() {
        return Err(io::Error::from(Errno::INVAL));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    settle(|| {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut control, flags)
    })
}

/// What [`receive_fds`] got.
#[derive(Debug)]
pub struct Received {
    /// Bytes received; 0 at the end of the stream.
    pub bytes: usize,
    /// The descriptors that came with them, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Whether there were more descriptors than asked for, or than this process may have open. Those
    /// are closed.
    pub lost_fds: bool,
}

/// Receives bytes and at most `most` descriptors; `None` when there is nothing yet.
///
/// # Errors
/// The kernel's.
pub fn receive_fds(
    fd: BorrowedFd<'_>,
    into: &mut [u8],
    most: usize,
) -> io::Result<Option<Received>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut seen = ReturnFlags::empty();
    let bytes = settle(|| {
        let message = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(into)], &mut control, flags)?;
        seen = message.flags;
        Ok(message.bytes)
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    let lost_fds = fds.len() > most || seen.contains(ReturnFlags::CTRUNC);
    fds.truncate(most);
    Ok(Some(Received {
        bytes,
        fds,
        lost_fds,
    }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn open_fds() -> usize {
        std::fs::read_dir("/proc/self/fd")
            .expect("has /proc")
            .count()
    }

    #[test]
    fn nothing_waits_on_an_empty_or_full_channel() {
        for (reader, writer) in [pair().expect("pair"), pipe().expect("pipe")] {
            let channel = Channel::of(&reader).expect("is open");
            let mut byte = [0];
            assert_eq!(
                read(reader.as_fd(), channel, &mut byte).expect("open"),
                None
            );
            let chunk = [7u8; 100_000];
            let mut sent = 0;
            while let Some(count) =
                write(writer.as_fd(), channel, &[IoSlice::new(&chunk)]).expect("open")
            {
                sent += count;
                assert!(sent < 10_000_000, "never full");
            }
            assert!(sent > 0);
            let mut got = Vec::with_capacity(sent + 1);
            while read_onto(reader.as_fd(), channel, &mut got, sent + 1)
                .expect("open")
                .is_some()
            {}
            assert_eq!(got.len(), sent);
            drop(writer);
            assert_eq!(
                read(reader.as_fd(), channel, &mut byte).expect("open"),
                Some(0)
            );
        }
    }

    #[test]
    fn a_pipe_does_not_wait_without_the_kernels_help_either() {
        let (reader, writer) = pipe().expect("pipe");
        let nothing = unwaiting(
            || poll::readable(reader.as_fd(), Some(Duration::ZERO)),
            |asking| {
                if asking {
                    Err(Errno::OPNOTSUPP)
                } else {
                    unreachable!("it is empty")
                }
            },
        );
        assert_eq!(nothing.expect("polls"), None);
        rustix::io::write(&writer, b"x").expect("has room");
        let mut byte = [0];
        let got = unwaiting(
            || poll::readable(reader.as_fd(), Some(Duration::ZERO)),
            |asking| {
                if asking {
                    Err(Errno::OPNOTSUPP)
                } else {
                    rustix::io::read(&reader, &mut byte)
                }
            },
        );
        assert_eq!(got.expect("reads"), Some(1));
    }

    #[test]
    fn reading_onto_a_vector_keeps_to_the_limit() {
        let (one, other) = pair().expect("pair");
        rustix::io::write(&one, b"abcdef").expect("has room");
        let mut got = Vec::with_capacity(100);
        assert_eq!(
            read_onto(other.as_fd(), Channel::Socket, &mut got, 4).expect("open"),
            Some(4)
        );
        assert_eq!(got, b"abcd");
        let mut rest = Vec::with_capacity(2);
        assert_eq!(
            read_onto(other.as_fd(), Channel::Socket, &mut rest, 2).expect("open"),
            Some(2)
        );
        assert_eq!(rest, b"ef");
    }

    #[test]
    fn writing_to_nobody_is_an_error_and_no_signal() {
        let (one, other) = pair().expect("pair");
        drop(other);
        let error =
            write(one.as_fd(), Channel::Socket, &[IoSlice::new(b"x")]).expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn descriptors_travel_and_the_unexpected_ones_are_closed() {
        let (one, other) = pair().expect("pair");
        let file = std::fs::File::open("/dev/null").expect("opens");
        let before = open_fds();
        let three = [file.as_fd(), file.as_fd(), file.as_fd()];
        assert_eq!(send_fds(one.as_fd(), b"m", &three).expect("sends"), Some(1));
        let mut byte = [0];
        let got = receive_fds(other.as_fd(), &mut byte, 2)
            .expect("receives")
            .expect("is there");
        assert_eq!(
            (got.bytes, got.fds.len(), got.lost_fds, byte),
            (1, 2, true, *b"m")
        );
        assert!(got.fds.iter().all(|fd| fd.as_raw_fd() > 2));
        assert!(
            rustix::io::fcntl_getfd(&got.fds[0])
                .expect("open")
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        drop(got);
        // Other tests of this process open descriptors too: look until the number fits.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while open_fds() > before {
            assert!(
                std::time::Instant::now() < deadline,
                "descriptors left open"
            );
            std::thread::yield_now();
        }
        let many: Vec<_> = (0..MOST_FDS + 1).map(|_| file.as_fd()).collect();
        assert!(send_fds(one.as_fd(), b"m", &many).is_err());
        assert_eq!(
            send_fds(one.as_fd(), b"m", &many[1..]).expect("sends"),
            Some(1)
        );
        let got = receive_fds(other.as_fd(), &mut byte, MOST_FDS)
            .expect("receives")
            .expect("is there");
        assert_eq!((got.fds.len(), got.lost_fds), (MOST_FDS, false));
    }

    #[test]
    fn a_read_that_expects_none_gets_none() {
        let (one, other) = pair().expect("pair");
        let (end, watched) = pipe().expect("pipe");
        send_fds(one.as_fd(), b"m", &[watched.as_fd()]).expect("sends");
        drop(watched);
        let mut byte = [0];
        assert_eq!(
            read(other.as_fd(), Channel::Socket, &mut byte).expect("open"),
            Some(1)
        );
        assert_eq!(
            read(end.as_fd(), Channel::Other, &mut byte).expect("open"),
            Some(0),
            "its last copy is closed"
        );
    }
}
