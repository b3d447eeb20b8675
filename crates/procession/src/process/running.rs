//! A started process, whatever it returns.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::join_error::{Failure, Why};
use super::{ExitStatus, JoinError, StartMethod, Timeout};
use crate::engine::{self, Patience};
use crate::error::{Error, Result};
use crate::function::{AnswerKind, open_answer};
use crate::start::Reply;
use crate::wire;

/// What is known of a started process, whatever it returns.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) child: engine::Child,
    pub(crate) reply: Reply,
    pub(crate) daemon: bool,
    pub(crate) method: StartMethod,
    pub(crate) timeout: Option<Timeout>,
    pub(crate) memory_limit: Option<u64>,
    /// Its answer was taken.
    pub(crate) told: AtomicBool,
}

impl Running {
    pub(crate) fn wait_timeout(&self, timeout: Duration) -> Option<ExitStatus> {
        self.wait_with(Patience::timeout(timeout))
    }

    pub(crate) fn wait(&self) -> ExitStatus {
        loop {
            // Patience without end runs out only where somebody asked to be interrupted.
            if let Some(status) = self.wait_with(Patience::forever()) {
                return status;
            }
        }
    }

    fn wait_with(&self, mut patience: Patience<'_>) -> Option<ExitStatus> {
        loop {
            let status = match self.until_overdue() {
                Some(left) => {
                    let left = patience.slice(left);
                    self.child.wait(&mut Patience::timeout(left))
                }
                None => self.child.wait(&mut patience),
            };
            if let Ok(status) = status {
                return Some(ExitStatus(status));
            }
            self.see_to_time();
            if patience.check().is_err() {
                return None;
            }
        }
    }

    fn until_overdue(&self) -> Option<Duration> {
        self.timeout.as_ref().and_then(Timeout::next)
    }

    fn see_to_time(&self) {
        if let Some(timeout) = &self.timeout {
            timeout.see_to(&self.child);
        }
    }

    /// Hands on what the child writes, until it has ended.
    pub(super) fn drain(&self, streams: [Option<&File>; 2], mut take: impl FnMut(usize, &[u8])) {
        loop {
            let mut patience = match self.until_overdue() {
                Some(left) => Patience::timeout(left),
                None => Patience::forever(),
            };
            // An error is shortage of memory in the kernel, or a stream that can't be read: the end
            // of the process is waited for all the same.
            let drained = engine::process::drain(&self.child, streams, &mut patience, &mut take);
            if drained.is_err() || !self.child.is_alive() {
                return;
            }
            self.see_to_time();
        }
    }

    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        self.child
            .kill(number)
            .map_err(|error| Error::system("the signal could not be sent", error))
    }

    pub(super) fn result<R: DeserializeOwned>(&self, status: ExitStatus) -> Result<R, JoinError> {
        let why = match self.reply.0.get(&mut Patience::none()) {
            Ok(mut message) => {
                self.told.store(true, Ordering::Relaxed);
                let buffers = std::mem::take(&mut message.buffers);
                let text = || wire::decode(&message.bytes, Vec::new());
                match AnswerKind::from_tag(message.tag) {
                    Some(AnswerKind::Setting) => text().map_or_else(Why::Unreadable, Why::Setting),
                    Some(AnswerKind::Setup) => text().map_or_else(Why::Unreadable, Why::Setup),
                    kind => match open_answer(message.tag, &message.bytes, buffers) {
                        Ok(value) => return Ok(value),
                        Err(error) => match (kind, error.panic()) {
                            (Some(AnswerKind::SetupPanic), Some(panic)) => {
                                Why::SetupPanicked(panic.clone())
                            }
                            (_, Some(panic)) => Why::Panicked(panic.clone()),
                            (_, None) => Why::Unreadable(error),
                        },
                    },
                }
            }
            Err(_) if self.told.load(Ordering::Relaxed) => Why::Taken,
            Err(_) => match (&self.timeout, status.signal()) {
                (Some(timeout), Some(signal))
                    if signal == engine::process::ALARM || timeout.was_overdue() =>
                {
                    Why::TimedOut(timeout.limit())
                }
                (_, None) if !self.child.checked_in() => Why::NotInitialised,
                _ => Why::Ended,
            },
        };
        Err(JoinError::new(Failure {
            name: self.child.name().to_owned(),
            pid: self.child.pid(),
            status,
            core_dumped: self.child.core_dumped(),
            memory_limit: self.memory_limit,
            why,
        }))
    }
}
