"""The types of arrays, named once, and how one is stored; what axes are is said where they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Integers: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = npt.NDArray[np.bool_]


def npy_writer(array: npt.NDArray[Any]) -> Callable[[Path], object]:
    """Writes an array as a .npy file; for `minilm.files.atomic.replace_files`."""

    def write(path: Path) -> None:
        with path.open("wb") as file:  # np.save would add .npy to a name
            np.save(file, array, allow_pickle=False)

    return write
