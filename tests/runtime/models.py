"""ONNX graphs that are not what a Bundle should hold, and Bundles that hold them all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from catflap.artifacts.bundle import HEAD, load_bundle
from tests.artifacts.samples import write_bundle

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64


def model(
    nodes: list[object],
    inputs: dict[str, tuple[int, list[str | int]]],
    outputs: dict[str, tuple[int, list[str | int]]],
    **constants: np.ndarray,
) -> bytes:
    """A serialised graph; inputs and outputs map a name to its type and shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def colour_model(weights: np.ndarray, *, source: int = UINT8, side: int = 32, scale: float = 1.0) -> bytes:
    """Logits are the mean colour times weights, float32 (3, labels), times a scale."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["raw"]),
        helper.make_node("Mul", ["raw", "scale"], ["logits"]),
    ]
    return model(
        nodes,
        {"pixels": (source, ["n", side, side, 3])},
        {"logits": (FLOAT, ["n", weights.shape[1]])},
        axes=np.array([1, 2]),
        weights=weights.astype(np.float32),
        scale=np.float32(scale),
    )


def two_outputs() -> bytes:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["logits"], keepdims=0),
        helper.make_node("Identity", ["logits"], ["again"]),
    ]
    shape: tuple[int, list[str | int]] = (FLOAT, ["n", 3])
    return model(
        nodes,
        {"pixels": (UINT8, ["n", 32, 32, 3])},
        {"logits": shape, "again": shape},
        axes=np.array([1, 2]),
    )


def with_embedding(first: str, second: str) -> bytes:
    """The mean colour as logits and twice of it as the embedding, in either order."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["logits"], keepdims=0),
        helper.make_node("Add", ["logits", "logits"], ["embedding"]),
    ]
    shape: tuple[int, list[str | int]] = (FLOAT, ["n", 3])
    return model(
        nodes,
        {"pixels": (UINT8, ["n", 32, 32, 3])},
        {first: shape, second: shape},
        axes=np.array([1, 2]),
    )


def integer_output() -> bytes:
    nodes = [helper.make_node("Cast", ["pixels"], ["logits"], to=INT64)]
    return model(nodes, {"pixels": (UINT8, ["n", 2])}, {"logits": (INT64, ["n", 2])})


def sequence_output() -> bytes:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=FLOAT),
        helper.make_node("SequenceConstruct", ["floats"], ["logits"]),
    ]
    info = helper.make_tensor_sequence_value_info("logits", FLOAT, ["n", 32, 32, 3])
    source = helper.make_tensor_value_info("pixels", UINT8, ["n", 32, 32, 3])
    graph = helper.make_graph(nodes, "test", [source], [info])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def pixels_as_output() -> bytes:
    """float32, but in the shape of the frames."""
    nodes = [helper.make_node("Cast", ["pixels"], ["logits"], to=FLOAT)]
    shape: list[str | int] = ["n", 32, 32, 3]
    return model(nodes, {"pixels": (UINT8, shape)}, {"logits": (FLOAT, shape)})


def with_external_data(secret: Path) -> bytes:
    """A model whose weights lie in another file."""
    import onnx

    made = onnx.load_from_string(colour_model(np.ones((3, 2))))
    secret.write_bytes(np.ones((3, 2), np.float32).tobytes())
    for tensor in made.graph.initializer:
        if tensor.name == "weights":
            external_data_helper.set_external_data(tensor, location=secret.name)
            tensor.ClearField("raw_data")
    return bytes(made.SerializeToString())


def reworked(bundle: Path, out: Path, onnx: bytes, variant: str = "fp32") -> Path:
    """The Bundle with another graph, listed with its right hash."""
    opened = load_bundle(bundle)
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    files[opened.variant(variant).file] = onnx
    head = {name: value for name, value in opened.head.items() if name not in ("catflap_bundle", "files")}
    write_bundle(out, head, files)
    return out
