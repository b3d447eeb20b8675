//! What a process has around it and what it may use: the choices that the builders of processes and of
//! pools have in common.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StartMethod;
use super::settings::Settings;
use super::setup::{self, SetupResult};
use crate::engine::Parcel;
use crate::engine::launch::{Standard, Surroundings};
use crate::error::Error;
use crate::function::Function;

/// The choices themselves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) method: StartMethod,
    pub(crate) surroundings: Surroundings,
    pub(crate) settings: Settings,
    /// Among the limits of `settings` too; for messages.
    pub(crate) memory_limit: Option<u64>,
    setup: Option<Result<Arc<Parcel>, Arc<Error>>>,
}

impl Conditions {
    pub(crate) fn set_up_by<F, A, S>(&mut self, hook: F, arguments: &A)
    where
        F: Function<A, S>,
        A: Serialize + DeserializeOwned,
        F::Output: SetupResult,
    {
        let stored = setup::store(hook, arguments);
        self.setup = Some(stored.map(Arc::new).map_err(Arc::new));
    }

    /// The hook, to be named in what a process starts with.
    pub(crate) fn take_setup(&mut self) -> Result<Option<Arc<Parcel>>, Arc<Error>> {
        self.setup.take().transpose()
    }

    /// Whether there is to be a pipe that somebody has to have the other end of.
    pub(crate) fn has_pipes(&self) -> bool {
        let standard = self.surroundings.standard.iter();
        standard.into_iter().any(|it| matches!(it, Standard::Pipe))
    }
}

/// The methods of a builder that has a field `conditions`.
macro_rules! conditions {
    ($builder:ident) => {
        impl $builder {
            /// How the process is started.
            pub fn start_method(mut self, method: $crate::StartMethod) -> Self {
                self.conditions.method = method;
                self
            }

            /// Sets a variable of the process's environment, which is otherwise this process's.
            ///
            /// Started by [`Fork`](crate::StartMethod::Fork) or [`ForkServer`](crate::StartMethod::ForkServer) the process
            /// has it when `setup` and its function run; what happened before `init`, and the dynamic
            /// loader, have not seen it.
            pub fn env(
                mut self,
                name: impl Into<std::ffi::OsString>,
                value: impl Into<std::ffi::OsString>,
            ) -> Self {
                let variable = (name.into(), Some(value.into()));
                self.conditions.surroundings.variables.push(variable);
                self
            }

            /// Sets several variables of the process's environment.
            pub fn envs<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
            where
                N: Into<std::ffi::OsString>,
                V: Into<std::ffi::OsString>,
            {
                for (name, value) in variables {
                    self = self.env(name, value);
                }
                self
            }

            /// Removes a variable from the process's environment.
            pub fn env_remove(mut self, name: impl Into<std::ffi::OsString>) -> Self {
                self.conditions
                    .surroundings
                    .variables
                    .push((name.into(), None));
                self
            }

            /// Has the process's environment start empty, but for what is set after this.
            pub fn env_clear(mut self) -> Self {
                self.conditions.surroundings.clear_environment = true;
                self.conditions.surroundings.variables.clear();
                self
            }

            /// The process's working directory. Otherwise this process's, from which a relative path counts.
            pub fn current_dir(mut self, folder: impl Into<std::path::PathBuf>) -> Self {
                self.conditions.surroundings.folder = Some(folder.into());
                self
            }

            /// What the process reads as its standard input. Otherwise what this process does.
            pub fn stdin(mut self, stdio: impl Into<$crate::Stdio>) -> Self {
                self.conditions.surroundings.standard[0] = stdio.into().0;
                self
            }

            /// Where the process's standard output goes. Otherwise where this process's goes.
            pub fn stdout(mut self, stdio: impl Into<$crate::Stdio>) -> Self {
                self.conditions.surroundings.standard[1] = stdio.into().0;
                self
            }

            /// Where the process's standard error goes, and with it the messages of panics and crashes.
            /// Otherwise where this process's goes.
            pub fn stderr(mut self, stdio: impl Into<$crate::Stdio>) -> Self {
                self.conditions.surroundings.standard[2] = stdio.into().0;
                self
            }

            /// Limits the process's own memory, in bytes: heap, stacks and static variables
            /// ([`Resource::Data`](crate::Resource::Data)).
            ///
            /// An allocation that goes beyond it fails, which in most Rust code ends the process by SIGABRT.
            /// What lies in shared memory (in queues, under locks) does not count; values that were read from
            /// there do. A process starts with a few MiB; by [`Fork`](crate::StartMethod::Fork) with as much as this process has.
            pub fn memory_limit(mut self, bytes: u64) -> Self {
                self.conditions.memory_limit = Some(bytes);
                self.limit($crate::Resource::Data, bytes, bytes)
            }

            /// Limits the process's CPU time, that of all its threads together, in whole seconds, rounded
            /// up.
            ///
            /// Then SIGXCPU ends it, or a second later SIGKILL.
            pub fn cpu_limit(self, time: std::time::Duration) -> Self {
                let seconds = time
                    .as_secs()
                    .saturating_add(u64::from(time.subsec_nanos() > 0));
                self.limit(
                    $crate::Resource::CpuTime,
                    seconds,
                    seconds.saturating_add(1),
                )
            }

            /// Limits what the process may use of a resource. The system warns, or refuses, at `soft`; up to
            /// `hard` the process may raise `soft`. Processes that it starts have the same limits, each for
            /// itself.
            pub fn limit(mut self, resource: $crate::Resource, soft: u64, hard: u64) -> Self {
                self.conditions.settings.limits.push((resource, soft, hard));
                self
            }

            /// Adds to the process's niceness: above 0, up to 19, others go first. Below 0 takes rights.
            pub fn nice(mut self, more: i32) -> Self {
                self.conditions.settings.niceness = more;
                self
            }

            /// Puts the process into the process group `group`; 0 is a new one, of which it is the first. So
            /// Ctrl-C in the terminal does not reach it.
            pub fn process_group(mut self, group: u32) -> Self {
                self.conditions.settings.group = Some(group);
                self
            }

            /// Whether the process begins a session of its own, without a terminal.
            pub fn new_session(mut self, session: bool) -> Self {
                self.conditions.settings.session = session;
                self
            }

            /// What runs first in the process: before its arguments are read, and before its function is
            /// called, with the limits above in force. For sandboxing: a seccomp filter, landlock, another
            /// user.
            ///
            /// `hook` is a function or a closure without captures, `arguments` are what it is called with:
            /// see [`Function`](crate::Function). If it returns an error or panics, nothing else runs in the process:
            /// [`join`](crate::Process::join) [says so](crate::JoinErrorKind::Setup), and a pool is
            /// [broken](crate::Error::is_broken) for that reason.
            ///
            /// A filter must leave to the process what its work and the way of its result take: `futex`,
            /// `mmap`, `munmap`, `brk`, `madvise`, `fallocate`, `read`, `write`, `close`, `getpid`, `gettid`,
            /// `sched_yield`, `clock_gettime`, `rt_sigprocmask`, `sigaltstack`, `exit_group` and what else the
            /// function does. To forbid what is dangerous is simpler than to allow what is needed.
            ///
            /// ```
            /// use procession::Process;
            ///
            /// fn enter(folder: String) -> std::io::Result<()> {
            ///     std::env::set_current_dir(folder)
            /// }
            ///
            /// #[procession::main]
            /// fn main() -> procession::Result<()> {
            ///     let builder = Process::builder().setup(enter, "/".to_string());
            ///     assert_eq!(builder.spawn(|| 1, ())?.join()?, 1);
            ///
            ///     let builder = Process::builder().setup(enter, "/no/such/folder".to_string());
            ///     let error = builder.spawn(|| 1, ())?.join().unwrap_err();
            ///     assert!(error.is_setup());
            ///     Ok(())
            /// }
            /// ```
            pub fn setup<F, A, S>(mut self, hook: F, arguments: A) -> Self
            where
                F: $crate::Function<A, S>,
                A: serde::Serialize + serde::de::DeserializeOwned,
                F::Output: $crate::SetupResult,
            {
                self.conditions.set_up_by(hook, &arguments);
                self
            }
        }
    };
}
pub(crate) use conditions;
