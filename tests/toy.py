"""A learner and data small enough to check the engine by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from minilm.files.arrays import Integers
from minilm.training.distributed import Processes
from minilm.training.learner import Learner
from minilm.training.loop import Result, train
from minilm.training.settings import TrainingSettings

ALONE = Processes(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Points:
    """A batch: x (B, 3), y (B,), and how many of them count."""

    samples: Integers
    x: Tensor
    y: Tensor

    @property
    def tokens(self) -> int:
        return 2 * len(self.samples)

    def to(self, device: torch.device) -> Points:
        return Points(self.samples, self.x.to(device), self.y.to(device))


class Line(Learner):
    """Least squares, with dropout on the inputs."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(3)
        self.linear = nn.Linear(3, 1)
        self.dropout = nn.Dropout(dropout)
        self.double()

    def counts(self, batch: Points) -> Mapping[str, int]:
        return {"points": len(batch.samples)}

    def forward(self, batch: Points, counts: Mapping[str, float]) -> dict[str, Tensor]:
        found = self.linear(self.dropout(self.norm(batch.x)))[:, 0]
        loss = (found - batch.y).square().sum() / counts["points"]
        return {"loss": loss, "error": loss.detach()}

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("squared_error",)

    def eval_step(self, batch: Points) -> Mapping[str, tuple[float, float]]:
        found = self.linear(self.norm(batch.x))[:, 0]
        return {"squared_error": (float((found - batch.y).square().sum()), len(batch.samples))}


class Cloud:
    """Points drawn anew for every (epoch, sample), in steps of eight."""

    def __init__(self, size: int = 40, poison: int | None = None) -> None:
        self.size = size
        self.poison = poison  # a sample whose target is not a number
        self.fingerprint = {"size": size}

    def steps(self, epoch: int) -> Sequence[Integers]:
        order = np.random.default_rng([1, epoch]).permutation(self.size)
        return [order[start : start + 8] for start in range(0, self.size, 8)]

    def count_steps(self, epochs: int) -> int:
        return sum(len(self.steps(epoch)) for epoch in range(epochs))

    def count_samples(self) -> int:
        return self.size

    def split(self, epoch: int, samples: Integers, parts: int) -> Sequence[Integers]:
        return np.array_split(samples, parts)

    def batch(self, epoch: int, samples: Integers) -> Points:
        drawn = [np.random.default_rng([2, epoch, int(i)]).random(4) for i in samples]
        values = torch.from_numpy(np.array(drawn).reshape(-1, 4))
        y = values[:, 0] - values[:, 1] + values[:, 3] / 9
        y[torch.from_numpy(samples == self.poison)] = float("nan")
        return Points(samples, values[:, :3], y)

    def held_out(self) -> list[Points]:
        return [self.batch(1000, np.arange(4)), self.batch(1001, np.arange(3))]


def run(
    output: Path,
    learner: Learner | None = None,
    data: Cloud | None = None,
    processes: Processes = ALONE,
    said: list[str] | None = None,
    allow_changes: bool = False,
    observers: Sequence[Any] = (),
    clean: bool = False,
    **settings: Any,
) -> Result:
    """Trains a line; the result is output/model.safetensors."""
    learner = learner or Line()
    data = data or Cloud()
    settings = {"steps": 12, "learning_rate": 0.1, "snapshot_every": 4, **settings}
    return train(
        learner,
        data,
        TrainingSettings(**settings),
        output,
        processes=processes,
        finish=lambda path: save_file(learner.state_dict(), path / "model.safetensors"),
        held_out=data.held_out(),
        allow_changes=allow_changes,
        observers=observers,
        clean=clean,
        say=(said if said is not None else []).append,
    )
