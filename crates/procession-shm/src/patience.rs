//! How long a blocking call may wait, and how it waits: spin a little, give way, then sleep.

use std::fmt;
use std::time::{Duration, Instant};

use crate::atomic::AtomicU32;
use crate::futex::{self, Wake};

/// Spinning is for a peer that is just about to answer.
#[cfg(not(loom))]
const SPIN: Duration = Duration::from_micros(1);
/// Giving way keeps it fair when the cores are busy, and saves two context switches when not.
#[cfg(not(loom))]
const GIVE_WAY: Duration = Duration::from_micros(50);
/// A sleeper looks again at least this often: a wake-up may have gone to a process that was killed
/// before it could use it.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// So does one that waits for a process to give something back: that process may be dead.
pub(crate) const CHECK_OWNER: Duration = Duration::from_millis(50);
/// The first such look comes sooner: most locks are held for less, and asking after their owner
/// costs more than waiting for it.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(2);
/// And one that must see signals whose handler ran just before it went to sleep.
const CHECK_SIGNALS: Duration = Duration::from_millis(50);
/// After so many wake-ups for nothing the hook is asked all the same.
const WAKE_UPS: u8 = 16;

/// Why a wait ended without what was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// The time given has passed.
    TimedOut,
    /// The interrupt hook asked to give up.
    Interrupted,
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitError::TimedOut => "the time given has passed",
            WaitError::Interrupted => "the wait was interrupted by a signal",
        })
    }
}

impl std::error::Error for WaitError {}

/// How long a blocking call may wait, and what it asks on the way.
pub struct Patience<'a> {
    limit: Limit,
    interrupt: Option<&'a mut dyn FnMut() -> bool>,
    /// Wake-ups since the hook was asked.
    woken: u8,
}

#[derive(Clone, Copy)]
enum Limit {
    Forever,
    Once,
    Until(Instant),
}

impl fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Patience");
        match self.limit {
            Limit::Forever => out.field("limit", &"forever"),
            Limit::Once => out.field("limit", &"once"),
            Limit::Until(at) => out.field("limit", &at),
        };
        out.field("interruptible", &self.interrupt.is_some())
            .finish()
    }
}

impl<'a> Patience<'a> {
    /// Waits as long as it takes.
    pub fn forever() -> Patience<'a> {
        Patience {
            limit: Limit::Forever,
            interrupt: None,
            woken: 0,
        }
    }

    /// Tries once and does not wait.
    pub fn none() -> Patience<'a> {
        Patience {
            limit: Limit::Once,
            interrupt: None,
            woken: 0,
        }
    }

    /// Waits until a point in time.
    pub fn until(deadline: Instant) -> Patience<'a> {
        Patience {
            limit: Limit::Until(deadline),
            interrupt: None,
            woken: 0,
        }
    }

    /// Waits for a while; a while too long to be expressed is for ever.
    pub fn timeout(wait: Duration) -> Patience<'a> {
        if wait.is_zero() {
            return Patience::none();
        }
        match Instant::now().checked_add(wait) {
            Some(deadline) => Patience::until(deadline),
            None => Patience::forever(),
        }
    }

    /// For ever, or for the given while.
    pub fn from_option(wait: Option<Duration>) -> Patience<'a> {
        wait.map_or_else(Patience::forever, Patience::timeout)
    }

    /// Has `hook` called after every signal and at least every 50 ms of sleep; when it returns
    /// true, the call gives up.
    #[must_use]
    pub fn with_interrupt(mut self, hook: &'a mut dyn FnMut() -> bool) -> Patience<'a> {
        self.interrupt = Some(hook);
        self
    }

    /// The same time limit and hook for a shorter call inside.
    pub fn reborrow(&mut self) -> Patience<'_> {
        let interrupt: Option<&mut dyn FnMut() -> bool> = match &mut self.interrupt {
            Some(hook) => Some(&mut **hook),
            None => None,
        };
        Patience {
            limit: self.limit,
            interrupt,
            woken: self.woken,
        }
    }

    /// Whether it would wait at all.
    pub fn is_none(&self) -> bool {
        matches!(self.limit, Limit::Once)
    }

    /// The time left: `None` is for ever.
    pub fn left(&self) -> Option<Duration> {
        match self.limit {
            Limit::Forever => None,
            Limit::Once => Some(Duration::ZERO),
            Limit::Until(deadline) => Some(deadline.saturating_duration_since(Instant::now())),
        }
    }

    /// Whether the time has passed.
    pub fn is_over(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// How long one sleep may last that is to be repeated: at most `slice`, less if a limit or a
    /// hook asks for it.
    pub fn slice(&self, slice: Duration) -> Duration {
        let slice = if self.interrupt.is_some() {
            slice.min(CHECK_SIGNALS)
        } else {
            slice
        };
        self.left().map_or(slice, |left| left.min(slice))
    }

    /// To be called after each sleep: asks the hook, and looks at the clock.
    ///
    /// # Errors
    /// When the wait is to end.
    pub fn check(&mut self) -> Result<(), WaitError> {
        self.ask()?;
        if self.is_over() {
            Err(WaitError::TimedOut)
        } else {
            Ok(())
        }
    }

    /// Tries `attempt` again and again for the short while in which sleeping would cost more.
    #[cfg(not(loom))]
    pub(crate) fn spin<T>(&mut self, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
        if self.is_none() {
            return None;
        }
        let start = Instant::now();
        let mut rounds = 1;
        loop {
            for _ in 0..rounds {
                std::hint::spin_loop();
            }
            if let Some(result) = attempt() {
                return Some(result);
            }
            let spent = start.elapsed();
            if spent >= GIVE_WAY {
                return None;
            }
            if spent >= SPIN {
                procession_sys::thread::give_way();
            } else {
                // Looking ever less often: two sides that look all the time slow each other down.
                rounds = (rounds * 2).min(16);
            }
        }
    }

    /// In a model an attempt more is a thing more to be permuted, and proves nothing.
    #[cfg(loom)]
    pub(crate) fn spin<T>(&mut self, _attempt: impl FnMut() -> Option<T>) -> Option<T> {
        None
    }

    /// Sleeps once while `word` holds `expected`, for `slice` at most. The caller looks again.
    ///
    /// An error means that no wake-up was used up: the hook is asked after a sleep that ended by
    /// itself, or before one.
    ///
    /// # Errors
    /// When the time has passed or the hook says so.
    pub(crate) fn park(
        &mut self,
        word: &AtomicU32,
        expected: u32,
        slice: Duration,
    ) -> Result<Wake, WaitError> {
        if self.is_over() {
            return Err(WaitError::TimedOut);
        }
        if self.woken >= WAKE_UPS {
            self.ask()?;
        }
        let slept_for = self.slice(slice);
        let woken = futex::wait(word, expected, slept_for);
        if woken == Wake::Woken {
            self.woken = self.woken.saturating_add(1);
        } else {
            self.ask()?;
        }
        Ok(woken)
    }

    fn ask(&mut self) -> Result<(), WaitError> {
        self.woken = 0;
        if let Some(hook) = &mut self.interrupt
            && hook()
        {
            return Err(WaitError::Interrupted);
        }
        Ok(())
    }
}
