//! Waiting on behalf of Python: the one place where `block` and `timeout` become a [`Patience`].
//!
//! A call first tries with the interpreter held (the fast path of each caller, then [`spin`]), and
//! then waits without it. The main thread looks for signals while it waits: their handlers run
//! here, and what they raise ends the call. No lock in shared memory is held at that moment.

use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use procession_engine::diagnostics::{LoneWait, Wanted};
use procession_engine::{Handle, Patience};
use pyo3::exceptions::PyEOFError;
use pyo3::prelude::*;

use crate::arguments::Timeout;
use crate::diagnostics;
use crate::error::OrRaise;
use crate::imported::{Imported, Name};

/// How long it is worth to keep the interpreter in the hope that the other side is just about to answer.
const SPIN: Duration = Duration::from_micros(1);

/// The patience of a first attempt by somebody who is ready to wait: enough for an inner lock that is
/// held for a moment, but not for one whose holder has lost its core. Its time has passed before it
/// begins, so it never sleeps, and the clock need not be read.
#[inline]
pub(crate) fn glance<'a>() -> Patience<'a> {
    static LONG_AGO: LazyLock<Instant> = LazyLock::new(Instant::now);
    Patience::until(*LONG_AGO)
}

/// Tries again and again for about a microsecond, with the interpreter held.
#[inline]
pub(crate) fn spin<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut rounds = 4;
    loop {
        for _ in 0..rounds {
            std::hint::spin_loop();
        }
        if let Some(result) = attempt() {
            return Some(result);
        }
        if start.elapsed() >= SPIN {
            return None;
        }
        rounds = (rounds * 2).min(32);
    }
}

/// Runs `call`, which may wait as long as `timeout`, without the interpreter.
///
/// # Errors
/// What a signal handler raised meanwhile.
pub(crate) fn blocking<T: Send, E: Send>(
    py: Python<'_>,
    timeout: Timeout,
    call: impl FnOnce(&mut Patience<'_>) -> Result<T, E> + Send,
) -> PyResult<Result<T, E>> {
    blocking_or_undo(py, timeout, call, drop)
}

/// The same; if the call succeeded although a signal handler had raised something, `undo` gives back
/// what it got.
pub(crate) fn blocking_or_undo<T: Send, E: Send>(
    py: Python<'_>,
    timeout: Timeout,
    call: impl FnOnce(&mut Patience<'_>) -> Result<T, E> + Send,
    undo: impl FnOnce(T),
) -> PyResult<Result<T, E>> {
    wait(py, timeout, None, call, undo)
}

/// What only another process can bring about, as a rule.
pub(crate) struct Awaited {
    pub(crate) object: Handle,
    /// Of a queue.
    pub(crate) wanted: Wanted,
    /// What the others are to do, for people.
    pub(crate) deed: &'static str,
}

impl Awaited {
    pub(crate) fn new(object: Handle, deed: &'static str) -> Awaited {
        Awaited {
            object,
            wanted: Wanted::Message,
            deed,
        }
    }
}

/// Like [`blocking_or_undo`], for what others have to do. When this process has lost its parent, and
/// nobody is left who could do it, that is an EOFError.
///
/// # Errors
/// That, and what a signal handler raised meanwhile.
pub(crate) fn blocking_for<T: Send, E: Send>(
    py: Python<'_>,
    timeout: Timeout,
    awaited: Awaited,
    call: impl FnOnce(&mut Patience<'_>) -> Result<T, E> + Send,
    undo: impl FnOnce(T),
) -> PyResult<Result<T, E>> {
    wait(py, timeout, Some(awaited), call, undo)
}

/// Looks from time to time whether a wait is in vain.
struct Orphan {
    awaited: Option<Awaited>,
    wait: Option<LoneWait>,
    looks: u32,
}

impl Orphan {
    /// The hook is called every 50 ms; to look costs some system calls.
    const EVERY: u32 = 8;

    /// # Errors
    /// EOFError when it is.
    fn look(&mut self, py: Python<'_>) -> PyResult<()> {
        static COUNT: Imported = Imported::new("_thread", "_count");
        let Some(awaited) = &self.awaited else {
            return Ok(());
        };
        self.looks += 1;
        if !self.looks.is_multiple_of(Self::EVERY) {
            return Ok(());
        }
        if COUNT.get(py)?.call0()?.extract::<usize>()? > 0 {
            // Another thread may do it.
            self.wait = None;
            return Ok(());
        }
        let wait = match &mut self.wait {
            Some(wait) => wait,
            none => none.insert(LoneWait::begin(awaited.object, awaited.wanted).or_raise(py)?),
        };
        if wait.is_in_vain() {
            return Err(PyEOFError::new_err(format!(
                "nobody is left who could {}: the other processes that had it have ended, or wait like this one",
                awaited.deed
            )));
        }
        Ok(())
    }
}

fn wait<T: Send, E: Send>(
    py: Python<'_>,
    timeout: Timeout,
    awaited: Option<Awaited>,
    call: impl FnOnce(&mut Patience<'_>) -> Result<T, E> + Send,
    undo: impl FnOnce(T),
) -> PyResult<Result<T, E>> {
    let gets_signals = is_main_thread(py);
    let mut raised: Option<PyErr> = None;
    let mut orphan = Orphan {
        awaited: awaited.filter(|_| timeout.0.is_none()),
        wait: None,
        looks: 0,
    };
    let result = py.detach(|| {
        let mut look = |py: Python<'_>| {
            diagnostics::raised()
                .map_or_else(|| py.check_signals(), Err)
                .and_then(|()| orphan.look(py))
        };
        let mut hook = || match Python::try_attach(&mut look) {
            Some(Ok(())) => false,
            Some(Err(error)) => {
                raised = Some(error);
                true
            }
            // The interpreter is being shut down: there is nobody left to wait for.
            None => true,
        };
        let patience = timeout.patience();
        if gets_signals {
            call(&mut patience.with_interrupt(&mut hook))
        } else {
            call(&mut { patience })
        }
    });
    // Of a report in a thread that looks for no signals.
    raised = raised.or_else(diagnostics::raised);
    if gets_signals && raised.is_none() && result.is_err() {
        // What ended the wait may be the work of a signal that others have had as well, such as
        // Ctrl-C, and is then none of the program's business.
        raised = py.check_signals().err();
    }
    let Some(error) = raised else {
        return Ok(result);
    };
    if let Ok(got) = result {
        undo(got);
    }
    Err(error)
}

/// Whether this is the thread in which Python runs signal handlers.
fn is_main_thread(py: Python<'_>) -> bool {
    static GET_IDENT: Imported = Imported::new("_thread", "get_ident");
    static IDENT: Name = Name::new("ident");
    /// Since 3.13. A child that starts afresh would need 2 ms to load `threading` for it.
    static MAIN_IDENT: Imported = Imported::new("_thread", "_get_main_thread_ident");
    static MAIN_THREAD: Imported = Imported::new("threading", "main_thread");
    static KNOWS_IDENT: OnceLock<bool> = OnceLock::new();
    let ask = || -> PyResult<bool> {
        let me = GET_IDENT.get(py)?.call0()?;
        if *KNOWS_IDENT.get_or_init(|| py.version_info() >= (3, 13)) {
            return MAIN_IDENT.get(py)?.call0()?.eq(me);
        }
        let main = MAIN_THREAD.get(py)?.call0()?;
        main.getattr(IDENT.get(py))?.eq(me)
    };
    // In doubt, looking for signals does no harm.
    ask().unwrap_or(true)
}
