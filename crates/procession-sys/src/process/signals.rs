//! Signal sets, and what signals do.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Signals(libc::sigset_t);

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signals")
    }
}

impl Signals {
    /// The empty set.
    pub fn none() -> Signals {
        let mut set = MaybeUninit::uninit();
        // SAFETY: `set` is the place to initialise; the call can't fail.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: the call has initialised it.
        Signals(unsafe { set.assume_init() })
    }

    /// A set of these; numbers that are no signals are left out.
    pub fn of(signals: &[i32]) -> Signals {
        let mut set = Signals::none();
        for &signal in signals {
            // SAFETY: an initialised set; a wrong number is refused without harm.
            unsafe { libc::sigaddset(&mut set.0, signal) };
        }
        set
    }

    pub(super) fn as_ptr(&self) -> *const libc::sigset_t {
        &self.0
    }
}

/// What a signal did before it was changed.
#[derive(Clone, Copy)]
pub struct SavedSignal {
    signal: i32,
    action: libc::sigaction,
}

impl std::fmt::Debug for SavedSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedSignal")
            .field("signal", &self.signal)
            .finish_non_exhaustive()
    }
}

/// Has this process ignore a signal.
///
/// # Errors
/// `EINVAL` for what is no signal, or can't be ignored.
pub fn ignore_signal(signal: i32) -> io::Result<SavedSignal> {
    let mut new = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a sigaction of zeros is valid: default action, no flags, nothing blocked.
    let new = unsafe { new.assume_init_mut() };
    new.sa_sigaction = libc::SIG_IGN;
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: both point to sigactions; ignoring runs no code.
    let result = unsafe { libc::sigaction(signal, new, old.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has filled it.
    let action = unsafe { old.assume_init() };
    Ok(SavedSignal { signal, action })
}

/// Has a signal do again what it did.
///
/// # Errors
/// The kernel's.
pub fn restore_signal(saved: &SavedSignal) -> io::Result<()> {
    // SAFETY: the action was in force in this process, so a handler in it is code that is there.
    let result = unsafe { libc::sigaction(saved.signal, &saved.action, ptr::null_mut()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has a signal do what it does by default, and reach the calling thread.
///
/// # Errors
/// `EINVAL` for what is no signal, or can't be changed.
pub fn reset_signal(signal: i32) -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a sigaction of zeros is valid: default action, no flags, nothing blocked.
    let action = unsafe { action.assume_init_mut() };
    restore_signal(&SavedSignal {
        signal,
        action: *action,
    })?;
    let set = Signals::of(&[signal]);
    // SAFETY: an initialised set; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set.0, ptr::null_mut()) };
    Ok(())
}

/// Signals that the calling thread blocks while this exists: they are kept for later, also where they
/// would be ignored.
#[derive(Debug)]
pub struct BlockedSignals {
    before: Signals,
    /// The mask is a thread's.
    _here: PhantomData<*const ()>,
}

impl BlockedSignals {
    /// Blocks them, in addition to those that are blocked already.
    pub fn new(signals: &[i32]) -> BlockedSignals {
        let set = Signals::of(signals);
        let mut before = Signals::none();
        // SAFETY: both sets are initialised.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set.0, &mut before.0) };
        BlockedSignals {
            before,
            _here: PhantomData,
        }
    }
}

impl Drop for BlockedSignals {
    /// The thread blocks again what it blocked before.
    fn drop(&mut self) {
        set_mask(&self.before);
    }
}

/// Blocks every signal that can be blocked in the calling thread: others get them.
pub fn block_all_signals() {
    let mut all = Signals::none();
    // SAFETY: an initialised set.
    unsafe { libc::sigfillset(&mut all.0) };
    set_mask(&all);
}

fn set_mask(mask: &Signals) {
    // SAFETY: an initialised set; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask.0, ptr::null_mut()) };
}
