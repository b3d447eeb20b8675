//! What must not compile, each beside its twin that does and differs in that alone: so a program is
//! refused for its own reason. (Stable rustdoc does not look at the numbers of the errors.)
//!
//! # A closure that captures
//! What it captured would be left behind in this process.
//!
//! ```compile_fail,E0080
//! procession::init();
//! let factor = 3_u64;
//! let process = procession::Process::spawn(move |x: u64| x * factor, 2);
//! ```
//! ```
//! procession::init();
//! let factor = 3_u64;
//! let process = procession::Process::spawn(move |x: u64, factor: u64| x * factor, (2, factor));
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # A closure that borrows
//!
//! ```compile_fail,E0373
//! procession::init();
//! let text = String::from("here");
//! let process = procession::Process::spawn(|| text.len(), ());
//! ```
//! ```
//! procession::init();
//! let text = String::from("here");
//! let process = procession::Process::spawn(|text: String| text.len(), text);
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # A captured value that `spawn_with` was not given
//!
//! ```compile_fail,E0080
//! procession::init();
//! let (one, other) = (1_u64, 2_u64);
//! let process = procession::Process::spawn_with(one, move |one| one + other);
//! ```
//! ```
//! procession::init();
//! let (one, other) = (1_u64, 2_u64);
//! let process = procession::Process::spawn_with((one, other), |(one, other)| one + other);
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # An argument that can't be serialised
//!
//! ```compile_fail,E0277
//! procession::init();
//! struct Name(String);
//! let process = procession::Process::spawn(|name: Name| name.0.len(), Name("Ada".into()));
//! ```
//! ```
//! procession::init();
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Name(String);
//! let process = procession::Process::spawn(|name: Name| name.0.len(), Name("Ada".into()));
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # A result that can't be serialised
//!
//! ```compile_fail,E0277
//! procession::init();
//! let process = procession::Process::spawn(|| std::rc::Rc::new(1), ());
//! ```
//! ```
//! procession::init();
//! let process = procession::Process::spawn(|| Box::new(1), ());
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # An argument that is borrowed
//!
//! ```compile_fail
//! procession::init();
//! let process = procession::Process::spawn(|name: &str| name.len(), "Ada");
//! ```
//! ```
//! procession::init();
//! let process = procession::Process::spawn(|name: String| name.len(), "Ada".to_owned());
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # Arguments of other types than the function's
//!
//! ```compile_fail
//! procession::init();
//! fn repeat(text: String, times: usize) -> String { text.repeat(times) }
//! let process = procession::Process::spawn(repeat, ("Ada".to_owned(), "3".to_owned()));
//! ```
//! ```
//! procession::init();
//! fn repeat(text: String, times: usize) -> String { text.repeat(times) }
//! let process = procession::Process::spawn(repeat, ("Ada".to_owned(), 3_usize));
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # A hook whose answer nobody would look at
//!
//! ```compile_fail,E0277
//! procession::init();
//! let builder = procession::Process::builder().setup(|| true, ());
//! ```
//! ```
//! procession::init();
//! let builder = procession::Process::builder().setup(|| Ok::<(), String>(()), ());
//! ```
//!
//! # A task of a pool that captures
//!
//! ```compile_fail,E0080
//! procession::init();
//! let pool = procession::Pool::new(1).unwrap();
//! let factor = 3_u64;
//! let tripled = pool.apply(move |x: u64| x * factor, 2);
//! ```
//! ```
//! procession::init();
//! let pool = procession::Pool::new(1).unwrap();
//! let factor = 3_u64;
//! let tripled = pool.apply(|x: u64, factor: u64| x * factor, (2, factor));
//! # tripled.unwrap();
//! ```
//!
//! # A lock around what can't leave the process
//!
//! ```compile_fail
//! let lock = procession::Lock::new(std::rc::Rc::new(1)).unwrap();
//! ```
//! ```
//! let lock = procession::Lock::new(Box::new(1)).unwrap();
//! ```
//!
//! # A lock around data in place that are not plain
//!
//! ```compile_fail,E0277
//! let lock = procession::PlainLock::new(String::new()).unwrap();
//! ```
//! ```
//! let lock = procession::PlainLock::new(0_u64).unwrap();
//! ```
//!
//! # A shared array of references
//!
//! ```compile_fail,E0599
//! let numbers = procession::SharedVec::<&u32>::zeroed(1).unwrap();
//! ```
//! ```
//! let numbers = procession::SharedVec::<u32>::zeroed(1).unwrap();
//! ```
//!
//! # A shared number that is none
//!
//! ```compile_fail
//! let number = procession::Atomic::new(String::new()).unwrap();
//! ```
//! ```
//! let number = procession::Atomic::new(0_u64).unwrap();
//! ```
//!
//! # An async main without a runtime
//!
//! ```compile_fail
//! #[procession::main]
//! async fn main() {}
//! ```
//! ```
//! #[procession::main]
//! fn main() {}
//! ```
//!
//! # A pointer to a function
//! A pointer means nothing in another process.
//!
//! ```compile_fail,E0080
//! procession::init();
//! let double: fn(u64) -> u64 = |x| 2 * x;
//! let process = procession::Process::spawn(double, 2);
//! ```
//! ```
//! procession::init();
//! let double = |x: u64| 2 * x;
//! let process = procession::Process::spawn(double, 2);
//! # process.unwrap().join().unwrap();
//! ```
//!
//! # An initializer whose result would be lost
//!
//! ```compile_fail,E0277
//! procession::init();
//! let pool = procession::Pool::builder().initializer(|| 5, ()).build();
//! ```
//! ```
//! procession::init();
//! let pool = procession::Pool::builder().initializer(|| (), ()).build();
//! ```
//!
//! # A permit that nobody holds
//!
//! ```compile_fail
//! #![deny(unused_must_use)]
//! let semaphore = procession::Semaphore::new(1).unwrap();
//! semaphore.try_acquire();
//! ```
//! ```
//! #![deny(unused_must_use)]
//! let semaphore = procession::Semaphore::new(1).unwrap();
//! let permit = semaphore.try_acquire();
//! ```
//!
//! # Results that nobody takes
//!
//! ```compile_fail
//! #![deny(unused_must_use)]
//! procession::init();
//! procession::Pool::new(1).unwrap().imap(|x: u32| x, 0..3).unwrap();
//! ```
//! ```
//! #![deny(unused_must_use)]
//! procession::init();
//! let results = procession::Pool::new(1).unwrap().imap(|x: u32| x, 0..3).unwrap();
//! ```
