//! How a process ended.

use std::fmt;

use procession_sys::process::Ended;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody knows: the one process that the kernel tells is gone, or somebody else asked first.
    Unknown,
}

impl ExitStatus {
    /// The number that Python has for it: the code, the signal's number below zero, or 255.
    pub fn code_like_python(self) -> i32 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => -signal,
            ExitStatus::Unknown => 255,
        }
    }

    /// Of what is [noted](note) in a child's entry.
    pub(crate) fn from_noted(noted: i32) -> ExitStatus {
        if noted < 0 {
            ExitStatus::Signal(-noted % DUMPED)
        } else {
            ExitStatus::Code(noted)
        }
    }

    /// The name of the signal that ended it, such as `SIGKILL`. Real-time signals have none.
    pub fn signal_name(self) -> Option<&'static str> {
        match self {
            ExitStatus::Signal(signal) => signal_name(signal),
            _ => None,
        }
    }

    /// Whether it ended by itself, with code 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

impl From<Ended> for ExitStatus {
    fn from(ended: Ended) -> ExitStatus {
        ExitStatus::from_noted(note(ended))
    }
}

/// Stands with a noted signal when memory was dumped. Signals are below.
const DUMPED: i32 = 128;

/// How a child ended, as one number for its entry: the code, or the signal's number below zero.
pub(crate) fn note(ended: Ended) -> i32 {
    match ended {
        Ended::Exited(code) => code,
        Ended::Killed(signal) => -signal,
        Ended::Dumped(signal) => -(signal + DUMPED),
    }
}

/// Whether the child left an image of its memory, by what is [noted](note).
pub(crate) fn noted_dump(noted: i32) -> bool {
    noted < -DUMPED
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => match signal_name(signal) {
                Some(name) => write!(f, "killed by {name}"),
                None => write!(f, "killed by signal {signal}"),
            },
            ExitStatus::Unknown => f.write_str("ended, nobody knows how"),
        }
    }
}

/// The names that Linux gives to signals on all the machines we run on.
fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "SIGHUP",
        "SIGINT",
        "SIGQUIT",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
        "SIGBUS",
        "SIGFPE",
        "SIGKILL",
        "SIGUSR1",
        "SIGSEGV",
        "SIGUSR2",
        "SIGPIPE",
        "SIGALRM",
        "SIGTERM",
        "SIGSTKFLT",
        "SIGCHLD",
        "SIGCONT",
        "SIGSTOP",
        "SIGTSTP",
        "SIGTTIN",
        "SIGTTOU",
        "SIGURG",
        "SIGXCPU",
        "SIGXFSZ",
        "SIGVTALRM",
        "SIGPROF",
        "SIGWINCH",
        "SIGIO",
        "SIGPWR",
        "SIGSYS",
    ];
    usize::try_from(signal)
        .ok()?
        .checked_sub(1)
        .and_then(|index| NAMES.get(index).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_python_and_come_back() {
        for status in [
            ExitStatus::Code(0),
            ExitStatus::Code(255),
            ExitStatus::Signal(9),
        ] {
            assert_eq!(ExitStatus::from_noted(status.code_like_python()), status);
        }
        for (ended, status, dumped) in [
            (Ended::Exited(255), ExitStatus::Code(255), false),
            (Ended::Killed(64), ExitStatus::Signal(64), false),
            (Ended::Dumped(1), ExitStatus::Signal(1), true),
            (Ended::Dumped(64), ExitStatus::Signal(64), true),
        ] {
            let noted = note(ended);
            let read = (ExitStatus::from_noted(noted), noted_dump(noted));
            assert_eq!(read, (status, dumped));
        }
        assert_eq!(ExitStatus::Signal(15).code_like_python(), -15);
        assert!(ExitStatus::Code(0).success() && !ExitStatus::Unknown.success());
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(ExitStatus::Signal(9).to_string(), "killed by SIGKILL");
        assert_eq!(ExitStatus::Signal(11).to_string(), "killed by SIGSEGV");
        assert_eq!(ExitStatus::Signal(31).to_string(), "killed by SIGSYS");
        assert_eq!(ExitStatus::Signal(34).to_string(), "killed by signal 34");
        assert_eq!(ExitStatus::Signal(0).to_string(), "killed by signal 0");
    }
}
