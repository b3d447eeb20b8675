"""A server in the style of gunicorn: a master that forks workers with os.fork, reaps them and forks others."""

from __future__ import annotations

import pytest

from conftest import Programs

PREFORK = """
import os, signal, sys, time, warnings
import multiprocessing

warnings.simplefilter("ignore", DeprecationWarning)

class Master:
    def __init__(self, wanted):
        self.wanted = wanted
        self.lock = multiprocessing.Lock()
        self.served = multiprocessing.Value("i", 0)
        self.requests = multiprocessing.Queue()
        self.answers = multiprocessing.SimpleQueue()
        self.stop = multiprocessing.Event()
        self.workers = set()
        self.died = []

    def fork(self):
        pid = os.fork()
        if pid:
            self.workers.add(pid)
            return
        status = 1
        try:
            self.work()
            status = 0
        finally:
            os._exit(status)

    def work(self):
        while not self.stop.is_set():
            if self.requests.empty():
                time.sleep(0.001)
                continue
            try:
                request = self.requests.get(timeout=0.05)
            except Exception:
                continue
            with self.lock:
                if request == "die":
                    os.kill(os.getpid(), signal.SIGKILL)  # with the lock in its hands
                with self.served.get_lock():
                    self.served.value += 1
            self.answers.put((os.getpid(), request))

    def manage(self):
        while len(self.workers) < self.wanted:
            self.fork()

    def reap(self):
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self.workers.discard(pid)
            self.died.append(status)

if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*died.*")
    master = Master(3)
    master.manage()
    requests = [*range(30), "die", *range(30, 60), "die", *range(60, 100)]
    for request in requests:
        master.requests.put(request)
    answers = []
    deadline = time.monotonic() + 30
    # The last one to die may do so after all others have been served.
    while len(answers) < 100 or master.died.count(signal.SIGKILL) < 2:
        assert time.monotonic() < deadline, (len(answers), master.died)
        master.reap()
        master.manage()
        while not master.answers.empty():
            answers.append(master.answers.get())
        time.sleep(0.001)
    master.stop.set()
    while master.workers:
        assert time.monotonic() < deadline
        master.reap()
        time.sleep(0.001)
    assert sorted(number for _, number in answers) == list(range(100))
    assert master.served.value == 100
    assert sorted(master.died) == [0, 0, 0, signal.SIGKILL, signal.SIGKILL], master.died
    # The workers were no children of the package's.
    assert multiprocessing.active_children() == []
    print("served", master.served.value)
"""

REQUEST_PER_CHILD = """
import os, socketserver, threading, socket, warnings
import multiprocessing

warnings.simplefilter("ignore", DeprecationWarning)
seen = multiprocessing.Queue()
total = multiprocessing.Value("i", 0)

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        number = int(self.rfile.readline())
        with total.get_lock():
            total.value += number
        seen.put((number, os.getpid() == main))
        # A pool in a child that os.fork made.
        with multiprocessing.get_context("fork").Pool(1) as pool:
            self.wfile.write(b"%d\\n" % pool.apply(abs, (-number,)))

if __name__ == "__main__":
    main = os.getpid()
    with socketserver.ForkingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for number in range(1, 6):
            with socket.create_connection(server.server_address, timeout=30) as sock:
                sock.sendall(b"%d\\n" % number)
                assert sock.makefile().readline() == f"{number}\\n"
        server.shutdown()
        thread.join()
    assert total.value == 15
    assert sorted(seen.get(timeout=10) for _ in range(5)) == [(n, False) for n in range(1, 6)]
    print("ok")
"""


@pytest.mark.parametrize("options", [(), ("--start-method", "spawn")], ids=["default", "spawn"])
def test_workers_forked_beforehand(options: tuple[str, ...], run_program: Programs) -> None:
    outcome = run_program(PREFORK, options=("-m", "procession", *options)).check()
    assert outcome.out == "served 100\n"


def test_a_child_for_each_request(run_program: Programs) -> None:
    assert run_program(REQUEST_PER_CHILD, options=("-m", "procession")).check().out == "ok\n"
