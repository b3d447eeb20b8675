//! What a child sets for itself before anything else: limits, priority, session, its last moment.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::process as sys;

/// What a process may use only so much of: see [`Builder::limit`](super::Builder::limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Resource {
    /// Addresses in use, in bytes. The memory that the family shares has 64 GiB of them, whatever is
    /// in use of it: [`Data`](Resource::Data) is what one wants nearly always.
    AddressSpace,
    /// The size of an image of the memory after a crash, in bytes; 0 for none.
    Core,
    /// CPU time of all threads, in seconds.
    CpuTime,
    /// Memory that is the process's own and writable, in bytes: heap, stacks of threads, static
    /// variables.
    Data,
    /// The size of a file that is written to, in bytes.
    FileSize,
    /// Open descriptors.
    OpenFiles,
    /// Processes and threads of the user.
    Processes,
    /// The stack of the main thread, in bytes.
    Stack,
    /// Memory locked into RAM, in bytes.
    LockedMemory,
}

impl Resource {
    fn to_engine(self) -> sys::Resource {
        match self {
            Resource::AddressSpace => sys::Resource::As,
            Resource::Core => sys::Resource::Core,
            Resource::CpuTime => sys::Resource::Cpu,
            Resource::Data => sys::Resource::Data,
            Resource::FileSize => sys::Resource::Fsize,
            Resource::OpenFiles => sys::Resource::Nofile,
            Resource::Processes => sys::Resource::Nproc,
            Resource::Stack => sys::Resource::Stack,
            Resource::LockedMemory => sys::Resource::Memlock,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Resource::AddressSpace => "address space",
            Resource::Core => "the size of core files",
            Resource::CpuTime => "CPU time",
            Resource::Data => "memory",
            Resource::FileSize => "the size of files",
            Resource::OpenFiles => "open files",
            Resource::Processes => "processes",
            Resource::Stack => "the stack",
            Resource::LockedMemory => "locked memory",
        })
    }
}

/// How long a process that keeps the signal of its time-out from ending it has until it is killed
/// for good.
const GRACE: Duration = Duration::from_secs(1);

/// What a child sets for itself. Travels in the message it starts with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Soft and hard.
    pub(crate) limits: Vec<(Resource, u64, u64)>,
    pub(crate) niceness: i32,
    pub(crate) session: bool,
    pub(crate) group: Option<u32>,
    /// On [`sys::clock`].
    pub(crate) ends_at: Option<Duration>,
}

/// What the system refused.
#[derive(Debug)]
pub(crate) struct Refused {
    what: Setting,
    error: io::Error,
}

#[derive(Debug)]
enum Setting {
    Limit(Resource, u64, u64),
    Niceness(i32),
    Session,
    Group(u32),
    Timeout,
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Setting::Limit(resource, soft, hard) if soft == hard => {
                write!(out, "{resource} can't be limited to {soft}")
            }
            Setting::Limit(resource, soft, hard) => {
                write!(out, "{resource} can't be limited to {soft} and {hard}")
            }
            Setting::Niceness(more) => write!(out, "its niceness can't be changed by {more}"),
            Setting::Session => write!(out, "it can't begin a session"),
            Setting::Group(group) => write!(out, "it can't join process group {group}"),
            Setting::Timeout => write!(out, "its time-out can't be set"),
        }?;
        write!(out, ": {}", self.error)
    }
}

impl Settings {
    /// For this process, now.
    pub(crate) fn apply(&self) -> Result<(), Refused> {
        let refused = |what| move |error| Refused { what, error };
        if self.session {
            sys::new_session().map_err(refused(Setting::Session))?;
        }
        if let Some(group) = self.group {
            sys::join_process_group(group).map_err(refused(Setting::Group(group)))?;
        }
        if self.niceness != 0 {
            let more = self.niceness;
            sys::add_niceness(more).map_err(refused(Setting::Niceness(more)))?;
        }
        if let Some(time) = self.ends_at {
            sys::reset_signal(sys::ALARM)
                .and_then(|()| sys::end_at(time, GRACE))
                .map_err(refused(Setting::Timeout))?;
        }
        for &(resource, soft, hard) in &self.limits {
            sys::set_limit(resource.to_engine(), Some(soft), Some(hard))
                .map_err(refused(Setting::Limit(resource, soft, hard)))?;
        }
        Ok(())
    }
}
