//! A shortcut beside a descriptor that joins two processes: room for one short message each way.
//!
//! It carries requests and their answers: who has sent one sends another only once it has had the
//! answer, so there is one message at most on its way in each direction. The receiver of one looks
//! here for a moment before it sleeps at the descriptor, which also tells it of the sender's death.
//! Each side has a state word:
//!
//! | word | meaning | who changes it |
//! | --- | --- | --- |
//! | `EMPTY` | nothing is on its way | the sender, to `FULL` or `AWAY`; the receiver, to `ASLEEP` |
//! | `ASLEEP` | the receiver waits at the descriptor | the sender, to `AWAY` |
//! | `AWAY` | a message is at the descriptor, or about to be | the receiver, to `EMPTY`, once it has it |
//! | `FULL` | a message lies here | the receiver, to `EMPTY`, once it has it |
//!
//! So each message is at one place, and the word says at which. A sender killed before its word
//! changes has sent nothing; one killed after `AWAY` has sent what is at the descriptor. A sender
//! that finds `FULL` or `AWAY` breaks the rule: it sends this message and all later ones by the
//! descriptor and leaves the word alone, which keeps their order.
//!
//! SYNC POINT: the exchange to `FULL` (release) with its load (acquire): the message is visible. The
//! store of `EMPTY` (release) with the load that finds it (acquire): the room may be written to.

use crate::arena::Shared;
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::crash::crash_point;
use crate::patience::Patience;

const EMPTY: u32 = 0;
const ASLEEP: u32 = 1;
const AWAY: u32 = 2;
const FULL: u32 = 3;

/// Words of a message that has room here. Two in a model: enough for one to be seen without the other.
const WORDS: usize = if cfg!(loom) { 2 } else { 503 };

/// A message that is not longer has room.
pub const MAILBOX_ROOM: usize = WORDS * 8;

#[repr(C, align(64))]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
struct Side {
    word: AtomicU32,
    length: AtomicU32,
    message: [AtomicU64; WORDS],
}

/// The shortcut, in shared memory. One end sends on one side and receives on the other.
#[repr(C)]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct RawMailbox {
    sides: [Side; 2],
    secret: AtomicU64,
}

// SAFETY: repr(C), atomics only, no Drop; zeros are an empty mailbox.
unsafe impl Shared for RawMailbox {}

/// One of the two ways through a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who made it.
    There,
    /// To who made it.
    Back,
}

/// Where a message is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the message may have to be sent"]
pub enum Posted {
    /// It lies in the mailbox: nothing more is to be done.
    Here,
    /// It is to be sent by the descriptor.
    Away,
    /// This one and all later ones are: one is on its way already.
    Crowded,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// To be [taken](RawMailbox::take).
    Here,
    /// At the descriptor, or will be. To be followed by [`fetched`](RawMailbox::fetched).
    Away,
}

impl RawMailbox {
    /// Writes down something by which the other end can tell that it has the same mailbox.
    pub fn mark(&self, secret: u64) {
        self.secret.store(secret, Ordering::Relaxed);
    }

    /// Whether this is what the maker has written down.
    pub fn is_marked(&self, secret: u64) -> bool {
        self.secret.load(Ordering::Relaxed) == secret
    }

    fn side(&self, way: Way) -> &Side {
        match way {
            Way::There => &self.sides[0],
            Way::Back => &self.sides[1],
        }
    }

    /// Puts a message in, if there is room and somebody looks; else says that it goes by the descriptor.
    pub fn post(&self, way: Way, message: &[u8]) -> Posted {
        let side = self.side(way);
        if self.try_post(way, message) {
            Posted::Here
        } else if self.advance(side, EMPTY, AWAY) || self.advance(side, ASLEEP, AWAY) {
            crash_point!("mailbox: away");
            Posted::Away
        } else {
            Posted::Crowded
        }
    }

    /// Puts a message in, if there is room and somebody looks.
    pub fn try_post(&self, way: Way, message: &[u8]) -> bool {
        let side = self.side(way);
        if message.len() > MAILBOX_ROOM || side.word.load(Ordering::Acquire) != EMPTY {
            return false;
        }
        let (whole, rest) = message.as_chunks::<8>();
        for (place, chunk) in side.message.iter().zip(whole) {
            place.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            side.message[whole.len()].store(u64::from_le_bytes(last), Ordering::Relaxed);
        }
        side.length.store(message.len() as u32, Ordering::Relaxed);
        crash_point!("mailbox: written");
        // Unless the receiver has just fallen asleep.
        self.advance(side, EMPTY, FULL)
    }

    /// Where a message is that is on its way.
    pub fn look(&self, way: Way) -> Option<Arrived> {
        match self.side(way).word.load(Ordering::Acquire) {
            EMPTY => None,
            FULL => Some(Arrived::Here),
            _ => Some(Arrived::Away),
        }
    }

    /// Waits for a message for the short while in which sleeping would cost more; after that it will
    /// be at the descriptor.
    pub fn wait(&self, way: Way, patience: &mut Patience<'_>) -> Arrived {
        let look = || self.look(way);
        loop {
            if let Some(arrived) = look().or_else(|| patience.spin(look)) {
                return arrived;
            }
            if self.advance(self.side(way), EMPTY, ASLEEP) {
                return Arrived::Away;
            }
        }
    }

    /// Takes the message out that is here.
    pub fn take(&self, way: Way) -> Option<Vec<u8>> {
        let side = self.side(way);
        if side.word.load(Ordering::Acquire) != FULL {
            return None;
        }
        // Whatever the memory says, no more than there is.
        let length = MAILBOX_ROOM.min(side.length.load(Ordering::Relaxed) as usize);
        let mut message = Vec::with_capacity(length.next_multiple_of(8));
        for place in &side.message[..length.div_ceil(8)] {
            message.extend_from_slice(&place.load(Ordering::Relaxed).to_le_bytes());
        }
        message.truncate(length);
        crash_point!("mailbox: read");
        side.word.store(EMPTY, Ordering::Release);
        Some(message)
    }

    /// The message that was at the descriptor has been received.
    pub fn fetched(&self, way: Way) {
        // If it is the receiver that sleeps there, the sender breaks the rule, and sends there for ever.
        self.advance(self.side(way), AWAY, EMPTY);
    }

    /// Hears of nothing: who does this has looked before, or reads nothing after it.
    fn advance(&self, side: &Side, from: u32, to: u32) -> bool {
        side.word
            .compare_exchange(from, to, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn mailbox() -> Box<RawMailbox> {
        let side = || Side {
            word: AtomicU32::new(EMPTY),
            length: AtomicU32::new(0),
            message: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Box::new(RawMailbox {
            sides: [side(), side()],
            secret: AtomicU64::new(0),
        })
    }

    #[test]
    fn it_fits_its_size_class() {
        assert!(size_of::<RawMailbox>() <= 8192);
    }

    #[test]
    fn messages_of_every_length_arrive_as_they_were() {
        let mailbox = mailbox();
        for length in (0..40).chain([MAILBOX_ROOM - 1, MAILBOX_ROOM]) {
            let message: Vec<u8> = (0..length).map(|at| (at * 7 + length) as u8).collect();
            assert_eq!(mailbox.post(Way::There, &message), Posted::Here);
            assert_eq!(mailbox.look(Way::Back), None);
            assert_eq!(mailbox.look(Way::There), Some(Arrived::Here));
            assert_eq!(mailbox.take(Way::There), Some(message));
            assert_eq!(mailbox.look(Way::There), None);
            assert_eq!(mailbox.take(Way::There), None);
        }
    }

    #[test]
    fn what_is_long_goes_by_the_descriptor() {
        let mailbox = mailbox();
        let long = vec![1; MAILBOX_ROOM + 1];
        assert!(!mailbox.try_post(Way::Back, &long));
        assert_eq!(mailbox.post(Way::Back, &long), Posted::Away);
        assert_eq!(mailbox.look(Way::Back), Some(Arrived::Away));
        mailbox.fetched(Way::Back);
        assert_eq!(mailbox.post(Way::Back, b"short"), Posted::Here);
    }

    #[test]
    fn who_sleeps_is_sent_to_the_descriptor_once() {
        let mailbox = mailbox();
        let mut none = Patience::none();
        assert_eq!(mailbox.wait(Way::There, &mut none), Arrived::Away);
        assert!(!mailbox.try_post(Way::There, b"first"));
        assert_eq!(mailbox.post(Way::There, b"first"), Posted::Away);
        assert_eq!(mailbox.wait(Way::There, &mut none), Arrived::Away);
        mailbox.fetched(Way::There);
        assert_eq!(mailbox.post(Way::There, b"second"), Posted::Here);
        assert_eq!(mailbox.wait(Way::There, &mut none), Arrived::Here);
        assert_eq!(mailbox.take(Way::There), Some(b"second".to_vec()));
    }

    #[test]
    fn a_second_message_is_told_that_it_is_one() {
        let mailbox = mailbox();
        assert_eq!(mailbox.post(Way::There, b"first"), Posted::Here);
        assert_eq!(mailbox.post(Way::There, b"second"), Posted::Crowded);
        assert_eq!(mailbox.take(Way::There), Some(b"first".to_vec()));
        assert_eq!(
            mailbox.wait(Way::There, &mut Patience::none()),
            Arrived::Away
        );
        mailbox.fetched(Way::There);
        // The sender leaves it alone from now on: its next message is at the descriptor as well.
        assert_eq!(mailbox.look(Way::There), Some(Arrived::Away));
    }

    #[test]
    fn a_mark_tells_one_from_another() {
        let mailbox = mailbox();
        mailbox.mark(77);
        assert!(mailbox.is_marked(77) && !mailbox.is_marked(78));
    }

    #[test]
    fn two_threads_answer_each_other() {
        let mailbox = mailbox();
        let at_descriptor = [std::sync::Mutex::new(None), std::sync::Mutex::new(None)];
        let send = |way: Way, number: u64| match mailbox.post(way, &number.to_le_bytes()) {
            Posted::Here => {}
            Posted::Away => *at_descriptor[way as usize].lock().expect("whole") = Some(number),
            Posted::Crowded => panic!("two messages at a time"),
        };
        let receive = |way: Way| match mailbox.wait(way, &mut Patience::forever()) {
            Arrived::Here => {
                let message = mailbox.take(way).expect("is there");
                u64::from_le_bytes(message.try_into().expect("8 bytes"))
            }
            Arrived::Away => loop {
                let arrived = at_descriptor[way as usize].lock().expect("whole").take();
                if let Some(number) = arrived {
                    mailbox.fetched(way);
                    break number;
                }
                std::thread::yield_now();
            },
        };
        let rounds = if cfg!(miri) { 30 } else { 3000 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds {
                    send(Way::Back, receive(Way::There) + 1);
                }
            });
            for round in 0..rounds {
                send(Way::There, round * 2);
                assert_eq!(receive(Way::Back), round * 2 + 1);
            }
        });
    }
}
