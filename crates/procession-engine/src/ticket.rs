//! What a child is told by whoever launches it, as bytes: in its environment, or in a request to a
//! fork server.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use procession_shm::{Handle, Role};

use crate::family::Seat;

/// What a child is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) seat: Seat,
    pub(crate) parcel: Handle,
    pub(crate) entry: u64,
    pub(crate) role: Role,
    pub(crate) daemon: bool,
    pub(crate) name: String,
    /// Who launches it.
    pub(crate) parent: u32,
}

impl Ticket {
    pub(crate) fn write(&self, to: &mut Writer) {
        to.number(self.seat.to_raw());
        to.bytes(&self.parcel.to_bytes());
        to.number(self.entry);
        to.number(role_number(self.role));
        to.number(self.daemon.into());
        to.bytes(self.name.as_bytes());
        to.number(self.parent.into());
    }

    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Ticket> {
        Some(Ticket {
            seat: Seat::from_raw(from.number()?)?,
            parcel: Handle::from_bytes(from.bytes()?.try_into().ok()?),
            entry: from.number()?,
            role: role_of(from.number()?),
            daemon: from.number()? != 0,
            name: String::from_utf8(from.bytes()?.to_vec()).ok()?,
            parent: from.number()?.try_into().ok()?,
        })
    }
}

fn role_number(role: Role) -> u64 {
    match role {
        Role::Worker => 1,
        Role::ForkServer => 2,
        Role::Server => 3,
        _ => 0,
    }
}

fn role_of(number: u64) -> Role {
    match number {
        1 => Role::Worker,
        2 => Role::ForkServer,
        3 => Role::Server,
        _ => Role::Process,
    }
}

/// Appends numbers and strings of bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }

    pub(crate) fn variables(&mut self, variables: &[(OsString, OsString)]) {
        self.number(variables.len() as u64);
        for (name, value) in variables {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what a [`Writer`] wrote, believing nothing.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*number))
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn variables(&mut self) -> Option<Vec<(OsString, OsString)>> {
        let mut variables = Vec::new();
        for _ in 0..self.number()? {
            let name = OsString::from_vec(self.bytes()?.to_vec());
            let value = OsString::from_vec(self.bytes()?.to_vec());
            let settable = !name.is_empty()
                && !name.as_bytes().contains(&b'=')
                && !name.as_bytes().contains(&0)
                && !value.as_bytes().contains(&0);
            if settable {
                variables.push((name, value));
            }
        }
        Some(variables)
    }
}

/// Bytes as text that fits an environment.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
        .collect()
}

/// What [`to_hex`] made, back.
pub(crate) fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            seat: Seat::from_raw(4097).expect("is a seat"),
            parcel: Handle::from_bytes(*b"0123456789abcdef"),
            entry: u64::MAX,
            role: Role::Worker,
            daemon: true,
            name: "Grüße".to_owned(),
            parent: 12,
        }
    }

    #[test]
    fn a_ticket_comes_back_as_written() {
        let mut writer = Writer::default();
        ticket().write(&mut writer);
        writer.variables(&[("A".into(), "1=2".into()), ("B".into(), "".into())]);
        let bytes = from_hex(&to_hex(&writer.finish())).expect("is hex");
        let mut reader = Reader(&bytes);
        assert_eq!(Ticket::read(&mut reader), Some(ticket()));
        assert_eq!(
            reader.variables(),
            Some(vec![("A".into(), "1=2".into()), ("B".into(), "".into())])
        );
        assert!(reader.number().is_none());
    }

    #[test]
    fn cut_or_changed_bytes_are_refused_or_read_without_harm() {
        let mut writer = Writer::default();
        ticket().write(&mut writer);
        let bytes = writer.finish();
        for end in 0..bytes.len() {
            assert_eq!(Ticket::read(&mut Reader(&bytes[..end])), None);
        }
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0xff;
            let _ = Ticket::read(&mut Reader(&wrong));
        }
        assert_eq!(from_hex("0g"), None);
        assert_eq!(from_hex("012"), None);
        assert_eq!(from_hex("é"), None);
        assert_eq!(Reader(&u64::MAX.to_le_bytes()).variables(), None);
    }
}
