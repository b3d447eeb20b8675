//! The frames of messages: their heads, and one that is arriving. Nothing a peer says is believed:
//! memory grows with what has arrived, not with what was announced.

use std::io;

use procession_shm::Handle;

const LONG: i32 = -1;
const PARCEL: i32 = -2;
const TAGGED: i32 = -3;
/// The longest head: code, handle, weight.
const HEAD: usize = 24;
/// Room for a body is made in steps that are no smaller.
const LEAST_ROOM: usize = 64 << 10;

/// The bytes that announce a message.
pub(super) struct Head {
    bytes: [u8; HEAD],
    length: usize,
}

impl Head {
    fn new(parts: &[&[u8]]) -> Head {
        let mut head = Head {
            bytes: [0; HEAD],
            length: 0,
        };
        for part in parts {
            head.bytes[head.length..head.length + part.len()].copy_from_slice(part);
            head.length += part.len();
        }
        head
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

pub(super) fn head_of_bytes(length: usize) -> Head {
    match i32::try_from(length) {
        Ok(short) => Head::new(&[&short.to_be_bytes()]),
        Err(_) => Head::new(&[&LONG.to_be_bytes(), &(length as u64).to_be_bytes()]),
    }
}

pub(super) fn head_of_tagged(tag: u32, length: usize) -> Head {
    Head::new(&[
        &TAGGED.to_be_bytes(),
        &tag.to_be_bytes(),
        &(length as u64).to_be_bytes(),
    ])
}

pub(super) fn head_of_parcel(parcel: Handle, weight: u32) -> Head {
    Head::new(&[
        &PARCEL.to_be_bytes(),
        &parcel.to_bytes(),
        &weight.to_be_bytes(),
    ])
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    Bytes { length: usize },
    Tagged { tag: u32, length: usize },
    Parcel { handle: Handle, weight: usize },
}

impl Frame {
    /// Whether it is one that a stranger may send.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Frame::Bytes { .. })
    }

    /// Bytes of the body that are kept.
    pub(super) fn length(&self) -> usize {
        match *self {
            Frame::Bytes { length } | Frame::Tagged { length, .. } => length,
            Frame::Parcel { .. } => 0,
        }
    }
}

/// A message that is arriving.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    head: [u8; HEAD],
    have: usize,
    pub(super) body: Vec<u8>,
    pub(super) weight_left: usize,
}

impl Incoming {
    /// A message of bytes that is here already.
    pub(super) fn whole(body: Vec<u8>) -> Incoming {
        let head = head_of_bytes(body.len());
        Incoming {
            head: head.bytes,
            have: head.length,
            body,
            weight_left: 0,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.have > 0
    }

    fn number<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.head[at..at + N]);
        bytes
    }

    fn code(&self) -> i32 {
        i32::from_be_bytes(self.number(0))
    }

    fn head_length(&self) -> usize {
        match self.code() {
            _ if self.have < 4 => 4,
            LONG => 12,
            PARCEL => 24,
            TAGGED => 16,
            _ => 4,
        }
    }

    /// What of the head is still to come.
    pub(super) fn head_rest(&mut self) -> &mut [u8] {
        let end = self.head_length();
        &mut self.head[self.have..end]
    }

    pub(super) fn head_grew(&mut self, count: usize) {
        self.have += count;
        if self.have == self.head_length()
            && let Some(Frame::Parcel { weight, .. }) = self.frame()
        {
            self.weight_left = weight;
        }
    }

    /// What the head says, once it is complete; `None` if that makes no sense.
    pub(super) fn frame(&self) -> Option<Frame> {
        let length = |at| {
            let length = u64::from_be_bytes(self.number(at));
            isize::try_from(length).ok().map(isize::unsigned_abs)
        };
        match self.code() {
            LONG => Some(Frame::Bytes { length: length(4)? }),
            PARCEL => Some(Frame::Parcel {
                handle: Handle::from_bytes(self.number(4)),
                weight: u32::from_be_bytes(self.number(20)) as usize,
            }),
            TAGGED => Some(Frame::Tagged {
                tag: u32::from_be_bytes(self.number(4)),
                length: length(8)?,
            }),
            short => Some(Frame::Bytes {
                length: usize::try_from(short).ok()?,
            }),
        }
    }

    pub(super) fn parcel(&self) -> Option<Handle> {
        match self.frame() {
            Some(Frame::Parcel { handle, .. }) => Some(handle),
            _ => None,
        }
    }

    pub(super) fn tag(&self) -> u32 {
        match self.frame() {
            Some(Frame::Tagged { tag, .. }) => tag,
            _ => 0,
        }
    }

    /// Makes room for more of the body: twice what has arrived, or what is missing.
    pub(super) fn make_room(&mut self, missing: usize) -> io::Result<()> {
        if self.body.len() < self.body.capacity() {
            return Ok(());
        }
        let more = missing.min(self.body.len().max(LEAST_ROOM));
        self.body
            .try_reserve_exact(more)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrive(bytes: &[u8]) -> Incoming {
        let mut incoming = Incoming::default();
        for &byte in bytes {
            let rest = incoming.head_rest();
            rest[0] = byte;
            incoming.head_grew(1);
        }
        assert!(incoming.head_rest().is_empty(), "the head is complete");
        incoming
    }

    #[test]
    fn heads_are_those_of_multiprocessing() {
        assert_eq!(head_of_bytes(0).as_slice(), [0, 0, 0, 0]);
        assert_eq!(
            head_of_bytes(0x7fff_ffff).as_slice(),
            [0x7f, 0xff, 0xff, 0xff]
        );
        let long = head_of_bytes(0x8000_0000);
        assert_eq!(
            long.as_slice(),
            [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0]
        );
        assert_eq!(
            arrive(long.as_slice()).frame(),
            Some(Frame::Bytes {
                length: 0x8000_0000
            })
        );
    }

    #[test]
    fn every_head_is_read_as_written() {
        let handle = Handle::from_bytes(*b"0123456789abcdef");
        let parcel = arrive(head_of_parcel(handle, 77).as_slice());
        assert_eq!(parcel.frame(), Some(Frame::Parcel { handle, weight: 77 }));
        assert_eq!((parcel.parcel(), parcel.weight_left), (Some(handle), 77));
        let tagged = arrive(head_of_tagged(0xdead_beef, 5).as_slice());
        assert_eq!(
            tagged.frame(),
            Some(Frame::Tagged {
                tag: 0xdead_beef,
                length: 5
            })
        );
        assert_eq!(tagged.tag(), 0xdead_beef);
    }

    #[test]
    fn nonsense_is_no_frame() {
        assert_eq!(arrive(&(-4i32).to_be_bytes()).frame(), None);
        assert_eq!(arrive(&i32::MIN.to_be_bytes()).frame(), None);
        let mut endless = vec![0xff; 4];
        endless.extend(u64::MAX.to_be_bytes());
        assert_eq!(arrive(&endless).frame(), None);
    }

    #[test]
    fn room_grows_with_what_has_arrived() {
        let mut incoming = Incoming::default();
        incoming.make_room(1 << 40).expect("is small");
        assert!(incoming.body.capacity() <= 2 * LEAST_ROOM);
        incoming.body.resize(incoming.body.capacity(), 0);
        let before = incoming.body.capacity();
        incoming.make_room(1 << 40).expect("is small");
        assert!(incoming.body.capacity() <= 3 * before);
    }
}
