"""Timing and memory, contenders in turn."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from minilm.bench.contenders import (
    CONTENDERS,
    INT8,
    Contender,
    Source,
    UnsupportedError,
    load_base,
    read_base_config,
)
from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
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
from minilm.blocks.kernels import attention
from minilm.config import EncoderConfig
from minilm.errors import DependencyError, InputError, MinilmError

ONE_TEXT = 32  # tokens of the text whose latency `compare` measures
SHORT_TEXTS = (8, ONE_TEXT, 128)  # tokens of the texts whose latency is measured
SAMPLE = (17, 40, 6)  # tokens of the texts on which all contenders must agree
LATENCY_REPEATS = 10  # in every round
PEAK_SIZE = 2048  # of the square matrices that measure the machine

Clock = Literal["wall", "cpu"]
CLOCKS: Mapping[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}

Engine = TypeVar("Engine")
Item = TypeVar("Item")

# Largest difference of states that rounding explains, between right implementations.
TOLERANCE = {"float64": 1e-8, "float32": 1e-3, "float16": 0.1, "bfloat16": 0.5, INT8: math.inf}
# Lowest cosine between the states of a token, between right implementations.
COSINE = {"float64": 1 - 1e-9, "float32": 0.9999, "float16": 0.999, "bfloat16": 0.99, INT8: 0.96}


@dataclass(frozen=True)
class Settings:
    """One run of `bench_encode`.

    Attributes:
        dtype: precision of all contenders, a name of `DTYPES` or "int8".
        names: keys of `CONTENDERS`.
        reference: one of `names` that the others are compared with, or None.
        texts, batch_size, seed: the draw.
        rounds: number of timing rounds.
        training_batches: number of batches that also run forward and backward; 0 = none.
        memory: whether to measure peak memory, too.
        clock: "wall" = the time that a user waits; "cpu" = the processor time of all threads of
            this process, which other work on the machine disturbs less (with one thread, the two
            are equal on a quiet machine).
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
    clock: Clock = "wall"

    def batches(self, config: EncoderConfig) -> dict[str, list[Batch]]:
        """The standard draw for a model, in both orders."""
        return draw_batches(config, texts=self.texts, batch_size=self.batch_size, seed=self.seed)


def peak_flops(dtype: torch.dtype, size: int, repeats: int = 5, clock: Clock = "wall") -> float:
    """Operations a second of a large matrix product: the peak rate of this machine."""
    # the second factor transposed, as in a linear layer: for the other form some processors have
    # no fast kernel in half precision
    a, b = torch.randn(2, size, size).to(dtype)
    torch.mm(a, b.t())
    seconds = []
    for _ in range(repeats):
        start = CLOCKS[clock]()
        torch.mm(a, b.t())
        seconds.append(CLOCKS[clock]() - start)
    return 2 * size**3 / min(seconds)


@dataclass(frozen=True)
class Agreement:
    """How close a contender is to what it should compute.

    Attributes:
        difference: the largest absolute difference of all numbers.
        cosine: the lowest cosine of all tokens.
    """

    difference: float
    cosine: float


def check_agreement(
    contenders: Mapping[str, Contender],
    batch: Batch,
    dtype: str,
    expected: Tensor | None = None,
    unmasked: Tensor | None = None,
) -> dict[str, Agreement]:
    """Compares the contenders' states of the same tokens.

    Args:
        contenders: contenders by name.
        batch: a batch with padding, to find out contenders that read it.
        dtype: their precision.
        expected: (T, H), the right states; None = those of the first contender.
        unmasked: (T, H), the states of a model that reads the padding: in 8 bits, where rounding is
            coarse, a contender that reads it is closer to these.

    Returns:
        How close each one is.

    Raises:
        MinilmError: one is further away than rounding explains, so it computes something else.
    """
    found = {name: token_states(contender, batch) for name, contender in contenders.items()}
    first = next(iter(found))
    reference = found[first] if expected is None else expected.double()
    whose = first if expected is None else "the formulas"
    agreements = {}
    for name, states in found.items():
        difference = float((states - reference).abs().max())
        cosine = float(torch.cosine_similarity(states, reference, dim=1).min())
        if not (difference <= TOLERANCE[dtype] and cosine >= COSINE[dtype]):
            raise MinilmError(
                f"{name} and {whose} give different states for the same weights (by up to "
                f"{difference:.1e}, with a cosine down to {cosine:.4f}): a comparison of their "
                "speeds would mean nothing."
            )
        if unmasked is not None:
            wrong = float((states - unmasked).square().sum())
            if not float((states - reference).square().sum()) < wrong:
                raise MinilmError(
                    f"{name} reads padding: its states are those of a model without attention "
                    "mask. A comparison of their speeds would mean nothing."
                )
        agreements[name] = Agreement(difference, cosine)
    return agreements


def token_states(contender: Contender, batch: Batch) -> Tensor:
    """The states of all tokens without padding: (T, H) float64."""
    with torch.inference_mode():
        found = contender.encode(batch)
    return (found[batch.attention_mask.bool()] if found.dim() == 3 else found).double()


def expected_states(directory: Path, batch: Batch) -> tuple[Tensor, Tensor]:
    """What every contender should compute, by minilm in float32 with every formula spelled out.

    Returns:
        (T, H) states, and those of a model that reads padding.
    """
    model = load_base(directory, torch.float32)
    with torch.inference_mode(), attention("explicit"):
        right: Tensor = model(batch.packed_ids, lengths=batch.lengths).last_hidden_state
        wrong: Tensor = model(batch.input_ids).last_hidden_state
    return right, wrong[batch.attention_mask.bool()]


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median ("seconds"), quartiles and extremes of the rounds."""
    low, _, high = (
        quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else [*seconds] * 3
    )
    return {
        "seconds": median(seconds),
        "lower_quartile": low,
        "upper_quartile": high,
        "lowest": min(seconds),
        "highest": max(seconds),
    }


class DisagreementError(MinilmError):
    """Contenders that should compute the same thing do not."""


def observe_step(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    """The "loss" and its "gradient norm", without dropout; leaves the model in train mode.

    Args:
        model: the model that the loss depends on.
        loss: computes the loss.
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
        observed: for every loop, named values that it computes; the first loop is the reference.
        tolerance: largest relative difference that rounding explains.

    Raises:
        DisagreementError: it is larger, so the loops take different steps.
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
    contenders: Mapping[str, Contender],
    batches: Sequence[Batch],
    rounds: int,
    clock: Clock = "wall",
) -> dict[str, list[float]]:
    """Seconds for all batches, by contender, one number a round."""

    def encode(contender: Contender, batch: Batch) -> None:
        with torch.inference_mode():
            contender.encode(batch)

    return take_turns(contenders, batches, rounds, encode, clock=clock)


def time_training(
    contenders: Mapping[str, Contender],
    batches: Sequence[Batch],
    rounds: int,
    clock: Clock = "wall",
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
        return take_turns(able, batches, rounds, train, clock=clock)
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
    clock: Clock = "wall",
) -> dict[str, list[float]]:
    """Runs every contender on every batch, one after the other.

    Args:
        contenders: contenders by name.
        batches: batches that they run on.
        rounds: number of rounds.
        run: runs a contender on a batch; this is timed.
        warm_up: runs first, as the first call allocates and chooses kernels; default: a batch.
        told: called after every run, outside the timing.
        clock: the clock of the seconds, see `Settings`.

    Returns:
        Seconds for all batches, by contender, one number a round.
    """
    for contender in contenders.values():
        run(contender, batches[0] if warm_up is None else warm_up)
    now = CLOCKS[clock]
    seconds = {name: [0.0] * rounds for name in contenders}
    for number in range(rounds):
        for batch in batches:
            for name, contender in contenders.items():
                start = now()
                run(contender, batch)
                seconds[name][number] += now() - start
                told()
    return seconds


def peak_memory(name: str, source: Source, settings: Settings) -> dict[str, int]:
    """Peak memory of a fresh process that loads one contender and encodes in arrival order.

    Returns:
        "loaded" and "peak", in bytes: of the process before and after encoding; "weights": of all
        tensors of torch that exist afterwards, including copies of a shared layer and whatever was
        prepared for speed.
    """
    return in_fresh_process(_measure_memory, name, source, settings)


def _measure_memory(name: str, source: Source, settings: Settings) -> dict[str, int]:
    batches = settings.batches(read_base_config(source.directory))["arrival"]
    contender = CONTENDERS[name](source)
    loaded = peak_resident()
    with torch.inference_mode():
        for batch in batches:
            contender.encode(batch)
    peak = peak_resident()
    del batch, batches
    return {"loaded": loaded, "peak": peak, "weights": held_by_tensors()}


def load_contenders(
    names: Sequence[str], source: Source, say: Callable[[str], None]
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Loads the engines that are installed and run in this precision.

    Returns:
        The contenders, and for each of the others the reason why it does not take part.

    Raises:
        MinilmError: no engine takes part.
    """
    contenders, skipped = {}, {}
    for name in names:
        say(f"loading {name}")
        try:
            contenders[name] = CONTENDERS[name](source)
        except (DependencyError, UnsupportedError) as problem:
            skipped[name] = str(problem)
            say(f"{name} does not take part: {problem}")
    if not contenders:
        reasons = " ".join(dict.fromkeys(skipped.values()))
        raise MinilmError(f"There is nothing to measure in {source.precision}. {reasons}")
    return contenders, skipped


def bench_encode(
    directory: Path, settings: Settings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures all contenders on one checkpoint.

    Args:
        directory: a checkpoint in the hub's layout.
        settings: what to measure.
        say: receives a message about every stage.

    Returns:
        What `minilm bench encode --json` prints: "model", "workload", "machine" (with "load", see
        `LoadWatch.report`), "skipped" (why engines do not take part), and "contenders": for each
        one the workloads "arrival", "sorted", "one_text_8" (of 8 tokens), "one_text_32",
        "one_text_128" and, where it can train, "training" with seconds (median over rounds; also
        lower_quartile, upper_quartile, lowest, highest), tokens_per_second, share_of_peak and, if
        there is a reference, ratio (above 1 = faster than it); "difference" and "cosine", the
        largest and the lowest from the states in float32; on request "memory" (bytes).

    Raises:
        MinilmError: no contender can run, or one gives other results than the rest.
    """
    if min(settings.texts, settings.rounds, settings.batch_size) < 1:
        raise InputError("texts, rounds and batch_size must be at least 1.")
    with tempfile.TemporaryDirectory() as work:
        return _bench(Source(directory, settings.dtype, Path(work)), settings, say)


def _bench(source: Source, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    config = read_base_config(source.directory)
    orders = settings.batches(config)

    def texts(lengths: Sequence[int]) -> list[Batch]:
        return make_batches(
            [min(length, config.max_position_embeddings) for length in lengths],
            batch_size=len(lengths),
            vocab_size=config.vocab_size,
            seed=settings.seed,
        )

    short = settings.rounds * LATENCY_REPEATS
    training = orders["arrival"][: settings.training_batches]
    workloads = {
        **{order: (time_encoding, batches, settings.rounds) for order, batches in orders.items()},
        **{f"one_text_{n}": (time_encoding, texts([n]), short) for n in SHORT_TEXTS},
        "training": (time_training, training, settings.rounds),
    }
    contenders, skipped = load_contenders(settings.names, source, say)
    say(f"measuring the peak rate of this machine in {str(source.dtype).removeprefix('torch.')}")
    watch = LoadWatch()
    peak = peak_flops(source.dtype, PEAK_SIZE, clock=settings.clock)
    (sample,) = texts(SAMPLE)
    expected, unmasked = expected_states(source.directory, sample)
    agreements = check_agreement(contenders, sample, settings.dtype, expected, unmasked)
    results: dict[str, dict[str, Any]] = {name: {} for name in contenders}
    for workload, (measure, batches, rounds) in workloads.items():
        if not batches:
            continue
        say(f"{workload}: batches {len(batches)}, rounds {rounds}")
        lengths = [int(n) for batch in batches for n in batch.lengths]
        flops = encoder_flops(config, lengths) * (3 if measure is time_training else 1)
        for name, seconds in measure(contenders, batches, rounds, settings.clock).items():
            results[name][workload] = {
                **spread(seconds),
                "tokens_per_second": sum(lengths) / median(seconds),
                "share_of_peak": flops / median(seconds) / peak,
            }
    reference = settings.reference if settings.reference in contenders else None
    if reference is not None:
        for measured in results.values():
            for workload, base in results[reference].items():
                if workload in measured:
                    measured[workload]["ratio"] = base["seconds"] / measured[workload]["seconds"]
    load = watch.report()
    for name, agreement in agreements.items():
        results[name]["difference"] = agreement.difference
        results[name]["cosine"] = agreement.cosine
        if settings.memory:
            say(f"memory of {name}")
            results[name]["memory"] = peak_memory(name, source, settings)
    return {
        "model": {
            "source": str(source.directory),
            "model_type": config.model_type,
            "dtype": settings.dtype,
        },
        "workload": {
            "texts": settings.texts,
            "batch_size": settings.batch_size,
            "seed": settings.seed,
            "rounds": settings.rounds,
            "clock": settings.clock,
            "training_batches": settings.training_batches,
            "tokens": sum(batch.tokens for batch in orders["arrival"]),
            "padding_ratio": {order: padding_ratio(found) for order, found in orders.items()},
        },
        "machine": {
            **describe_machine(),
            "peak_gflops": peak / 1e9,
            "load": load,
        },
        "reference": reference,
        "skipped": skipped,
        "max_difference": max(one.difference for one in agreements.values()),
        "contenders": results,
    }
