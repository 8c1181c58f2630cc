"""Timing and memory, contenders in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from minilm.bench.contenders import CONTENDERS, Contender, read_base_config
from minilm.bench.memory import held_by_tensors, in_fresh_process, peak_resident
from minilm.bench.workload import (
    BATCH_SIZE,
    SEED,
    TEXTS,
    Batch,
    draw_batches,
    encoder_flops,
    make_batches,
    padding_ratio,
)
from minilm.config import EncoderConfig
from minilm.errors import InputError, MinilmError
from minilm.models.pretrained import DTYPES

ONE_TEXT = 32  # tokens of the text whose latency is measured
SAMPLE = (17, 40, 6)  # tokens of the texts on which all contenders must agree
LATENCY_REPEATS = 10  # in every round
PEAK_SIZE = 2048  # of the square matrices that measure the machine

Engine = TypeVar("Engine")
Item = TypeVar("Item")

# Largest difference of states that rounding explains, between right implementations.
TOLERANCE = {"float64": 1e-8, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}


@dataclass(frozen=True)
class Settings:
    """One run of `bench_encode`.

    Attributes:
        dtype: of all weights, a name of `DTYPES`.
        names: rows of `CONTENDERS`.
        reference: one of `names` that the others are compared with, or None.
        texts, batch_size, seed: the draw.
        rounds: how often everything is measured.
        training_batches: how many batches run forward and backward; 0 = none.
        memory: also measure peak memory.
    """

    dtype: str = "float32"
    names: tuple[str, ...] = ("minilm", "minilm-packed")
    reference: str | None = None
    texts: int = TEXTS
    batch_size: int = BATCH_SIZE
    seed: int = SEED
    rounds: int = 5
    training_batches: int = 4
    memory: bool = False

    def batches(self, config: EncoderConfig) -> dict[str, list[Batch]]:
        """The draw for a model, in both orders."""
        return draw_batches(config, texts=self.texts, batch_size=self.batch_size, seed=self.seed)


def peak_flops(dtype: torch.dtype, size: int, repeats: int = 5) -> float:
    """Operations a second of a large matrix product: what this machine can do at best."""
    # the second factor transposed, as in a linear layer: for the other form some processors have
    # no fast kernel in half precision
    a, b = torch.randn(2, size, size).to(dtype)
    torch.mm(a, b.t())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b.t())
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def check_agreement(contenders: Mapping[str, Contender], batch: Batch, dtype: str) -> float:
    """The largest difference between the contenders' states of the same tokens.

    Raises:
        MinilmError: more than rounding explains; a comparison would be of different models.
    """
    mask = batch.attention_mask.bool()
    states = {}
    with torch.inference_mode():
        for name, contender in contenders.items():
            found = contender.encode(batch)
            states[name] = (found[mask] if found.dim() == 3 else found).double()
    first, *others = states
    worst = 0.0
    for name in others:
        difference = float((states[name] - states[first]).abs().max())
        if not difference <= TOLERANCE[dtype]:
            raise MinilmError(
                f"{name} and {first} give different states for the same weights (by up to "
                f"{difference:.1e}): a comparison of their speeds would mean nothing."
            )
        worst = max(worst, difference)
    return worst


class DisagreementError(MinilmError):
    """Loops that should take the same step do not."""


def observe_step(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    """The "loss" and its "gradient norm", without dropout; leaves the model in train mode.

    Args:
        model: that the loss is of.
        loss: computes it.
    """
    model.zero_grad()
    model.eval()
    try:
        found = loss()
        torch.autograd.backward(found)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        return {"loss": float(found.detach()), "gradient norm": norm}
    finally:
        model.zero_grad()
        model.train()


def compare_steps(observed: Mapping[str, Mapping[str, float]], tolerance: float) -> float:
    """The largest relative difference between what several loops compute for one step.

    Args:
        observed: for every loop, the first one the reference: what is computed, and the number.
        tolerance: what rounding explains.

    Raises:
        DisagreementError: more than that; a comparison would be of different steps.
    """
    first, *others = observed
    worst = 0.0
    for name in others:
        for what, value in observed[name].items():
            expected = observed[first][what]
            difference = abs(value - expected) / max(abs(expected), 1e-30)
            if not difference <= tolerance:
                raise DisagreementError(
                    f"{name} and {first} differ in {what} for the same weights: {value:.8g} and "
                    f"{expected:.8g}. A comparison of their speeds would mean nothing."
                )
            worst = max(worst, difference)
    return worst


def time_encoding(
    contenders: Mapping[str, Contender], batches: Sequence[Batch], rounds: int
) -> dict[str, list[float]]:
    """Seconds for all batches, by contender, one number a round."""

    def encode(contender: Contender, batch: Batch) -> None:
        with torch.inference_mode():
            contender.encode(batch)

    return take_turns(contenders, batches, rounds, encode)


def time_training(
    contenders: Mapping[str, Contender], batches: Sequence[Batch], rounds: int
) -> dict[str, list[float]]:
    """Seconds for forward and backward of all batches, in train mode, one number a round."""
    able = {name: c for name, c in contenders.items() if c.module is not None}

    def train(contender: Contender, batch: Batch) -> None:
        assert contender.module is not None
        contender.module.zero_grad()
        states = contender.encode(batch)
        if states.dim() == 3:
            states = states * batch.attention_mask[..., None]
        torch.autograd.backward(states.sum())

    for contender in able.values():
        assert contender.module is not None
        contender.module.train()
    try:
        return take_turns(able, batches, rounds, train)
    finally:
        for contender in able.values():
            assert contender.module is not None
            contender.module.zero_grad()
            contender.module.eval()


def take_turns(
    contenders: Mapping[str, Engine],
    batches: Sequence[Item],
    rounds: int,
    run: Callable[[Engine, Item], None],
    warm_up: Item | None = None,
    told: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Runs every contender on every batch, one after the other.

    Args:
        contenders: by name.
        batches: what they run on.
        rounds: how often.
        run: what is timed.
        warm_up: runs first, as the first call allocates and chooses kernels; default: a batch.
        told: is called after every run, while no clock goes.

    Returns:
        Seconds for all batches, by contender, one number a round.
    """
    for contender in contenders.values():
        run(contender, batches[0] if warm_up is None else warm_up)
    seconds = {name: [0.0] * rounds for name in contenders}
    for number in range(rounds):
        for batch in batches:
            for name, contender in contenders.items():
                start = time.perf_counter()
                run(contender, batch)
                seconds[name][number] += time.perf_counter() - start
                told()
    return seconds


def peak_memory(name: str, directory: Path, settings: Settings) -> dict[str, int]:
    """Peak memory of a fresh process that loads one contender and encodes in arrival order.

    Returns:
        "loaded" and "peak", in bytes: of the process before and after encoding; "weights": of all
        tensors that exist afterwards, in which a shared layer counts as often as it is held, and
        whatever was prepared for speed counts too.
    """
    return in_fresh_process(_measure_memory, name, directory, settings)


def _measure_memory(name: str, directory: Path, settings: Settings) -> dict[str, int]:
    batches = settings.batches(read_base_config(directory))["arrival"]
    contender = CONTENDERS[name](directory, DTYPES[settings.dtype])
    loaded = peak_resident()
    with torch.inference_mode():
        for batch in batches:
            contender.encode(batch)
    peak = peak_resident()
    del batch, batches
    return {"loaded": loaded, "peak": peak, "weights": held_by_tensors()}


def bench_encode(
    directory: Path, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures all contenders on one checkpoint.

    Args:
        directory: a checkpoint in the hub's layout.
        settings: what to measure.
        say: is told what happens next.

    Returns:
        What `minilm bench encode --json` prints: "model", "workload", "machine", and
        "contenders": for each one the workloads "arrival", "sorted", "one_text" and, where it can
        train, "training" with seconds, tokens_per_second, share_of_peak and, if there is a
        reference, ratio (above 1 = faster than it); on request "memory" (bytes).

    Raises:
        MinilmError: a contender cannot run, or gives other results than the rest.
    """
    if min(settings.texts, settings.rounds, settings.batch_size) < 1:
        raise InputError("texts, rounds and batch_size must be at least 1.")
    dtype = DTYPES[settings.dtype]
    config = read_base_config(directory)
    orders = settings.batches(config)
    one_text, (sample,) = (
        make_batches(
            [min(length, config.max_position_embeddings) for length in lengths],
            batch_size=len(lengths),
            vocab_size=config.vocab_size,
            seed=settings.seed,
        )
        for lengths in ((ONE_TEXT,), SAMPLE)
    )
    workloads = {
        **{order: (time_encoding, batches, settings.rounds) for order, batches in orders.items()},
        "one_text": (time_encoding, one_text, settings.rounds * LATENCY_REPEATS),
        "training": (
            time_training,
            orders["arrival"][: settings.training_batches],
            settings.rounds,
        ),
    }
    say(f"measuring the peak rate of this machine in {settings.dtype}")
    peak = peak_flops(dtype, PEAK_SIZE)
    say(f"loading {', '.join(settings.names)}")
    contenders = {name: CONTENDERS[name](directory, dtype) for name in settings.names}
    difference = check_agreement(contenders, sample, settings.dtype)

    results: dict[str, dict[str, Any]] = {name: {} for name in contenders}
    for workload, (measure, batches, rounds) in workloads.items():
        if not batches:
            continue
        say(f"{workload}: batches {len(batches)}, rounds {rounds}")
        lengths = [int(n) for batch in batches for n in batch.lengths]
        flops = encoder_flops(config, lengths) * (3 if measure is time_training else 1)
        for name, seconds in measure(contenders, batches, rounds).items():
            results[name][workload] = {
                "seconds": median(seconds),
                "tokens_per_second": sum(lengths) / median(seconds),
                "share_of_peak": flops / median(seconds) / peak,
            }
    if settings.reference is not None:
        for measured in results.values():
            for workload, base in results[settings.reference].items():
                if workload in measured:
                    measured[workload]["ratio"] = base["seconds"] / measured[workload]["seconds"]
    if settings.memory:
        for name in contenders:
            say(f"memory of {name}")
            results[name]["memory"] = peak_memory(name, directory, settings)
    return {
        "model": {
            "source": str(directory),
            "model_type": config.model_type,
            "dtype": settings.dtype,
        },
        "workload": {
            "texts": settings.texts,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "rounds": settings.rounds,
            "training_batches": settings.training_batches,
            "tokens": sum(batch.tokens for batch in orders["arrival"]),
            "padding_ratio": {order: padding_ratio(found) for order, found in orders.items()},
        },
        "machine": {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "peak_gflops": peak / 1e9,
        },
        "reference": settings.reference,
        "max_difference": difference,
        "contenders": results,
    }
