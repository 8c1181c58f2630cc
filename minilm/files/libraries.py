"""Packages that only some users need, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minilm.errors import DependencyError


def library(module: str, extra: str) -> Any:
    """An optional module.

    Args:
        module: such as "onnxruntime" or "onnxruntime.quantization".
        extra: that of minilm which installs it with everything that goes with it.

    Raises:
        DependencyError: it is not installed; says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        raise DependencyError(
            f"{package} is not installed: pip install {package}, or pip install 'minilm[{extra}]' "
            f"for all that goes with it ({problem})."
        ) from problem
