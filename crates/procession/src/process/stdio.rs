//! Standard input, output and error of a process.

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;

use crate::engine::launch::Standard;

/// What a process has as its standard input, output or error: see [`Builder::stdin`].
///
/// Besides the three below it can be made of a file, of one end of a pipe, and of the stream of
/// another process, by `into()`: the process gets a duplicate.
///
/// [`Builder::stdin`]: super::Builder::stdin
#[derive(Debug, Clone)]
pub struct Stdio(pub(crate) Standard);

impl Stdio {
    /// What this process has. The default.
    pub fn inherit() -> Stdio {
        Stdio(Standard::Inherit)
    }

    /// Nothing: reading finds the end, and what is written is thrown away.
    pub fn null() -> Stdio {
        Stdio(Standard::Null)
    }

    /// A pipe, of which this process has the other end: `stdin`, `stdout` and `stderr` of
    /// [`Process`](super::Process).
    ///
    /// A pipe holds 64 KiB: who writes more waits until somebody reads. A process that this one
    /// forks while it has its end of a pipe to another ([`StartMethod::Fork`]) has that end too, so
    /// that the other process does not see the end of its input before both are closed.
    ///
    /// [`StartMethod::Fork`]: super::StartMethod::Fork
    pub fn piped() -> Stdio {
        Stdio(Standard::Pipe)
    }
}

macro_rules! streams {
    ($($stream:ty)*) => {$(
        impl From<$stream> for Stdio {
            fn from(stream: $stream) -> Stdio {
                Stdio(Standard::Given(Arc::new(OwnedFd::from(stream))))
            }
        }
    )*};
}

streams! { OwnedFd File PipeReader PipeWriter UnixStream ChildStdin ChildStdout ChildStderr }
