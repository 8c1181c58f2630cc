"""Child processes that save and train, and are struck down at a chosen moment.

`Zygote` starts this file as a process that has imported torch and minilm; it forks a child for each
trial, which costs milliseconds instead of seconds. Requests and answers are lines of JSON. (torch's
optimisers import torch._dynamo when the first is made, which takes more than a second.)
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import torch._dynamo

import minilm
from memory_store import MemoryStore, wordpiece
from minilm.data.masked_lm import MaskedLMData, evaluation_batches
from minilm.data.masking import TokenMasking
from minilm.data.sequences import Sequences
from minilm.data.vocabulary import Vocabulary
from minilm.errors import MinilmError
from minilm.files import safetensors_file
from minilm.learners.distillation import DistillationLearner
from minilm.learners.masked_lm import MaskedLMLearner
from minilm.losses.distillation import DistillationLoss
from minilm.models.tasks import ForMaskedLM
from minilm.training import loop, saving
from minilm.training.distributed import join
from minilm.training.learner import Learner
from minilm.training.settings import TrainingSettings
from minilm.training.snapshots import Snapshot, save_snapshot
from tiny import tiny

PATIENCE = 120.0  # seconds after which a child counts as hanging
FAILED = 70  # exit code of a child that raised something else than a MinilmError


class Faults:
    """Counts what a save asks of the operating system, and strikes at one of these moments.

    Before and after each call of the functions below, and when half of a file is written.

    Args:
        strike_at: the number of the moment; None = only count.
        strike: what happens then.
    """

    CALLS = ("open", "mkdir", "chmod", "fsync", "rename", "replace", "unlink", "rmdir")

    def __init__(self, strike_at: int | None, strike: Callable[[], object]) -> None:
        self.moments: list[str] = []
        self._strike_at = strike_at
        self._strike = strike

    @contextlib.contextmanager
    def installed(self) -> Iterator[Self]:
        """The functions are watched inside this block."""
        originals = [(os, name, getattr(os, name)) for name in self.CALLS]
        for owner, name, original in originals:
            setattr(owner, name, self._watched(name, original))
        writers: list[tuple[Any, str, Any]] = [
            (safetensors_file, "save_file", safetensors_file.save_file),
            (Path, "write_bytes", Path.write_bytes),
        ]
        safetensors_file.save_file = self._half(safetensors_file.save_file, path_at=1)
        Path.write_bytes = self._half(Path.write_bytes, path_at=0)  # type: ignore[method-assign]
        try:
            yield self
        finally:
            for owner, name, original in [*originals, *writers]:
                setattr(owner, name, original)

    def _watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            what = f"{name} {Path(str(arguments[0])).name}"
            self._moment(f"before {what}")
            result = original(*arguments, **options)
            self._moment(f"after {what}")
            return result

        return call

    def _half(self, original: Callable[..., Any], path_at: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = original(*arguments, **options)
            path = Path(arguments[path_at])
            if len(self.moments) == self._strike_at:
                os.truncate(path, path.stat().st_size // 2)
            self._moment(f"half of {path.name} is written")
            return result

        return call

    def _moment(self, name: str) -> None:
        self.moments.append(name)
        if len(self.moments) - 1 == self._strike_at:
            self._strike()


def kill_myself() -> None:
    """What a power cut or the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def make_snapshot(step: int) -> Snapshot:
    """Tensors that depend on the step, of many dtypes and shapes."""
    generator = torch.Generator().manual_seed(step)
    values = torch.randn(6, 5, generator=generator)
    model = {
        "encoder.layers.0.weight": values,
        "a view": values.t()[1:4],
        "float64": values.double(),
        "bfloat16": values.bfloat16(),
        "float16": values.half(),
        "int64": torch.tensor([step, -(2**62), 2**62]),
        "uint8": torch.arange(7, dtype=torch.uint8),
        "bool": values > 0,
        "not finite": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "empty": torch.empty(0, 3),
    }
    optimiser = {
        "encoder.layers.0.weight.exp_avg": values * 0.1,
        "encoder.layers.0.weight.step": torch.tensor(float(step)),
        "0-d int64": torch.tensor(step),
    }
    return Snapshot(step, model, optimiser, {"epoch": step // 3, "scores": {"loss": 0.1 + step}})


def save(request: dict[str, Any]) -> dict[str, Any]:
    """Saves `make_snapshot(step)`."""
    limit = request.get("file_limit", resource.RLIM_INFINITY)
    strike_at = request.get("strike_at")
    with files_limited(limit), Faults(strike_at, kill_myself).installed():
        save_snapshot(Path(request["directory"]), make_snapshot(request["step"]))
    return {}


@contextlib.contextmanager
def files_limited(size: int) -> Iterator[None]:
    """No file can grow beyond a size: a full disk, for this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def make_data() -> tuple[MaskedLMData, Sequences, Vocabulary, TokenMasking]:
    """Thirty documents of random ids; the last six are held out."""
    draw = np.random.default_rng(3)
    documents = [draw.integers(5, 61, draw.integers(12, 40)) for _ in range(30)]
    store = MemoryStore(wordpiece(size=61), documents)
    vocabulary = Vocabulary.of(store.tokenizer())
    masking = TokenMasking(vocabulary)
    sequences = Sequences(store, max_length=16, documents=range(24))
    data = MaskedLMData(sequences, masking, vocabulary, tokens_per_step=90, seed=4)
    return data, Sequences(store, max_length=16, documents=range(24, 30)), vocabulary, masking


def make_learner(recipe: str) -> tuple[Learner, ForMaskedLM]:
    """With dropout: it is random too, and must be the same after a restart."""
    sizes = {"hidden_size": 32, "intermediate_size": 64}
    teacher = tiny("BertForMaskedLM", torch.float32, num_hidden_layers=4, **sizes)
    model = tiny("BertForMaskedLM", torch.float32, num_hidden_layers=2, **sizes)
    assert isinstance(teacher, ForMaskedLM)
    assert isinstance(model, ForMaskedLM)
    if recipe == "mlm":
        return MaskedLMLearner(model), model
    student = minilm.init_student(teacher)
    assert isinstance(student, ForMaskedLM)
    return DistillationLearner(student, teacher, DistillationLoss()), student


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Trains a tiny model in `output`, or goes on.

    The request has "recipe" (mlm or distillation), "output", "settings", perhaps "ranks", and
    perhaps "strike": {"in": forward, eval_step, batch or save; "call": which call of it, 0 = the
    first; "signal"; "rank"; for a save "moment", or "file_limit" instead of a signal}.
    """
    rank = start_ranks(request.get("ranks", 1))
    data, held_out, vocabulary, masking = make_data()
    learner, model = make_learner(request["recipe"])
    strike = request.get("strike", {})
    if strike and strike.get("rank", 0) == rank:
        install(strike, {"forward": learner, "eval_step": learner, "batch": data})
    said: list[str] = []
    with join("cpu") as processes:
        result = loop.train(
            learner,
            data,
            TrainingSettings(**request["settings"]),
            Path(request["output"]),
            processes=processes,
            finish=model.save_pretrained,
            held_out=evaluation_batches(held_out, masking, vocabulary, tokens_per_batch=40),
            say=said.append,
        )
    if rank > 0:
        os._exit(0)
    return {
        "code": result.exit_code,
        "step": result.step,
        "finished": result.finished,
        "said": said,
    }


def start_ranks(ranks: int) -> int:
    """Forks the other processes of a run, as torchrun would start them; returns the rank."""
    if ranks == 1:
        return 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    rank = next((number for number in range(1, ranks) if os.fork() == 0), 0)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    return rank


def install(strike: dict[str, Any], owners: dict[str, Any]) -> None:
    """Makes this process get a signal in a certain call."""
    send = functools.partial(os.kill, os.getpid(), strike.get("signal"))
    if strike["in"] == "save":
        wait_for_every_save()
    owner, name = (
        (saving, "save_snapshot")
        if strike["in"] == "save"
        else (owners[strike["in"]], strike["in"])
    )
    original = getattr(owner, name)
    calls = iter(range(1_000_000))

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) != strike["call"]:
            return original(*arguments, **options)
        if "file_limit" in strike:
            with files_limited(strike["file_limit"]):
                return original(*arguments, **options)
        if strike["in"] == "save":
            with Faults(strike["moment"], send).installed():
                return original(*arguments, **options)
        send()
        return original(*arguments, **options)

    setattr(owner, name, call)


def wait_for_every_save() -> None:
    """Training stands still while a snapshot is written: a strike then comes at a known step."""
    original = saving.Saver.save

    def save(self: saving.Saver, *arguments: Any) -> None:
        original(self, *arguments)
        self._job.exception()  # type: ignore[union-attr]

    saving.Saver.save = save  # type: ignore[method-assign]


TASKS = {"save": save, "train": train}


class Zygote:
    """A warm process that forks a child for each request. Use as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def run(self, task: str, **request: Any) -> dict[str, Any]:
        """Runs a task in a child.

        Args:
            task: a key of `TASKS`.
            request: what it needs. With "kill_after" (seconds) the child is killed then.

        Returns:
            "status" (exit code, or minus the signal that ended it), "seconds", "error" (the
            message of a MinilmError, or ""), and what the task returned.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"task": task, **request}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["status"] != FAILED, answer["error"]
        return answer


def serve() -> None:
    """Answers requests until the input ends."""
    torch.set_num_threads(1)
    # a killed process loses nothing that it gave to the kernel, so nobody waits for the disk
    os.fsync = lambda descriptor: None
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.close(reading)
            perform(request, writing)
        os.close(writing)
        status = wait_for(child, request.get("kill_after"))
        answer = {"status": status, "seconds": time.monotonic() - began, "error": ""}
        with os.fdopen(reading) as said:
            answer |= json.loads(said.read() or "{}")
        print(json.dumps(answer), flush=True)


def perform(request: dict[str, Any], writing: int) -> None:
    """In the child: does what is asked and ends the process."""
    # whatever started the tests may ignore it, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        answer = TASKS[request["task"]](request)
        code = answer.get("code", 0)
    except MinilmError as problem:
        answer = {"error": str(problem)}
    except BaseException:
        answer = {"error": traceback.format_exc()}
        code = FAILED
    with os.fdopen(writing, "w") as pipe:
        json.dump(answer, pipe)
    os._exit(code)


def wait_for(child: int, kill_after: float | None) -> int:
    """Waits for a child to end, or ends it; its own children end as well."""
    deadline = time.monotonic() + (PATIENCE if kill_after is None else kill_after)
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.0 if ended else 0.001)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    serve()
