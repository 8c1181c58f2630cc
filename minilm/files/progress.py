"""Whether to show progress, and the format of counts and times in messages."""

from __future__ import annotations

import sys

DELAY = 2.0  # seconds before a progress bar appears


def is_watched() -> bool:
    """Whether a progress bar will be seen: stderr is a terminal, or this runs in a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or sys.stderr.isatty()


def counted(number: int, unit: str) -> str:
    """A number with a unit in singular or plural: "1 text", "1,234 texts", "2 batches"."""
    ending = "es" if unit.endswith(("s", "ch")) else "s"
    return f"{number:,} {unit}{'' if number == 1 else ending}"


def cut_message(cut: int, total: int, unit: str, limit: int) -> str:
    """A warning about cut texts: "1 of 3 texts was longer than 64 tokens and was cut." """
    were = "was" if cut == 1 else "were"
    of = f"{cut:,} of {counted(total, unit)}"
    return f"{of} {were} longer than {counted(limit, 'token')} and {were} cut."


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds: "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
