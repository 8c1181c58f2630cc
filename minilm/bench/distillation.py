"""Speed and memory of distillation, side by side with a straightforward loop.

The loops and what a step is are in distillation_loops.py. The workloads are

- "published": one batch of 16 texts of 6 to 256 tokens, 683 together, 4,096 positions with padding;
- "eight": the first eight batches of 16 of the standard draw (workload.py), cut to 256 tokens.

What keeps the comparison fair is the same as for encoding (`minilm.bench`): the same weights on
both sides, one process, turns batch by batch, medians over rounds, rates of real tokens only,
memory in a process of its own. Before the clock starts all loops must give the same loss terms and
the same norm of the gradient, without dropout; the timed steps run in train mode with the
configuration's dropout. Everything runs on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from minilm.bench import measure
from minilm.bench.contenders import read_base_config
from minilm.bench.distillation_loops import (
    LOOPS,
    STUDENT,
    TEACHER,
    LabelledBatch,
    Loop,
    distillation_flops,
    labelled_batches,
)
from minilm.bench.load import LoadWatch
from minilm.bench.machine import describe_machine
from minilm.bench.measure import compare_steps, peak_flops, spread, take_turns
from minilm.bench.memory import in_fresh_process, peak_resident
from minilm.bench.workload import SEED, draw_lengths, padding_ratio
from minilm.config import EncoderConfig
from minilm.errors import InputError
from minilm.models.pretrained import DTYPES
from minilm.training.settings import Precision

REFERENCE = "transformers"
BATCH_SIZE = 16
LONGEST = 256
PUBLISHED = (170, 6, 39, 16, 18, 22, 6, 22, 12, 256, 33, 19, 21, 14, 10, 19)
WORKLOADS: Mapping[str, Sequence[int]] = {
    "published": PUBLISHED,
    "eight": draw_lengths(8 * BATCH_SIZE),
}
SAMPLE = (17, 40, 6)  # tokens of the texts on which all loops must agree
PROBE_SIZE = 512  # of the matrices that tell whether a processor computes in bfloat16

# Largest relative difference of a loss term or the gradient's norm that rounding explains.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True)
class DistillationSettings:
    """One run of `bench_distillation`.

    Attributes:
        precisions: precisions of matrix products: "float32", and "bfloat16" by autocast.
        loops: keys of `LOOPS`.
        workloads: names of `WORKLOADS`.
        rounds: number of timing rounds.
        seed: random seed of ids and labels.
        memory: whether to measure peak memory, too.
        memory_tokens: also measure minilm's peak memory for one step of this many tokens.
    """

    precisions: tuple[Precision, ...] = ("float32",)
    loops: tuple[str, ...] = ("minilm", "transformers")
    workloads: tuple[str, ...] = ("published", "eight")
    rounds: int = 3
    seed: int = SEED
    memory: bool = False
    memory_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, count in (("rounds", self.rounds), ("memory_tokens", self.memory_tokens)):
            if count is not None and count < 1:
                raise InputError(f"{name} is {count}: expected at least 1.")
        for name, given, known in (
            ("precisions", self.precisions, TOLERANCE),
            ("loops", self.loops, LOOPS),
            ("workloads", self.workloads, WORKLOADS),
        ):
            if not given or set(given) - known.keys():
                raise InputError(f"{name} is {given}: expected some of {', '.join(known)}.")


def contender_name(loop: str, precision: Precision) -> str:
    """The name of a loop in one precision, in results."""
    return loop if precision == "float32" else f"{loop}-{precision}"


def computes_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32, found by measuring.

    Where a processor has no arithmetic in bfloat16, it is emulated, which is slower than float32.
    """
    return peak_flops(torch.bfloat16, PROBE_SIZE) > peak_flops(torch.float32, PROBE_SIZE)


def measure_peaks(precisions: Sequence[Precision], bfloat16: bool) -> dict[str, float]:
    """Operations a second of large matrix products.

    Args:
        precisions: precisions to measure.
        bfloat16: whether the processor computes in bfloat16; if not, only a small product is tried,
            as a large one would take minutes in emulation.
    """
    sizes = {
        "float32": measure.PEAK_SIZE,
        "bfloat16": measure.PEAK_SIZE if bfloat16 else PROBE_SIZE,
    }
    return {name: peak_flops(DTYPES[name], sizes[name]) for name in precisions}


def observe(loop: Loop, batch: LabelledBatch) -> dict[str, float]:
    """The loss terms and the norm of the student's gradient, without dropout.

    Leaves the loop in train mode and without gradients.
    """
    loop.student.zero_grad()
    loop.student.eval()
    try:
        terms = loop.terms(batch)
        torch.autograd.backward(terms["loss"])
        gradients = [p.grad for p in loop.student.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        seen = {name: float(terms[name].detach()) for name in ("loss", "kl", "mlm", "cosine")}
        return {**seen, "gradient norm": norm}
    finally:
        loop.student.zero_grad()
        loop.student.train()


def check_agreement(loops: Mapping[str, Loop], batch: LabelledBatch, precision: str) -> float:
    """The largest relative difference between what the loops compute.

    Raises:
        DisagreementError: it is more than rounding explains, so the loops take different steps.
    """
    return compare_steps(
        {name: observe(loop, batch) for name, loop in loops.items()}, TOLERANCE[precision]
    )


def lengths_of(tokens: int, longest: int) -> list[int]:
    """Lengths of the standard draw that add up to `tokens`; the last text is cut."""
    lengths: list[int] = []
    left = tokens
    for drawn in draw_lengths(math.ceil(tokens / 6)):  # no text is shorter than 6
        lengths.append(min(drawn, longest, left))
        left -= lengths[-1]
        if left == 0:
            break
    return lengths


def step_memory(
    loop: str, directory: Path, precision: Precision, lengths: Sequence[int], seed: int
) -> dict[str, int]:
    """Peak memory of a fresh process that runs one loop for a short and a full step.

    The short step makes room for gradients and the optimiser's state, as in any later step.

    Args:
        loop: a key of `LOOPS`.
        directory: directory with the two checkpoints.
        precision: precision of matrix products.
        lengths: lengths of the texts, in one batch.
        seed: random seed of ids and labels.

    Returns:
        "loaded" and "peak", in bytes: after loading the models and at the end.
    """
    return in_fresh_process(_measure_memory, loop, directory, precision, lengths, seed)


def _measure_memory(
    name: str, directory: Path, precision: Precision, lengths: Sequence[int], seed: int
) -> dict[str, int]:
    loop = LOOPS[name](directory, precision)
    loaded = peak_resident()
    vocab_size = read_base_config(directory / TEACHER).vocab_size
    for sizes in (lengths[:1], lengths):
        (batch,) = labelled_batches(sizes, batch_size=len(sizes), vocab_size=vocab_size, seed=seed)
        loop.step(batch)
    return {"loaded": loaded, "peak": peak_resident()}


def bench_distillation(
    directory: Path, settings: DistillationSettings, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measures all loops on one teacher and student.

    Args:
        directory: directory with the checkpoints "teacher" and "student".
        settings: what to measure.
        say: receives a message about every stage.

    Returns:
        What `minilm bench distill --json` prints: "models", "workloads", "machine", and
        "contenders": for each one and workload seconds (of a step, the mean over the batches),
        tokens_per_second, gflops, share_of_peak (of matrix products in the same precision), and
        ratios to every contender of transformers (above 1 = faster than it); on request "memory"
        and "memory_of_tokens" (bytes).

    Raises:
        MinilmError: a loop cannot run, or gives other results than the rest.
    """
    teacher, student = (read_base_config(directory / name) for name in (TEACHER, STUDENT))
    longest = min(LONGEST, teacher.max_position_embeddings)
    sample, *batches = (
        labelled_batches(
            [min(length, longest) for length in lengths],
            batch_size=BATCH_SIZE,
            vocab_size=teacher.vocab_size,
            seed=settings.seed,
        )
        for lengths in (SAMPLE, *(WORKLOADS[name] for name in settings.workloads))
    )
    workloads = dict(zip(settings.workloads, batches, strict=True))
    say("measuring the peak rate of this machine")
    bfloat16 = computes_bfloat16()
    if "bfloat16" in settings.precisions and not bfloat16:
        say("this processor has no arithmetic in bfloat16: it is emulated, expect it to be slow")
    peaks = measure_peaks(settings.precisions, bfloat16)

    loops: dict[str, Loop] = {}
    differences: dict[str, float] = {}
    precision_of: dict[str, Precision] = {}
    for precision in settings.precisions:
        say(f"loading {' and '.join(settings.loops)}, {precision}")
        group = {
            contender_name(loop, precision): LOOPS[loop](directory, precision)
            for loop in settings.loops
        }
        if len(group) > 1:
            say("comparing their losses and gradients")
            differences[precision] = check_agreement(group, sample[0], precision)
        loops |= group
        precision_of |= dict.fromkeys(group, precision)

    watch = LoadWatch()
    timed: dict[str, dict[str, list[float]]] = {}
    for workload, found in workloads.items():
        say(f"{workload}: batches {len(found)}, rounds {settings.rounds}")
        timed[workload] = take_turns(loops, found, settings.rounds, _step, sample[0])
    loops.clear()
    load = watch.report()
    # other programs slow a measurement down and nothing speeds it up: the best of two moments
    for name, peak in measure_peaks(settings.precisions, bfloat16).items():
        peaks[name] = max(peaks[name], peak)

    results: dict[str, dict[str, Any]] = {
        name: {"precision": precision} for name, precision in precision_of.items()
    }
    for workload, found in workloads.items():
        tokens = sum(batch.tokens for batch in found)
        lengths = [int(n) for batch in found for n in batch.texts.lengths]
        flops = distillation_flops(teacher, student, lengths)
        seconds = {name: median(rounds) for name, rounds in timed[workload].items()}
        for name, taken in seconds.items():
            results[name][workload] = {
                **spread([value / len(found) for value in timed[workload][name]]),
                "tokens_per_second": tokens / taken,
                "gflops": flops / taken / 1e9,
                "share_of_peak": flops / taken / peaks[precision_of[name]],
                "ratios": {
                    other: base / taken
                    for other, base in seconds.items()
                    if other.startswith(REFERENCE)
                },
            }
    _measure_all_memory(results, directory, settings, longest, say)
    return {
        "models": {TEACHER: _sizes(teacher), STUDENT: _sizes(student)},
        "workloads": {
            name: {
                "batches": len(found),
                "tokens": sum(batch.tokens for batch in found),
                "padding_ratio": padding_ratio([batch.texts for batch in found]),
            }
            for name, found in workloads.items()
        },
        "rounds": settings.rounds,
        "seed": settings.seed,
        "machine": {
            **describe_machine(),
            "peak_gflops": {name: peak / 1e9 for name, peak in peaks.items()},
            "computes_bfloat16": bfloat16,
            "load": load,
        },
        "max_relative_difference": differences,
        "contenders": results,
    }


def _step(loop: Loop, batch: LabelledBatch) -> None:
    loop.step(batch)


def _measure_all_memory(
    results: dict[str, dict[str, Any]],
    directory: Path,
    settings: DistillationSettings,
    longest: int,
    say: Callable[[str], None],
) -> None:
    published = [min(length, longest) for length in PUBLISHED]
    for precision in settings.precisions:
        for loop in settings.loops:
            name = contender_name(loop, precision)
            options = {"memory": published} if settings.memory else {}
            if settings.memory_tokens and loop == "minilm":
                options["memory_of_tokens"] = lengths_of(settings.memory_tokens, longest)
            for key, lengths in options.items():
                say(f"memory of {name}, {sum(lengths):,} tokens in a step")
                used = step_memory(loop, directory, precision, lengths, settings.seed)
                results[name][key] = {"tokens": sum(lengths), **used}


def _sizes(config: EncoderConfig) -> dict[str, int]:
    return {
        "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
    }
