//! Places at which a test has a process killed, to see whether what it leaves behind is sound.
//! Compiled in with the feature `crash-points` alone.

/// `crash_point!("name")`: the process ends here if a test has asked for it.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        crate::crash::reached($name);
    };
}

pub(crate) use crash_point;

#[cfg(feature = "crash-points")]
pub use points::{LATER_POINTS, POINTS, arm, reached};

#[cfg(feature = "crash-points")]
mod points {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// All the places there are.
    pub const POINTS: &[&str] = &[
        "lock: taken",
        "lock: released",
        "allocate: claimed",
        "allocate: has its stretch",
        "allocate: has its pages",
        "allocate: filled in",
        "allocate: has its bit",
        "allocate: lives",
        "acquire: has its bit",
        "release: bit cleared",
        "free: freeing",
        "free: taken apart",
        "free: free",
        "claim: half",
        "parcel: block made",
        "parcel: block noted",
        "parcel: block claimed",
        "parcel: mention counted",
        "parcel: mention noted",
        "parcel: written",
        "parcel: block disowned",
        "parcel: mention taken back",
        "put: segment made",
        "put: segment linked",
        "put: segment moved on",
        "put: claimed",
        "put: head written",
        "put: written",
        "put: committed",
        "put: unlocked",
        "get: read",
        "get: told",
        "get: committed",
        "get: unlocked",
        "get: tail moved on",
        "get: head moved on",
    ];

    /// Those of reader-writer locks, of what is done once, and of plain data.
    pub const LATER_POINTS: &[&str] = &[
        "rwlock: counted",
        "rwlock: left",
        "rwlock: waits for readers",
        "rwlock: writes",
        "once: done",
        "slice: has its table",
        "slice: frozen",
        "mailbox: written",
        "mailbox: away",
        "mailbox: read",
    ];

    /// The place, as one more than its number; 0 is none.
    static ARMED: AtomicUsize = AtomicUsize::new(0);
    static LEFT: AtomicUsize = AtomicUsize::new(0);

    fn number(name: &str) -> usize {
        let at = POINTS
            .iter()
            .chain(LATER_POINTS)
            .position(|point| *point == name);
        at.map_or(usize::MAX, |at| at + 1)
    }

    /// This process is killed when it reaches the place for the `time`th time, counted from 1.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn arm(name: &str, time: usize) {
        assert_ne!(number(name), usize::MAX, "no crash point {name}");
        LEFT.store(time, Ordering::SeqCst);
        ARMED.store(number(name), Ordering::SeqCst);
    }

    /// The place is reached.
    ///
    /// # Panics
    /// When it is not in the list.
    pub fn reached(name: &str) {
        let armed = ARMED.load(Ordering::Relaxed);
        if armed == 0 {
            return;
        }
        let here = number(name);
        assert_ne!(here, usize::MAX, "crash point {name} is not in the list");
        if here == armed && LEFT.fetch_sub(1, Ordering::SeqCst) == 1 {
            procession_sys::process::kill_self();
        }
    }
}
