"""The report of a comparison: one row per tensor, the table, and the verdict."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """The comparison of one tensor.

    Attributes:
        model: name of the class.
        module: "embeddings", "layer 3", "layer 3 maps", "pooler_output", "logits", "loss",
            "gradient of encoder.layers.0...", ...
        dtype: the dtype of the parameters.
        mask: the kind of mask, one of `MASKS`.
        call: the kind of call, one of `CALLS`.
        difference: the largest |difference|; infinity for another shape, NaN or a missing tensor.
        tolerance: the largest |difference| allowed.
    """

    model: str
    module: str
    dtype: str
    mask: str
    call: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        return (
            f"{self.model}, {self.module}: {self.difference:.1e} > {self.tolerance:.1e} "
            f"({self.dtype}, mask {self.mask}, {self.call} call)"
        )


@dataclass
class ParityReport:
    """All comparisons. `print(report)` shows the largest difference of every module.

    Attributes:
        source: what was compared.
        against: what it was compared with.
        rows: one for each tensor, dtype, mask and call.
        notes: what was not compared, and why.
    """

    source: str
    against: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether anything was compared and every difference is within its tolerance."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def first_divergence(self) -> Row | None:
        """The failed row that comes first in the computation, or None."""
        order = {key: place for place, key in enumerate(self.maxima())}
        failed = [row for row in self.rows if not row.passed]
        return min(failed, key=lambda row: order[row.model, row.module], default=None)

    def maxima(self) -> dict[tuple[str, str], dict[str, Row]]:
        """The worst row of each dtype for each (model, module), in the order of computation."""
        return _worst(self.rows, lambda row: row.module)

    def as_dict(self) -> dict[str, Any]:
        """For --json: verdict, the worst row of every module and dtype, and all rows."""
        first = self.first_divergence
        return {
            "source": self.source,
            "against": self.against,
            "passed": self.passed,
            "first_divergence": None if first is None else _plain(first),
            "maxima": [_plain(row) for worst in self.maxima().values() for row in worst.values()],
            "notes": self.notes,
            "rows": [_plain(row) for row in self.rows],
        }

    def __str__(self) -> str:
        dtypes = list(dict.fromkeys(row.dtype for row in self.rows))
        table = _worst(self.rows, self._line)
        width = max([24, *(len(line) + 4 for _, line in table)])
        heading = "largest |difference|".ljust(width) + "".join(map(_heading, dtypes))
        lines = [self.source, f"against {self.against}", "", heading.rstrip()]
        title = ""
        for (model, line), worst in table.items():
            if model != title:
                title = model
                lines.append(model)
            cells = (_cell(worst.get(dtype)) for dtype in dtypes)
            lines.append((f"  {line}".ljust(width) + "".join(cells)).rstrip())
        lines += ["", *self.notes]
        total, first = len(self.rows), self.first_divergence
        if first is not None:
            failed = sum(not row.passed for row in self.rows)
            lines.append(f"DIFFERENT in {failed} of {total} comparisons.")
            lines.append(f"First divergence: {first}.")
        elif total:
            lines.append(f"Equal within tolerance in {total} of {total} comparisons.")
        else:
            lines.append("Nothing could be compared.")
        return "\n".join(lines)

    def _line(self, row: Row) -> str:
        """The line of the table for a row; layers are listed separately for one model only."""
        if row.module.endswith(" maps"):
            return "attention maps"
        if row.module.startswith("gradient of "):
            return "gradients"
        states = row.module == "embeddings" or row.module.startswith("layer ")
        return "hidden states" if states and row.model != self.rows[0].model else row.module


def _worst(rows: list[Row], line: Callable[[Row], str]) -> dict[tuple[str, str], dict[str, Row]]:
    table: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        worst = table.setdefault((row.model, line(row)), {})
        if row.dtype not in worst or _excess(row) > _excess(worst[row.dtype]):
            worst[row.dtype] = row
    return table


def _excess(row: Row) -> float:
    """How far beyond its tolerance a difference is; differences of 0 are compared too."""
    return row.difference / max(row.tolerance, sys.float_info.min)


def _plain(row: Row) -> dict[str, Any]:
    """A row for JSON, which has no value for infinity."""
    difference = row.difference if math.isfinite(row.difference) else None
    return asdict(row) | {"difference": difference, "passed": row.passed}


def _heading(dtype: str) -> str:
    return f"{dtype:>9} {'allowed':>8}   "


def _cell(row: Row | None) -> str:
    if row is None:
        return " " * 21
    return f"{row.difference:>9.1e} {row.tolerance:>8.0e} {' ' if row.passed else '!'} "
