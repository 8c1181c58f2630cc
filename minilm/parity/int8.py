"""Verifies 8-bit checkpoints. Transformers cannot read them, so other comparisons are made: of the
kernel with exact arithmetic, of single texts with texts in a batch, and of the model with a float
model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.blocks.int8 import QuantizedWeight, Rows, emulated_product, float_weight, input_bits
from minilm.checkpoints.config_file import read_config
from minilm.checkpoints.hub import resolve
from minilm.errors import CheckpointError
from minilm.loader import load
from minilm.models.int8 import is_int8, stored_int8, to_float
from minilm.models.pretrained import PretrainedModel
from minilm.parity.inputs import ragged_inputs
from minilm.parity.report import ParityReport, Row

# The largest allowed 1 - cosine between a text's vector and that of the float model. It is larger
# for random ids than for texts, and with seven bits than with eight.
MAX_DISTANCE = 0.05
ROWS = (1, 33)  # numbers of rows of the compared products


def is_int8_checkpoint(path_or_repo: str) -> bool:
    """Whether a directory, or a repository of the hub, was saved in 8 bits."""
    directory = resolve(path_or_repo)
    return stored_int8(read_config(directory), directory)


def verify_int8(path_or_repo: str, original: str | None = None, seed: int = 0) -> ParityReport:
    """Check an 8-bit checkpoint on this machine.

    Args:
        path_or_repo: a checkpoint saved in 8 bits.
        original: the float checkpoint that it was made from; its weights must be within half a step
            of the stored ones. None = compare with the dequantised weights.
        seed: seed of all random numbers.

    Returns:
        A row for every matrix: the largest difference between its products and exact integer
        arithmetic, which must be 0, and with `original` the largest difference of a weight in
        steps; a row for single texts against texts in a batch, which must be 0; and one for the
        largest 1 - cosine between mean states of the two models.

    Raises:
        CheckpointError: the checkpoint is not in 8 bits, or `original` has other shapes.
    """
    directory = resolve(path_or_repo)
    model = load(directory, new_parts="allow")
    if not is_int8(model):
        raise CheckpointError(f"{directory} is not stored in 8 bits.")
    reference = to_float(model) if original is None else load(original, new_parts="allow")
    source = "the float numbers of its own weights" if original is None else str(original)
    report = ParityReport(str(directory), f"exact integer arithmetic and {source}")
    report.notes.append(
        f"Inputs of products have {input_bits()} bits on this processor. Transformers cannot read "
        "this format: verify the float checkpoint that it was made from."
    )

    def add(module: str, difference: float, tolerance: float) -> None:
        name = type(model).__name__
        report.rows.append(Row(name, module, "int8", "none", "packed", difference, tolerance))

    floats = dict(reference.named_modules())
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        for name, part in model.named_modules():
            if isinstance(part, QuantizedWeight):
                add(name, _product_difference(part, generator), 0.0)
                if original is not None:
                    add(f"weight of {name}", _steps(part, floats.get(name), name), 0.501)
        add("a text alone and in a batch", _batch_difference(model, seed), 0.0)
        add("1 - cosine of text vectors", _distance(model, reference, seed), MAX_DISTANCE)
    return report


def _product_difference(part: QuantizedWeight, generator: torch.Generator) -> float:
    width, worst = part.weight.shape[1], 0.0
    for rows in ROWS:
        shape = (rows, width)
        values = torch.randint(1 << input_bits(), shape, generator=generator).to(torch.uint8)
        values[0] = (1 << input_bits()) - 1  # the largest inputs, which saturate first
        given = Rows(values, torch.ones(rows, 1), torch.zeros(rows, 1))
        found = part.multiply(given, torch.zeros(len(part.weight)))
        expected = emulated_product(given, part.weight, part.scale)
        worst = max(worst, float((found - expected).abs().max()))
    return worst


def _steps(part: QuantizedWeight, original: torch.nn.Module | None, name: str) -> float:
    if original is None or float_weight(original).shape != part.weight.shape:
        raise CheckpointError(f"The float checkpoint has no {name} of the same shape.")
    difference = (float_weight(original).float() - part.dequantized()).abs()
    return float((difference / part.scale[:, None]).max())


def _vectors(model: PretrainedModel, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """The states of some texts, (S, H) each: all in one batch, and each alone."""
    inputs = ragged_inputs(model.config, "right", seed=seed)
    texts = [row[attended] for row, attended in zip(inputs.input_ids, inputs.attended, strict=True)]
    base = model.base
    lengths = [len(text) for text in texts]
    together = base(torch.cat(texts), lengths=lengths).last_hidden_state.split(lengths)
    return list(together), [base(t, lengths=[len(t)]).last_hidden_state for t in texts]


def _batch_difference(model: PretrainedModel, seed: int) -> float:
    pairs = zip(*_vectors(model, seed), strict=True)
    return max(float((together - alone).abs().max()) for together, alone in pairs)


def _distance(model: PretrainedModel, reference: PretrainedModel, seed: int) -> float:
    pairs = zip(_vectors(model, seed)[0], _vectors(reference, seed)[0], strict=True)
    cosines = [F.cosine_similarity(a.mean(0), b.float().mean(0), dim=0) for a, b in pairs]
    return float(1 - torch.stack(cosines).min())
