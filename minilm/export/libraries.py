"""The packages that write and run ONNX files, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minilm.errors import DependencyError


def library(name: str) -> Any:
    """A module of onnx, onnxscript, onnx_ir or onnxruntime.

    Args:
        name: of the module, such as "onnxruntime".

    Raises:
        DependencyError: it is not installed.
    """
    assert name.split(".")[0] in ("onnx", "onnxscript", "onnx_ir", "onnxruntime")
    try:
        return import_module(name)
    except ImportError as problem:
        raise DependencyError(
            f"To export models, install onnx, onnxscript and onnxruntime: pip install "
            f"'minilm[export]' ({problem})."
        ) from problem
