//! Both ends of a start: what the parent sends, and what the child does with it.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

use crate::current;
use crate::engine::launch::{self, LaunchError, LaunchRequest, Pipes, Surroundings};
use crate::engine::per_process::PerProcess;
use crate::engine::{Patience, Queue, Role};
use crate::entry::{self, EntryName};
use crate::error::{Error, Result};
use crate::function::{AnswerKind, Carrier, Request, Sink};
use crate::panic::{self, Watch};
use crate::pool::launcher::Named;
use crate::pool::worker;
use crate::process::{Plan, Running, Settings, Timeout, setup};
use crate::wire::{self, Packed, travels};

/// The exit code of a process that panicked, as it is of any Rust program.
const PANICKED: i32 = 101;

/// What kind of child is to be made, in the number that the engine passes on for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occupation {
    /// Calls one function and sends its answer.
    Function,
    /// Takes tasks from a pool.
    Worker,
}

impl Occupation {
    pub(crate) fn to_raw(self) -> u64 {
        match self {
            Occupation::Function => 0,
            Occupation::Worker => 1,
        }
    }
}

/// Where the answer of a child goes: a queue for one message.
///
/// The message outlives the child, and there is none unless it is complete.
#[derive(Debug, Clone)]
pub(crate) struct Reply(pub(crate) Queue);

travels!([] Reply, 0, |handle| Queue::from_handle(handle).map(Reply));

/// The start of the message that a child of occupation `Function` gets. The arguments follow.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    entry: EntryName,
    reply: Reply,
    settings: Settings,
    setup: Option<Named>,
}

/// Makes this program able to start processes; in a process that was started so, does its work and
/// ends it.
///
/// **To be called in the first line of `main`.** `#[procession::main]` does that for you.
///
/// The children of a program are the same executable, started again. In a child `init` never
/// returns: it calls the function that the child was made for, and ends the process. What stands
/// before it in `main` runs in every child, what stands after it in none.
///
/// A program that starts a process without having called `init` gets an error that says so
/// ([`Error::is_not_initialised`]). Calling it more than once does no harm.
pub fn init() {
    match launch::child_entry() {
        Ok(None) => {}
        Ok(Some(entry)) => {
            // Whatever happens, this process doesn't go on in main. (The function's own panics are
            // answers; what comes here is, say, that of a result's destructor.)
            let code = catch_unwind(AssertUnwindSafe(|| run(entry))).unwrap_or(PANICKED);
            launch::finish(code)
        }
        Err(error) => {
            complain(&error);
            std::process::exit(1)
        }
    }
}

/// What `#[procession::test]` puts at the start of a test.
#[doc(hidden)]
pub fn __test_entry(module: &str, name: &str) {
    // libtest leaves the name of the crate out.
    let path = module
        .split_once("::")
        .map_or_else(|| name.to_owned(), |(_, path)| format!("{path}::{name}"));
    // A child is this test, run again on its own; it does not come further than the next line.
    let arguments = [
        &path,
        "--exact",
        "--nocapture",
        "--include-ignored",
        "--test-threads=1",
    ];
    // The harness's other thread waits for this one, and holds no lock meanwhile.
    launch::allow_threads_in_server();
    launch::set_child_arguments(arguments.into_iter().map(OsString::from).collect());
    init();
}

#[allow(
    clippy::print_stderr,
    reason = "a child that can't do its work has nobody else to tell"
)]
fn complain(error: &dyn std::error::Error) {
    eprintln!(
        "procession: process {} can't begin its work: {error}",
        std::process::id()
    );
}

/// The life of a child, to its exit code.
fn run(entry: launch::Entry) -> i32 {
    current::begin(&entry);
    match entry.entry {
        number if number == Occupation::Function.to_raw() => run_function(entry),
        number if number == Occupation::Worker.to_raw() => worker::run(entry),
        _ => {
            complain(&Error::garbled("the start of a process"));
            1
        }
    }
}

fn run_function(entry: launch::Entry) -> i32 {
    let mut message = entry.payload;
    let (start, rest) = match wire::decode_first::<Start>(&message.bytes, Vec::new()) {
        Ok(start) => start,
        Err(error) => {
            complain(&error);
            return 1;
        }
    };
    let skip = message.bytes.len() - rest.len();
    let buffers = std::mem::take(&mut message.buffers);
    let Start {
        entry,
        reply,
        settings,
        setup,
    } = start;
    let request = Request {
        entry,
        carrier: Carrier::Message(message),
        skip,
        buffers,
        headroom: 0,
    };

    panic::watch(Watch::Note);
    let mut sink = |kind: AnswerKind, packed: &mut Packed| {
        packed.send(kind.to_tag(), |message| put_answer(&reply.0, message))
    };
    let setup_panics = || answer_last_words(&reply, AnswerKind::SetupPanic);
    if let Err(code) = prepare(&settings, setup, setup_panics, &mut sink) {
        return code;
    }
    answer_last_words(&reply, AnswerKind::Panic);
    let answered = entry::run(request, &mut sink);
    panic::watch(Watch::Off);
    match answered {
        Ok(AnswerKind::Value) => 0,
        Ok(AnswerKind::Panic) => PANICKED,
        Ok(_) => 1,
        Err(error) => {
            complain(&error);
            1
        }
    }
}

/// What comes before anything else: settings and hook. `before_hook` is called if there is one. The
/// exit code if that is the end; `sink` was told why.
pub(crate) fn prepare(
    settings: &Settings,
    setup: Option<Named>,
    before_hook: impl FnOnce(),
    sink: &mut Sink<'_>,
) -> std::result::Result<(), i32> {
    let no = |kind: AnswerKind, text: &str, sink: &mut Sink<'_>| {
        let _ = sink(kind, &mut wire::encode_plain(Vec::new(), &text));
        Err(1)
    };
    if let Err(refused) = settings.apply() {
        return no(AnswerKind::Setting, &refused.to_string(), sink);
    }
    let Some(setup) = setup else { return Ok(()) };
    before_hook();
    let mut said = None;
    let answered = setup::run(setup.0, 0, &mut |kind, packed| {
        said = Some((kind, std::mem::take(packed)));
        Ok(())
    });
    match (answered, said) {
        (Ok(_), Some((AnswerKind::Value, packed))) => {
            match wire::decode::<std::result::Result<(), String>>(&packed.bytes, Vec::new()) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(text)) => no(AnswerKind::Setup, &text, sink),
                Err(error) => no(AnswerKind::Setup, &error.chain(), sink),
            }
        }
        (Ok(_), Some((AnswerKind::Panic, mut packed))) => {
            let _ = sink(AnswerKind::SetupPanic, &mut packed);
            Err(PANICKED)
        }
        // A refusal, which is a text as well.
        (Ok(_), Some((_, mut packed))) => {
            let _ = sink(AnswerKind::Setup, &mut packed);
            Err(1)
        }
        _ => Err(1),
    }
}

/// Has the panic that ends this process sent, where panics abort.
fn answer_last_words(reply: &Reply, kind: AnswerKind) {
    let last = reply.clone();
    panic::set_last_words(move |panic| {
        let packed = wire::encode_plain(Vec::new(), panic);
        let _ = packed.send(kind.to_tag(), |message| {
            last.0.put(message, &mut Patience::none())
        });
    });
}

fn put_answer(
    queue: &Queue,
    message: &crate::engine::Outgoing<'_>,
) -> std::result::Result<(), crate::engine::AllocError> {
    use crate::engine::PutError;
    match queue.put(message, &mut Patience::none()) {
        Ok(()) => Ok(()),
        Err(PutError::Memory(error)) => Err(error),
        // There is room for one answer and there is one; and nobody closes this queue.
        Err(_) => Ok(()),
    }
}

/// The children of this process that have not been seen to end.
static CHILDREN: PerProcess<Vec<Weak<Running>>> = PerProcess::new();

pub(crate) fn children() -> Vec<Arc<Running>> {
    let mut running = Vec::new();
    CHILDREN.with(|list| {
        list.retain(|child| {
            let Some(child) = child.upgrade() else {
                return false;
            };
            let alive = child.child.is_alive();
            if alive {
                running.push(child);
            }
            alive
        });
    });
    running
}

pub(crate) fn remember(child: &Arc<Running>) {
    CHILDREN.with(|list| list.push(Arc::downgrade(child)));
}

/// Starts a child that calls the function named `entry` with `arguments`; gives it with this
/// process's ends of its pipes.
pub(crate) fn start<A: Serialize>(
    plan: &Plan,
    entry: EntryName,
    arguments: &A,
) -> Result<(Running, Pipes)> {
    let timeout = plan.timeout.map(Timeout::new);
    let reply = Reply(Queue::new(NonZeroU32::new(1))?);
    let start = Start {
        entry,
        reply,
        settings: plan.conditions.settings.clone(),
        setup: plan.setup.as_ref().map(|parcel| Named(parcel.handle())),
    };
    let name = &plan.name;
    let packed = wire::encode(&(&start, arguments))
        .map_err(|error| Error::start(name, Error::about::<A>(error)))?;
    let (child, pipes) = packed.send(0, |payload| {
        let request = LaunchRequest {
            method: plan.conditions.method.to_engine(),
            name,
            role: Role::Process,
            daemon: plan.daemon,
            entry: Occupation::Function.to_raw(),
            payload,
            fds: &[],
            run,
        };
        launch(&request, &plan.conditions.surroundings)
    })?;
    let running = Running {
        child,
        reply: start.reply,
        daemon: plan.daemon,
        method: plan.conditions.method,
        timeout,
        memory_limit: plan.conditions.memory_limit,
        told: AtomicBool::new(false),
    };
    Ok((running, pipes))
}

/// Starts a child of any occupation.
pub(crate) fn launch(
    request: &LaunchRequest<'_>,
    surroundings: &Surroundings,
) -> Result<(crate::engine::Child, Pipes)> {
    if matches!(request.method, launch::StartMethod::Fork) {
        panic::install();
    }
    launch::launch_in(request, surroundings).map_err(|error| match error {
        LaunchError::InitMissing => Error::not_initialised(),
        LaunchError::Payload(error) => Error::from(error),
        LaunchError::Family(error) => Error::from(error),
        other => Error::start(request.name, other),
    })
}

/// The function that runs a child, for starts by fork.
pub(crate) const RUN: fn(launch::Entry) -> i32 = run;
