//! `WorkerCore`: the loop of a pool's worker.

use std::collections::HashMap;
use std::time::Duration;

use procession_engine::pool::{AttachError, HEADER, ShortTask, Submission, Task, TaskId, Worker};
use procession_engine::{Handle, Message, Parcel};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::arguments::{HandleBytes, Timeout};
use crate::error::{self, OrRaise, Raise};
use crate::imported::Imported;
use crate::pickling::{self, Encoded, Scalar};
use crate::pool::{bits, kind};
use crate::pool_reply::{DONE, FAILED};
use crate::wait;

/// Functions that a worker keeps.
const KEPT: usize = 1024;
/// The memory of a result longer than this is not kept for the next.
const LONG: usize = 64 << 10;
/// When there is no memory even for the word that there is no memory, it is tried again after this.
const PAUSE: Duration = Duration::from_millis(20);

/// A worker of a pool, in its process.
#[pyclass(module = "procession._procession")]
pub(crate) struct WorkerCore {
    worker: Option<Worker>,
    functions: HashMap<Vec<u8>, Py<PyAny>>,
    /// The one that was called last, if it is kept.
    last: Option<(Vec<u8>, Py<PyAny>)>,
    /// Where short tasks lie.
    short: Box<ShortTask>,
    /// What results are put together in.
    bytes: Vec<u8>,
}

/// What a task has come to.
enum Outcome<'py> {
    Value(Bound<'py, PyAny>),
    /// The function raised.
    Failed(PyErr, Bound<'py, PyAny>),
    /// There was nothing to call, or nothing to call it with.
    NotRebuilt(PyErr),
}

impl<'py> Outcome<'py> {
    fn of_call(function: Bound<'py, PyAny>, what: u32, payload: Bound<'py, PyAny>) -> Outcome<'py> {
        match call(&function, what, payload) {
            Ok(value) => Outcome::Value(value),
            Err(error) => Outcome::Failed(error, function),
        }
    }
}

/// The Python functions that say what went wrong.
struct Words<'a, 'py> {
    failed: &'a Bound<'py, PyAny>,
    not_rebuilt: &'a Bound<'py, PyAny>,
    not_sent: &'a Bound<'py, PyAny>,
}

#[pymethods]
impl WorkerCore {
    /// Takes the place `slot` in the pool of this name.
    #[new]
    fn new(py: Python<'_>, handle: HandleBytes, slot: u32) -> PyResult<WorkerCore> {
        let worker = Worker::attach(handle.0, slot).or_raise(py)?;
        Ok(WorkerCore {
            worker: Some(worker),
            functions: HashMap::new(),
            last: None,
            short: Box::default(),
            bytes: Vec::new(),
        })
    }

    /// The initializer is done.
    fn ready(&mut self) -> PyResult<()> {
        self.worker()?.ready();
        Ok(())
    }

    /// The initializer failed; `message` says why. The worker is to end.
    fn start_failed(&mut self, message: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.worker()?;
        if let Some(worker) = self.worker.take() {
            let mut bytes = failure(message.as_bytes());
            worker.start_failed(Submission::bytes(&mut bytes));
        }
        Ok(())
    }

    /// Works until the pool has no more tasks for this worker.
    ///
    /// `failed(exception, function)`, `not_rebuilt(exception)` and `not_sent(exception, value)`
    /// return the bytes that tell the parent of what has happened.
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        failed: &Bound<'py, PyAny>,
        not_rebuilt: &Bound<'py, PyAny>,
        not_sent: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let words = Words {
            failed,
            not_rebuilt,
            not_sent,
        };
        let dumps = py.import("procession.reduction")?.getattr("dumps_result")?;
        loop {
            let task = if self.take_short()? {
                if let Some(outcome) = self.perform_short(py) {
                    self.answer(py, self.short.id(), outcome, &words, &dumps)?;
                    py.check_signals()?;
                    continue;
                }
                Some(self.short.to_task())
            } else {
                self.next(py)?
            };
            let Some(mut task) = task else { return Ok(()) };
            let outcome = self.perform(py, &mut task);
            task.discard();
            self.answer(py, task.id(), outcome, &words, &dumps)?;
            py.check_signals()?;
        }
    }
}

impl WorkerCore {
    fn worker(&mut self) -> PyResult<&mut Worker> {
        self.worker.as_mut().ok_or_else(ended)
    }

    fn next(&mut self, py: Python<'_>) -> PyResult<Option<Task>> {
        let worker = self.worker()?;
        let mut attempt = || worker.next(&mut Timeout::ZERO.patience()).ok();
        let task = match attempt().or_else(|| wait::spin(attempt)) {
            Some(task) => task,
            // An error is the end of the wait, and that has been raised by then.
            None => wait::blocking(py, Timeout::FOREVER, |patience| worker.next(patience))?
                .unwrap_or_default(),
        };
        Ok(task)
    }

    fn take_short(&mut self) -> PyResult<bool> {
        let worker = self.worker.as_mut().ok_or_else(ended)?;
        Ok(worker.take_short(&mut self.short))
    }

    /// Does a short task that is one call of the last function, with an item that was written directly.
    fn perform_short<'py>(&self, py: Python<'py>) -> Option<Outcome<'py>> {
        let tag = self.short.tag();
        let (known, function) = self.last.as_ref()?;
        let (name, item) = name_and_rest(self.short.payload())?;
        let what = what(tag);
        if tag & bits::CACHED == 0 || !matches!(what, kind::CALL | kind::ITEM) || name != known {
            return None;
        }
        let read = |into: &mut [u8]| into.copy_from_slice(item);
        let item = pickling::decode_directly(py, tag & bits::CODEC, item.len(), read)?;
        // The function may end up in the place of another one while it runs.
        Some(Outcome::of_call(function.bind(py).clone(), what, item))
    }

    fn perform<'py>(&mut self, py: Python<'py>, task: &mut Task) -> Outcome<'py> {
        let (function, what, payload) = match self.rebuild(py, task) {
            Ok(rebuilt) => rebuilt,
            Err(error) => return Outcome::NotRebuilt(error),
        };
        Outcome::of_call(function, what, payload)
    }

    /// The function, what kind of call it is, and what it gets.
    fn rebuild<'py>(
        &mut self,
        py: Python<'py>,
        task: &mut Task,
    ) -> PyResult<(Bound<'py, PyAny>, u32, Bound<'py, PyAny>)> {
        let garbled = || {
            error::unpickling(
                py,
                String::from(
                    "the task can't be decoded: an object that it came with is gone, or its memory was overwritten",
                ),
            )
        };
        let tag = task.tag();
        let mut message = task.take_message().ok_or_else(garbled)?;
        let payload = message.bytes.get(HEADER..).ok_or_else(garbled)?;
        let (name, rest) = name_and_rest(payload).ok_or_else(garbled)?;
        let function = self.function(py, name, tag)?;
        let skip = message.bytes.len() - rest.len();
        message.tag = tag & bits::CODEC;
        let payload = pickling::decode_from(py, message, skip)?;
        Ok((function, what(tag), payload))
    }

    fn function<'py>(
        &mut self,
        py: Python<'py>,
        name: &[u8],
        tag: u32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let cached = tag & bits::CACHED != 0;
        if cached
            && let Some((known, function)) = &self.last
            && known == name
        {
            return Ok(function.bind(py).clone());
        }
        if cached && let Some(function) = self.functions.get(name) {
            self.last = Some((name.to_vec(), function.clone_ref(py)));
            return Ok(function.bind(py).clone());
        }
        let message = if tag & bits::IN_PARCEL != 0 {
            let name: [u8; 16] = name
                .try_into()
                .map_err(|_| error::unpickling(py, String::from("the function can't be found")))?;
            Parcel::open(Handle::from_bytes(name)).or_raise(py)?
        } else {
            Message::plain(name.to_vec())
        };
        let function = pickling::decode(py, message)?;
        if cached {
            if self.functions.len() >= KEPT {
                self.functions.clear();
            }
            self.functions
                .insert(name.to_vec(), function.clone().unbind());
        }
        Ok(function)
    }

    fn answer<'py>(
        &mut self,
        py: Python<'py>,
        task: TaskId,
        outcome: Outcome<'py>,
        words: &Words<'_, 'py>,
        dumps: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        let bad = match outcome {
            Outcome::Value(value) => match self.send(py, task, &value, dumps) {
                Ok(()) => return Ok(()),
                Err(error) => said(py, words.not_sent, error, Some(&value)),
            },
            Outcome::Failed(error, function) => said(py, words.failed, error, Some(&function)),
            Outcome::NotRebuilt(error) => said(py, words.not_rebuilt, error, None),
        };
        self.send_failure(py, task, &bad)
    }

    fn send<'py>(
        &mut self,
        py: Python<'py>,
        task: TaskId,
        value: &Bound<'py, PyAny>,
        dumps: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        if let Some(scalar) = Scalar::of(value) {
            let mut result = [0; HEADER + Scalar::LONGEST];
            let end = HEADER + scalar.bytes().len();
            result[HEADER..end].copy_from_slice(scalar.bytes());
            let result = Submission {
                tag: scalar.tag() | DONE << bits::WHAT,
                ..Submission::bytes(&mut result[..end])
            };
            return self.worker()?.finish(task, result).or_raise(py);
        }
        let encoded = Encoded::of_with(value, dumps)?;
        let large = encoded.size() >= pickling::WORTH_DETACHING;
        let mut bytes = std::mem::take(&mut self.bytes);
        let worker = self.worker()?;
        let sent = encoded
            .send(|message| {
                bytes.clear();
                bytes.resize(HEADER, 0);
                bytes.extend_from_slice(message.bytes);
                let tag = message.tag | DONE << bits::WHAT;
                let result = Submission {
                    tag,
                    bytes: &mut bytes,
                    buffers: message.buffers,
                    handles: message.handles,
                };
                let finish = || worker.finish(task, result);
                if large { py.detach(finish) } else { finish() }
            })
            .or_raise(py);
        if bytes.capacity() <= LONG {
            self.bytes = bytes;
        }
        sent
    }

    fn send_failure(&mut self, py: Python<'_>, task: TaskId, words: &[u8]) -> PyResult<()> {
        let worker = self.worker()?;
        let mut bytes = failure(words);
        loop {
            let result = Submission {
                tag: FAILED << bits::WHAT,
                ..Submission::bytes(&mut bytes)
            };
            if worker.finish(task, result).is_ok() {
                return Ok(());
            }
            py.detach(|| std::thread::sleep(PAUSE));
            py.check_signals()?;
            bytes.truncate(HEADER);
        }
    }
}

fn ended() -> PyErr {
    PyRuntimeError::new_err("this worker has ended")
}

/// What kind of call a task's tag says.
fn what(tag: u32) -> u32 {
    tag >> bits::WHAT & bits::WHAT_MASK
}

/// The function's name in a task, and what it gets.
fn name_and_rest(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = payload.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn failure(words: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(words);
    bytes
}

/// What a Python function says about an error. Nothing if it fails itself: the parent knows that too.
fn said<'py>(
    py: Python<'py>,
    words: &Bound<'py, PyAny>,
    error: PyErr,
    about: Option<&Bound<'py, PyAny>>,
) -> Vec<u8> {
    let error = error.into_value(py);
    let said = match about {
        Some(about) => words.call1((error, about)),
        None => words.call1((error,)),
    };
    said.and_then(|said| Ok(said.cast::<PyBytes>()?.as_bytes().to_vec()))
        .unwrap_or_default()
}

fn call<'py>(
    function: &Bound<'py, PyAny>,
    what: u32,
    payload: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static LIST: Imported = Imported::new("builtins", "list");
    static MAP: Imported = Imported::new("builtins", "map");
    static STAR_MAP: Imported = Imported::new("itertools", "starmap");
    let py = function.py();
    match what {
        kind::CALL if payload.is_none() => function.call0(),
        kind::CALL => function.call1(payload.cast_into::<PyTuple>()?),
        kind::ITEM => function.call1((payload,)),
        kind::STAR_ITEM => function.call1(PyTuple::new(
            py,
            payload.try_iter()?.collect::<PyResult<Vec<_>>>()?,
        )?),
        kind::CHUNK => {
            let results = MAP.get(py)?.call1((function, payload))?;
            LIST.get(py)?.call1((results,))
        }
        kind::STAR_CHUNK => {
            let results = STAR_MAP.get(py)?.call1((function, payload))?;
            LIST.get(py)?.call1((results,))
        }
        kind::KEYWORDS => {
            let (args, keywords): (Bound<'py, PyTuple>, Bound<'py, PyDict>) = payload.extract()?;
            function.call(args, Some(&keywords))
        }
        _ => Err(PyRuntimeError::new_err(
            "the task is of no known kind: parent and worker are of different versions",
        )),
    }
}

impl Raise for AttachError {
    fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            AttachError::Family(error) => error.raise(py),
            _ => error::process_error(py, self.to_string()),
        }
    }
}
