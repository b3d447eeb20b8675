//! Processes: starting programs, watching and ending processes by pidfd, forking.
//!
//! A pid is a number that the kernel gives out again; a **pidfd** is the process itself. Everything
//! here that acts on another process takes a pidfd, so it can't hit a stranger.

mod fork;
mod inherited;
mod limits;
mod signals;
mod spawn;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};

pub use fork::{Alone, Forked, exit_now, fork, fork_running};
pub use inherited::{claim_inherited, duplicate, is_open};
pub use limits::{
    ALARM, Resource, add_niceness, clock, end_at, join_process_group, limit, new_session, set_limit,
};
pub use signals::{
    BlockedSignals, SavedSignal, Signals, block_all_signals, ignore_signal, reset_signal,
    restore_signal,
};
pub use spawn::{Program, Spawned, abandon, spawn};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called `exit` with this code (0 to 255).
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal ended it, and its memory was written to a file, or to whoever takes such.
    Dumped(i32),
}

/// A descriptor of process `pid`, close-on-exec. It becomes readable when the process has ended.
///
/// Race-free only for a child that nobody has waited for yet: until then its pid is not given out
/// again, whether it still runs or not.
///
/// # Errors
/// `ESRCH` when there is no such process; `Unsupported` with an explanation when the kernel has no
/// pidfds.
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| needs("pidfd_open", "5.3", error.into()))
}

/// Says which kernel has the call, if it is the kernel that lacks it.
fn needs(call: &str, version: &str, error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(libc::ENOSYS) {
        let text = format!(
            "this kernel has no {call} (Linux {version} or later is needed, and no filter that forbids it)"
        );
        return io::Error::new(io::ErrorKind::Unsupported, text);
    }
    error
}

/// Whether and how the child behind `pidfd` has ended; `None` while it runs. Does not block.
///
/// With `reap` the kernel then forgets the child, and the next call is `ECHILD`; without it may be
/// asked again.
///
/// # Errors
/// `ECHILD` when it is no child of this process, or has been waited for (or the program ignores
/// SIGCHLD, which lets the kernel forget children at once).
pub fn try_wait(pidfd: BorrowedFd<'_>, reap: bool) -> io::Result<Option<Ended>> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd())
        .map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    wait_id(id, reap).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => {
            let missing = io::Error::from_raw_os_error(libc::ENOSYS);
            needs("waitid for pidfds", "5.4", missing)
        }
        _ => error,
    })
}

fn wait_id(pidfd: libc::id_t, reap: bool) -> io::Result<Option<Ended>> {
    let keep = if reap { 0 } else { libc::WNOWAIT };
    loop {
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | keep;
        // SAFETY: `info` is a siginfo_t to write to; the other arguments are numbers.
        let result = unsafe { libc::waitid(libc::P_PIDFD, pidfd, info.as_mut_ptr(), options) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        // SAFETY: all zeros is a siginfo_t, and the call succeeded.
        let info = unsafe { info.assume_init() };
        // SAFETY: waitid fills the fields of a SIGCHLD, or leaves the zeros.
        if unsafe { info.si_pid() } == 0 {
            return Ok(None);
        }
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        return Ok(Some(match info.si_code {
            libc::CLD_EXITED => Ended::Exited(status),
            libc::CLD_DUMPED => Ended::Dumped(status),
            _ => Ended::Killed(status),
        }));
    }
}

/// Sends a signal to the process behind `pidfd`; signal 0 only asks whether one could.
///
/// # Errors
/// `ESRCH` when it has ended and been waited for, `EINVAL` for what is no signal, `EPERM`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: the descriptor is borrowed, a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            none,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(needs(
            "pidfd_send_signal",
            "5.1",
            io::Error::last_os_error(),
        ))
    }
}

/// Ends this process by SIGKILL, as `kill -9` from outside would.
pub fn kill_self() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    exit_now(255)
}

/// The process that the kernel has as this one's parent; 0 if it is outside of the pid namespace.
pub fn parent_id() -> u32 {
    std::os::unix::process::parent_id()
}

/// Has the kernel send SIGKILL to this process when the **thread** that created it ends.
///
/// Only for a thread that lives as long as its process. Not inherited by children. The caller
/// looks at [`parent_id`] afterwards: a parent that had ended before is not noticed.
///
/// # Errors
/// The kernel's.
pub fn die_with_parent_thread() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}

/// Whether this process is a child of the main thread of process `parent`, says the kernel.
///
/// False also when it does not say: no `/proc`, or built without lists of children.
pub fn is_child_of_main_thread(parent: u32) -> bool {
    let Ok(children) = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
    else {
        return false;
    };
    let me = std::process::id();
    children
        .split_ascii_whitespace()
        .any(|pid| pid.parse() == Ok(me))
}

/// Names the calling thread; for the main thread this is the name of the process in `ps` and `top`.
/// Cut to 15 bytes.
pub fn set_name(name: &str) {
    let mut end = name.len().min(15);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    if let Ok(name) = CString::new(&name[..end]) {
        // A name is a convenience: nothing depends on it.
        let _ = rustix::thread::set_name(&name);
    }
}

/// A descriptor of the working directory, which may have no path any more.
///
/// # Errors
/// When the directory can't be opened.
pub fn open_working_directory() -> io::Result<OwnedFd> {
    open_directory(Path::new("."))
}

/// A descriptor of a directory, good for [`change_directory`] and not for reading it.
///
/// # Errors
/// When it is not there, is none, or may not be used.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Makes the directory behind `folder` the working directory.
///
/// # Errors
/// The kernel's.
pub fn change_directory(folder: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::fchdir(folder)?)
}

/// The mask of permissions that new files don't get. Asked of `/proc`, because asking the kernel
/// would change it for a moment; `None` if that does not say.
pub fn file_mask() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// Sets the mask of permissions that new files don't get.
pub fn set_file_mask(mask: u32) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask & 0o777));
}

/// Makes `source` the standard input, output or error (0, 1, 2) of this process.
///
/// # Errors
/// The kernel's; `InvalidInput` for another number.
pub fn replace_standard(number: u32, source: BorrowedFd<'_>) -> io::Result<()> {
    match number {
        0 => rustix::stdio::dup2_stdin(source)?,
        1 => rustix::stdio::dup2_stdout(source)?,
        2 => rustix::stdio::dup2_stderr(source)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::poll;

    fn start(script: &str) -> Spawned {
        let args = [
            c"sh".into(),
            c"-c".into(),
            CString::new(script).expect("no nul"),
        ];
        spawn(&Program {
            path: c"/bin/sh",
            args: &args,
            env: &[],
            inherit: &[],
            standard: [None; 3],
            folder: None,
            blocked: &[],
        })
        .expect("starts")
    }

    fn ended(child: &Spawned) -> Ended {
        assert!(
            poll::readable(child.pidfd.as_fd(), Some(Duration::from_secs(10))).expect("polls"),
            "did not end"
        );
        let seen = try_wait(child.pidfd.as_fd(), false)
            .expect("is ours")
            .expect("has ended");
        assert_eq!(
            try_wait(child.pidfd.as_fd(), true).expect("is still ours"),
            Some(seen)
        );
        assert!(try_wait(child.pidfd.as_fd(), true).is_err(), "is forgotten");
        seen
    }

    #[test]
    fn codes_and_signals_are_told_apart() {
        assert_eq!(ended(&start("exit 7")), Ended::Exited(7));
        let sleeper = start("exec sleep 60");
        assert_eq!(
            try_wait(sleeper.pidfd.as_fd(), true).expect("is ours"),
            None
        );
        send_signal(sleeper.pidfd.as_fd(), libc::SIGTERM).expect("is there");
        assert_eq!(ended(&sleeper), Ended::Killed(libc::SIGTERM));
        let error = send_signal(sleeper.pidfd.as_fd(), libc::SIGTERM).expect_err("is gone");
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_missing_feature_is_named() {
        let error = needs(
            "pidfd_open",
            "5.3",
            io::Error::from_raw_os_error(libc::ENOSYS),
        );
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("pidfd_open") && error.to_string().contains("5.3"),
            "{error}"
        );
        let other = needs(
            "pidfd_open",
            "5.3",
            io::Error::from_raw_os_error(libc::ESRCH),
        );
        assert_eq!(other.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_pid_that_is_nobodys_has_no_pidfd() {
        assert_eq!(
            open_pidfd(0).expect_err("0 is nobody").raw_os_error(),
            Some(libc::ESRCH)
        );
        assert!(open_pidfd(u32::MAX).is_err());
    }

    #[test]
    fn names_are_cut_at_a_character() {
        std::thread::spawn(|| {
            set_name("aaaaaaaaaaaaaaéb");
            let tid = crate::thread::id();
            let name =
                std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).expect("has /proc");
            assert_eq!(name.trim_end(), "aaaaaaaaaaaaaa");
            set_name("nul\0inside");
        })
        .join()
        .expect("ends well");
    }
}
