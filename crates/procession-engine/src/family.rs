//! The family this process belongs to, and what it holds of the family's memory.
//!
//! A process has one family. It is made on first use, or joined by a child as its first act. Who
//! forks without asking us gets a child that is a member of its own.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use procession_shm::{
    Arena, ArenaError, ArenaStats, Gone, Handle, HeldStill, Kind, MemberId, MemberInfo,
    MembersFull, Role, Shared,
};
use procession_sys::process::{self, Forked};
use procession_sys::{fork_hooks, liveness, poll, thread};

static FAMILY: OnceLock<Family> = OnceLock::new();
/// Guard the making of the family: two threads must not make two. One for each process, by its id: a child
/// forked meanwhile, before there are hooks that could see to that, would find its parent's locked for ever.
static MAKING: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// When members without parents were last looked for, in milliseconds of the machine's clock.
static ORPHANS_AT: AtomicU64 = AtomicU64::new(0);
const ORPHANS_EVERY: u64 = 100;
/// When all dead members are to be looked for again, should one of them hold the message that is in
/// somebody's way.
static DEAD_AT: AtomicU64 = AtomicU64::new(0);
const DEAD_EVERY: u64 = 40;

thread_local! {
    /// The child that this thread is about to fork.
    static PENDING: Cell<Option<Pending>> = const { Cell::new(None) };
    /// Keeps the table of what this process holds still across a fork, so that the child finds it whole.
    static ACROSS_FORK: RefCell<Option<Crossing>> = const { RefCell::new(None) };
}

/// A fork that this thread is in the middle of.
#[derive(Debug)]
struct Crossing {
    held: HeldStill<'static>,
    child: Expected,
}

/// How the child comes by a hold of its own on what it has a copy of.
#[derive(Debug)]
enum Expected {
    /// Its parent has seen to that.
    Announced,
    /// It sees to that itself. The end of this pipe is seen when it has, or is gone; without a descriptor
    /// left there is no pipe.
    Unannounced(Option<(PipeReader, PipeWriter)>),
}

/// For so long a fork waits for a child that nobody announced. Far longer than it takes, unless the
/// child was stopped right at its start.
const CHILD_HOLDS_WITHIN: Duration = Duration::from_secs(2);

/// What a child that is about to be forked will be.
#[derive(Debug, Clone, Copy)]
enum Pending {
    Seated(Seat),
    Spare,
}

/// A place in the family kept for a child that is about to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seat(MemberId);

impl Seat {
    /// The seat as a number, to be passed to the child.
    pub fn to_raw(self) -> u64 {
        u64::from(self.0.to_raw())
    }

    /// What [`to_raw`](Self::to_raw) gave, or `None` for a number that is no seat.
    pub fn from_raw(raw: u64) -> Option<Seat> {
        u32::try_from(raw)
            .ok()
            .and_then(MemberId::from_raw)
            .map(Seat)
    }

    /// The member that the child will be.
    pub fn member(self) -> MemberId {
        self.0
    }
}

/// Why there is no family, or no place in it.
#[derive(Debug)]
pub enum FamilyError {
    /// Its memory can't be set up or mapped.
    Memory(ArenaError),
    /// There are too many members.
    Full(MembersFull),
    /// The system refused something else.
    System(io::Error),
    /// This process is in a family already: joining comes before anything else.
    AlreadyMember,
    /// The seat was given up: the parent took this process for failed.
    SeatLost,
}

impl fmt::Display for FamilyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FamilyError::Memory(error) => error.fmt(f),
            FamilyError::Full(error) => error.fmt(f),
            FamilyError::System(error) => write!(f, "the family of processes can't be set up: {error}"),
            FamilyError::AlreadyMember => {
                f.write_str("this process belongs to a family already: a child must join before it uses anything else")
            }
            FamilyError::SeatLost => {
                f.write_str("the parent has given up this child: it took too long to start, or the parent has ended")
            }
        }
    }
}

impl std::error::Error for FamilyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FamilyError::Memory(error) => Some(error),
            FamilyError::Full(error) => Some(error),
            FamilyError::System(error) => Some(error),
            FamilyError::AlreadyMember | FamilyError::SeatLost => None,
        }
    }
}

/// A process and all that were started from it, with their shared memory.
#[derive(Debug)]
pub struct Family {
    arena: Arena,
    /// This process's member id; 0 in a child of a fork for which there was no place left.
    me: AtomicU32,
}

/// The family of this process; made on first use, with this process as its root.
///
/// # Errors
/// When its memory can't be set up: no memfd, no address space.
pub fn family() -> Result<&'static Family, FamilyError> {
    if let Some(family) = FAMILY.get() {
        return family.with_a_place();
    }
    let _making = making();
    if let Some(family) = FAMILY.get() {
        return family.with_a_place();
    }
    let arena = Arena::new().map_err(FamilyError::Memory)?;
    let setting = crate::diagnostics::setting_from_environment();
    arena.shared_setting().store(setting, Ordering::Relaxed);
    let me = arena.enroll("main").map_err(FamilyError::Full)?;
    found(arena, me)
}

/// Joins the family of the parent: what a child that was started by executing a program does first.
///
/// # Errors
/// When the descriptor is no family's memory, the seat is lost, or this process is a member already.
pub fn join_family(fd: OwnedFd, seat: Seat) -> Result<(), FamilyError> {
    let _making = making();
    if FAMILY.get().is_some() {
        return Err(FamilyError::AlreadyMember);
    }
    let arena = Arena::open(fd).map_err(FamilyError::Memory)?;
    if !arena.take_seat(seat.0) {
        return Err(FamilyError::SeatLost);
    }
    found(arena, seat.0).map(|_| ())
}

fn found(arena: Arena, me: MemberId) -> Result<&'static Family, FamilyError> {
    fork_hooks::register(before_fork, after_fork_in_parent, after_fork_in_child)
        .map_err(FamilyError::System)?;
    Ok(FAMILY.get_or_init(|| Family {
        arena,
        me: AtomicU32::new(me.to_raw()),
    }))
}

/// The family, if there is one with a place for this process.
fn own_family() -> Option<&'static Family> {
    FAMILY.get()?.with_a_place().ok()
}

#[cold]
#[allow(
    clippy::print_stderr,
    reason = "the caller can't be given an error, and may be a destructor or a C function"
)]
fn end_without_a_place() -> ! {
    eprintln!(
        "procession: process {} was forked when its family was full, and can't use what belongs to that: {MembersFull}",
        std::process::id()
    );
    process::exit_now(1)
}

fn making() -> MutexGuard<'static, ()> {
    let own = &MAKING[std::process::id() as usize % MAKING.len()];
    // Nothing in this file can panic half-way through a change.
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Family {
    /// The family's memory.
    pub fn arena(&'static self) -> &'static Arena {
        &self.arena
    }

    /// The descriptor of the family's memory, for a child to join by.
    pub fn arena_fd(&'static self) -> BorrowedFd<'static> {
        self.arena.fd()
    }

    /// This process. One that has no place in the family (it was forked by others when there was none left)
    /// ends here, with a message: under its parent's name it would give back what its parent holds.
    #[inline]
    pub fn me(&self) -> MemberId {
        MemberId::from_raw(self.me.load(Ordering::Relaxed)).unwrap_or_else(|| end_without_a_place())
    }

    fn with_a_place(&'static self) -> Result<&'static Family, FamilyError> {
        if self.me.load(Ordering::Relaxed) == 0 {
            return Err(FamilyError::Full(MembersFull));
        }
        Ok(self)
    }

    /// All members, those that have died and are not yet cleared away included.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.arena.members()
    }

    /// What a member is called; also one that has ended, until its place is taken again.
    pub(crate) fn member_name(&'static self, id: MemberId) -> Option<String> {
        self.arena.member(id).map(|member| member.name)
    }

    /// What the shared memory holds.
    pub fn stats(&self) -> ArenaStats {
        self.arena.stats()
    }
}

/// Keeps a place for a child that this process is about to start.
///
/// # Errors
/// When there are too many members, or no family can be made.
pub fn prepare_child(name: &str, role: Role) -> Result<Seat, FamilyError> {
    let family = family()?;
    family
        .arena
        .reserve_member(Some(family.me()), name, role)
        .map(Seat)
        .map_err(FamilyError::Full)
}

/// The child did not start: its place is free again.
pub fn cancel_child(seat: Seat) {
    reap(seat.0);
}

/// The child has started as process `pid`.
pub fn child_started(seat: Seat, pid: u32) {
    if let Some(family) = own_family() {
        family.arena.note_pid(seat.0, pid);
    }
}

/// The calling thread is about to fork: the child takes this seat, and holds all that this process
/// holds. Undone by [`fork_done`].
pub fn fork_with(seat: Seat) {
    PENDING.set(Some(Pending::Seated(seat)));
}

/// The calling thread is about to fork a spare: a child that has no place in the family until it is
/// given one by [`lend_to`] here and [`take_seat`] there. Until then it may use nothing that is
/// shared, and ends without [`leave`]. Undone by [`fork_done`].
pub fn fork_spare() {
    PENDING.set(Some(Pending::Spare));
}

/// Gives a seat, which a spare of this process is to take, a reference to all that this process holds.
pub fn lend_to(seat: Seat) {
    if let Some(family) = own_family() {
        family.arena.hold_still().lend(family.me(), seat.0);
    }
}

/// In a spare: takes the seat. What this process holds, as a copy of its parent, it holds itself now.
///
/// # Errors
/// When the seat was given up: this process is to end.
pub fn take_seat(seat: Seat) -> Result<(), FamilyError> {
    let family = family()?;
    let mut held = family.arena.hold_still();
    if !family.arena.take_seat(seat.0) {
        return Err(FamilyError::SeatLost);
    }
    let parent = family.me();
    family.me.store(seat.0.to_raw(), Ordering::Relaxed);
    held.inherit(parent, seat.0);
    Ok(())
}

/// The fork is over, in the parent; or it failed.
pub fn fork_done() {
    PENDING.set(None);
}

/// Forks, with this seat for the child; returns in both: the child's pid and a descriptor of it in the
/// parent, `None` in the child.
///
/// # Errors
/// `EAGAIN` at the limit of processes, `ENOMEM`; `EMFILE` when no descriptor is left, and then the child
/// has been ended again. The seat is still the caller's to cancel.
pub fn fork_child(seat: Seat) -> io::Result<Option<(u32, OwnedFd)>> {
    fork_with(seat);
    let forked = process::fork();
    fork_done();
    let Forked::Parent { child } = forked? else {
        return Ok(None);
    };
    match process::open_pidfd(child) {
        Ok(pidfd) => {
            child_started(seat, child);
            Ok(Some((child, pidfd)))
        }
        Err(error) => {
            process::abandon(child);
            Err(error)
        }
    }
}

/// This process ends in good order, with nothing of the program's to run any more on this thread. If it
/// has no other, what it holds goes back now; else when it has ended, as by [`leave_at_end`].
pub fn leave() {
    if let Some(family) = own_family() {
        if liveness::has_one_thread() {
            family.arena.leave(family.me());
        } else {
            family.arena.leave_at_end(family.me());
        }
    }
}

/// This process ends in good order: others may see that. What it holds goes back when it has ended,
/// for until then threads and destructors of it may be at work on that.
pub fn leave_at_end() {
    if let Some(family) = own_family() {
        family.arena.leave_at_end(family.me());
    }
}

/// A member was seen to have ended: what it held goes back. Harmless if it is gone already. From time
/// to time this also clears away after members whose parents are gone.
pub fn reap(member: MemberId) {
    let Some(family) = own_family() else { return };
    family.arena.reap(family.me(), member);
    let now = thread::monotonic_nanoseconds() / 1_000_000;
    let last = ORPHANS_AT.load(Ordering::Relaxed);
    let due = now.saturating_sub(last) >= ORPHANS_EVERY || last == 0;
    if due
        && ORPHANS_AT
            .compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        family.arena.reap_orphans(family.me());
    }
}

/// Clears the references of dead members to one object, and frees it if nobody else holds it. From time
/// to time also what the dead hold that mentions it, though their parents have not looked after them.
pub fn release_dead(handle: Handle) {
    let Some(family) = own_family() else { return };
    if !family.arena.release_dead(family.me(), handle) {
        return;
    }
    let now = || thread::monotonic_nanoseconds() / 1_000_000;
    let (began, due) = (now(), DEAD_AT.load(Ordering::Relaxed));
    // One thread at a time, and for a small part of the time that passes.
    if began >= due
        && DEAD_AT
            .compare_exchange(due, began + 1000, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    {
        family.arena.give_back_dead(family.me());
        let pause = DEAD_EVERY.max((now() - began) * 32);
        DEAD_AT.store(now() + pause, Ordering::Relaxed);
    }
}

/// Writes down how a child ended that is not the kernel's child of whoever waits for it: an exit
/// code, or a signal's number below zero.
pub fn note_exit(seat: Seat, status: i32) {
    if let Some(family) = own_family() {
        family.arena.note_exit(seat.0, status);
    }
}

/// What [`note_exit`] wrote down for this child, if it did yet, or [`collected`] in this process.
pub fn exit_status(seat: Seat) -> Option<i32> {
    let collected = COLLECTED.iter().find_map(|word| {
        let word = word.load(Ordering::SeqCst);
        ((word >> 32) as u32 == seat.0.to_raw()).then_some(word as u32 as i32)
    });
    collected.or_else(|| {
        let family = own_family()?;
        family.arena.exit_status(seat.0)
    })
}

/// The seats (32 bits) and statuses of the last children that this process has waited for.
static COLLECTED: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static COLLECTED_NEXT: AtomicUsize = AtomicUsize::new(0);

/// This process has waited for a child, which ended in this way: an exit code, or a signal's number below
/// zero. To be called before [`reap`]: somebody else here may be about to ask, and the kernel has forgotten
/// by now, as the table will have.
pub fn collected(seat: Seat, status: i32) {
    let at = COLLECTED_NEXT.fetch_add(1, Ordering::Relaxed) % COLLECTED.len();
    let word = u64::from(seat.0.to_raw()) << 32 | u64::from(status as u32);
    COLLECTED[at].store(word, Ordering::SeqCst);
}

extern "C" fn before_fork() {
    let Some(family) = own_family() else { return };
    let mut held = family.arena.hold_still();
    held.separate(family.me());
    let child = match PENDING.get() {
        // On the child's behalf, before this process can let go of anything.
        Some(Pending::Seated(seat)) => {
            held.lend(family.me(), seat.0);
            Expected::Announced
        }
        None if held.is_something() => Expected::Unannounced(io::pipe().ok()),
        Some(Pending::Spare) | None => Expected::Announced,
    };
    // A thread that is ending has no such place any more; then the table is held for a moment only.
    let _ = ACROSS_FORK.try_with(|across| across.replace(Some(Crossing { held, child })));
}

fn crossing() -> Option<Crossing> {
    let across = ACROSS_FORK.try_with(|across| across.replace(None));
    across.ok().flatten()
}

extern "C" fn after_fork_in_parent() {
    let Some(Crossing { mut held, child }) = crossing() else {
        return;
    };
    let Expected::Unannounced(word) = child else {
        return;
    };
    // Until the child has a hold of its own, nothing may go that it has a copy of.
    let holds = word.is_some_and(|(mut reader, writer)| {
        drop(writer);
        // A byte: it has no place in the family, and holds nothing.
        has_ended(&reader, CHILD_HOLDS_WITHIN) && matches!(reader.read(&mut [0]), Ok(0))
    });
    if !holds {
        held.keep_private();
    }
}

/// Whether the other end of this pipe has been heard of, if only by its end, within this time.
fn has_ended(reader: &PipeReader, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll::readable(reader.as_fd(), Some(left)) {
            // A signal, perhaps.
            Ok(false) if !left.is_zero() => {}
            Ok(ended) => return ended,
            Err(_) => return false,
        }
    }
}

extern "C" fn after_fork_in_child() {
    thread::forget_after_fork();
    let (
        Some(family),
        Some(Crossing {
            mut held,
            mut child,
        }),
    ) = (own_family(), crossing())
    else {
        return;
    };
    let parent = family.me();
    match PENDING.replace(None) {
        Some(Pending::Spare) => return,
        Some(Pending::Seated(Seat(id))) if family.arena.take_seat(id) => {
            family.me.store(id.to_raw(), Ordering::Relaxed);
            held.inherit(parent, id);
            return;
        }
        _ => {}
    }
    // A fork that was not ours: a member of its own, which holds what its parent holds, who waits for
    // that.
    if let Ok(id) = family.arena.enroll("forked") {
        held.lend(parent, id);
        family.me.store(id.to_raw(), Ordering::Relaxed);
        held.inherit(parent, id);
    } else {
        // No harm as long as it uses nothing of the family, for instance because it executes a program.
        family.me.store(0, Ordering::Relaxed);
        if let Expected::Unannounced(Some((_, writer))) = &mut child {
            // So the parent knows that nothing is held on behalf of this process.
            let _ = writer.write(&[0]);
        }
    }
    drop(child);
}

/// A counted reference of this process to an object of the arena.
#[derive(Debug)]
pub(crate) struct Reference {
    handle: Handle,
}

impl Reference {
    /// Takes a reference to an object that somebody named.
    pub(crate) fn acquire(handle: Handle) -> Result<Reference, Gone> {
        let family = family().map_err(|_| Gone { expected: None })?;
        family.arena.acquire(family.me(), handle)?;
        Ok(Reference { handle })
    }

    /// Stands for a reference that this process has just been given by the arena: a new object's, or
    /// a message's from a queue.
    pub(crate) fn taken(handle: Handle) -> Reference {
        Reference { handle }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }
}

impl Clone for Reference {
    fn clone(&self) -> Reference {
        if let Some(family) = own_family() {
            // It is held: taking it once more can't fail.
            let _ = family.arena.acquire(family.me(), self.handle);
        }
        Reference {
            handle: self.handle,
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if let Some(family) = own_family() {
            family.arena.release(family.me(), self.handle);
        }
    }
}

/// A shared structure that this process holds a reference to.
#[derive(Debug)]
pub(crate) struct Held<T: Shared + 'static> {
    reference: Reference,
    object: &'static T,
    pub(crate) family: &'static Family,
}

impl<T: Shared> Clone for Held<T> {
    fn clone(&self) -> Held<T> {
        Held {
            reference: self.reference.clone(),
            object: self.object,
            family: self.family,
        }
    }
}

impl<T: Shared> Held<T> {
    /// Makes a new one, zeroed, with `extra` bytes behind it.
    pub(crate) fn new(kind: Kind, extra: usize) -> Result<Held<T>, crate::MakeError> {
        let family = family().map_err(crate::MakeError::Family)?;
        let length = size_of::<T>() + extra;
        let handle = family
            .arena
            .allocate(family.me(), length, kind)
            .map_err(crate::MakeError::Memory)?;
        let reference = Reference::taken(handle);
        let object = family
            .arena
            .object(handle, kind)
            .map_err(crate::MakeError::Gone)?;
        Ok(Held {
            reference,
            object,
            family,
        })
    }

    /// Takes a reference to one that somebody named.
    pub(crate) fn from_handle(handle: Handle, kind: Kind) -> Result<Held<T>, Gone> {
        let gone = Gone {
            expected: Some(kind),
        };
        let family = family().map_err(|_| gone)?;
        let reference = Reference::acquire(handle).map_err(|_| gone)?;
        let object = family.arena.object(handle, kind)?;
        Ok(Held {
            reference,
            object,
            family,
        })
    }

    pub(crate) fn handle(&self) -> Handle {
        self.reference.handle()
    }

    #[inline]
    pub(crate) fn get(&self) -> &'static T {
        self.object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_forked_while_its_parent_makes_the_family_makes_its_own() {
        let held = making();
        let pid = process::fork_running(|| i32::from(family().is_err())).expect("forks");
        let pidfd = process::open_pidfd(pid).expect("is our child");
        let ended = poll::readable(pidfd.as_fd(), Some(Duration::from_secs(20)));
        assert!(ended.expect("polls"), "the child hangs");
        let end = process::try_wait(pidfd.as_fd(), true).expect("is ours");
        assert_eq!(end, Some(process::Ended::Exited(0)));
        drop(held);
    }
}
