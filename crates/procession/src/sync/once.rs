//! What is done once, by one process, for all.

use std::fmt;
use std::sync::OnceLock as Local;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::{self, Cell, Patience, Turn};
use crate::error::{Error, Result};
use crate::wire::{self, travels};

/// Something that one process does, once, for all: the others wait until it is done.
///
/// ```
/// use procession::{Once, Process};
///
/// fn work(once: Once) -> bool {
///     let mut mine = false;
///     once.call_once(|| mine = true);
///     // Here it is done, by whichever process.
///     mine
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let once = Once::new()?;
///     let processes = [(); 3].map(|()| Process::spawn(work, once.clone()));
///     let mut times = 0;
///     for process in processes {
///         times += u32::from(process?.join()?);
///     }
///     assert_eq!(times, 1);
///     Ok(())
/// }
/// ```
///
/// # When a process dies or panics
///
/// The next that waits does it again, from the start, within 50 ms; whether somebody has died over it
/// [`call_once_force`](Self::call_once_force) says. There is no poisoning as in the standard library:
/// another process is not bound by this one's panic.
///
/// Clones, and what other processes get of it, are the same. To call it from within itself waits for
/// ever.
#[derive(Clone)]
pub struct Once(engine::Once);

travels!([] Once, 0, |handle| engine::Once::from_handle(handle).map(Once));

/// What is known to the one whose turn it is.
#[derive(Debug)]
pub struct OnceState {
    after_death: bool,
}

impl OnceState {
    /// Whether the one before died at it: there may be half of its work to be cleared away.
    pub fn is_after_death(&self) -> bool {
        self.after_death
    }
}

/// Gives the turn to the next, unless it was finished.
struct Begun<'a> {
    once: &'a engine::Once,
    finished: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.finished {
            self.once.finish();
        } else {
            self.once.give_up();
        }
    }
}

/// Runs `work` if it is this caller's turn. An error of it leaves it to the next.
fn run<E>(once: &engine::Once, work: impl FnOnce(&OnceState) -> Result<(), E>) -> Result<(), E> {
    if once.is_done() {
        return Ok(());
    }
    loop {
        match once.begin(&mut Patience::forever()) {
            Ok(Turn::Done) => return Ok(()),
            Ok(Turn::Mine { after_death }) => {
                let mut begun = Begun {
                    once,
                    finished: false,
                };
                work(&OnceState { after_death })?;
                begun.finished = true;
                return Ok(());
            }
            // Patience without end runs out only where somebody asked to be interrupted.
            Err(_) => {}
        }
    }
}

impl Once {
    /// A new one, not done.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<Once> {
        Ok(Once(engine::Once::new()?))
    }

    /// Calls `work` if it is not done, and no other process does it; waits for one that does. When
    /// this returns it is done.
    pub fn call_once(&self, work: impl FnOnce()) {
        self.call_once_force(|_| work());
    }

    /// The same; `work` is told whether one before it died at it.
    pub fn call_once_force(&self, work: impl FnOnce(&OnceState)) {
        let Ok(()) = run(&self.0, |state| {
            work(state);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// Whether it is done. Does not wait.
    pub fn is_completed(&self) -> bool {
        self.0.is_done()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Once")
            .field("completed", &self.is_completed())
            .finish_non_exhaustive()
    }
}

/// A value that one process makes, once, and all can read.
///
/// ```
/// use procession::{OnceLock, Process};
///
/// fn port(config: OnceLock<u16>) -> u16 {
///     *config.get_or_init(|| 8080).unwrap()
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let config = OnceLock::new()?;
///     assert_eq!(config.get()?, None);
///     Process::spawn(port, config.clone())?.join()?;
///     assert_eq!(config.get()?, Some(&8080));
///     assert!(config.set(1).is_err());
///     Ok(())
/// }
/// ```
///
/// The value is any serde type. It lies in shared memory in serialised form, and is read back once by
/// each clone of the lock, which keeps it: so `get` gives a reference, and a value that can be large
/// had better be a [`SharedSlice`](crate::SharedSlice), or hold one.
///
/// # When a process dies or panics
///
/// Whoever dies or panics while it makes the value has made none: the next that waits makes it. The
/// death is noticed within 50 ms. Once it is there it stays, whoever dies.
pub struct OnceLock<T> {
    once: engine::Once,
    cell: Cell,
    seen: Local<T>,
}

impl<T> OnceLock<T> {
    /// A new one, without a value.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> Result<OnceLock<T>> {
        Ok(OnceLock {
            once: engine::Once::new()?,
            cell: Cell::new()?,
            seen: Local::new(),
        })
    }
}

impl<T: Serialize + DeserializeOwned> OnceLock<T> {
    /// The value, if it has been made. Does not wait.
    ///
    /// # Errors
    /// When the value can't be read as a `T`.
    pub fn get(&self) -> Result<Option<&T>> {
        if let Some(value) = self.seen.get() {
            return Ok(Some(value));
        }
        if !self.once.is_done() {
            return Ok(None);
        }
        let message = self.cell.read().map_err(Error::gone)?;
        let message = message.ok_or_else(|| Error::garbled("a value"))?;
        let value = wire::decode_message(message)?;
        // Another thread may have read it meanwhile; it has read the same.
        Ok(Some(self.seen.get_or_init(|| value)))
    }

    /// The value; if there is none, `make` makes it, in one process at a time. Waits for one that does.
    ///
    /// # Errors
    /// When the value can't be serialised or read back, or there is no memory for it. It is left to
    /// the next then.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> Result<&T> {
        self.get_or_try_init(|| Ok(make()))
    }

    /// The same, where making it can fail: it is left to the next then.
    ///
    /// # Errors
    /// What `make` returns; and as [`get_or_init`](Self::get_or_init).
    pub fn get_or_try_init<E: From<Error>>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<&T, E> {
        run(&self.once, |_| {
            let value = make()?;
            self.store(&value).map_err(E::from)
        })?;
        let value = self.get().map_err(E::from)?;
        value.ok_or_else(|| E::from(Error::garbled("a value")))
    }

    fn store(&self, value: &T) -> Result<()> {
        wire::encode_and(value, 0, |packed| {
            packed.send(0, |message| self.cell.replace(message))
        })??;
        Ok(())
    }

    /// Makes `value` the value, if there is none; waits for one who makes it.
    ///
    /// # Errors
    /// When there is one already; and as [`get_or_init`](Self::get_or_init).
    pub fn set(&self, value: T) -> Result<()> {
        let mut mine = false;
        run(&self.once, |_| {
            mine = true;
            self.store(&value)
        })?;
        if mine {
            Ok(())
        } else {
            Err(Error::misuse(
                "the value was set before, and can't be changed",
            ))
        }
    }
}

impl<T> Clone for OnceLock<T> {
    /// Another name for the same. It reads the value for itself.
    fn clone(&self) -> OnceLock<T> {
        OnceLock {
            once: self.once.clone(),
            cell: self.cell.clone(),
            seen: Local::new(),
        }
    }
}

impl<T> fmt::Debug for OnceLock<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("OnceLock")
            .field("done", &self.once.is_done())
            .finish_non_exhaustive()
    }
}

impl<T> Serialize for OnceLock<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handles([self.once.handle(), self.cell.handle()], serializer)
    }
}

impl<'de, T> Deserialize<'de> for OnceLock<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OnceLock<T>, D::Error> {
        wire::deserialize_handles(deserializer, |[once, cell]| {
            Ok(OnceLock {
                once: engine::Once::from_handle(once)?,
                cell: Cell::from_handle(cell)?,
                seen: Local::new(),
            })
        })
    }
}
