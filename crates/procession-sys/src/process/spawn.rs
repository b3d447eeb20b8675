//! Starting a program without copying this process.
//!
//! `posix_spawn` shares the memory of the parent until the new program runs (as vfork does), so it
//! costs the same with 1 MiB in use as with 100 GiB. A fork copies the page tables: 45 ms per GiB.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use super::{Signals, open_pidfd};

/// A program to start.
#[derive(Debug, Clone, Copy)]
pub struct Program<'a> {
    /// Its path; the search path is not looked at. A relative one counts from `folder`.
    pub path: &'a CStr,
    /// Its arguments, its own name first.
    pub args: &'a [CString],
    /// Its environment, `NAME=value` each.
    pub env: &'a [CString],
    /// Descriptors that it gets, at the same numbers. Of the others it gets those that are not
    /// close-on-exec.
    pub inherit: &'a [RawFd],
    /// What it gets as its standard input, output and error; `None` is this process's. Numbers above
    /// the standard three.
    pub standard: [Option<BorrowedFd<'a>>; 3],
    /// Its working directory, if not this process's.
    pub folder: Option<&'a CStr>,
    /// The signals that it starts with blocked; no others.
    pub blocked: &'a [i32],
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid.
    pub pid: u32,
    /// The process itself: readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Starts `program`. It blocks the signals that are given, and SIGPIPE and SIGXFSZ, which runtimes like to ignore,
/// do what they do by default; what else this process ignores, it ignores.
///
/// The pidfd is opened after the start. That is no race: a child's pid is not given out again
/// before somebody waits for the child, and nobody knows of it yet. (A program that waits for *any*
/// child in another thread, or ignores SIGCHLD, breaks this; then the call may fail with `ESRCH`.)
///
/// # Errors
/// Of the system, from finding the program up to `EBADF` for a descriptor that is not open. No
/// process is left behind.
pub fn spawn(program: &Program<'_>) -> io::Result<Spawned> {
    let mut actions = Actions::new()?;
    if let Some(folder) = program.folder {
        actions.change_directory(folder)?;
    }
    for &fd in program.inherit {
        actions.keep(fd)?;
    }
    for (number, fd) in (0..).zip(program.standard) {
        if let Some(fd) = fd {
            actions.replace(number, fd)?;
        }
    }
    let attributes = Attributes::new(program.blocked)?;
    let args = pointers(program.args);
    let env = pointers(program.env);
    let mut pid = 0;
    // SAFETY: path, actions and attributes are valid and initialised; both arrays end with a null
    // pointer and point to strings that outlive the call, which does not write to them.
    let result = unsafe {
        libc::posix_spawn(
            &mut pid,
            program.path.as_ptr(),
            &actions.0,
            &attributes.0,
            args.as_ptr(),
            env.as_ptr(),
        )
    };
    check(result)?;
    let pid = pid.unsigned_abs();
    match open_pidfd(pid) {
        Ok(pidfd) => Ok(Spawned { pid, pidfd }),
        Err(error) => {
            abandon(pid);
            Err(error)
        }
    }
}

/// Ends a child of this process that can't be watched, and that nobody has waited for.
pub fn abandon(pid: u32) {
    if let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // The pid is still our child's, as said above.
        if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok() {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut raw = std::mem::MaybeUninit::uninit();
        // SAFETY: `raw` is the place to initialise.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call has initialised it.
        Ok(Actions(unsafe { raw.assume_init() }))
    }

    fn change_directory(&mut self, folder: &CStr) -> io::Result<()> {
        // SAFETY: initialised actions; the string is copied.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, folder.as_ptr()) })
    }

    /// Duplicating a descriptor onto itself means here: without close-on-exec.
    fn keep(&mut self, fd: RawFd) -> io::Result<()> {
        // SAFETY: initialised actions and a number.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, fd, fd) })
    }

    fn replace(&mut self, number: RawFd, fd: BorrowedFd<'_>) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        // SAFETY: initialised actions and two numbers.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, fd, number) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new(blocked: &[i32]) -> io::Result<Attributes> {
        let mut raw = std::mem::MaybeUninit::uninit();
        // SAFETY: `raw` is the place to initialise.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: the call has initialised it.
        let mut attributes = Attributes(unsafe { raw.assume_init() });
        let blocked = Signals::of(blocked);
        // SAFETY: initialised attributes and signal set; the set is copied.
        check(unsafe { libc::posix_spawnattr_setsigmask(&mut attributes.0, blocked.as_ptr()) })?;
        let default = Signals::of(&[libc::SIGPIPE, libc::SIGXFSZ]);
        // SAFETY: as above.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&mut attributes.0, default.as_ptr()) })?;
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: initialised attributes; the flags fit.
        check(unsafe {
            libc::posix_spawnattr_setflags(&mut attributes.0, flags as libc::c_short)
        })?;
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialised, and not used again.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};
    use std::time::Duration;

    use super::super::{Ended, try_wait};
    use super::*;
    use crate::{poll, socket};

    fn sh(script: &str, inherit: &[RawFd], folder: Option<&CStr>) -> io::Result<Spawned> {
        let args = [
            c"sh".into(),
            c"-c".into(),
            CString::new(script).expect("no nul"),
        ];
        let env = [c"MARK=here".into()];
        spawn(&Program {
            path: c"/bin/sh",
            args: &args,
            env: &env,
            inherit,
            standard: [None; 3],
            folder,
            blocked: &[],
        })
    }

    fn code(child: &Spawned) -> Ended {
        assert!(poll::readable(child.pidfd.as_fd(), Some(Duration::from_secs(10))).expect("polls"));
        try_wait(child.pidfd.as_fd(), true)
            .expect("is ours")
            .expect("has ended")
    }

    #[test]
    fn descriptors_stay_at_their_numbers_and_others_do_not_leak() {
        let (read, write) = socket::pipe().expect("pipe");
        let (_hidden, other) = socket::pipe().expect("pipe");
        let script = format!(
            "exec > /proc/self/fd/{0}; pwd; echo $MARK; if [ -e /proc/self/fd/{1} ]; then echo leaked; fi",
            write.as_raw_fd(),
            other.as_raw_fd()
        );
        let child = sh(&script, &[write.as_raw_fd()], Some(c"/usr")).expect("starts");
        drop(write);
        assert_eq!(code(&child), Ended::Exited(0));
        let mut text = String::new();
        std::fs::File::from(read)
            .read_to_string(&mut text)
            .expect("reads");
        assert_eq!(text, "/usr\nhere\n");
        assert!(
            rustix::io::fcntl_getfd(&other)
                .expect("open")
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
    }

    #[test]
    fn the_child_blocks_no_signal() {
        let child = std::thread::spawn(|| {
            super::super::block_all_signals();
            sh(
                "grep -q 'SigBlk:.*0000000000000000' /proc/self/status",
                &[],
                None,
            )
        });
        let child = child.join().expect("ends well").expect("starts");
        assert_eq!(code(&child), Ended::Exited(0));
    }

    #[test]
    fn sigpipe_does_what_it_does_by_default() {
        // The test process ignores it, as every Rust program does.
        let child = sh("kill -PIPE $$; exit 3", &[], None).expect("starts");
        assert_eq!(code(&child), Ended::Killed(libc::SIGPIPE));
    }

    #[test]
    fn errors_are_reported_and_leave_no_child() {
        let program = Program {
            path: c"/no/such/program",
            args: &[],
            env: &[],
            inherit: &[],
            standard: [None; 3],
            folder: None,
            blocked: &[],
        };
        assert_eq!(
            spawn(&program).expect_err("not there").kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(
            sh("true", &[987], None)
                .expect_err("not open")
                .raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(sh("true", &[], Some(c"/no/such/folder")).is_err());
    }
}
