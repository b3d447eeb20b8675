//! ipc-channel: typed messages, plain bytes, or a piece of shared memory for each message.

use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
    IpcSharedMemory,
};
use serde::{Deserialize, Serialize};

use super::{Head, LARGE, Peer, Service, Size, Small, serve, start_child};

/// What the child sends first: how to reach it.
#[derive(Serialize, Deserialize)]
struct Introduction<To> {
    questions: To,
    answers: IpcReceiver<u64>,
}

/// Starts a child and waits for its introduction.
fn meet<To: for<'de> Deserialize<'de> + Serialize>(way: &str, size: Size) -> Introduction<To> {
    let (server, name) =
        IpcOneShotServer::<Introduction<To>>::new().expect("there are descriptors");
    start_child(way, size, &name);
    server.accept().expect("the child comes").1
}

struct Ours<To> {
    met: Introduction<To>,
    body: Vec<u8>,
}

pub fn typed(size: Size) -> Box<dyn Peer> {
    match size {
        Size::Small => Box::new(Ours::<IpcSender<Small>> {
            met: meet("typed", size),
            body: Vec::new(),
        }),
        Size::Large => Box::new(Ours::<IpcSender<Vec<u8>>> {
            met: meet("typed", size),
            body: vec![7; LARGE],
        }),
    }
}

pub fn bytes() -> Box<dyn Peer> {
    Box::new(Ours::<IpcBytesSender> {
        met: meet("bytes", Size::Large),
        body: vec![7; LARGE],
    })
}

pub fn shared() -> Box<dyn Peer> {
    Box::new(Ours::<IpcSender<IpcSharedMemory>> {
        met: meet("shared", Size::Large),
        body: vec![7; LARGE],
    })
}

impl Peer for Ours<IpcSender<Small>> {
    fn send(&mut self, head: Head) {
        self.met.questions.send(head.small()).expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.met.answers.recv().expect("comes")
    }
}

impl Peer for Ours<IpcSender<Vec<u8>>> {
    fn send(&mut self, head: Head) {
        head.write(&mut self.body);
        self.met.questions.send(self.body.clone()).expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.met.answers.recv().expect("comes")
    }
}

impl Peer for Ours<IpcBytesSender> {
    fn send(&mut self, head: Head) {
        head.write(&mut self.body);
        self.met.questions.send(&self.body).expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.met.answers.recv().expect("comes")
    }
}

impl Peer for Ours<IpcSender<IpcSharedMemory>> {
    fn send(&mut self, head: Head) {
        head.write(&mut self.body);
        self.met
            .questions
            .send(IpcSharedMemory::from_bytes(&self.body))
            .expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.met.answers.recv().expect("comes")
    }
}

// --- the child -------------------------------------------------------------------------------------

struct Over<From> {
    questions: From,
    answers: IpcSender<u64>,
}

macro_rules! service {
    ($receiver:ty, $head:expr) => {
        impl Service for Over<$receiver> {
            fn receive(&mut self) -> Option<Head> {
                let head: fn(_) -> Head = $head;
                Some(head(self.questions.recv().ok()?))
            }
            fn answer(&mut self, number: u64) {
                self.answers.send(number).expect("is wanted");
            }
        }
    };
}

service!(IpcReceiver<Small>, |message: Small| Head::of_small(
    &message
));
service!(IpcReceiver<Vec<u8>>, |message: Vec<u8>| Head::of_large(
    &message
));
service!(IpcReceiver<IpcSharedMemory>, |message: IpcSharedMemory| {
    Head::of_large(&message)
});
service!(IpcBytesReceiver, |message: Vec<u8>| Head::of_large(
    &message
));

fn introduce<To: Serialize + for<'de> Deserialize<'de>, From>(
    name: &str,
    questions: To,
    from: From,
) -> Over<From> {
    let (ours, answers) = ipc::channel().expect("there are descriptors");
    let parent = IpcSender::connect(name.to_owned()).expect("is there");
    parent
        .send(Introduction { questions, answers })
        .expect("is read");
    Over {
        questions: from,
        answers: ours,
    }
}

pub fn child(way: &str, size: Size, name: &str) {
    match (way, size) {
        ("typed", Size::Small) => {
            let (to, from) = ipc::channel::<Small>().expect("there are descriptors");
            serve(introduce(name, to, from));
        }
        ("typed", Size::Large) => {
            let (to, from) = ipc::channel::<Vec<u8>>().expect("there are descriptors");
            serve(introduce(name, to, from));
        }
        ("shared", _) => {
            let (to, from) = ipc::channel::<IpcSharedMemory>().expect("there are descriptors");
            serve(introduce(name, to, from));
        }
        _ => {
            let (to, from) = ipc::bytes_channel().expect("there are descriptors");
            serve(introduce(name, to, from));
        }
    }
}
