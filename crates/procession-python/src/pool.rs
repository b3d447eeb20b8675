//! `PoolCore`: a pool of worker processes, for `procession.pool`.
//!
//! What is submitted here is a function and what it gets. In a message, behind the engine's header:
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 4 | length of the function |
//! | that many | the function, pickled; or the handle of a parcel that has it |
//! | the rest | what it gets, encoded as `pickling` does it |
//!
//! and in the tag `codec | what << 8 | CACHED | IN_PARCEL`. A result has no function, and `DONE` or
//! `FAILED` for `what`; behind `FAILED` are bytes that only Python code looks into.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use procession_engine::pool::{
    Breakage, HEADER, Job, JoinError, LaunchError, Launched, Launcher, NotRunning, Options, Phase,
    Pool, Prepared, StartError, State, Submission, SubmitError, TaskOptions,
};
use procession_engine::{ExitStatus, Handle, Outgoing, Parcel, Records, Seat, WaitError};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::arguments::Timeout;
use crate::error::{self, OrRaise, Raise};
use crate::pickling::{self, Encoded};
use crate::pool_job::JobCore;
use crate::pool_reply::FAILED;
use crate::pool_result::ApplyResult;
use crate::shared::handle_bytes;
use crate::wait;

/// What a task is: the constants of `procession._pool_results`.
pub(crate) mod kind {
    /// The call of a function with a tuple of arguments, or with None for no arguments.
    pub(crate) const CALL: u32 = 0;
    /// With one argument.
    pub(crate) const ITEM: u32 = 1;
    /// With the items of an iterable for arguments.
    pub(crate) const STAR_ITEM: u32 = 2;
    /// With each item of a chunk.
    pub(crate) const CHUNK: u32 = 3;
    /// With the items of each item of a chunk.
    pub(crate) const STAR_CHUNK: u32 = 4;
    /// With a tuple of arguments and a dict of keyword arguments.
    pub(crate) const KEYWORDS: u32 = 5;
}

/// Bits of a tag.
pub(crate) mod bits {
    pub(crate) const CODEC: u32 = 0xff;
    pub(crate) const WHAT: u32 = 8;
    pub(crate) const WHAT_MASK: u32 = 0xff;
    /// The function can't change: the worker may keep it.
    pub(crate) const CACHED: u32 = 1 << 16;
    /// The function is in a parcel of its own.
    pub(crate) const IN_PARCEL: u32 = 1 << 17;
}

/// A function longer than this is stored once, and not sent with every task.
const STORED: usize = 1024;

/// A pickled function, to be sent with tasks.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct PoolFunction {
    bytes: Vec<u8>,
    bits: u32,
    parcel: Option<Parcel>,
    /// What people call it.
    label: &'static str,
}

/// A name that is kept for good. There are as many as a program has functions; should it make them up
/// without end, the later ones go without.
fn kept_name(name: &str) -> &'static str {
    static NAMES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    const MOST: usize = 10_000;
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let names = names.get_or_insert_default();
    if let Some(known) = names.get(name) {
        return known;
    }
    if names.len() >= MOST {
        return "a function";
    }
    let kept: &'static str = String::from(name).leak();
    names.insert(kept);
    kept
}

/// What a call chooses for its tasks: how often they are tried again, and for how many seconds they may
/// run. None: as the pool has it.
type Choice = Option<(Option<u32>, Option<f64>)>;

/// Seconds as a duration; None if that is too long to matter.
fn limit(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

impl PoolFunction {
    /// Adds a task to those that are submitted together; false if it has to go by itself.
    pub(crate) fn add_task(&self, what: u32, encoded: &Encoded<'_>, tasks: &mut Records) -> bool {
        self.parcel.is_none()
            && encoded.send(|payload| {
                let tag = payload.tag | what << bits::WHAT | self.bits;
                // Longer ones are in a parcel.
                let length = (self.bytes.len() as u32).to_le_bytes();
                payload.buffers.is_empty()
                    && payload.handles.is_empty()
                    && tasks.push(tag, &[&[0; HEADER], &length, &self.bytes, payload.bytes])
            })
    }

    /// Passes a task to `send`.
    pub(crate) fn task<R>(
        &self,
        what: u32,
        encoded: &Encoded<'_>,
        send: impl FnOnce(Submission<'_>, usize) -> R,
    ) -> R {
        encoded.send(|payload| {
            let mut bytes = Vec::with_capacity(HEADER + 4 + self.bytes.len() + payload.bytes.len());
            bytes.resize(HEADER, 0);
            // Longer ones are in a parcel.
            bytes.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&self.bytes);
            bytes.extend_from_slice(payload.bytes);
            let size = bytes.len()
                + payload
                    .buffers
                    .iter()
                    .map(|buffer| buffer.len())
                    .sum::<usize>();
            let tag = payload.tag | what << bits::WHAT | self.bits;
            let Some(parcel) = &self.parcel else {
                return send(
                    Submission {
                        tag,
                        bytes: &mut bytes,
                        buffers: payload.buffers,
                        handles: payload.handles,
                    },
                    size,
                );
            };
            let handles: Vec<Handle> = payload
                .handles
                .iter()
                .copied()
                .chain([parcel.handle()])
                .collect();
            send(
                Submission {
                    tag,
                    bytes: &mut bytes,
                    buffers: payload.buffers,
                    handles: &handles,
                },
                size,
            )
        })
    }
}

/// Starts workers by asking Python code to.
struct PythonLauncher {
    /// Taken out when the pool has ended, by a thread that has the interpreter: the supervisor, which
    /// lets go of this last, does not.
    replace: Mutex<Option<Py<PyAny>>>,
}

impl PythonLauncher {
    /// Locked for a moment, and nothing of Python happens meanwhile.
    fn place(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.replace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Launcher for PythonLauncher {
    fn launch(&self, _pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
        let ending = || LaunchError {
            message: String::from("the program is ending"),
            fatal: true,
        };
        let started = Python::try_attach(|py| {
            let replace = self.place().as_ref().map(|replace| replace.clone_ref(py));
            let replace = replace.ok_or_else(ending)?;
            let worker = replace
                .call1(py, (slot,))
                .and_then(|worker| introduced(worker.bind(py)));
            worker.map_err(|error| LaunchError {
                message: error.to_string(),
                // A lack of processes or memory may pass; what else goes wrong will go wrong again.
                fatal: !error.is_instance_of::<PyOSError>(py),
            })
        });
        started.unwrap_or_else(|| Err(ending()))
    }

    fn ended(&self, _slot: u32, _worker: &Launched, _status: ExitStatus) {
        // The Python side waits for its processes itself, when it starts the next one or ends.
    }
}

fn introduced(worker: &Bound<'_, PyAny>) -> PyResult<Launched> {
    let (pid, fd, seat): (u32, RawFd, u64) = worker.extract()?;
    let pidfd = crate::descriptor::take_over(fd)?.ok_or_else(|| error::bad_descriptor(fd))?;
    let seat = Seat::from_raw(seat)
        .ok_or_else(|| PyValueError::new_err(format!("{seat} is not a seat in the family")))?;
    Ok(Launched { pid, pidfd, seat })
}

/// A pool's queues and supervisor.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct PoolCore {
    prepared: Mutex<Option<Prepared>>,
    handle: Handle,
    pool: OnceLock<Pool>,
    launcher: OnceLock<Arc<PythonLauncher>>,
    /// Of tasks without a choice.
    options: TaskOptions,
}

impl PoolCore {
    fn pool(&self) -> PyResult<&Pool> {
        self.pool
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("the pool has no workers yet"))
    }

    fn open(&self, py: Python<'_>, label: &'static str, choice: Choice) -> PyResult<Job> {
        let mut options = TaskOptions {
            label,
            ..self.options
        };
        if let Some((retries, seconds)) = choice {
            options.retries = retries.unwrap_or(options.retries);
            options.time_limit = seconds.map_or(options.time_limit, limit);
        }
        let job = self.pool()?.job_with(options);
        job.map_err(|error| not_running(py, &error))
    }
}

#[pymethods]
impl PoolCore {
    /// A pool of so many workers, which are then to be started; each ends after `max_tasks` tasks, and
    /// with `max_memory` bytes of its own, if these are not 0. Tasks are tried again `retries` times,
    /// and may run for `seconds`, if nothing else is said of them.
    #[new]
    fn new(
        py: Python<'_>,
        workers: u32,
        max_tasks: u64,
        max_memory: u64,
        retries: u32,
        seconds: Option<f64>,
    ) -> PyResult<PoolCore> {
        let options = Options {
            workers,
            max_tasks_per_worker: max_tasks.try_into().ok(),
            max_memory_per_worker: max_memory.try_into().ok(),
            is_failure: |tag| tag >> bits::WHAT & bits::WHAT_MASK == FAILED,
        };
        let prepared = Pool::prepare(options).or_raise(py)?;
        Ok(PoolCore {
            handle: prepared.handle(),
            prepared: Mutex::new(Some(prepared)),
            pool: OnceLock::new(),
            launcher: OnceLock::new(),
            options: TaskOptions {
                label: "",
                retries,
                time_limit: seconds.and_then(limit),
            },
        })
    }

    /// What a worker has to know to find the pool, 16 bytes.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        handle_bytes(py, self.handle)
    }

    /// Begins to look after the workers, given as (pid, descriptor, seat), one for each place.
    /// Takes the descriptors over. `replace(slot)` starts another and returns the same three.
    fn supervise(
        &self,
        py: Python<'_>,
        workers: Vec<Bound<'_, PyAny>>,
        replace: Py<PyAny>,
    ) -> PyResult<()> {
        let workers = workers
            .iter()
            .map(introduced)
            .collect::<PyResult<Vec<_>>>()?;
        let prepared = self
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let prepared =
            prepared.ok_or_else(|| PyRuntimeError::new_err("the pool has its workers already"))?;
        let launcher = Arc::new(PythonLauncher {
            replace: Mutex::new(Some(replace)),
        });
        let pool = prepared
            .supervise(workers, Arc::clone(&launcher) as Arc<dyn Launcher>)
            .or_raise(py)?;
        // Nobody else has set them: `prepared` was there.
        let _ = self.launcher.set(launcher);
        let _ = self.pool.set(pool);
        Ok(())
    }

    /// A function as it is sent: its pickle, whether a worker may keep what it unpickles, and its name.
    #[staticmethod]
    fn function(
        py: Python<'_>,
        pickled: &Bound<'_, PyBytes>,
        cached: bool,
        name: &str,
    ) -> PyResult<PoolFunction> {
        let label = kept_name(name);
        let bytes = pickled.as_bytes();
        let cached = if cached { bits::CACHED } else { 0 };
        if bytes.len() <= STORED {
            return Ok(PoolFunction {
                bytes: bytes.to_vec(),
                bits: cached,
                parcel: None,
                label,
            });
        }
        let parcel = Parcel::store(&Outgoing::bytes(bytes)).or_raise(py)?;
        let name = parcel.handle().to_bytes().to_vec();
        Ok(PoolFunction {
            bytes: name,
            bits: cached | bits::IN_PARCEL,
            parcel: Some(parcel),
            label,
        })
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "a Python method; all are needed on the hot path"
    )]
    /// Submits the call of a function. An exception in place of the pickled function fails it at once, and
    /// so does what `name_argument` returns for arguments that can't be pickled. The result keeps `pool`.
    fn apply<'py>(
        &self,
        py: Python<'py>,
        pool: Py<PyAny>,
        pickled: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyAny>,
        kwds: &Bound<'py, PyAny>,
        name_argument: &Bound<'py, PyAny>,
        choice: Choice,
    ) -> PyResult<ApplyResult> {
        let Ok(known) = pickled.cast::<PoolFunction>() else {
            let job = self.open(py, "", choice)?;
            return Ok(ApplyResult::failed(job, pickled.clone().unbind()));
        };
        let job = self.open(py, known.get().label, choice)?;
        let prepare = || -> PyResult<(u32, Encoded<'py>)> {
            let args = match args.cast::<PyTuple>() {
                Ok(tuple) => tuple.clone(),
                Err(_) => PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
            };
            if !kwds.is_truthy()? {
                return match args.len() {
                    // Without arguments there is nothing to pickle.
                    0 => Ok((kind::CALL, Encoded::of(py.None().bind(py))?)),
                    1 => Ok((kind::ITEM, Encoded::of(&args.get_item(0)?)?)),
                    _ => Ok((kind::CALL, Encoded::of(args.as_any())?)),
                };
            }
            let keywords = PyDict::new(py);
            keywords.update(kwds.cast()?)?;
            Ok((
                kind::KEYWORDS,
                Encoded::of((args, keywords).into_pyobject(py)?.as_any())?,
            ))
        };
        match prepare() {
            Ok((what, encoded)) => {
                let result = ApplyResult::new(job, pool, function.clone().unbind());
                result.submit(py, known.get(), what, &encoded)?;
                Ok(result)
            }
            Err(error) => {
                let named = name_argument.call1((error.into_value(py), function, args, kwds))?;
                Ok(ApplyResult::failed(job, named.unbind()))
            }
        }
    }

    /// Opens a job for a function, if that could be pickled.
    fn job(
        &self,
        py: Python<'_>,
        function: Option<Bound<'_, PoolFunction>>,
        choice: Choice,
    ) -> PyResult<JobCore> {
        let label = function.map_or("", |function| function.get().label);
        Ok(JobCore::new(self.open(py, label, choice)?))
    }

    /// Takes no more jobs; the workers end when those that are open are done.
    fn close(&self) -> PyResult<()> {
        self.pool()?.close();
        Ok(())
    }

    /// Ends all workers and fails what is not done. Returns at once.
    fn terminate(&self) {
        if let Some(pool) = self.pool.get() {
            pool.terminate();
        }
    }

    /// Waits until all workers are gone; whether they are.
    fn join(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let Some(pool) = self.pool.get() else {
            return Ok(true);
        };
        match wait::blocking(py, timeout, |patience| pool.join(patience))? {
            Ok(()) => {
                let replace = self
                    .launcher
                    .get()
                    .and_then(|launcher| launcher.place().take());
                drop(replace);
                Ok(true)
            }
            Err(JoinError::Wait(WaitError::TimedOut | WaitError::Interrupted)) => Ok(false),
            Err(error @ (JoinError::StillRunning | JoinError::Foreign)) => {
                Err(PyValueError::new_err(error.to_string()))
            }
        }
    }

    /// What the pool is up to.
    #[getter]
    fn state(&self) -> &'static str {
        match self.pool.get().map(Pool::state) {
            None => "prepared",
            Some(State::Running) => "running",
            Some(State::Closing) => "closing",
            Some(State::Terminated) => "terminated",
            Some(State::Broken) => "broken",
        }
    }

    /// Waits for the next job that has all its replies, of those that are to be announced: its
    /// number. None when there will be none any more.
    fn next_announced(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let pool = self.pool()?;
        match wait::blocking(py, Timeout::FOREVER, |patience| {
            pool.next_announced(patience)
        })? {
            Ok(number) => Ok(number),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(None),
        }
    }

    /// What each worker does: its pid and name, how far it has come, how many results it has sent, and
    /// the name of its task and for how many seconds it has run, if it has one.
    fn workers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let workers = self.pool()?.workers().into_iter().map(|worker| {
            let phase = match worker.phase {
                Phase::Starting | Phase::Empty => "starting",
                Phase::Ready => "idle",
                Phase::Leaving | Phase::Failed => "leaving",
            };
            let phase = if worker.task.is_some() {
                "running"
            } else {
                phase
            };
            let task = worker
                .task
                .map(|task| (task.label, task.since.as_secs_f64()));
            (worker.pid, worker.name, phase, worker.done, task)
        });
        PyList::new(py, workers.collect::<Vec<_>>())
    }

    /// Numbers of tasks: queued, running, done, failed, lost, timed out, cancelled, and how often one
    /// was tried again.
    fn status(&self) -> PyResult<[u64; 8]> {
        let status = self.pool()?.status();
        let totals = status.totals;
        Ok([
            status.queued,
            status.running,
            totals.done,
            totals.failed,
            totals.lost,
            totals.timed_out,
            totals.cancelled,
            totals.retried,
        ])
    }
}

/// What is raised to who submits to a pool that takes nothing.
fn not_running(py: Python<'_>, error: &NotRunning) -> PyErr {
    match error {
        NotRunning::Broken(why) => broken(py, why),
        NotRunning::Closed | NotRunning::Terminated | NotRunning::Foreign => {
            PyValueError::new_err(error.to_string())
        }
    }
}

/// The text of a breakage, and the message of the worker whose initializer failed.
pub(crate) fn breakage<'py>(
    py: Python<'py>,
    why: &Breakage,
) -> (String, Option<Bound<'py, PyBytes>>) {
    let answer = why
        .answer
        .as_ref()
        .map(|answer| PyBytes::new(py, answer.payload()));
    (why.to_string(), answer)
}

fn broken(py: Python<'_>, why: &Breakage) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let results = py.import("procession._pool_results")?;
        Ok(PyErr::from_value(
            results.call_method1("broken", breakage(py, why))?,
        ))
    };
    make().unwrap_or_else(|error| error)
}

/// Sends a task without the interpreter if that takes long enough.
pub(crate) fn submit<R: Send>(
    py: Python<'_>,
    size: usize,
    send: impl FnOnce() -> Result<R, SubmitError> + Send,
) -> PyResult<R> {
    let sent = if size >= pickling::WORTH_DETACHING {
        py.detach(send)
    } else {
        send()
    };
    sent.map_err(|error| match error {
        SubmitError::NotRunning(error) => not_running(py, &error),
        SubmitError::Memory(error) => error.raise(py),
    })
}

impl Raise for StartError {
    fn raise(self, py: Python<'_>) -> PyErr {
        let message = self.to_string();
        match self {
            StartError::Family(error) => error.raise(py),
            StartError::Memory(error) => error.raise(py),
            StartError::Count { .. } => PyValueError::new_err(message),
            StartError::System(error) => error::system(message, &error),
            _ => PyOSError::new_err(message),
        }
    }
}
