"""Peak memory of a process that does one thing."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Calls a function in a fresh process with the same number of threads as this one.

    Args:
        function: a function of a module; it and its arguments are pickled.
        *arguments: its arguments.

    Raises:
        Whatever the function raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        threads = torch.get_num_threads()
        return pool.submit(_with_threads, threads, function, *arguments).result()


def _with_threads(threads: int, function: Callable[..., Result], *arguments: object) -> Result:
    torch.set_num_threads(threads)
    return function(*arguments)


def peak_resident() -> int:
    """The most bytes that this process has held in memory."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage of a child starts at the size of its parent on Linux
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource  # not on Windows

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def held_by_tensors() -> int:
    """Bytes of all tensors that exist in this process; memory that several share counts once."""
    gc.collect()
    storages = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at foreign objects may wake deprecation warnings
        for found in gc.get_objects():
            dense = type(found) in (torch.Tensor, torch.nn.Parameter) and not found.is_meta
            if dense and found.is_mkldnn:  # has no storage that could be asked for
                storages[id(found)] = found.numel() * found.element_size()
            elif dense and found.layout is torch.strided:
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
