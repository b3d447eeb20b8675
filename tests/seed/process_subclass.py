# ruff: noqa: E401, I001
import random, time, multiprocessing


class MyProcess(multiprocessing.Process):
    def __init__(self, name, func):
        super().__init__()
        self.name = name
        self.func = func

    def run(self):
        self.func(self.name)


def worker(name):
    print(f"started worker {name}")
    seconds = random.choice(range(1, 5)) / 50
    time.sleep(seconds)
    print(f"{name} worker finished in {seconds} seconds")


if __name__ == "__main__":
    processes = []
    for number in range(5):
        process = MyProcess(name=f"computer_{number}", func=worker)
        processes.append(process)
        process.start()

    for process in processes:
        process.join()
