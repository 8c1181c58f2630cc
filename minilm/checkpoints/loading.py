"""Fit stored tensors to a model: decide about every name first, copy afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minilm.checkpoints.names import ENCODER, HubNames
from minilm.checkpoints.report import Entry, LoadReport
from minilm.checkpoints.weights import Weights
from minilm.errors import CheckpointError

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WORD = f"{ENCODER}embeddings.word.weight"
MASKED_LM_BIAS = "masked_lm_head.bias"
SHOWN = 8  # tensors named in one error message


@dataclass(frozen=True)
class Plan:
    """Which stored tensor goes where.

    Attributes:
        report: a verdict on every tensor.
        sources: name in a task model -> stored name.
        copies: stored tensor that must equal another one -> that other one's stored name.
    """

    report: LoadReport
    sources: Mapping[str, str]
    copies: Mapping[str, str]


def plan_load(
    expected: Mapping[str, torch.Size],
    stored: Mapping[str, tuple[torch.Size, torch.dtype]],
    names: HubNames,
    *,
    source: str,
    shared: Mapping[str, str] | None = None,
    layers: int | None = None,
    ignore_mismatched_heads: bool = False,
) -> Plan:
    """Decide about every stored tensor and every tensor of the model; touches neither.

    Args:
        expected: shapes by the names of a task model ("encoder." before base-model names).
        stored: shape and dtype by the names in the file.
        names: the architecture's tables.
        source: the checkpoint, for the report.
        shared: see `shared_names`; what is stored under the second names are copies.
        layers: the caller asked for this depth; stored layers beyond it are left out.
        ignore_mismatched_heads: a head of another shape becomes a new head.
    """
    report = LoadReport(source)
    sources: dict[str, str] = {}
    copies: dict[str, str] = {}
    decoder_weight, decoder_bias = f"{names.decoder}.weight", f"{names.decoder}.bias"
    has_heads = any(not own.startswith(ENCODER) for own in expected)
    owners = {own: name for name in stored if (own := names.to_own(name)) is not None}

    for name, (shape, dtype) in stored.items():
        own = names.to_own(name)
        # where only the decoder's copy is stored, it stands for the original
        if own is None and name == decoder_weight and WORD not in owners:
            own = WORD
        if own is None and name == decoder_bias and MASKED_LM_BIAS not in owners:
            own = MASKED_LM_BIAS
        if own is None:
            rule = names.ignored(name)
            report.entries.append(
                Entry("ignored" if rule else "unexpected", name, None, rule or "")
            )
            if name == decoder_weight and MASKED_LM_BIAS in expected:
                copies[name] = owners[WORD]
            if name == decoder_bias and MASKED_LM_BIAS in expected:
                copies[name] = owners[MASKED_LM_BIAS]
        elif shared and own in shared:
            report.entries.append(Entry("ignored", name, None, "a copy of shared weights"))
            if shared[own] in owners:
                copies[name] = owners[shared[own]]
        elif own not in expected:
            report.entries.append(_without_place(name, own, layers))
        elif own in sources:
            note = f"{sources[own]!r} is stored too and means the same tensor"
            report.entries.append(Entry("unexpected", name, own, note))
        elif shape != expected[own] or dtype not in WEIGHT_DTYPES:
            note = f"stored {tuple(shape)} {dtype}, the model has {tuple(expected[own])}"
            fresh = ignore_mismatched_heads and not own.startswith(ENCODER)
            report.entries.append(Entry("new" if fresh else "mismatched", name, own, note))
        else:
            sources[own] = name
            usual = names.to_hub(own, with_prefix=has_heads)
            note = "" if name == usual else f"usually {usual}"
            report.entries.append(Entry("renamed" if note else "loaded", name, own, note))

    judged = {entry.own for entry in report.entries}
    for own in expected:
        if own not in judged:
            may_be_new = not own.startswith(ENCODER) or own.startswith(f"{ENCODER}pooler.")
            report.entries.append(Entry("new" if may_be_new else "missing", None, own))
    return Plan(report, sources, copies)


def _without_place(name: str, own: str, layers: int | None) -> Entry:
    """A known tensor that this model does not have."""
    number = re.match(rf"{ENCODER}layers\.(\d+)\.", own)
    if not own.startswith(ENCODER) or own.startswith(f"{ENCODER}pooler."):
        return Entry("ignored", name, None, "of a head that this class does not have")
    if layers is not None and number is not None and int(number[1]) >= layers:
        return Entry("ignored", name, None, f"of a layer beyond num_hidden_layers={layers}")
    return Entry("unexpected", name, None, "config.json describes a model without it")


def shared_names(model: nn.Module) -> dict[str, str]:
    """The other names of parameters that are in several places: name -> the first one's name."""
    first: dict[int, str] = {}
    others = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            others[name] = first[id(parameter)]
    return others


def raise_for(report: LoadReport, allow_unexpected: bool) -> None:
    """Raise CheckpointError for everything in the report that must not pass silently."""
    problems = report.of("missing", "mismatched")
    advice = "Is this the right class and the config.json that belongs to these weights?"
    if not problems and not allow_unexpected:
        problems = report.unexpected
        advice = "Pass allow_unexpected=True to leave unknown tensors out."
    elif problems and not any(entry.own and entry.own.startswith(ENCODER) for entry in problems):
        advice = "Pass ignore_mismatched_heads=True to start with a new head of the model's shape."
    if problems:
        lines = [f"  {entry}" for entry in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  ... and {len(problems) - SHOWN} more")
        raise CheckpointError(
            f"{report.source}: nothing was loaded, these tensors do not fit "
            f"the model ({len(problems)}):\n" + "\n".join(lines) + f"\n{advice}"
        )


@torch.no_grad()
def fill(
    model: nn.Module,
    weights: Weights,
    plan: Plan,
    *,
    own_prefix: str,
    initialise: Callable[[nn.Module], None],
    allow_nonfinite: bool,
) -> None:
    """Copy the planned tensors into an allocated model, one at a time; initialise the new ones.

    Args:
        model: parameters are allocated and may hold anything.
        own_prefix: what stands before the model's own names in the plan ("encoder." for a base
            model, nothing for a task model).
        initialise: draws the parameters of a new part.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        CheckpointError: non-finite values, or copies of tied tensors that differ.
    """
    parameters = dict(model.named_parameters())
    for entry in plan.report.of("new"):
        assert entry.own is not None
        module, _, _ = entry.own.removeprefix(own_prefix).rpartition(".")
        initialise(model.get_submodule(module))
    nonfinite: dict[str, int] = {}
    for own, name in plan.sources.items():
        tensor = weights.read(name)
        if bad := _nonfinite(tensor):
            nonfinite[name] = bad
        parameters[own.removeprefix(own_prefix)].copy_(tensor)
    if nonfinite and not allow_nonfinite:
        worst = ", ".join(f"{name} ({count})" for name, count in list(nonfinite.items())[:SHOWN])
        raise CheckpointError(
            f"{plan.report.source}: NaN or infinite values in {len(nonfinite)} tensors: {worst}. "
            "The training run that wrote them went wrong; pass allow_nonfinite=True to load anyway."
        )
    for copy, original in plan.copies.items():
        alike = weights.tensors[copy].shape == weights.tensors[original].shape
        if not alike or not _equal(weights.read(copy), weights.read(original)):
            raise _untied(copy, original, plan.report.source)


def _nonfinite(tensor: Tensor) -> int:
    """How many values are NaN or infinite.

    The extremes tell whether there are any (NaN is both): 40 times faster than counting.
    """
    if tensor.numel() == 0 or all(extreme.isfinite() for extreme in tensor.aminmax()):
        return 0
    return int((~tensor.isfinite()).sum())


def _equal(one: Tensor, other: Tensor) -> bool:
    """The same values, NaN included, whatever the dtypes."""
    return torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)


def _untied(copy: str, original: str, source: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: {copy} differs from {original}. They are one tensor in this model (tied); one "
        "with two different ones cannot be loaded."
    )


def translate_state_dict(
    state: Mapping[str, Tensor],
    own_names: set[str],
    names: HubNames,
    own_prefix: str,
    shared: Mapping[str, str],
) -> dict[str, Tensor]:
    """A state dictionary with hub names, own names or both, by the model's own names.

    Tensors of heads that the model does not have, position counters and copies of tied tensors are
    dropped as when loading a file; unknown names are kept, for `load_state_dict` to complain about.

    Args:
        state: tensors by name.
        own_names: the names that the model knows.
        names: the architecture's tables.
        own_prefix: "encoder." for a base model, nothing for a task model.
        shared: see `shared_names`; values under the second names must be equal, or may be left out.

    Raises:
        CheckpointError: values of one tensor differ.
    """
    result: dict[str, Tensor] = {}
    hub: dict[str, Tensor] = {}
    for name, tensor in state.items():
        (result if name in own_names else hub)[name] = tensor
    expected = {f"{own_prefix}{name}": torch.Size() for name in own_names}
    stored = {name: (torch.Size(), torch.float32) for name in hub}
    plan = plan_load(expected, stored, names, source="state_dict")
    for own, name in plan.sources.items():
        result.setdefault(own.removeprefix(own_prefix), hub[name])
    for copy, original in plan.copies.items():
        one, other = hub[copy], hub[original]
        if not one.is_meta and not (one.shape == other.shape and _equal(one, other)):
            raise _untied(copy, original, "state_dict")
    for entry in plan.report.unexpected:
        assert entry.stored is not None
        result[entry.stored] = hub[entry.stored]
    for second, first in shared.items():
        if first in result and not _equal(result.setdefault(second, result[first]), result[first]):
            raise _untied(second, first, "state_dict")
    return result
