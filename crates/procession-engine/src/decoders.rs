//! Whatever reads bytes that a peer has sent, or that lie in shared memory, gets bytes made up at
//! random, and sound ones with changes: it must not panic, ask for much memory, or go on for ever.

use std::io::Write;
use std::time::Duration;

use procession_shm::{Handle, Patience};
use procession_sys::socket;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::connection::{Connection, RecvError};
use crate::message::{Outgoing, Parcel};
use crate::pool::wire::{HEADER, Header};
use crate::ticket::{Reader, Ticket, from_hex};

/// As long as all of it may take.
fn soon<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_secs(20))
}

/// A number as it stands at the head of a frame: often one with a meaning.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        any::<u64>(),
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 40),
        0u64..100
    ];
    (-5i32..200, any::<u32>(), number, vec(any::<u8>(), 0..24)).prop_map(
        |(code, tag, number, rest)| {
            let mut bytes = code.to_be_bytes().to_vec();
            if code == -3 {
                bytes.extend(tag.to_be_bytes());
            }
            bytes.extend(number.to_be_bytes());
            bytes.extend(rest);
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_from_a_peer_are_messages_or_an_error(
        frames in vec(prop_oneof![head(), vec(any::<u8>(), 0..60)], 1..6),
        family: bool,
        as_message: bool,
    ) {
        let (one, other) = socket::pair().expect("pair");
        let connection = Connection::from_fd(one, true, true, family);
        let bytes = frames.concat();
        let mut peer = std::fs::File::from(other);
        peer.write_all(&bytes).expect("is little");
        drop(peer);
        let mut received = 0;
        // Each takes four bytes at least, so there is an end.
        for _ in 0..=bytes.len() {
            let result = if as_message {
                connection.recv_message(&mut soon()).map(|message| message.bytes.capacity())
            } else {
                connection.recv_bytes(None, &mut soon()).map(|bytes| bytes.capacity())
            };
            match result {
                Ok(room) => {
                    received += 1;
                    prop_assert!(room <= 1 << 20, "{room} bytes for {} that came", bytes.len());
                }
                // A name of an object that is not there: the next message is whole again.
                Err(RecvError::Gone(_)) => received += 1,
                Err(error) => {
                    prop_assert!(!matches!(error, RecvError::TimedOut), "it waits for ever");
                    return Ok(());
                }
            }
        }
        prop_assert!(false, "{received} messages in {} bytes", bytes.len());
    }

    #[test]
    fn any_bytes_are_a_ticket_or_none(bytes in vec(any::<u8>(), 0..200), text: String) {
        if let Some(ticket) = Ticket::read(&mut Reader(&bytes)) {
            prop_assert!(ticket.name.len() <= bytes.len());
        }
        if let Some(variables) = Reader(&bytes).variables() {
            prop_assert!(variables.len() * 16 <= bytes.len());
        }
        if let Some(bytes) = from_hex(&text) {
            prop_assert_eq!(bytes.len() * 2, text.len());
        }
    }

    #[test]
    fn any_bytes_are_a_pools_notice_or_none(bytes in vec(any::<u8>(), 0..64)) {
        let header = Header::read(&bytes);
        prop_assert_eq!(header.is_some(), bytes.len() >= HEADER);
        if let Some(header) = header {
            let mut again = [0; HEADER];
            header.write(&mut again);
            prop_assert_eq!(&again[..], &bytes[..HEADER]);
        }
    }

    #[test]
    fn any_handle_is_an_object_or_gone(bytes: [u8; 16], place in 0usize..16) {
        prop_assert!(Parcel::take(Handle::from_bytes(bytes)).is_err());
        let parcel = Parcel::store(&Outgoing::bytes(b"sound")).expect("has memory");
        let mut near = parcel.handle().to_bytes();
        near[place] ^= bytes[place] | 1;
        prop_assert!(Parcel::take(Handle::from_bytes(near)).is_err());
    }
}
