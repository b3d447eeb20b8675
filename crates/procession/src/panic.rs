//! A panic in another process, as its caller sees it.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::PanicHookInfo;
use std::sync::Once;

use serde::{Deserialize, Serialize};

/// A panic that ended a process's function, or a pool's task.
///
/// Found in [`JoinError::panic`](crate::JoinError::panic) and
/// [`Error::panic`](crate::Error::panic).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    message: String,
    place: Option<Place>,
    backtrace: Option<String>,
    thread: Option<String>,
    pid: u32,
}

/// Where in the source a panic happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The file, as the compiler was given it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Panic {
    /// What was passed to `panic!`, as text. A payload that is no text has a message that says so.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where it happened. `None` when the function had installed a panic hook of its own.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The stack at that moment, if `RUST_BACKTRACE` asked for one.
    pub fn backtrace(&self) -> Option<&str> {
        self.backtrace.as_deref()
    }

    /// The name of the thread in which it happened; `main` unless a test harness runs the process.
    /// `None` when it has no name, or the function had installed a panic hook of its own.
    pub fn thread(&self) -> Option<&str> {
        self.thread.as_deref()
    }

    /// The process in which it happened.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(
                formatter,
                "process {} panicked at {place}: {}",
                self.pid, self.message
            ),
            None => write!(formatter, "process {} panicked: {}", self.pid, self.message),
        }
    }
}

thread_local! {
    /// The latest panic of this thread, from the hook to whoever catches it.
    static LATEST: RefCell<Option<Panic>> = const { RefCell::new(None) };
    /// Whether this thread runs a call for another process, and what is to be printed of its panic.
    static WATCH: Cell<Watch> = const { Cell::new(Watch::Off) };
    /// Where a panic is reported when there will be no unwinding.
    static LAST_WORDS: RefCell<Option<LastWords>> = const { RefCell::new(None) };
}

type LastWords = Box<dyn FnOnce(&Panic)>;

/// What the hook does with the panics of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Nothing: they belong to somebody else.
    Off,
    /// Notes them, and lets the hook that was there before print them, as it would those of a
    /// thread.
    Note,
    /// Notes them only: whoever asked for the result is told.
    Quiet,
}

/// Puts the hook in its place, in front of the one that is there.
///
/// To be called before a fork, in the process that forks: a thread that panics meanwhile holds the
/// standard library's lock of the hook, and in the child that stays as it is. Then a hook can be called
/// there, and none can be set.
pub(crate) fn install() {
    static HOOK: Once = Once::new();
    if std::thread::panicking() {
        // The standard library refuses.
        return;
    }
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let watch = WATCH.get();
            if watch != Watch::Off {
                note(info);
            }
            if watch != Watch::Quiet {
                before(info);
            }
        }));
    });
}

/// From now on the panics of this thread are noted, to be [`caught`].
pub(crate) fn watch(watch: Watch) {
    install();
    WATCH.set(watch);
}

/// Has `report` called with the panic of this thread, should a panic end the process instead of
/// unwinding.
pub(crate) fn set_last_words(report: impl FnOnce(&Panic) + 'static) {
    if cfg!(panic = "abort") {
        LAST_WORDS.set(Some(Box::new(report)));
    }
}

fn note(info: &PanicHookInfo<'_>) {
    let place = info.location().map(|location| Place {
        file: location.file().to_owned(),
        line: location.line(),
        column: location.column(),
    });
    let backtrace = Backtrace::capture();
    let panic = Panic {
        message: text(info.payload()),
        place,
        backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
        thread: std::thread::current().name().map(str::to_owned),
        pid: std::process::id(),
    };
    // A panic within the report, or while the thread's variables are taken down, changes nothing
    // here.
    let last_words = LAST_WORDS.try_with(|words| words.take()).ok().flatten();
    if let Some(report) = last_words {
        report(&panic);
    }
    let _ = LATEST.try_with(|latest| latest.replace(Some(panic)));
}

/// The panic with this payload, which has just been caught in this thread.
pub(crate) fn caught(payload: Box<dyn Any + Send>) -> Panic {
    let message = text(&*payload);
    // Dropping what was thrown is user code as well.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(payload)));
    match LATEST.take() {
        Some(panic) if panic.message == message => panic,
        _ => Panic {
            message,
            place: None,
            backtrace: None,
            thread: None,
            pid: std::process::id(),
        },
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "(a value that is no text)".to_owned()
    }
}
