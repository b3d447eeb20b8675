//! A descriptor that is readable while a queue has messages: to wait for a queue together with
//! pipes, sockets and processes.
//!
//! An eventfd is made when somebody asks for it, and a thread that waits for the first message. The
//! eventfd is set and cleared under a lock together with the look at the queue ([`Watch::look`]), by
//! that thread and by this process's own puts and gets. So it is exact whenever a get or a put of this
//! process has returned. What other processes put is seen at once; what they take away, within
//! [`OTHERS`].
//!
//! Who waits for a queue and for the end of a process expects to see what the process has put last
//! before its end. So a process that ends in good order waits until its last messages are shown:
//! [`linger`].

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use procession_engine::{Patience, Queue};
use rustix::event::{EventfdFlags, eventfd};

/// While there are messages: how often the thread looks whether other processes have taken them.
const OTHERS: Duration = Duration::from_millis(20);
/// While there are none: how long the thread may sleep without looking whether it is still needed.
const NEEDED: Duration = Duration::from_millis(50);
/// So often, and this long each time, the end of a process waits for others to see what it has put: half a second, and
/// longer on a machine so busy, or stopped, that they don't come to see anything either.
const LINGERS: u32 = 5_000;
const LINGER: Duration = Duration::from_micros(100);

/// Queues whose watchers had not seen yet what this process has put. Locked for a moment with the
/// interpreter held, so never across a fork.
static OVERLOOKED: Mutex<Vec<Queue>> = Mutex::new(Vec::new());

fn overlooked() -> MutexGuard<'static, Vec<Queue>> {
    OVERLOOKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To be called after each put.
#[inline]
pub(crate) fn note_put(queue: &Queue) {
    if queue.is_overlooked() {
        note_overlooked(queue);
    }
}

#[cold]
fn note_overlooked(queue: &Queue) {
    let mut queues = overlooked();
    queues.retain(|known| known.handle() != queue.handle() && known.is_overlooked());
    queues.push(queue.clone());
}

/// Waits until all that this process has put is shown by those who watch the queues.
pub(crate) fn linger() {
    let queues = mem::take(&mut *overlooked());
    for _ in 0..LINGERS {
        if !queues.iter().any(Queue::is_overlooked) {
            break;
        }
        thread::sleep(LINGER);
    }
}

/// A watched queue. Not to be used in a child that was forked since: see [`is_mine`](Self::is_mine).
pub(crate) struct Watch(Arc<Watched>);

struct Watched {
    queue: Queue,
    event: OwnedFd,
    /// Whether the eventfd is set; if not, the queue counts this among its blind watchers.
    set: Mutex<bool>,
    cleared: Condvar,
    ended: AtomicBool,
    process: u32,
}

impl Watch {
    /// Begins to watch a queue.
    ///
    /// # Errors
    /// At the limits of descriptors and threads.
    pub(crate) fn begin(queue: Queue) -> io::Result<Watch> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watched = Arc::new(Watched {
            queue,
            event,
            set: Mutex::new(false),
            cleared: Condvar::new(),
            ended: AtomicBool::new(false),
            process: std::process::id(),
        });
        let watch = Watch(Arc::clone(&watched));
        watched.queue.begin_blind();
        thread::Builder::new()
            .name(String::from("queue watch"))
            .stack_size(64 << 10)
            .spawn(move || watched.run())?;
        watch.look();
        Ok(watch)
    }

    /// Whether this process made it. A forked child has neither the thread nor, maybe, the lock.
    pub(crate) fn is_mine(&self) -> bool {
        self.0.process == std::process::id()
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }

    /// To be called after each put and get of this process.
    pub(crate) fn look(&self) {
        self.0.look(&mut self.0.set());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        if self.is_mine() {
            self.0.cleared.notify_all();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.process == std::process::id() && !*self.set() {
            self.queue.end_blind();
        }
    }
}

impl Watched {
    fn set(&self) -> MutexGuard<'_, bool> {
        // Nothing can panic under it.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, set: &mut MutexGuard<'_, bool>) {
        let ready = !self.queue.is_empty();
        if ready == **set {
            return;
        }
        if ready {
            // It can't be full: it is 0.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
            self.queue.end_blind();
        } else {
            self.queue.begin_blind();
            if !self.queue.is_empty() {
                // Its sender may have ended, having seen no blind watcher.
                self.queue.end_blind();
                return;
            }
            // It can't be empty: it is 1.
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
            self.cleared.notify_all();
        }
        **set = ready;
    }

    fn run(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            // Whether there is one or not: it may have come and gone before this thread looked.
            let _ = self.queue.wait_readable(&mut Patience::timeout(NEEDED));
            let mut set = self.set();
            self.look(&mut set);
            // A queue that is closed for good counts as readable for the wait above, not for this.
            while (*set || self.queue.is_closed()) && !self.ended.load(Ordering::Relaxed) {
                set = self
                    .cleared
                    .wait_timeout(set, OTHERS)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                self.look(&mut set);
            }
        }
    }
}
