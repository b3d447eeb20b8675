//! The family of processes, for the Python code that starts and ends them.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use procession_engine::process::{self, SpawnRequest};
use procession_engine::{self as engine, Role, Seat};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::arguments::SystemText;
use crate::descriptor;
use crate::error::{self, OrRaise};

pub(crate) fn seat(number: u64) -> PyResult<Seat> {
    Seat::from_raw(number)
        .ok_or_else(|| PyValueError::new_err(format!("{number} is not a seat in the family")))
}

fn role(name: &str) -> PyResult<Role> {
    match name {
        "process" => Ok(Role::Process),
        "worker" => Ok(Role::Worker),
        "forkserver" => Ok(Role::ForkServer),
        "server" => Ok(Role::Server),
        _ => Err(PyValueError::new_err(format!(
            "{name:?} is not a role: it is one of 'process', 'worker', 'forkserver', 'server'"
        ))),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Root => "root",
        Role::Process => "process",
        Role::Worker => "worker",
        Role::ForkServer => "forkserver",
        Role::Server => "server",
        _ => "other",
    }
}

/// The descriptor of the family's memory, which a child joins by. Close-on-exec.
#[pyfunction]
pub(crate) fn arena_fd(py: Python<'_>) -> PyResult<RawFd> {
    Ok(engine::family().or_raise(py)?.arena_fd().as_raw_fd())
}

/// Joins the family of the parent: the first thing that a child does which was started by executing
/// a program. Takes the descriptor over.
#[pyfunction]
pub(crate) fn join_family(py: Python<'_>, fd: RawFd, seat: u64) -> PyResult<()> {
    let seat = self::seat(seat)?;
    let fd = descriptor::take_over(fd)?.ok_or_else(|| error::bad_descriptor(fd))?;
    // It came through an exec; the children of this process are told of it when they are started.
    let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
    engine::join_family(fd, seat).or_raise(py)
}

/// Keeps a place in the family for a child that is about to be started.
#[pyfunction]
pub(crate) fn prepare_child(py: Python<'_>, name: &str, role: &str) -> PyResult<u64> {
    engine::prepare_child(name, self::role(role)?)
        .or_raise(py)
        .map(Seat::to_raw)
}

/// The child was not started: its place is free again.
#[pyfunction]
pub(crate) fn cancel_child(seat: u64) -> PyResult<()> {
    engine::cancel_child(self::seat(seat)?);
    Ok(())
}

/// The child was started as process `pid`.
#[pyfunction]
pub(crate) fn child_started(seat: u64, pid: u32) -> PyResult<()> {
    engine::child_started(self::seat(seat)?, pid);
    Ok(())
}

/// The calling thread is about to fork: the child takes this seat.
#[pyfunction]
pub(crate) fn fork_with(seat: u64) -> PyResult<()> {
    engine::fork_with(self::seat(seat)?);
    Ok(())
}

/// The calling thread is about to fork a spare, which has no place in the family yet.
#[pyfunction]
pub(crate) fn fork_spare() {
    engine::fork_spare();
}

/// A spare of this process is to take this seat: it is given all that this process holds.
#[pyfunction]
pub(crate) fn lend_to(seat: u64) -> PyResult<()> {
    engine::lend_to(self::seat(seat)?);
    Ok(())
}

/// This process, a spare until now, takes its place in the family.
#[pyfunction]
pub(crate) fn take_seat(py: Python<'_>, seat: u64) -> PyResult<()> {
    engine::take_seat(self::seat(seat)?).or_raise(py)
}

/// The fork is over, in the parent, or it failed.
#[pyfunction]
pub(crate) fn fork_done() {
    engine::fork_done();
}

/// This process ends in good order: what it holds in shared memory goes back now.
#[pyfunction]
pub(crate) fn leave(py: Python<'_>) {
    py.detach(crate::watch::linger);
    engine::leave();
}

/// A child was seen to have ended, with this exit code if that is known: what it held goes back.
#[pyfunction]
#[pyo3(signature = (seat, code = None))]
pub(crate) fn reap(seat: u64, code: Option<i32>) -> PyResult<()> {
    let seat = self::seat(seat)?;
    if let Some(code) = code {
        engine::collected(seat, code);
    }
    engine::reap(seat.member());
    Ok(())
}

/// Writes down how a child ended that is not the kernel's child of whoever waits for it.
#[pyfunction]
pub(crate) fn note_exit(seat: u64, code: i32) -> PyResult<()> {
    engine::note_exit(self::seat(seat)?, code);
    Ok(())
}

/// What `note_exit` wrote down, if it has been called.
#[pyfunction]
pub(crate) fn exit_status(seat: u64) -> PyResult<Option<i32>> {
    // The lowest number there is stands for a child that has only begun.
    Ok(engine::exit_status(self::seat(seat)?).filter(|&code| code != i32::MIN))
}

/// This process is killed when process `pid` ends, however that ends.
#[pyfunction]
pub(crate) fn die_with(py: Python<'_>, pid: u32) -> PyResult<()> {
    process::die_with(pid).or_raise(py)
}

/// All members of the family, those that have died and are not yet cleared away included.
#[pyfunction]
pub(crate) fn members(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let members = engine::family()
        .or_raise(py)?
        .members()
        .into_iter()
        .map(|member| {
            let entry = PyDict::new(py);
            entry.set_item("id", member.id.to_raw())?;
            entry.set_item("pid", member.pid)?;
            entry.set_item("name", member.name)?;
            entry.set_item("role", role_name(member.role))?;
            entry.set_item("parent", member.parent.map(|parent| parent.to_raw()))?;
            entry.set_item("alive", member.alive)?;
            Ok(entry)
        });
    PyList::new(py, members.collect::<PyResult<Vec<_>>>()?)
}

/// Starts a program as a child of this process, and returns its pid and a descriptor for it (pidfd).
///
/// `args` are those after the program's own name. The descriptors `fds` are open in it at the same numbers; of the others, those that are not
/// close-on-exec. `env` is a list of `b"NAME=value"`, by default a copy of this process's. It starts with the signals `blocked`
/// blocked.
#[pyfunction]
#[pyo3(signature = (executable, args, fds, env=None, blocked=Vec::new()), text_signature = "(executable, args, fds, env=None, blocked=())")]
pub(crate) fn spawn(
    py: Python<'_>,
    executable: SystemText,
    args: Vec<SystemText>,
    fds: Vec<RawFd>,
    env: Option<Vec<SystemText>>,
    blocked: Vec<i32>,
) -> PyResult<(u32, RawFd)> {
    let env = match env {
        Some(env) => Some(env.into_iter().map(setting).collect::<PyResult<_>>()?),
        None => Some(current_environment(py)?),
    };
    let request = SpawnRequest {
        args: std::iter::once(executable.0.clone())
            .chain(args.into_iter().map(|arg| arg.0))
            .collect(),
        program: executable.0.into(),
        env,
        inherit: fds,
        cwd: None,
        blocked,
    };
    let spawned = py.detach(|| process::spawn(&request)).map_err(|error| {
        error::system(
            format!("{} can't be started: {error}", request.program.display()),
            &error,
        )
    })?;
    Ok((spawned.pid, spawned.pidfd.into_raw_fd()))
}

type Setting = (std::ffi::OsString, std::ffi::OsString);

fn setting(text: SystemText) -> PyResult<Setting> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = text.0.as_bytes();
    // A name may begin with "=", as some shells make them.
    let at = bytes
        .iter()
        .skip(1)
        .position(|&byte| byte == b'=')
        .map(|at| at + 1);
    let at = at.ok_or_else(|| {
        PyValueError::new_err(format!("{:?} is not of the form NAME=value", text.0))
    })?;
    let part = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
    Ok((part(&bytes[..at]), part(&bytes[at + 1..])))
}

/// The environment as Python sees it, which is what its programs change. (The process's own may be
/// changed by another thread in the middle of reading it.)
fn current_environment(py: Python<'_>) -> PyResult<Vec<Setting>> {
    let environ = py.import("os")?.getattr("environb")?;
    let items = environ.call_method0("items")?;
    items
        .try_iter()?
        .map(|item| {
            item?
                .extract()
                .map(|(name, value): (SystemText, SystemText)| (name.0, value.0))
        })
        .collect()
}
