"""One process or many: what torchrun says, and sums over all processes."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from minilm.errors import TrainingError
from minilm.files.arrays import Doubles, Floats

# for how long processes wait for each other: the first one evaluates and writes the model alone
PATIENCE = timedelta(hours=3)


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: the number of this process; process 0 writes files and messages.
        world: the number of processes.
        device: the device on which this process computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Adds up numbers over all processes, in float64. All pass the same keys, in any order."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64)
        total = total.to(self.device)
        dist.all_reduce(total)
        sums = dict(zip(names, total.tolist(), strict=True))
        return {name: sums[name] for name in values}

    def sum_array(self, values: Doubles) -> Doubles:
        """Adds up arrays of one shape over all processes, in float64."""
        if self.world == 1:
            return values
        total = torch.from_numpy(values).to(self.device)
        dist.all_reduce(total)
        found: Doubles = total.cpu().numpy()
        return found

    def gather(self, arrays: Mapping[int, Floats]) -> dict[int, Floats]:
        """The arrays of all processes by their numbers, the same to the bit in each of them.

        Args:
            arrays: float32 arrays of any shapes; each number is a key in one process only.
        """
        if self.world == 1:
            return dict(arrays)
        header = [value for n, array in arrays.items() for value in (n, array.ndim, *array.shape)]
        headers = self._gather_flat(torch.tensor(header, dtype=torch.int64))
        flat = [np.zeros(0, np.float32), *(array.ravel() for array in arrays.values())]
        values = self._gather_flat(torch.from_numpy(np.concatenate(flat)))
        found: dict[int, Floats] = {}
        for numbers, row in zip(headers, values, strict=True):
            at = start = 0
            while at < len(numbers):
                number, dimensions = int(numbers[at]), int(numbers[at + 1])
                shape = numbers[at + 2 : at + 2 + dimensions].tolist()
                end = start + math.prod(shape)
                found[number] = row[start:end].reshape(shape)
                at, start = at + 2 + dimensions, end
        return found

    def _gather_flat(self, values: Tensor) -> list[np.ndarray[Any, Any]]:
        """(n,) of every process, whose n may differ."""
        size = torch.tensor([len(values)], device=self.device)
        sizes = [torch.zeros_like(size) for _ in range(self.world)]
        dist.all_gather(sizes, size)
        longest = max(int(n) for n in sizes)
        if longest == 0:
            return [values.numpy() for _ in sizes]
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        padded = padded.to(self.device)
        rows = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(rows, padded)
        return [row[: int(n)].cpu().numpy() for row, n in zip(rows, sizes, strict=True)]

    def agree(self, number: int) -> int:
        """Returns the number that the first process has, in every process."""
        if self.world == 1:
            return number
        value = torch.tensor(number, dtype=torch.int64, device=self.device)
        dist.broadcast(value, src=0)
        return int(value)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the values that the tensors have in the first, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    @contextmanager
    def waiting_for_first(self) -> Iterator[None]:
        """At the end of the block all wait for the first process; if it has failed, all fail.

        Raises:
            TrainingError: in the others, if the first raised an exception.
        """
        try:
            yield
        except Exception:
            if self.first:
                self.agree(1)
            raise
        if self.agree(0):
            raise TrainingError("The first process has failed; its message says why.")

    def wait(self) -> None:
        """Waits until all processes have called it."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join(device: str | torch.device | None = None) -> Iterator[Processes]:
    """Joins the processes that torchrun started, or is the only one.

    Args:
        device: where to compute; default: a GPU if there is one, else the CPU. "cuda" means a GPU
            of its own for each process.

    Raises:
        TrainingError: there is no such device.
    """
    device = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        # a wrapped model that waits for the garbage collector keeps gloo's threads alive, and they
        # abort the process when the interpreter goes before them
        gc.collect()
        dist.destroy_process_group()


def _device(wanted: str | torch.device) -> torch.device:
    try:
        device = torch.device(wanted)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as problem:  # the latter: torch is built without CUDA
        reason = str(problem).partition("\n")[0]
        raise TrainingError(f"device is {str(wanted)!r}, where nothing can run: {reason}") from None
    return device
