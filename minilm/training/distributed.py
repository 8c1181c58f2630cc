"""One process or many: what torchrun says, and sums over all processes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from minilm.errors import TrainingError


@dataclass(frozen=True)
class Processes:
    """The processes that train together.

    Attributes:
        rank: this one's number; 0 writes files and messages.
        world: how many there are.
        device: where this one computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Adds up numbers over all processes, in float64. All give the same keys."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64)
        total = total.to(self.device)
        dist.all_reduce(total)
        return dict(zip(names, total.tolist(), strict=True))

    def agree(self, number: int) -> int:
        """The number that the first process has."""
        if self.world == 1:
            return number
        value = torch.tensor(number, dtype=torch.int64, device=self.device)
        dist.broadcast(value, src=0)
        return int(value)

    def wait(self) -> None:
        """Returns when all have come here."""
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
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
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
