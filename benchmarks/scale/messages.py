"""Messages from a byte to a gigabyte."""

from __future__ import annotations

import time
from typing import Any

from .. import processes
from ..libraries import Contestant
from ..quantities import size
from ..timing import Effort, same
from .registry import Claim, Found, Note, Plot, at, growth

LARGEST = 1_000_000_000


def tell_lengths(receive: Any, answers: Any) -> None:
    while (data := receive()) is not None:
        answers.send((len(data), data[0], data[-1]))
        del data


def from_pipe(source: Any, answers: Any) -> None:
    tell_lengths(source.recv, answers)


def from_queue(source: Any, answers: Any) -> None:
    tell_lengths(source.get, answers)


def judge(found: Found) -> list[Claim]:
    claims = []
    for way in ("Pipe", "Queue"):
        ours = at(found["throughput"].get(f"procession {way}", []), LARGEST)
        theirs = at(found["throughput"].get(f"multiprocessing {way}", []), LARGEST)
        text = f"{size(ours)}/s against {size(theirs)}/s"
        holds = ours > 0 and not ours < theirs  # theirs may not be a number
        claims.append(Claim(f"1 GB through a {way}", "arrives, and no slower", text, holds))
    return claims


@growth(
    "messages",
    "messages of 1 B to 1 GB of bytes, until the receiver has said what it got",
    ("procession Pipe", "procession Queue", "multiprocessing Pipe", "multiprocessing Queue"),
    [Plot("throughput", "Bytes a second, by size of the message", "bytes", "", "size", "size", (True, True))],
    judge,
)
def messages(contestant: Contestant, effort: Effort, note: Note) -> None:
    mp: Any = contestant.module
    answers, theirs = mp.Pipe(duplex=False)
    if contestant.way == "Queue":
        channel = mp.Queue()
        send, child = channel.put, mp.Process(target=from_queue, args=(channel, theirs))
    else:
        source, sender = mp.Pipe(duplex=False)
        send, child = sender.send, mp.Process(target=from_pipe, args=(source, theirs))
    child.start()
    length = 1
    while length <= effort.bytes(LARGEST) and processes.available_memory() > 8 * length:
        data = b"\x01" * length

        def once(data: bytes = data) -> None:
            send(data)
            same(answers.recv(), (len(data), 1, 1))

        once()
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < effort.seconds or not count:
            once()
            count += 1
        note("throughput", length, length * count / elapsed)
        length *= 10
    send(None)
    child.join()
    same(child.exitcode, 0)
