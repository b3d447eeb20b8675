//! The first bytes of every message in a pool's queues.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 0..8 | the job; the two highest bits say what it is |
//! | 8..16 | the task's index in the job |

/// Bytes at the start of every task and result that belong to the engine.
pub const HEADER: usize = 16;

const KIND: u32 = 62;
const JOB: u64 = (1 << KIND) - 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A task, or a task's result.
    Plain,
    /// In the task queue: a task that is stored in a parcel, to be had again. In the result queue, from
    /// the supervisor: the verdict of this number stands in the book; from anybody in the parent, and
    /// with a number that there is not: look again.
    Kept,
    /// From a worker: its initializer failed.
    StartFailed,
    /// From a worker: the task was cancelled, and is not done.
    Skipped,
}

impl Notice {
    pub(crate) const VERDICT: Notice = Notice::Kept;
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
            0 => Notice::Plain,
            1 => Notice::Kept,
            2 => Notice::StartFailed,
            _ => Notice::Skipped,
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
            Notice::Plain => 0,
            Notice::Kept => 1,
            Notice::StartFailed => 2,
            Notice::Skipped => 3,
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
            Notice::Plain,
            Notice::Kept,
            Notice::StartFailed,
            Notice::Skipped,
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
