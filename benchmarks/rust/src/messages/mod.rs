//! Messages to another process, and its answers.
//!
//! The child counts the messages and checks each one's number and content; a message that is marked
//! `last` is answered with its number. So a batch of one is a round trip, and a large batch measures
//! one way.

mod crossmist;
mod iceoryx2;
mod ipc_channel;
mod ours;

use crate::timing::Effort;

/// First argument of children that are started by hand.
pub const CHILD: &str = "--child";

/// What a small message is: 64 bytes.
pub type Small = [u64; 8];

/// What a large message has: 1 MiB, the first 16 bytes of which may be the head.
pub const LARGE: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Small,
    Large,
}

impl Size {
    fn named(name: &str) -> Size {
        if name == "large" {
            Size::Large
        } else {
            Size::Small
        }
    }

    fn name(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Large => "large",
        }
    }
}

/// What the child looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub number: u64,
    pub last: bool,
}

impl Head {
    fn small(self) -> Small {
        [self.number, self.last.into(), 0, 0, 0, 0, 0, !self.number]
    }

    fn of_small(message: &Small) -> Head {
        assert_eq!(message[7], !message[0], "the message came whole");
        Head {
            number: message[0],
            last: message[1] == 1,
        }
    }

    fn write(self, message: &mut [u8]) {
        message[..8].copy_from_slice(&self.number.to_le_bytes());
        message[8] = self.last.into();
        *message.last_mut().expect("is not empty") = self.number as u8;
    }

    fn of_large(message: &[u8]) -> Head {
        assert_eq!(message.len(), LARGE);
        let number = u64::from_le_bytes(message[..8].try_into().expect("8 bytes"));
        assert_eq!(message[LARGE - 1], number as u8, "the message came whole");
        Head {
            number,
            last: message[8] == 1,
        }
    }
}

/// This side: sends, and waits for answers.
pub trait Peer {
    fn send(&mut self, head: Head);
    fn answer(&mut self) -> u64;
}

/// The child's side; `None` is the end.
pub trait Service {
    fn receive(&mut self) -> Option<Head>;
    fn answer(&mut self, number: u64);
}

/// What the child does.
pub fn serve(mut service: impl Service) {
    let mut expected = 0;
    while let Some(head) = service.receive() {
        assert_eq!(head.number, expected, "in order, and none is missing");
        expected += 1;
        if head.last {
            service.answer(head.number);
        }
    }
}

fn connect(contestant: &str, size: Size) -> Box<dyn Peer> {
    match contestant {
        "procession" => ours::queue(size),
        "procession pipe" => ours::pipe(size),
        "ipc-channel" if size == Size::Small => ipc_channel::typed(size),
        "ipc-channel" => ipc_channel::bytes(),
        "ipc-channel typed" => ipc_channel::typed(size),
        "ipc-channel shared" => ipc_channel::shared(),
        "crossmist" => crossmist::connect(size),
        "iceoryx2" => iceoryx2::connect(size),
        other => panic!("{other} sends nothing"),
    }
}

pub fn measure(row: &str, contestant: &str, effort: Effort) -> f64 {
    let (size, full) = match row {
        "small one way" => (Size::Small, 10_000),
        "small there and back" => (Size::Small, 1),
        "large one way" => (Size::Large, 50),
        "large there and back" => (Size::Large, 1),
        other => panic!("there is no row {other}"),
    };
    let batch = if full == 1 { 1 } else { effort.count(full) };
    let mut peer = connect(contestant, size);
    let mut number = 0;
    effort.per_item(|| {
        for i in 1..=batch {
            peer.send(Head {
                number,
                last: i == batch,
            });
            number += 1;
        }
        assert_eq!(peer.answer(), number - 1);
        batch
    })
}

/// A child that was started by hand: the library, the size, and how to find the other side.
pub fn child(arguments: &[String]) {
    let [library, size, name] = arguments else {
        panic!("wrong arguments")
    };
    match library.as_str() {
        "iceoryx2" => iceoryx2::child(Size::named(size), name),
        _ => ipc_channel::child(library, Size::named(size), name),
    }
}

/// Starts this program as such a child. It ends when this process does.
fn start_child(library: &str, size: Size, name: &str) {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().expect("is known");
    let mut command = std::process::Command::new(program);
    command.args([CHILD, library, size.name(), name]);
    // SAFETY: a system call and nothing else.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command.spawn().expect("starts");
}
