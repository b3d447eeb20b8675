//! The book, without processes.

use super::*;
use crate::exit_status::ExitStatus;

fn lost() -> Reply {
    Reply::Lost(Loss {
        pid: 1,
        slot: 0,
        status: ExitStatus::Signal(9),
    })
}

fn quiet(todo: Todo) {
    assert_eq!(todo, Todo::NOTHING);
}

#[test]
fn a_second_reply_and_one_for_no_task_change_nothing() {
    let mut book = Book::default();
    let id = book.open().expect("is running");
    assert_eq!(book.submit(id).expect("is open"), 0);
    quiet(book.settle(id, 7, lost()));
    quiet(book.settle(id, 0, Reply::Terminated));
    quiet(book.settle(id, 0, lost()));
    quiet(book.seal(id));
    assert!(matches!(
        book.next(id, false),
        Some(Some((0, Reply::Terminated)))
    ));
    assert!(matches!(book.next(id, false), Some(None)));
    assert_eq!((book.counts(id), book.outstanding()), ((1, 0), 0));
}

#[test]
fn a_place_is_used_again_under_another_name() {
    let mut book = Book::default();
    let first = book.open().expect("is running");
    let index = book.submit(first).expect("is open");
    quiet(book.abandon(first));
    assert_eq!(book.outstanding(), 1, "its task is out");
    quiet(book.settle(first, index, lost()));
    let second = book.open().expect("is running");
    assert_ne!(first, second);
    assert_eq!(first.place(), second.place());
    quiet(book.settle(first, index, lost()));
    assert_eq!(book.counts(second), (0, 0));
    assert_eq!(book.outstanding(), 0);
}

#[test]
fn a_task_that_could_not_be_put_was_never_there() {
    let mut book = Book::default();
    let id = book.open().expect("is running");
    let first = book.submit(id).expect("is open");
    let second = book.submit(id).expect("is open");
    quiet(book.withdraw(id, first));
    quiet(book.settle(id, second, lost()));
    let (third, todo) = book.submit_only(id).expect("is open");
    quiet(todo);
    quiet(book.withdraw(id, third));
    assert!(matches!(book.next(id, false), Some(Some((1, _)))));
    assert!(matches!(book.next(id, false), Some(None)));
    assert_eq!(book.outstanding(), 0);
}

#[test]
fn when_the_pool_ends_every_task_gets_its_reply_once_the_queue_is_empty() {
    let mut book = Book::default();
    let id = book.open().expect("is running");
    for _ in 0..3 {
        book.submit(id).expect("is open");
    }
    quiet(book.settle(id, 1, lost()));
    assert!(book.end_with(End::Terminated).is_some());
    assert!(book.end_with(End::Terminated).is_none());
    assert!(matches!(
        book.next(id, false),
        Some(Some((1, Reply::Lost(_))))
    ));
    assert!(
        book.next(id, false).is_none(),
        "there may be more in the queue"
    );
    for index in [0, 2, 3, 3] {
        // The last is for what would have come: the job was not sealed.
        let next = book.next(id, true).flatten();
        assert!(matches!(next, Some((found, Reply::Terminated)) if found == index));
    }
    assert_eq!(book.outstanding(), 0);
    assert!(matches!(book.open(), Err(NotRunning::Terminated)));
}

#[test]
fn the_tasks_end_when_the_pool_is_closed_and_no_job_is_open() {
    let mut book = Book::default();
    let id = book.open().expect("is running");
    assert!(!book.close().close_tasks);
    assert!(matches!(book.open(), Err(NotRunning::Closed)));
    assert!(book.seal(id).close_tasks);
    let mut empty = Book::default();
    assert!(empty.close().close_tasks);
}

#[test]
fn jobs_are_announced_once_and_the_end_after_them() {
    let mut book = Book::default();
    let jobs: Vec<JobId> = (0..2).map(|_| book.open().expect("is running")).collect();
    for id in &jobs {
        quiet(book.announce(*id));
        quiet(book.submit_only(*id).expect("is open").1);
    }
    quiet(book.settle(jobs[1], 0, lost()));
    assert_eq!(book.next_announced(false), Some(Some(jobs[1])));
    assert_eq!(book.next_announced(false), None);
    assert!(!book.close().nudge);
    assert_eq!(book.next_announced(false), None);
    quiet(book.settle(jobs[0], 0, lost()));
    assert_eq!(book.next_announced(false), Some(Some(jobs[0])));
    assert_eq!(book.next_announced(false), Some(None));
}
