//! Bytes that travel beside a message.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire;

/// From here on bytes go beside the message.
const LARGE: usize = 16 << 10;

/// Bytes to be sent, cheap to clone and not serialised one by one.
///
/// A large `Vec<u8>` in an argument or message passes through the serialiser; `Bytes` are copied
/// once into the memory that the processes share and once out of it. In any other respect they are
/// a `[u8]`.
///
/// ```
/// use procession::Bytes;
///
/// let image = Bytes::from(vec![0_u8; 1 << 20]);
/// assert_eq!(image.len(), 1 << 20);
/// assert!(image.iter().all(|&byte| byte == 0));
/// ```
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(Arc<Vec<u8>>);

impl Bytes {
    /// The bytes as a vector of their own; without a copy if this is the only clone.
    pub fn into_vec(self) -> Vec<u8> {
        Arc::unwrap_or_clone(self.0)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(Arc::new(bytes))
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        Bytes::from(bytes.to_vec())
    }
}

impl FromIterator<u8> for Bytes {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> Bytes {
        Bytes::from(bytes.into_iter().collect::<Vec<u8>>())
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Bytes({} bytes)", self.len())
    }
}

/// On the wire: the number of the buffer beside the message, or 0 and the bytes themselves.
impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let aside = if self.len() >= LARGE {
            wire::put_aside(self)
        } else {
            None
        };
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&aside.unwrap_or(0))?;
        tuple.serialize_element(&Run(if aside.is_some() { &[] } else { self }))?;
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Bytes;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("bytes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Bytes, A::Error> {
                let number: u32 = pair
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let OwnedRun(bytes) = pair
                    .next_element()?
                    .ok_or_else(|| de::Error::invalid_length(1, &self))?;
                if number == 0 {
                    return Ok(Bytes::from(bytes));
                }
                let block = wire::fetch(number)
                    .ok_or_else(|| de::Error::custom("a buffer of the message is missing"))?;
                Ok(Bytes::from(block.to_vec()))
            }
        }
        deserializer.deserialize_tuple(2, Pair)
    }
}

struct Run<'a>(&'a [u8]);

impl Serialize for Run<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

struct OwnedRun(Vec<u8>);

impl<'de> Deserialize<'de> for OwnedRun {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OwnedRun, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = OwnedRun;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<OwnedRun, E> {
                Ok(OwnedRun(bytes.to_vec()))
            }

            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<OwnedRun, E> {
                Ok(OwnedRun(bytes))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<OwnedRun, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = sequence.next_element()? {
                    bytes.push(byte);
                }
                Ok(OwnedRun(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
