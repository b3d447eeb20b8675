//! How a function is named so that another process of the same program can call it.
//!
//! A function item or a closure without captures has no data: its type *is* the function. For each
//! such type that is handed to this crate the compiler makes one [`Entry`], a record in the
//! read-only data of the executable with the address of a function that decodes arguments, calls
//! the user's function and encodes what it returns. The record is named by its distance from the
//! start of the executable's image, which is the same in every process that runs the same file,
//! wherever the kernel has put the image.
//!
//! A name that comes in is not trusted. It is followed only after these have been checked, and
//! otherwise it is an error:
//!
//! 1. the build that made the name is this one ([`Image::identity`]);
//! 2. the record lies, aligned and as a whole, within read-only data of the executable;
//! 3. the record starts and ends with [`HEAD`] and [`TAIL`];
//! 4. the names of the types it was made for are those the caller meant. The function in the record
//!    asks this itself, before it touches the arguments.
//!
//! Why not a safe registry: the functions are generic, so they exist only where a user's call makes
//! the compiler instantiate them, and statics (what `linkme` and `inventory` collect) can't be
//! generic. A macro on every function would do, at the price of closures and of functions from
//! other crates. So this is the one module of the crate with `unsafe` in it.

#![allow(
    unsafe_code,
    reason = "a function is found again by its place in the executable, and called without a value of its type"
)]

use std::any::type_name;
use std::ffi::c_void;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::engine::AllocError;
use crate::function::{self, AnswerKind, Function, Request, Sink};

/// What stands at the start of every [`Entry`]: random numbers, drawn once.
const HEAD: [u64; 2] = [0x9b1d_55a2_7c3e_f048, 0x61d0_0be7_94af_2c3d];
/// What stands at the end of every [`Entry`].
const TAIL: [u64; 2] = [0x2fe8_c6b9_103d_7a54, 0xd473_8e01_b65c_f92b];

type Answered = Result<AnswerKind, AllocError>;

/// The record of one function in the executable's read-only data.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    head: [u64; 2],
    run: fn(Request<'_>, &mut Sink<'_>) -> Answered,
    tail: [u64; 2],
}

/// The name of a function, as it travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryName {
    /// [`Image::identity`] of the sender.
    build: u64,
    /// From the image's base to the record.
    offset: u64,
    /// Of the names of the types.
    types: u64,
}

/// Why a function can't be named, or a name not be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryError {
    /// The function was compiled into another object than the executable: a plugin, say.
    OutsideExecutable,
    /// The name was made by another build of the program.
    OtherBuild,
    /// There is no record at that place, or it belongs to other types.
    NoSuchFunction,
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            EntryError::OutsideExecutable => {
                "the function is part of a shared library or plugin, not of the executable, so a child process \
                 can't find it: pass a function that was compiled into the program"
            }
            EntryError::OtherBuild => {
                "the child process runs another build of the program than its parent: was the executable \
                 replaced while it ran?"
            }
            EntryError::NoSuchFunction => {
                "the message names a function that is not in this executable: it is damaged, or comes from \
                 another program"
            }
        })
    }
}

impl std::error::Error for EntryError {}

/// The record for calling `F` with `A`.
struct EntryOf<F, A, S>(PhantomData<(F, A, S)>);

impl<F, A, S> EntryOf<F, A, S>
where
    F: Function<A, S>,
    A: for<'de> Deserialize<'de>,
    F::Output: Serialize,
{
    const ENTRY: &'static Entry = &Entry {
        head: HEAD,
        run: Self::run,
        tail: TAIL,
    };

    fn run(request: Request<'_>, sink: &mut Sink<'_>) -> Answered {
        if request.entry.types != types::<F, A, F::Output>() {
            return function::refuse(request.headroom, sink, &EntryError::NoSuchFunction.into());
        }
        function::answer::<A, F::Output>(request, sink, |arguments| value::<F>().call(arguments))
    }
}

/// Names `F`, to be called with `A`.
pub(crate) fn name<F, A, S>(_function: &F) -> Result<EntryName, EntryError>
where
    F: Function<A, S>,
    A: for<'de> Deserialize<'de>,
    F::Output: Serialize,
{
    const {
        assert!(
            size_of::<F>() == 0,
            "this is a closure that captures variables, or a pointer to a function, which would be left behind in \
             this process: make what it captures arguments of the closure, and pass the values in the tuple of \
             arguments; instead of a pointer pass the function or the closure itself"
        );
    }
    let image = Image::main();
    let place = std::ptr::from_ref(EntryOf::<F, A, S>::ENTRY).addr();
    if !image.holds(place) {
        return Err(EntryError::OutsideExecutable);
    }
    Ok(EntryName {
        build: image.identity,
        offset: place.wrapping_sub(image.base) as u64,
        types: types::<F, A, F::Output>(),
    })
}

/// Follows the request's name and has the function called.
///
/// # Errors
/// When there is no room for the answer, not even for a short one that says so.
pub(crate) fn run(request: Request<'_>, sink: &mut Sink<'_>) -> Answered {
    match find(&request.entry) {
        Ok(entry) => (entry.run)(request, sink),
        Err(error) => function::refuse(request.headroom, sink, &error.into()),
    }
}

fn find(name: &EntryName) -> Result<Entry, EntryError> {
    let image = Image::main();
    if name.build != image.identity {
        return Err(EntryError::OtherBuild);
    }
    let offset = usize::try_from(name.offset).map_err(|_| EntryError::NoSuchFunction)?;
    let place = image.base.wrapping_add(offset);
    if !image.holds(place) {
        return Err(EntryError::NoSuchFunction);
    }
    let words = std::ptr::with_exposed_provenance::<[u64; 5]>(place);
    const {
        assert!(
            size_of::<Entry>() == size_of::<[u64; 5]>()
                && align_of::<Entry>() == align_of::<[u64; 5]>()
        )
    };
    // SAFETY: `holds` has checked that the 40 bytes lie, aligned, within one segment of the
    // executable that is mapped readable and is not written to after start-up; any bytes are valid
    // integers. The image of the executable is never unmapped.
    let words = unsafe { words.read() };
    if words[..2] != HEAD || words[3..] != TAIL {
        return Err(EntryError::NoSuchFunction);
    }
    // SAFETY: the place is readable and aligned as above, and holds an `Entry`: 32 bytes drawn at
    // random stand where only the statics made in `EntryOf` have them, in an executable that is, by
    // its identity, the one the name was made in, at the very distance where that process saw such
    // a static.
    Ok(unsafe { std::ptr::with_exposed_provenance::<Entry>(place).read() })
}

/// A value of the function's type, made from nothing.
fn value<F: Copy + Send + Sync + 'static>() -> &'static F {
    const {
        assert!(
            size_of::<F>() == 0,
            "only a function or a closure without captures can be called in another process"
        )
    };
    // SAFETY: a type of size zero has no bytes, so a dangling, aligned, non-null pointer is one to
    // a valid value of it, for any lifetime that the type allows. May such a value exist here? `F`
    // is inhabited, since `name` was called with one to make the request, and it is
    // `Copy + Send + Sync + 'static`: who has one may make another for any other thread. All there
    // is to a function item or to a closure without captures is its type. (A closure could capture
    // a zero-sized *token* whose existence its author takes as proof of something done in this
    // process; the documentation of `Function` forbids it.)
    unsafe { NonNull::<F>::dangling().as_ref() }
}

/// Distinguishes functions whose places were mixed up. Equal in two processes of one build.
fn types<F, A, R>() -> u64 {
    [type_name::<F>(), type_name::<A>(), type_name::<R>()]
        .iter()
        .fold(0, |hash, name| mix(hash, name.as_bytes()))
}

/// A quick hash: this is done for every task of a pool, and defends against accidents only.
fn mix(hash: u64, bytes: &[u8]) -> u64 {
    let step =
        |hash: u64, word: u64| (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(step(hash, bytes.len() as u64), |hash, word| {
            step(hash, u64::from_le_bytes(*word))
        });
    rest.iter()
        .fold(hash, |hash, &byte| step(hash, u64::from(byte)))
}

/// The executable of this process, as it lies in memory.
#[derive(Debug, Default)]
struct Image {
    base: usize,
    /// Start and end of what is readable and not written to: read-only segments, and what the
    /// loader protects once it has filled in the addresses.
    read_only: Vec<(usize, usize)>,
    /// Tells this build from any other.
    identity: u64,
}

impl Image {
    fn main() -> &'static Image {
        static MAIN: OnceLock<Image> = OnceLock::new();
        MAIN.get_or_init(Image::inspect)
    }

    fn holds(&self, place: usize) -> bool {
        let Some(end) = place.checked_add(size_of::<Entry>()) else {
            return false;
        };
        place.is_multiple_of(align_of::<Entry>())
            && self
                .read_only
                .iter()
                .any(|&(from, to)| from <= place && end <= to)
    }

    fn inspect() -> Image {
        let mut headers = Headers::default();
        let data = std::ptr::from_mut(&mut headers).cast::<c_void>();
        // SAFETY: `first_object` is a function of the type asked for that doesn't unwind, and
        // `data` is the pointer to `Headers` which it expects, valid and not otherwise used during
        // the call.
        unsafe { libc::dl_iterate_phdr(Some(first_object), data) };

        let mut hasher = DefaultHasher::new();
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        headers.segments.hash(&mut hasher);
        // The file that runs, even when its name now belongs to another.
        if let Ok(file) = std::fs::metadata("/proc/self/exe") {
            (
                file.dev(),
                file.ino(),
                file.size(),
                file.mtime(),
                file.mtime_nsec(),
            )
                .hash(&mut hasher);
        }
        let protects = headers
            .segments
            .iter()
            .any(|segment| segment.kind == libc::PT_GNU_RELRO);
        let read_only = headers
            .segments
            .iter()
            .filter(|segment| {
                let (readable, writable) = (
                    segment.flags & libc::PF_R != 0,
                    segment.flags & libc::PF_W != 0,
                );
                match segment.kind {
                    libc::PT_GNU_RELRO => true,
                    // Constants may share a segment with code. Without that protection the
                    // filled-in addresses stay among the writable data.
                    libc::PT_LOAD => readable && (!writable || !protects),
                    _ => false,
                }
            })
            .map(|segment| {
                let from = headers.base.wrapping_add(segment.offset);
                (from, from.saturating_add(segment.length))
            })
            .collect();
        Image {
            base: headers.base,
            read_only,
            identity: hasher.finish(),
        }
    }
}

#[derive(Debug, Default)]
struct Headers {
    base: usize,
    segments: Vec<Segment>,
}

#[derive(Debug, Hash)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    length: usize,
}

/// Called by `dl_iterate_phdr`, first for the executable itself; its answer 1 ends the iteration
/// there.
unsafe extern "C" fn first_object(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    data: *mut c_void,
) -> i32 {
    // SAFETY: the C library passes a valid record for the duration of the call.
    let info = unsafe { &*info };
    // SAFETY: `inspect` passes a pointer to its `Headers`, which nobody else uses during the call.
    let headers = unsafe { &mut *data.cast::<Headers>() };
    headers.base = usize::try_from(info.dlpi_addr).unwrap_or_default();
    for index in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: the table has `dlpi_phnum` entries, so this stays within it.
        let header = unsafe { info.dlpi_phdr.add(index) };
        // SAFETY: an entry of the table, which stays mapped with the object and is not written to.
        let header = unsafe { &*header };
        headers.segments.push(Segment {
            kind: header.p_type,
            flags: header.p_flags,
            offset: usize::try_from(header.p_vaddr).unwrap_or_default(),
            length: usize::try_from(header.p_memsz).unwrap_or_default(),
        });
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(number: u32) -> u32 {
        number * 2
    }

    #[test]
    fn a_name_leads_back_to_the_function() {
        let name = name::<_, u32, _>(&double).expect("is in the executable");
        let entry = find(&name).expect("is found");
        assert_eq!(entry.head, HEAD);
    }

    #[test]
    fn other_builds_and_wrong_places_are_refused() {
        let good = name::<_, u32, _>(&double).expect("is in the executable");
        let other = EntryName {
            build: good.build ^ 1,
            ..good
        };
        assert_eq!(find(&other).map(|_| ()), Err(EntryError::OtherBuild));
        for offset in [
            0,
            8,
            1,
            u64::MAX,
            u64::MAX / 2,
            good.offset + 8,
            good.offset + 1,
        ] {
            let wrong = EntryName { offset, ..good };
            assert_eq!(
                find(&wrong).map(|_| ()),
                Err(EntryError::NoSuchFunction),
                "{offset:#x}"
            );
        }
    }

    #[test]
    fn functions_have_different_types() {
        fn triple(number: u32) -> u32 {
            number * 3
        }
        let one = name::<_, u32, _>(&double).expect("named");
        let other = name::<_, u32, _>(&triple).expect("named");
        assert_ne!(one.types, other.types);
        assert_eq!(one.build, other.build);
    }
}
