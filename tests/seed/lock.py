# ruff: noqa: E401, I001
import os, time, random
from multiprocessing import Lock, Process


def task(lock, number):
    with lock:
        print(f"{number}:{os.getpid()} is running")
        time.sleep(random.randint(1, 3) / 100)
        print(f"{number}:{os.getpid()} is done!")


if __name__ == "__main__":
    lock = Lock()
    for number in range(10):
        Process(target=task, args=(lock, number)).start()
