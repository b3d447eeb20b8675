"""Where the tasks of a map come from: an iterable, read never too far ahead."""

from __future__ import annotations

import threading

from ._errors import ProcessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = ["Feeder"]

#: Tasks of one job are submitted ahead of their results up to about this many bytes.
AHEAD_BYTES = 64 << 20


def _name_item(error: Exception, index: int, payload: Any) -> Exception:
    from . import reduction

    return reduction.name_culprit(error, [(f"item {index} of the iterable", payload)])


class Feeder:
    """Submits the tasks of a job from an iterator.

    Who waits for the results drives it by calling `feed()`. Where nobody may be waiting, or
    the iterator itself may have to wait for something, a thread drives it: `start()`.

    Args:
        job: the job that gets the tasks.
        kind: what the tasks are.
        function: what they run, as the pool's core knows it.
        payloads: an iterator of what they get.
        window: how many tasks may be ahead of the results that were asked for; None if
            the iterator's end is near enough.
        least: how many tasks may be ahead in any case.
    """

    def __init__(
        self, job: Any, kind: int, function: Any, payloads: Iterator[Any], window: int | None, least: int
    ) -> None:
        self.job = job
        #: What the iterator, or pickling one of its items, has raised: to be raised after the results.
        self.error: BaseException | None = None
        self._kind = kind
        self._function = function
        self._payloads: Iterator[Any] | None = payloads
        self._window = window
        self._least = least
        self._over = False
        self._stopped = False
        self._sealing = True
        self._begun = False
        self._unasked = False
        self._consumed = 0
        # A signal handler, or the iterator itself, may cancel in the middle of feeding.
        self._feeding = threading.RLock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def over(self) -> bool:
        """Whether everything was submitted that will be."""
        return self._over

    @property
    def waits_for_room(self) -> bool:
        """Whether there is more to be submitted, for which no consumer has to ask."""
        return not self._over and self._window is None

    def fail(self, error: BaseException) -> None:
        """Submit nothing: there is nothing to be had but this error."""
        self.error = error
        self.job.seal()
        self._end()

    def feed(self) -> None:
        """Submit as many tasks as may be under way, unless that is a thread's to do."""
        if not self._over and self._thread is None:
            self._feed()

    def start(self) -> None:
        """Have a thread do it from now on."""
        if self._over or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="pool-feeder", daemon=True)
        self._thread.start()

    def consumed(self, count: int) -> None:
        """Say how many tasks' results were given out so far, and that more are asked for."""
        self._begun = True
        self._consumed = count
        if self._thread is not None:
            with self._changed:
                self._changed.notify_all()

    def finish(self) -> None:
        """Submit everything: somebody waits for the end of the pool, and maybe nobody for results."""
        self._set("_window", None)
        self.start()

    def stop(self, *, seal: bool = True) -> None:
        """Submit nothing more.

        Args:
            seal: whether what was submitted is all there is; if not, results are missing, and
                who asks for them is told by the pool.
        """
        self._sealing = seal
        self._set("_stopped", True)

    def cancel(self, error: BaseException) -> bool:
        """Submit nothing more, and have this raised after the results; return whether there was more."""
        with self._feeding:
            if self._over:
                return False
            self.error = error
            self._end()
        self.stop()
        return True

    def consumer_left(self) -> None:
        """Nobody will ask for results.

        Tasks of which nobody ever asked for a result are run all the same, for their effects.
        But who has begun to read results of an endless iterator, and left, wants no more.
        """
        if self._over:
            return
        if self._begun and self._window is not None:
            self.stop()
        else:
            self.job.discard()
            self._set("_unasked", True)
            self.start()

    def _set(self, name: str, value: Any) -> None:
        with self._changed:
            setattr(self, name, value)
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._over:
            if self._wait_for_room():
                self._feed()
            else:
                self._end()

    def _wait_for_room(self) -> bool:
        """Return whether there is any sense in going on."""
        with self._changed:
            while self._window is not None and not (self._unasked or self._stopped):
                if self.job.submitted - self._consumed < self._ahead():
                    return True
                self._changed.wait()
        return self._stopped or bool(self.job.wait_outstanding(self._ahead() - 1, None))

    def _ahead(self) -> int:
        """Return how many tasks may be under way."""
        affordable: int = max(self._least, AHEAD_BYTES // max(1, self.job.cost))
        if self._window is None:
            return affordable
        # Small at first: how large the results are is not known before some have come.
        return max(1, min(self._window, affordable, self._least + 2 * self._consumed))

    def _feed(self) -> None:
        with self._feeding:
            if self._over:
                return
            if self._stopped:
                if self._sealing:
                    self.job.seal()
                self._end()
                return
            settled = self.job.submitted - self.job.outstanding
            behind = settled if self._window is None or self._unasked else self._consumed
            room = self._ahead() - (self.job.submitted - behind)
            if room <= 0:
                return
            try:
                ended, error = self.job.submit_many(
                    self._kind, self._function, self._payloads, room, AHEAD_BYTES, _name_item
                )
            except (ProcessError, ValueError):
                # The pool has ended meanwhile, and the job isn't sealed: who waits for more is told. Or
                # this very thread has cancelled it: it is sealed, and takes no more.
                self._end()
                return
            if self._is_over():
                return  # cancelled by its own iterator
            self.error = error
            if ended:
                self.job.seal()
                self._end()

    def _is_over(self) -> bool:
        return self._over

    def _end(self) -> None:
        self._payloads = None
        self._over = True
