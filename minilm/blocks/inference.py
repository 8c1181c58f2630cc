"""Runs a layer in the way that is fastest on a CPU when only its result is needed.

Under `torch.inference_mode()` a layer takes four matrix products instead of six: query, key and
value are computed by one, and bias, activation and residual are added while a product is written.
The weights are *packed*: copied once into the order in which oneDNN reads them. This matters most
for short texts, whose products read every weight and compute little with it. In 8 bits the
products are those of int8.py, to the bit.

The copy is derived and never authoritative: a model loads, saves, moves and copies its parameters
alone. The copy is made at the first call and used as long as it matches the parameters:

- Every parameter that was copied is still the same object, at the same address and version. Every
  change that autograd can see (optimisers, `copy_`, `load_state_dict`, `.to()`) leads to a new
  copy.
- Changes that autograd cannot see, made through `.data` or a numpy array, are looked for in every
  copied bias and in a sample of every matrix: one number in every few rows. A change to a single
  number or row can go unnoticed; `model.eval()` and `model.train()` always drop the copy.

The layer runs as the papers describe it wherever a part of it is watched or changed: with hooks,
with other modules in it (adapters, parametrisations), with gradients, autocast, dispatch modes or
anything that records the call; also outside of inference mode, and within
`minilm.attention("explicit")`. Both ways are equal up to rounding.

The copies take as much memory again as the weights of the layers; `torch.no_grad()` instead of
inference mode avoids them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_globals

from minilm.blocks import int8, kernels
from minilm.blocks.activations import Activation, gelu, gelu_tanh
from minilm.blocks.derived import Source
from minilm.blocks.dropout import Dropout
from minilm.blocks.int8 import QuantizedLinear
from minilm.blocks.layout import Layout

if TYPE_CHECKING:
    from minilm.blocks.transformer import TransformerLayer

# When only first tokens are needed, up to this many tokens get a query although it is not read.
FIRST_ONLY_UNTIL = 256

# functions that oneDNN applies while it writes a product: name and variant
FUSED: dict[Activation, tuple[str, str]] = {
    gelu: ("gelu", "none"),
    gelu_tanh: ("gelu", "tanh"),
    F.relu: ("relu", ""),
    F.silu: ("swish", ""),
}
NOT_FUSED = ("none", "")
# attributes of parts that affect the result
SETTINGS = ("num_heads", "activation", "eps", "normalized_shape")
DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """The packed weights of one layer, and a record of what they were copied from.

    Attributes:
        product: computes x W^T + b with an activation, for packed W.
        added: computes x W^T + b + y.
        qkv, output, up, down: packed weights, each with its bias; query, key and value share one
            matrix, (3H, H).
        heads: A.
        fused: the function that is fused with the first product of the feed-forward block.
        activation: the function to apply after that product if it cannot be fused; else None.
        attention_norm, feed_forward_norm: arguments of the norms, besides the states.
        held: the dictionaries in which modules keep their parts and parameters.
        contents: the objects that were in them.
        watched: the dictionaries in which modules keep their hooks.
        own: the attribute dictionaries of all parts.
        active: the parts that behave differently in train mode.
        settings: the attributes that affect the result: dictionary, name and value.
        source: the parameters that were copied.
    """

    product: Callable[..., Tensor]
    added: Callable[..., Tensor]
    qkv: tuple[Any, Tensor]
    output: tuple[Any, Tensor]
    up: tuple[Any, Tensor]
    down: tuple[Any, Tensor]
    heads: int
    fused: tuple[str, str]
    activation: Activation | None
    attention_norm: tuple[Any, ...]
    feed_forward_norm: tuple[Any, ...]
    held: tuple[dict[str, Any], ...]
    contents: list[Any]
    watched: tuple[dict[Any, Any], ...]
    own: tuple[dict[str, Any], ...]
    active: tuple[nn.Module, ...]
    settings: list[tuple[dict[str, Any], str, Any]]
    source: Source

    def fits(self) -> bool:
        """Whether the layer's parts, hooks, parameters and their values are unchanged."""
        return (
            not any(self.watched)
            and not any(part.training for part in self.active)
            and not any("forward" in attributes for attributes in self.own)
            and all(attributes[name] == value for attributes, name, value in self.settings)
            and _all_same(self.held, self.contents)
            and self.source.fits(*self.source.tensors)
        )


def _all_same(held: Iterable[dict[str, Any]], contents: list[Any]) -> bool:
    """Whether the dictionaries hold exactly these objects."""
    found = list(chain.from_iterable(map(dict.values, held)))
    return len(found) == len(contents) and all(map(is_, found, contents))


_packed: WeakKeyDictionary[nn.Module, PackedLayer] = WeakKeyDictionary()


def forget(layer: nn.Module) -> None:
    """Drops the copy of a layer's weights."""
    _packed.pop(layer, None)


def run_packed(
    layer: TransformerLayer, hidden: Tensor, layout: Layout, first_only: bool
) -> Tensor | None:
    """Computes the result of `TransformerLayer.forward` with packed weights.

    Args:
        layer: a complete layer.
        hidden, layout, first_only: as in `TransformerLayer.forward`.

    Returns:
        (..., H), or (B, H) with `first_only`; None if the layer has to compute it itself.
    """
    if torch.compiler.is_compiling():  # the code below cannot be compiled
        return None
    if not torch.is_inference_mode_enabled():
        if layer in _packed:  # code outside inference may change weights without a new version
            forget(layer)
        return None
    if layer.training or not _may_run(hidden, layout):
        return None
    if first_only and hidden.shape[:-1].numel() > FIRST_ONLY_UNTIL:
        return None
    packed = _packed.get(layer)
    if packed is None or not packed.fits():
        forget(layer)
        if not _plain(layer, hidden.dtype):
            return None
        packed = _packed[layer] = _pack(layer)
    return _apply(packed, hidden, layout, first_only)


def _apply(packed: PackedLayer, hidden: Tensor, layout: Layout, first_only: bool) -> Tensor:
    *order, width = hidden.shape
    hidden = hidden.reshape(-1, width)  # (T, H)
    three = packed.product(hidden, *packed.qkv, "none", [], "")  # (T, 3H)
    three = three.view(*order, 3, packed.heads, width // packed.heads)  # (..., 3, A, D)
    query, key, value = three.unbind(-3)  # (..., A, D)
    if first_only:
        query, hidden = layout.first(query), layout.first(hidden.view(*order, width))
        order = [len(hidden)]
    context, _ = kernels.attend(query, key, value, layout, 0.0, first_only=first_only)
    context = context.reshape(-1, width)  # (T, H)
    hidden = torch.layer_norm(
        packed.added(context, hidden, *packed.output, "add"), *packed.attention_norm
    )  # (T, H)
    if len(hidden) <= kernels.TOKENS_AT_ONCE:
        update = _feed_forward(packed, hidden)
    else:
        parts = torch.split(hidden, kernels.TOKENS_AT_ONCE)
        update = torch.cat([_feed_forward(packed, part) for part in parts])
    return torch.layer_norm(update, *packed.feed_forward_norm).view(*order, width)


def _feed_forward(packed: PackedLayer, hidden: Tensor) -> Tensor:
    """The feed-forward block and its residual, (t, H) -> (t, H)."""
    name, variant = packed.fused
    wide = packed.product(hidden, *packed.up, name, [], variant)  # (t, I)
    if packed.activation is not None:
        wide = packed.activation(wide)
    return packed.added(wide, hidden, *packed.down, "add")


def _may_run(hidden: Tensor, layout: Layout) -> bool:
    """Whether fused products may be used: nothing records the call, and the device has them."""
    if layout.explicit or hidden.device.type != "cpu" or type(hidden) is not Tensor:
        return False
    if _unwatched not in layout.derived:
        layout.derived[_unwatched] = _unwatched()
    return layout.derived[_unwatched] and hidden.dtype in DTYPES and 0 not in hidden.shape


def _unwatched() -> bool:
    return (
        not torch._C._is_tracing()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
        and not torch.is_autocast_enabled("cpu")
        and torch._C._get_mkldnn_enabled()
        and not module_globals._global_forward_hooks
        and not module_globals._global_forward_pre_hooks
        and all(kind.forward is forward for kind, forward in FORWARDS.items())
    )


def _has_bfloat16() -> bool:
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported


# The original methods of a layer's parts: if a program replaces one, its method is used.
FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    kind: kind.forward for kind in (nn.Linear, QuantizedLinear, nn.LayerNorm, Dropout)
}


def register(*kinds: type[nn.Module]) -> None:
    """Declares these classes as parts of a layer, with the `forward` that they have now."""
    FORWARDS.update({kind: kind.forward for kind in kinds})


def _plain(layer: TransformerLayer, dtype: torch.dtype) -> bool:
    """Whether every part is as it was built, with ordinary parameters and without hooks."""
    if dtype is torch.bfloat16 and not _has_bfloat16():
        return False
    linears = _linears(layer)
    if len(set(map(type, linears))) > 1:
        return False
    if isinstance(linears[0], QuantizedLinear) and not int8.has_kernel(linears[0].weight):
        return False
    for part in _parts(layer):
        if type(part) not in FORWARDS or "forward" in part.__dict__:
            return False
        if part.training or any(_watched(part)):
            return False
        if type(part) is nn.Linear and part.bias is None:
            return False
        for parameter in part._parameters.values():
            if (
                type(parameter) is not nn.Parameter
                or (parameter.dtype is not dtype and type(part) is not QuantizedLinear)
                or parameter.device.type != "cpu"
                or parameter.layout is not torch.strided
                or not parameter.is_contiguous()
                or parameter.is_inference()  # has no version
            ):
                return False
    return True


def _parts(layer: TransformerLayer) -> list[nn.Module]:
    """All modules within the layer."""
    return [part for part in layer.modules() if part is not layer]


def _watched(part: nn.Module) -> tuple[dict[Any, Any], ...]:
    return part._forward_hooks, part._forward_pre_hooks


def _linears(layer: TransformerLayer) -> list[Any]:
    """The linear layers: query, key, value; output; the two of the feed-forward block."""
    attention, feed_forward = layer.attention, layer.feed_forward
    three = [attention.query, attention.key, attention.value]
    return [*three, attention.output, feed_forward.intermediate, feed_forward.output]


def _pack_linears(*linears: nn.Linear) -> tuple[Tensor, Tensor]:
    """The weights of several linear layers as one packed matrix, and its bias."""
    weight, bias = linears[0].weight.detach(), linears[0].bias.detach()
    if len(linears) > 1:
        weight = torch.cat([linear.weight for linear in linears])
        bias = torch.cat([linear.bias for linear in linears])
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed, bias


def _pack(layer: TransformerLayer) -> PackedLayer:
    attention, feed_forward, linears = layer.attention, layer.feed_forward, _linears(layer)
    both: Any = torch.ops.mkldnn._linear_pointwise
    product, added = both.default, both.binary
    pack: Callable[..., tuple[Any, Tensor]] = _pack_linears
    fused = FUSED.get(feed_forward.activation, NOT_FUSED)
    if isinstance(linears[0], QuantizedLinear):
        product, added, pack = int8.product, int8.added, int8.pack_linears
        fused = NOT_FUSED
    modules = [layer, *_parts(layer)]
    held = tuple(one for m in modules for one in (m._modules, m._parameters) if one)
    own = tuple(m.__dict__ for m in modules[1:])
    return PackedLayer(
        product=product,
        added=added,
        qkv=pack(*linears[:3]),
        output=pack(linears[3]),
        up=pack(linears[4]),
        down=pack(linears[5]),
        heads=attention.num_heads,
        fused=fused,
        activation=feed_forward.activation if fused is NOT_FUSED else None,
        attention_norm=_norm(layer.attention_norm),
        feed_forward_norm=_norm(layer.feed_forward_norm),
        held=held,
        contents=[value for one in held for value in one.values()],
        watched=tuple(hooks for m in modules[1:] for hooks in _watched(m)),
        own=own,
        active=(attention, layer.attention_dropout, layer.feed_forward_dropout),
        settings=[
            (attributes, name, attributes[name])
            for attributes in own
            for name in SETTINGS
            if name in attributes
        ],
        source=Source(*(one for linear in linears for one in linear.parameters())),
    )


def _norm(norm: nn.LayerNorm) -> tuple[Any, ...]:
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps
