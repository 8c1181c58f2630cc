"""pyarrow, the optional library for Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minilm.errors import DependencyError


def pyarrow_for(path: Path) -> tuple[Any, Any]:
    """Imports pyarrow and its module for Parquet.

    Args:
        path: the file to be read, for the message.

    Raises:
        DependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as problem:
        raise DependencyError(
            f"{path}: for Parquet files, install pyarrow: pip install 'minilm[parquet]'."
        ) from problem
    return pyarrow, parquet
