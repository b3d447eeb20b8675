//! `ReadyItems`: the results of an imap that have come, in the order in which they are given out.
//!
//! The base of the iterators of `procession.pool`: what is there is given out without running Python
//! code, for everything else their own methods are called.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::imported::Name;
use crate::pool_reply::DONE;

/// Results of an imap that have come, in the order in which they are given out.
#[pyclass(subclass, frozen, module = "procession._procession")]
pub(crate) struct ReadyItems {
    /// Whether they go out in the order of their tasks.
    ordered: AtomicBool,
    /// Whether each task has one item.
    single: AtomicBool,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Whether it is a result, or an exception to be raised.
    items: VecDeque<(bool, Py<PyAny>)>,
    /// Those whose turn it is not yet: status and value of a task.
    early: HashMap<u64, (u32, Py<PyAny>)>,
    /// The task whose turn it is.
    next: u64,
}

impl ReadyItems {
    /// Locked for a moment, and nothing of Python happens meanwhile.
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what a task has come to into its place.
    pub(crate) fn sort_in(
        this: &Bound<'_, Self>,
        index: u64,
        status: u32,
        value: Py<PyAny>,
    ) -> PyResult<()> {
        let me = this.get();
        if !me.ordered.load(Ordering::Relaxed) {
            return Self::give(this, index, status, value);
        }
        {
            let mut place = me.place();
            if index != place.next {
                place.early.insert(index, (status, value));
                return Ok(());
            }
        }
        let mut found = Some((status, value));
        let mut turn = index;
        while let Some((status, value)) = found {
            Self::give(this, turn, status, value)?;
            turn += 1;
            let mut place = me.place();
            place.next = turn;
            found = place.early.remove(&turn);
        }
        Ok(())
    }

    fn give(this: &Bound<'_, Self>, index: u64, status: u32, value: Py<PyAny>) -> PyResult<()> {
        static GIVE: Name = Name::new("_give");
        let me = this.get();
        if status == DONE && me.single.load(Ordering::Relaxed) {
            me.place().items.push_back((true, value));
            return Ok(());
        }
        let py = this.py();
        this.call_method1(GIVE.get(py), (index, status, value))?;
        Ok(())
    }
}

#[pymethods]
impl ReadyItems {
    #[new]
    #[pyo3(signature = (*_args, **_keywords))]
    fn new(_args: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> ReadyItems {
        ReadyItems {
            ordered: AtomicBool::new(true),
            single: AtomicBool::new(true),
            place: Mutex::default(),
        }
    }

    /// Whether results go out in the order of their tasks, and whether each task has one item.
    fn set_up(&self, ordered: bool, single: bool) {
        self.ordered.store(ordered, Ordering::Relaxed);
        self.single.store(single, Ordering::Relaxed);
    }

    /// Appends an item: a result, or an exception to be raised.
    fn append(&self, success: bool, value: Py<PyAny>) {
        self.place().items.push_back((success, value));
    }

    /// Takes the next item: whether it is a result, and the value. None if there is none.
    fn pop(&self) -> Option<(bool, Py<PyAny>)> {
        self.place().items.pop_front()
    }

    /// Sorts replies in: (index, status, value) each.
    fn sort_in_all(slf: &Bound<'_, Self>, replies: &Bound<'_, PyList>) -> PyResult<()> {
        for reply in replies {
            let (index, status, value) = reply.extract()?;
            Self::sort_in(slf, index, status, value)?;
        }
        Ok(())
    }

    fn __iter__<'py>(slf: Bound<'py, Self>) -> Bound<'py, Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        static NEXT: Name = Name::new("next");
        match slf.get().pop() {
            Some((true, value)) => Ok(value),
            Some((false, error)) => Err(PyErr::from_value(error.into_bound(slf.py()))),
            None => slf.call_method0(NEXT.get(slf.py())).map(Bound::unbind),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked by a thread that is about to let go of it: then it is in use, and no garbage.
        let Ok(place) = self.place.try_lock() else {
            return Ok(());
        };
        let early = place.early.values().map(|(_, value)| value);
        let items = place.items.iter().map(|(_, value)| value);
        early.chain(items).try_for_each(|value| visit.call(value))
    }

    fn __clear__(&self) {
        let gone = std::mem::take(&mut *self.place());
        drop(gone);
    }
}
