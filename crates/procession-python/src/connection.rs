//! `Connection`: messages over a descriptor, and `pipe`.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use procession_engine::connection::{self as raw, Connection as RawConnection, RecvError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::arguments::{Timeout, Truth};
use crate::buffer::View;
use crate::descriptor;
use crate::error::{self, OrRaise, Raise};
use crate::imported::Imported;
use crate::pickler;
use crate::pickling::{self, Encoded};
use crate::wait;

/// One end of a connection that carries objects and byte strings, each as one message.
///
/// It takes over the descriptor `handle`. `family=True` says that the other end belongs to a process
/// of the same family: then large buffers go through shared memory.
#[pyclass(frozen, subclass, module = "procession._procession")]
pub(crate) struct Connection {
    /// None once closed. A call under way keeps the connection until it returns. Locked for a moment
    /// with the interpreter held, so never across a fork.
    open: Mutex<State>,
    /// As given, for a number that is no open descriptor.
    number: RawFd,
    readable: bool,
    writable: bool,
    family: bool,
}

#[derive(Clone)]
enum State {
    Open(Arc<RawConnection>),
    Closed,
    /// The number was no open descriptor: every use says so.
    Bad,
}

impl Connection {
    fn state(&self) -> State {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn connection(&self) -> PyResult<Arc<RawConnection>> {
        match self.state() {
            State::Open(connection) => Ok(connection),
            State::Closed => Err(error::closed("handle")),
            State::Bad => Err(error::bad_descriptor(self.number)),
        }
    }

    fn to_read(&self) -> PyResult<Arc<RawConnection>> {
        let connection = self.connection()?;
        if self.readable {
            Ok(connection)
        } else {
            Err(RecvError::NotReadable).or_raise_attached()
        }
    }

    fn to_write(&self) -> PyResult<Arc<RawConnection>> {
        let connection = self.connection()?;
        if self.writable {
            Ok(connection)
        } else {
            Err(raw::SendError::NotWritable).or_raise_attached()
        }
    }

    /// Receives something: at once, if all of it is there.
    fn receive<T: Send>(
        py: Python<'_>,
        connection: &RawConnection,
        receive: impl Fn(&RawConnection, &mut procession_engine::Patience<'_>) -> Result<T, RecvError>
        + Sync,
    ) -> PyResult<T> {
        match receive(connection, &mut Timeout::ZERO.patience()) {
            Err(RecvError::TimedOut) => wait::blocking(py, Timeout::FOREVER, |patience| {
                receive(connection, patience)
            })?
            .or_raise(py),
            quick => quick.or_raise(py),
        }
    }

    fn receive_bytes(&self, py: Python<'_>, max: Option<usize>) -> PyResult<Vec<u8>> {
        let connection = self.to_read()?;
        Self::receive(py, &connection, |connection, patience| {
            connection.recv_bytes(max, patience)
        })
    }
}

/// For the two checks above, which no caller reaches without the interpreter.
trait OrRaiseAttached<T> {
    fn or_raise_attached(self) -> PyResult<T>;
}

impl<T, E: Raise> OrRaiseAttached<T> for Result<T, E> {
    fn or_raise_attached(self) -> PyResult<T> {
        self.map_err(|error| Python::attach(|py| error.raise(py)))
    }
}

/// The pickle of an object in one piece, for a stranger.
fn pickle_whole<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Some(bytes) = pickler::pickle_whole(object)? {
        return Ok(bytes);
    }
    static DUMPS: Imported = Imported::new("procession.reduction", "dumps_whole");
    Ok(DUMPS.get(object.py())?.call1((object,))?.cast_into()?)
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (handle, readable=Truth(true), writable=Truth(true), *, family=Truth(false)),
           text_signature = "(handle, readable=True, writable=True, *, family=False)")]
    fn new(handle: RawFd, readable: Truth, writable: Truth, family: Truth) -> PyResult<Connection> {
        if !readable.0 && !writable.0 {
            return Err(PyValueError::new_err(
                "a connection must be readable or writable, or both",
            ));
        }
        let open = match descriptor::take_over(handle)? {
            Some(fd) => State::Open(Arc::new(RawConnection::from_fd(
                fd, readable.0, writable.0, family.0,
            ))),
            None => State::Bad,
        };
        Ok(Connection {
            open: Mutex::new(open),
            number: handle,
            readable: readable.0,
            writable: writable.0,
            family: family.0,
        })
    }

    /// Sends an object.
    fn send(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        let connection = self.to_write()?;
        if !self.family {
            let pickle = pickle_whole(obj)?;
            let bytes = pickle.as_bytes();
            if connection.send_at_once(bytes) {
                return Ok(());
            }
            return wait::blocking(py, Timeout::FOREVER, |patience| {
                connection.send_bytes(bytes, patience)
            })?
            .or_raise(py);
        }
        // As a pickle whatever it is, so that the other end may also receive bytes and unpickle them.
        let encoded = Encoded::for_connection(obj)?;
        encoded
            .send(|message| {
                wait::blocking(py, Timeout::FOREVER, |patience| {
                    connection.send_message(message, patience)
                })
            })?
            .or_raise(py)
    }

    /// Receives an object; waits until one is there. EOFError at the end.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let connection = self.to_read()?;
        let message = Self::receive(py, &connection, RawConnection::recv_message)?;
        pickling::decode(py, message)
    }

    /// Sends bytes, or a part of them, as one message.
    #[pyo3(signature = (buf, offset=0, size=None))]
    fn send_bytes(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
        size: Option<isize>,
    ) -> PyResult<()> {
        let connection = self.to_write()?;
        let view = View::of(buf)?;
        let part = part(view.bytes(), offset, size)?;
        wait::blocking(py, Timeout::FOREVER, |patience| {
            connection.send_bytes(part, patience)
        })?
        .or_raise(py)
    }

    /// Receives a message of bytes. OSError if it is longer than `maxlength`; nothing can be received
    /// after it then.
    #[pyo3(signature = (maxlength=None))]
    fn recv_bytes<'py>(
        &self,
        py: Python<'py>,
        maxlength: Option<isize>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let max = maxlength
            .map(|most| {
                usize::try_from(most)
                    .map_err(|_| PyValueError::new_err("maxlength must not be negative"))
            })
            .transpose()?;
        Ok(PyBytes::new(py, &self.receive_bytes(py, max)?))
    }

    /// Receives a message of bytes into a writable buffer, from `offset` on, and returns its length.
    /// BufferTooShort, with the message, if it does not fit.
    #[pyo3(signature = (buf, offset=0))]
    fn recv_bytes_into(
        &self,
        py: Python<'_>,
        buf: &Bound<'_, PyAny>,
        offset: isize,
    ) -> PyResult<usize> {
        let view = View::of(buf)?;
        if view.is_read_only() {
            return Err(PyTypeError::new_err("the buffer is read-only"));
        }
        let offset = usize::try_from(offset)
            .map_err(|_| PyValueError::new_err("offset must not be negative"))?;
        if offset > view.len() {
            return Err(PyValueError::new_err(
                "offset is beyond the end of the buffer",
            ));
        }
        let bytes = self.receive_bytes(py, None)?;
        if bytes.len() > view.len() - offset {
            return Err(error::buffer_too_short(py, &bytes));
        }
        view.write(offset, &bytes);
        Ok(bytes.len())
    }

    /// Whether there is something to receive, or the end; waits for that as long as `timeout`.
    #[pyo3(signature = (timeout=Timeout::ZERO), text_signature = "($self, timeout=0.0)")]
    fn poll(&self, py: Python<'_>, timeout: Timeout) -> PyResult<bool> {
        let connection = self.to_read()?;
        let ready = connection
            .poll(&mut Timeout::ZERO.patience())
            .or_raise(py)?;
        if ready || timeout.is_zero() {
            return Ok(ready);
        }
        wait::blocking(py, timeout, |patience| connection.poll(patience))?.or_raise(py)
    }

    /// The descriptor.
    fn fileno(&self) -> PyResult<RawFd> {
        match self.state() {
            State::Open(connection) => Ok(connection.as_fd().as_raw_fd()),
            State::Closed => Err(error::closed("handle")),
            State::Bad => Ok(self.number),
        }
    }

    /// Closes the descriptor, once no other thread is in the middle of a call.
    fn close(&self) {
        let state = std::mem::replace(
            &mut *self.open.lock().unwrap_or_else(PoisonError::into_inner),
            State::Closed,
        );
        drop(state);
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        matches!(self.state(), State::Closed)
    }

    /// Whether it can receive.
    #[getter]
    fn readable(&self) -> bool {
        match self.state() {
            State::Open(connection) => connection.is_readable(),
            State::Closed | State::Bad => self.readable,
        }
    }

    /// Whether it can send.
    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    /// Whether large buffers and shared objects go through shared memory.
    #[getter]
    fn family(&self) -> bool {
        self.family
    }

    /// Makes a mailbox in shared memory, for a connection of requests and answers whose other end is in
    /// the same family. Returns it, for `_use_mailbox`, and what the other end's `_use_mailbox` is to be
    /// given, by this connection.
    #[staticmethod]
    fn _make_mailbox(py: Python<'_>) -> PyResult<(Mailbox, Bound<'_, PyBytes>)> {
        let mailbox = raw::Mailbox::new().or_raise(py)?;
        let ticket = PyBytes::new(py, &mailbox.ticket());
        let mailbox = Mailbox(Mutex::new(Some(mailbox)));
        Ok((mailbox, ticket))
    }

    /// Uses a mailbox from now on: one that `_make_mailbox` made, or one named by the bytes that it gave
    /// the other end. Each end sends a second message only once it has had the answer to its first.
    ///
    /// ProcessError if there is none of that name.
    fn _use_mailbox(&self, py: Python<'_>, mailbox: &Bound<'_, PyAny>) -> PyResult<()> {
        let connection = self.connection()?;
        let mailbox = if let Ok(made) = mailbox.cast::<Mailbox>() {
            made.get().take()
        } else {
            let ticket = mailbox.extract::<&[u8]>()?.try_into();
            let ticket = ticket.map_err(|_| PyValueError::new_err("a ticket has 24 bytes"))?;
            Some(raw::Mailbox::from_ticket(ticket).or_raise(py)?)
        };
        mailbox
            .and_then(|mailbox| connection.use_mailbox(mailbox).ok())
            .ok_or_else(|| PyValueError::new_err("one mailbox serves one connection"))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    #[pyo3(signature = (_exc_type=None, _exc_value=None, _exc_tb=None))]
    fn __exit__(
        &self,
        _exc_type: Option<&Bound<'_, PyAny>>,
        _exc_value: Option<&Bound<'_, PyAny>>,
        _exc_tb: Option<&Bound<'_, PyAny>>,
    ) {
        self.close();
    }
}

/// A mailbox that is not in use yet.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct Mailbox(Mutex<Option<raw::Mailbox>>);

impl Mailbox {
    fn take(&self) -> Option<raw::Mailbox> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The part of `bytes` that `offset` and `size` name.
fn part(bytes: &[u8], offset: isize, size: Option<isize>) -> PyResult<&[u8]> {
    let offset = usize::try_from(offset)
        .map_err(|_| PyValueError::new_err("offset must not be negative"))?;
    let rest = bytes.get(offset..).ok_or_else(|| {
        PyValueError::new_err(format!(
            "offset {offset} is beyond the end of a buffer of {} bytes",
            bytes.len()
        ))
    })?;
    let Some(size) = size else { return Ok(rest) };
    let size =
        usize::try_from(size).map_err(|_| PyValueError::new_err("size must not be negative"))?;
    rest.get(..size).ok_or_else(|| {
        PyValueError::new_err(format!(
            "the buffer has {} bytes from offset {offset} on, not {size}",
            rest.len()
        ))
    })
}

/// Two connected ends, as instances of `cls`. If not `duplex`, the first only receives and the second
/// only sends.
#[pyfunction]
pub(crate) fn pipe<'py>(
    duplex: Truth,
    cls: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = cls.py();
    let (first, second) = raw::pair(duplex.0).or_raise(py)?;
    Ok((end(cls, first)?, end(cls, second)?))
}

fn end<'py>(cls: &Bound<'py, PyAny>, connection: RawConnection) -> PyResult<Bound<'py, PyAny>> {
    let (readable, writable, family) = (
        connection.is_readable(),
        connection.is_writable(),
        connection.is_family(),
    );
    let options = PyDict::new(cls.py());
    options.set_item("family", family)?;
    let fd = connection.into_fd().into_raw_fd();
    cls.call((fd, readable, writable), Some(&options))
        .inspect_err(|_| drop(descriptor::take_over(fd)))
}
