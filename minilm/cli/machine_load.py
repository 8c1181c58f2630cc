"""What commands that measure report about the load of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from minilm.bench.load import busy_warning


def warn_if_busy(load: Mapping[str, Any]) -> None:
    """Writes a warning to stderr if others used the machine while something was measured.

    Args:
        load: what `LoadWatch.report` returned.
    """
    warning = busy_warning(load)
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)


def extremes(row: Mapping[str, float]) -> str:
    """The fastest and the slowest of all rounds, in seconds."""
    return f"({row['lowest']:.2f}–{row['highest']:.2f})"
