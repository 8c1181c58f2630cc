"""The identity of a run, as short values for settings.json.

Weights that are drawn or computed are identified by what they are made from, not by their numbers:
those differ in the last bits between machines and numbers of threads, which a run may change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import nn

from minilm.models.digest import weights_digest as weights_digest
from minilm.models.pretrained import PretrainedModel


def loaded_start(model: PretrainedModel, seed: int) -> dict[str, Any]:
    """What identifies the initial weights of a model that came from a checkpoint.

    Args:
        model: as `from_pretrained` made it.
        seed: the seed of the parts that the checkpoint did not store.

    Returns:
        {"weights": digest of the stored tensors, "fresh": names of the others, "seed": their seed}.
    """
    report = model.load_report
    entries = [] if report is None else report.of("new", "mismatched")
    fresh = sorted(entry.own for entry in entries if entry.own)
    stored = {"weights": weights_digest(model, fresh)}
    return {**stored, "fresh": fresh, "seed": seed} if fresh else stored


def frozen_parameters(model: nn.Module) -> list[str]:
    """The parameters that are not trained, sorted."""
    return sorted(name for name, value in model.named_parameters() if not value.requires_grad)


def examples_digest(examples: Sequence[Any]) -> str:
    """A short name for exactly these examples of a task: texts and answers, in this order."""
    summary = hashlib.blake2b(digest_size=16)
    for example in examples:
        values = dataclasses.asdict(example)
        line = json.dumps(values, ensure_ascii=False, sort_keys=True, default=_plain)
        summary.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return summary.hexdigest()


def _plain(value: Any) -> Any:
    """numpy arrays and scalars, and tensors, as lists and numbers."""
    return value.tolist()
