"""Five processes, each running a function."""

import time

import procession as multiprocessing


def greet(name):
    time.sleep(0.5)
    print("test process:", name)


if __name__ == "__main__":
    processes = []
    for i in range(5):
        process = multiprocessing.Process(target=greet, args=[f"python_process_{i}"])
        process.start()
        processes.append(process)

    for process in processes:
        process.join()

    print("main process finish!")
