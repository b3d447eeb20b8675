//! The mailbox beside a descriptor, under loom: run by ci/loom.sh.
//!
//! Sender and receiver do what the engine's connection does. The descriptor is a queue that the
//! receiver sleeps at: who is told that his message is there, and it is not, sleeps for ever, which
//! loom reports as a deadlock.
#![cfg(loom)]

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use procession_shm::{Arrived, MAILBOX_ROOM, Patience, Posted, RawMailbox, Way};

#[derive(Default)]
struct Descriptor {
    messages: Mutex<VecDeque<Vec<u8>>>,
    bell: Condvar,
}

/// What is not shared but handed on with the messages: loom fails a model in which one is at it
/// without having heard of what the other did there.
#[derive(Default)]
struct Plain(UnsafeCell<()>);

#[allow(unsafe_code, reason = "the cell is what messages hand on")]
// SAFETY: nobody looks into it; loom checks who could.
unsafe impl Sync for Plain {}

impl Plain {
    fn touch(&self) {
        self.0.with_mut(|_| ());
    }
}

#[derive(Default)]
struct Pair {
    mailbox: RawMailbox,
    descriptors: [Descriptor; 2],
    plain: Plain,
}

/// A message, each word of which says which one it is. Nothing is 0, as the room is at first.
fn message(number: u8) -> Vec<u8> {
    vec![number; MAILBOX_ROOM - usize::from(number % 2)]
}

fn long(number: u8) -> Vec<u8> {
    vec![number; MAILBOX_ROOM + 1]
}

impl Pair {
    /// Sends, and says where to.
    fn send(&self, way: Way, message: &[u8]) -> Posted {
        let posted = self.mailbox.post(way, message);
        if posted != Posted::Here {
            self.send_away(way, message);
        }
        posted
    }

    fn send_away(&self, way: Way, message: &[u8]) {
        let descriptor = &self.descriptors[way as usize];
        let mut messages = descriptor.messages.lock().expect("no thread panics");
        messages.push_back(message.to_vec());
        descriptor.bell.notify_one();
    }

    fn receive(&self, way: Way) -> Vec<u8> {
        match self.mailbox.wait(way, &mut Patience::forever()) {
            Arrived::Here => self.mailbox.take(way).expect("it was here"),
            Arrived::Away => {
                self.sleep(way);
                self.fetch(way)
            }
        }
    }

    /// Does not wait, and is not told where a message will be: looks at the descriptor too.
    fn try_receive(&self, way: Way) -> Option<Vec<u8>> {
        if self.mailbox.look(way) == Some(Arrived::Here) {
            return self.mailbox.take(way);
        }
        let messages = self.descriptors[way as usize].messages.lock();
        let readable = !messages.expect("no thread panics").is_empty();
        readable.then(|| self.fetch(way))
    }

    /// Until the descriptor is readable.
    fn sleep(&self, way: Way) {
        let descriptor = &self.descriptors[way as usize];
        let mut messages = descriptor.messages.lock().expect("no thread panics");
        while messages.is_empty() {
            messages = descriptor.bell.wait(messages).expect("no thread panics");
        }
    }

    /// The descriptor is readable: but what lies here was sent before.
    fn fetch(&self, way: Way) -> Vec<u8> {
        if let Some(message) = self.mailbox.take(way) {
            return message;
        }
        let messages = self.descriptors[way as usize].messages.lock();
        let message = messages.expect("no thread panics").pop_front();
        self.mailbox.fetched(way);
        message.expect("the only reader")
    }

    /// Nothing is left anywhere.
    fn assert_empty(&self) {
        for way in [Way::There, Way::Back] {
            assert_eq!(self.mailbox.look(way), None);
            let messages = self.descriptors[way as usize].messages.lock();
            assert!(messages.expect("no thread panics").is_empty());
        }
    }
}

/// Requests and their answers, each of which makes one of what was asked.
fn conversation(requests: &'static [fn(u8) -> Vec<u8>], answer: fn(u8) -> Vec<u8>) {
    loom::model(move || {
        let pair = Arc::new(Pair::default());
        let server = {
            let pair = pair.clone();
            thread::spawn(move || {
                for (number, request) in (1..).zip(requests) {
                    assert_eq!(pair.receive(Way::There), request(number));
                    pair.plain.touch();
                    assert_ne!(pair.send(Way::Back, &answer(number)), Posted::Crowded);
                }
            })
        };
        for (number, request) in (1..).zip(requests) {
            pair.plain.touch();
            assert_ne!(pair.send(Way::There, &request(number)), Posted::Crowded);
            assert_eq!(pair.receive(Way::Back), answer(number));
        }
        server.join().expect("ends");
        pair.assert_empty();
    });
}

#[test]
fn each_request_has_its_answer() {
    conversation(&[message, message], message);
}

#[test]
fn what_is_long_goes_by_the_descriptor_and_what_follows_does_not() {
    conversation(&[long, message], long);
}

/// Loom puts a change of a word before the last load of it alone, not before one that another load has
/// followed: so who is to see the change lets it come first. It may be late all the same: loom tries that too.
fn let_others_go_first() {
    thread::yield_now();
}

#[test]
fn who_sees_a_message_or_takes_it_sees_what_was_done_before() {
    for looks_first in [false, true] {
        loom::model(move || {
            let pair = Arc::new(Pair::default());
            let sender = {
                let pair = pair.clone();
                thread::spawn(move || {
                    pair.plain.touch();
                    assert!(pair.mailbox.try_post(Way::There, &message(1)));
                })
            };
            let_others_go_first();
            if looks_first && pair.mailbox.look(Way::There).is_some() {
                pair.plain.touch();
            }
            if let Some(taken) = pair.mailbox.take(Way::There) {
                assert_eq!(taken, message(1));
                pair.plain.touch();
            }
            sender.join().expect("ends");
        });
    }
}

/// Loom moves no load behind a later store, as processors do: that what is read of a message has been read
/// before its room is written to again is seen by what else was done before.
#[test]
fn who_finds_room_again_knows_that_the_message_was_taken() {
    loom::model(|| {
        let pair = Arc::new(Pair::default());
        let receiver = {
            let pair = pair.clone();
            thread::spawn(move || {
                if pair.mailbox.look(Way::There).is_some() {
                    pair.plain.touch();
                    assert_eq!(pair.mailbox.take(Way::There), Some(message(1)));
                }
            })
        };
        assert!(pair.mailbox.try_post(Way::There, &message(1)));
        let_others_go_first();
        if pair.mailbox.try_post(Way::There, &message(2)) {
            pair.plain.touch();
        }
        receiver.join().expect("ends");
    });
}

/// One who breaks the rule and doesn't wait for answers.
fn breaks_the_rule(pair: &Pair) {
    let mut given_up = false;
    for number in 1..4 {
        if given_up {
            pair.send_away(Way::There, &message(number));
        } else {
            given_up = pair.send(Way::There, &message(number)) == Posted::Crowded;
        }
    }
}

#[test]
fn messages_keep_their_order_when_the_rule_is_broken() {
    loom::model(|| {
        let pair = Arc::new(Pair::default());
        let sender = {
            let pair = pair.clone();
            thread::spawn(move || breaks_the_rule(&pair))
        };
        for number in 1..4 {
            assert_eq!(pair.receive(Way::There), message(number));
        }
        sender.join().expect("ends");
    });
}

#[test]
fn they_do_so_too_for_one_who_does_not_wait() {
    loom::model(|| {
        let pair = Arc::new(Pair::default());
        let sender = {
            let pair = pair.clone();
            thread::spawn(move || breaks_the_rule(&pair))
        };
        // As many looks as a model can have; the rest is received when all has been sent.
        let mut got: Vec<_> = (0..2)
            .filter_map(|_| pair.try_receive(Way::There))
            .collect();
        sender.join().expect("ends");
        while let Some(message) = pair.try_receive(Way::There) {
            got.push(message);
        }
        assert_eq!(got, [message(1), message(2), message(3)]);
    });
}
