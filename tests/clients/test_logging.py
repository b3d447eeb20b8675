"""Logging from several processes to one place: the two recipes of Python's logging cookbook, in words of our own."""

from __future__ import annotations

from conftest import Programs

# A process of its own writes what the others put into a queue.
LISTENING_PROCESS = """
import logging, logging.handlers, multiprocessing, sys

def listen(queue, path):
    logger = logging.getLogger()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(processName)s %(name)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    while (record := queue.get()) is not None:
        logging.getLogger(record.name).handle(record)

def work(queue, number):
    root = logging.getLogger()
    root.addHandler(logging.handlers.QueueHandler(queue))
    root.setLevel(logging.DEBUG)
    for i in range(50):
        logging.getLogger(f"part.{number}").info("message %d", i)
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("part").exception("failed")

if __name__ == "__main__":
    queue = multiprocessing.Queue(-1)
    listener = multiprocessing.Process(target=listen, args=(queue, sys.argv[1]))
    listener.start()
    workers = [multiprocessing.Process(target=work, args=(queue, i), name=f"worker{i}") for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    queue.put_nowait(None)
    listener.join()
    lines = open(sys.argv[1]).read().splitlines()
    for i in range(3):
        got = [line for line in lines if line.startswith(f"worker{i} part.{i} INFO")]
        assert [line.rpartition(" ")[2] for line in got] == [str(n) for n in range(50)], got
    assert sum("ERROR failed" in line for line in lines) == 3
    assert sum("ZeroDivisionError" in line for line in lines) == 3
    print(multiprocessing.__name__, listener.exitcode)
"""

# A thread of the main process does, and the queue is a manager's; also with an executor's workers.
LISTENING_THREAD = """
import concurrent.futures, io, logging, logging.handlers, multiprocessing

def begin(queue):
    root = logging.getLogger()
    root.handlers[:] = [logging.handlers.QueueHandler(queue)]
    root.setLevel(logging.INFO)

def work(number):
    logging.getLogger("work").warning("did %d", number)
    return number

if __name__ == "__main__":
    for kind in ("manager", "queue"):
        text = io.StringIO()
        with multiprocessing.Manager() as manager:
            queue = manager.Queue() if kind == "manager" else multiprocessing.Queue()
            listener = logging.handlers.QueueListener(queue, logging.StreamHandler(text), respect_handler_level=True)
            listener.start()
            with multiprocessing.Pool(2, begin, (queue,)) as pool:
                pool.map(work, range(10))
            with concurrent.futures.ProcessPoolExecutor(2, initializer=begin, initargs=(queue,)) as executor:
                list(executor.map(work, range(10, 20)))
            listener.stop()
        assert sorted(text.getvalue().split("\\n")) == ["", *sorted(f"did {i}" for i in range(20))], text.getvalue()
        print(kind, "ok")
"""


def test_a_process_that_writes_what_others_log(start_method: str, run_program: Programs) -> None:
    options = ("-m", "procession", "--start-method", start_method)
    log = str(run_program.directory / "log")
    assert run_program(LISTENING_PROCESS, log, options=options).check().out == "procession 0\n"


def test_a_thread_that_writes_what_others_log(start_method: str, run_program: Programs) -> None:
    options = ("-m", "procession", "--start-method", start_method)
    assert run_program(LISTENING_THREAD, options=options).check().out == "manager ok\nqueue ok\n"
