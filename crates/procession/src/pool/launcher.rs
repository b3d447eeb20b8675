//! Starting workers, at first and in the place of those that have ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine::launch::LaunchRequest;
use crate::engine::pool::{LaunchError, Launched};
use crate::engine::{self, Child, Handle, Parcel, Patience, Role};
use crate::error::{Error, Result};
use crate::process::{Conditions, SIGKILL, Settings};
use crate::start::{self, Occupation};
use crate::wire;

/// What a worker is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct WorkerStart {
    pub(crate) pool: Named,
    pub(crate) slot: u32,
    pub(crate) settings: Settings,
    pub(crate) setup: Option<Named>,
    pub(crate) initializer: Option<Named>,
}

/// The name of an object that the message keeps alive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named(pub(crate) Handle);

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::serialize_handle(self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named, D::Error> {
        wire::deserialize_handle(deserializer, |handle| Ok(Named(handle)))
    }
}

#[derive(Debug)]
pub(crate) struct Launcher {
    /// Of the workers; followed by a number.
    name: String,
    conditions: Conditions,
    setup: Option<Arc<Parcel>>,
    initializer: Option<Parcel>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By slot.
    children: HashMap<u32, Child>,
    /// How many were started, for their names.
    count: u64,
    /// Why the last start failed.
    failure: Option<Error>,
}

impl Launcher {
    pub(crate) fn new(
        name: String,
        conditions: Conditions,
        setup: Option<Arc<Parcel>>,
        initializer: Option<Parcel>,
    ) -> Launcher {
        Launcher {
            name,
            conditions,
            setup,
            initializer,
            state: Mutex::default(),
        }
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Of the workers that run, in the order of their places.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let state = self.state();
        let mut workers: Vec<(u32, u32)> = state
            .children
            .iter()
            .filter(|(_, child)| child.is_alive())
            .map(|(&slot, child)| (slot, child.pid()))
            .collect();
        workers.sort_unstable();
        workers.into_iter().map(|(_, pid)| pid).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, pool: Handle, slot: u32, name: &str) -> Result<(Child, Launched)> {
        let packed = wire::encode(&WorkerStart {
            pool: Named(pool),
            slot,
            settings: self.conditions.settings.clone(),
            setup: self.setup.as_ref().map(|parcel| Named(parcel.handle())),
            initializer: self
                .initializer
                .as_ref()
                .map(|parcel| Named(parcel.handle())),
        })?;
        let (child, _) = packed.send(0, |payload| {
            let request = LaunchRequest {
                method: self.conditions.method.to_engine(),
                name,
                role: Role::Worker,
                daemon: true,
                entry: Occupation::Worker.to_raw(),
                payload,
                fds: &[],
                run: start::RUN,
            };
            start::launch(&request, &self.conditions.surroundings)
        })?;
        let pidfd = child.sentinel().try_clone_to_owned().map_err(|error| {
            // Another is to have its place: it must be gone by then.
            let _ = child.kill(SIGKILL);
            let _ = child.wait(&mut Patience::forever());
            Error::system("a descriptor could not be duplicated", error)
        })?;
        let launched = Launched {
            pid: child.pid(),
            pidfd,
            seat: child.seat(),
        };
        Ok((child, launched))
    }
}

impl engine::pool::Launcher for Launcher {
    fn launch(&self, pool: Handle, slot: u32) -> Result<Launched, LaunchError> {
        let name = {
            let mut state = self.state();
            state.count += 1;
            format!("{}-{}", self.name, state.count)
        };
        match self.start(pool, slot, &name) {
            Ok((child, launched)) => {
                self.state().children.insert(slot, child);
                Ok(launched)
            }
            Err(error) => {
                let told = LaunchError {
                    message: error.chain(),
                    fatal: error.is_not_initialised(),
                };
                self.state().failure = Some(error);
                Err(told)
            }
        }
    }

    fn ended(&self, slot: u32, _worker: &Launched, _status: engine::ExitStatus) {
        let child = self.state().children.remove(&slot);
        if let Some(child) = child {
            // It has ended: this clears it away.
            child.try_wait();
        }
    }
}
