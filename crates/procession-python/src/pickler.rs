//! Pickling on the usual path: C picklers that are used again and again, without Python code.
//!
//! How one is made, and all that is unusual, is for `procession.reduction` to decide: this module
//! keeps the picklers that it made, and sees when the table of reducers has to be made anew.
//!
//! The interpreter is held throughout, and a pickler is off the list while it is used: neither
//! threads, nor reducers that pickle, nor a fork in between can make two users of one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memchr::memmem::Finder;
use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::imported::{Imported, Name};

/// A pickler that made more than this isn't kept: its memo table stays as large as it grew.
const KEPT: usize = 1 << 20;
/// So many picklers are kept.
const SPARE: usize = 8;

static JOIN: Name = Name::new("join");
static SHELF: Mutex<Option<Shelf>> = Mutex::new(None);
/// How many shelves there have been.
static SHELVES: AtomicU64 = AtomicU64::new(0);

/// Locked for a moment, and nothing of Python runs meanwhile.
fn shelf() -> MutexGuard<'static, Option<Shelf>> {
    SHELF.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shelf {
    number: u64,
    /// `make(whole)`: a new pickler.
    make: Py<PyAny>,
    main_is_importable: Py<PyAny>,
    sources: Sources,
    /// Those that leave large buffers outside, and those that make a pickle in one piece.
    idle: [Vec<Pickler>; 2],
}

type Entries = Vec<(Py<PyAny>, Py<PyAny>)>;

/// What the table of reducers is made from: it is stale once anything of this has changed.
struct Sources {
    /// Where a module is looked for whose reducers count too, and what was there.
    modules: Vec<(Py<PyDict>, Option<Py<PyAny>>)>,
    name: Py<PyAny>,
    reducers: Vec<(Py<PyDict>, Entries)>,
}

impl Sources {
    fn changed(&self, py: Python<'_>) -> bool {
        let loaded = |(modules, seen): &(Py<PyDict>, Option<Py<PyAny>>)| {
            let now = modules.bind(py).get_item(&self.name).ok().flatten();
            match (now, seen) {
                (None, None) => true,
                (Some(now), Some(seen)) => now.is(seen),
                _ => false,
            }
        };
        let same = |(reducers, seen): &(Py<PyDict>, Entries)| {
            let now = reducers.bind(py);
            now.len() == seen.len()
                && now
                    .iter()
                    .zip(seen)
                    .all(|((class, reduce), seen)| class.is(&seen.0) && reduce.is(&seen.1))
        };
        !(self.modules.iter().all(loaded) && self.reducers.iter().all(same))
    }
}

struct Pickler {
    /// The shelf that it belongs to: it goes by the table of reducers that was good then.
    shelf: u64,
    /// Whether it leaves nothing outside.
    whole: bool,
    dump: Py<PyAny>,
    clear_memo: Py<PyAny>,
    /// What it has written.
    parts: Py<PyList>,
    /// What it has left outside.
    buffers: Py<PyList>,
}

/// A pickle, and the buffers that were left out of it.
pub(crate) struct Pickled<'py> {
    pub(crate) bytes: Bound<'py, PyBytes>,
    pub(crate) buffers: Vec<Bound<'py, PyAny>>,
}

/// Registers how picklers are made.
///
/// `make(whole)` returns an object with `dump`, `clear_memo`, `parts` and `buffers` (which stay empty
/// if `whole`), good for as long as the dicts `reducers` are as they are now, and the module `name` in the dicts `modules` is.
/// `main_is_importable()` says whether children find the main module.
#[pyfunction]
pub(crate) fn set_pickler_maker(
    make: Py<PyAny>,
    main_is_importable: Py<PyAny>,
    modules: Vec<Bound<'_, PyDict>>,
    name: Bound<'_, PyAny>,
    reducers: Vec<Bound<'_, PyDict>>,
) -> PyResult<()> {
    let modules = modules
        .into_iter()
        .map(|modules| {
            Ok((
                modules.clone().unbind(),
                modules.get_item(&name)?.map(Bound::unbind),
            ))
        })
        .collect::<PyResult<Vec<_>>>()?;
    let reducers = reducers
        .into_iter()
        .map(|reducers| {
            let entries = reducers
                .iter()
                .map(|(class, reduce)| (class.unbind(), reduce.unbind()));
            (reducers.clone().unbind(), entries.collect())
        })
        .collect();
    let made = Shelf {
        number: SHELVES.fetch_add(1, Ordering::Relaxed),
        make,
        main_is_importable,
        sources: Sources {
            modules,
            name: name.unbind(),
            reducers,
        },
        idle: [Vec::new(), Vec::new()],
    };
    let before = shelf().replace(made);
    drop(before);
    Ok(())
}

/// The maker, and the picklers it has made, are no longer good.
#[pyfunction]
pub(crate) fn forget_pickler_maker() {
    let before = shelf().take();
    drop(before);
}

/// Pickles an object if that is a usual case. `None` if it is not: then all is to be done by the
/// function `dumps`, from the beginning.
///
/// # Errors
/// What a reducer of the object raised.
pub(crate) fn pickle<'py>(object: &Bound<'py, PyAny>) -> PyResult<Option<Pickled<'py>>> {
    pickle_by(object, false)
}

/// The same in one piece, buffers and all.
///
/// # Errors
/// What a reducer of the object raised.
pub(crate) fn pickle_whole<'py>(
    object: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    Ok(pickle_by(object, true)?.map(|pickled| pickled.bytes))
}

fn pickle_by<'py>(object: &Bound<'py, PyAny>, whole: bool) -> PyResult<Option<Pickled<'py>>> {
    let py = object.py();
    let Some(pickler) = take(py, whole)? else {
        return Ok(None);
    };
    if let Err(error) = pickler.dump.call1(py, (object,)) {
        return if may_be_mended(py, &error)? {
            Ok(None)
        } else {
            Err(error)
        };
    }
    pickler.clear_memo.call0(py)?;
    let parts = pickler.parts.bind(py);
    let bytes = match parts.len() {
        1 => parts.get_item(0)?.cast_into::<PyBytes>()?,
        _ => PyBytes::new(py, &[])
            .call_method1(JOIN.get(py), (parts,))?
            .cast_into()?,
    };
    parts.del_slice(0, parts.len())?;
    let outside = pickler.buffers.bind(py);
    let buffers = if outside.is_empty() {
        Vec::new()
    } else {
        let buffers = outside.iter().collect();
        outside.del_slice(0, outside.len())?;
        buffers
    };
    let data = bytes.as_bytes();
    if data.len() < KEPT {
        put_back(pickler);
    }
    // Something of the main module goes by its name, if the receiver can find it there.
    if names_main(data) && !main_is_importable(py)? {
        return Ok(None);
    }
    Ok(Some(Pickled { bytes, buffers }))
}

/// Whether it failed in a way that `dumps` has another means for.
fn may_be_mended(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static PICKLE_ERROR: Imported = Imported::new("_pickle", "PickleError");
    Ok(error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyAttributeError>(py)
        || error.is_instance(py, &PICKLE_ERROR.get(py)?))
}

fn names_main(data: &[u8]) -> bool {
    thread_local! {
        static MAIN: Finder<'static> = Finder::new("__main__");
    }
    MAIN.with(|main| main.find(data).is_some())
}

fn main_is_importable(py: Python<'_>) -> PyResult<bool> {
    let ask = shelf()
        .as_ref()
        .map(|shelf| shelf.main_is_importable.clone_ref(py));
    ask.map_or(Ok(false), |ask| ask.call0(py)?.extract(py))
}

fn take(py: Python<'_>, whole: bool) -> PyResult<Option<Pickler>> {
    let (make, number) = {
        let mut place = shelf();
        let Some(shelf) = place.as_mut() else {
            return Ok(None);
        };
        if shelf.sources.changed(py) {
            let stale = place.take();
            drop(place);
            drop(stale);
            return Ok(None);
        }
        if let Some(pickler) = shelf.idle[usize::from(whole)].pop() {
            return Ok(Some(pickler));
        }
        (shelf.make.clone_ref(py), shelf.number)
    };
    let made = make.bind(py).call1((whole,))?;
    Ok(Some(Pickler {
        shelf: number,
        whole,
        dump: made.getattr("dump")?.unbind(),
        clear_memo: made.getattr("clear_memo")?.unbind(),
        parts: made.getattr("parts")?.cast_into()?.unbind(),
        buffers: made.getattr("buffers")?.cast_into()?.unbind(),
    }))
}

fn put_back(pickler: Pickler) {
    let mut place = shelf();
    if let Some(shelf) = place.as_mut()
        && shelf.number == pickler.shelf
        && let idle = &mut shelf.idle[usize::from(pickler.whole)]
        && idle.len() < SPARE
    {
        idle.push(pickler);
        return;
    }
    // Not while it is locked: this lets go of Python objects.
    drop(place);
    drop(pickler);
}
