"""Whether somebody watches a program's progress."""

from __future__ import annotations

import sys

DELAY = 2.0  # seconds before a progress bar appears


def is_watched() -> bool:
    """Whether a progress bar has a reader: stderr is a terminal, or this runs in a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") or sys.stderr.isatty()
