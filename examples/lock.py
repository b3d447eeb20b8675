"""Ten processes and one lock: no two of them speak at the same time."""

import os
import random
import time

from procession import Lock, Process


def speak(lock, i):
    with lock:
        print(f"{i}:{os.getpid()} is running")
        time.sleep(random.choice([0.05, 0.1, 0.15]))
        print(f"{i}:{os.getpid()} is done!")


if __name__ == "__main__":
    lock = Lock()
    for i in range(10):
        Process(target=speak, args=(lock, i)).start()
