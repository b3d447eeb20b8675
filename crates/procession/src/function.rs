//! What can be called in another process, and how its call is carried out there.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::pool::Task;
use crate::engine::{AllocError, Block, Message};
use crate::entry::EntryName;
use crate::error::Error;
use crate::panic::{self, Panic};
use crate::process::SetupResult;
use crate::wire::{self, Packed};

/// A function, or a closure without captures, that can be called in another process with `Args`.
///
/// It is implemented for all of them with up to eight parameters; you never implement it. `Args` is
/// a tuple with one value for each parameter, `()` for none; where there is one parameter, the bare
/// value will do:
///
/// ```
/// # use procession::Process;
/// fn add(one: u32, other: u32) -> u32 {
///     one + other
/// }
/// # fn main() -> procession::Result<()> {
/// # procession::init();
/// let sum = Process::spawn(add, (1, 2))?;
/// let square = Process::spawn(|x: u64| x * x, 12)?;
/// assert_eq!(sum.join()?, 3);
/// assert_eq!(square.join()?, 144);
/// # Ok(())
/// # }
/// ```
///
/// A closure here says the types of its parameters (`|x: u64|`), unless the method takes its values
/// first, as [`Process::spawn_with`](crate::Process::spawn_with) does, or is `map` and its like.
///
/// Another process of the same program finds the function by its place in the executable. Data that
/// a closure captured would be left behind, so a closure that captures is refused when the program
/// is compiled. Give it parameters instead:
///
/// ```compile_fail
/// # use procession::Process;
/// let factor = 3_u64;
/// Process::spawn(move |x: u64| x * factor, 2).unwrap();
/// ```
///
/// Parameters and results are serialised, so they own what they hold (`String`, not `&str`).
///
/// The closure's type is all that travels, so a closure must not capture a zero-sized *token*
/// either, one that stands for something done in this process (an initialised library, a lock
/// held): there is no such thing in the process where it is called.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be called in another process with the arguments `{Args}`",
    label = "not a function of those arguments, or a closure that captures variables",
    note = "pass a function or a closure without captures, and a tuple with one argument for each of its \
            parameters: `Process::spawn(f, (a, b))`; what a closure would capture must be an argument"
)]
pub trait Function<Args, Shape>:
    Copy + Send + Sync + 'static + sealed::Sealed<Args, Shape>
{
    /// What it returns.
    type Output;

    #[doc(hidden)]
    fn call(&self, arguments: Args) -> Self::Output;
}

pub(crate) mod sealed {
    pub trait Sealed<Args, Shape> {}
}

/// The argument is given as it is. Part of [`Function`]'s type so that the compiler can tell the
/// ways apart.
#[derive(Debug)]
pub enum Whole {}

/// The arguments are given as a tuple. Part of [`Function`]'s type so that the compiler can tell
/// the ways apart.
#[derive(Debug)]
pub struct Spread<Args>(std::convert::Infallible, std::marker::PhantomData<Args>);

impl<F, A, R> sealed::Sealed<A, Whole> for F where F: Fn(A) -> R {}
impl<F, A, R> Function<A, Whole> for F
where
    F: Fn(A) -> R + Copy + Send + Sync + 'static,
{
    type Output = R;

    fn call(&self, argument: A) -> R {
        self(argument)
    }
}

macro_rules! functions {
    ($(($($argument:ident $name:ident),*))*) => {$(
        impl<F, R, $($argument),*> sealed::Sealed<($($argument,)*), Spread<($($argument,)*)>> for F
        where
            F: Fn($($argument),*) -> R,
        {
        }
        impl<F, R, $($argument),*> Function<($($argument,)*), Spread<($($argument,)*)>> for F
        where
            F: Fn($($argument),*) -> R + Copy + Send + Sync + 'static,
        {
            type Output = R;

            fn call(&self, ($($name,)*): ($($argument,)*)) -> R {
                self($($name),*)
            }
        }
    )*};
}

functions! {
    ()
    (A a)
    (A a, B b)
    (A a, B b, C c)
    (A a, B b, C c, D d)
    (A a, B b, C c, D d, E e)
    (A a, B b, C c, D d, E e, G g)
    (A a, B b, C c, D d, E e, G g, H h)
    (A a, B b, C c, D d, E e, G g, H h, I i)
}

/// A function that is called with one value after the other, as the pool's `map` sends them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chunked<F>(pub(crate) F);

/// The values come in a vector.
pub(crate) enum Many {}

impl<F, T, R> sealed::Sealed<Vec<T>, Many> for Chunked<F> where F: Fn(T) -> R {}
impl<F, T, R> Function<Vec<T>, Many> for Chunked<F>
where
    F: Fn(T) -> R + Copy + Send + Sync + 'static,
{
    type Output = Vec<R>;

    fn call(&self, values: Vec<T>) -> Vec<R> {
        values.into_iter().map(self.0).collect()
    }
}

/// A hook that is called before the function of a process, and may say no.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<F>(pub(crate) F);

/// What the hook returns is looked at.
pub(crate) struct Checked<S>(std::marker::PhantomData<S>);

impl<F, A, S> sealed::Sealed<A, Checked<S>> for Setup<F> where F: Function<A, S> {}
impl<F, A, S> Function<A, Checked<S>> for Setup<F>
where
    F: Function<A, S>,
    F::Output: SetupResult,
{
    type Output = Result<(), String>;

    fn call(&self, arguments: A) -> Result<(), String> {
        self.0.call(arguments).into_text()
    }
}

/// A call that has come from another process.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) entry: EntryName,
    pub(crate) carrier: Carrier<'a>,
    /// The arguments begin so many bytes into the message.
    pub(crate) skip: usize,
    /// Large pieces of them.
    pub(crate) buffers: Vec<Block>,
    /// So many bytes are left free at the start of the answer's.
    pub(crate) headroom: usize,
}

/// The message that a call came in. It keeps alive what the arguments refer to, until they are
/// decoded.
#[derive(Debug)]
pub(crate) enum Carrier<'a> {
    Message(Message),
    Task(&'a RefCell<Task>),
}

impl Request<'_> {
    /// The arguments, and with them the end of the message.
    fn open<A: DeserializeOwned>(self) -> Result<A, Error> {
        match self.carrier {
            Carrier::Message(message) => wire::decode(
                message.bytes.get(self.skip..).unwrap_or_default(),
                self.buffers,
            ),
            Carrier::Task(task) => {
                let arguments = wire::decode(
                    task.borrow().payload().get(self.skip..).unwrap_or_default(),
                    self.buffers,
                );
                task.borrow_mut().discard();
                arguments
            }
        }
    }
}

/// What an answer is, told by the tag of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AnswerKind {
    /// The function's result.
    Value,
    /// A [`Panic`].
    Panic,
    /// The text of what was wrong with the call: the function was not called, or its result can't
    /// travel.
    Refusal,
    /// The text of which setting the system refused: the function was not called.
    Setting,
    /// The text of what the setup hook said: the function was not called.
    Setup,
    /// A [`Panic`] of the setup hook: the function was not called.
    SetupPanic,
}

impl AnswerKind {
    pub(crate) fn to_tag(self) -> u32 {
        match self {
            AnswerKind::Value => 0,
            AnswerKind::Panic => 1,
            AnswerKind::Refusal => 2,
            AnswerKind::Setting => 3,
            AnswerKind::Setup => 4,
            AnswerKind::SetupPanic => 5,
        }
    }

    pub(crate) fn from_tag(tag: u32) -> Option<AnswerKind> {
        [
            AnswerKind::Value,
            AnswerKind::Panic,
            AnswerKind::Refusal,
            AnswerKind::Setting,
            AnswerKind::Setup,
            AnswerKind::SetupPanic,
        ]
        .into_iter()
        .find(|kind| kind.to_tag() == tag)
    }
}

/// Where an answer goes. Called while the value that the answer was made of still exists, so that
/// what it refers to is kept alive until it is on its way.
pub(crate) type Sink<'a> = dyn FnMut(AnswerKind, &mut Packed) -> Result<(), AllocError> + 'a;

/// Decodes the arguments, calls `function`, and puts what came of it into `sink`.
///
/// # Errors
/// When there is no room for the answer, not even for a short one that says so.
pub(crate) fn answer<A: DeserializeOwned, R: Serialize>(
    request: Request<'_>,
    sink: &mut Sink<'_>,
    function: impl FnOnce(A) -> R,
) -> Result<AnswerKind, AllocError> {
    let headroom = request.headroom;
    // `Deserialize` and `Serialize` are user code as the function is.
    let arguments = match catch_unwind(AssertUnwindSafe(|| request.open::<A>())) {
        Err(payload) => return send_panic(headroom, sink, &panic::caught(payload)),
        Ok(Err(error)) => return refuse(headroom, sink, &error),
        Ok(Ok(arguments)) => arguments,
    };
    match catch_unwind(AssertUnwindSafe(|| function(arguments))) {
        Err(payload) => send_panic(headroom, sink, &panic::caught(payload)),
        Ok(value) => match catch_unwind(AssertUnwindSafe(|| {
            wire::encode_after(vec![0; headroom], &value)
        })) {
            Err(payload) => send_panic(headroom, sink, &panic::caught(payload)),
            Ok(Err(error)) => refuse(headroom, sink, &error),
            Ok(Ok(mut packed)) => match sink(AnswerKind::Value, &mut packed) {
                Ok(()) => Ok(AnswerKind::Value),
                Err(error) => refuse(headroom, sink, &Error::from(error)),
            },
        },
    }
}

fn send_panic(
    headroom: usize,
    sink: &mut Sink<'_>,
    panic: &Panic,
) -> Result<AnswerKind, AllocError> {
    let mut packed = wire::encode_plain(vec![0; headroom], panic);
    sink(AnswerKind::Panic, &mut packed)?;
    Ok(AnswerKind::Panic)
}

/// Says, instead of a result, why there is none.
pub(crate) fn refuse(
    headroom: usize,
    sink: &mut Sink<'_>,
    error: &Error,
) -> Result<AnswerKind, AllocError> {
    let text = error.chain();
    let mut packed = wire::encode_plain(vec![0; headroom], &text);
    sink(AnswerKind::Refusal, &mut packed)?;
    Ok(AnswerKind::Refusal)
}

/// Reads an answer.
pub(crate) fn open_answer<R: DeserializeOwned>(
    tag: u32,
    bytes: &[u8],
    buffers: Vec<Block>,
) -> Result<R, Error> {
    match AnswerKind::from_tag(tag) {
        Some(AnswerKind::Value) => wire::decode(bytes, buffers),
        Some(AnswerKind::Panic | AnswerKind::SetupPanic) => {
            Err(Error::panicked(wire::decode(bytes, buffers)?))
        }
        Some(AnswerKind::Refusal) => Err(Error::refused(wire::decode(bytes, buffers)?)),
        Some(AnswerKind::Setting | AnswerKind::Setup) => {
            Err(Error::said(wire::decode(bytes, buffers)?))
        }
        None => Err(Error::garbled("the answer to a call")),
    }
}
