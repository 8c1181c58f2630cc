"""Compares minilm with Hugging Face numerically, module by module.

    report = verify("path/to/checkpoint")   # both libraries load the user's own files
    report.passed, report.first_divergence
    print(report)

`compare` is the core, for a minilm model and the transformers model with the same weights; the
command `minilm verify` and the test suite both use it. Both models run on the same inputs with
padding. An observation is a dictionary of tensors by module name, in the order in which they are
computed, so the first failed row shows where to look.

minilm differs from Hugging Face on purpose in the points below. The other side's outputs are
adjusted to what minilm documents, then whole tensors are compared; nothing is left out.

- States and token logits at unattended positions are zero, span logits the lowest finite number.
- The span loss is over attended positions only.
- A packed call has no empty sequence, and its first token is the first attended one: masks with an
  empty row, or with column 0 unattended if a head reads it, are not compared in packed calls.

The reference, transformers, runs with its eager attention, which computes the formula step by step.
"""

from minilm.parity.checkpoint import reference_model, stored_classes, verify
from minilm.parity.comparison import (
    CALLS,
    TOLERANCES,
    Tolerances,
    compare,
    compare_rows,
    max_difference,
)
from minilm.parity.inputs import CHOICES, MASKS, Inputs, ragged_inputs, random_labels
from minilm.parity.observation import run_ours, run_reference
from minilm.parity.report import ParityReport, Row

# other names
twin, rows_of = reference_model, compare_rows
observe_ours, observe_theirs = run_ours, run_reference

__all__ = [
    "CALLS",
    "CHOICES",
    "MASKS",
    "TOLERANCES",
    "Inputs",
    "ParityReport",
    "Row",
    "Tolerances",
    "compare",
    "compare_rows",
    "max_difference",
    "observe_ours",
    "observe_theirs",
    "ragged_inputs",
    "random_labels",
    "reference_model",
    "rows_of",
    "run_ours",
    "run_reference",
    "stored_classes",
    "twin",
    "verify",
]
