"""The second output of ONNX variants: the features in front of the head, for field logs and drift."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper

from catflap.runtime.engine_onnx import EMBEDDING

_CARRIERS = ("DequantizeLinear", "QuantizeLinear", "Cast")  # the same numbers in another type
_HEADS = ("Gemm", "MatMul")
_TAIL = ("Cast", "Add")  # between the head and the logits


def with_embedding(onnx_bytes: bytes) -> bytes:
    """The same graph with a second output, `embedding`, float32 (n, width), as ONNX bytes.

    It costs nothing: the features only get this name. Where they are quantised in front of the head it
    is the float numbers before that; where they are float16 they are cast. The logits keep their bits and
    stay the first output. A graph without a linear head at its end is given back as it is.
    """
    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    head = made.get(graph.output[0].name)
    while head is not None and head.op_type in _TAIL:
        head = made.get(head.input[0])
    if head is None or head.op_type not in _HEADS or EMBEDDING in made:
        return onnx_bytes
    features, is_half = head.input[0], False
    while features in made and made[features].op_type in _CARRIERS:
        is_half |= made[features].op_type == "Cast"
        features = made[features].input[0]
    width = _width(head, made, {tensor.name: list(tensor.dims) for tensor in graph.initializer})
    if features not in made or width is None:
        return onnx_bytes
    if is_half or _takes_halves(head, graph):
        graph.node.append(helper.make_node("Cast", [features], [EMBEDDING], to=TensorProto.FLOAT))
    else:
        _rename(graph, features)
    rows = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [rows or None, width]))
    return bytes(model.SerializeToString())


def _width(head: NodeProto, made: Mapping[str, NodeProto], held: Mapping[str, list[int]]) -> int | None:
    """How many features the head takes, by the shape of its weights."""
    weights = head.input[1]
    while weights in made and made[weights].op_type in _CARRIERS:
        weights = made[weights].input[0]
    dims = held.get(weights, [])
    if len(dims) != 2:
        return None
    turned = any(entry.name == "transB" and entry.i for entry in head.attribute)
    return dims[1] if turned else dims[0]


def _takes_halves(head: NodeProto, graph: onnx.GraphProto) -> bool:
    return any(
        tensor.name in head.input and tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer
    )


def _rename(graph: onnx.GraphProto, before: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == before:
                    names[place] = EMBEDDING
