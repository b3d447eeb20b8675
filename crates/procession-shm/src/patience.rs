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
/// before it could use it, or who was to wake it was killed right after the change. (Who is idle pays for
/// each look; at 80 ms it was 0.08 % of a core for each thread.)
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// So does one that waits for a process to give something back: that process may be dead.
pub(crate) const CHECK_OWNER: Duration = Duration::from_millis(50);
/// The first such look comes sooner: most locks are held for less, and asking after their owner
/// costs more than waiting for it.
pub(crate) const FIRST_LOOK: Duration = Duration::from_millis(2);
/// And one that must see signals whose handler ran just before it went to sleep.
const CHECK_SIGNALS: Duration = Duration::from_millis(50);
/// One who is sure to be woken looks again at least this often, and how much rarer each time.
const RARELY: Duration = Duration::from_secs(4);
const RARER: u32 = 4;
/// After so many wake-ups for nothing the hook is asked all the same.
const WAKE_UPS: u8 = 16;

/// When one who waits for what others have looks whether they live: after a sleep that has ended by itself,
/// and after some time, should sleeps always be ended for nothing.
pub(crate) struct Lookout {
    slice: Duration,
    /// In a model nothing depends on the clock.
    #[cfg(not(loom))]
    looked: Instant,
}

impl Lookout {
    pub(crate) fn new() -> Lookout {
        Lookout {
            slice: FIRST_LOOK,
            #[cfg(not(loom))]
            looked: Instant::now(),
        }
    }

    /// How long the next sleep may last.
    pub(crate) fn slice(&self) -> Duration {
        self.slice
    }

    /// Whether it is to look now, after a sleep that ended like this.
    pub(crate) fn is_due(&mut self, parked: Result<Wake, WaitError>) -> bool {
        #[cfg(not(loom))]
        let overdue = self.looked.elapsed() >= CHECK_OWNER;
        #[cfg(loom)]
        let overdue = false;
        let due = overdue || parked != Ok(Wake::Woken);
        if due {
            self.slice = CHECK_OWNER;
            #[cfg(not(loom))]
            {
                self.looked = Instant::now();
            }
        }
        due
    }
}

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
    watch: Option<&'a mut dyn FnMut()>,
    /// Wake-ups since the hook was asked.
    woken: u8,
    /// How many times longer than usual the next sleep for an event lasts, if they may become longer.
    longer: Option<u32>,
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
            watch: None,
            woken: 0,
            longer: None,
        }
    }

    /// Tries once and does not wait.
    pub fn none() -> Patience<'a> {
        Patience {
            limit: Limit::Once,
            interrupt: None,
            watch: None,
            woken: 0,
            longer: None,
        }
    }

    /// Waits until a point in time.
    pub fn until(deadline: Instant) -> Patience<'a> {
        Patience {
            limit: Limit::Until(deadline),
            interrupt: None,
            watch: None,
            woken: 0,
            longer: None,
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

    /// Has `hook` called after every signal and at least every 50 ms of sleep (but see
    /// [`looking_rarely`](Self::looking_rarely)); when it returns
    /// true, the call gives up.
    #[must_use]
    pub fn with_interrupt(mut self, hook: &'a mut dyn FnMut() -> bool) -> Patience<'a> {
        self.interrupt = Some(hook);
        self
    }

    /// For one who may wait for long, and whom somebody wakes should the wake-up that was meant for him have gone to
    /// a process that died of it: as long as nothing happens he looks, and calls the hook, ever more
    /// rarely, down to once in 4 seconds. A signal that arrives while he sleeps still ends the sleep.
    /// What waits for an owner to give something back is not affected.
    #[must_use]
    pub fn looking_rarely(mut self) -> Patience<'a> {
        self.longer = Some(1);
        self
    }

    /// The same time limit and hook for a call inside, whose sleeps are watched: `watch` is called
    /// whenever one has ended by itself, the first time after some milliseconds, and from time to
    /// time when wake-ups come to nothing. No lock is held then for a moment only.
    pub fn watched<'b>(&'b mut self, watch: &'b mut dyn FnMut()) -> Patience<'b> {
        let mut inner = self.reborrow();
        inner.watch = Some(watch);
        inner
    }

    /// The same time limit and hook for a shorter call inside.
    pub fn reborrow(&mut self) -> Patience<'_> {
        let interrupt: Option<&mut dyn FnMut() -> bool> = match &mut self.interrupt {
            Some(hook) => Some(&mut **hook),
            None => None,
        };
        let watch: Option<&mut dyn FnMut()> = match &mut self.watch {
            Some(watch) => Some(&mut **watch),
            None => None,
        };
        Patience {
            limit: self.limit,
            interrupt,
            watch,
            woken: self.woken,
            longer: self.longer,
        }
    }

    /// Whether it would wait at all.
    pub fn is_none(&self) -> bool {
        matches!(self.limit, Limit::Once)
    }

    /// Whether the wait ends by itself.
    pub fn is_limited(&self) -> bool {
        !matches!(self.limit, Limit::Forever)
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
        let length = self.slice(slice);
        self.park_for(word, expected, length)
    }

    /// The same for an event, of which others tell.
    ///
    /// # Errors
    /// As `park`.
    pub(crate) fn park_for_event(
        &mut self,
        word: &AtomicU32,
        expected: u32,
    ) -> Result<Wake, WaitError> {
        let mut length = self.slice(LOOK_AGAIN);
        if let Some(longer) = self.longer {
            length = length.saturating_mul(longer).min(RARELY);
            length = self.left().map_or(length, |left| left.min(length));
        }
        let woken = self.park_for(word, expected, length)?;
        if let Some(longer) = &mut self.longer
            && woken == Wake::TimedOut
        {
            *longer = longer.saturating_mul(RARER);
        }
        Ok(woken)
    }

    fn park_for(
        &mut self,
        word: &AtomicU32,
        expected: u32,
        length: Duration,
    ) -> Result<Wake, WaitError> {
        if self.is_over() {
            return Err(WaitError::TimedOut);
        }
        if self.woken >= WAKE_UPS {
            self.ask()?;
        }
        let woken = futex::wait(word, expected, length);
        if woken == Wake::Woken {
            self.woken = self.woken.saturating_add(1);
        } else {
            self.ask()?;
        }
        Ok(woken)
    }

    fn ask(&mut self) -> Result<(), WaitError> {
        self.woken = 0;
        if let Some(watch) = &mut self.watch {
            watch();
        }
        if let Some(hook) = &mut self.interrupt
            && hook()
        {
            return Err(WaitError::Interrupted);
        }
        Ok(())
    }
}
