"""The checker catches what it is there to catch: each test breaks one thing and sees it found."""

from __future__ import annotations

import os
import subprocess
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from chaos import ledger, program, run, soak
from chaos.ledger import Findings, Line

MS = 1_000_000


def journal(text: str) -> list[Line]:
    """A journal from lines "at what words", the time in ms."""
    lines = []
    for line in text.strip().splitlines():
        at, what, *words = line.split()
        lines.append(Line(int(at) * MS, what, tuple(words)))
    return lines


def queues(*journals: str) -> Findings:
    findings = Findings()
    ledger.Queues(journal(text) for text in journals).check(findings)
    return findings


PUT = "1 put 0 7 1\n2 done-put 0 7 1\n3 put 0 7 2\n4 done-put 0 7 2"
GET = "5 get 0\n6 got 0 7 1\n7 get 0\n8 got 0 7 2"


def test_a_sound_round_is_found_sound() -> None:
    findings = queues(PUT, GET)
    assert findings.wrong == []
    assert findings.counts["messages"] == 2


def test_a_duplicate_is_found() -> None:
    findings = queues(PUT, GET, "9 get 0\n10 got 0 7 2")
    assert [text.split(":")[0] for text in findings.wrong] == ["duplicate"]


def test_a_loss_is_found() -> None:
    findings = queues(PUT, "5 get 0\n6 got 0 7 1\n7 get 0\n8 nothing 0")
    assert [text.split(":")[0] for text in findings.wrong] == ["lost"]


def test_a_taker_that_died_in_a_get_excuses_one_loss_and_no_second() -> None:
    died = "5 get 0"
    assert queues(PUT, "5 get 0\n6 got 0 7 1", died).wrong == []
    assert len(queues(PUT, died).wrong) == 1
    elsewhere = "5 get 1"
    assert len(queues(PUT, "5 get 0\n6 got 0 7 1", elsewhere).wrong) == 1


def test_a_put_that_was_cut_short_may_be_there_or_not() -> None:
    cut = "1 put 0 7 1"
    assert queues(cut).wrong == []
    assert queues(cut, "5 get 0\n6 got 0 7 1").wrong == []


def test_a_put_that_was_refused_must_not_be_there() -> None:
    findings = queues("1 put 0 7 1\n2 refused-put 0 7 1", "5 get 0\n6 got 0 7 1")
    assert [text.split(":")[0] for text in findings.wrong] == ["invented"]


def test_a_wrong_order_is_found() -> None:
    findings = queues(PUT, "5 get 0\n6 got 0 7 2\n7 get 0\n8 got 0 7 1")
    assert [text.split(":")[0] for text in findings.wrong] == ["order"]


def test_a_tear_is_found() -> None:
    whole = program.sealed(3, 4, b"0123456789" * 10)
    assert not program.is_torn(whole)
    torn = (*whole[:2], whole[2][:-1] + b"x", *whole[3:])
    assert program.is_torn(torn)
    assert program.is_torn((5, *whole[1:]))
    assert program.is_torn(whole[:3])


def test_task_done_is_counted() -> None:
    told = ledger.Queues([journal(PUT), journal(GET + "\n9 tell 0\n10 told 0")])
    assert told.unfinished("0") == (1, 1)
    in_the_middle = ledger.Queues([journal(PUT), journal(GET + "\n9 tell 0")])
    assert in_the_middle.unfinished("0") == (1, 2)


@pytest.mark.parametrize(
    ("outcomes", "runs", "deaths", "wrong"),
    [
        ({1: ["done"], 2: ["error"]}, "1 run 1\n2 run 2", 0, 0),
        ({1: []}, "1 run 1", 1, 1),
        ({1: ["done", "done"]}, "1 run 1", 0, 1),
        ({1: ["done"]}, "1 run 1\n2 run 1", 1, 2),
        ({1: ["done"]}, "", 0, 1),
        ({1: ["lost"]}, "1 run 1", 1, 0),
        ({1: ["lost"], 2: ["lost"]}, "", 1, 1),
        ({1: ["torn: ..."]}, "1 run 1", 0, 1),
    ],
)
def test_each_task_has_one_outcome(outcomes: dict[int, list[str]], runs: str, deaths: int, wrong: int) -> None:
    findings = Findings()
    ledger.tasks(outcomes, [journal(runs)], deaths, 0, findings)
    assert len(findings.wrong) == wrong, findings.wrong


def test_who_waits_too_long_for_the_dead_is_found() -> None:
    killed = {50: 100 * MS}
    in_time, too_late, excused = Findings(), Findings(), Findings()
    ledger.locks([journal("1 start 60\n150 took 0 50 10")], killed, {}, {}, in_time)
    assert in_time.wrong == [] and in_time.latencies["lock"] == [0.05]
    ledger.locks([journal("1 start 60\n2500 took 0 50 10")], killed, {}, {}, too_late)
    assert len(too_late.wrong) == 1
    ledger.locks([journal("1 start 60\n2500 took 0 50 10")], killed, {60: 1.0}, {}, excused)
    assert excused.wrong == []


def test_a_lock_taken_from_one_who_is_killed_a_moment_later_is_found() -> None:
    taken = journal("1 start 60\n150 took 0 50 10\n151 lives 0 50")
    killed, ended = Findings(), Findings()
    ledger.locks([taken], {50: 160 * MS}, {}, {50: 155 * MS}, killed)
    assert killed.wrong == ["lock 0 was taken from 50, which lived"]
    ledger.locks([taken], {50: 160 * MS}, {}, {50: 140 * MS}, ended)
    assert ended.wrong == []


def test_a_permit_taken_from_one_who_is_killed_a_moment_later_is_found() -> None:
    taken = journal("1 start 60\n150 crowd 2 50 55 60")
    killed, ended = Findings(), Findings()
    ledger.locks([taken], {50: 160 * MS}, {}, {50: 155 * MS}, killed)
    assert killed.wrong == ["semaphore: [50, 55, 60], which lived, had 2 permits"]
    ledger.locks([taken], {50: 160 * MS}, {}, {50: 140 * MS}, ended)
    assert ended.wrong == []


def test_a_party_that_waits_too_long_at_a_barrier_is_found() -> None:
    dead = journal("1 start 50\n10 barrier")
    findings = Findings()
    ledger.barriers([dead, journal("1 start 60\n20 barrier\n150 broken")], {50: 100 * MS}, {}, findings)
    assert findings.wrong == [] and findings.latencies["barrier"] == [0.05]
    ledger.barriers([dead, journal("1 start 60\n20 barrier\n2500 broken")], {50: 100 * MS}, {}, findings)
    assert len(findings.wrong) == 1


# With stubs in place of what is under test.


class NoLock:
    """A lock that excludes nobody and tells of no death."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@pytest.fixture
def actor(tmp_path: Path) -> Any:
    world = program.World(tmp_path, program.Plan.of(1))
    actor = program.Actor(world, 1, "one")
    yield actor
    actor.scratch.close()
    actor.journal.close()


def complaints(actor: program.Actor) -> list[str]:
    path = actor.world.directory / "one.journal"
    return [" ".join(line.words) for line in ledger.read(path) if line.what == "wrong"]


def test_a_lock_that_two_hold_is_found(actor: program.Actor) -> None:
    lock = NoLock()
    actor.acquire(lock, 0)
    assert complaints(actor) == []
    actor.acquire(lock, 0)
    assert len(complaints(actor)) == 1


def test_a_lock_that_another_takes_meanwhile_is_found(actor: program.Actor) -> None:
    lock = NoLock()
    actor.acquire(lock, 0)
    actor.words[program.HOLDERS] = 1
    actor.release(lock, 0)
    assert len(complaints(actor)) == 1


def test_a_permit_too_many_is_found_and_one_of_the_dead_is_none(
    actor: program.Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "LAST_WAY", 0.01)
    actor.world.semaphore = NoLock()
    ended = subprocess.Popen(["true"])
    ended.wait()
    actor.words[program.PERMITS + 7 : program.PERMITS + 9] = memoryview(array("q", [1 << 32 | os.getppid(), ended.pid]))
    actor.use_semaphore()
    assert complaints(actor) == []
    actor.words[program.PERMITS + 8] = 5 << 32 | 1
    actor.use_semaphore()
    crowds = [line for line in ledger.read(actor.world.directory / "one.journal") if line.what == "crowd"]
    assert [len(line.words) for line in crowds] == [4]
    assert len(complaints(actor)) == 1


def test_a_value_that_is_half_changed_without_a_word_is_found(actor: program.Actor) -> None:
    class Pair:
        def __init__(self) -> None:
            self.numbers = [3, 2]

        def get_lock(self) -> NoLock:
            return NoLock()

        def get_obj(self) -> list[int]:
            return self.numbers

    actor.world.pair = Pair()
    actor.use_value()
    assert len(complaints(actor)) == 1


class Leaky:
    """A queue that loses, or gives twice, each third message."""

    def __init__(self, times: int) -> None:
        self.items: list[Any] = []
        self.times = times
        self.count = 0

    def put(self, item: Any) -> None:
        self.count += 1
        self.items += [item] * (self.times if self.count % 3 == 0 else 1)

    def get(self) -> Any:
        return self.items.pop(0)


@pytest.mark.parametrize(("times", "what"), [(1, None), (0, "lost"), (2, "duplicate")])
def test_a_queue_that_loses_or_doubles_is_found(actor: program.Actor, times: int, what: str | None) -> None:
    actor.world.queues = [Leaky(times)]
    for _ in range(6):
        actor.put(0)
    while actor.world.queues[0].items:
        actor.get(0)
    findings = Findings()
    ledger.Queues([ledger.read(actor.world.directory / "one.journal")]).check(findings)
    found = Counter(text.split(":")[0] for text in findings.wrong)
    assert (set(found) >= {what}) if what else not found


HANGS = """
import sys, time
def wait_for_ever():
    time.sleep(3600)
from chaos.program import show_stacks_on_request
show_stacks_on_request()
wait_for_ever()
"""

LEAVES = """
import os, time
if os.fork() == 0:
    time.sleep(3600)
os._exit(0)
"""


@pytest.mark.parametrize(("text", "sign"), [(HANGS, "wait_for_ever"), (LEAVES, "left behind"), ("1/0", "ended with 1")])
def test_a_hang_an_orphan_and_a_failure_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, sign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # One that hangs has to come so far first; the others end by themselves.
    monkeypatch.setattr(run, "BOUND", 5 if text is HANGS else 30)
    monkeypatch.setattr(run, "ORPHANS", 0.3)
    (tmp_path / "broken.py").write_text(text)
    runner = run.Runner(None, keep=False, module=f"{tmp_path}/broken.py")
    seed = next(seed for seed in range(100) if program.Plan.of(seed).scene == "attack")
    began = time.monotonic()
    wrong = runner.one(seed)
    assert sign in " ".join(wrong)
    assert runner.tally.failures.keys() == {seed}
    assert time.monotonic() - began < 40
    capsys.readouterr()


def test_what_grows_in_a_soak_is_found() -> None:
    flat = [{name: 100.0 * (1 << 20) for name in soak.SLACK} for _ in range(40)]
    assert soak.judge(flat) == []
    for name in soak.SLACK:
        grows = [{**sample, name: sample[name] * (1 + at / 40)} for at, sample in enumerate(flat)]
        assert len(soak.judge(grows)) == 1
