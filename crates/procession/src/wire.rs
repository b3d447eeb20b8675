//! Values to bytes and back, with what can't be bytes beside them: handles and large buffers.
//!
//! While a value is serialised, the handles in it note themselves in a collector of the thread, so
//! that the message keeps their objects alive on its way; [`Bytes`] put themselves beside the
//! message. The same the other way round. Outside of a message of ours neither has a meaning, and
//! serialising a handle into a file, say, is an error.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::Serialize;
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::ser::SerializeTuple;

use crate::Bytes;
use crate::engine::pool::Submission;
use crate::engine::{Block, Gone, Handle, Message, Outgoing};
use crate::error::Error;

/// A value ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) handles: Vec<Handle>,
    pub(crate) buffers: Vec<Bytes>,
}

impl Packed {
    /// Calls `send` with the message.
    pub(crate) fn send<R>(&self, tag: u32, send: impl FnOnce(&Outgoing<'_>) -> R) -> R {
        if self.buffers.is_empty() {
            return send(&Outgoing {
                bytes: &self.bytes,
                buffers: &[],
                handles: &self.handles,
                tag,
            });
        }
        let buffers: Vec<&[u8]> = self.buffers.iter().map(|bytes| &**bytes).collect();
        send(&Outgoing {
            bytes: &self.bytes,
            buffers: &buffers,
            handles: &self.handles,
            tag,
        })
    }

    /// The same as a task or result of a pool, behind the bytes that the engine fills in.
    pub(crate) fn submit<R>(&mut self, tag: u32, submit: impl FnOnce(Submission<'_>) -> R) -> R {
        let buffers: Vec<&[u8]> = self.buffers.iter().map(|bytes| &**bytes).collect();
        submit(Submission {
            tag,
            bytes: &mut self.bytes,
            buffers: &buffers,
            handles: &self.handles,
        })
    }
}

/// What the message that is being made has beside its bytes, so far.
#[derive(Debug, Clone, Copy, Default)]
struct Noted {
    /// Whether one is being made.
    inside: bool,
    /// How many of [`HANDLES`], the last ones, are its own.
    handles: usize,
    /// How many of [`ASIDE`].
    buffers: usize,
}

/// The message that is being read.
#[derive(Debug, Clone, Copy)]
struct Incoming {
    /// Whether one is.
    inside: bool,
    /// How many of [`BLOCKS`], the last ones, are its own.
    buffers: usize,
    /// What went wrong in a handle, since serde's formats keep no more than "custom error".
    trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Gone(Gone),
    NoBuffer,
}

thread_local! {
    // What most messages get by with: it has no destructor, and costs next to nothing to get at.
    static SENDING: Cell<Noted> = const { Cell::new(Noted { inside: false, handles: 0, buffers: 0 }) };
    static RECEIVING: Cell<Incoming> = const { Cell::new(Incoming { inside: false, buffers: 0, trouble: None }) };
    static HANDLES: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static ASIDE: RefCell<Vec<Bytes>> = const { RefCell::new(Vec::new()) };
    static BLOCKS: RefCell<Vec<Option<Block>>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The last elements, so many.
fn last<T>(from: &RefCell<Vec<T>>, count: usize) -> Vec<T> {
    let mut from = from.borrow_mut();
    let rest = from.len().saturating_sub(count);
    from.split_off(rest)
}

/// From here on a message is being made, perhaps in the middle of another one.
struct Collecting {
    outer: Noted,
}

impl Collecting {
    fn begin() -> Collecting {
        let inside = Noted {
            inside: true,
            ..Noted::default()
        };
        Collecting {
            outer: SENDING.replace(inside),
        }
    }

    /// What it has beside its bytes.
    fn end(self) -> (Vec<Handle>, Vec<Bytes>) {
        let outer = self.outer;
        std::mem::forget(self);
        Collecting::take(outer)
    }

    fn take(outer: Noted) -> (Vec<Handle>, Vec<Bytes>) {
        let noted = SENDING.replace(outer);
        let (mut handles, mut buffers) = (Vec::new(), Vec::new());
        if noted.handles > 0 {
            handles = HANDLES.with(|all| last(all, noted.handles));
        }
        if noted.buffers > 0 {
            buffers = ASIDE.with(|all| last(all, noted.buffers));
        }
        (handles, buffers)
    }
}

impl Drop for Collecting {
    /// Also when serialising fails or panics.
    fn drop(&mut self) {
        Collecting::take(self.outer);
    }
}

/// From here on a message is being read, perhaps in the middle of another one.
struct Receiving {
    outer: Incoming,
}

impl Receiving {
    fn begin(buffers: Vec<Block>) -> Receiving {
        let incoming = Incoming {
            inside: true,
            buffers: buffers.len(),
            trouble: None,
        };
        if !buffers.is_empty() {
            BLOCKS.with_borrow_mut(|all| all.extend(buffers.into_iter().map(Some)));
        }
        Receiving {
            outer: RECEIVING.replace(incoming),
        }
    }
}

impl Drop for Receiving {
    /// Also when deserialising fails or panics.
    fn drop(&mut self) {
        let incoming = RECEIVING.replace(self.outer);
        if incoming.buffers > 0 {
            drop(BLOCKS.with(|all| last(all, incoming.buffers)));
        }
    }
}

/// Serialises `value` behind the bytes that are there already.
pub(crate) fn encode_after<T: Serialize + ?Sized>(
    bytes: Vec<u8>,
    value: &T,
) -> Result<Packed, Error> {
    let collecting = Collecting::begin();
    let bytes = postcard::to_extend(value, bytes).map_err(|error| Error::encoding::<T>(error))?;
    let (handles, buffers) = collecting.end();
    Ok(Packed {
        bytes,
        handles,
        buffers,
    })
}

/// Serialises `value`.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Packed, Error> {
    encode_after(Vec::new(), value)
}

/// Serialises `value` behind `headroom` free bytes, into memory that this thread uses again and
/// again, and calls `send` with it.
pub(crate) fn encode_and<T, R>(
    value: &T,
    headroom: usize,
    send: impl FnOnce(&mut Packed) -> R,
) -> Result<R, Error>
where
    T: Serialize + ?Sized,
{
    let mut scratch = SCRATCH.take();
    scratch.clear();
    scratch.resize(headroom, 0);
    let mut packed = encode_after(scratch, value)?;
    let result = send(&mut packed);
    // What one large message needed isn't kept.
    if packed.bytes.capacity() <= 64 << 10 {
        SCRATCH.set(packed.bytes);
    }
    Ok(result)
}

/// Serialises a type of this crate that has no handles and can't fail.
pub(crate) fn encode_plain<T: Serialize>(bytes: Vec<u8>, value: &T) -> Packed {
    encode_after(bytes, value).unwrap_or_default()
}

/// The way back.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8], buffers: Vec<Block>) -> Result<T, Error> {
    let (value, rest) = decode_first(bytes, buffers)?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Error::garbled(std::any::type_name::<T>()))
    }
}

/// Decodes a value that takes no bytes: so no handle is read, and no buffer asked for.
#[inline]
pub(crate) fn decode_nothing<T: DeserializeOwned>() -> Result<T, Error> {
    postcard::from_bytes::<T>(&[]).map_err(Error::decoding::<T>)
}

/// Decodes a message, whose references end with it: after the value has taken its own.
pub(crate) fn decode_message<T: DeserializeOwned>(mut message: Message) -> Result<T, Error> {
    let buffers = std::mem::take(&mut message.buffers);
    decode(&message.bytes, buffers)
}

/// Decodes a value and gives what follows it.
pub(crate) fn decode_first<T: DeserializeOwned>(
    bytes: &[u8],
    buffers: Vec<Block>,
) -> Result<(T, &[u8]), Error> {
    let receiving = Receiving::begin(buffers);
    let result = postcard::take_from_bytes::<T>(bytes);
    let trouble = RECEIVING.get().trouble;
    drop(receiving);
    result.map_err(|error| match trouble {
        Some(Trouble::Gone(gone)) => Error::gone(gone),
        Some(Trouble::NoBuffer) => Error::garbled(std::any::type_name::<T>()),
        None => Error::decoding::<T>(error),
    })
}

/// Serialises the handle of an object that the message then keeps alive.
pub(crate) fn serialize_handle<S: serde::Serializer>(
    handle: Handle,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    note(handle).ok_or_else(|| serde::ser::Error::custom(OUTSIDE))?;
    handle.to_bytes().serialize(serializer)
}

/// The same for something that is made of several objects.
pub(crate) fn serialize_handles<S: serde::Serializer, const N: usize>(
    handles: [Handle; N],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut tuple = serializer.serialize_tuple(N)?;
    for handle in handles {
        note(handle).ok_or_else(|| serde::ser::Error::custom(OUTSIDE))?;
        tuple.serialize_element(&handle.to_bytes())?;
    }
    tuple.end()
}

/// Several handles as one serialisable value.
pub(crate) struct Handles<const N: usize>(pub(crate) [Handle; N]);

impl<const N: usize> Serialize for Handles<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_handles(self.0, serializer)
    }
}

/// Notes an object that the message refers to.
pub(crate) fn note(handle: Handle) -> Option<()> {
    let noted = SENDING.get();
    noted.inside.then_some(())?;
    HANDLES.with_borrow_mut(|all| all.push(handle));
    SENDING.set(Noted {
        handles: noted.handles + 1,
        ..noted
    });
    Some(())
}

/// Deserialises a handle and takes hold of its object with `open`.
pub(crate) fn deserialize_handle<'de, D, T>(
    deserializer: D,
    open: impl FnOnce(Handle) -> Result<T, Gone>,
) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let bytes = <[u8; 16] as serde::Deserialize>::deserialize(deserializer)?;
    if !RECEIVING.get().inside {
        return Err(de::Error::custom(OUTSIDE));
    }
    open(Handle::from_bytes(bytes)).map_err(|gone| {
        let text = de::Error::custom(gone);
        trouble(Trouble::Gone(gone));
        text
    })
}

/// The same for something that is made of several objects.
pub(crate) fn deserialize_handles<'de, D, T, const N: usize>(
    deserializer: D,
    open: impl FnOnce([Handle; N]) -> Result<T, Gone>,
) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
{
    struct Handles<const N: usize>;
    impl<'de, const N: usize> Visitor<'de> for Handles<N> {
        type Value = [Handle; N];

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(out, "{N} handles")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<[Handle; N], A::Error> {
            let mut handles = [Handle::from_bytes([0; 16]); N];
            for (index, handle) in handles.iter_mut().enumerate() {
                let bytes = sequence.next_element::<[u8; 16]>()?;
                *handle = Handle::from_bytes(
                    bytes.ok_or_else(|| de::Error::invalid_length(index, &self))?,
                );
            }
            Ok(handles)
        }
    }
    let handles = deserializer.deserialize_tuple(N, Handles::<N>)?;
    if !RECEIVING.get().inside {
        return Err(de::Error::custom(OUTSIDE));
    }
    open(handles).map_err(|gone| {
        let text = de::Error::custom(gone);
        trouble(Trouble::Gone(gone));
        text
    })
}

const OUTSIDE: &str = "a handle of procession (a lock, a queue, ...) can be serialised only within the arguments, \
                       results and messages that procession itself carries to another process of the family";

/// Puts large bytes beside the message; `None` when no message of ours is being made.
pub(crate) fn put_aside(bytes: &Bytes) -> Option<u32> {
    let noted = SENDING.get();
    noted.inside.then_some(())?;
    let number = u32::try_from(noted.buffers + 1).ok()?;
    ASIDE.with_borrow_mut(|all| all.push(bytes.clone()));
    SENDING.set(Noted {
        buffers: noted.buffers + 1,
        ..noted
    });
    Some(number)
}

/// The large bytes that [`put_aside`] gave this number.
pub(crate) fn fetch(number: u32) -> Option<Block> {
    let own = RECEIVING.get().buffers;
    let found = BLOCKS.with_borrow_mut(|all| {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let first = all.len().checked_sub(own)?;
        (index < own).then(|| all.get_mut(first + index)?.take())?
    });
    if found.is_none() {
        trouble(Trouble::NoBuffer);
    }
    found
}

fn trouble(trouble: Trouble) {
    let mut incoming = RECEIVING.get();
    if incoming.inside {
        incoming.trouble.get_or_insert(trouble);
        RECEIVING.set(incoming);
    }
}

/// `Serialize` and `Deserialize` for a type that is made of one object of the engine.
macro_rules! travels {
    ([$($generics:tt)*] $type:ty, $field:tt, $open:expr) => {
        impl<$($generics)*> serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::wire::serialize_handle(self.$field.handle(), serializer)
            }
        }
        impl<'de, $($generics)*> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::wire::deserialize_handle(deserializer, $open)
            }
        }
    };
}
pub(crate) use travels;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::{Lock, Queue};

    #[derive(Debug, Serialize, Deserialize)]
    enum Mixed {
        Number(i128),
        Text(Option<String>),
        Many(Vec<(u8, f64)>),
        Map(BTreeMap<String, Vec<u16>>),
        Raw(Bytes),
        Locked(Lock<u64>),
        Queued(Queue<Vec<String>>),
        Nested(Box<Mixed>, char),
    }

    /// Values, which keep their objects alive, and what they are as messages.
    fn samples() -> Vec<(Mixed, Packed)> {
        let lock = Lock::new(5u64).expect("has memory");
        let queue = Queue::unbounded().expect("has memory");
        let text = Mixed::Text(Some("Grüße".to_owned()));
        let map = BTreeMap::from([("key".to_owned(), vec![1, 2, 3])]);
        let mixed = [
            Mixed::Number(-1),
            Mixed::Many(vec![(1, 0.5); 9]),
            Mixed::Map(map),
            Mixed::Raw(Bytes::from(vec![7; 5000])),
            Mixed::Raw(Bytes::from(vec![7; 5])),
            Mixed::Locked(lock),
            Mixed::Queued(queue),
            Mixed::Nested(Box::new(text), 'ß'),
        ];
        mixed
            .into_iter()
            .map(|value| {
                let packed = encode(&value).expect("is plain");
                (value, packed)
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Bytes that nobody sent, and such as were changed on their way: an error or some value, and
        /// neither a panic nor memory for what was only announced.
        #[test]
        fn any_bytes_are_a_value_or_an_error(
            bytes in vec(any::<u8>(), 0..80),
            changes in vec((any::<usize>(), any::<u8>()), 0..4),
            cut: usize,
        ) {
            let _ = decode::<Mixed>(&bytes, Vec::new());
            let _ = decode::<(u64, String, Vec<u8>, Option<Vec<String>>)>(&bytes, Vec::new());
            let _ = decode_first::<Vec<Mixed>>(&bytes, Vec::new());
            for (_value, sample) in samples() {
                let mut bytes = sample.bytes.clone();
                prop_assert!(
                    !sample.buffers.is_empty() || decode::<Mixed>(&bytes, Vec::new()).is_ok()
                );
                for (place, byte) in &changes {
                    let length = bytes.len();
                    bytes[place % length] ^= byte;
                }
                let _ = decode::<Mixed>(&bytes, Vec::new());
                bytes.truncate(cut % bytes.len());
                let _ = decode::<Mixed>(&bytes, Vec::new());
            }
        }
    }
}
