//! Whether a process that was seen before is still the same one, and still running.

#[cfg(not(miri))]
use std::fs::File;
use std::io;
#[cfg(not(miri))]
use std::io::Read;

/// What `/proc/PID/stat` says, as far as it matters here.
struct Stat {
    state: u8,
    threads: u64,
    start_time: u64,
}

/// The time at which process `pid` started, in clock ticks since boot.
///
/// With the pid it names a process for good: a recycled pid has another start time.
///
/// # Errors
/// When there is no such process, or `/proc` is not mounted.
pub fn start_time(pid: u32) -> io::Result<u64> {
    Ok(read_stat(pid)?.start_time)
}

/// Whether the process that had `pid` and `start_time` still runs. Zombies do not. A start time of 0
/// is one that could not be had: then the pid alone counts.
///
/// Dead is only who is known to be. Without `/proc`, or without a descriptor to read it with, only
/// the pid can be asked for, and a zombie or a recycled pid counts as alive.
pub fn is_alive(pid: u32, start_time: u64) -> bool {
    const NO_SUCH: [rustix::io::Errno; 2] = [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH];
    match read_stat(pid) {
        Ok(stat) => {
            let ended = matches!(stat.state, b'Z' | b'X' | b'x') && stat.threads <= 1;
            (start_time == 0 || stat.start_time == start_time) && !ended
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => true,
        Err(error)
            if rustix::io::Errno::from_io_error(&error)
                .is_some_and(|errno| NO_SUCH.contains(&errno))
                && std::path::Path::new("/proc/self/stat").exists() =>
        {
            false
        }
        Err(_) => {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            pid.is_some_and(|pid| {
                rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
            })
        }
    }
}

/// Whether the calling thread is the only one of this process, for certain.
pub fn has_one_thread() -> bool {
    read_stat(std::process::id()).is_ok_and(|stat| stat.threads == 1)
}

/// Under Miri there is this process, and no other.
#[cfg(miri)]
fn read_stat(pid: u32) -> io::Result<Stat> {
    if pid != std::process::id() {
        return Err(rustix::io::Errno::NOENT.into());
    }
    parse_stat(b"1 (miri) R 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 1 0")
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(not(miri))]
fn read_stat(pid: u32) -> io::Result<Stat> {
    let mut text = [0u8; 1024];
    // Of the process itself an emulator of programs (qemu-user) makes up what others read from the kernel; but
    // not of its first thread, of which the kernel says the same.
    let path = if pid == std::process::id() {
        format!("/proc/{pid}/task/{pid}/stat")
    } else {
        format!("/proc/{pid}/stat")
    };
    let mut file = File::open(path)?;
    let mut length = 0;
    loop {
        match file.read(&mut text[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // ESRCH: the process ended between open and read.
            Err(error) => return Err(error),
        }
        if length == text.len() {
            break;
        }
    }
    parse_stat(&text[..length]).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The program's name, in parentheses, may hold anything: count the fields after the last one.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // `state` is field 3 of the manual page, num_threads field 20, starttime field 22.
    let threads = fields.by_ref().nth(16)?.parse().ok()?;
    let start_time = fields.nth(1)?.parse().ok()?;
    Some(Stat {
        state,
        threads,
        start_time,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let line = b"42 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 7 18 1234 20";
        let stat = parse_stat(line).expect("parses");
        assert_eq!((stat.state, stat.threads, stat.start_time), (b'S', 7, 1234));
    }

    #[test]
    fn this_process_is_alive_and_another_start_time_is_not() {
        let pid = std::process::id();
        let start = start_time(pid).expect("has /proc");
        assert!(is_alive(pid, start));
        assert!(!is_alive(pid, start + 1));
    }

    #[test]
    fn others_see_the_start_time_that_a_process_sees_itself() {
        let pid = std::process::id();
        let start = start_time(pid).expect("has /proc");
        let child = crate::process::fork_running(|| i32::from(!is_alive(pid, start)));
        let pidfd = crate::process::open_pidfd(child.expect("forks")).expect("is our child");
        let pidfd = std::os::fd::AsFd::as_fd(&pidfd);
        let ended = crate::poll::readable(pidfd, Some(std::time::Duration::from_secs(20)));
        assert!(ended.expect("polls"), "did not end");
        let end = crate::process::try_wait(pidfd, true).expect("is ours");
        assert_eq!(end, Some(crate::process::Ended::Exited(0)));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().expect("spawns");
        let start = start_time(child.id()).expect("was there");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_alive(child.id(), start) {
            assert!(std::time::Instant::now() < deadline, "still alive");
            std::thread::yield_now();
        }
        child.wait().expect("waits");
        assert!(!is_alive(child.id(), start));
    }
}
