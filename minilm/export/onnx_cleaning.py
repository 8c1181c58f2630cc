"""Cleans a recorded graph from what only the recorder needs.

torch.onnx writes the stack trace of every operation into the file, a third of a small file; its
optimiser may turn one shared matrix into a copy for every layer that uses it; and it leaves a
Transpose after some matrices, where quantisation tools do not find them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import minilm
from minilm.files.libraries import library


def clean(model: Any, axes: list[str]) -> None:
    """Cleans a graph in place; what it computes stays the same, up to rounding.

    Args:
        model: an `onnx_ir.Model`.
        axes: the names of the axes of the inputs.
    """
    ir, passes = library("onnx_ir", "export"), library("onnx_ir.passes.common", "export")
    turn_weights(model)
    join_tables(model)
    no_limit = 1 << 62  # by default small tensors are skipped: those of a small model
    passes.DeduplicateInitializersPass(size_limit=no_limit)(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    graph = model.graph
    named = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            if id(value) not in named:  # an engine infers the shapes in between
                value.shape = None
    recorded = {str(dim): axis for dim, axis in zip(graph.inputs[0].shape, axes, strict=True)}
    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(
            [dim if isinstance(dim, int) else recorded.get(str(dim)) for dim in value.shape]
        )
    graph.name = "minilm"
    model.producer_name, model.producer_version = "minilm", minilm.__version__


def turn_weights(model: Any) -> None:
    """Stores every matrix as its products read it, instead of transposing it in the graph.

    A layer of ALBERT may be applied to all tokens (MatMul) and to the first tokens alone (Gemm),
    which read its matrices differently.

    A matrix that is also an embedding table, such as the tied one of a masked-LM head, stays as it
    is: transposed, it would be stored twice.

    Args:
        model: an `onnx_ir.Model`, changed in place.
    """
    ir = library("onnx_ir", "export")
    graph = model.graph
    for value in list(graph.initializers.values()):
        users = list(value.uses())
        if not users or not all(_reads_turned(node, index) for node, index in users):
            continue
        array = np.ascontiguousarray(value.const_value.numpy().T)
        turned = ir.Value(name=f"{value.name}.T", const_value=ir.tensor(array))
        turned.shape, turned.dtype = turned.const_value.shape, turned.const_value.dtype
        graph.register_initializer(turned)
        for node, index in users:
            if node.op_type == "Gemm":
                node.replace_input_with(index, turned)
                del node.attributes["transB"]
            else:
                node.outputs[0].replace_all_uses_with(turned)
                graph.remove(node, safe=True)
        del graph.initializers[value.name]


def _reads_turned(node: Any, index: int) -> bool:
    """Whether an operation reads the transpose of a matrix as input number `index`."""
    return is_matrix_turn(node) or bool(
        node.op_type == "Gemm" and index == 1 and integer(node, "transB")
    )


def join_tables(model: Any) -> None:
    """Makes products with an embedding table read the table itself, not a transposed copy.

    torch.onnx stores such a copy for small tables.

    Args:
        model: an `onnx_ir.Model`, changed in place.
    """
    ir = library("onnx_ir", "export")
    graph = model.graph
    tables = {node.inputs[0].name: node.inputs[0] for node in graph if is_table_look_up(node)}
    for value in list(graph.initializers.values()):
        for table in tables.values():
            shape = tuple(table.const_value.shape)
            if tuple(value.const_value.shape) != shape[::-1] or value is table:
                continue
            if np.array_equal(value.const_value.numpy(), table.const_value.numpy().T):
                perm = ir.convenience.convert_attribute("perm", [1, 0])
                turn = ir.Node("", "Transpose", [table], [perm])
                turn.outputs[0].dtype = value.dtype
                graph.insert_before(graph.node(0), turn)
                value.replace_all_uses_with(turn.outputs[0])
                del graph.initializers[value.name]
                break


def is_matrix_turn(node: Any) -> bool:
    """Whether a node is the transpose of a matrix."""
    if node.op_type != "Transpose":
        return False
    perm = node.attributes.get("perm")
    return perm is not None and list(perm.as_ints()) == [1, 0]


def is_table_look_up(node: Any) -> bool:
    """Whether a node reads rows of a float matrix of initialisers."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    return (
        table is not None
        and table.is_initializer()
        and len(table.const_value.shape) == 2
        and table.const_value.shape[1] > 1  # of one column: the scales of a table in 8 bits
        and integer(node, "axis") == 0
        and table.const_value.dtype == library("onnx_ir", "export").DataType.FLOAT
    )


def integer(node: Any, name: str) -> int:
    """An integer attribute of a node; 0 if it has none of this name."""
    return int(node.attributes[name].as_int()) if name in node.attributes else 0
