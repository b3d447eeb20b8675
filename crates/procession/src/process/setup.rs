//! The hook that runs first in a child.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{AllocError, Handle, Parcel};
use crate::entry::{self, EntryName};
use crate::error::{Error, Result, chain};
use crate::function::{self, AnswerKind, Carrier, Checked, Function, Request, Setup, Sink};
use crate::wire;

/// What a [`setup`](super::Builder::setup) hook and a pool's
/// [`initializer`](crate::PoolBuilder::initializer) may return: nothing, or a [`Result`] of nothing
/// whose error can be boxed (`std::io::Error`, `String`, `Box<dyn Error>`, ...).
///
/// [`Result`]: std::result::Result
#[diagnostic::on_unimplemented(
    message = "a hook returns nothing, or a `Result<(), E>` whose error can be boxed, not `{Self}`",
    label = "returns `{Self}`"
)]
pub trait SetupResult: sealed::Sealed {
    #[doc(hidden)]
    fn into_text(self) -> std::result::Result<(), String>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl<E> Sealed for Result<(), E> {}
}

impl SetupResult for () {
    fn into_text(self) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl<E: Into<Box<dyn std::error::Error>>> SetupResult for std::result::Result<(), E> {
    fn into_text(self) -> std::result::Result<(), String> {
        self.map_err(|error| chain(&*error.into()))
    }
}

/// A hook with its arguments, as a child can find it.
pub(super) fn store<F, A, S>(hook: F, arguments: &A) -> Result<Parcel>
where
    F: Function<A, S>,
    A: Serialize + DeserializeOwned,
    F::Output: SetupResult,
{
    let entry = entry::name::<Setup<F>, A, Checked<S>>(&Setup(hook))?;
    let packed = wire::encode(&(entry, arguments)).map_err(Error::about::<A>)?;
    Ok(packed.send(0, Parcel::store)?)
}

/// Runs a stored hook in this process; what it has to say goes into `sink`, behind so many free bytes.
///
/// # Errors
/// When there is no room to say it.
pub(crate) fn run(
    parcel: Handle,
    headroom: usize,
    sink: &mut Sink<'_>,
) -> std::result::Result<AnswerKind, AllocError> {
    let opened = Parcel::open(parcel)
        .map_err(Error::gone)
        .and_then(|mut message| {
            let (entry, rest) = wire::decode_first::<EntryName>(&message.bytes, Vec::new())?;
            let skip = message.bytes.len() - rest.len();
            let buffers = std::mem::take(&mut message.buffers);
            Ok(Request {
                entry,
                carrier: Carrier::Message(message),
                skip,
                buffers,
                headroom,
            })
        });
    match opened {
        Ok(request) => entry::run(request, sink),
        Err(error) => function::refuse(headroom, sink, &error),
    }
}
