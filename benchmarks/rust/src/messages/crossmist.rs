//! crossmist: typed channels over sockets.
//!
//! Its release 1.1.2 tells plain data by how the standard library clones arrays, which newer compilers do otherwise:
//! built by Rust 1.95 it panics with the first message.

use crossmist::{Child, Receiver, Sender};

use super::{Head, LARGE, Peer, Service, Size, Small, serve};

struct Ours<M: crossmist::Object> {
    to: Sender<M>,
    from: Receiver<u64>,
    body: Vec<u8>,
    _child: Child<()>,
}

pub fn connect(size: Size) -> Box<dyn Peer> {
    let (answers, from) = crossmist::channel().expect("there are descriptors");
    match size {
        Size::Small => {
            let (to, questions) = crossmist::channel().expect("there are descriptors");
            let child = serve_small.spawn(questions, answers).expect("starts");
            Box::new(Ours::<Small> {
                to,
                from,
                body: Vec::new(),
                _child: child,
            })
        }
        Size::Large => {
            let (to, questions) = crossmist::channel().expect("there are descriptors");
            let child = serve_large.spawn(questions, answers).expect("starts");
            Box::new(Ours::<Vec<u8>> {
                to,
                from,
                body: vec![7; LARGE],
                _child: child,
            })
        }
    }
}

impl Peer for Ours<Small> {
    fn send(&mut self, head: Head) {
        self.to.send(&head.small()).expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.from.recv().expect("comes").expect("comes")
    }
}

impl Peer for Ours<Vec<u8>> {
    fn send(&mut self, head: Head) {
        head.write(&mut self.body);
        self.to.send(&self.body).expect("is read");
    }
    fn answer(&mut self) -> u64 {
        self.from.recv().expect("comes").expect("comes")
    }
}

struct Over<M: crossmist::Object>(Receiver<M>, Sender<u64>, fn(&M) -> Head);

impl<M: crossmist::Object> Service for Over<M> {
    fn receive(&mut self) -> Option<Head> {
        self.0.recv().ok()?.map(|message| self.2(&message))
    }
    fn answer(&mut self, number: u64) {
        self.1.send(&number).expect("is wanted");
    }
}

#[crossmist::func]
fn serve_small(questions: Receiver<Small>, answers: Sender<u64>) {
    serve(Over(questions, answers, Head::of_small));
}

#[crossmist::func]
fn serve_large(questions: Receiver<Vec<u8>>, answers: Sender<u64>) {
    serve(Over(questions, answers, |message| Head::of_large(message)));
}
