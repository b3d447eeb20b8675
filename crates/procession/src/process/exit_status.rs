//! How a process ended.

use std::fmt;

use crate::engine;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub(crate) engine::ExitStatus);

impl ExitStatus {
    /// Whether it ended by itself, with exit code 0.
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    /// The exit code, if it ended by itself. A panic in its function makes it 101.
    pub fn code(self) -> Option<i32> {
        match self.0 {
            engine::ExitStatus::Code(code) => Some(code),
            _ => None,
        }
    }

    /// The signal that ended it, if one did.
    pub fn signal(self) -> Option<i32> {
        match self.0 {
            engine::ExitStatus::Signal(signal) => Some(signal),
            _ => None,
        }
    }

    /// The name of that signal, such as `SIGKILL`. Real-time signals have none.
    pub fn signal_name(self) -> Option<&'static str> {
        self.0.signal_name()
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
