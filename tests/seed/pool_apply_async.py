# ruff: noqa: E401, I001, UP031
import os, time, random, multiprocessing


def task(name):
    print(f"run task {name}, {os.getpid()}")
    start = time.time()
    time.sleep(random.random() / 20)
    end = time.time()
    print(f"task {name} runs {end - start} seconds.")


if __name__ == "__main__":
    print("Parent process %s." % os.getpid())
    pool = multiprocessing.Pool(4)
    for number in range(5):
        pool.apply_async(task, args=[number])
    pool.close()
    pool.join()
    print("All subprocess done.")
