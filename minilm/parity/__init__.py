"""Is minilm equal to Hugging Face? Answered in numbers, module by module.

    report = verify("path/to/checkpoint")   # both libraries load the user's own files
    report.passed, report.first_divergence
    print(report)

`compare` is the core, for a minilm model and the transformers model with the same weights; the
command `minilm verify` and the test-suite both use it. Each side is observed on the same ragged
inputs. An observation is a dictionary of tensors by module name, in the order in which they are
computed, so the first row that fails names the place to look at.

minilm differs from Hugging Face on purpose in the places below. Their side is brought to what
minilm documents, then whole tensors are compared; nothing is left out.

- States and token logits at unattended positions are zero, span logits the smallest finite number.
- The span loss runs over attended positions only.
- A packed call has no empty sequence, and its first token is the first attended one: masks that
  leave a row empty, or column 0 unattended below a head that reads it, are not packed calls.

The oracle runs its eager attention, the form with the formula spelled out.
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

# other names of the same
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
