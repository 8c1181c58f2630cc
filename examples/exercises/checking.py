"""What the checks of the exercises have in common: a name for every usual mistake."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


class WrongAnswer(Exception):  # noqa: N818, a learner's answer is not an error of the program
    """An answer that is not right, with what is probably wrong about it."""


def equal(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether two tensors have one shape and nearly the same numbers."""
    return found.shape == wanted.shape and torch.allclose(
        found.double(), wanted.double(), rtol=tolerance, atol=tolerance
    )


def require(condition: bool, message: str) -> None:
    """Ends the check with this message if something does not hold."""
    if not condition:
        raise WrongAnswer(message)


def require_tensor(name: str, found: object, shape: tuple[int, ...]) -> None:
    """Ends the check unless `found` is a tensor of this shape without NaN."""
    require(
        isinstance(found, Tensor),
        f"{name} is {type(found).__name__}, not a tensor. Is there a `return`?",
    )
    assert isinstance(found, Tensor)
    require(
        tuple(found.shape) == shape, f"{name} has the shape {tuple(found.shape)}, expected {shape}."
    )
    require(not bool(found.isnan().any()), f"{name} contains NaN (for example 0 / 0).")


def explain(found: Tensor, wanted: Tensor, mistakes: dict[str, Tensor], what: str) -> None:
    """Compares an answer with the right one and, where it differs, with wrong ones.

    Args:
        found: the answer.
        wanted: the right one.
        mistakes: what to say for each wrong one.
        what: the name of the value, for a mistake that is none of these.

    Raises:
        WrongAnswer: they differ.
    """
    if equal(found, wanted):
        return
    for message, value in mistakes.items():
        if equal(found, value):
            raise WrongAnswer(message)
    raise WrongAnswer(f"{what} is {_short(found)}, expected {_short(wanted)}.")


def _short(values: Tensor) -> str:
    numbers = ", ".join(f"{value:.4f}" for value in values.detach().flatten()[:4].tolist())
    if values.dim() == 0:
        return numbers
    return f"[{numbers}{', ...' if values.numel() > 4 else ''}]"


def run(check: Callable[..., None], *answers: Callable[..., object]) -> None:
    """Runs the check of an exercise on the functions of the file, and ends the program.

    The exit code is 0 if the check passes and 1 if it does not.
    """
    name = Path(sys.argv[0]).name
    torch.manual_seed(0)
    try:
        check(*answers)
    except NotImplementedError as error:
        print(f"{name}: there is still a gap to fill. {error}")
        sys.exit(1)
    except WrongAnswer as error:
        print(f"{name}: not yet. {error}")
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        print(f"{name}: your code ended with the error above.")
        sys.exit(1)
    print(f"{name}: passed. The same lines in the library are named at the top of the file.")
