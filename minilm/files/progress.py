"""Progress of a program: whether somebody watches it, and times as it shows them."""

from __future__ import annotations

import sys

DELAY = 2.0  # seconds before a progress bar appears


def is_watched() -> bool:
    """Whether a progress bar has a reader: stderr is a terminal, or this runs in a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
