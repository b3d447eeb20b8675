//! Replies of a pool, as Python sees them.

use procession_engine::pool::{HEADER, Job, Loss, Reply};
use procession_engine::{ExitStatus, WaitError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::arguments::Timeout;
use crate::pickling;
use crate::pool::{self, bits};
use crate::wait;

/// What a reply is: the constants of `procession._pool_results`.
pub(crate) const DONE: u32 = 0;
pub(crate) const FAILED: u32 = 1;
const LOST: u32 = 2;
const BROKEN: u32 = 3;
const TERMINATED: u32 = 4;
/// An exception of this process: the task, or its result, could not be pickled or unpickled.
pub(crate) const LOCAL: u32 = 5;
const POISON: u32 = 6;
const TIMED_OUT: u32 = 7;
const CANCELLED: u32 = 8;

/// A reply as Python sees it.
pub(crate) struct Told {
    pub(crate) status: u32,
    pub(crate) value: Py<PyAny>,
    /// Bytes of an answer.
    pub(crate) size: Option<usize>,
}

impl Told {
    /// What goes wrong with a reply becomes what it came to.
    pub(crate) fn of(py: Python<'_>, reply: Reply) -> Told {
        let mut size = None;
        let (status, value) = converted(py, reply, &mut size)
            .unwrap_or_else(|error| (LOCAL, error.into_value(py).into_any()));
        Told {
            status,
            value,
            size,
        }
    }
}

/// The next reply of a job; `Err` if there is none in the time given.
pub(crate) fn next(
    job: &Job,
    py: Python<'_>,
    timeout: Timeout,
) -> PyResult<Result<Option<(u64, Reply)>, WaitError>> {
    let attempt = || job.next(&mut Timeout::ZERO.patience()).ok();
    if let Some(reply) = attempt() {
        return Ok(Ok(reply));
    }
    if timeout.is_zero() {
        return Ok(Err(WaitError::TimedOut));
    }
    match wait::spin(attempt) {
        Some(reply) => Ok(Ok(reply)),
        None => wait::blocking(py, timeout, |patience| job.next(patience)),
    }
}

/// Cancels what has not begun, and stops what is running, if that is wanted: how many tasks were kept from
/// beginning, and how many had begun.
pub(crate) fn cancel(job: &Job, py: Python<'_>, running_too: bool) -> PyResult<(u64, u64)> {
    match wait::blocking(py, Timeout::FOREVER, |patience| {
        job.cancel(running_too, patience)
    })? {
        Ok(cancelled) => Ok((cancelled.prevented, cancelled.running)),
        Err(WaitError::TimedOut | WaitError::Interrupted) => Ok((0, 0)),
    }
}

fn converted(py: Python<'_>, reply: Reply, size: &mut Option<usize>) -> PyResult<(u32, Py<PyAny>)> {
    match reply {
        Reply::Done(answer) => {
            if answer.is_short() {
                let (tag, payload) = (answer.tag(), answer.payload());
                let found = tag >> bits::WHAT & bits::WHAT_MASK == DONE;
                if found
                    && let Some(value) = pickling::decode_scalar(py, tag & bits::CODEC, payload)
                {
                    *size = Some(HEADER + payload.len());
                    return Ok((DONE, value.unbind()));
                }
            }
            let mut message = answer.into_message();
            let buffers = message.buffers.iter().map(|block| block.len());
            *size = Some(message.bytes.len() + buffers.sum::<usize>());
            if message.tag >> bits::WHAT & bits::WHAT_MASK == FAILED {
                let bytes = message.bytes.get(HEADER..).unwrap_or_default();
                return Ok((FAILED, PyBytes::new(py, bytes).into_any().unbind()));
            }
            message.tag &= bits::CODEC;
            match pickling::decode_from(py, message, HEADER) {
                Ok(value) => Ok((DONE, value.unbind())),
                Err(error) => {
                    let exception = error.into_value(py);
                    // Some exceptions allow no notes.
                    let note =
                        "The task was done, but its result could not be rebuilt in this process.";
                    let _ = exception.bind(py).call_method1("add_note", (note,));
                    Ok((LOCAL, exception.into_any()))
                }
            }
        }
        Reply::Lost(loss) => Ok((LOST, told(py, &loss)?)),
        Reply::Poison(losses) => {
            let losses = losses.iter().map(|loss| told(py, loss));
            let losses = PyList::new(py, losses.collect::<PyResult<Vec<_>>>()?)?;
            Ok((POISON, losses.into_any().unbind()))
        }
        Reply::TimedOut(overrun) => {
            let told = (overrun.pid, overrun.name, overrun.limit.as_secs_f64());
            Ok((TIMED_OUT, told.into_pyobject(py)?.into_any().unbind()))
        }
        Reply::Cancelled => Ok((CANCELLED, py.None())),
        Reply::Broken(why) => Ok((
            BROKEN,
            pool::breakage(py, &why)
                .into_pyobject(py)?
                .into_any()
                .unbind(),
        )),
        Reply::Terminated => Ok((TERMINATED, py.None())),
    }
}

/// A loss as Python sees it: pid, exit code if that is known, the worker's name, whether memory ran out,
/// and what can be done.
fn told(py: Python<'_>, loss: &Loss) -> PyResult<Py<PyAny>> {
    let code = match loss.status {
        ExitStatus::Unknown => None,
        status => Some(status.code_like_python()),
    };
    let told = (
        loss.pid,
        code,
        loss.name.as_str(),
        loss.out_of_memory,
        loss.advice(),
    );
    Ok(told.into_pyobject(py)?.into_any().unbind())
}
