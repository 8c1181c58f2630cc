"""One update of the weights: micro-batches, gradients, checks, optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minilm.blocks.sample_dropout import sample_dropout
from minilm.errors import TrainingError, setting
from minilm.files.arrays import Doubles, Floats, Integers
from minilm.training.averaging import PREFIX, WeightAverage
from minilm.training.distributed import Processes
from minilm.training.learner import Learner, TrainingBatch
from minilm.training.optimiser import (
    build_optimiser,
    clip_gradients,
    optimiser_tensors,
    restore_optimiser,
)
from minilm.training.schedules import learning_rate
from minilm.training.settings import Precision, TrainingSettings

# the loss scale of float16 among the optimiser's tensors, and for how many steps it has held
LOSS_SCALE, SINCE_OVERFLOW = "loss_scale", "loss_scale.steps"


# what the loop counts itself; with blanks, so that no count of a learner has the same name
_TOKENS = "tokens of the step"


@dataclass(frozen=True)
class MicroBatch:
    """A part of a step.

    Attributes:
        batch: its samples.
        keys: (B,) by which dropout tells the samples apart; no two of a step are equal.
    """

    batch: TrainingBatch
    keys: Integers


def sample_keys(parts: Sequence[Integers]) -> list[Integers]:
    """Keys of the samples of a step for dropout, however the step is divided into parts.

    A key is the sample's number; further copies of a sample in the step get keys of their own.

    Args:
        parts: (B,) numbers of samples below 2^40, all parts of the step.

    Example:
        >>> sample_keys([np.array([7, 3]), np.array([7])])
        [array([7, 3]), array([1099511627783])]
    """
    numbers = np.concatenate([np.asarray(part, np.int64) for part in parts])
    order = numbers.argsort(kind="stable")
    ordered = numbers[order]
    copy = np.empty_like(numbers)
    copy[order] = np.arange(len(numbers)) - np.searchsorted(ordered, ordered)
    return np.split(numbers + (copy << 40), np.cumsum([len(part) for part in parts])[:-1])


@dataclass(frozen=True)
class Outcome:
    """What one update did.

    Attributes:
        terms: "loss" and the learner's other terms, means over the step.
        gradient_norm: norm of the gradient before clipping.
        learning_rate: learning rate of this update.
        tokens: number of tokens in the step, over all processes.
        skipped: whether the update was left out because something was not finite.
        stop: whether a process was asked to stop.
    """

    terms: Mapping[str, float]
    gradient_norm: float
    learning_rate: float
    tokens: int
    skipped: bool
    stop: bool


class Updater:
    """The learner, its optimiser and how they take a step together.

    Args:
        learner: what is trained; moved to the device of `processes`.
        settings: the settings of the loop.
        processes: the processes that take part.
    """

    def __init__(self, learner: Learner, settings: TrainingSettings, processes: Processes) -> None:
        self.learner = learner.to(processes.device).train()
        self._settings = settings
        self._processes = processes
        self.optimiser = build_optimiser(learner, settings)
        if settings.precision == "float16" and not _is_wide(learner):
            raise TrainingError(
                "precision is 'float16', which computes products in float16 and keeps weights in "
                "float32, but the weights are float16 themselves: convert the model with .float()."
            )
        self._scaler = torch.amp.GradScaler(
            processes.device.type, enabled=settings.precision == "float16"
        )
        self._trained = [p for p in learner.parameters() if p.requires_grad]
        self._average = None
        if settings.average_weights is not None:
            self._average = WeightAverage(learner, settings.average_weights)
        self._wrapped: nn.Module = learner
        if processes.world > 1:
            self._wrapped = DistributedDataParallel(learner)

    def autocast(self) -> torch.autocast:
        """The precision of matrix products."""
        precision = self._settings.precision
        dtype = torch.float16 if precision == "float16" else torch.bfloat16
        enabled = precision != "float32"
        return torch.autocast(self._processes.device.type, dtype, enabled=enabled)

    def update(
        self,
        step: int,
        batches: Sequence[TrainingBatch | MicroBatch],
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Takes one step.

        In float16, a step whose scaled gradients overflow is computed again with half the loss
        scale, so none is left out; after 2000 steps without overflow the scale is doubled.

        On a CPU the gradient is the same up to rounding, dropout included, however the samples are
        divided into micro-batches and processes. On other devices torch draws dropout masks for a
        micro-batch as a whole: there only the expected gradient is the same.

        Args:
            step: the number of the step, 1 for the first.
            batches: this process's micro-batches of the step; bare batches are the whole step.
            stop_requested: called at the end of the step; `Outcome.stop` says in all processes
                whether any returned True.

        Raises:
            TrainingError: the loss or the norm of the gradient is not finite; nothing was updated.
        """
        processes, settings = self._processes, self._settings
        parts = _micro_batches(batches)
        moved = [part.batch.to(processes.device) for part in parts]
        counted: dict[str, float] = {_TOKENS: sum(batch.tokens for batch in moved)}
        for batch in moved:
            for name, count in self.learner.counts(batch).items():
                counted[name] = counted.get(name, 0) + count
        counts = processes.sum(counted)

        while True:
            terms, culprits = self._backward(step, parts, moved, counts)
            self._scaler.unscale_(self.optimiser)
            norm = clip_gradients(self._trained, settings.max_gradient_norm)
            totals = processes.sum({**terms, "stop": float(stop_requested())})
            # sums over processes and the norm are the same everywhere, so all go the same way
            losses_finite = all(map(math.isfinite, totals.values()))
            finite = losses_finite and math.isfinite(norm)
            if finite or not losses_finite or self.loss_scale <= 1:
                break
            half = self.loss_scale / 2
            self._scaler.update()  # halves it if a gradient is not finite
            if self.loss_scale > half:  # all are, and their norm is not
                self._scaler.update(half)
            self.optimiser.zero_grad()
        stop = totals.pop("stop") > 0
        rate = learning_rate(step, settings)
        if finite:
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group.get("rate_factor", 1.0)
            self._scaler.step(self.optimiser)
            if self._average is not None:
                self._average.update()
        self._scaler.update()
        self.optimiser.zero_grad()
        if not finite and settings.on_nonfinite == "raise":
            raise self._nonfinite(step, culprits or moved, {**totals, "gradient_norm": norm})
        return Outcome(totals, norm, rate, int(counts[_TOKENS]), not finite, stop)

    @property
    def loss_scale(self) -> float:
        """The factor of the loss before its gradients are computed: 1 except in float16."""
        return float(self._scaler.get_scale())

    def _backward(
        self,
        step: int,
        parts: Sequence[MicroBatch],
        batches: Sequence[TrainingBatch],
        counts: Mapping[str, float],
    ) -> tuple[dict[str, float], list[TrainingBatch]]:
        """Adds up the scaled gradients of a step: its terms, and batches whose loss is not finite.

        Args:
            step: its number.
            parts: this process's.
            batches: theirs, on the device.
            counts: see `Learner.forward`.
        """
        terms: dict[str, float] = {}
        culprits: list[TrainingBatch] = []
        for number, (part, batch) in enumerate(zip(parts, batches, strict=True)):
            last = number == len(parts) - 1
            with (
                self._randomness(step, number, part),
                nullcontext() if last else self._without_reduction(),
            ):
                with self.autocast():
                    found: Mapping[str, Tensor] = self._wrapped(batch, counts)
                # the wrapper averages gradients over processes, the loss wants their sum
                torch.autograd.backward(self._scaler.scale(found["loss"] * self._processes.world))
            values = {name: float(value.detach()) for name, value in found.items()}
            if not all(map(math.isfinite, values.values())):
                culprits.append(batch)
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value
        return terms, culprits

    @property
    def averages(self) -> bool:
        """Whether averages are evaluated instead of the weights that are trained."""
        return self._average is not None

    def averaged(self) -> AbstractContextManager[object]:
        """Gives the learner the weights to evaluate, inside the block."""
        return nullcontext() if self._average is None else self._average.applied()

    def apply_average(self) -> None:
        """Gives the learner the weights to evaluate for good; no step can follow."""
        if self._average is not None:
            self._average.apply()

    @torch.no_grad()
    def evaluate(
        self, batches: Sequence[TrainingBatch], stop_requested: Callable[[], bool] = lambda: False
    ) -> dict[str, float] | None:
        """The learner's scores on held-out batches, with averaged weights if the settings say so.

        They do not depend on the number of processes: the results of all batches are gathered, and
        added up in the order of the batches.

        Args:
            batches: held-out batches, the same in all processes, which divide them among
                themselves.
            stop_requested: called before every batch; True in any process ends the evaluation.

        Returns:
            The learner's scores, without those that no batch has; None if the evaluation was
            stopped.
        """
        with self.averaged():
            return self._evaluate(batches, stop_requested)

    def _evaluate(
        self, batches: Sequence[TrainingBatch], stop_requested: Callable[[], bool]
    ) -> dict[str, float] | None:
        processes, stopped = self._processes, False
        names = self.learner.metric_names
        found = np.zeros((len(batches), len(names), 2))  # of each batch: sums and counts
        outputs: dict[int, Floats] = {}
        mine = slice(processes.rank, None, processes.world)
        self.learner.eval()
        try:
            for row, batch in zip(found[mine], batches[mine], strict=True):
                if stopped := stop_requested():
                    break
                with self.autocast():
                    terms, more = self.learner.eval_outputs(batch.to(processes.device))
                outputs |= more
                for name, value in terms.items():
                    row[names.index(name)] = value
        finally:
            self.learner.train()
        if processes.sum({"stopped": float(stopped)})["stopped"]:
            return None
        total = _in_order(processes.sum_array(found))
        means = {
            name: sums / items
            for name, (sums, items) in zip(names, total.tolist(), strict=True)
            if items
        }
        scores = self.learner.eval_scores(means, processes.gather(outputs))
        # rounding may differ between processes, what follows from the scores must not
        return processes.sum(scores if processes.first else dict.fromkeys(scores, 0.0))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The learner's tensors and the optimiser's, with those of the average, by name."""
        optimiser = optimiser_tensors(self.optimiser, self.learner)
        if self._average is not None:
            optimiser |= self._average.state()
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            values = {LOSS_SCALE: state["scale"], SINCE_OVERFLOW: state["_growth_tracker"]}
            optimiser |= {name: torch.tensor(float(value)) for name, value in values.items()}
        return dict(self.learner.state_dict()), optimiser

    def restore(self, model: Mapping[str, Tensor], optimiser: Mapping[str, Tensor]) -> None:
        """Restores what `state` returned.

        Raises:
            TrainingError: the tensors belong to another model.
        """
        try:
            self.learner.load_state_dict(dict(model))
        except RuntimeError as problem:
            raise TrainingError(f"The snapshot belongs to another model: {problem}") from problem
        average = {name: x for name, x in optimiser.items() if name.startswith(PREFIX)}
        optimiser = {name: x for name, x in optimiser.items() if name not in average}
        if self._average is not None:
            self._average.restore(average)
        scale, since = (optimiser.pop(name, None) for name in (LOSS_SCALE, SINCE_OVERFLOW))
        if scale is not None and since is not None and self._scaler.is_enabled():
            found = {"scale": float(scale), "_growth_tracker": int(since)}
            self._scaler.load_state_dict({**self._scaler.state_dict(), **found})
        restore_optimiser(self.optimiser, self.learner, optimiser)

    def _nonfinite(
        self, step: int, batches: Sequence[TrainingBatch], values: Mapping[str, float]
    ) -> TrainingError:
        with torch.no_grad(), self.autocast():
            causes = (self.learner.cause_of_nonfinite(batch) for batch in batches)
            cause = next(filter(None, causes), None)
        return _nonfinite(step, batches, values, cause)

    @contextmanager
    def _randomness(self, step: int, number: int, part: MicroBatch) -> Iterator[None]:
        """What is random in a micro-batch; the user's generators are left as they were."""
        seed, processes = self._settings.seed, self._processes
        devices = [processes.device] if processes.device.type == "cuda" else []
        rows = getattr(part.batch, "rows", None)
        with (
            torch.random.fork_rng(devices),
            sample_dropout(_seed(seed, step), part.keys, rows),
        ):
            torch.manual_seed(_seed(seed, step, number, processes.rank))
            yield

    def _without_reduction(self) -> AbstractContextManager[object]:
        if isinstance(self._wrapped, DistributedDataParallel):
            return self._wrapped.no_sync()
        return nullcontext()


def best_precision(device: torch.device) -> Precision:
    """bfloat16 where the hardware computes in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def _in_order(rows: Doubles) -> Doubles:
    """The sum of rows, added one by one."""
    total = np.zeros(rows.shape[1:])
    for row in rows:
        total += row
    return total


def _is_wide(module: nn.Module) -> bool:
    """Whether all that is trained is in float32 or wider."""
    return all(p.dtype.itemsize >= 4 for p in module.parameters() if p.requires_grad)


def _micro_batches(batches: Sequence[TrainingBatch | MicroBatch]) -> list[MicroBatch]:
    """Bare batches get keys, as if there were no others in the step."""
    bare = [batch for batch in batches if not isinstance(batch, MicroBatch)]
    keys = iter(sample_keys([batch.samples for batch in bare]) if bare else ())
    return [
        batch if isinstance(batch, MicroBatch) else MicroBatch(batch, next(keys))
        for batch in batches
    ]


def _seed(*numbers: int) -> int:
    """A number made of others; all its 64 bits depend on all of them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _nonfinite(
    step: int, batches: Sequence[TrainingBatch], values: Mapping[str, float], cause: str | None
) -> TrainingError:
    shown = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
    samples = sorted(int(sample) for batch in batches for sample in batch.samples)
    listed = ", ".join(map(str, samples[:20])) + (", ..." if len(samples) > 20 else "")
    cause = cause or (
        "Lower the learning rate, lengthen the warm-up, inspect these samples, or skip such steps "
        f"({setting('on_nonfinite', 'skip')})."
    )
    return TrainingError(
        f"Step {step}: the loss or its gradient is not finite ({shown}); the weights were left as "
        f"they were. Samples of the step: {listed}. {cause}"
    )
