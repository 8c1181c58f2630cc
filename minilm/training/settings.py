"""Settings of the training loop."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from minilm.errors import TrainingError
from minilm.files.progress import counted

Schedule = Literal["linear", "cosine", "wsd", "polynomial", "constant"]
Optimiser = Literal["adamw", "lamb", "muon"]
Precision = Literal["float32", "bfloat16", "float16"]
OnNonfinite = Literal["raise", "skip"]
OnSaveError = Literal["warn", "raise"]

# settings that may differ when a run resumes: they change no weight (with `select`, evaluate_every
# says which weights are compared)
FREE: tuple[str, ...] = (
    "log_every",
    "evaluate_every",
    "snapshot_every",
    "keep_snapshots",
    "workers",
    "on_save_error",
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of the training loop. A step is one update of the weights.

    Attributes:
        steps: number of updates.
        learning_rate: peak learning rate, reached at the end of the warm-up.
        schedule: schedule of the learning rate; see `minilm.training.schedules.learning_rate`.
        warmup: number of updates in which the learning rate rises linearly.
        power: exponent of the polynomial schedule.
        decay: fraction of all steps over which the schedule "wsd" decays, above 0 and at most 1.
        layer_decay: layer-wise decay of the learning rate: each layer learns at the rate of the one
            above it times this number; heads have the full rate, embeddings the lowest; see
            `minilm.training.optimiser.layer_groups`. 1 = the same rate for all.
        optimiser: "adamw"; "lamb" with Google's defaults, for large steps, see `minilm.Lamb`; or
            "muon" for the matrices of layers and AdamW for the rest, see `minilm.Muon`.
        betas, epsilon, weight_decay: parameters of the optimiser: decay rates of its two running
            means, epsilon in its denominator, weight decay. Norms and biases are never decayed.
        shared_weight_decay: weight decay of matrices that are applied more than once, as those of
            the layer that ALBERT shares; None = the same as `weight_decay`.
        average_weights: the decay of an exponential moving average of the weights, above 0 and
            below 1, such as 0.999 for about the last thousand updates. The average is what is
            evaluated and what the run ends with; see `minilm.training.averaging.WeightAverage`.
            None = no average.
        max_gradient_norm: gradient clipping: the largest norm of the gradient; None or 0 = no
            clipping (0 is stored as None).
        accumulation: gradient accumulation: number of micro-batches that a process divides its part
            of a step into. It limits memory; the batch size of a step stays the same, and on a CPU
            so do its gradients up to rounding, dropout included. On a GPU dropout draws other
            masks.
        precision: "bfloat16" runs matrix products in bfloat16 (autocast); weights, norms, softmax
            and the optimiser stay in float32. "float16" does so in float16, for GPUs without
            bfloat16, and scales the loss so that small gradients do not vanish; a step whose scaled
            gradients overflow is computed again with half the scale.
        seed: random seed of dropout.
        log_every, evaluate_every, snapshot_every: number of steps between lines of the log,
            evaluations and snapshots; 0 = only at the end.
        keep_snapshots: number of snapshots that are kept on the disk.
        workers: number of threads that prepare batches in the background; 0 = the loop prepares
            them itself.
        on_nonfinite: what to do when a loss or gradient is not finite: end the run before it
            reaches the weights ("raise"), or leave the step out ("skip"), at most `max_skips` in a
            row.
        max_skips: see `on_nonfinite`.
        on_save_error: what to do when a snapshot cannot be written, but an older one exists: warn
            and continue ("warn"), or end the run ("raise").
        select: a held-out score, such as "accuracy": the run ends with the weights of the
            evaluation where it was best: lowest if its name ends in "loss" or "error", highest
            otherwise. None = the run ends with the last weights.
        patience: early stopping, with `select`: the run ends after this many evaluations in a
            row without improvement; None = it never does.
    """

    steps: int
    learning_rate: float = 5e-4
    schedule: Schedule = "linear"
    warmup: int = 0
    power: float = 1.0
    decay: float = 0.2
    layer_decay: float = 1.0
    optimiser: Optimiser = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    shared_weight_decay: float | None = None
    average_weights: float | None = None
    max_gradient_norm: float | None = 1.0
    accumulation: int = 1
    precision: Precision = "float32"
    seed: int = 0
    log_every: int = 1
    evaluate_every: int = 0
    snapshot_every: int = 500
    keep_snapshots: int = 2
    workers: int = 0
    on_nonfinite: OnNonfinite = "raise"
    max_skips: int = 3
    on_save_error: OnSaveError = "warn"
    select: str | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.max_gradient_norm == 0:
            object.__setattr__(self, "max_gradient_norm", None)
        for name, low in (
            ("steps", 1),
            ("warmup", 0),
            ("accumulation", 1),
            ("seed", 0),
            ("log_every", 0),
            ("evaluate_every", 0),
            ("snapshot_every", 0),
            ("keep_snapshots", 2),
            ("workers", 0),
            ("max_skips", 0),
            ("patience", 1),
        ):
            value = getattr(self, name)
            if (name, value) == ("patience", None):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise TrainingError(f"{name} is {value!r}: expected a whole number from {low}.")
        for name in ("learning_rate", "power", "epsilon", "weight_decay"):
            _check_number(name, getattr(self, name), below=math.inf)
        for name in ("max_gradient_norm", "shared_weight_decay"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), below=math.inf)
        if self.average_weights is not None and not (
            isinstance(self.average_weights, float) and 0 < self.average_weights < 1
        ):
            raise TrainingError(
                f"average_weights is {self.average_weights!r}: expected a number above 0 and below "
                "1, the decay of the average, such as 0.999."
            )
        for name in ("decay", "layer_decay"):
            _check_share(name, getattr(self, name))
        if len(self.betas) != 2:
            raise TrainingError(f"betas is {self.betas!r}: expected two numbers.")
        for beta in self.betas:
            _check_number("betas", beta, below=1.0)
        for name, choices in (
            ("schedule", get_args(Schedule)),
            ("optimiser", get_args(Optimiser)),
            ("precision", get_args(Precision)),
            ("on_nonfinite", get_args(OnNonfinite)),
            ("on_save_error", get_args(OnSaveError)),
        ):
            if getattr(self, name) not in choices:
                raise TrainingError(
                    f"{name} is {getattr(self, name)!r}: expected one of {', '.join(choices)}."
                )
        if self.warmup > self.steps:
            raise TrainingError(
                f"warmup is {self.warmup}: there are only {counted(self.steps, 'step')}."
            )
        if self.schedule == "wsd" and self.warmup + self.decay_steps > self.steps:
            raise TrainingError(
                f"warmup and decay take {self.warmup} and {self.decay_steps} steps: there are only "
                f"{self.steps}."
            )
        if self.patience is not None and self.select is None:
            raise TrainingError("patience needs select: name a held-out score.")

    @property
    def decay_steps(self) -> int:
        """The number of steps over which the schedule "wsd" decays; at least one."""
        return max(1, round(self.decay * self.steps))

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON values."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}


def _check_number(name: str, value: float, *, below: float) -> None:
    if not isinstance(value, (int, float)) or not 0 <= value < below:
        raise TrainingError(f"{name} is {value!r}: expected a number from 0 to below {below}.")


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise TrainingError(f"{name} is {value!r}: expected a number above 0 and at most 1.")


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something done every `every` steps and at the end is done after `step`.

    Args:
        step: number of updates done.
        every: 0 = at the end only.
        last: number of updates of the whole run.
    """
    return step == last or (every > 0 and step % every == 0)
