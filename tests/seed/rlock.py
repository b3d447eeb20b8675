import os
import random
import time
from multiprocessing import Process, RLock


def task(lock, number):
    try:
        lock.acquire()
        lock.acquire()
        print(f"{number}:{os.getpid()} is running")
        time.sleep(random.randint(1, 3) / 100)
        print(f"{number}:{os.getpid()} is done")
    finally:
        lock.release()
        lock.release()


if __name__ == "__main__":
    lock = RLock()
    for number in range(10):
        Process(target=task, args=(lock, number)).start()
