//! Sleeping on a word, and waking who sleeps there: the kernel's, or a stand-in for loom's models.

#[cfg(not(loom))]
pub(crate) use procession_sys::futex::{Wake, wait, wake};

#[cfg(loom)]
pub(crate) use model::{tick, wait, wake};
#[cfg(loom)]
pub(crate) use procession_sys::futex::Wake;

#[cfg(loom)]
mod model {
    //! A sleep has no end of its own here: slices would hide a lost wake-up, which loom reports as
    //! a deadlock this way. Only [`tick`] ends them: once for each thread, at once or, for a thread
    //! that does not sleep now, when it next would.

    use std::sync::Arc;
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};
    use procession_sys::futex::Wake;

    use crate::atomic::AtomicU32;

    struct Sleeper {
        place: usize,
        bell: Arc<Condvar>,
        woken: Arc<Mutex<Option<Wake>>>,
    }

    #[derive(Default)]
    struct Table {
        ticks: u32,
        sleepers: Vec<Sleeper>,
    }

    loom::lazy_static! {
        static ref TABLE: Mutex<Table> = Mutex::new(Table::default());
    }

    loom::thread_local! {
        static SEEN: std::cell::Cell<u32> = std::cell::Cell::new(0);
    }

    fn table() -> loom::sync::MutexGuard<'static, Table> {
        TABLE.lock().expect("no thread of a model panics here")
    }

    fn place(word: &AtomicU32) -> usize {
        std::ptr::from_ref(word) as usize
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _at_most: Duration) -> Wake {
        let (bell, woken) = (Arc::new(Condvar::new()), Arc::new(Mutex::new(None)));
        {
            let mut table = table();
            // Under the lock that wakers take, as in the kernel.
            if word.latest() != expected {
                return Wake::Woken;
            }
            let ticks = table.ticks;
            if SEEN.with(|seen| seen.replace(ticks)) != ticks {
                return Wake::TimedOut;
            }
            table.sleepers.push(Sleeper {
                place: place(word),
                bell: bell.clone(),
                woken: woken.clone(),
            });
        }
        let mut result = woken.lock().expect("no thread of a model panics here");
        loop {
            if let Some(wake) = *result {
                if wake == Wake::TimedOut {
                    SEEN.with(|seen| seen.set(seen.get() + 1));
                }
                return wake;
            }
            result = bell.wait(result).expect("no thread of a model panics here");
        }
    }

    fn end(sleeper: &Sleeper, how: Wake) {
        *sleeper
            .woken
            .lock()
            .expect("no thread of a model panics here") = Some(how);
        sleeper.bell.notify_one();
    }

    pub(crate) fn wake(word: &AtomicU32, count: u32) -> usize {
        let mut table = table();
        let mut woken = 0;
        while woken < count as usize {
            let Some(at) = table
                .sleepers
                .iter()
                .position(|sleeper| sleeper.place == place(word))
            else {
                break;
            };
            let sleeper = table.sleepers.remove(at);
            end(&sleeper, Wake::Woken);
            woken += 1;
        }
        woken
    }

    /// The slices of all who sleep come to their end: what a thread does that models a death.
    pub(crate) fn tick() {
        let mut table = table();
        table.ticks += 1;
        for sleeper in std::mem::take(&mut table.sleepers) {
            end(&sleeper, Wake::TimedOut);
        }
    }
}
