"""8-bit linear layers and embedding tables: a quarter of the memory, and faster on a CPU.

A matrix is stored as integers from -127 to 127 with one scale for each output. The input rows that
it is multiplied with are quantised too, each row (a token) with its own scale and its own lowest
value as the zero point:

    x = low_x + scale_x q_x    W[n] = scale_w[n] q_w[n]
    (x W^T)[n] = scale_x scale_w[n] sum_k q_x[k] q_w[n, k] + low_x scale_w[n] sum_k q_w[n, k]

The first sum adds integers, so it is exact in any order; the second can be computed beforehand.
As no scale is shared between tokens, the result of a text does not depend on the rest of its batch.
Everything else (attention, norms, activations, residuals) stays in float32, also an activation
function between two layers: the kernel could apply it only after one scale common to all tokens.

Modules of this file are derived from trained ones and are for inference only; see
`minilm.quantize`. The data that they prepare for the kernel is rebuilt when their values change,
and dropped by `model.eval()`. Training uses the float blocks.

References: Zafrir et al. 2019, "Q8BERT"; Yao et al. 2022, "ZeroQuant", section 4.1 (one scale per
token); `onednn::qlinear_pointwise` of PyTorch.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.blocks.activations import Activation
from minilm.blocks.derived import Source
from minilm.blocks.kernels import recording
from minilm.errors import InputError

LARGEST = 127  # largest stored weight
SMALLEST_SCALE = 1e-30  # smallest scale of a row, used if all its values are equal
# The most numbers that torch computes at once (two AVX-512 registers), and the fewest that a thread
# takes (at::internal::GRAIN_SIZE).
AT_ONCE, NUMBERS_A_THREAD = 32, 32768
# rows, inputs and outputs of the products that test whether sums saturate; the choice of the kernel
# depends on the shape
PROBES = ((1, 64, 16), (4, 128, 64), (40, 256, 64))


Packed = tuple[Tensor, Tensor, Tensor]  # a matrix in the kernel's order, scales, zero points


class Rows(NamedTuple):
    """Quantised rows: they stand for `low + scale * values`.

    Attributes:
        values: (..., K) uint8.
        scale: (..., 1) float32, the step of each row.
        low: (..., 1) float32, the lowest value of each row.
    """

    values: Tensor
    scale: Tensor
    low: Tensor


@cache
def input_bits() -> int:
    """The number of bits of quantised inputs on this processor: 8, or 7 where 8 would be wrong.

    Processors without VNNI instructions add two products of uint8 x int8 in 16 bits, and saturate
    the sum at 32,767. With inputs up to 127 the sum is 32,258 at most. Saturation is tested for, as
    the instructions in use depend on more than the processor (ONEDNN_MAX_CPU_ISA).
    """
    # 7 where PyTorch cannot tell
    flags: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not any(flags.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        return 7
    return 8 if all(_is_exact(*shape) for shape in PROBES) else 7


def _is_exact(rows: int, inputs: int, outputs: int) -> bool:
    """Whether the kernel gets the largest possible sum right."""
    values = torch.full((rows, inputs), 255, dtype=torch.uint8)
    weight = torch.full((outputs, inputs), LARGEST, dtype=torch.int8)
    if not has_kernel(weight):
        return True  # the emulation is exact
    found = _kernel(values, _pack(weight, torch.ones(outputs)))
    return bool((found == 255 * LARGEST * inputs).all())


def quantize_rows(x: Tensor) -> Rows:
    """Quantises every row with its own scale.

    Args:
        x: (..., K) floating.

    Raises:
        InputError: `x` requires a gradient, which integers do not have.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise InputError(
            "A quantised model is for inference and has no gradients: call it inside "
            "torch.no_grad(), or use the float model that it was made from."
        )
    x, bits = x.float(), input_bits()
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)  # faster than aminmax
    scale = (high - low).clamp_min(SMALLEST_SCALE) / ((1 << bits) - 1)
    steps = (x - low).mul_(scale.reciprocal())
    # rounded to int8, for which processors have vector instructions, then shifted to uint8
    if bits == 7:
        return Rows(steps.round_().to(torch.int8).view(torch.uint8), scale, low)
    whole = steps.sub_(128).round_().to(torch.int8)
    return Rows(whole.view(torch.uint8).add_(128), scale, low)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantises a matrix to int8, with one scale for each of its rows.

    Args:
        weight: (N, K) floating.

    Returns:
        (N, K) int8 from -127 to 127, and (N,) float32.
    """
    weight = weight.detach().float()
    largest = weight.abs().amax(-1)
    scale = torch.where(largest > 0, largest, 1.0) / LARGEST
    return (weight / scale[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale


def emulated_product(rows: Rows, weight: Tensor, scale: Tensor) -> Tensor:
    """The product that the kernel computes, in float64: exact on any device, and slow.

    Args:
        rows: (..., K).
        weight: (N, K) int8.
        scale: (N,) float32.

    Returns:
        (..., N) float32, before the scale and lowest value of each row are applied. All sums are
        integers below 2^53, so that float64 holds them exactly.
    """
    sums = rows.values.double() @ weight.double().t()  # (..., N)
    return sums.float() * scale.float()


def has_kernel(weight: Tensor) -> bool:
    """Whether this PyTorch has an integer kernel for a matrix on this device."""
    on_cpu = weight.device.type == "cpu" and torch._C._has_mkldnn
    return on_cpu and hasattr(torch.ops.onednn, "qlinear_pointwise")


def _pack(weight: Tensor, scale: Tensor) -> Packed:
    """The matrix in the kernel's order, its scales, and its zero points, which are 0.

    The operator reads the memory of the matrix without its strides, so it must be contiguous.
    """
    packed: Tensor = torch.ops.onednn.qlinear_prepack(weight.detach().contiguous(), None)
    return packed, scale.detach(), torch.zeros(len(scale), dtype=torch.int64)


def _kernel(values: Tensor, packed: Packed) -> Tensor:
    """Computes `emulated_product` by PyTorch's operator, equal to the bit; values (T, K) uint8."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        *(values, 1.0, 0, *packed, None, 1.0, 0, torch.float32, "none", [], "")
    )
    return product


class QuantizedWeight(nn.Module):
    """A quantised matrix.

    Args:
        weight: (N, K) int8.
        scale: (N,) float32, the factor of each row.
    """

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self._prepared: Any = None

    def multiply(self, rows: Rows, bias: Tensor) -> Tensor:
        """x W^T + bias: (..., K) -> (..., N) float32."""
        values = rows.values
        if recording(values) or values.numel() == 0 or not has_kernel(self.weight):
            product, sums = emulated_product(rows, self.weight, self.scale), self._sums()
        else:
            packed, sums = self._in_kernel_order()
            flat = _kernel(values.reshape(-1, values.shape[-1]), packed)
            product = flat.view(*values.shape[:-1], -1)  # (..., N)
        return _floating(product, rows, sums, bias)

    def _sums(self) -> Tensor:
        """The sum of every row of the matrix, (N,) float32."""
        return self.scale * self.weight.sum(-1, dtype=torch.int32)

    def _in_kernel_order(self) -> tuple[Packed, Tensor]:
        """The packed matrix and `_sums`, computed on first use and after changes."""
        if self._prepared is None or not self._prepared[0].fits(self.weight, self.scale):
            source = Source(self.weight, self.scale)
            self._prepared = source, (_pack(self.weight, self.scale), self._sums().detach())
        prepared: tuple[Packed, Tensor] = self._prepared[1]
        return prepared

    def dequantized(self) -> Tensor:
        """The dequantised matrix, (N, K) float32."""
        return self.weight * self.scale[:, None]

    def train(self, mode: bool = True) -> QuantizedWeight:
        """With `mode=False`, drops the data prepared for the kernel.

        Raises:
            InputError: `mode` is True.
        """
        if mode:
            raise InputError(
                "A quantised model cannot be trained: train the float model that it was made from "
                "(an int8 directory is loaded as one with the dtype float32), then quantise the "
                "result."
            )
        self._prepared = None
        super().train(False)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedWeight:
        # checked before anything is changed: a half-moved model would go on with rounded scales
        dtype = fn(torch.empty_like(self.scale[:0])).dtype
        if dtype != torch.float32:
            raise InputError(
                "A quantised model computes in float32 between its 8-bit products and cannot be "
                f"moved to {dtype}: convert the float model instead."
            )
        self._prepared = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": None}


class QuantizedLinear(QuantizedWeight):
    """A quantised `nn.Linear`; also takes `Rows`, so that several layers can share them.

    Args:
        weight, scale: as for `QuantizedWeight`.
        bias: (N,) float32.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__(weight, scale)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.out_features, self.in_features = weight.shape

    @classmethod
    def of(cls, linear: nn.Linear) -> QuantizedLinear:
        """A quantised copy of a linear layer."""
        return cls(*quantize_weight(linear.weight), linear.bias.detach().float().clone())

    def forward(self, x: Tensor | Rows) -> Tensor:
        """(..., K) -> (..., N) float32."""
        return self.multiply(x if isinstance(x, Rows) else quantize_rows(x), self.bias)


class QuantizedEmbedding(QuantizedWeight):
    """A quantised `nn.Embedding`.

    Args:
        weight: (V, E) int8.
        scale: (V,) float32.
        padding_idx: kept as an attribute, for code that reads it.
    """

    def __init__(self, weight: Tensor, scale: Tensor, padding_idx: int | None) -> None:
        super().__init__(weight, scale)
        self.num_embeddings, self.embedding_dim = weight.shape
        self.padding_idx = padding_idx

    @classmethod
    def of(cls, table: nn.Embedding) -> QuantizedEmbedding:
        """A quantised copy of a table."""
        return cls(*quantize_weight(table.weight), table.padding_idx)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) int64 -> (..., E) float32."""
        return F.embedding(ids, self.weight) * F.embedding(ids, self.scale[:, None])

    def scores(self, x: Tensor, bias: Tensor) -> Tensor:
        """The logits of a masked-LM head: x W^T + bias, (..., E) -> (..., V)."""
        return self.multiply(quantize_rows(x), bias)


class SameEverywhere:
    """An activation function whose result does not depend on a number's position in a tensor.

    Torch computes numbers that do not fill a vector register by another formula, which differs in
    the last bit. Here the part of every thread fills all its registers.

    Args:
        function: an elementwise function.
    """

    def __init__(self, function: Activation) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        """Any shape; the result has the same."""
        if recording(x) or x.device.type != "cpu":
            return self.function(x)
        size = padded = x.numel()
        while rest := padded % (AT_ONCE * _parts(padded)):
            padded += AT_ONCE * _parts(padded) - rest
        if padded == size and x.is_contiguous():
            return self.function(x)
        line = F.pad(x.flatten(), (0, padded - size))
        return self.function(line)[:size].view(x.shape)


def _parts(numbers: int) -> int:
    """The number of parts into which torch divides this many numbers for its threads."""
    return max(1, min(torch.get_num_threads(), -(-numbers // NUMBERS_A_THREAD)))


def project(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """The outputs of several layers for the same input, (..., K) -> (..., N) each.

    The input is quantised once for all quantised layers.
    """
    shared = all(isinstance(layer, QuantizedLinear) for layer in layers)
    given = quantize_rows(x) if shared else x
    return [layer(given) for layer in layers]


def _floating(product: Tensor, rows: Rows, sums: Tensor, bias: Tensor) -> Tensor:
    """Turns an integer product into the floating result and adds a bias: (..., N) -> (..., N)."""
    return torch.addcmul(bias, rows.low, sums).addcmul_(product, rows.scale)


def pack_linears(*linears: QuantizedLinear) -> tuple[tuple[Packed, Tensor], Tensor]:
    """The weights of several layers as one packed matrix, and its bias, for `product`."""
    parts = ((linear.weight, linear.scale, linear.bias) for linear in linears)
    weight, scale, bias = (torch.cat(same) for same in zip(*parts, strict=True))
    return QuantizedLinear(weight, scale, bias)._in_kernel_order(), bias


def product(x: Tensor, matrix: tuple[Packed, Tensor], bias: Tensor, *_: object) -> Tensor:
    """x W^T + b by the kernel, as `QuantizedLinear` computes it: (T, K) -> (T, N) float32."""
    packed, sums = matrix
    rows = quantize_rows(x)
    return _floating(_kernel(rows.values, packed), rows, sums, bias)


def added(x: Tensor, y: Tensor, matrix: tuple[Packed, Tensor], bias: Tensor, *_: object) -> Tensor:
    """x W^T + b + y."""
    return y + product(x, matrix, bias)


def without_scales(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that a module had before it was quantised; shared ones appear once."""
    scales = {id(part.scale) for part in module.modules() if isinstance(part, QuantizedWeight)}
    return [parameter for parameter in module.parameters() if id(parameter) not in scales]


def float_weight(part: nn.Module) -> Tensor:
    """The weight of a linear layer or a table in floating point; dequantised if necessary."""
    weight: Any = part.dequantized() if isinstance(part, QuantizedWeight) else part.weight
    found: Tensor = weight
    return found
