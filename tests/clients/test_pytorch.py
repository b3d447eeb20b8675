"""PyTorch's loaders, shared tensors, pools and process groups, with `multiprocessing` meaning this package.

PyTorch takes 5 GB with its libraries, so `make clients` does not install it: run `.venv-clients/bin/pip install torch`
for these.
"""

from __future__ import annotations

import pytest

from conftest import Programs

pytest.importorskip("torch", reason="PyTorch is not installed")

LOADER = """
import os, signal, sys
import torch
from torch.utils.data import DataLoader, Dataset


class Squares(Dataset):
    def __init__(self, kills):
        self.kills = kills

    def __len__(self):
        return 64

    def __getitem__(self, i):
        if i == 40 and self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.full((100, 100), float(i)), i * i


if __name__ == "__main__":
    method = sys.argv[1]
    loader = DataLoader(Squares(False), batch_size=8, num_workers=2, multiprocessing_context=method)
    for _epoch in range(2):
        assert sorted(int(s) for _x, squares in loader for s in squares) == [i * i for i in range(64)]
        assert sum(float(x.sum()) for x, _squares in loader) == sum(range(64)) * 10_000.0
    try:
        list(DataLoader(Squares(True), batch_size=8, num_workers=2, multiprocessing_context=method))
    except RuntimeError as error:
        print("exited unexpectedly" in str(error))
    import multiprocessing
    print(multiprocessing.__name__)
"""

TENSORS = """
import sys, tempfile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def add(tensor, event):
    tensor += 1
    event.set()


def put(queue, done):
    for i in range(5):
        queue.put(torch.full((50, 50), float(i)))
    done.wait(60)  # a tensor is shared by its sender, for as long as that runs


def echo(connection):
    for _ in range(3):
        connection.send(connection.recv() + 1)
    connection.recv()


def double(x):
    return x * 2


def reduce_all(rank, path):
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    tensor = torch.ones(3) * (rank + 1)
    dist.all_reduce(tensor)
    assert tensor.tolist() == [3.0] * 3
    dist.destroy_process_group()


def fail(rank):
    raise ValueError("as it should")


if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    tensor, event = torch.zeros(5).share_memory_(), mp.Event()
    child = mp.Process(target=add, args=(tensor, event))
    child.start()
    child.join()
    assert tensor.tolist() == [1.0] * 5 and event.is_set()

    for strategy in ("file_descriptor", "file_system"):
        mp.set_sharing_strategy(strategy)
        queue, done = mp.Queue(), mp.Event()
        child = mp.Process(target=put, args=(queue, done))
        child.start()
        assert [float(queue.get(timeout=60)[0, 0]) for _ in range(5)] == [0, 1, 2, 3, 4]
        done.set()
        child.join()

    ours, theirs = mp.Pipe()
    child = mp.Process(target=echo, args=(theirs,))
    child.start()
    for i in range(3):
        ours.send(torch.ones(2) * i)
        assert ours.recv().tolist() == [i + 1.0] * 2
    ours.send(None)
    child.join()
    assert child.exitcode == 0

    with mp.Pool(2) as pool:
        doubled = pool.map(double, [torch.tensor(float(i)) for i in range(8)])
        assert [float(x) for x in doubled] == [2.0 * i for i in range(8)]
    mp.spawn(reduce_all, args=(tempfile.mktemp(),), nprocs=2)
    try:
        mp.spawn(fail, nprocs=2)
    except mp.ProcessRaisedException as error:
        print("ValueError: as it should" in str(error))
"""


def test_loaders(start_method: str, run_program: Programs) -> None:
    outcome = run_program(LOADER.lstrip(), start_method, options=("-m", "procession")).check()
    assert outcome.out == "True\nprocession\n"


def test_tensors_pools_and_process_groups(start_method: str, run_program: Programs) -> None:
    outcome = run_program(TENSORS.lstrip(), start_method, options=("-m", "procession")).check()
    assert outcome.out == "True\n"
