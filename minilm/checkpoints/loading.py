"""Fits stored tensors to a model: first decides about every name, then copies."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minilm.checkpoints.names import ENCODER, HubNames
from minilm.checkpoints.report import Entry, LoadReport
from minilm.checkpoints.weights import Weights
from minilm.errors import CheckpointError, setting
from minilm.files.progress import counted
from minilm.files.safetensors_file import TensorInfo

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
WORD = f"{ENCODER}embeddings.word.weight"
MASKED_LM_BIAS = "masked_lm_head.bias"
OWN_PART = "part of this class"  # a tensor of no architecture
SHOWN = 8  # tensors named in one error message


@dataclass(frozen=True)
class Plan:
    """Which stored tensor is loaded into which tensor of the model.

    Attributes:
        report: a verdict on every tensor.
        sources: name in a task model -> stored name.
        copies: stored name of a copy -> stored name of the tensor that it must equal.
    """

    report: LoadReport
    sources: Mapping[str, str]
    copies: Mapping[str, str]


def plan_load(
    expected: Mapping[str, Tensor | None],
    stored: Mapping[str, TensorInfo | Tensor],
    names: HubNames,
    *,
    source: str,
    shared: Mapping[str, str] | None = None,
    layers: int | None = None,
    ignore_mismatched_heads: bool = False,
) -> Plan:
    """Decides about every stored tensor and every tensor of the model; changes neither.

    Args:
        expected: the model's tensors by the names of a task model ("encoder." before base-model
            names); only shapes and dtypes matter. None = any shape and dtype.
        stored: the stored tensors, by their names in the file.
        names: the names of the architecture.
        source: the checkpoint, for the report.
        shared: see `shared_names`; tensors stored under the second names are copies.
        layers: number of layers the caller asked for; stored layers beyond it are left out.
        ignore_mismatched_heads: whether a head of another shape is replaced by a new head.
    """
    report = LoadReport(source)
    sources: dict[str, str] = {}
    copies: dict[str, str] = {}
    shared = shared or {}
    decoder = {f"{names.decoder}.weight": WORD, f"{names.decoder}.bias": MASKED_LM_BIAS}
    has_heads = any(not local.startswith(ENCODER) for local in expected)
    places = {name: names.to_local(name, {*expected, *shared}) for name in stored}
    owners = {local: name for name, local in places.items() if local is not None}

    for name, local in places.items():
        original = decoder.get(names.unwrapped(name))
        # if only the decoder's copy is stored, it replaces the original
        if local is None and original is not None and original not in owners:
            local = original
        if local is None:
            rule = names.ignored(name)
            report.entries.append(
                Entry("ignored" if rule else "unexpected", name, None, rule or "")
            )
            if original is not None and MASKED_LM_BIAS in expected:
                copies[name] = owners[original]
        elif local in shared:
            report.entries.append(Entry("ignored", name, None, "a copy of shared weights"))
            if shared[local] in owners:
                copies[name] = owners[shared[local]]
        elif local not in expected:
            report.entries.append(_without_place(name, local, expected, layers))
        elif local in sources:
            note = f"{sources[local]!r} is stored too and means the same tensor"
            report.entries.append(Entry("unexpected", name, local, note))
        elif misfit := _misfit(stored[name], expected[local]):
            fresh = ignore_mismatched_heads and not local.startswith(ENCODER)
            report.entries.append(Entry("new" if fresh else "mismatched", name, local, misfit))
        else:
            sources[local] = name
            usual = names.to_hub(local, with_prefix=has_heads)
            note = "" if name == usual else f"usually {usual}"
            report.entries.append(Entry("renamed" if note else "loaded", name, local, note))

    reported = {entry.own for entry in report.entries}
    for local in expected:
        if local in reported:
            continue
        if not names.knows(local):
            report.entries.append(Entry("new", None, local, OWN_PART))
        elif _is_optional(local):
            report.entries.append(Entry("new", None, local))
        else:
            note = f"stored as {names.to_hub(local, with_prefix=has_heads)}"
            report.entries.append(Entry("missing", None, local, note))
    return Plan(report, sources, copies)


def _is_optional(local: str) -> bool:
    """Whether a tensor of the architecture belongs to a head or to the pooler."""
    return not local.startswith(ENCODER) or local.startswith(f"{ENCODER}pooler.")


def _misfit(found: TensorInfo | Tensor, wanted: Tensor | None) -> str:
    """Why a stored tensor cannot be copied into a tensor of the model; "" if it can."""
    if wanted is None:
        return ""
    dtypes = WEIGHT_DTYPES if wanted.is_floating_point() else (wanted.dtype,)
    if tuple(found.shape) == tuple(wanted.shape) and found.dtype in dtypes:
        return ""
    shapes = tuple(found.shape), tuple(wanted.shape)
    return f"stored {shapes[0]} {found.dtype}, the model has {shapes[1]}"


def _without_place(
    name: str, local: str, expected: Mapping[str, object], layers: int | None
) -> Entry:
    """The entry for a known tensor that this model does not have."""
    number = re.match(rf"{ENCODER}layers\.(\d+)\.", local)
    if local.endswith(".scale") and f"{local.removesuffix('scale')}weight" in expected:
        return Entry("unexpected", name, None, "a scale beside a weight that is not in 8 bits")
    if _is_optional(local):
        return Entry("ignored", name, None, "of a head that this class does not have")
    if layers is not None and number is not None and int(number[1]) >= layers:
        return Entry("ignored", name, None, f"of a layer beyond num_hidden_layers={layers}")
    module = local.rpartition(".")[0] + "."
    if wrapped := next((other for other in expected if other.startswith(module)), None):
        note = f"this class has {wrapped} there: load the checkpoint first, then wrap the layer"
        return Entry("mismatched", name, local, note)
    return Entry("unexpected", name, None, "config.json describes a model without it")


def shared_names(model: nn.Module) -> dict[str, str]:
    """The further names of parameters that have several: further name -> first name."""
    first: dict[int, str] = {}
    others = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            others[name] = first[id(parameter)]
    return others


def fresh_parts(
    report: LoadReport, prefix: str, but_not: Callable[[str], bool] = lambda _: False
) -> str:
    """The modules that were initialised at random, for a message; "" if there are none.

    Args:
        report: the report of the load.
        prefix: "encoder." for a base model, "" for a task model.
        but_not: whether to leave out a tensor, given its name in a task model.
    """
    new = (entry.own or "" for entry in report.of("new"))
    parts = (
        name.removeprefix(prefix).removesuffix(".weight").removesuffix(".bias")
        for name in new
        if not but_not(name)
    )
    modules = list(dict.fromkeys(parts))
    more = f" and {len(modules) - SHOWN} more" if len(modules) > SHOWN else ""
    return ", ".join(modules[:SHOWN]) + more


def raise_for(report: LoadReport, allow_unexpected: bool) -> None:
    """Raises CheckpointError if the report has entries that must not pass silently."""
    problems, unknown = report.of("missing", "mismatched"), report.unexpected
    advice = "Is this the right class and the config.json that belongs to these weights?"
    if not problems:
        problems, unknown = ([] if allow_unexpected else unknown), []
        advice = f"Pass {setting('allow_unexpected', True)} to leave unknown tensors out."
    elif not any(entry.own and entry.own.startswith(ENCODER) for entry in problems):
        new = setting("ignore_mismatched_heads", True)
        advice = f"Pass {new} to start with a new head of the model's shape."
    if problems:
        lines = [f"  {entry}" for entry in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  ... and {len(problems) - SHOWN} more")
        if unknown:
            lines.append(f"  {unknown[0]}" + (f" and {len(unknown) - 1} more" * (len(unknown) > 1)))
        raise CheckpointError(
            f"{report.source}: nothing was loaded; these tensors do not fit "
            f"the model ({len(problems)}):\n" + "\n".join(lines) + f"\n{advice}"
        )


@torch.no_grad()
def fill(
    model: nn.Module,
    weights: Weights,
    plan: Plan,
    *,
    prefix: str,
    initialise: Callable[[nn.Module], None] | None,
    allow_nonfinite: bool,
) -> None:
    """Copies the planned tensors into a model, one at a time; initialises the new ones.

    Args:
        model: its tensors are allocated, with any values.
        prefix: prefix of the model's own names in the plan: "encoder." for a base model, "" for a
            task model.
        initialise: initialises a new part; None = new parts already have their values.
        allow_nonfinite: accept NaN and infinity.

    Raises:
        CheckpointError: values are not finite, or copies of tied tensors differ.
    """
    tensors = model.state_dict()
    for entry in plan.report.of("new"):
        module, _, _ = (entry.own or "").removeprefix(prefix).rpartition(".")
        if initialise is not None:
            initialise(model.get_submodule(module))
    nonfinite: dict[str, int] = {}
    for local, name in plan.sources.items():
        tensor = weights.read(name)
        if bad := _nonfinite(tensor):
            nonfinite[name] = bad
        tensors[local.removeprefix(prefix)].copy_(tensor)
    if nonfinite and not allow_nonfinite:
        worst = ", ".join(f"{name} ({count})" for name, count in list(nonfinite.items())[:SHOWN])
        raise CheckpointError(
            f"{plan.report.source}: NaN or infinite values in "
            f"{counted(len(nonfinite), 'tensor')}: {worst}. The training run that wrote them went "
            f"wrong; pass {setting('allow_nonfinite', True)} to load anyway."
        )
    for copy, original in plan.copies.items():
        if not _equal(weights.read(copy), weights.read(original)):
            raise _untied(copy, original, plan.report.source)


def _nonfinite(tensor: Tensor) -> int:
    """The number of values that are NaN or infinite.

    Minimum and maximum tell whether there are any (NaN is both): 40 times faster than counting.
    """
    if tensor.numel() == 0 or all(extreme.isfinite() for extreme in tensor.aminmax()):
        return 0
    return int((~tensor.isfinite()).sum())


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same values, NaN included, whatever the dtypes.

    For tensors on the meta device, or distributed over processes (DTensor), only the shapes are
    compared.
    """
    away = any(tensor.is_meta or hasattr(tensor, "full_tensor") for tensor in (one, other))
    if one.shape != other.shape or away:
        return one.shape == other.shape
    return torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)


def _untied(copy: str, original: str, source: str) -> CheckpointError:
    return CheckpointError(
        f"{source}: {copy} differs from {original}. In this model they are one tensor (tied), so "
        "a checkpoint with two different ones cannot be loaded."
    )


def translate_state_dict(
    state: Mapping[str, Tensor],
    own_names: set[str],
    names: HubNames,
    prefix: str,
    shared: Mapping[str, str],
) -> dict[str, Tensor]:
    """Translates a state dictionary with hub names, own names or both to the model's own names.

    Tensors of heads that the model does not have, position counters and copies of tied tensors are
    dropped as when loading a file; unknown names are kept, for the caller to report.

    Args:
        state: tensors by name.
        own_names: the names that the model knows.
        names: the names of the architecture.
        prefix: "encoder." for a base model, "" for a task model.
        shared: see `shared_names`; values under the second names must be equal or absent.

    Raises:
        CheckpointError: a tensor is given twice, with different values.
    """
    result = {name: tensor for name, tensor in state.items() if name in own_names}
    hub = {name: tensor for name, tensor in state.items() if name not in own_names}
    expected = dict.fromkeys(f"{prefix}{name}" for name in own_names)
    plan = plan_load(expected, hub, names, source="state_dict")
    for local, name in plan.sources.items():
        result.setdefault(local.removeprefix(prefix), hub[name])
    for copy, original in plan.copies.items():
        if not _equal(hub[copy], hub[original]):
            raise _untied(copy, original, "state_dict")
    unknown = (entry.stored or "" for entry in plan.report.of("unexpected", "mismatched"))
    result.update({name: hub[name] for name in unknown})
    for second, first in shared.items():
        if first in result and not _equal(result.get(second, result[first]), result[first]):
            raise _untied(second, first, "state_dict")
    result.update({second: result[first] for second, first in shared.items() if first in result})
    return result
