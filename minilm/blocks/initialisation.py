"""Initial values of new weights, and modules whose weights have no values yet."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minilm.blocks.int8 import QuantizedWeight, quantize_weight


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules on the meta device: with shapes and dtypes, without memory or values.

    With `torch.device("meta")` alone, normal draws without any effect would make PyTorch import its
    compiler, which takes more than a second. `materialize` provides the memory afterwards.
    """
    with torch.device("meta"), _NoNormalDraws():
        yield


class _NoNormalDraws(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return None if func is nn.init.normal_ else func(*args, **(kwargs or {}))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw new weights from a separate generator, in this thread.

    The numbers are those that `torch.manual_seed(seed)` would give, but the generator that all
    threads share is neither read nor changed: two runs in one process start as each would alone.

    Args:
        seed: seed of the generator.
    """
    with _OwnGenerator(torch.Generator().manual_seed(seed)):
        yield


class _OwnGenerator(TorchFunctionMode):
    # the functions by which torch's modules and ours draw; all of them take a generator
    _DRAWS = (
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_uniform_,
        nn.init.orthogonal_,
    )

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self._generator = generator

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in self._DRAWS and given.get("generator") is None:
            tensor = args[0] if args else given["tensor"]
            if tensor.device.type == "cpu":
                given["generator"] = self._generator
        return func(*args, **given)


def materialize(module: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give every parameter memory, with arbitrary values in it.

    Modules that are used in several places stay shared; a parameter must belong to one module only.
    Replaces `module.to(dtype).to_empty(device)`, which makes PyTorch import sympy: 0.4 seconds.
    """
    for part in module.modules():
        for name, old in part.named_parameters(recurse=False):
            kept = dtype if old.is_floating_point() else old.dtype
            new = torch.empty(old.shape, dtype=kept, device=device)
            setattr(part, name, nn.Parameter(new, requires_grad=old.requires_grad))


@torch.no_grad()
def initialise(module: nn.Module, *, std: float, truncated: bool = False) -> None:
    """Give every parameter of `module` and its children its initial value, in place.

    Matrices and embeddings are drawn from N(0, std), biases are 0, norms are (1, 0), and the
    padding row of an embedding is 0, as in Hugging Face.

    Args:
        module: the module to initialise.
        std: standard deviation of the normal distribution.
        truncated: redraw values beyond two standard deviations and leave the padding row as drawn,
            as Google's code does; the standard deviation of the result is about 0.88 x `std`.

    References: `create_initializer` in google-research/albert modeling.py.
    """

    def draw(weight: Tensor) -> None:
        if truncated:
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        else:
            nn.init.normal_(weight, std=std)

    for part in module.modules():
        if isinstance(part, nn.Linear):
            draw(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            draw(part.weight)
            if part.padding_idx is not None and not truncated:
                part.weight[part.padding_idx].zero_()
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, QuantizedWeight):
            drawn = torch.empty(part.weight.shape)
            draw(drawn)
            for parameter, values in zip(part.parameters(), quantize_weight(drawn), strict=False):
                parameter.copy_(values)
            for name, parameter in part.named_parameters():
                if name == "bias":
                    nn.init.zeros_(parameter)
        else:  # a bias of the module itself, as in the masked-LM head
            for parameter in part.parameters(recurse=False):
                nn.init.zeros_(parameter)
