"""Quantises a graph: every matrix and every embedding table in 8 bits.

Quantisation tools silently leave in float what they do not recognise in a graph: in one written by
torch.onnx, onnxruntime's `quantize_dynamic` converts 1 of 97 products and mistakes ONNX's Attention
operator for one of its own. Here all weights of a graph are found through its initialisers;
afterwards `float_weights` looks for any that stayed float.

- A product with a matrix: the matrix is stored in integers with one scale for each output, the
  activations are quantised at run time with one scale for each token, and MatMulInteger
  multiplies. So the result for a text does not depend on the other texts of a batch, as it does
  with one scale for the whole tensor (DynamicQuantizeLinear). That was less exact too: among the
  states of random tokens in all-MiniLM-L6-v2, the smallest cosine was 0.94 instead of 0.98, for
  15 % less time. Operations that read the same tensor, such as query, key and value, share its
  quantisation.
- An embedding table: integers with one scale for each row.
- A table that is also a matrix, as in masked-LM heads, is stored once, with one scale for each row,
  which is one for each output of the product.

Matrices use only 7 of the 8 bits. Processors with AVX2 but without VNNI add two 8-bit products in a
16-bit register that saturates, which gives silently wrong numbers. 2 * 255 * 64 fits.

onnxruntime fuses Mul(product, Mul(a, b)) after an integer product, and uses the first number of `a`
for all tokens. The two scales are therefore multiplied one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minilm.export.onnx_cleaning import integer, is_matrix_turn, is_table_look_up
from minilm.files.libraries import library

MATRIX_LEVELS = 64  # the largest integer of a matrix: see above
TABLE_LEVELS = 127  # the largest integer of a table that no product reads
TOKEN_LEVELS = 127  # the largest integer of a token's state, stored as 128 + integer, unsigned
SMALLEST = 1e-30  # lower bound of a state's largest number, so that its scale is not 0


@dataclass(frozen=True)
class Weight:
    """A matrix that an operation of a graph reads.

    Attributes:
        value: the initialiser that holds it.
        turned: True if it is stored (out, in) and the product reads (in, out).
    """

    value: Any
    turned: bool


def quantize_graph(model: Any) -> None:
    """Quantises all products with matrices and all look-ups in tables.

    Args:
        model: `onnx_ir.Model` as `onnx_cleaning.clean` leaves it, changed in place.
    """
    rewriting = _Rewriting(model.graph)
    for node in list(model.graph):
        if (weight := matrix_of(node)) is not None:
            rewriting.replace_product(node, weight)
        elif is_table_look_up(node):
            rewriting.replace_look_up(node)
    library("onnx_ir.passes.common", "export").RemoveUnusedNodesPass()(model)


def quantize_rows(matrix: npt.NDArray[np.float32], levels: int) -> tuple[Any, Any]:
    """Quantises a matrix with one scale for each row.

    Args:
        matrix: (rows, columns) float32.
        levels: the largest integer; the smallest is -levels.

    Returns:
        (rows, columns) int8 integers and (rows, 1) float32 scales; their product is the nearest
        such matrix. A row of zeros has scale 1.
    """
    largest = np.abs(matrix).max(axis=1, keepdims=True)
    scale = np.where(largest > 0, largest / levels, 1.0).astype(np.float32)
    return np.rint(matrix / scale).clip(-levels, levels).astype(np.int8), scale


def matrix_of(node: Any) -> Weight | None:
    """The matrix of initialisers that a product reads; None for any other operation."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain:
        return None
    turned = bool(node.op_type == "Gemm" and integer(node, "transB"))
    value = node.inputs[1]
    producer = value.producer()
    if producer is not None and is_matrix_turn(producer):
        value, turned = producer.inputs[0], not turned
    if not value.is_initializer() or len(value.const_value.shape) != 2:
        return None
    plain = node.op_type == "MatMul" or (
        not integer(node, "transA")
        and all(
            name not in node.attributes or node.attributes[name].as_float() == 1.0
            for name in ("alpha", "beta")
        )
    )
    return Weight(value, turned) if plain else None


class _Rewriting:
    """Quantises the weights and activations of a graph, each once."""

    def __init__(self, graph: Any) -> None:
        self.ir = library("onnx_ir", "export")
        self.graph = graph
        self.tables = {node.inputs[0].name for node in graph if is_table_look_up(node)}
        self.constants: dict[str, Any] = {}
        self.activations: dict[str, tuple[Any, Any]] = {}
        self.matrices: dict[tuple[str, bool], tuple[Any, Any]] = {}
        self.rows: dict[str, tuple[Any, Any]] = {}
        matrices = [weight for node in graph if (weight := matrix_of(node)) is not None]
        self.multiplied = {weight.value.name for weight in matrices}

    def replace_product(self, node: Any, weight: Weight) -> None:
        """x W becomes (q(x) q(W)) * scales, with one scale for a token and one for an output."""
        quantised, scale = self._activation(node)
        matrix, scales = self._matrix(weight, node)
        zero = self._shared("int8.zero", np.uint8(128))
        whole = self._add(node, "MatMulInteger", [quantised, matrix, zero])
        floating = self._add(node, "Cast", [whole], to=self.ir.DataType.FLOAT.value)
        product = self._add(node, "Mul", [self._add(node, "Mul", [floating, scales]), scale])
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            product = self._add(node, "Add", [product, node.inputs[2]])
        self._replace(node, product)

    def replace_look_up(self, node: Any) -> None:
        """A row becomes the row of integers times the row's scale."""
        table, scales = self._table(node.inputs[0])
        row = self._add(node, "Gather", [table, node.inputs[1]])
        scale = self._add(node, "Gather", [scales, node.inputs[1]])
        floating = self._add(node, "Cast", [row], to=self.ir.DataType.FLOAT.value)
        self._replace(node, self._add(node, "Mul", [floating, scale]))

    def _activation(self, node: Any) -> tuple[Any, Any]:
        """Integers (..., in) and scales (..., 1) of a product's activations."""
        value = node.inputs[0]
        if value.name not in self.activations:
            axis = self._shared("int8.last_axis", np.array([-1]))
            smallest = self._shared("int8.smallest", np.float32(SMALLEST))
            levels = self._shared("int8.levels", np.float32(TOKEN_LEVELS))
            # a cast truncates; with the half added it rounds
            shift = self._shared("int8.shift", np.float32(128.5))
            largest = self._add(node, "ReduceMax", [self._add(node, "Abs", [value]), axis])
            scale = self._add(node, "Div", [self._add(node, "Max", [largest, smallest]), levels])
            shifted = self._add(node, "Add", [self._add(node, "Div", [value, scale]), shift])
            whole = self._add(node, "Cast", [shifted], to=self.ir.DataType.UINT8.value)
            self.activations[value.name] = whole, scale
        return self.activations[value.name]

    def _matrix(self, weight: Weight, node: Any) -> tuple[Any, Any]:
        """The (in, out) integers and the (out,) scales of a matrix."""
        name = weight.value.name
        if (name, weight.turned) not in self.matrices:
            if name in self.tables and weight.turned:
                table, scales = self._table(weight.value)
                turned = self._add(node, "Transpose", [table], perm=[1, 0])
                flat = self._constant(f"{name}.scales", scales.const_value.numpy()[:, 0])
                self.matrices[name, True] = turned, flat
            else:
                stored = weight.value.const_value.numpy()
                whole, scale = quantize_rows(stored if weight.turned else stored.T, MATRIX_LEVELS)
                self.matrices[name, weight.turned] = (
                    self._constant(f"{name}.int8", whole.T),
                    self._constant(f"{name}.scales", scale[:, 0]),
                )
        return self.matrices[name, weight.turned]

    def _table(self, value: Any) -> tuple[Any, Any]:
        """The (rows, columns) integers and (rows, 1) scales of a table."""
        if value.name not in self.rows:
            levels = MATRIX_LEVELS if value.name in self.multiplied else TABLE_LEVELS
            whole, scale = quantize_rows(value.const_value.numpy(), levels)
            self.rows[value.name] = (
                self._constant(f"{value.name}.int8_rows", whole),
                self._constant(f"{value.name}.row_scales", scale),
            )
        return self.rows[value.name]

    def _shared(self, name: str, number: Any) -> Any:
        """A constant that all products share."""
        if name not in self.constants:
            self.constants[name] = self._constant(name, np.asarray(number))
        return self.constants[name]

    def _constant(self, name: str, array: npt.NDArray[Any]) -> Any:
        tensor = self.ir.tensor(np.array(array, order="C"), name=name)
        value = self.ir.Value(
            name=name, const_value=tensor, shape=tensor.shape, type=self.ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        return value

    def _add(self, before: Any, kind: str, inputs: list[Any], **attributes: Any) -> Any:
        """A new operation with one output, in front of another."""
        made = [self.ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        node = self.ir.Node("", kind, inputs, made)
        self.graph.insert_before(before, node)
        return node.outputs[0]

    def _replace(self, node: Any, value: Any) -> None:
        old = node.outputs[0]
        if old.is_graph_output():
            value.name, value.shape, value.type = old.name, old.shape, old.type
            self.graph.outputs[self.graph.outputs.index(old)] = value
            old.name = None
        old.replace_all_uses_with(value)
        self.graph.remove(node, safe=True)
