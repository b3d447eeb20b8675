//! This process, its parent, its children.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::engine;
use crate::engine::launch;
use crate::error::Result;
use crate::process::{ExitStatus, Running, SIGINT, SIGKILL, SIGTERM, StartMethod};
use crate::start;

/// What this process was started as: the one with its pid. (A process that was forked has copies of
/// what its ancestors were started as. A `Mutex` would do for one, were it not that another thread
/// may hold it at a fork.)
static STARTED: [OnceLock<Started>; 16] = [const { OnceLock::new() }; 16];

#[derive(Debug)]
struct Started {
    pid: u32,
    name: String,
    daemon: bool,
    method: StartMethod,
    parent: u32,
}

pub(crate) fn begin(entry: &launch::Entry) {
    let mut started = Started {
        pid: std::process::id(),
        name: entry.name.clone(),
        daemon: entry.daemon,
        method: StartMethod::from_engine(entry.method),
        parent: entry.parent,
    };
    for place in &STARTED {
        match place.set(started) {
            Ok(()) => return,
            Err(back) => started = back,
        }
    }
}

fn started() -> Option<&'static Started> {
    let pid = std::process::id();
    STARTED
        .iter()
        .filter_map(OnceLock::get)
        .find(|started| started.pid == pid)
}

/// This process, as it was started: see [`current_process`].
#[derive(Debug, Clone)]
pub struct CurrentProcess {
    name: String,
    daemon: bool,
    method: Option<StartMethod>,
}

/// What this process was started as.
pub fn current_process() -> CurrentProcess {
    match started() {
        Some(started) => CurrentProcess {
            name: started.name.clone(),
            daemon: started.daemon,
            method: Some(started.method),
        },
        None => CurrentProcess {
            name: "main".to_owned(),
            daemon: false,
            method: None,
        },
    }
}

impl CurrentProcess {
    /// The name it was given; `main` for the first of a family.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is killed when its parent ends.
    pub fn is_daemon(&self) -> bool {
        self.daemon
    }

    /// How it was started; `None` for the first of a family.
    pub fn start_method(&self) -> Option<StartMethod> {
        self.method
    }
}

/// The process that started this one: see [`parent_process`].
#[derive(Debug, Clone)]
pub struct ParentProcess {
    pid: u32,
}

/// The process that started this one; `None` in the first of a family.
///
/// That is not always the parent in the eyes of the kernel, which may be a fork server.
pub fn parent_process() -> Option<ParentProcess> {
    started().map(|started| ParentProcess {
        pid: started.parent,
    })
}

impl ParentProcess {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        // The family's table knows when the process started, so another one with its pid is not
        // mistaken for it.
        engine::family().is_ok_and(|family| {
            family
                .members()
                .iter()
                .any(|member| member.pid == self.pid && member.alive)
        })
    }
}

/// A running process that this one has started, whatever it is to return: see [`active_children`].
#[derive(Debug, Clone)]
pub struct ActiveChild {
    running: Arc<Running>,
}

/// The processes that this one has started by [`Process`](crate::Process), and that run. Those
/// whose `Process` was dropped are not among them, nor are the workers of pools.
pub fn active_children() -> Vec<ActiveChild> {
    start::children()
        .into_iter()
        .map(|running| ActiveChild { running })
        .collect()
}

impl ActiveChild {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.child.pid()
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        self.running.child.name()
    }

    /// Whether it is killed when this process ends.
    pub fn is_daemon(&self) -> bool {
        self.running.daemon
    }

    /// Whether it still runs. Does not wait.
    pub fn is_alive(&self) -> bool {
        self.running.child.is_alive()
    }

    /// Waits until it has ended.
    pub fn wait(&self) -> ExitStatus {
        self.running.wait()
    }

    /// Waits until it has ended, at most for `timeout`; `None` when it still runs then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<ExitStatus> {
        self.running.wait_timeout(timeout)
    }

    /// Asks it to end (SIGTERM, which it may handle).
    ///
    /// # Errors
    /// When the system refuses: the process has taken on the rights of another user.
    pub fn terminate(&self) -> Result<()> {
        self.running.signal(SIGTERM)
    }

    /// Ends it at once (SIGKILL).
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn kill(&self) -> Result<()> {
        self.running.signal(SIGKILL)
    }

    /// Interrupts it as Ctrl-C does (SIGINT).
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.running.signal(SIGINT)
    }
}
