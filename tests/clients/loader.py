"""A client, not a test: a loader in the shape of PyTorch's DataLoader, which knows the standard library only.

It uses what such loaders use: `isinstance` on the context, a daemonic process and a queue for each worker, one result
queue read by a thread with time-outs, an event, sentinels in `connection.wait`, `cancel_join_thread`, a handler for
SIGCHLD, and workers that look after their parent by themselves.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

PATIENCE = 0.5


class WorkerDied(RuntimeError):
    """A worker is gone that has not finished."""


def serve(dataset: Any, indices: Any, results: Any, done: Any, number: int) -> None:
    """Be a worker."""
    parent = os.getppid()
    try:
        while True:
            try:
                order = indices.get(timeout=PATIENCE)
            except queue.Empty:
                if os.getppid() != parent:
                    return
                continue
            if order is None:
                break
            if done.is_set():
                continue  # nobody wants it any more
            position, batch = order
            try:
                value: Any = [dataset[index] for index in batch]
            except Exception as error:
                value = error
            results.put((position, number, value))
            del value
    except KeyboardInterrupt:
        pass
    if done.is_set():
        results.cancel_join_thread()
        results.close()


class Loader:
    """Batches of a dataset, in order, made by worker processes."""

    def __init__(
        self, dataset: Any, batch_size: int, workers: int, multiprocessing_context: Any = None, ahead: int = 2
    ) -> None:
        context = multiprocessing_context
        if isinstance(context, str):
            if context not in multiprocessing.get_all_start_methods():
                raise ValueError(f"no start method {context!r}")
            context = multiprocessing.get_context(context)
        if context is None:
            context = multiprocessing
        elif not isinstance(context, multiprocessing.context.BaseContext):
            raise TypeError(f"multiprocessing_context should be a context, not {type(context)}")
        self.context = context
        self.dataset = dataset
        self.batches = [range(i, min(i + batch_size, len(dataset))) for i in range(0, len(dataset), batch_size)]
        self.count = workers
        self.ahead = ahead

    def __iter__(self) -> Iterator[Any]:
        context = self.context
        done = context.Event()
        results = context.Queue()
        orders, workers = [], []
        for number in range(self.count):
            order = context.Queue()
            order.cancel_join_thread()
            worker = context.Process(target=serve, args=(self.dataset, order, results, done, number))
            worker.daemon = True
            worker.start()
            orders.append(order)
            workers.append(worker)
        chld: list[int] = []
        before = signal.signal(signal.SIGCHLD, lambda *_: chld.append(1))
        ready: queue.Queue[Any] = queue.Queue()
        stopped = threading.Event()
        reader = threading.Thread(target=self._collect, args=(results, ready, stopped), daemon=True)
        reader.start()
        try:
            sent = 0
            waiting: dict[int, Any] = {}
            for position in range(len(self.batches)):
                while sent < len(self.batches) and sent < position + self.ahead * self.count:
                    orders[sent % self.count].put((sent, list(self.batches[sent])))
                    sent += 1
                while position not in waiting:
                    try:
                        place, _, value = ready.get(timeout=PATIENCE)
                    except queue.Empty:
                        gone = [w for w in workers if not w.is_alive()]
                        sentinels = multiprocessing.connection.wait([w.sentinel for w in workers], 0)
                        assert {w.sentinel for w in gone} <= set(sentinels)
                        if gone:
                            assert chld or context.Process._start_method == "forkserver"
                            pids = ", ".join(str(w.pid) for w in gone)
                            raise WorkerDied(f"worker (pid(s) {pids}) exited unexpectedly") from None
                        continue
                    waiting[place] = value
                value = waiting.pop(position)
                if isinstance(value, Exception):
                    raise value
                yield value
        finally:
            signal.signal(signal.SIGCHLD, before)
            done.set()
            stopped.set()
            reader.join()
            for order, worker in zip(orders, workers, strict=True):
                order.put(None)
                order.close()
                worker.join(timeout=10)
                if worker.is_alive():
                    worker.terminate()
                    worker.join()
            results.cancel_join_thread()
            results.close()

    @staticmethod
    def _collect(results: Any, ready: queue.Queue[Any], stopped: threading.Event) -> None:
        while not stopped.is_set():
            try:
                ready.put(results.get(timeout=0.05))
            except queue.Empty:
                continue


class Squares:
    """A dataset, with a place where a worker dies and one where it fails, if wanted."""

    def __init__(self, length: int, dies_at: int = -1, fails_at: int = -1) -> None:
        self.length, self.dies_at, self.fails_at = length, dies_at, fails_at

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index == self.dies_at:
            os._exit(3)
        if index == self.fails_at:
            raise LookupError(index)
        return index * index


def main() -> None:
    """Load by the context that the command line names, or one of another package."""
    method, package = sys.argv[1:]
    context: Any = method
    if package == "procession":
        import procession

        context = procession.get_context(method)
    for _ in range(2):
        loaded = [value for batch in Loader(Squares(50), 4, 2, context) for value in batch]
        assert loaded == [i * i for i in range(50)], loaded
    for batch in Loader(Squares(1000), 4, 2, context):
        assert batch == [0, 1, 4, 9]
        break  # the rest is not wanted
    try:
        list(Loader(Squares(50, fails_at=20), 4, 2, context))
    except LookupError as error:
        print("failed", *error.args)
    try:
        list(Loader(Squares(50, dies_at=20), 4, 2, context))
    except WorkerDied:
        print("died")
    try:
        Loader(Squares(1), 1, 1, 5)
    except TypeError:
        print(multiprocessing.__name__)


if __name__ == "__main__":
    main()
