"""Type aliases for arrays, and writing an array to a file."""

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
    """Returns a function that writes an array as a .npy file, for `replace_files`."""

    def write(path: Path) -> None:
        with path.open("wb") as file:  # np.save would add .npy to a name
            np.save(file, array, allow_pickle=False)

    return write
