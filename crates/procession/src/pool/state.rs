//! What a worker keeps from task to task.

use std::any::{Any, type_name};
use std::cell::RefCell;

use crate::function::Function;

thread_local! {
    static STATE: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
}

/// Calls `with` with what this worker has made at its start
/// ([`PoolBuilder::worker_state`](crate::PoolBuilder::worker_state)): a connection, a model, a cache.
/// Each worker has its own. Tasks run one after the other, so it is theirs alone while they run.
///
/// ```
/// use std::collections::HashMap;
/// use procession::{Pool, worker_state};
///
/// fn load(language: String) -> HashMap<String, String> {
///     HashMap::from([("one".into(), format!("{language}: un"))])
/// }
///
/// fn translate(word: String) -> Option<String> {
///     worker_state(|dictionary: &mut HashMap<String, String>| dictionary.get(&word).cloned())
/// }
///
/// #[procession::main]
/// fn main() -> procession::Result<()> {
///     let pool = Pool::builder().workers(2).worker_state(load, "fr".to_string()).build()?;
///     assert_eq!(pool.apply(translate, "one".to_string())?.as_deref(), Some("fr: un"));
///     pool.join()
/// }
/// ```
///
/// # Panics
/// In a process or thread that has no such state, or a state of another type: outside of a task of a
/// pool that was built with one, that is. And when it is called within `with`.
#[track_caller]
pub fn worker_state<T: 'static, R>(with: impl FnOnce(&mut T) -> R) -> R {
    // The place of a panic is the caller's, which it would not be from within the closure.
    let done = STATE.with(|state| {
        let Ok(mut state) = state.try_borrow_mut() else {
            return Err("worker_state was called within itself: the state is in use".to_owned());
        };
        let Some(state) = state.as_mut() else {
            return Err("there is no worker state here: build the pool with PoolBuilder::worker_state, and ask in \
                        its tasks"
                .to_owned());
        };
        match state.downcast_mut::<T>() {
            Some(state) => Ok(with(state)),
            None => Err(format!(
                "the state of this worker is not of the type {}",
                type_name::<T>()
            )),
        }
    });
    match done {
        Ok(done) => done,
        Err(why) => panic!("{why}"),
    }
}

/// A function whose result stays in the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeping<F>(pub(crate) F);

/// The shape of such a function's arguments.
#[derive(Debug)]
pub(crate) struct Inner<S>(std::convert::Infallible, std::marker::PhantomData<S>);

impl<F, A, S> crate::function::sealed::Sealed<A, Inner<S>> for Keeping<F> where F: Function<A, S> {}
impl<F, A, S> Function<A, Inner<S>> for Keeping<F>
where
    F: Function<A, S>,
    F::Output: 'static,
{
    /// As that of an initializer.
    type Output = Result<(), String>;

    fn call(&self, arguments: A) -> Result<(), String> {
        let made: Box<dyn Any> = Box::new(self.0.call(arguments));
        STATE.set(Some(made));
        Ok(())
    }
}
