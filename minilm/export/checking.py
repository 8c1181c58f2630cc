"""Runs every exported file and compares it with the model, before it appears.

A file can be wrong without an error: it ignores the mask, a size of the recorded example is a
constant, integers saturate, a matrix stayed float. The calls here have different numbers of rows
and tokens, and are padded on the right, on the left, in the middle and not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from minilm.errors import ExportError, setting
from minilm.export.onnx_graph import OUTPUTS, axis_names, input_names
from minilm.files.libraries import library
from minilm.models.pretrained import PretrainedModel

# rows, tokens in a row, and where the padding is; lengths are cut to the model's maximum
CALLS = (
    (1, 1, "nowhere"),
    (1, 7, "nowhere"),
    (2, 12, "nowhere"),
    (3, 12, "right"),
    (5, 9, "right"),
    (2, 10, "left"),
    (4, 16, "middle"),
    (2, 64, "right"),
)
# largest difference of the float32 file, divided by the output's largest absolute value if that is
# above 1
TOLERANCE = 1e-5
# smallest cosine between the outputs of the model and of the file in 8 bits
SIMILARITY = 0.98
# outputs with fewer numbers a position, such as two logits, have no direction of their own: all
# their positions in all calls are compared as one vector
NARROW = 16

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """A call of a model and its outputs.

    Attributes:
        inputs: (B, S) int64 arrays, or (B, C, S) for multiple choice, by name.
        outputs: float32 arrays by name, as the model returns them.
    """

    inputs: Arrays
    outputs: Arrays


def calls(model: PretrainedModel, sample: list[int] | None = None) -> list[Call]:
    """The calls that files are compared on.

    Args:
        model: the model, in float32 and eval mode, on the CPU.
        sample: token ids of a real text; None = random ids. 8 bits are meant for the states of
            real texts: those of random ids are farther apart.
    """
    generator = np.random.default_rng(0)
    config = model.config
    limit = config.max_position_embeddings
    made = []
    for rows, length, padding in CALLS:
        length = min(length, limit)
        choices = [2 + rows % 2] if "num_choices" in axis_names(model) else []
        shape = (rows, *choices, length)
        ids = np.empty(shape, dtype=np.int64)
        for row in ids.reshape(-1, length):
            if sample is None or len(sample) <= length:
                row[:] = generator.integers(1, config.vocab_size, length)
            else:
                start = int(generator.integers(0, len(sample) - length))
                row[:] = sample[start : start + length]
        mask = np.ones(shape, dtype=np.int64)
        texts = mask.reshape(-1, length)
        for number, row in enumerate(texts):
            # from 0 to half of the tokens; of two tokens, one of the last text
            hidden = min(length - 1, (number + 1) * max(length, 3) // (2 * len(texts) + 1))
            if padding == "right":
                row[length - hidden :] = 0
            elif padding == "left":
                row[:hidden] = 0
            elif padding == "middle":
                row[1 : 1 + hidden] = 0
        types = np.zeros(shape, dtype=np.int64)
        if getattr(config, "type_vocab_size", 0) > 1:
            types[..., length // 2 :] = 1
        every = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        inputs = {name: every[name] for name in input_names(model)}
        with torch.no_grad():
            out = model(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        named = {OUTPUTS[key]: out[key].numpy() for key in out if key in OUTPUTS}
        made.append(Call(inputs, named))
    return made


def check_same(path: Path, made: list[Call], step: Callable[[], object]) -> float:
    """Raises ExportError unless a float32 file gives the model's outputs.

    Args:
        path: the file.
        made: the result of `calls`.
        step: called after every call.

    Returns:
        The largest difference, divided by an output's largest absolute value if that is above 1.
    """
    worst = 0.0
    for call, outputs in _run(path, made):
        for name, expected in call.outputs.items():
            found = _of_shape(path, name, outputs[name], expected, call)
            attended = np.abs(expected[_attended(call, name, expected)])
            error = np.abs(found - expected).max() / max(1.0, float(attended.max()))
            if not error <= TOLERANCE:  # NaN too
                raise ExportError(
                    f"{path.name} is wrong: {name} differs from the model by {error:.2g} "
                    f"{_described(call)}; at most {TOLERANCE:g} is rounding. Nothing was written. "
                    "Update torch, onnxscript and onnxruntime, and report this if it persists."
                )
            worst = max(worst, float(error))
        step()
    return worst


def check_mask(path: Path, made: list[Call], step: Callable[[], object]) -> None:
    """Raises ExportError if the tokens at unattended positions change an output.

    In 8 bits a cosine does not show it: a few more tokens change little.

    Args:
        path: the file.
        made: the result of `calls`.
        step: called after every call.
    """
    padded = [call for call in made if (call.inputs["attention_mask"] == 0).any()]
    # pooled heads read the first token, attended or not
    padded = [call for call in padded if call.inputs["attention_mask"][..., 0].all()]
    others = []
    for call in padded:
        ids, mask = call.inputs["input_ids"], call.inputs["attention_mask"]
        swapped = np.where(mask == 0, ids[..., ::-1], ids)
        swapped = np.where((mask == 0) & (swapped == ids), np.maximum(ids - 1, 0), swapped)
        others.append(Call(call.inputs | {"input_ids": swapped}, call.outputs))
    for (call, before), (_, after) in zip(_run(path, padded), _run(path, others), strict=True):
        for name, expected in call.outputs.items():
            attended = _attended(call, name, expected)
            change = np.abs(after[name][attended] - before[name][attended]).max()
            if not change <= TOLERANCE * max(1.0, float(np.abs(before[name][attended]).max())):
                raise ExportError(
                    f"{path.name} is wrong: {name} changes by {change:.2g} with the tokens that "
                    f"attention_mask hides, {_described(call)}. Nothing was written."
                )
        step()


def check_similar(path: Path, made: list[Call], step: Callable[[], object]) -> float:
    """Raises ExportError unless a file in 8 bits stays close to the model.

    Args:
        path: the file.
        made: the result of `calls`.
        step: called after every call.

    Returns:
        The smallest cosine over attended positions; for outputs with fewer than `NARROW` values a
        position, the cosine of all positions together.
    """
    worst, together = 1.0, dict[str, list[npt.NDArray[Any]]]()
    for call, outputs in _run(path, made):
        for name, expected in call.outputs.items():
            found = _of_shape(path, name, outputs[name], expected, call)
            attended = _attended(call, name, expected)
            wide = expected.ndim > 1 and expected.shape[-1] >= NARROW and name not in _SPANS
            if wide:
                pairs = _cosines(found[attended], expected[attended])
                worst = min(worst, float(pairs.min()))
            else:
                both = np.stack([found[attended].ravel(), expected[attended].ravel()])
                together.setdefault(name, []).append(both)
        step()
    for parts in together.values():
        found, expected = np.concatenate(parts, axis=1)
        worst = min(worst, float(_cosines(found[None], expected[None]).min()))
    if not worst >= SIMILARITY:
        raise ExportError(
            f"{path.name} is too far from the model: the smallest cosine of its outputs is "
            f"{worst:.3f}, expected {SIMILARITY} or more. Export without 8 bits "
            f"({setting('int8', False)}): they are not precise enough for this model."
        )
    return worst


def check_integers(path: Path) -> None:
    """Raises ExportError if a file in 8 bits has matrices or tables in float.

    Args:
        path: the file.
    """
    graph = library("onnx_ir", "export").load(path).graph
    left = float_weights(graph)
    if left:
        raise ExportError(
            f"{path.name} is not in 8 bits: matrices or tables stayed float ({len(left)}), such as "
            f"{left[0]}. Nothing was written."
        )


def check_stored_once(path: Path, model: PretrainedModel) -> None:
    """Raises ExportError if a file stores more numbers than the model has parameters.

    Args:
        path: the float32 file.
        model: the model that it was made from.
    """
    graph = library("onnx_ir", "export").load(path).graph
    stored = sum(value.const_value.nbytes for value in graph.initializers.values())
    expected = sum(parameter.numel() * 4 for parameter in model.parameters())
    if stored > expected + 1024:  # shapes and other constants
        raise ExportError(
            f"{path.name} stores {stored:,} bytes of weights, the model has {expected:,}: shared "
            "weights were copied. Nothing was written."
        )


def float_weights(graph: Any) -> list[str]:
    """The float matrices of a graph that products or look-ups use.

    Args:
        graph: the graph of an `onnx_ir.Model`. Values computed only from initialisers count too.

    Returns:
        The names of the initialisers, or of the values computed from them.
    """
    fixed = {id(value): value for value in graph.initializers.values()}
    for node in graph:
        inputs = [value for value in node.inputs if value is not None]
        constant = node.op_type == "Constant" or bool(inputs)
        if constant and all(id(value) in fixed for value in inputs):
            fixed |= {id(value): value for value in node.outputs}
    floats = library("onnx_ir", "export").DataType.FLOAT
    found = []
    for node in graph:
        if node.op_type in ("MatMul", "Gemm", "FusedMatMul"):
            # an integer matrix that is converted to float before the product counts as float
            found += [v.name for v in node.inputs[:2] if id(v) in fixed]
        elif node.op_type == "Gather" and id(node.inputs[0]) in fixed:
            table = node.inputs[0]
            wide = table.const_value is not None and table.const_value.shape[-1:] != (1,)
            if wide and table.const_value.dtype == floats:
                found.append(table.name)
    return found


_SPANS = ("start_logits", "end_logits")


def _run(path: Path, made: list[Call]) -> Iterator[tuple[Call, Arrays]]:
    """Yields each call with the outputs of a file for it."""
    engine = library("onnxruntime", "export")
    options = engine.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised
    try:
        session = engine.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise ExportError(f"onnxruntime does not load {path.name}: {problem}") from problem
    names = [output.name for output in session.get_outputs()]
    takes = [put.name for put in session.get_inputs()]
    if set(takes) != set(made[0].inputs) or set(names) != set(made[0].outputs):
        raise ExportError(
            f"{path.name} has the inputs {', '.join(takes)} and the outputs {', '.join(names)}: "
            f"expected {', '.join(made[0].inputs)} and {', '.join(made[0].outputs)}."
        )
    for call in made:
        try:
            values = session.run(names, call.inputs)
        except Exception as problem:
            raise ExportError(
                f"{path.name} does not run {_described(call)}: it was recorded only for other "
                f"sizes. {problem}"
            ) from problem
        yield call, dict(zip(names, values, strict=True))


def _of_shape(
    path: Path, name: str, found: npt.NDArray[Any], expected: npt.NDArray[Any], call: Call
) -> npt.NDArray[Any]:
    if found.shape != expected.shape:
        raise ExportError(
            f"{path.name} is wrong: {name} has shape {found.shape} {_described(call)}, the model "
            f"gives {expected.shape}."
        )
    return found


def _attended(call: Call, name: str, output: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """The positions of an output to compare: (B, S) attended tokens, or (B,) all texts."""
    if output.ndim == 3 or name in _SPANS:
        mask: npt.NDArray[np.bool_] = call.inputs["attention_mask"] != 0
        return mask
    return np.ones(output.shape[:1], dtype=bool)


def _cosines(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The cosine of each row; 1 where both are zero."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    same = (a == b).all(axis=-1)
    cosines: npt.NDArray[np.float64] = np.where(
        same, 1.0, (a * b).sum(axis=-1) / np.where(lengths > 0, lengths, 1.0)
    )
    return cosines


def _described(call: Call) -> str:
    mask = call.inputs["attention_mask"]
    padded = f", {int((mask == 0).sum())} of them padding" if (mask == 0).any() else ""
    return f"for input_ids of shape {mask.shape}{padded}"
