//! `Queue`.

use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use procession_engine::diagnostics::Wanted;
use procession_engine::{
    GetError, Message, Outgoing, Patience, PutError, Queue as RawQueue, WaitError,
};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};

use crate::arguments::{HandleBytes, Timeout, Truth};
use crate::error::{self, OrRaise};
use crate::imported::Imported;
use crate::pickling::{self, Encoded};
use crate::shared::{Inner, Reduced, handle_bytes, reduce};
use crate::wait::{self, Awaited};
use crate::watch::{self, Watch};

mod quick;

pub(crate) use quick::make_quick;

/// What is shorter is copied under the lock of the queue's side.
const QUICK: usize = 16 << 10;

/// A queue between processes: any number of producers and consumers, first in, first out.
///
/// What was put can be got as soon as `put` returns; there is no thread behind it. A process that is
/// killed in the middle of a put or a get has done it or has not.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Queue {
    inner: Inner<RawQueue>,
    /// By this process; the others go on.
    closed: AtomicBool,
    /// Whether this process has put something.
    used: AtomicBool,
    watched: AtomicBool,
    /// Locked for a moment with the interpreter held, so never across a fork.
    watch: Mutex<Option<Arc<Watch>>>,
}

impl Queue {
    #[inline]
    fn raw(&self) -> PyResult<&RawQueue> {
        self.inner.get::<Queue>()
    }

    #[inline]
    fn open<'a>(slf: &'a Bound<'_, Self>) -> PyResult<&'a RawQueue> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) {
            return Err(Self::closed_error(slf));
        }
        this.raw()
    }

    #[cold]
    fn closed_error(slf: &Bound<'_, Self>) -> PyErr {
        let ask = || -> PyResult<PyErr> {
            let message = format!("{} is closed", slf.repr()?);
            Ok(match slf.getattr_opt("_closed_error")? {
                Some(class) => PyErr::from_type(class.cast_into::<PyType>()?, (message,)),
                None => PyValueError::new_err(message),
            })
        };
        ask().unwrap_or_else(|error| error)
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.as_ref().filter(|watch| watch.is_mine()).cloned()
    }

    /// After a put or a get: the watch may have to be set or cleared.
    #[inline]
    fn changed(&self) {
        if self.watched.load(Ordering::Relaxed)
            && let Some(watch) = self.watch()
        {
            watch.look();
        }
    }

    #[inline]
    fn put_message(
        &self,
        py: Python<'_>,
        queue: &RawQueue,
        message: &Outgoing<'_>,
        size: usize,
        timeout: Timeout,
    ) -> PyResult<()> {
        // With the interpreter held, while there is room.
        let attempt = || {
            if queue.is_full() {
                return None;
            }
            match queue.put(message, &mut wait::glance()) {
                Err(PutError::Full) => None,
                done => Some(done),
            }
        };
        let awaited = Awaited {
            wanted: Wanted::Room,
            ..Awaited::new(queue.handle(), "make room in this queue")
        };
        let put = |patience: &mut Patience<'_>| queue.put(message, patience);
        let wait = || wait::blocking_for(py, timeout, awaited, put, drop);
        let put = if size >= pickling::WORTH_DETACHING {
            wait()?
        } else if timeout.is_zero() {
            queue.put(message, &mut timeout.patience())
        } else {
            match attempt().or_else(|| wait::spin(attempt)) {
                Some(done) => done,
                None => wait()?,
            }
        };
        put.or_raise(py)?;
        self.used.store(true, Ordering::Relaxed);
        self.changed();
        watch::note_put(queue);
        Ok(())
    }

    /// An object that could not be pickled: the Python class may have something to say to that.
    #[cold]
    fn not_pickled(slf: &Bound<'_, Self>, object: &Bound<'_, PyAny>, error: PyErr) -> PyResult<()> {
        match slf.getattr_opt("_not_pickled")? {
            Some(judge) => judge.call1((error.into_value(slf.py()), object)).map(drop),
            None => Err(error),
        }
    }

    fn put_object(
        slf: &Bound<'_, Self>,
        object: &Bound<'_, PyAny>,
        timeout: Timeout,
    ) -> PyResult<()> {
        let queue = Self::open(slf)?;
        match Encoded::of(object) {
            Ok(encoded) => encoded.send(|message| {
                slf.get()
                    .put_message(slf.py(), queue, message, encoded.size(), timeout)
            }),
            Err(error) => Self::not_pickled(slf, object, error),
        }
    }

    fn get_message(&self, py: Python<'_>, queue: &RawQueue, timeout: Timeout) -> PyResult<Message> {
        let attempt = || {
            if queue.is_empty() {
                return None;
            }
            match queue.get(&mut wait::glance()) {
                Err(GetError::Empty) => None,
                done => Some(done),
            }
        };
        let got = if timeout.is_zero() {
            queue.get(&mut timeout.patience())
        } else {
            match attempt().or_else(|| wait::spin(attempt)) {
                Some(done) => done,
                None => {
                    let awaited = Awaited::new(queue.handle(), "put anything into this queue");
                    wait::blocking_for(py, timeout, awaited, |patience| queue.get(patience), drop)?
                }
            }
        };
        let message = got.or_raise(py)?;
        self.changed();
        Ok(message)
    }
}

/// What the [quick] calls do, which run nothing of Python's.
impl Queue {
    /// The queue, if nothing but its memory is concerned by what is put there and taken.
    #[inline]
    fn alone(&self) -> Option<&RawQueue> {
        let unusual = self.closed.load(Ordering::Relaxed) || self.watched.load(Ordering::Relaxed);
        self.inner.get_opt().filter(|_| !unusual)
    }

    /// Puts an object that is written directly, if there is room. If not, nothing was done.
    #[inline]
    fn put_quickly(&self, object: &Bound<'_, PyAny>) -> Option<()> {
        let queue = self.alone()?;
        let encoded = Encoded::direct(object)?;
        if queue.is_full() || encoded.size() >= QUICK {
            return None;
        }
        let put = encoded.send(|message| queue.put(message, &mut wait::glance()));
        put.ok()?;
        self.used.store(true, Ordering::Relaxed);
        watch::note_put(queue);
        Some(())
    }

    /// Takes the object at the front, if it is one that was written directly. If not, nothing was done.
    #[inline]
    fn get_quickly<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.alone()?.take_if(|front| {
            if front.len() >= QUICK {
                return None;
            }
            pickling::decode_directly(py, front.tag(), front.len(), |into| front.read(into))
        })
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(maxsize=0)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Queue {
        Queue {
            inner: Inner::new(),
            closed: AtomicBool::new(false),
            used: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            watch: Mutex::new(None),
        }
    }

    #[pyo3(signature = (maxsize=0))]
    fn __init__(&self, py: Python<'_>, maxsize: i128) -> PyResult<()> {
        // No limit, or one that memory sets long before.
        let capacity = u32::try_from(maxsize)
            .ok()
            .filter(|&size| size < 1 << 31)
            .and_then(NonZeroU32::new);
        self.inner.make(|| RawQueue::new(capacity).or_raise(py))
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static ALIAS: Imported = Imported::new("types", "GenericAlias");
        ALIAS.get(cls.py())?.call1((cls, item))
    }

    /// Puts an object into the queue; it can be got when this returns.
    ///
    /// `queue.Full` if there is no room in the time given. What can't be pickled is raised here.
    #[pyo3(
        signature = (obj, block=Truth(true), timeout=Timeout::FOREVER),
        text_signature = "($self, obj, block=True, timeout=None)"
    )]
    fn put(
        slf: &Bound<'_, Self>,
        obj: &Bound<'_, PyAny>,
        block: Truth,
        timeout: Timeout,
    ) -> PyResult<()> {
        Self::put_object(slf, obj, timeout.if_blocking(block))
    }

    /// Puts an object into the queue if there is room at once.
    fn put_nowait(slf: &Bound<'_, Self>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::put_object(slf, obj, Timeout::ZERO)
    }

    /// Takes the object at the front. `queue.Empty` if there is none in the time given.
    #[pyo3(
        signature = (block=Truth(true), timeout=Timeout::FOREVER),
        text_signature = "($self, block=True, timeout=None)"
    )]
    fn get<'py>(
        slf: &Bound<'py, Self>,
        block: Truth,
        timeout: Timeout,
    ) -> PyResult<Bound<'py, PyAny>> {
        let queue = Self::open(slf)?;
        let message = slf
            .get()
            .get_message(slf.py(), queue, timeout.if_blocking(block))?;
        pickling::decode(slf.py(), message)
    }

    /// Takes the object at the front if there is one now.
    fn get_nowait<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let queue = Self::open(slf)?;
        let message = slf.get().get_message(slf.py(), queue, Timeout::ZERO)?;
        pickling::decode(slf.py(), message)
    }

    /// How many objects are in the queue, exactly, at some instant during the call.
    fn qsize(&self) -> PyResult<u32> {
        Ok(self.raw()?.len())
    }

    /// Whether the queue is empty. OSError once this process has put something and closed it.
    fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if this.closed.load(Ordering::Relaxed) && this.used.load(Ordering::Relaxed) {
            return Err(error::closed(&slf.repr()?.to_string()));
        }
        Ok(this.raw()?.is_empty())
    }

    /// Whether the queue is full.
    fn full(&self) -> PyResult<bool> {
        Ok(self.raw()?.is_full())
    }

    /// This process will neither put nor get any more. The others may.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.stop_watch();
    }

    /// Whether this process has closed it.
    #[getter]
    fn _closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Reports one object done that was got. ValueError if all that were put have been.
    fn task_done(&self, py: Python<'_>) -> PyResult<()> {
        self.raw()?.task_done().or_raise(py)
    }

    /// Waits until every object that was put has been reported done.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        let queue = self.raw()?;
        let awaited = Awaited {
            wanted: Wanted::Done,
            ..Awaited::new(queue.handle(), "finish what was put into this queue")
        };
        let join = |patience: &mut Patience<'_>| queue.join(patience);
        match wait::blocking_for(py, Timeout::FOREVER, awaited, join, drop)? {
            Ok(()) | Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(()),
        }
    }

    /// Waits until there is something to get, without taking it; whether there is.
    #[pyo3(signature = (timeout=Timeout::ZERO), text_signature = "($self, timeout=0.0)")]
    fn _poll(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let queue = self.raw()?;
        if !queue.is_empty() || timeout.is_zero() {
            return Ok(!queue.is_empty());
        }
        match wait::blocking(py, timeout, |patience| queue.wait_readable(patience))? {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut | WaitError::Interrupted) => Ok(false),
        }
    }

    /// A descriptor that is readable while there is something to get. It belongs to the queue.
    fn _readable_fd(&self, py: Python<'_>) -> PyResult<RawFd> {
        let queue = self.raw()?;
        let mut place = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let watch = match place.take().filter(|watch| watch.is_mine()) {
            Some(watch) => watch,
            None => Arc::new(Watch::begin(queue.clone()).or_raise(py)?),
        };
        let descriptor = watch.descriptor();
        *place = Some(watch);
        self.watched.store(true, Ordering::Relaxed);
        Ok(descriptor)
    }

    /// Closes the descriptor of `_readable_fd`.
    #[pyo3(name = "_stop_watch")]
    fn stop_watch(&self) {
        self.watched.store(false, Ordering::Relaxed);
        let watch = self
            .watch
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(watch);
    }

    /// The name of the queue in the family, 16 bytes.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(handle_bytes(py, self.raw()?.handle()))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Reduced<'py>> {
        reduce(slf.as_any(), slf.get().raw()?.handle(), 0)
    }

    fn _adopt(&self, py: Python<'_>, handle: HandleBytes, _own: u8) -> PyResult<()> {
        self.inner.adopt(py, &handle, RawQueue::from_handle)
    }
}
