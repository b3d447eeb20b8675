//! The life of a worker process.

use std::cell::RefCell;

use crate::engine::Patience;
use crate::engine::launch;
use crate::engine::pool::{HEADER, Worker};
use crate::entry::{self, EntryName};
use crate::error::Error;
use crate::function::{self, AnswerKind, Carrier, Request, Sink};
use crate::panic::{self, Watch};
use crate::pool::launcher::WorkerStart;
use crate::process::setup;
use crate::start::prepare;
use crate::wire::{self, Packed};

/// Takes tasks until there are no more; gives the exit code.
pub(crate) fn run(entry: launch::Entry) -> i32 {
    let Ok(start) = wire::decode_message::<WorkerStart>(entry.payload) else {
        return 1;
    };
    let Ok(mut worker) = Worker::attach(start.pool.0, start.slot) else {
        // The pool is gone before its worker came: nobody waits.
        return 0;
    };
    // Whoever asked for a task is told of its panic, and may print it.
    panic::watch(Watch::Quiet);
    let mut failure: Option<(AnswerKind, Packed)> = None;
    let mut sink = |kind, packed: &mut Packed| {
        failure = (kind != AnswerKind::Value).then(|| (kind, std::mem::take(packed)));
        Ok(())
    };
    let prepared = prepare(&start.settings, start.setup, || {}, &mut sink);
    if prepared.is_ok()
        && let Some(parcel) = start.initializer
    {
        initialize(parcel.0, &mut sink);
    } else if let Some((_, packed)) = &mut failure {
        // What the engine fills in comes first.
        packed.bytes.splice(0..0, [0; HEADER]);
    }
    if let Some((kind, mut packed)) = failure {
        packed.submit(kind.to_tag(), |why| worker.start_failed(why));
        return 1;
    }
    if let Err(code) = prepared {
        return code;
    }
    worker.ready();
    loop {
        match worker.next(&mut Patience::forever()) {
            Ok(Some(task)) => carry_out(&mut worker, task),
            Ok(None) => return 0,
            // Patience without end runs out only where somebody asked to be interrupted.
            Err(_) => {}
        }
    }
}

fn initialize(parcel: crate::engine::Handle, sink: &mut Sink<'_>) {
    let mut refused = None;
    let mut look = |kind, packed: &mut Packed| {
        if kind == AnswerKind::Value {
            let bytes = packed.bytes.get(HEADER..).unwrap_or_default();
            refused = wire::decode::<std::result::Result<(), String>>(bytes, Vec::new())
                .unwrap_or_else(|error| Err(error.chain()))
                .err();
        }
        sink(kind, packed)
    };
    let _ = setup::run(parcel, HEADER, &mut look);
    if let Some(why) = refused {
        let _ = sink(
            AnswerKind::Setup,
            &mut wire::encode_plain(vec![0; HEADER], &why),
        );
    }
}

fn carry_out(worker: &mut Worker, task: crate::engine::pool::Task) {
    let task = RefCell::new(task);
    let mut sink = |kind: AnswerKind, packed: &mut Packed| {
        packed.submit(kind.to_tag(), |result| {
            worker.finish(task.borrow().id(), result)
        })
    };
    let opened = {
        let task = &mut *task.borrow_mut();
        if task.is_damaged() {
            Err(Error::garbled("a task"))
        } else {
            let buffers = task.take_buffers();
            wire::decode_first::<EntryName>(task.payload(), Vec::new())
                .map(|(entry, rest)| (entry, task.payload().len() - rest.len(), buffers))
        }
    };
    let answered = match opened {
        Ok((entry, skip, buffers)) => {
            let request = Request {
                entry,
                carrier: Carrier::Task(&task),
                skip,
                buffers,
                headroom: HEADER,
            };
            entry::run(request, &mut sink)
        }
        Err(error) => function::refuse(HEADER, &mut sink, &error),
    };
    if answered.is_err() {
        // There is no memory even to say so. Dying is: whoever waits is told that the worker is
        // lost.
        std::process::abort();
    }
}
