"""A lock that its holder may take again; it is free when it was released as often as it was taken."""

import os
import random
import time

from procession import Process, RLock


def speak(lock, i):
    with lock:
        print(f"{i}:{os.getpid()} is running")
        think(lock)
        print(f"{i}:{os.getpid()} is done")


def think(lock):
    with lock:
        time.sleep(random.choice([0.05, 0.1, 0.15]))


if __name__ == "__main__":
    lock = RLock()
    for i in range(10):
        Process(target=speak, args=(lock, i)).start()
