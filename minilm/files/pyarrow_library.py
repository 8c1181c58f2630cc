"""The one library that Parquet is read with, if it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilm.errors import DependencyError


def pyarrow_for(path: Path) -> tuple[Any, Any]:
    """pyarrow, and its module for Parquet.

    Args:
        path: of the file that is to be read, for the message.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as problem:
        raise DependencyError(
            f"{path}: for Parquet files, install pyarrow: pip install 'minilm[parquet]'."
        ) from problem
    return pyarrow, parquet
