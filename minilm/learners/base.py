"""What all learners share: a teacher that is not trained, and steps without samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from minilm.models.pretrained import PretrainedModel
from minilm.training.learner import Learner


class ModelLearner(Learner):
    """Trains a model, optionally with a teacher.

    The teacher is in eval mode and gets no gradient. It is not part of the learner's parameters or
    state, keeps its own dtype, and follows the learner from device to device.

    Args:
        device: the device of the trained model.
        teacher: a model to learn from besides labels; None = no teacher.
    """

    def __init__(self, device: torch.device, teacher: PretrainedModel | None = None) -> None:
        super().__init__()
        # in a tuple, so that the teacher is not registered as a submodule
        self._unregistered: tuple[PretrainedModel, ...] = ()
        if teacher is not None:
            self._unregistered = (teacher.to(device=device).eval(),)

    @property
    def teacher(self) -> PretrainedModel | None:
        """The teacher, if there is one."""
        return self._unregistered[0] if self._unregistered else None

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Called by `.to()` and the like: the teacher is moved, but keeps its dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self._unregistered:
            teacher.to(device=next(self.parameters()).device)
        return self

    def empty_terms(self, *names: str) -> dict[str, Tensor]:
        """Zeros for a batch without samples: "loss" and terms of these names.

        The loss depends on all trained parameters, because data-parallel training waits for a
        gradient of each of them.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        loss = torch.stack([parameter.flatten()[:0].sum() for parameter in trained]).sum()
        return {"loss": loss, **{name: torch.zeros_like(loss) for name in names}}

    def cause_of_nonfinite(self, batch: Any) -> str | None:
        """A message about the teacher if its outputs for a batch are not finite, else None."""
        teacher = self.teacher
        if teacher is None:
            return None
        with torch.no_grad():
            wrong = [
                name
                for name, values in self.teacher_outputs(batch).items()
                if not bool(values.isfinite().all())
            ]
        if not wrong:
            return None
        damaged = [
            name
            for name, parameter in teacher.named_parameters()
            if not bool(parameter.isfinite().all())
        ]
        if damaged:
            return (
                f"The teacher, a {type(teacher).__name__}, has weights that are not finite "
                f"({damaged[0]}): its checkpoint is damaged. Use another teacher."
            )
        return (
            f"The teacher, a {type(teacher).__name__} in {teacher.dtype}, gives {wrong[0]} that "
            "are not finite for these samples. Load it in float32, or use another teacher."
        )

    def teacher_outputs(self, batch: Any) -> Mapping[str, Tensor]:
        """The teacher's outputs for a batch that the loss reads, by names for a message."""
        return {}
