"""Worker processes that share a list of tasks.

Workers are spawned, because the tokenizers library does not support forks. No worker outlives the
process that started it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeAlias

from minilm.errors import MinilmError, by_place, command_line, options_of_command

Result: TypeAlias = Mapping[str, Any]
# does a task, given its number and a function to call with the number of rows just done
Work: TypeAlias = Callable[[int, Callable[[int], object]], Result]


class Job(Protocol):
    """The work of the workers. It is sent to each of them, so it must be small."""

    def open(self) -> AbstractContextManager[Work]:
        """Loads what the tasks need, once in every worker, and closes it at the end."""
        ...


def prepare_worker() -> None:
    """Prepares a new worker process."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())  # tqdm's own spans processes: a killed one would leave it
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the others
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each processor already has a process
    threading.Thread(target=_end_with_parent, daemon=True).start()


def run_tasks(
    job: Job,
    tasks: Sequence[int],
    workers: int,
    *,
    on_rows: Callable[[int], object],
    on_done: Callable[[int, Result], object],
    error: type[MinilmError],
) -> None:
    """Does tasks in worker processes, each as soon as a worker is free, in the order given.

    Args:
        job: does the tasks.
        tasks: the numbers of the tasks.
        workers: maximum number of processes.
        on_rows: called with the number of rows of a task that were just done.
        on_done: called with the number and the result of every finished task.
        error: the class of error to raise when a worker is killed.

    Raises:
        MinilmError: a worker raised it, or was killed. The other workers are ended, and their
            unfinished tasks are lost.
        RuntimeError: a worker failed with any other error; the message is its traceback.
    """
    waiting = iter(tasks)
    pool: dict[Connection, BaseProcess] = {}
    running: dict[Connection, int] = {}
    try:
        with _ignoring_interrupts():
            for _ in range(min(workers, len(tasks))):
                _start(job, pool)
        while pool:
            ready = connection.wait([*pool, *(process.sentinel for process in pool.values())])
            # messages that a worker sent before it ended come first
            for pipe in [one for one in list(pool) if one in ready]:
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):
                    pool[pipe].join()
                    raise error(_killed(pool[pipe], running.get(pipe))) from None
                if kind == "rows":
                    on_rows(value)
                    continue
                if kind == "error":
                    raise value
                if kind == "failure":
                    raise RuntimeError(f"A worker process failed:\n{value}")
                if kind == "done":
                    on_done(running.pop(pipe), value)
                task = next(waiting, None)
                if task is not None:
                    running[pipe] = task
                pipe.send(task)
                if task is None:
                    pool.pop(pipe).join()
                    pipe.close()
    finally:
        for process in pool.values():
            process.kill()
        for pipe, process in pool.items():
            process.join()
            pipe.close()


def _start(job: Job, pool: dict[Connection, BaseProcess]) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(job, there, options_of_command()), daemon=True)
    process.start()
    there.close()
    pool[here] = process


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Processes started inside the block ignore Ctrl-C from their first moment.

    Otherwise a process that is still importing would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(job: Job, pipe: Connection, options: Collection[str] | None) -> None:
    """Runs a worker process; its messages name the same options as its parent's."""
    prepare_worker()
    try:
        with nullcontext() if options is None else command_line(options):
            _do_tasks(job, pipe)
    except MinilmError as problem:
        pipe.send(("error", problem))
    except Exception:
        pipe.send(("failure", traceback.format_exc()))


def _do_tasks(job: Job, pipe: Connection) -> None:
    with job.open() as work:
        pipe.send(("ready", None))
        while (task := pipe.recv()) is not None:
            pipe.send(("done", work(task, lambda rows: pipe.send(("rows", rows)))))


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed, as it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _killed(process: BaseProcess, task: int | None) -> str:
    code = process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    memory = " (the system does that when memory runs out: try fewer workers)"
    doing = "before its first part" if task is None else f"at part {task}"
    script = ' In a script, start this under `if __name__ == "__main__":`.'
    return (
        f"A worker process {how} {doing}{memory if code == -signal.SIGKILL else ''}. Finished "
        "parts are kept: the same command resumes after them."
        + (by_place(python=script, command="") if code > 0 else "")
    )
