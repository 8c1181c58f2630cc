"""Settings of how a task's student learns from its teacher."""

from __future__ import annotations

from dataclasses import dataclass

from minilm.errors import InputError


@dataclass(frozen=True)
class SoftTargets:
    """How a student learns from its teacher's predictions.

    Attributes:
        temperature: divides the logits of both.
        weight: weight of the divergence from the teacher.
        label_weight: weight of the loss on the labels.

    Raises:
        InputError: the temperature is not above 0, a weight is negative, or both weights are 0.

    References: run_squad_w_distillation.py of the released DistilBERT code (0.5, 0.5, 2).
    """

    temperature: float = 2.0
    weight: float = 0.5
    label_weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.weight >= 0 or not self.label_weight >= 0:
            raise InputError(f"{self}: expected a temperature above 0 and weights of 0 or more.")
        if self.weight == self.label_weight == 0:
            raise InputError(
                "The weights of the teacher's predictions and of the labels are both 0: nothing "
                "would be learned. Give at least one of them a weight."
            )
