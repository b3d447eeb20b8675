"""Five tasks in a pool of four workers: the fifth starts when one of the others has ended."""

import os
import random
import time

import procession as multiprocessing


def long_time_task(name):
    print(f"run task {name}, {os.getpid()}")
    start = time.time()
    time.sleep(random.random())
    end = time.time()
    print(f"task {name} runs {end - start} seconds.")


if __name__ == "__main__":
    print(f"Parent process {os.getpid()}.")
    pool = multiprocessing.Pool(4)
    for i in range(5):
        pool.apply_async(long_time_task, args=[i])
    pool.close()  # no more tasks
    pool.join()  # and now until the last one is done
    print("All subprocess done.")
