"""Optional packages, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minilm.errors import DependencyError


def library(module: str, extra: str) -> Any:
    """Imports an optional module.

    Args:
        module: name of the module, such as "onnxruntime" or "onnxruntime.quantization".
        extra: the extra of minilm that installs it together with related packages.

    Raises:
        DependencyError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as problem:
        package = module.partition(".")[0]
        raise DependencyError(
            f"{package} is not installed: pip install {package}, or pip install 'minilm[{extra}]' "
            f"for it and all related packages ({problem})."
        ) from problem
