//! The book, without processes.

use super::*;
use crate::exit_status::ExitStatus;
use crate::pool::answer::Loss;

fn loss() -> Loss {
    Loss {
        pid: 1,
        name: String::new(),
        slot: 0,
        status: ExitStatus::Signal(9),
        out_of_memory: false,
        label: "",
    }
}

fn lost() -> Reply {
    Reply::Lost(Arc::new(loss()))
}

fn open(book: &mut Book) -> JobId {
    book.open(TaskOptions::default()).expect("is running")
}

fn submit(book: &mut Book, id: JobId) -> u64 {
    book.submit(id, None).expect("is open").0
}

fn quiet(todo: Todo) {
    assert_eq!(todo, Todo::NOTHING);
}

#[test]
fn a_second_reply_and_one_for_no_task_change_nothing() {
    let mut book = Book::default();
    let id = open(&mut book);
    assert_eq!(submit(&mut book, id), 0);
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
    let first = open(&mut book);
    let index = submit(&mut book, first);
    quiet(book.abandon(first));
    assert_eq!(book.outstanding(), 1, "its task is out");
    quiet(book.settle(first, index, lost()));
    let second = open(&mut book);
    assert_ne!(first, second);
    assert_eq!(first.place(), second.place());
    quiet(book.settle(first, index, lost()));
    assert_eq!(book.counts(second), (0, 0));
    assert_eq!(book.outstanding(), 0);
}

#[test]
fn a_task_that_could_not_be_put_was_never_there() {
    let mut book = Book::default();
    let id = open(&mut book);
    let first = submit(&mut book, id);
    let second = submit(&mut book, id);
    quiet(book.withdraw(id, first));
    quiet(book.settle(id, second, lost()));
    let (third, todo) = book.submit_only(id, None).expect("is open");
    quiet(todo);
    quiet(book.withdraw(id, third));
    assert!(matches!(book.next(id, false), Some(Some((1, _)))));
    assert!(matches!(book.next(id, false), Some(None)));
    assert_eq!(book.outstanding(), 0);
}

#[test]
fn when_the_pool_ends_every_task_gets_its_reply_once_the_queue_is_empty() {
    let mut book = Book::default();
    let id = open(&mut book);
    for _ in 0..3 {
        submit(&mut book, id);
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
    assert!(matches!(
        book.open(TaskOptions::default()),
        Err(NotRunning::Terminated)
    ));
}

#[test]
fn the_tasks_end_when_the_pool_is_closed_and_no_job_is_open() {
    let mut book = Book::default();
    let id = open(&mut book);
    assert!(!book.close().close_tasks);
    assert!(matches!(
        book.open(TaskOptions::default()),
        Err(NotRunning::Closed)
    ));
    assert!(book.seal(id).close_tasks);
    let mut empty = Book::default();
    assert!(empty.close().close_tasks);
}

#[test]
fn jobs_are_announced_once_and_the_end_after_them() {
    let mut book = Book::default();
    let jobs: Vec<JobId> = (0..2).map(|_| open(&mut book)).collect();
    for id in &jobs {
        quiet(book.announce(*id));
        quiet(book.submit_only(*id, None).expect("is open").1);
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

#[test]
fn what_a_worker_finds_cancelled_before_the_verdict_is_heard_counts_as_prevented() {
    let mut book = Book::default();
    let id = open(&mut book);
    for _ in 0..3 {
        submit(&mut book, id);
    }
    assert!(book.ask_to_cancel(id, true).ring);
    assert_eq!(book.cancel_outcome(id), None);
    let _ = book.swept(id, 1);
    assert_eq!(book.cancel_outcome(id), None);
    let number = book.write(Verdict::Cancelled {
        id,
        running: vec![0],
        marked: true,
    });
    let _ = book.hear(number);
    assert_eq!(book.cancel_outcome(id), Some((2, 1)));
    let only = open(&mut book);
    submit(&mut book, only);
    let _ = book.ask_to_cancel(only, false);
    let _ = book.swept(only, 0);
    assert_eq!(book.cancel_outcome(only), Some((1, 0)));
    let _ = book.ask_to_cancel(only, false);
    assert_eq!(
        book.cancel_outcome(only),
        Some((0, 0)),
        "there was nothing left"
    );
}

#[test]
fn several_that_could_not_be_put_were_never_there() {
    let mut book = Book::default();
    let id = open(&mut book);
    let (first, todo) = book.submit_several(id, 3).expect("is open");
    quiet(todo);
    assert_eq!((first, book.outstanding()), (0, 3));
    for index in (0..3).rev() {
        quiet(book.withdraw(id, index));
    }
    assert_eq!((book.outstanding(), book.counts(id)), (0, (0, 0)));
    let (first, todo) = book.submit_several(id, 2).expect("is open");
    quiet(todo);
    quiet(book.settle(id, 1, lost()));
    quiet(book.settle(id, 0, lost()));
    let mut replies = Vec::new();
    book.take_replies(id, 1, &mut replies);
    book.take_replies(id, 7, &mut replies);
    let order: Vec<u64> = replies.iter().map(|(index, _)| *index).collect();
    assert_eq!((first, order), (0, vec![1, 0]));
    quiet(book.seal(id));
    assert!(book.submit_several(id, 1).is_err(), "it is sealed");
    assert!(matches!(book.next(id, false), Some(None)));
}
