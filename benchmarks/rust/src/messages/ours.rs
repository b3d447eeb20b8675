//! Procession: a queue in shared memory, or a pipe on descriptors.

use procession::{Bytes, Process, Queue, Receiver, Sender};
use serde::{Serialize, de::DeserializeOwned};

use super::{Head, LARGE, Peer, Service, Size, Small, serve};

/// A large message: the number, whether it is the last, and the body.
type Large = (u64, bool, Bytes);

trait Message: Serialize + DeserializeOwned + 'static {
    fn new(head: Head, body: &Bytes) -> Self;
    fn head(&self) -> Head;
}

impl Message for Small {
    fn new(head: Head, _: &Bytes) -> Small {
        head.small()
    }
    fn head(&self) -> Head {
        Head::of_small(self)
    }
}

impl Message for Large {
    fn new(head: Head, body: &Bytes) -> Large {
        (head.number, head.last, body.clone())
    }
    fn head(&self) -> Head {
        assert_eq!(
            (self.2.len(), self.2[LARGE - 1]),
            (LARGE, 7),
            "the message came whole"
        );
        Head {
            number: self.0,
            last: self.1,
        }
    }
}

struct Ours<To, From> {
    to: To,
    from: From,
    body: Bytes,
    _child: Process<()>,
}

fn body() -> Bytes {
    Bytes::from(vec![7; LARGE])
}

// --- queues ----------------------------------------------------------------------------------------

struct OverQueues<M>(Queue<M>, Queue<u64>);

impl<M: Message> Service for OverQueues<M> {
    fn receive(&mut self) -> Option<Head> {
        Some(self.0.recv().ok()?.head())
    }
    fn answer(&mut self, number: u64) {
        self.1.send(number).expect("is wanted");
    }
}

impl<M: Message> Peer for Ours<Queue<M>, Queue<u64>> {
    fn send(&mut self, head: Head) {
        assert!(self.to.send(M::new(head, &self.body)).is_ok());
    }
    fn answer(&mut self) -> u64 {
        self.from.recv().expect("comes")
    }
}

fn queues<M: Message>(start: impl Fn(Queue<M>, Queue<u64>) -> Process<()>) -> Box<dyn Peer> {
    let to = Queue::unbounded().expect("there is memory");
    let from = Queue::unbounded().expect("there is memory");
    let child = start(to.clone(), from.clone());
    Box::new(Ours {
        to,
        from,
        body: body(),
        _child: child,
    })
}

pub fn queue(size: Size) -> Box<dyn Peer> {
    let daemon = || Process::builder().daemon(true);
    match size {
        Size::Small => queues::<Small>(|to, from| {
            daemon()
                .spawn(|q, a| serve(OverQueues::<Small>(q, a)), (to, from))
                .expect("starts")
        }),
        Size::Large => queues::<Large>(|to, from| {
            daemon()
                .spawn(|q, a| serve(OverQueues::<Large>(q, a)), (to, from))
                .expect("starts")
        }),
    }
}

// --- pipes -----------------------------------------------------------------------------------------

struct OverPipes<M>(Receiver<M>, Sender<u64>);

impl<M: Message> Service for OverPipes<M> {
    fn receive(&mut self) -> Option<Head> {
        Some(self.0.recv().ok()?.head())
    }
    fn answer(&mut self, number: u64) {
        assert!(self.1.send(number).is_ok());
    }
}

impl<M: Message> Peer for Ours<Sender<M>, Receiver<u64>> {
    fn send(&mut self, head: Head) {
        assert!(self.to.send(M::new(head, &self.body)).is_ok());
    }
    fn answer(&mut self) -> u64 {
        self.from.recv().expect("comes")
    }
}

fn pipes<M: Message>(start: impl Fn(Receiver<M>, Sender<u64>) -> Process<()>) -> Box<dyn Peer> {
    let (to, questions) = procession::pipe().expect("there are descriptors");
    let (answers, from) = procession::pipe().expect("there are descriptors");
    let child = start(questions, answers);
    Box::new(Ours {
        to,
        from,
        body: body(),
        _child: child,
    })
}

pub fn pipe(size: Size) -> Box<dyn Peer> {
    let daemon = || Process::builder().daemon(true);
    match size {
        Size::Small => pipes::<Small>(|questions, answers| {
            daemon()
                .spawn(|q, a| serve(OverPipes::<Small>(q, a)), (questions, answers))
                .expect("starts")
        }),
        Size::Large => pipes::<Large>(|questions, answers| {
            daemon()
                .spawn(|q, a| serve(OverPipes::<Large>(q, a)), (questions, answers))
                .expect("starts")
        }),
    }
}
