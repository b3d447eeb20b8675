//! How a Rust program starts children that run its own functions.
//!
//! A child is the same program; which of its functions it runs is a number ([`LaunchRequest::entry`])
//! that the front door makes sense of. It gets a message, which is stored in the family's memory,
//! and descriptors.
//!
//! | method | what happens | cost |
//! | --- | --- | --- |
//! | [`Spawn`](StartMethod::Spawn) | the program is executed again | that of an exec, whatever the parent's size |
//! | [`ForkServer`](StartMethod::ForkServer) | it is executed again once, as a server with one thread, which forks | a small fork |
//! | [`Fork`](StartMethod::Fork) | this process is forked | grows with the memory in use: 45 ms per GiB |
//!
//! # The protocol
//! 1. The front door has `init()` called as the first thing in main. It calls [`child_entry`]. In a
//!    program that a user has started this gives `Ok(None)`, and from then on [`launch`] works.
//! 2. [`launch`] stores the payload and hands it to the child's seat: it lives as long as the child
//!    needs it, whether the parent lives or not. Then it starts the child. By `Spawn` the child is
//!    executed with a variable in its environment that names its seat, the payload, the entry and
//!    the numbers of its descriptors. By `ForkServer` the same goes to the server in a request (see
//!    the source of `zygote`). `launch` returns when the child exists, and does not wait for it to
//!    get anywhere.
//! 3. In the child, main runs up to `init()`. There [`child_entry`] joins the family, marks the
//!    child as checked in, arranges for its death if it is daemonic, and gives `Ok(Some(entry))`.
//!    (In a fork server it does not return but in the children that it forks.) By `Fork` there is no
//!    main: `launch` calls [`LaunchRequest::run`] in the child.
//! 4. The front door runs the entry, catches its panics, and calls [`finish`], which ends the process.
//! 5. The parent sees the end by [`Child::sentinel`] and [`Child::wait`], whatever the child was
//!    doing. One that ended before step 3 is not [`checked_in`](Child::checked_in).
//!
//! **No init in main.** [`launch`] knows that `child_entry` was not called in this process, and so
//! would not be in the child: it is [`LaunchError::InitMissing`] and nothing is started. Should a
//! child take another way through main than its parent, its own launches fail in the same way, so
//! that there can't be more than one generation of them.

mod errors;
pub(crate) mod start;
pub(crate) mod surroundings;

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use procession_shm::Role;
use procession_sys::process as sys;

use crate::family::{self, Seat};
use crate::message::{Message, Outgoing, Parcel};
use crate::process::{self, CHECKED_IN, Child, Origin, Spawned};
use crate::ticket::Ticket;
use crate::zygote::{self, Forkling, ServerError};

pub use errors::{EntryError, LaunchError};
use start::Start;
use surroundings::Prepared;
pub use surroundings::{Pipes, Standard, Surroundings};

/// As many descriptors as one launch can pass on.
pub const MOST_FDS: usize = 200;

/// How a child is started. See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StartMethod {
    /// The program is executed again. The child has nothing of its parent but what it is given. Its
    /// working directory, environment and standard descriptors are the parent's.
    #[default]
    Spawn,
    /// A server, which is this program executed again, forks the child. To the child this is like
    /// `Spawn`, but faster. Working directory, environment, standard descriptors and file mask are
    /// those of the caller now; other limits and settings those at the start of the server, which is
    /// the first launch.
    ForkServer,
    /// This process is forked: the child has a copy of all its memory. For programs with one thread.
    /// With more see [`fork_running`].
    Fork,
}

/// A child to be launched.
#[derive(Debug, Clone, Copy)]
pub struct LaunchRequest<'a> {
    /// How.
    pub method: StartMethod,
    /// The child's name, for people.
    pub name: &'a str,
    /// What it is for.
    pub role: Role,
    /// Whether it is to be killed when this process ends, however this process ends.
    pub daemon: bool,
    /// Which function it is to run.
    pub entry: u64,
    /// What it is given.
    pub payload: &'a Outgoing<'a>,
    /// Descriptors of which it gets duplicates, at most [`MOST_FDS`].
    pub fds: &'a [BorrowedFd<'a>],
    /// Runs an entry and gives an exit code. Called in the child by `Fork`, not at all otherwise.
    pub run: fn(Entry) -> i32,
}

/// What a child was launched for.
#[derive(Debug)]
pub struct Entry {
    /// Which function it is to run.
    pub entry: u64,
    /// What it is given.
    pub payload: Message,
    /// Duplicates of [`LaunchRequest::fds`], in that order, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whether it ends with its parent.
    pub daemon: bool,
    /// How it was started.
    pub method: StartMethod,
    /// The pid of the process that launched it.
    pub parent: u32,
}

/// Whether [`child_entry`] was called in this program.
static INITIALISED: AtomicBool = AtomicBool::new(false);
/// Whether this process was forked, so that exit handlers are somebody else's.
static FORKED: AtomicBool = AtomicBool::new(false);
static THREADS_ALLOWED: AtomicBool = AtomicBool::new(false);
static ARGUMENTS: Mutex<Option<Vec<OsString>>> = Mutex::new(None);
static HAS_ARGUMENTS: AtomicBool = AtomicBool::new(false);

/// Has programs that are executed as children get these arguments, after their own name, instead of
/// the arguments of this process.
pub fn set_child_arguments(arguments: Vec<OsString>) {
    *ARGUMENTS.lock().unwrap_or_else(PoisonError::into_inner) = Some(arguments);
    HAS_ARGUMENTS.store(true, Ordering::Release);
}

/// Lets a fork server that is started from now on work though it has other threads, because they
/// are known to hold no lock that a child needs. To be called in the server too, so before
/// [`child_entry`].
pub fn allow_threads_in_server() {
    THREADS_ALLOWED.store(true, Ordering::Relaxed);
}

pub(crate) fn child_arguments() -> Vec<OsString> {
    let set = HAS_ARGUMENTS.load(Ordering::Acquire);
    let arguments = if set {
        ARGUMENTS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    } else {
        None
    };
    arguments.unwrap_or_else(|| std::env::args_os().skip(1).collect())
}

/// Starts a child, and returns when it exists. Does not wait for it to get anywhere; by `ForkServer`
/// it waits for the server, 30 s at most.
///
/// # Errors
/// See [`LaunchError`]. No child is left, and none will run.
pub fn launch(request: &LaunchRequest<'_>) -> Result<Child, LaunchError> {
    may_launch(request)?;
    let parcel = Parcel::store(request.payload).map_err(LaunchError::Payload)?;
    launch_stored(request, parcel)
}

/// The same with a payload that is stored already; [`LaunchRequest::payload`] is not looked at.
///
/// A forked child holds what this process holds, until the end of the child. So whoever wants a
/// child by `Fork` to be able to let go of what is in its payload, such as the end of a pipe, stores
/// the payload, drops its own, and then launches.
///
/// # Errors
/// As [`launch`].
pub fn launch_stored(request: &LaunchRequest<'_>, payload: Parcel) -> Result<Child, LaunchError> {
    launch_stored_in(request, payload, &Surroundings::default()).map(|(child, _)| child)
}

/// As [`launch`], with other surroundings than this process's. Gives this process's ends of the pipes that
/// were asked for, as standard input, output and error.
///
/// # Errors
/// As [`launch`]; and for a folder, a variable or a descriptor that the child can't be given.
pub fn launch_in(
    request: &LaunchRequest<'_>,
    surroundings: &Surroundings,
) -> Result<(Child, Pipes), LaunchError> {
    may_launch(request)?;
    let parcel = Parcel::store(request.payload).map_err(LaunchError::Payload)?;
    launch_stored_in(request, parcel, surroundings)
}

fn launch_stored_in(
    request: &LaunchRequest<'_>,
    payload: Parcel,
    surroundings: &Surroundings,
) -> Result<(Child, Pipes), LaunchError> {
    may_launch(request)?;
    process::clear_abandoned();
    let (mut prepared, mut pipes) = surroundings.prepare()?;
    let child = match request.method {
        StartMethod::Spawn => spawn(request, &payload, &prepared),
        StartMethod::ForkServer => fork_by_server(request, &payload, &prepared),
        StartMethod::Fork => fork(request, payload, &mut prepared, &mut pipes),
    };
    child.map(|child| (child, pipes))
}

fn may_launch(request: &LaunchRequest<'_>) -> Result<(), LaunchError> {
    if request.method != StartMethod::Fork && !INITIALISED.load(Ordering::Acquire) {
        return Err(LaunchError::InitMissing);
    }
    if request.fds.len() > MOST_FDS {
        return Err(LaunchError::TooManyFds {
            given: request.fds.len(),
        });
    }
    family::family().map(|_| ()).map_err(LaunchError::Family)
}

/// Keeps a seat for the child, which holds the payload from then on.
fn prepare(request: &LaunchRequest<'_>, parcel: &Parcel) -> Result<Ticket, LaunchError> {
    let seat = family::prepare_child(request.name, request.role).map_err(LaunchError::Family)?;
    if let Ok(family) = family::family() {
        // It is there: this process holds it too, until the launch is over.
        let _ = family.arena().lend(seat.member(), parcel.handle());
    }
    Ok(Ticket {
        seat,
        parcel: parcel.handle(),
        entry: request.entry,
        role: request.role,
        daemon: request.daemon,
        name: request.name.to_owned(),
        parent: std::process::id(),
    })
}

fn spawn(
    request: &LaunchRequest<'_>,
    parcel: &Parcel,
    surroundings: &Prepared,
) -> Result<Child, LaunchError> {
    let ticket = prepare(request, parcel)?;
    let seat = ticket.seat;
    let started = distinct(request.fds)
        .map_err(LaunchError::Start)
        .and_then(|(fds, _copies)| {
            let start = Start::Child { ticket, fds };
            let program = start::program(&start, surroundings).map_err(LaunchError::Family)?;
            process::spawn_with(&program.request, surroundings.standard())
                .map_err(LaunchError::Start)
        });
    let spawned = started.inspect_err(|_| family::cancel_child(seat))?;
    family::child_started(seat, spawned.pid);
    Ok(Child::new(request.name, seat, spawned, Origin::Own))
}

/// Numbers for the descriptors under which a program can take each over: no two the same, none of
/// the standard three. With what was duplicated for that.
fn distinct(fds: &[BorrowedFd<'_>]) -> io::Result<(Vec<RawFd>, Vec<OwnedFd>)> {
    let (mut numbers, mut copies) = (Vec::with_capacity(fds.len()), Vec::new());
    for fd in fds {
        let mut number = fd.as_raw_fd();
        if number <= 2 || numbers.contains(&number) {
            let copy = sys::duplicate(fd)?;
            number = copy.as_raw_fd();
            copies.push(copy);
        }
        numbers.push(number);
    }
    Ok((numbers, copies))
}

fn fork_by_server(
    request: &LaunchRequest<'_>,
    parcel: &Parcel,
    surroundings: &Prepared,
) -> Result<Child, LaunchError> {
    let mut again = true;
    loop {
        let ticket = prepare(request, parcel)?;
        let seat = ticket.seat;
        match zygote::request(&ticket, request.fds, surroundings) {
            Ok(made) => {
                family::child_started(seat, made.spawned.pid);
                return Ok(Child::new(
                    request.name,
                    seat,
                    made.spawned,
                    Origin::Server(made.server),
                ));
            }
            Err(error) => {
                family::cancel_child(seat);
                // It may have been killed a moment ago. That a child would run all the same is
                // excluded.
                if !again
                    || !matches!(
                        error,
                        ServerError::Died {
                            checked_in: true,
                            ..
                        }
                    )
                {
                    return Err(error.into());
                }
                again = false;
            }
        }
    }
}

fn fork(
    request: &LaunchRequest<'_>,
    parcel: Parcel,
    surroundings: &mut Prepared,
    pipes: &mut Pipes,
) -> Result<Child, LaunchError> {
    let fds = request.fds.iter().map(sys::duplicate);
    let fds = fds.collect::<io::Result<_>>().map_err(LaunchError::Start)?;
    let ticket = prepare(request, &parcel)?;
    // Or the child would inherit it, and keep it until its end.
    drop(parcel);
    let parent = std::process::id();
    fork_into(ticket.seat, request.name, || {
        // The parent's ends: with them open here, this process would wait for itself.
        drop(std::mem::take(pipes));
        let entry = std::mem::take(surroundings)
            .take_on()
            .map_err(EntryError::System)
            // Which may need a thread: after the environment, which can't be changed then.
            .and_then(|()| end_with(parent, request.daemon))
            .and_then(|()| entry_of(ticket, fds, StartMethod::Fork));
        match entry {
            Ok(entry) => (request.run)(entry),
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error}");
                1
            }
        }
    })
}

/// Forks this process; the child runs `body`, which may use anything it captures, and exits with
/// the code that it gives, or 101 if it panics.
///
/// The child has a copy of the calling thread alone. A lock that another thread held at that moment
/// stays locked in it for ever: with threads about, `body` may use what Procession shares, and
/// standard output and error, and must not count on other locks of the program's. Start children
/// otherwise if there are threads. No destructor of the calling functions runs in the child.
///
/// # Errors
/// See [`LaunchError`].
pub fn fork_running(
    name: &str,
    role: Role,
    daemon: bool,
    body: impl FnOnce() -> i32,
) -> Result<Child, LaunchError> {
    process::clear_abandoned();
    let seat = family::prepare_child(name, role).map_err(LaunchError::Family)?;
    let parent = std::process::id();
    fork_into(seat, name, || match end_with(parent, daemon) {
        Ok(()) => body(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            1
        }
    })
}

fn end_with(parent: u32, daemon: bool) -> Result<(), EntryError> {
    if daemon {
        process::die_with(parent).map_err(EntryError::System)?;
    }
    Ok(())
}

fn fork_into(seat: Seat, name: &str, body: impl FnOnce() -> i32) -> Result<Child, LaunchError> {
    // Nothing is to be written twice, nor to be locked for ever in the child.
    let mut out = io::stdout().lock();
    let err = io::stderr().lock();
    let _ = out.flush();
    family::fork_with(seat);
    let forked = sys::fork_running(move || {
        drop((out, err));
        FORKED.store(true, Ordering::Relaxed);
        check_in(name);
        let code = body();
        finish(code)
    });
    family::fork_done();
    let started = forked.and_then(|pid| match sys::open_pidfd(pid) {
        Ok(pidfd) => Ok(Spawned { pid, pidfd }),
        Err(error) => {
            sys::abandon(pid);
            Err(error)
        }
    });
    let spawned = started
        .map_err(LaunchError::Start)
        .inspect_err(|_| family::cancel_child(seat))?;
    family::child_started(seat, spawned.pid);
    Ok(Child::new(name, seat, spawned, Origin::Own))
}

/// Whether this process was launched as a child, and as what. To be called once, first thing in
/// main; later calls give `Ok(None)`.
///
/// In a child it joins the family, and if the child is daemonic and the parent has ended already, it
/// does not return. In a fork server it returns in the children only. May be called on any thread.
///
/// # Errors
/// See [`EntryError`]: to be printed, and the process to be ended.
pub fn child_entry() -> Result<Option<Entry>, EntryError> {
    if INITIALISED.swap(true, Ordering::AcqRel) {
        return Ok(None);
    }
    let Some((start, memory)) = start::how_started().map_err(EntryError::Told)? else {
        return Ok(None);
    };
    let (seat, parent, ends_with_parent) = match &start {
        Start::Child { ticket, .. } => (ticket.seat, ticket.parent, ticket.daemon),
        Start::Server { seat, parent, .. } => (*seat, *parent, true),
    };
    family::join_family(memory, seat).map_err(|error| {
        if ends_with_parent && sys::parent_id() != parent {
            // The reason, and that is no error.
            sys::kill_self();
        }
        EntryError::Family(error)
    })?;
    match start {
        Start::Child { ticket, fds } => {
            check_in(&ticket.name);
            let fds = fds
                .into_iter()
                .map(sys::claim_inherited)
                .collect::<io::Result<Vec<_>>>();
            if ticket.daemon {
                process::die_with(ticket.parent).map_err(EntryError::System)?;
            }
            entry_of(ticket, fds.map_err(EntryError::System)?, StartMethod::Spawn).map(Some)
        }
        Start::Server { parent, link, .. } => {
            family::note_exit(seat, CHECKED_IN);
            let link = sys::claim_inherited(link).map_err(EntryError::System)?;
            let threads_allowed = THREADS_ALLOWED.load(Ordering::Relaxed);
            let Forkling { ticket, fds } =
                zygote::serve(link, parent, threads_allowed).map_err(EntryError::System)?;
            FORKED.store(true, Ordering::Relaxed);
            check_in(&ticket.name);
            entry_of(ticket, fds, StartMethod::ForkServer).map(Some)
        }
    }
}

fn check_in(name: &str) {
    sys::set_name(name);
    if let Some(seat) = my_seat() {
        family::note_exit(seat, CHECKED_IN);
    }
}

/// Where this process notes how it ends.
fn my_seat() -> Option<Seat> {
    family::family()
        .ok()
        .and_then(|family| Seat::from_raw(family.me().to_raw().into()))
}

fn entry_of(ticket: Ticket, fds: Vec<OwnedFd>, method: StartMethod) -> Result<Entry, EntryError> {
    let payload = Parcel::open(ticket.parcel).map_err(EntryError::Payload)?;
    Ok(Entry {
        entry: ticket.entry,
        payload,
        fds,
        name: ticket.name,
        role: ticket.role,
        daemon: ticket.daemon,
        method,
        parent: ticket.parent,
    })
}

/// Ends a child in good order: flushes standard output, and exits. What it holds of the family's memory
/// goes back, but not while other threads or destructors of it may use that: then the process counts
/// as alive until it has ended. Other threads of it end with it. Exit handlers run if the program was
/// executed for this child; otherwise they are the business of the process that it was forked from.
pub fn finish(code: i32) -> ! {
    let _ = io::stdout().flush();
    if let Some(seat) = my_seat() {
        // What the kernel will say, for when nobody is left who is told by it.
        family::note_exit(seat, code & 0xff);
    }
    if FORKED.load(Ordering::Relaxed) {
        family::leave();
        sys::exit_now(code);
    }
    // This thread's destructors run in there.
    family::leave_at_end();
    std::process::exit(code)
}

/// Ends this process's fork server, if it has one. It makes no more children; those it has made go
/// on, and it stays until they have ended, to say how. Waits for it for half a second at most. Not
/// needed at the end of the program: the server ends with it.
pub fn stop_fork_server() {
    zygote::stop();
}
