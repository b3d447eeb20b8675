import multiprocessing
import time


def task(name):
    time.sleep(0.05)
    print("test process:", name)


if __name__ == "__main__":
    processes = []
    for number in range(5):
        name = f"python_process_{number}"
        process = multiprocessing.Process(target=task, args=[name])
        process.start()
        processes.append(process)

    for process in processes:
        process.join()

    print("main process finish!")
