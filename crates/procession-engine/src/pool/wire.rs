//! The first bytes of every message in a pool's queues.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..8 | the job; in a result the two highest bits say what it is |
//! | 8..16 | the task's index in the job |

/// Bytes at the start of every task and result that belong to the engine.
pub const HEADER: usize = 16;

const KIND: u32 = 62;
const JOB: u64 = (1 << KIND) - 1;

/// What a message in the result queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A task's result.
    Result,
    /// From the supervisor: the worker that had the task is dead.
    Lost,
    /// From a worker: its initializer failed.
    StartFailed,
    /// From the parent to itself: look again.
    Nudge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) notice: Notice,
    pub(crate) job: u64,
    pub(crate) index: u64,
}

impl Header {
    /// `None` when the bytes are too short to be one of ours.
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (second, _) = rest.split_first_chunk::<8>()?;
        let first = u64::from_le_bytes(*first);
        let notice = match first >> KIND {
            0 => Notice::Result,
            1 => Notice::Lost,
            2 => Notice::StartFailed,
            _ => Notice::Nudge,
        };
        Some(Header {
            notice,
            job: first & JOB,
            index: u64::from_le_bytes(*second),
        })
    }

    /// # Panics
    /// When `bytes` is shorter than [`HEADER`].
    pub(crate) fn write(self, bytes: &mut [u8]) {
        let kind = match self.notice {
            Notice::Result => 0,
            Notice::Lost => 1,
            Notice::StartFailed => 2,
            Notice::Nudge => 3,
        };
        bytes[..8].copy_from_slice(&(kind << KIND | self.job & JOB).to_le_bytes());
        bytes[8..HEADER].copy_from_slice(&self.index.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for notice in [
            Notice::Result,
            Notice::Lost,
            Notice::StartFailed,
            Notice::Nudge,
        ] {
            let header = Header {
                notice,
                job: 0x2abc_def0_1234_5678,
                index: u64::MAX - 3,
            };
            let mut bytes = [0; HEADER + 2];
            header.write(&mut bytes);
            assert_eq!(Header::read(&bytes), Some(header));
        }
    }

    #[test]
    fn short_messages_are_nobodys() {
        assert_eq!(Header::read(&[0; HEADER - 1]), None);
        assert_eq!(Header::read(&[]), None);
    }
}
