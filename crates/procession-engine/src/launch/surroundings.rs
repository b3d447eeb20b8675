//! What a child has around it when that is not what its parent has: environment, working directory,
//! standard descriptors.
//!
//! All of it is opened and checked in the parent, so that what can't be had is an error there and
//! no child. Each start method brings it to the child in its own way: `posix_spawn` by its file
//! actions, the fork server by the descriptors that every request has anyway, a fork by
//! [`Prepared::take_on`].

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use procession_sys::process as sys;
use procession_sys::socket;

use super::errors::LaunchError;
use super::start;

/// What a child is to have around it. By default, what its parent has.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Whether the environment starts empty.
    pub clear_environment: bool,
    /// Variables, in this order: set, or removed.
    pub variables: Vec<(OsString, Option<OsString>)>,
    /// The working directory. A relative path counts from the parent's.
    pub folder: Option<PathBuf>,
    /// Standard input, output, error.
    pub standard: [Standard; 3],
}

/// What a child has as one of its standard descriptors.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Standard {
    /// What its parent has.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// One end of a pipe, of which the parent gets the other.
    Pipe,
    /// This.
    Given(Arc<OwnedFd>),
}

/// The parent's ends of the pipes to a child's standard input, output and error.
pub type Pipes = [Option<OwnedFd>; 3];

/// Surroundings, opened. The default is the parent's.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// If it is another than the parent's.
    environment: Option<Vec<(OsString, OsString)>>,
    folder: Option<OwnedFd>,
    standard: [Option<OwnedFd>; 3],
}

impl Surroundings {
    pub(super) fn prepare(&self) -> Result<(Prepared, Pipes), LaunchError> {
        let mut prepared = Prepared {
            environment: self.environment()?,
            ..Prepared::default()
        };
        if let Some(folder) = &self.folder {
            let opened = sys::open_directory(folder);
            prepared.folder = Some(opened.map_err(|error| LaunchError::Folder {
                folder: folder.clone(),
                error,
            })?);
        }
        let mut pipes = Pipes::default();
        for (number, standard) in self.standard.iter().enumerate() {
            let (theirs, ours) = standard.open(number == 0).map_err(LaunchError::Standard)?;
            prepared.standard[number] = theirs;
            pipes[number] = ours;
        }
        Ok((prepared, pipes))
    }

    fn environment(&self) -> Result<Option<Vec<(OsString, OsString)>>, LaunchError> {
        if !self.clear_environment && self.variables.is_empty() {
            return Ok(None);
        }
        let mut environment = if self.clear_environment {
            Vec::new()
        } else {
            start::environment()
        };
        for (name, value) in &self.variables {
            let bad = |text: &OsString, forbidden: &[u8]| {
                text.as_bytes().iter().any(|byte| forbidden.contains(byte))
            };
            if name.is_empty()
                || bad(name, b"=\0")
                || value.as_ref().is_some_and(|value| bad(value, b"\0"))
            {
                return Err(LaunchError::Variable { name: name.clone() });
            }
            environment.retain(|(known, _)| known != name);
            if let Some(value) = value {
                environment.push((name.clone(), value.clone()));
            }
        }
        Ok(Some(environment))
    }
}

impl Standard {
    /// The child's descriptor, and the parent's end of it.
    fn open(&self, is_input: bool) -> io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
        // Those that are passed on are numbered above the standard three, which they replace.
        match self {
            Standard::Inherit => Ok((None, None)),
            Standard::Null => {
                let null = File::options()
                    .read(is_input)
                    .write(!is_input)
                    .open("/dev/null")?;
                Ok((Some(sys::duplicate(null)?), None))
            }
            Standard::Pipe => {
                let (read, write) = socket::pipe()?;
                let (theirs, ours) = if is_input {
                    (read, write)
                } else {
                    (write, read)
                };
                Ok((Some(sys::duplicate(theirs)?), Some(sys::duplicate(ours)?)))
            }
            Standard::Given(fd) => Ok((Some(sys::duplicate(fd)?), None)),
        }
    }
}

impl Prepared {
    pub(crate) fn environment(&self) -> Vec<(OsString, OsString)> {
        self.environment.clone().unwrap_or_else(start::environment)
    }

    pub(crate) fn folder(&self) -> Option<BorrowedFd<'_>> {
        self.folder.as_ref().map(AsFd::as_fd)
    }

    /// A path of the folder for a process that has its descriptor at the same number.
    pub(crate) fn folder_path(&self) -> Option<PathBuf> {
        let number = self.folder.as_ref()?.as_raw_fd();
        Some(format!("/proc/self/fd/{number}").into())
    }

    pub(crate) fn standard(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.standard
            .each_ref()
            .map(|fd| fd.as_ref().map(AsFd::as_fd))
    }

    /// Gives this process, which was forked, these surroundings.
    pub(super) fn take_on(self) -> io::Result<()> {
        if let Some(folder) = self.folder() {
            sys::change_directory(folder)?;
        }
        for (number, fd) in (0..).zip(self.standard()) {
            if let Some(fd) = fd {
                sys::replace_standard(number, fd)?;
            }
        }
        if let Some(environment) = &self.environment {
            let replaced =
                sys::Alone::check().is_ok_and(|alone| alone.replace_environment(environment));
            if !replaced {
                return Err(io::Error::other(
                    "its environment can't be changed while it has several threads",
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_and_removed_in_order() {
        let surroundings = Surroundings {
            clear_environment: true,
            variables: vec![
                ("A".into(), Some("1".into())),
                ("B".into(), Some("2".into())),
                ("A".into(), None),
                ("B".into(), Some("3".into())),
            ],
            ..Surroundings::default()
        };
        let environment = surroundings.environment().expect("can be had");
        assert_eq!(environment, Some(vec![("B".into(), "3".into())]));
        assert!(matches!(Surroundings::default().environment(), Ok(None)));
        for (name, value) in [("", "1"), ("A=B", "1"), ("A\0", "1"), ("A", "\0")] {
            let surroundings = Surroundings {
                variables: vec![(name.into(), Some(value.into()))],
                ..Surroundings::default()
            };
            assert!(surroundings.environment().is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let surroundings = Surroundings {
            folder: Some("/no/such/folder".into()),
            ..Surroundings::default()
        };
        let error = surroundings.prepare().expect_err("is not there");
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
