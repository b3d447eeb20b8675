//! Objects into messages and back.
//!
//! Exact `int`s (of 64 bits), `float`s, `bool`s, `str`s, `bytes` and `None` are written directly;
//! the message's tag says which. Everything else goes through the two functions that the Python
//! side has registered. Large buffers travel as blocks of the arena.
//!
//! **Read-only buffers** arrive read-only, in blocks that are [frozen](crate::frozen): sent on, such a
//! block goes by name. A table says of each buffer what it is; there is none if all are writable.
//!
//! **The open parcel.** While an object is being pickled, the objects of the arena inside it say so
//! ([`mention`]); they are kept until the message is on its way, and the message keeps them alive
//! until it is received. Pickling may send something else (a `__reduce__` which puts into a queue):
//! each has a parcel of its own.

use std::cell::RefCell;

use procession_engine::{Block as RawBlock, Handle, Message, Outgoing, Parcel as RawParcel};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use crate::arguments::HandleBytes;
use crate::block::Block;
use crate::buffer::{self, View};
use crate::error::{self, OrRaise};
use crate::frozen;
use crate::imported::Name;
use crate::pickler::{self, Pickled};
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
    /// A pickle in the first block. The bytes are the table of buffers, if there is one.
    pub(crate) const LARGE_PICKLE: u32 = 8;
    /// A pickle behind the length of a table of buffers (4 bytes) and the table.
    pub(crate) const TABLE_AND_PICKLE: u32 = 9;
}

/// The table of buffers.
///
/// | kind | then | what |
/// | --- | --- | --- |
/// | 0 | | the next block of the message; the receiver's own |
/// | 1 | | the next block of the message, frozen |
/// | 2 | handle (16), first byte (8), length (8) | a part of a frozen block, which the message mentions |
mod table {
    use procession_engine::Handle;

    use crate::frozen::Part;

    const OWN: u8 = 0;
    const FROZEN: u8 = 1;
    const NAMED: u8 = 2;

    #[derive(Debug, Clone, Copy)]
    pub(super) enum Entry {
        Own,
        Frozen,
        Named(Part),
    }

    impl Entry {
        /// The same, read-only.
        pub(super) fn frozen(self) -> Entry {
            match self {
                Entry::Own => Entry::Frozen,
                read_only => read_only,
            }
        }

        pub(super) fn write(self, table: &mut Vec<u8>) {
            match self {
                Entry::Own => table.push(OWN),
                Entry::Frozen => table.push(FROZEN),
                Entry::Named(Part { handle, at, length }) => {
                    table.push(NAMED);
                    table.extend(handle.to_bytes());
                    table.extend((at as u64).to_le_bytes());
                    table.extend((length as u64).to_le_bytes());
                }
            }
        }
    }

    /// The entries; None for one that makes no sense.
    pub(super) fn read(mut table: &[u8]) -> impl Iterator<Item = Option<Entry>> + '_ {
        std::iter::from_fn(move || {
            let (&kind, rest) = table.split_first()?;
            table = rest;
            Some(match kind {
                OWN => Some(Entry::Own),
                FROZEN => Some(Entry::Frozen),
                NAMED => named(&mut table),
                _ => None,
            })
        })
    }

    fn named(table: &mut &[u8]) -> Option<Entry> {
        let (&handle, rest) = table.split_first_chunk::<16>()?;
        let (&at, rest) = rest.split_first_chunk::<8>()?;
        let (&length, rest) = rest.split_first_chunk::<8>()?;
        *table = rest;
        Some(Entry::Named(Part {
            handle: Handle::from_bytes(handle),
            at: usize::try_from(u64::from_le_bytes(at)).ok()?,
            length: usize::try_from(u64::from_le_bytes(length)).ok()?,
        }))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn entries_are_read_as_written_and_nonsense_is_told() {
            let part = Part {
                handle: Handle::from_bytes(*b"0123456789abcdef"),
                at: 7,
                length: 1 << 40,
            };
            let entries = [Entry::Frozen, Entry::Named(part), Entry::Own];
            let mut bytes = Vec::new();
            entries.iter().for_each(|entry| entry.write(&mut bytes));
            let again: Vec<_> = read(&bytes).collect();
            assert_eq!(format!("{again:?}"), format!("{:?}", entries.map(Some)));
            assert!(read(&bytes[..20]).any(|entry| entry.is_none()));
            assert!(read(&[3]).any(|entry| entry.is_none()));
        }
    }
}
use table::Entry;

/// From this size on, bytes travel as a block.
const LARGE: usize = 64 << 10;
/// From this size on, a copy is worth letting other threads run meanwhile.
pub(crate) const WORTH_DETACHING: usize = 256 << 10;

static BUFFERS: Name = Name::new("buffers");
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
    pickler::forget_pickler_maker();
    let Some(pair) = PICKLER.get(py) else {
        // Fails if another thread was first, which registers the same.
        let _ = PICKLER.set(py, PyList::new(py, [dumps, loads])?.unbind());
        return Ok(());
    };
    pair.bind(py).set_item(0, dumps)?;
    pair.bind(py).set_item(1, loads)
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
    outside: Outside,
    mentions: Vec<Mention>,
}

/// The buffers of a pickle.
#[derive(Default)]
struct Outside {
    /// To be copied.
    buffers: Vec<View>,
    /// In frozen blocks: they go by name, and are kept until they have.
    named: Vec<(Handle, View)>,
    /// What each one is; empty if there is nothing to say.
    table: Vec<u8>,
}

impl Outside {
    fn of<'py>(views: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<Outside> {
        let mut outside = Outside::default();
        let mut read_only = false;
        for view in views {
            let view = View::of(&view)?;
            let part = if view.is_read_only() {
                read_only = true;
                frozen::part_of(view.bytes())
            } else {
                None
            };
            match part {
                Some(part) => {
                    Entry::Named(part).write(&mut outside.table);
                    outside.named.push((part.handle, view));
                }
                None => {
                    let entry = if view.is_read_only() {
                        Entry::Frozen
                    } else {
                        Entry::Own
                    };
                    entry.write(&mut outside.table);
                    outside.buffers.push(view);
                }
            }
        }
        if !read_only {
            outside.table.clear();
        }
        Ok(outside)
    }

    /// Has all arrive read-only.
    fn freeze(&mut self) {
        let entries: Vec<Entry> = if self.table.is_empty() {
            vec![Entry::Frozen; self.buffers.len()]
        } else {
            table::read(&self.table)
                .flatten()
                .map(Entry::frozen)
                .collect()
        };
        self.table.clear();
        for entry in entries {
            entry.write(&mut self.table);
        }
    }

    fn size(&self) -> usize {
        self.buffers.iter().map(View::len).sum()
    }
}

/// An object that is written directly, in a word at most.
pub(crate) struct Scalar {
    tag: u32,
    word: [u8; Scalar::LONGEST],
    length: usize,
}

impl Scalar {
    pub(crate) const LONGEST: usize = 8;

    #[inline]
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> Option<Scalar> {
        let (tag, word, length) = if object.is_exact_instance_of::<PyInt>() {
            // One that is too large is pickled.
            (tag::INT, object.extract::<i64>().ok()?.to_le_bytes(), 8)
        } else if object.is_none() {
            (tag::NONE, [0; 8], 0)
        } else if let Ok(number) = object.cast_exact::<PyFloat>() {
            (tag::FLOAT, number.value().to_le_bytes(), 8)
        } else if let Ok(truth) = object.cast_exact::<PyBool>() {
            (tag::BOOL, u64::from(truth.is_true()).to_le_bytes(), 1)
        } else {
            return None;
        };
        Some(Scalar { tag, word, length })
    }

    #[inline]
    pub(crate) fn tag(&self) -> u32 {
        self.tag
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.word[..self.length]
    }
}

enum Body<'py> {
    Scalar(Scalar),
    Bytes(Bound<'py, PyBytes>),
    Str(Bound<'py, PyString>),
}

impl<'py> Encoded<'py> {
    fn plain(tag: u32, body: Body<'py>) -> Encoded<'py> {
        Encoded {
            tag,
            body,
            outside: Outside::default(),
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

    /// Encodes one of the objects that are written directly.
    #[inline]
    pub(crate) fn direct(object: &Bound<'py, PyAny>) -> Option<Encoded<'py>> {
        if let Some(scalar) = Scalar::of(object) {
            return Some(Encoded::plain(scalar.tag, Body::Scalar(scalar)));
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
        match Encoded::quickly(object)? {
            Some(encoded) => Ok(encoded),
            None => Encoded::slowly(object, &registered(object.py(), 0)?),
        }
    }

    /// By a pickler that is at hand, without Python code.
    fn quickly(object: &Bound<'py, PyAny>) -> PyResult<Option<Encoded<'py>>> {
        let parcel = OpenParcel::open();
        let Some(Pickled { bytes, buffers }) = pickler::pickle(object)? else {
            return Ok(None);
        };
        Ok(Some(Encoded {
            tag: tag::PICKLE,
            body: Body::Bytes(bytes),
            mentions: parcel.close(),
            outside: Outside::of(buffers.into_iter())?,
        }))
    }

    fn pickle_with(
        object: &Bound<'py, PyAny>,
        dumps: &Bound<'py, PyAny>,
    ) -> PyResult<Encoded<'py>> {
        match Encoded::quickly(object)? {
            Some(encoded) => Ok(encoded),
            None => Encoded::slowly(object, dumps),
        }
    }

    fn slowly(object: &Bound<'py, PyAny>, dumps: &Bound<'py, PyAny>) -> PyResult<Encoded<'py>> {
        let parcel = OpenParcel::open();
        let dumped = dumps.call1((object,))?;
        let mentions = parcel.close();
        if let Ok(bytes) = dumped.cast::<PyBytes>() {
            return Ok(Encoded {
                tag: tag::PICKLE,
                body: Body::Bytes(bytes.clone()),
                outside: Outside::default(),
                mentions,
            });
        }
        let pair = dumped.cast::<PyTuple>()?;
        let (bytes, outside): (Bound<'py, PyBytes>, Bound<'py, PyList>) = pair.extract()?;
        Ok(Encoded {
            tag: tag::PICKLE,
            body: Body::Bytes(bytes),
            outside: Outside::of(outside.iter())?,
            mentions,
        })
    }

    /// Whether it took a pickler, which may have taken its time.
    #[inline]
    pub(crate) fn is_pickle(&self) -> bool {
        matches!(self.tag, tag::PICKLE | tag::LARGE_PICKLE)
    }

    /// Bytes to be copied.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        let body = match &self.body {
            Body::Scalar(scalar) => scalar.length,
            Body::Bytes(bytes) => bytes.as_bytes().len(),
            Body::Str(text) => text.to_str().map_or(0, str::len),
        };
        body + self.outside.size()
    }

    /// Passes it to `send` as a message. Until that returns, what the message mentions is kept.
    #[inline]
    pub(crate) fn send<R>(&self, send: impl FnOnce(&Outgoing<'_>) -> R) -> R {
        let bytes: &[u8] = match &self.body {
            Body::Scalar(scalar) => scalar.bytes(),
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
        let Outside {
            buffers,
            named,
            table,
        } = &self.outside;
        if self.tag != tag::LARGE_PICKLE
            && buffers.is_empty()
            && named.is_empty()
            && self.mentions.is_empty()
        {
            return send(&Outgoing {
                tag: self.tag,
                bytes,
                buffers: &[],
                handles: &[],
            });
        }
        let joined: Vec<u8>;
        let (tag, bytes, first) = if self.tag == tag::LARGE_PICKLE {
            (self.tag, table.as_slice(), Some(bytes))
        } else if table.is_empty() {
            (self.tag, bytes, None)
        } else {
            // Each buffer has at least 64 KiB: there are not that many.
            let length = (table.len() as u32).to_le_bytes();
            joined = [length.as_slice(), table, bytes].concat();
            (tag::TABLE_AND_PICKLE, joined.as_slice(), None)
        };
        let buffers: Vec<&[u8]> = first
            .into_iter()
            .chain(buffers.iter().map(View::bytes))
            .collect();
        let mentioned = self.mentions.iter().map(|(handle, _)| *handle);
        let named = named.iter().map(|(handle, _)| *handle);
        let handles: Vec<Handle> = mentioned.chain(named).collect();
        send(&Outgoing {
            tag,
            bytes,
            buffers: &buffers,
            handles: &handles,
        })
    }
}

/// The object, if it is one of those that are written directly and short, and whole.
#[inline]
pub(crate) fn decode_scalar<'py>(
    py: Python<'py>,
    tag: u32,
    bytes: &[u8],
) -> Option<Bound<'py, PyAny>> {
    match tag {
        tag::INT => {
            let number = i64::from_le_bytes(bytes.try_into().ok()?);
            Some(number.into_pyobject(py).ok()?.into_any())
        }
        tag::NONE => Some(py.None().into_bound(py)),
        tag::BOOL => Some(
            PyBool::new(py, bytes.first() == Some(&1))
                .to_owned()
                .into_any(),
        ),
        tag::FLOAT => {
            let number = f64::from_le_bytes(bytes.try_into().ok()?);
            Some(PyFloat::new(py, number).into_any())
        }
        _ => None,
    }
}

/// The object, if it is one of those that are written directly, from `length` bytes that `read` copies
/// to where they are wanted. Runs nothing of Python's.
#[inline]
pub(crate) fn decode_directly<'py>(
    py: Python<'py>,
    tag: u32,
    length: usize,
    read: impl Fn(&mut [u8]),
) -> Option<Bound<'py, PyAny>> {
    match tag {
        tag::BYTES => {
            let fill = |place: &mut [u8]| {
                read(place);
                Ok(())
            };
            Some(PyBytes::new_with(py, length, fill).ok()?.into_any())
        }
        tag::STR => {
            let mut text = [0; 512];
            let text = text.get_mut(..length)?;
            read(text);
            Some(PyString::new(py, std::str::from_utf8(text).ok()?).into_any())
        }
        _ => {
            let mut word = [0; 8];
            let word = word.get_mut(..length)?;
            read(word);
            decode_scalar(py, tag, word)
        }
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
        tag::PICKLE | tag::LARGE_PICKLE | tag::TABLE_AND_PICKLE => {
            let mut blocks = std::mem::take(&mut message.buffers).into_iter();
            let (table, data) = match message.tag {
                tag::PICKLE => (&[][..], PyBytes::new(py, bytes).into_any()),
                tag::LARGE_PICKLE => {
                    let pickle = Block::from(blocks.next().ok_or_else(garbled)?);
                    (bytes, Bound::new(py, pickle)?.into_any())
                }
                _ => {
                    let (length, rest) = bytes.split_first_chunk().ok_or_else(garbled)?;
                    let length = u32::from_le_bytes(*length) as usize;
                    let (table, pickle) = rest.split_at_checked(length).ok_or_else(garbled)?;
                    (table, PyBytes::new(py, pickle).into_any())
                }
            };
            let loads = registered(py, 1)?;
            if blocks.len() == 0 && table.is_empty() {
                // `message` keeps what is mentioned until the objects have been rebuilt.
                return loads.call1((data,));
            }
            let own = |block: RawBlock| {
                block.is_a_copy();
                Ok(Bound::new(py, Block::from(block))?.into_any())
            };
            let frozen = |block: RawBlock, at, length| {
                frozen::view(py, block, at, length)?.ok_or_else(garbled)
            };
            let buffers = if table.is_empty() {
                blocks.map(own).collect::<PyResult<Vec<_>>>()?
            } else {
                let next = |entry| match entry {
                    Some(Entry::Own) => own(blocks.next().ok_or_else(garbled)?),
                    Some(Entry::Frozen) => {
                        let block = blocks.next().ok_or_else(garbled)?;
                        let length = block.len();
                        frozen(block, 0, length)
                    }
                    Some(Entry::Named(part)) => {
                        let block = RawBlock::from_handle(part.handle).or_raise(py)?;
                        frozen(block, part.at, part.length)
                    }
                    None => Err(garbled()),
                };
                table::read(table).map(next).collect::<PyResult<Vec<_>>>()?
            };
            let options = PyDict::new(py);
            options.set_item(BUFFERS.get(py), PyList::new(py, buffers)?)?;
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
    store(py, &encoded).map(Parcel)
}

/// Copies it into the arena, without the interpreter if that takes long.
fn store(py: Python<'_>, encoded: &Encoded<'_>) -> PyResult<RawParcel> {
    encoded
        .send(|message| {
            if encoded.size() < WORTH_DETACHING {
                RawParcel::store(message)
            } else {
                py.detach(|| RawParcel::store(message))
            }
        })
        .or_raise(py)
}

/// Unpickles the object of a parcel that its packer still holds.
#[pyfunction]
pub(crate) fn unpack<'py>(py: Python<'py>, handle: HandleBytes) -> PyResult<Bound<'py, PyAny>> {
    decode(py, RawParcel::open(handle.0).or_raise(py)?)
}

/// A copy of an object whose large buffers lie in frozen blocks.
#[pyfunction]
pub(crate) fn freeze<'py>(py: Python<'py>, obj: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let mut encoded = Encoded::pickle(obj)?.large();
    encoded.outside.freeze();
    let parcel = store(py, &encoded)?;
    decode(py, RawParcel::open(parcel.handle()).or_raise(py)?)
}
