"""Compare two models that hold the same weights, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minilm.models.pretrained import PretrainedModel
from minilm.parity.inputs import Inputs
from minilm.parity.observation import GRADIENT, Observation, run_ours, run_reference
from minilm.parity.report import ParityReport, Row

ROUNDING = 3.0  # see compare_rows
# explicit: rows, with attention maps returned; padded: rows, and the model chooses its own layout;
# packed: one line of tokens with their lengths
CALLS = ("explicit", "padded", "packed")


@dataclass(frozen=True)
class Tolerances:
    """The largest |difference| that counts as equal.

    Attributes:
        states: for hidden states, attention maps and the pooler.
        logits: for everything that a head returns.
        loss: relative to the loss if that is above 1.
        gradients: relative to the largest gradient of the model, or to 0.01 if that is more. Single
            gradients have no scale of their own: those of key biases are zero up to rounding, and
            if a sum over tokens cancels, only the rounding of its terms is left.
    """

    states: float
    logits: float
    loss: float
    gradients: float


TOLERANCES = {
    torch.float32: Tolerances(states=1e-5, logits=2e-5, loss=1e-6, gradients=1e-4),
    torch.float64: Tolerances(states=1e-10, logits=1e-10, loss=1e-10, gradients=1e-10),
}


def compare(
    ours: PretrainedModel,
    theirs: Any,
    batches: Sequence[Inputs],
    *,
    calls: Sequence[str] = CALLS,
    gradients: bool = False,
    tolerances: Tolerances | None = None,
) -> ParityReport:
    """Compare two models that hold the same weights.

    Args:
        ours: a minilm model.
        theirs: the transformers model of the same class name, dtype and mode, with eager attention.
        batches: from `ragged_inputs`.
        calls: which of `CALLS` to make; those that are impossible with a mask are left out.
        gradients: also compare the gradient of the loss for every parameter.
        tolerances: None = those of `TOLERANCES` for the dtype.
    """
    report = ParityReport(type(ours).__name__, f"{type(theirs).__module__}.{type(theirs).__name__}")
    for inputs in batches:
        expected = run_reference(theirs, inputs, gradients=gradients)
        report.rows += compare_rows(
            ours, expected, inputs, calls=calls, gradients=gradients, tolerances=tolerances
        )
    return report


def compare_rows(
    ours: PretrainedModel,
    expected: Observation,
    inputs: Inputs,
    *,
    calls: Sequence[str] = CALLS,
    gradients: bool = False,
    tolerances: Tolerances | None = None,
    exact: Observation | None = None,
) -> list[Row]:
    """Compare a minilm model with the outputs of the other side.

    Args:
        ours: a minilm model.
        expected: the result of `run_reference` for the same batch.
        inputs: the batch.
        calls, gradients, tolerances: as for `compare`.
        exact: the other side's outputs in float64. Two float32 programs cannot agree better than
            one of them with the exact result, so `ROUNDING` times the other side's own error is
            allowed if that is more than the tolerance.
    """
    allowed = tolerances or TOLERANCES[ours.dtype]
    dtype, model = str(ours.dtype).removeprefix("torch."), type(ours).__name__
    limits = _limits(expected, allowed)
    for module, values in (exact or {}).items():
        rounding = _rounding(expected[module], values)
        if math.isfinite(rounding):
            limits[module] = max(limits[module], ROUNDING * rounding)
    rows = []
    for call in calls:
        if call == "packed" and not _can_pack(ours, inputs):
            continue
        actual = run_ours(ours, inputs, call, gradients=gradients)
        for module in dict.fromkeys([*expected, *actual]):
            if module.endswith(" maps") and call != "explicit":
                continue
            difference = math.inf
            if module in actual and module in expected:
                difference = max_difference(actual[module], expected[module])
            limit = limits.get(module, 0.0)
            rows.append(Row(model, module, dtype, inputs.mask, call, difference, limit))
    return rows


def max_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest |difference|; infinity if shapes differ or one side is NaN."""
    if ours.shape != theirs.shape:
        return math.inf
    difference = float((ours - theirs).abs().max())
    if math.isfinite(difference):
        return difference
    # infinities that agree are equal; NaN equals nothing
    differences = (ours - theirs).abs().masked_fill(ours == theirs, 0.0)
    return float(differences.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _limits(expected: Observation, allowed: Tolerances) -> dict[str, float]:
    """The largest |difference| allowed for each module."""
    largest = {module: _largest(values) for module, values in expected.items()}
    steepest = max((n for module, n in largest.items() if module.startswith(GRADIENT)), default=0.0)
    limits = {}
    for module, size in largest.items():
        if module.startswith(GRADIENT):
            limits[module] = allowed.gradients * max(steepest, 0.01)
        elif module == "loss":
            limits[module] = allowed.loss * max(1.0, size)
        else:
            limits[module] = allowed.logits if module.endswith("logits") else allowed.states
    return limits


def _rounding(values: Tensor, exact: Tensor) -> float:
    """The largest error of a float32 result, except at blanked span logits."""
    error = (values.double() - exact).abs()
    return float(error.masked_fill(values == torch.finfo(values.dtype).min, 0.0).max())


def _largest(values: Tensor) -> float:
    """The largest magnitude, except of blanked span logits."""
    size = values.abs()
    return float(size.masked_fill(values == torch.finfo(values.dtype).min, 0.0).max())


def _can_pack(model: PretrainedModel, inputs: Inputs) -> bool:
    reads_first = model.base.pooler is not None or hasattr(model, "pre_classifier")
    first = bool(inputs.attended[:, 0].all())
    return bool(inputs.attended.any(dim=1).all()) and (first or not reads_first)
