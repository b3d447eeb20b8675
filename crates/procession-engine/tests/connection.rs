//! Connections, from outside: what arrives, what doesn't, and who is told.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use procession_engine::connection::{
    Connection, Mailbox, ReceivedInto, RecvError, SendError, pair,
};
use procession_engine::launch::fork_running;
use procession_engine::{Block, Outgoing, Patience, Role};
use procession_sys::{process, socket};

/// A forked child has copies of all descriptors: who forks must be alone, and who counts on a channel
/// being closed must not be forked beside.
static FORKS: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    FORKS.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    FORKS.write().unwrap_or_else(PoisonError::into_inner)
}

fn soon<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_secs(20))
}

fn shortly<'a>() -> Patience<'a> {
    Patience::timeout(Duration::from_millis(50))
}

fn strangers() -> (Connection, Connection) {
    let (one, other) = socket::pair().expect("pair");
    (
        Connection::from_fd(one, true, true, false),
        Connection::from_fd(other, true, true, false),
    )
}

/// A connection and the raw other end of it.
fn half_raw() -> (Connection, std::fs::File) {
    let (one, other) = socket::pair().expect("pair");
    (
        Connection::from_fd(one, true, true, true),
        std::fs::File::from(other),
    )
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn messages_of_all_sizes_arrive_over_every_kind_of_channel() {
    let _shared = shared();
    for make in [
        || pair(true).expect("pair"),
        || pair(false).expect("pair"),
        strangers,
    ] {
        let (reader, writer) = make();
        for length in [
            0,
            1,
            3,
            4096,
            16384,
            100_000,
            (128 << 10) - 1,
            128 << 10,
            3_000_000,
        ] {
            let sent = pattern(length);
            let bytes = sent.clone();
            let writer = &writer;
            std::thread::scope(|scope| {
                scope.spawn(move || writer.send_bytes(&bytes, &mut soon()).expect("sends"));
                assert!(reader.poll(&mut soon()).expect("polls"));
                let got = reader.recv_bytes(None, &mut soon()).expect("receives");
                assert!(got == sent, "{length} bytes, family {}", reader.is_family());
            });
        }
        assert!(!reader.poll(&mut Patience::none()).expect("polls"));
    }
}

#[test]
fn the_frame_is_the_one_of_multiprocessing() {
    let _shared = shared();
    let (connection, mut raw) = half_raw();
    connection.send_bytes(b"hello", &mut soon()).expect("sends");
    let mut frame = [0; 9];
    raw.read_exact(&mut frame).expect("is there");
    assert_eq!(&frame, b"\0\0\0\x05hello");
    raw.write_all(b"\0\0\0\x02ok\xff\xff\xff\xff\0\0\0\0\0\0\0\x04long")
        .expect("has room");
    assert_eq!(
        connection.recv_bytes(None, &mut soon()).expect("receives"),
        b"ok"
    );
    assert_eq!(
        connection.recv_bytes(None, &mut soon()).expect("receives"),
        b"long"
    );
}

#[test]
fn the_ends_of_a_pipe_have_one_direction() {
    let _shared = shared();
    let (reader, writer) = pair(false).expect("pipe");
    assert!(reader.is_readable() && !reader.is_writable());
    assert!(writer.is_writable() && !writer.is_readable());
    assert!(matches!(
        reader.send_bytes(b"x", &mut soon()),
        Err(SendError::NotWritable)
    ));
    assert!(matches!(
        writer.recv_bytes(None, &mut soon()),
        Err(RecvError::NotReadable)
    ));
    assert!(matches!(
        writer.poll(&mut soon()),
        Err(RecvError::NotReadable)
    ));
}

#[test]
fn the_end_comes_after_all_messages() {
    let _shared = shared();
    for duplex in [true, false] {
        let (reader, writer) = pair(duplex).expect("pair");
        writer.send_bytes(b"last", &mut soon()).expect("sends");
        drop(writer);
        assert_eq!(
            reader.recv_bytes(None, &mut soon()).expect("receives"),
            b"last"
        );
        assert!(
            reader.poll(&mut Patience::none()).expect("polls"),
            "the end can be received"
        );
        assert!(matches!(
            reader.recv_bytes(None, &mut soon()),
            Err(RecvError::Closed)
        ));
        assert!(matches!(
            reader.recv_bytes(None, &mut soon()),
            Err(RecvError::Closed)
        ));
    }
}

#[test]
fn sending_to_nobody_is_an_error() {
    let _shared = shared();
    for duplex in [true, false] {
        let (reader, writer) = pair(duplex).expect("pair");
        drop(reader);
        assert!(matches!(
            writer.send_bytes(b"x", &mut soon()),
            Err(SendError::Closed)
        ));
        assert!(matches!(
            writer.send_bytes(&pattern(1 << 20), &mut soon()),
            Err(SendError::Closed)
        ));
    }
}

#[test]
fn an_end_inside_a_message_is_an_error_of_its_own() {
    let _shared = shared();
    for part in [
        &b"\0\0"[..],
        b"\0\0\0\x05",
        b"\0\0\0\x05hel",
        b"\xff\xff\xff\xff\0\0",
        b"\xff\xff\xff\xfe1234",
    ] {
        let (connection, mut raw) = half_raw();
        raw.write_all(part).expect("has room");
        drop(raw);
        assert!(
            matches!(
                connection.recv_bytes(None, &mut soon()),
                Err(RecvError::Truncated)
            ),
            "{part:?}"
        );
    }
}

#[test]
fn a_message_that_is_too_long_ends_the_receiving_but_not_the_sending() {
    let _shared = shared();
    let (one, other) = pair(true).expect("pair");
    for length in [100, 1 << 20] {
        let (one, other) = pair(true).expect("pair");
        other
            .send_bytes(&pattern(length), &mut soon())
            .expect("sends");
        let error = one
            .recv_bytes(Some(99), &mut soon())
            .expect_err("is longer");
        assert!(
            matches!(error, RecvError::TooLong { length: found, max: 99 } if found == length),
            "{error}"
        );
        assert!(!one.is_readable() && one.is_writable());
    }
    other.send_bytes(b"four", &mut soon()).expect("sends");
    assert_eq!(
        one.recv_bytes(Some(4), &mut soon()).expect("is not longer"),
        b"four"
    );
}

#[test]
fn nonsense_and_announcements_do_no_harm() {
    let _shared = shared();
    let (connection, mut raw) = half_raw();
    raw.write_all(&(-7i32).to_be_bytes()).expect("has room");
    assert!(matches!(
        connection.recv_bytes(None, &mut soon()),
        Err(RecvError::Garbled)
    ));
    assert!(!connection.is_readable());

    // An exbibyte is announced, four bytes come.
    let (connection, mut raw) = half_raw();
    raw.write_all(b"\xff\xff\xff\xff\x10\0\0\0\0\0\0\0four")
        .expect("has room");
    assert!(matches!(
        connection.recv_bytes(None, &mut shortly()),
        Err(RecvError::TimedOut)
    ));
    drop(raw);
    assert!(matches!(
        connection.recv_bytes(None, &mut soon()),
        Err(RecvError::Truncated)
    ));

    // A name of nothing.
    let (connection, mut raw) = half_raw();
    raw.write_all(b"\xff\xff\xff\xfe0123456789abcdef\0\0\0\0")
        .expect("has room");
    assert!(matches!(
        connection.recv_bytes(None, &mut soon()),
        Err(RecvError::Gone(_))
    ));
}

#[test]
fn any_bytes_are_received_or_refused() {
    let _shared = shared();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut received = 0;
    for round in 0..400 {
        let (connection, mut raw) = half_raw();
        let mut bytes: Vec<u8> = (0..random() % 300).map(|_| random() as u8).collect();
        if round % 2 == 0 {
            // Otherwise nearly every first number is too large to tell anything.
            for at in (0..bytes.len()).step_by(8) {
                bytes[at] = [0, 0xff][random() as usize % 2];
                bytes[(at + 1).min(random() as usize % 300)..]
                    .iter_mut()
                    .take(2)
                    .for_each(|byte| *byte = 0);
            }
        }
        raw.write_all(&bytes).expect("has room");
        drop(raw);
        loop {
            match connection.recv_message(&mut soon()) {
                Ok(_) | Err(RecvError::Gone(_) | RecvError::NotBytes) => received += 1,
                Err(RecvError::Closed | RecvError::Truncated | RecvError::Garbled) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    assert!(received > 10, "only nonsense was tried");
}

#[test]
fn a_stranger_gets_and_gives_bytes_only() {
    let _shared = shared();
    let (one, other) = strangers();
    let block = Block::zeroed(64).expect("has memory");
    let message = Outgoing {
        bytes: b"x",
        handles: &[block.handle()],
        ..Outgoing::default()
    };
    assert!(matches!(
        one.send_message(&message, &mut soon()),
        Err(SendError::NotFamily)
    ));
    let tagged = Outgoing {
        bytes: b"x",
        tag: 1,
        ..Outgoing::default()
    };
    assert!(matches!(
        one.send_message(&tagged, &mut soon()),
        Err(SendError::NotFamily)
    ));
    one.send_message(&Outgoing::bytes(b"plain"), &mut soon())
        .expect("sends");
    assert_eq!(
        other.recv_message(&mut soon()).expect("receives").bytes,
        b"plain"
    );
    // The other side of such a connection takes no names, even good ones.
    let (family, stranger) = socket::pair().expect("pair");
    let family = Connection::from_fd(family, true, true, true);
    let stranger = Connection::from_fd(stranger, true, true, false);
    family.send_message(&message, &mut soon()).expect("sends");
    assert!(matches!(
        stranger.recv_message(&mut soon()),
        Err(RecvError::Garbled)
    ));
}

#[test]
fn waits_end_when_they_should() {
    let _shared = shared();
    for duplex in [true, false] {
        let (reader, _writer) = pair(duplex).expect("pair");
        let start = Instant::now();
        assert!(matches!(
            reader.recv_bytes(None, &mut shortly()),
            Err(RecvError::TimedOut)
        ));
        assert!(!reader.poll(&mut shortly()).expect("polls"));
        assert!(start.elapsed() >= Duration::from_millis(100));
        assert!(matches!(
            reader.recv_bytes(None, &mut Patience::none()),
            Err(RecvError::TimedOut)
        ));

        let mut asked = 0;
        let mut hook = || {
            asked += 1;
            asked == 3
        };
        let start = Instant::now();
        let error = reader.recv_bytes(None, &mut Patience::forever().with_interrupt(&mut hook));
        assert!(matches!(error, Err(RecvError::Interrupted)));
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the hook is asked every 50 ms"
        );
        let mut hook = || true;
        assert!(matches!(
            reader.poll(&mut soon().with_interrupt(&mut hook)),
            Err(RecvError::Interrupted)
        ));
    }
}

#[test]
fn a_receive_that_is_given_up_loses_nothing() {
    let _shared = shared();
    let whole = [&b"\0\0\0\x06"[..], b"abcdef", b"\0\0\0\x01z"].concat();
    for cut in 1..whole.len() {
        let (connection, mut raw) = half_raw();
        raw.write_all(&whole[..cut]).expect("has room");
        let mut got = Vec::new();
        while let Ok(message) = connection.recv_bytes(None, &mut Patience::none()) {
            got.push(message);
        }
        raw.write_all(&whole[cut..]).expect("has room");
        while let Ok(message) = connection.recv_bytes(None, &mut Patience::none()) {
            got.push(message);
        }
        assert_eq!(got, [&b"abcdef"[..], b"z"], "cut at {cut}");
    }
}

#[test]
fn a_send_that_is_given_up_inside_a_message_is_the_last() {
    let _shared = shared();
    let pipe = || pair(false).expect("pipe");
    // Not large enough for the arena, and together more than any channel holds, which is more with large pages; and no
    // number of them just fills it.
    for ((reader, writer), length) in [(strangers(), 150 << 10), (pipe(), 100 << 10)] {
        let message = pattern(length);
        let mut sent = 0;
        let error = loop {
            match writer.send_bytes(&message, &mut shortly()) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 100, "never full");
        };
        assert!(matches!(error, SendError::TimedOut), "{error}");
        assert!(matches!(
            writer.send_bytes(b"x", &mut soon()),
            Err(SendError::Broken)
        ));
        drop(writer);
        for _ in 0..sent {
            assert!(reader.recv_bytes(None, &mut soon()).expect("receives") == message);
        }
        assert!(matches!(
            reader.recv_bytes(None, &mut soon()),
            Err(RecvError::Truncated)
        ));
    }
}

#[test]
fn a_send_that_is_given_up_before_a_message_is_just_not_sent() {
    let _shared = shared();
    let (reader, writer) = strangers();
    let mut sent = 0u32;
    while writer.send_bytes(b"1234", &mut Patience::none()).is_ok() {
        sent += 1;
        assert!(sent < 1_000_000, "never full");
    }
    assert_eq!(
        reader.recv_bytes(None, &mut soon()).expect("receives"),
        b"1234"
    );
    writer
        .send_bytes(b"5678", &mut soon())
        .expect("has room again");
    for _ in 1..sent {
        assert_eq!(
            reader.recv_bytes(None, &mut soon()).expect("receives"),
            b"1234"
        );
    }
    assert_eq!(
        reader.recv_bytes(None, &mut soon()).expect("receives"),
        b"5678"
    );
}

#[test]
fn messages_with_buffers_objects_and_tags_arrive_whole() {
    let _shared = shared();
    let (one, other) = pair(true).expect("pair");
    let block = Block::zeroed(1000).expect("has memory");
    block.write(0, b"shared").expect("is long enough");
    let handle = block.handle();
    let large = pattern(300_000);
    let message = Outgoing {
        tag: 7,
        bytes: b"about",
        buffers: &[&large, b"small"],
        handles: &[handle],
    };
    one.send_message(&message, &mut soon()).expect("sends");
    // On its way it is kept alive by the message alone.
    drop(block);
    let got = other.recv_message(&mut soon()).expect("receives");
    assert_eq!((got.tag, &got.bytes[..]), (7, &b"about"[..]));
    assert!(got.buffers[0].to_vec() == large && got.buffers[1].to_vec() == b"small");
    let block = Block::from_handle(handle).expect("is alive");
    drop(got);
    assert_eq!(&block.to_vec()[..6], b"shared");
    drop(block);
    assert!(Block::from_handle(handle).is_err(), "nobody holds it");

    one.send_message(
        &Outgoing {
            tag: 3,
            bytes: b"tagged",
            ..Outgoing::default()
        },
        &mut soon(),
    )
    .expect("sends");
    let got = other.recv_message(&mut soon()).expect("receives");
    assert_eq!((got.tag, &got.bytes[..]), (3, &b"tagged"[..]));
    one.send_message(&Outgoing::bytes(&large), &mut soon())
        .expect("sends");
    assert!(other.recv_message(&mut soon()).expect("receives").bytes == large);
    one.send_bytes(&large, &mut soon()).expect("sends");
    assert!(other.recv_message(&mut soon()).expect("receives").bytes == large);
    one.send_message(&message, &mut soon()).expect("sends");
    assert!(matches!(
        other.recv_bytes(None, &mut soon()),
        Err(RecvError::Gone(_) | RecvError::NotBytes)
    ));
}

#[test]
fn receiving_into_a_buffer_fills_it_or_gives_the_message() {
    let _shared = shared();
    let (one, other) = pair(true).expect("pair");
    for length in [10, 200_000] {
        let sent = pattern(length);
        let mut buffer = vec![0; length + 5];
        one.send_bytes(&sent, &mut soon()).expect("sends");
        let got = other
            .recv_bytes_into(&mut buffer, &mut soon())
            .expect("receives");
        assert_eq!(got, ReceivedInto::Filled(length));
        assert!(buffer[..length] == sent && buffer[length..] == [0; 5]);
        one.send_bytes(&sent, &mut soon()).expect("sends");
        match other
            .recv_bytes_into(&mut buffer[..length - 1], &mut soon())
            .expect("receives")
        {
            ReceivedInto::TooShort(message) => assert!(message == sent),
            filled @ ReceivedInto::Filled(_) => panic!("{filled:?}"),
        }
    }
}

#[test]
fn a_sender_ahead_of_the_receiver_has_to_wait() {
    let _shared = shared();
    for duplex in [true, false] {
        let (reader, writer) = pair(duplex).expect("pair");
        let message = pattern(1 << 20);
        let mut sent = 0;
        while writer.send_bytes(&message, &mut shortly()).is_ok() {
            sent += 1;
            assert!(sent < 50, "memory fills up with what nobody reads");
        }
        assert!(sent >= 2, "but not at once: {sent}");
        for _ in 0..sent {
            assert!(reader.recv_bytes(None, &mut soon()).expect("receives") == message);
        }
    }
}

#[test]
fn descriptors_travel() {
    let _shared = shared();
    let (one, other) = pair(true).expect("pair");
    let (mut inside, outside) = std::io::pipe().expect("pipe");
    one.send_bytes(b"before", &mut soon()).expect("sends");
    one.send_fds(&[outside.as_fd(), outside.as_fd()], &mut soon())
        .expect("sends");
    one.send_bytes(b"after", &mut soon()).expect("sends");
    drop(outside);
    assert_eq!(
        other.recv_bytes(None, &mut soon()).expect("receives"),
        b"before"
    );
    let fds = other.recv_fds(2, &mut soon()).expect("receives");
    assert_eq!(
        other.recv_bytes(None, &mut soon()).expect("receives"),
        b"after"
    );
    for fd in fds {
        std::fs::File::from(fd).write_all(b"x").expect("is a pipe");
    }
    let mut text = String::new();
    inside.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "xx");

    one.send_fds(&[inside.as_fd(), inside.as_fd()], &mut soon())
        .expect("sends");
    assert!(matches!(
        other.recv_fds(1, &mut soon()),
        Err(RecvError::LostDescriptors { sent: 2 })
    ));
    one.send_fds(&[], &mut soon()).expect("sends");
    assert!(other.recv_fds(5, &mut soon()).expect("receives").is_empty());
    let (_reader, writer) = pair(false).expect("pipe");
    assert!(matches!(
        writer.send_fds(&[inside.as_fd()], &mut soon()),
        Err(SendError::Io(_))
    ));
}

#[test]
fn a_connection_is_its_descriptor() {
    let _shared = shared();
    let (one, other) = pair(true).expect("pair");
    let number = one.as_fd().as_raw_fd();
    let fd: OwnedFd = one.into_fd();
    assert_eq!(fd.as_raw_fd(), number);
    let again = Connection::from_fd(fd, true, true, true);
    again.send_bytes(b"still", &mut soon()).expect("sends");
    assert_eq!(
        other.recv_bytes(None, &mut soon()).expect("receives"),
        b"still"
    );
}

#[test]
fn a_peer_killed_inside_a_message_is_told_from_one_that_has_ended() {
    let _alone = alone();
    let (reader, writer) = pair(false).expect("pipe");
    // With large pages it would be longer.
    rustix::pipe::fcntl_setpipe_size(writer.as_fd(), 64 << 10).expect("is a pipe");
    let child = fork_running("writer", Role::Process, false, || {
        let _ = writer.send_bytes(b"whole", &mut soon());
        // More than fits: it waits inside the message.
        let _ = writer.send_bytes(&pattern(120 << 10), &mut soon());
        0
    })
    .expect("forks");
    drop(writer);
    assert_eq!(
        reader.recv_bytes(None, &mut soon()).expect("receives"),
        b"whole"
    );
    assert!(reader.poll(&mut soon()).expect("polls"));
    std::thread::sleep(Duration::from_millis(50));
    child.kill(9).expect("is there");
    assert!(matches!(
        reader.recv_bytes(None, &mut soon()),
        Err(RecvError::Truncated)
    ));
    child.wait(&mut soon()).expect("has ended");
}

#[test]
fn a_large_message_outlives_its_sender() {
    let _alone = alone();
    let (reader, writer) = pair(false).expect("pipe");
    let child = fork_running("writer", Role::Process, false, || {
        i32::from(writer.send_bytes(&pattern(2 << 20), &mut soon()).is_err())
    })
    .expect("forks");
    drop(writer);
    assert!(child.wait(&mut soon()).expect("ends").success());
    assert!(reader.recv_bytes(None, &mut soon()).expect("receives") == pattern(2 << 20));
    assert!(matches!(
        reader.recv_bytes(None, &mut soon()),
        Err(RecvError::Closed)
    ));
}

#[test]
fn the_descriptors_stay_in_this_process() {
    let _alone = alone();
    let (one, _other) = pair(true).expect("pair");
    let (two, _three) = pair(false).expect("pipe");
    let script = format!(
        "[ ! -e /proc/self/fd/{} ] && [ ! -e /proc/self/fd/{} ]",
        one.as_fd().as_raw_fd(),
        two.as_fd().as_raw_fd()
    );
    let status = std::process::Command::new("sh")
        .args(["-c", &script])
        .status()
        .expect("runs");
    assert!(status.success());
    assert!(process::is_open(&one));
}

/// Two ends that are joined by a mailbox too.
fn shortened() -> (Connection, Connection) {
    let (asks, answers) = strangers();
    let mailbox = Mailbox::new().expect("memory");
    let ticket = mailbox.ticket();
    asks.use_mailbox(mailbox).expect("the first");
    let other = Mailbox::from_ticket(ticket).expect("lives");
    answers.use_mailbox(other).expect("the first");
    (asks, answers)
}

fn anything_at(connection: &Connection) -> bool {
    procession_sys::poll::readable(connection.as_fd(), Some(Duration::ZERO)).expect("poll")
}

#[test]
fn short_requests_and_answers_go_by_the_mailbox() {
    let _shared = shared();
    let (asks, answers) = shortened();
    for round in 0..3 {
        let request = [round; 60];
        asks.send_bytes(&request, &mut soon()).expect("sent");
        assert!(!anything_at(&answers), "nothing went by the descriptor");
        assert!(answers.poll(&mut Patience::none()).expect("open"));
        let got = answers.recv_bytes(None, &mut Patience::none());
        assert_eq!(got.expect("is there"), request);
        assert!(answers.send_at_once(b"answer"));
        assert!(!anything_at(&asks));
        assert_eq!(
            asks.recv_bytes(None, &mut soon()).expect("is there"),
            b"answer"
        );
        assert!(!asks.poll(&mut Patience::none()).expect("open"));
    }
}

#[test]
fn what_is_long_or_meets_a_sleeper_goes_by_the_descriptor() {
    let _shared = shared();
    let (asks, answers) = shortened();
    let long = vec![7; 300 << 10];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let request = answers.recv_bytes(None, &mut soon()).expect("a request");
                answers.send_bytes(&request, &mut soon()).expect("sent");
            }
        });
        for request in [&b"short"[..], &long, b""] {
            // The other end has fallen asleep by now, or is about to.
            std::thread::sleep(Duration::from_millis(2));
            asks.send_bytes(request, &mut soon()).expect("sent");
            assert!(asks.poll(&mut soon()).expect("open"));
            assert_eq!(
                asks.recv_bytes(None, &mut soon()).expect("an answer"),
                request
            );
        }
    });
    // Both are awake again: nothing of it stays.
    asks.send_bytes(b"once more", &mut soon()).expect("sent");
    let got = answers.recv_bytes(None, &mut soon()).expect("is there");
    assert_eq!(got, b"once more");
}

#[test]
fn messages_beside_the_rule_keep_their_order() {
    let _shared = shared();
    let (asks, answers) = shortened();
    for number in 0..5u8 {
        asks.send_bytes(&[number], &mut soon()).expect("sent");
    }
    let next = |number: u8| {
        let got = answers.recv_bytes(None, &mut soon()).expect("is there");
        assert_eq!(got, [number]);
    };
    next(0);
    next(1);
    asks.send_bytes(&[5], &mut soon()).expect("sent");
    (2..=5).for_each(next);
}

#[test]
fn who_waits_at_a_mailbox_hears_of_the_end() {
    let _shared = shared();
    let (asks, answers) = shortened();
    asks.send_bytes(b"the last", &mut soon()).expect("sent");
    drop(asks);
    let got = answers.recv_bytes(None, &mut soon());
    assert_eq!(got.expect("was sent before the end"), b"the last");
    let end = answers.recv_bytes(None, &mut soon());
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
}

#[test]
fn who_never_waits_at_a_mailbox_gets_what_is_at_the_descriptor_too() {
    let _shared = shared();
    let (asks, answers) = shortened();
    // The second one breaks the rule.
    for request in [b"one", b"two"] {
        asks.send_bytes(request, &mut soon()).expect("sent");
    }
    for request in [b"one", b"two"] {
        let got = answers.recv_bytes(None, &mut Patience::none());
        assert_eq!(got.expect("was sent"), request);
    }
    let none = answers.recv_bytes(None, &mut Patience::none());
    assert!(matches!(none, Err(RecvError::TimedOut)), "{none:?}");
    drop(asks);
    let end = answers.recv_bytes(None, &mut Patience::none());
    assert!(matches!(end, Err(RecvError::Closed)), "{end:?}");
}

#[test]
fn who_never_waits_gets_what_was_sent_right_before_the_end() {
    let _shared = shared();
    for _ in 0..1000 {
        let (asks, answers) = shortened();
        let sender = std::thread::spawn(move || {
            asks.send_bytes(b"the last", &mut soon()).expect("sent");
        });
        // The message comes after the look at the mailbox, the end before that at the descriptor.
        let got = loop {
            match answers.recv_bytes(None, &mut Patience::none()) {
                Err(RecvError::TimedOut) => {}
                other => break other,
            }
        };
        assert_eq!(got.expect("was sent before the end"), b"the last");
        sender.join().expect("ends");
    }
}

#[test]
fn a_wait_at_a_mailbox_can_be_given_up() {
    let _shared = shared();
    let (asks, answers) = shortened();
    for _ in 0..2 {
        let late = answers.recv_bytes(None, &mut shortly());
        assert!(matches!(late, Err(RecvError::TimedOut)), "{late:?}");
        let none = answers.recv_bytes(None, &mut Patience::none());
        assert!(matches!(none, Err(RecvError::TimedOut)), "{none:?}");
        let mut stop = || true;
        let mut patience = soon().with_interrupt(&mut stop);
        let stopped = answers.recv_bytes(None, &mut patience);
        assert!(
            matches!(stopped, Err(RecvError::Interrupted)),
            "{stopped:?}"
        );
    }
    asks.send_bytes(b"after all", &mut soon()).expect("sent");
    let got = answers.recv_bytes(None, &mut soon()).expect("is there");
    assert_eq!(got, b"after all");
}

#[test]
fn a_mailbox_is_known_by_its_ticket_alone() {
    let _shared = shared();
    let mailbox = Mailbox::new().expect("memory");
    let mut ticket = mailbox.ticket();
    ticket[20] ^= 1;
    // The same place, another's mark.
    assert!(Mailbox::from_ticket(ticket).is_err());
    ticket[20] ^= 1;
    assert!(Mailbox::from_ticket(ticket).is_ok());
    let (one, other) = pair(true).expect("pair");
    assert!(one.use_mailbox(mailbox).is_err(), "a pipe has none");
    drop(other);
    assert!(Mailbox::from_ticket(ticket).is_err(), "it is gone");
}
