//! iceoryx2: publish and subscribe, the receiver polling all the time.

use std::time::{Duration, Instant};

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::unable_to_deliver_strategy::UnableToDeliverStrategy;
use iceoryx2::prelude::*;

use super::{Head, LARGE, Peer, Service, Size, serve, start_child};

type To = Publisher<ipc::Service, [u8], ()>;
type From = Subscriber<ipc::Service, [u8], ()>;

/// Messages that may be on their way.
const BUFFER: usize = 64;

/// Both directions are made by both sides alike; whoever is first makes the service.
struct Side {
    to: To,
    from: From,
    _node: Node<ipc::Service>,
}

fn side(name: &str, size: Size, there: &str, back: &str) -> Side {
    let node = NodeBuilder::new()
        .create::<ipc::Service>()
        .expect("there is memory");
    let service = |direction: &str| {
        let name = format!("{name}/{direction}");
        node.service_builder(&name.as_str().try_into().expect("is a name"))
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .subscriber_max_buffer_size(BUFFER)
            .history_size(0)
            .open_or_create()
            .expect("there is memory")
    };
    let length = if size == Size::Large { LARGE } else { 64 };
    let to = service(there)
        .publisher_builder()
        .initial_max_slice_len(length)
        .unable_to_deliver_strategy(UnableToDeliverStrategy::Block)
        .create()
        .expect("there is memory");
    let from = service(back)
        .subscriber_builder()
        .buffer_size(BUFFER)
        .create()
        .expect("there is memory");
    Side {
        to,
        from,
        _node: node,
    }
}

impl Side {
    /// Sends a message of so many bytes, again until somebody gets it: the other side may be late.
    fn send(&self, length: usize, fill: impl Fn(&mut [u8])) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut message = self.to.loan_slice_uninit(length).expect("there is memory");
            let bytes = message.payload_mut();
            // SAFETY: the memory is ours, and bytes can have any value.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), length) };
            fill(bytes);
            // SAFETY: it was filled.
            let message = unsafe { message.assume_init() };
            if message.send().expect("is delivered") > 0 {
                return;
            }
            assert!(Instant::now() < deadline, "nobody is there");
        }
    }

    fn poll<R>(&self, mut read: impl FnMut(&[u8]) -> R) -> R {
        loop {
            if let Some(message) = self.from.receive().expect("is connected") {
                return read(message.payload());
            }
            std::hint::spin_loop();
        }
    }
}

struct Ours {
    side: Side,
    size: Size,
    body: Vec<u8>,
}

pub fn connect(size: Size) -> Box<dyn Peer> {
    let name = format!("procession-bench-{}", std::process::id());
    let side = side(&name, size, "there", "back");
    start_child("iceoryx2", size, &name);
    Box::new(Ours {
        side,
        size,
        body: vec![7; LARGE],
    })
}

impl Peer for Ours {
    fn send(&mut self, head: Head) {
        match self.size {
            Size::Small => self.side.send(64, |bytes| {
                for (part, word) in bytes.chunks_exact_mut(8).zip(head.small()) {
                    part.copy_from_slice(&word.to_le_bytes());
                }
            }),
            Size::Large => {
                head.write(&mut self.body);
                let body = &self.body;
                self.side.send(LARGE, |bytes| bytes.copy_from_slice(body));
            }
        }
    }

    fn answer(&mut self) -> u64 {
        self.side
            .poll(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
    }
}

struct Over {
    side: Side,
    size: Size,
    copy: Vec<u8>,
}

impl Service for Over {
    fn receive(&mut self) -> Option<Head> {
        if self.size == Size::Large {
            // The others hand over bytes that are the receiver's own, so these are copied too.
            let copy = &mut self.copy;
            return Some(self.side.poll(|bytes| {
                copy.clear();
                copy.extend_from_slice(bytes);
                Head::of_large(copy)
            }));
        }
        Some(self.side.poll(|bytes| {
            let mut words = bytes
                .chunks_exact(8)
                .map(|part| u64::from_le_bytes(part.try_into().expect("8 bytes")));
            Head::of_small(&std::array::from_fn(|_| words.next().expect("64 bytes")))
        }))
    }

    fn answer(&mut self, number: u64) {
        self.side
            .send(8, |bytes| bytes.copy_from_slice(&number.to_le_bytes()));
    }
}

pub fn child(size: Size, name: &str) {
    serve(Over {
        side: side(name, size, "back", "there"),
        size,
        copy: Vec::new(),
    });
}
