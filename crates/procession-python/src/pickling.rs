//! Objects into messages and back.
//!
//! Exact `int`s (of 64 bits), `float`s, `bool`s, `str`s, `bytes` and `None` are written directly;
//! the message's tag says which. Everything else goes through the two functions that the Python
//! side has registered. Large buffers travel as blocks of the arena.
//!
//! **The open parcel.** While an object is being pickled, the objects of the arena inside it say so
//! ([`mention`]); they are kept until the message is on its way, and the message keeps them alive
//! until it is received. Pickling may send something else (a `__reduce__` which puts into a queue):
//! each has a parcel of its own.

use std::cell::RefCell;

use procession_engine::{Handle, Message, Outgoing, Parcel as RawParcel};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::arguments::HandleBytes;
use crate::block::Block;
use crate::buffer::{self, View};
use crate::error::{self, OrRaise};
use crate::shared::handle_bytes;

/// What the bytes of a message are. A pickle is 0, as in a message of bytes alone.
pub(crate) mod tag {
    pub(crate) const PICKLE: u32 = 0;
    pub(crate) const NONE: u32 = 1;
    pub(crate) const BOOL: u32 = 2;
    pub(crate) const INT: u32 = 3;
    pub(crate) const FLOAT: u32 = 4;
    pub(crate) const STR: u32 = 5;
    pub(crate) const BYTES: u32 = 6;
    /// `bytes`, in the only block.
    pub(crate) const LARGE_BYTES: u32 = 7;
    /// A pickle in the first block.
    pub(crate) const LARGE_PICKLE: u32 = 8;
}

/// From this size on, bytes travel as a block.
const LARGE: usize = 64 << 10;
/// From this size on, a copy is worth letting other threads run meanwhile.
pub(crate) const WORTH_DETACHING: usize = 256 << 10;

/// `dumps` and `loads`, as registered.
static PICKLER: PyOnceLock<Py<PyList>> = PyOnceLock::new();

/// Registers the functions that pickle.
///
/// `dumps(obj)` returns bytes, or bytes and a list of buffers; `loads(data)` and
/// `loads(data, buffers=list)` return the object.
#[pyfunction]
pub(crate) fn set_pickler(
    py: Python<'_>,
    dumps: Bound<'_, PyAny>,
    loads: Bound<'_, PyAny>,
) -> PyResult<()> {
    for function in [&dumps, &loads] {
        if !function.is_callable() {
            return Err(PyTypeError::new_err(format!("{function} can't be called")));
        }
    }
    let pair = PICKLER
        .get_or_try_init(py, || {
            PyList::new(py, [py.None(), py.None()]).map(Bound::unbind)
        })?
        .bind(py);
    pair.set_item(0, dumps)?;
    pair.set_item(1, loads)
}

fn registered(py: Python<'_>, which: usize) -> PyResult<Bound<'_, PyAny>> {
    if PICKLER.get(py).is_none() {
        // The module that registers them, at the latest now.
        py.import("procession.reduction")?;
    }
    let missing =
        || PyRuntimeError::new_err("no pickler is registered: import procession.reduction first");
    PICKLER
        .get(py)
        .ok_or_else(missing)?
        .bind(py)
        .get_item(which)
}

/// An object that is kept for a message which mentions it.
type Mention = (Handle, Py<PyAny>);

thread_local! {
    /// The parcels that this thread is filling, the innermost last.
    static OPEN: RefCell<Vec<Vec<Mention>>> = const { RefCell::new(Vec::new()) };
}

/// Says that the object being pickled contains an object of the arena. Nothing happens when what is
/// pickled is not to be sent.
pub(crate) fn mention(object: &Bound<'_, PyAny>, handle: Handle) {
    let keep = || object.clone().unbind();
    OPEN.with_borrow_mut(|open| {
        if let Some(parcel) = open.last_mut() {
            parcel.push((handle, keep()));
        }
    });
}

/// Says that the object being pickled contains an object of the arena which `handle` names, for
/// classes written in Python. Nothing happens when what is pickled is not to be sent.
#[pyfunction]
pub(crate) fn note_handle(handle: HandleBytes, py: Python<'_>) {
    mention(py.None().bind(py), handle.0);
}

/// The parcel that this thread is filling, closed when dropped.
struct OpenParcel(());

impl OpenParcel {
    fn open() -> OpenParcel {
        OPEN.with_borrow_mut(|open| open.push(Vec::new()));
        OpenParcel(())
    }

    fn close(self) -> Vec<Mention> {
        let mentions = OPEN.with_borrow_mut(Vec::pop).unwrap_or_default();
        std::mem::forget(self);
        mentions
    }
}

impl Drop for OpenParcel {
    fn drop(&mut self) {
        // Taken out first: dropping what was mentioned may run code that pickles.
        let mentions = OPEN.with_borrow_mut(Vec::pop);
        drop(mentions);
    }
}

/// An object on its way into a message.
pub(crate) struct Encoded<'py> {
    tag: u32,
    body: Body<'py>,
    buffers: Vec<View>,
    mentions: Vec<Mention>,
}

enum Body<'py> {
    Nothing,
    Word([u8; 8]),
    Bool(bool),
    Bytes(Bound<'py, PyBytes>),
    Str(Bound<'py, PyString>),
}

impl<'py> Encoded<'py> {
    fn plain(tag: u32, body: Body<'py>) -> Encoded<'py> {
        Encoded {
            tag,
            body,
            buffers: Vec::new(),
            mentions: Vec::new(),
        }
    }

    /// Encodes an object, directly or by pickling.
    ///
    /// # Errors
    /// What pickling raised.
    #[inline]
    pub(crate) fn of(object: &Bound<'py, PyAny>) -> PyResult<Encoded<'py>> {
        match Encoded::direct(object) {
            Some(encoded) => Ok(encoded),
            None => Encoded::pickle(object).map(Encoded::large),
        }
    }

    /// The same with another function in the place of the registered `dumps`.
    ///
    /// # Errors
    /// What pickling raised.
    #[inline]
    pub(crate) fn of_with(
        object: &Bound<'py, PyAny>,
        dumps: &Bound<'py, PyAny>,
    ) -> PyResult<Encoded<'py>> {
        match Encoded::direct(object) {
            Some(encoded) => Ok(encoded),
            None => Encoded::pickle_with(object, dumps).map(Encoded::large),
        }
    }

    #[inline]
    fn large(mut self) -> Encoded<'py> {
        if let Body::Bytes(bytes) = &self.body
            && bytes.as_bytes().len() >= LARGE
        {
            self.tag = tag::LARGE_PICKLE;
        }
        self
    }

    #[inline]
    fn direct(object: &Bound<'py, PyAny>) -> Option<Encoded<'py>> {
        if object.is_exact_instance_of::<PyInt>() {
            // One that is too large is pickled.
            if let Ok(number) = object.extract::<i64>() {
                return Some(Encoded::plain(tag::INT, Body::Word(number.to_le_bytes())));
            }
        } else if object.is_none() {
            return Some(Encoded::plain(tag::NONE, Body::Nothing));
        } else if let Ok(text) = object.cast_exact::<PyString>() {
            // One with lone surrogates is pickled.
            if text.to_str().is_ok() {
                return Some(Encoded::plain(tag::STR, Body::Str(text.clone())));
            }
        } else if let Ok(bytes) = object.cast_exact::<PyBytes>() {
            let tag = if bytes.as_bytes().len() < LARGE {
                tag::BYTES
            } else {
                tag::LARGE_BYTES
            };
            return Some(Encoded::plain(tag, Body::Bytes(bytes.clone())));
        } else if let Ok(number) = object.cast_exact::<PyFloat>() {
            return Some(Encoded::plain(
                tag::FLOAT,
                Body::Word(number.value().to_le_bytes()),
            ));
        } else if let Ok(truth) = object.cast_exact::<PyBool>() {
            return Some(Encoded::plain(tag::BOOL, Body::Bool(truth.is_true())));
        }
        None
    }

    /// Encodes an object for a connection: as a pickle, so that the other end may also receive bytes
    /// and unpickle them. Large `bytes` go directly.
    ///
    /// # Errors
    /// What pickling raised.
    pub(crate) fn for_connection(object: &Bound<'py, PyAny>) -> PyResult<Encoded<'py>> {
        match object.cast_exact::<PyBytes>() {
            Ok(bytes) if bytes.as_bytes().len() >= LARGE => {
                Ok(Encoded::plain(tag::LARGE_BYTES, Body::Bytes(bytes.clone())))
            }
            _ => Encoded::pickle(object),
        }
    }

    /// Pickles an object.
    ///
    /// # Errors
    /// What pickling raised.
    pub(crate) fn pickle(object: &Bound<'py, PyAny>) -> PyResult<Encoded<'py>> {
        Encoded::pickle_with(object, &registered(object.py(), 0)?)
    }

    fn pickle_with(
        object: &Bound<'py, PyAny>,
        dumps: &Bound<'py, PyAny>,
    ) -> PyResult<Encoded<'py>> {
        let parcel = OpenParcel::open();
        let dumped = dumps.call1((object,))?;
        let mentions = parcel.close();
        if let Ok(bytes) = dumped.cast::<PyBytes>() {
            return Ok(Encoded {
                tag: tag::PICKLE,
                body: Body::Bytes(bytes.clone()),
                buffers: Vec::new(),
                mentions,
            });
        }
        let pair = dumped.cast::<PyTuple>()?;
        let (bytes, outside): (Bound<'py, PyBytes>, Bound<'py, PyList>) = pair.extract()?;
        let buffers = outside
            .iter()
            .map(|buffer| View::of(&buffer))
            .collect::<PyResult<_>>()?;
        Ok(Encoded {
            tag: tag::PICKLE,
            body: Body::Bytes(bytes),
            buffers,
            mentions,
        })
    }

    /// Bytes to be copied.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        let body = match &self.body {
            Body::Nothing => 0,
            Body::Word(_) | Body::Bool(_) => 8,
            Body::Bytes(bytes) => bytes.as_bytes().len(),
            Body::Str(text) => text.to_str().map_or(0, str::len),
        };
        body + self.buffers.iter().map(View::len).sum::<usize>()
    }

    /// Passes it to `send` as a message. Until that returns, what the message mentions is kept.
    #[inline]
    pub(crate) fn send<R>(&self, send: impl FnOnce(&Outgoing<'_>) -> R) -> R {
        let bytes: &[u8] = match &self.body {
            Body::Nothing => &[],
            Body::Word(word) => word,
            Body::Bool(false) => &[0],
            Body::Bool(true) => &[1],
            Body::Bytes(bytes) => bytes.as_bytes(),
            Body::Str(text) => text.to_str().unwrap_or_default().as_bytes(),
        };
        if self.tag == tag::LARGE_BYTES {
            return send(&Outgoing {
                tag: self.tag,
                bytes: &[],
                buffers: &[bytes],
                handles: &[],
            });
        }
        if self.tag != tag::LARGE_PICKLE && self.buffers.is_empty() && self.mentions.is_empty() {
            return send(&Outgoing {
                tag: self.tag,
                bytes,
                buffers: &[],
                handles: &[],
            });
        }
        let (bytes, first) = if self.tag == tag::LARGE_PICKLE {
            (&[][..], Some(bytes))
        } else {
            (bytes, None)
        };
        let buffers: Vec<&[u8]> = first
            .into_iter()
            .chain(self.buffers.iter().map(View::bytes))
            .collect();
        let handles: Vec<Handle> = self.mentions.iter().map(|(handle, _)| *handle).collect();
        send(&Outgoing {
            tag: self.tag,
            bytes,
            buffers: &buffers,
            handles: &handles,
        })
    }
}

/// The object that a message carries.
///
/// # Errors
/// What unpickling raised; `UnpicklingError` if the message is garbled.
pub(crate) fn decode<'py>(py: Python<'py>, message: Message) -> PyResult<Bound<'py, PyAny>> {
    decode_from(py, message, 0)
}

/// The same, of a message whose first bytes are somebody else's.
pub(crate) fn decode_from<'py>(
    py: Python<'py>,
    mut message: Message,
    skip: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let garbled = || {
        error::unpickling(
            py,
            String::from(
                "the message can't be decoded: its memory was overwritten, or something else sent it",
            ),
        )
    };
    let word = |bytes: &[u8]| <[u8; 8]>::try_from(bytes).map_err(|_| garbled());
    let bytes = message.bytes.get(skip..).ok_or_else(garbled)?;
    match message.tag {
        tag::INT => Ok(i64::from_le_bytes(word(bytes)?)
            .into_pyobject(py)?
            .into_any()),
        tag::NONE => Ok(py.None().into_bound(py)),
        tag::BOOL => Ok(PyBool::new(py, bytes.first() == Some(&1))
            .to_owned()
            .into_any()),
        tag::FLOAT => Ok(PyFloat::new(py, f64::from_le_bytes(word(bytes)?)).into_any()),
        tag::STR => {
            Ok(PyString::new(py, std::str::from_utf8(bytes).map_err(|_| garbled())?).into_any())
        }
        tag::BYTES => Ok(PyBytes::new(py, bytes).into_any()),
        tag::LARGE_BYTES => {
            let block = message.buffers.first().ok_or_else(garbled)?;
            Ok(buffer::bytes_of(py, block)?.into_any())
        }
        tag::PICKLE | tag::LARGE_PICKLE => {
            let mut blocks = std::mem::take(&mut message.buffers).into_iter();
            let data = if message.tag == tag::LARGE_PICKLE {
                Bound::new(py, Block::from(blocks.next().ok_or_else(garbled)?))?.into_any()
            } else {
                PyBytes::new(py, bytes).into_any()
            };
            let loads = registered(py, 1)?;
            if blocks.len() == 0 {
                // `message` keeps what is mentioned until the objects have been rebuilt.
                return loads.call1((data,));
            }
            let blocks = blocks
                .map(|block| Bound::new(py, Block::from(block)))
                .collect::<PyResult<Vec<_>>>()?;
            let options = PyDict::new(py);
            options.set_item(pyo3::intern!(py, "buffers"), PyList::new(py, blocks)?)?;
            loads.call((data,), Some(&options))
        }
        _ => Err(garbled()),
    }
}

/// A pickled object stored in the arena under a handle, with all that it contains. Dropping the last
/// reference to it frees it.
#[pyclass(frozen, module = "procession._procession")]
pub(crate) struct Parcel(RawParcel);

#[pymethods]
impl Parcel {
    /// The name under which `unpack` finds it, in any process of the family.
    #[getter]
    fn handle<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        handle_bytes(py, self.0.handle())
    }

    fn __repr__(&self) -> String {
        format!("<procession._procession.Parcel {}>", self.0.handle())
    }
}

/// Pickles an object into the arena.
#[pyfunction]
pub(crate) fn pack(py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<Parcel> {
    let encoded = Encoded::of(obj)?;
    encoded
        .send(|message| {
            if encoded.size() < WORTH_DETACHING {
                RawParcel::store(message)
            } else {
                py.detach(|| RawParcel::store(message))
            }
        })
        .map(Parcel)
        .or_raise(py)
}

/// Unpickles the object of a parcel that its packer still holds.
#[pyfunction]
pub(crate) fn unpack<'py>(py: Python<'py>, handle: HandleBytes) -> PyResult<Bound<'py, PyAny>> {
    decode(py, RawParcel::open(handle.0).or_raise(py)?)
}
