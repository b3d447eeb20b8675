//! Processes as values of a type of one's own.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A task with data of its own, to be run in another process.
///
/// For what a function with arguments is too small: the fields travel to the process, `run` is its
/// `main`, and what it returns comes back from [`join`](crate::Process::join).
///
/// ```
/// use procession::{Process, Run};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Greeter {
///     greeting: String,
/// }
///
/// impl Run for Greeter {
///     type Output = String;
///
///     fn run(self) -> String {
///         format!("{}, from process {}", self.greeting, std::process::id())
///     }
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let process = Process::run(Greeter { greeting: "Hello".into() })?;
///     println!("{}", process.join()?);
///     Ok(())
/// }
/// ```
pub trait Run: Serialize + DeserializeOwned + 'static {
    /// What the process has to say in the end.
    type Output: Serialize + DeserializeOwned;

    /// Called once, in the process.
    fn run(self) -> Self::Output;

    /// The name of the process, if it isn't given to the [builder](crate::Builder::name).
    fn name(&self) -> Option<String> {
        None
    }
}

pub(crate) fn run_it<T: Run>(task: T) -> T::Output {
    task.run()
}
