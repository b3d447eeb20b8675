//! Reports of waits that take long, and of circles of waits that never end.
//!
//! A thread that waits for a lock looks by itself, whenever one of its sleeps has ended: at the
//! holders, at what they wait for in turn (each long wait is written down in the family's memory),
//! and at the clock. What it finds goes to the hook, in that thread, once. There is no watching
//! thread, and a wait that is over within two milliseconds takes no part in any of this.

use std::fmt;
use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

pub use procession_shm::Wanted;
use procession_shm::{Handle, Kind, MemberId, Patience, Published, Waiter};

use crate::family::{Family, FamilyError, family};

/// After how long the wait for something that is held is reported if nothing else is set.
pub const DEFAULT_DEADLOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// The environment variable with the number of seconds, or `off`.
pub const ENVIRONMENT: &str = "PROCESSION_DEADLOCK_TIMEOUT";

/// A circle is reported when it was found twice, and has been waited in for so long.
const CIRCLE_AFTER: Duration = Duration::from_millis(200);
/// A thread that waits for itself: another may be about to release the lock, which then serves as a
/// signal.
const SELF_AFTER: Duration = Duration::from_secs(1);

/// The setting in the family's memory: 0 is the default, then milliseconds.
const NEVER: u64 = u64::MAX;

/// What is set for the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    Default,
    After(Duration),
    Never,
}

impl Setting {
    fn of(family: &'static Family) -> Setting {
        match family.arena().shared_setting().load(Ordering::Relaxed) {
            0 => Setting::Default,
            NEVER => Setting::Never,
            milliseconds => Setting::After(Duration::from_millis(milliseconds)),
        }
    }

    fn to_word(self) -> u64 {
        match self {
            Setting::Default => 0,
            Setting::Never => NEVER,
            Setting::After(time) => u64::try_from(time.as_millis())
                .unwrap_or(NEVER - 1)
                .clamp(1, NEVER - 1),
        }
    }

    /// When the wait for such an object is reported.
    fn for_kind(self, kind: Kind) -> Option<Duration> {
        let is_held = matches!(
            kind,
            Kind::Lock | Kind::RLock | Kind::BoundedSemaphore | Kind::RwLock | Kind::Chunks
        );
        match self {
            Setting::Never => None,
            Setting::After(time) => Some(time),
            // Who waits for an event, a signal, others to arrive, may do so for long.
            Setting::Default => is_held.then_some(DEFAULT_DEADLOCK_TIMEOUT),
        }
    }
}

/// Sets after how long a wait is reported, for all processes of the family; `None` is never, and
/// circles are not looked for either.
///
/// Until it is set, what can be held (locks of every kind, bounded semaphores) is reported after
/// [`DEFAULT_DEADLOCK_TIMEOUT`]. Once it is set, waits for other semaphores, conditions, events,
/// barriers, for what is done once and for all tasks of a queue to be done are reported as well.
///
/// # Errors
/// When this process has no family and can't make one.
pub fn set_deadlock_timeout(after: Option<Duration>) -> Result<(), FamilyError> {
    let setting = after.map_or(Setting::Never, Setting::After);
    family()?
        .arena()
        .shared_setting()
        .store(setting.to_word(), Ordering::Relaxed);
    Ok(())
}

/// After how long the wait for a lock is reported in this family; `None` is never.
///
/// # Errors
/// When this process has no family and can't make one.
pub fn deadlock_timeout() -> Result<Option<Duration>, FamilyError> {
    Ok(Setting::of(family()?).for_kind(Kind::Lock))
}

/// The setting that a new family starts with.
pub(crate) fn setting_from_environment() -> u64 {
    let Some(text) = std::env::var_os(ENVIRONMENT) else {
        return Setting::Default.to_word();
    };
    let text = text.to_string_lossy();
    match text.trim() {
        "" => Setting::Default,
        "off" | "none" | "None" | "never" => Setting::Never,
        number => match number.parse().map(Duration::try_from_secs_f64) {
            Ok(Ok(time)) if !time.is_zero() => Setting::After(time),
            _ => {
                let line = format!(
                    "{ENVIRONMENT} is {number:?}, which is neither a number of seconds above 0 nor \"off\": it is not heeded\n"
                );
                // Where that can't be written, nobody is there to read it.
                let _ = std::io::stderr().write_all(line.as_bytes());
                Setting::Default
            }
        },
    }
    .to_word()
}

/// A thread of a process, in a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// Its process.
    pub member: MemberId,
    /// The process id; 0 if nothing is known of it any more.
    pub pid: u32,
    /// The process's name.
    pub name: String,
    /// The thread, by the kernel's id, where that is known.
    pub thread: Option<u32>,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({:?})", self.pid, self.name)?;
        match self.thread {
            Some(thread) => write!(f, ", thread {thread}"),
            None => Ok(()),
        }
    }
}

/// A thread that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// Who.
    pub who: Party,
    /// What for.
    pub object: Handle,
    /// What that is.
    pub kind: Kind,
    /// How long it has waited.
    pub waited: Duration,
}

/// A wait that takes long or does not end: what the hook is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The thread that reports, and what it waits for.
    pub waiting: Waiting,
    /// Who holds that: one, or as many as a semaphore has permits; none where nothing is held.
    pub owners: Vec<Party>,
    /// Who else is known to wait for it, the longest-waiting first.
    pub others: Vec<Waiting>,
    /// If the wait is part of a circle: those who wait, each for what the next one holds, and the
    /// last for what the first holds. It begins with the thread that reports.
    pub circle: Vec<Waiting>,
}

impl Diagnosis {
    /// Whether this is a circle: no time ends such a wait.
    pub fn is_deadlock(&self) -> bool {
        !self.circle.is_empty()
    }
}

/// Enough of an object's name to tell two apart.
struct Object(Kind, Handle);

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.name(), self.1)
    }
}

impl Waiting {
    fn object(&self) -> Object {
        Object(self.kind, self.object)
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Enough names for anyone to know where to look.
const NAMED: usize = 8;

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.circle.as_slice() {
            [] => self.fmt_long(f),
            [own] => write!(
                f,
                "deadlock: {} has waited {} for {}, which it holds itself; only a release by another thread or process can end that (procession.RLock can be acquired again)",
                own.who,
                seconds(own.waited),
                own.object(),
            ),
            circle => {
                write!(f, "deadlock: {} threads wait for each other", circle.len())?;
                let holders = circle.iter().skip(1).chain(circle.first());
                for (waiting, holder) in circle.iter().zip(holders) {
                    write!(
                        f,
                        "\n  {} has waited {} for {}, held by {}",
                        waiting.who,
                        seconds(waiting.waited),
                        waiting.object(),
                        holder.who,
                    )?;
                }
                f.write_str("\n  acquire locks in the same order everywhere, or give a time-out")
            }
        }
    }
}

impl Diagnosis {
    fn fmt_long(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Waiting { who, waited, .. } = &self.waiting;
        let object = self.waiting.object();
        write!(f, "{who} has waited {} for {object}", seconds(*waited))?;
        let list = |f: &mut fmt::Formatter<'_>, parties: &mut dyn Iterator<Item = String>| {
            for (index, party) in parties.enumerate() {
                match index {
                    0 => f.write_str(&party)?,
                    NAMED => return f.write_str("; and more"),
                    _ => write!(f, "; {party}")?,
                }
            }
            Ok(())
        };
        if !self.owners.is_empty() {
            f.write_str(", held by ")?;
            list(f, &mut self.owners.iter().map(Party::to_string))?;
        }
        if !self.others.is_empty() {
            write!(f, "; {} more wait for it: ", self.others.len())?;
            let waits = |other: &Waiting| format!("{} ({})", other.who, seconds(other.waited));
            list(f, &mut self.others.iter().map(waits))?;
        }
        f.write_str(" (after how long this is said: procession.set_deadlock_timeout)")
    }
}

type Hook = Arc<dyn Fn(&Diagnosis) + Send + Sync>;
static HOOK: RwLock<Option<Hook>> = RwLock::new(None);

/// Has `hook` called with each diagnosis of this process, in the thread that waits, in the middle of
/// its wait; instead of a line on standard error. It should not wait for long itself.
pub fn set_hook(hook: impl Fn(&Diagnosis) + Send + Sync + 'static) {
    *HOOK.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
}

fn report(diagnosis: &Diagnosis) {
    let hook = HOOK.read().unwrap_or_else(PoisonError::into_inner).clone();
    match hook {
        Some(hook) => hook(diagnosis),
        // Where that can't be written, nobody is there to read it.
        None => drop(std::io::stderr().write_all(format!("{diagnosis}\n").as_bytes())),
    }
}

/// Looks after one wait.
pub(crate) struct Watch<'a> {
    family: &'static Family,
    kind: Kind,
    waiter: Waiter,
    published: Option<Published>,
    circle: Option<Vec<Waiter>>,
    owners: &'a dyn Fn() -> Vec<MemberId>,
    told: bool,
    long_told: bool,
}

/// Runs a call that waits, and reports it if it takes too long. `owners` are those who hold what it
/// waits for, where they are not to be read from the object itself.
pub(crate) fn watching<T>(
    family: &'static Family,
    object: Handle,
    kind: Kind,
    owners: &dyn Fn() -> Vec<MemberId>,
    patience: &mut Patience<'_>,
    call: impl FnOnce(&mut Patience<'_>) -> T,
) -> T {
    if patience.is_none() {
        return call(patience);
    }
    let mut watch = Watch {
        family,
        kind,
        waiter: Waiter::beginning(family.me(), object, patience.is_limited()),
        published: None,
        circle: None,
        owners,
        told: false,
        long_told: false,
    };
    let mut look = || watch.look();
    let result = call(&mut patience.watched(&mut look));
    watch.end();
    result
}

/// What has no owners, or knows them itself.
pub(crate) fn no_owners() -> Vec<MemberId> {
    Vec::new()
}

impl Watch<'_> {
    fn look(&mut self) {
        let setting = Setting::of(self.family);
        if setting == Setting::Never {
            return;
        }
        let arena = self.family.arena();
        if self.published.is_none() {
            self.published = arena.publish_wait(&self.waiter);
        }
        let waited = self.waiter.waited();
        if !self.told && waited >= CIRCLE_AFTER {
            self.look_for_circle(waited);
        }
        if !self.told
            && !self.long_told
            && setting
                .for_kind(self.kind)
                .is_some_and(|limit| waited >= limit)
        {
            self.long_told = true;
            report(&self.diagnosis(Vec::new()));
        }
    }

    fn look_for_circle(&mut self, waited: Duration) {
        let arena = self.family.arena();
        let before = self.circle.take();
        self.circle = arena.circle(&self.waiter);
        let Some(circle) = &self.circle else { return };
        // One who gives up ends it, and learns of it that way.
        let ends = circle.iter().any(|waiter| waiter.limited);
        let early = circle.len() == 1 && waited < SELF_AFTER;
        let dead = || circle.iter().any(|waiter| arena.is_dead(waiter.member));
        if ends || early || before.as_ref() != Some(circle) || dead() {
            return;
        }
        self.told = true;
        let circle = circle.iter().map(|waiter| self.waiting(waiter)).collect();
        report(&self.diagnosis(circle));
    }

    fn diagnosis(&self, circle: Vec<Waiting>) -> Diagnosis {
        let arena = self.family.arena();
        let object = self.waiter.object;
        let holder = arena.holder_of(object);
        let owners = match holder {
            Some((member, thread)) => vec![self.party(member, Some(thread))],
            None => {
                let mut owners = (self.owners)();
                owners.sort_unstable();
                owners.dedup();
                owners.iter().map(|&id| self.party(id, None)).collect()
            }
        };
        let own = (self.waiter.member, self.waiter.thread);
        let others = arena.waiters_for(object);
        let others = others
            .iter()
            .filter(|waiter| (waiter.member, waiter.thread) != own);
        Diagnosis {
            waiting: self.waiting(&self.waiter),
            owners,
            others: others.map(|waiter| self.waiting(waiter)).collect(),
            circle,
        }
    }

    fn party(&self, member: MemberId, thread: Option<u32>) -> Party {
        let info = self.family.arena().member(member);
        let (pid, name) = info.map_or((0, String::from("(ended)")), |info| (info.pid, info.name));
        Party {
            member,
            pid,
            name,
            thread,
        }
    }

    fn waiting(&self, waiter: &Waiter) -> Waiting {
        let kind = self.family.arena().kind(waiter.object);
        Waiting {
            who: self.party(waiter.member, Some(waiter.thread)),
            object: waiter.object,
            kind: kind.unwrap_or(self.kind),
            waited: waiter.waited(),
        }
    }

    fn end(mut self) {
        if let Some(published) = self.published.take() {
            self.family.arena().withdraw_wait(&self.waiter, published);
        }
    }
}

/// A wait without end of the only thread of a process that could do anything: for seeing that nobody is
/// left who could end it.
#[derive(Debug)]
pub struct LoneWait {
    family: &'static Family,
    waiter: Waiter,
    published: Option<Published>,
    /// The waits that nobody could end, and since when that is known.
    seen: Option<(Vec<Waiter>, Instant)>,
}

impl LoneWait {
    /// All of them have to have gone on for so long.
    const SURE: Duration = Duration::from_millis(300);

    /// The calling thread waits for `object`; if that is a queue, for what is `wanted` of it.
    ///
    /// # Errors
    /// When this process has no family and can't make one.
    pub fn begin(object: Handle, wanted: Wanted) -> Result<LoneWait, FamilyError> {
        let family = family()?;
        let waiter = Waiter::lone(family.me(), object, wanted);
        Ok(LoneWait {
            family,
            waiter,
            published: family.arena().publish_wait(&waiter),
            seen: None,
        })
    }

    /// Whether this process has lost its parent, and all who hold what it waits for wait for something too
    /// that only they themselves could bring about. To be asked from time to time, between two looks at
    /// the object.
    pub fn is_in_vain(&mut self) -> bool {
        let Some(waits) = self.family.arena().orphaned_waits(&self.waiter) else {
            self.seen = None;
            return false;
        };
        match &self.seen {
            Some((before, since)) if *before == waits => since.elapsed() >= Self::SURE,
            _ => {
                self.seen = Some((waits, Instant::now()));
                false
            }
        }
    }
}

impl Drop for LoneWait {
    fn drop(&mut self) {
        if let Some(published) = self.published.take() {
            self.family.arena().withdraw_wait(&self.waiter, published);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_survives_the_memory() {
        for (setting, word) in [
            (Setting::Default, 0),
            (Setting::Never, u64::MAX),
            (Setting::After(Duration::from_millis(1500)), 1500),
            (Setting::After(Duration::from_nanos(1)), 1),
            (Setting::After(Duration::MAX), u64::MAX - 1),
        ] {
            assert_eq!(setting.to_word(), word);
        }
    }

    #[test]
    fn what_is_not_held_is_reported_only_when_asked_for() {
        assert_eq!(Setting::Default.for_kind(Kind::Event), None);
        assert_eq!(
            Setting::Default.for_kind(Kind::RLock),
            Some(DEFAULT_DEADLOCK_TIMEOUT)
        );
        let second = Duration::from_secs(1);
        assert_eq!(Setting::After(second).for_kind(Kind::Event), Some(second));
        assert_eq!(Setting::Never.for_kind(Kind::Lock), None);
    }
}
