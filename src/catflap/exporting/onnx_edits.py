"""Edits of ONNX graphs: inner tensors, embeddings, activation maps as outputs; worst layer; smaller int8."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine_onnx import CAM, EMBEDDING, open_session, run_session

FRAMES = 4
KINDS = {"tensor(float)": onnx.TensorProto.FLOAT, "tensor(float16)": TensorProto.FLOAT16}
LEAST = 1e-10  # share of noise below which two tensors count as equal
EXACT = ".exact"  # suffix of the inputs that carry the float graph's tensors


@dataclass(frozen=True)
class Layer:
    """A layer, named by its weights, and its own signal-to-noise ratio in dB, −100 to 100."""

    name: str
    decibels: float

    def __str__(self) -> str:
        return f"{self.name}, signal-to-noise ratio {self.decibels:.0f} dB with exact inputs"


def worst_layer(float_graph: bytes, variant_graph: bytes, frames: Pixels) -> Layer | None:
    """The layer of an ONNX variant that adds most noise to the float graph's tensors.

    Frames uint8 (n, height, width, 3), n ≥ 1; the first 4 are used. Tensors are matched by name, as the
    next layer reads them: after quantisation. Every layer gets the float graph's inputs, so that errors of
    earlier layers do not count. Noise is the variant's tensor minus the float one. None when the graphs share
    no names or do not differ.
    """
    graph, variant = onnx.load_from_string(float_graph), onnx.load_from_string(variant_graph)
    try:
        shares = _shares(graph, variant, frames[:FRAMES])
    except BadArtifact:  # another tool's graph, where equal names mean other tensors
        return None
    worst = max(shares, key=lambda name: shares[name], default="")
    if shares.get(worst, 0.0) <= LEAST:
        return None
    share = min(shares[worst], 1 - LEAST)
    return Layer(_name(graph.graph, worst), float(10 * np.log10((1 - share) / share)))


def _shares(graph: onnx.ModelProto, variant: onnx.ModelProto, frames: Pixels) -> dict[str, float]:
    """noise / (signal + noise) of each float tensor, 0 to 1; 1 when it is not finite."""
    ours = {name for node in graph.graph.node for name in node.output}
    read = {name: place for name, place in _as_read(variant.graph).items() if name in ours}
    inner = open_session(with_outputs(variant, read.values())).get_outputs()
    kinds = {end.name: KINDS[end.type] for end in inner if end.type in KINDS}
    read = {name: place for name, place in read.items() if place in kinds}
    if not read:
        return {}
    exact = open_session(with_outputs(graph, read))
    apart = open_session(_apart(variant, {read[name]: kinds[read[name]] for name in read}))
    fed = {end.name for end in apart.get_inputs()}
    pixels = exact.get_inputs()[0].name
    signal, noise = np.zeros(len(read)), np.zeros(len(read))
    with np.errstate(over="ignore", invalid="ignore"):
        for frame in frames:
            tensors = run_session(exact, {pixels: frame[None]}, list(read))
            inputs = {
                place + EXACT: tensor.astype(helper.tensor_dtype_to_np_dtype(kinds[place]))
                for place, tensor in zip(read.values(), tensors, strict=True)
            }
            inputs[variant.graph.input[0].name] = frame[None]
            given = {name: tensor for name, tensor in inputs.items() if name in fed}
            for n, got in enumerate(run_session(apart, given, list(read.values()))):
                signal[n] += np.square(tensors[n], dtype=np.float64).sum()
                noise[n] += np.square(tensors[n].astype(np.float64) - got).sum()
        shares = np.nan_to_num(noise / np.maximum(signal + noise, 1e-300), nan=1.0)
    return dict(zip(read, shares.tolist(), strict=True))


def _as_read(graph: onnx.GraphProto) -> dict[str, str]:
    """Each tensor of a graph -> the one that the next layer reads: after quantisation."""
    quantised = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    restored = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    outputs = (name for node in graph.node for name in node.output if name)
    return {name: restored.get(quantised.get(name, ""), name) for name in outputs}


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """A model with some of its inner tensors as further outputs, as ONNX bytes."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in shown.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    return bytes(shown.SerializeToString())


def _apart(model: onnx.ModelProto, kinds: Mapping[str, int]) -> bytes:
    """A model with these tensors as outputs, whose readers read an input NAME.exact instead."""
    shown = onnx.load_from_string(with_outputs(model, kinds))
    for node in shown.graph.node:
        for n, name in enumerate(node.input):
            if name in kinds:
                node.input[n] = name + EXACT
    used = {name for node in shown.graph.node for name in node.input}
    shown.graph.input.extend(
        helper.make_tensor_value_info(name + EXACT, kind, None)
        for name, kind in kinds.items()
        if name + EXACT in used
    )
    return bytes(shown.SerializeToString())


def _name(graph: onnx.GraphProto, tensor: str) -> str:
    """The name of the weights that compute a tensor of the float graph; of its node when there are none."""
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    waiting = [tensor]
    for name in waiting:
        if name in weights:
            return name.removesuffix(".weight")
        node = producers.get(name)
        waiting.extend(source for source in (node.input if node else ()) if source not in waiting)
    return str(producers[tensor].name)


_CARRIERS = ("DequantizeLinear", "QuantizeLinear", "Cast")  # change the type only
_HEADS = ("Gemm", "MatMul")
_TAIL = ("Cast", "Add")  # between the head and the logits


def with_embedding(onnx_bytes: bytes) -> bytes:
    """The same graph with a second output, `embedding`, float32 (n, width), as ONNX bytes.

    The input of the linear head gets this name: before quantisation in an int8 graph, cast to float32 in an
    fp16 one. The logits stay the first output and keep their bits. A graph without a linear head at its end
    is returned unchanged.
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
    if is_half or _has_fp16_weights(head, graph):
        graph.node.append(helper.make_node("Cast", [features], [EMBEDDING], to=TensorProto.FLOAT))
    else:
        _rename(graph, features)
    rows = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [rows or None, width]))
    return bytes(model.SerializeToString())


_POOLS = ("GlobalAveragePool", "ReduceMean")
_FLATTENERS = ("Flatten", "Reshape", "Squeeze", "Gather", "Identity")  # between the mean and the head
MAX_COPIED = 32  # labels whose int8 weights are copied for maps: 40 kB of the slim backbone's 4 MB
_POOLED = 1e-4  # how near the map's mean must be to the head's input, as a share of the largest feature


def with_side_outputs(onnx_bytes: bytes) -> bytes:
    """The same graph with the outputs `embedding` and, where it is exact, `cam`."""
    return with_cam(with_embedding(onnx_bytes))


def with_cam(onnx_bytes: bytes) -> bytes:
    """The same graph with the output `cam`, float32 (n, labels, h, w): class activation maps.

    Zhou et al. 2016. Where a linear head follows the mean over the last feature map, the head at each place
    of the map gives how much it adds to each label's logit: the mean over the places is the logit. It has the
    head's weights, a copy of them where they are int8. The logits stay the first output and keep their bits.
    A graph with anything else between the map and the head is returned unchanged. So is an fp16 graph, whose
    logits would change with the casts that ONNX Runtime puts around the new nodes, and an int8 one of more
    than MAX_COPIED labels, whose copy would not be small.
    """
    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    head = made.get(graph.output[0].name)
    if head is None or head.op_type != "Gemm" or len(head.input) != 3 or CAM in made:
        return onnx_bytes
    source = features = head.input[0]
    while source in made and made[source].op_type in (*_CARRIERS, *_FLATTENERS):
        source = made[source].input[0]
        features = source if made[features].op_type in _CARRIERS else features
    if source not in made or made[source].op_type not in _POOLS or not _is_plain(head):
        return onnx_bytes
    pooled, rows = made[source].input[0], graph.output[0].type.tensor_type.shape.dim
    copied = head.input[1] in made and made[head.input[1]].op_type == "DequantizeLinear"
    if (copied and rows[1].dim_value > MAX_COPIED) or not _is_mean(model, pooled, features):
        return onnx_bytes
    _append_cam(graph, head, pooled)
    shape = [rows[0].dim_param or None, rows[1].dim_value or None, None, None]
    graph.output.append(helper.make_tensor_value_info(CAM, TensorProto.FLOAT, shape))
    return bytes(model.SerializeToString())


def _append_cam(graph: GraphProto, head: NodeProto, pooled: str) -> None:
    """Nodes that compute `cam` from the pooled map (n, width, h, w): weights times map, plus bias."""
    turned = any(entry.name == "transB" and entry.i for entry in head.attribute)
    constants = {
        "cam.flat": np.array([0, 0, -1], np.int64), "cam.split": np.array([0, 0], np.int64),
        "cam.last": np.array([1], np.int64), "cam.from": np.array([2], np.int64),
        "cam.to": np.array([4], np.int64),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    weights = head.input[1]
    nodes = [helper.make_node("Reshape", [pooled, "cam.flat"], ["cam.places"])]
    widened = next((node for node in graph.node if node.output[0] == weights), None)
    if widened is not None and widened.op_type == "DequantizeLinear":
        nodes += _dequantized_copy(graph, widened)
        weights = "cam.dequantized"
    if not turned:
        nodes.append(helper.make_node("Transpose", [weights], ["cam.turned"], perm=[1, 0]))
        weights = "cam.turned"
    nodes += [
        helper.make_node("MatMul", [weights, "cam.places"], ["cam.product"]),
        helper.make_node("Unsqueeze", [head.input[2], "cam.last"], ["cam.bias"]),
        helper.make_node("Add", ["cam.product", "cam.bias"], ["cam.sum"]),
        helper.make_node("Shape", [pooled], ["cam.shape"]),
        helper.make_node("Slice", ["cam.shape", "cam.from", "cam.to"], ["cam.sides"]),
        helper.make_node("Concat", ["cam.split", "cam.sides"], ["cam.whole"], axis=0),
        helper.make_node("Reshape", ["cam.sum", "cam.whole"], [CAM]),
    ]
    graph.node.extend(nodes)


def _dequantized_copy(graph: GraphProto, widened: NodeProto) -> list[NodeProto]:
    """Nodes that compute `cam.dequantized`, from a copy of int8 weights: symmetric ones, as ours are.

    Where sums of int8 saturate, ONNX Runtime rewrites what DequantizeLinear reads and cannot share it, and it
    cannot multiply by weights of several scales from the left; so these are cast and scaled.
    """
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    quantized, scale = (constants[name] for name in widened.input[:2])
    axis = next((entry.i for entry in widened.attribute if entry.name == "axis"), 1)
    if scale.size > 1:
        scale = scale.reshape([-1 if place == axis else 1 for place in range(quantized.ndim)])
    graph.initializer.extend(
        [numpy_helper.from_array(quantized, "cam.int8"), numpy_helper.from_array(scale, "cam.scale")]
    )
    return [
        helper.make_node("Cast", ["cam.int8"], ["cam.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cam.float", "cam.scale"], ["cam.dequantized"]),
    ]


def _is_plain(head: NodeProto) -> bool:
    """Whether a Gemm adds its bias to the product and changes neither."""
    changed = {"alpha": 1.0, "beta": 1.0, "transA": 0.0}
    return all(
        helper.get_attribute_value(entry) == changed[entry.name]
        for entry in head.attribute
        if entry.name in changed
    )


def _is_mean(model: onnx.ModelProto, pooled: str, features: str) -> bool:
    """Whether a graph's features (n, width) are the mean of a map (n, width, h, w), on one frame of noise."""
    names = list(dict.fromkeys([pooled, features]))
    try:
        session = open_session(with_outputs(model, names))
        shape = session.get_inputs()[0].shape
        if len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
            return False
        noise = np.random.default_rng(0).integers(0, 256, (1, *shape[1:]), np.uint8)
        places, vectors = run_session(session, {session.get_inputs()[0].name: noise}, names)
    except (BadArtifact, ValueError):
        return False
    if places.ndim != 4 or vectors.shape != places.shape[:2]:
        return False
    places, vectors = places.astype(np.float64), vectors.astype(np.float64)
    gap = np.abs(places.mean(axis=(2, 3)) - vectors).max()
    return bool(gap <= _POOLED * max(1e-9, float(np.abs(vectors).max())))


def _width(head: NodeProto, made: Mapping[str, NodeProto], stored: Mapping[str, list[int]]) -> int | None:
    """The width of the embedding, from the shape of the head's weights."""
    weights = head.input[1]
    while weights in made and made[weights].op_type in _CARRIERS:
        weights = made[weights].input[0]
    dims = stored.get(weights, [])
    if len(dims) != 2:
        return None
    turned = any(entry.name == "transB" and entry.i for entry in head.attribute)
    return dims[1] if turned else dims[0]


def _has_fp16_weights(head: NodeProto, graph: onnx.GraphProto) -> bool:
    return any(
        tensor.name in head.input and tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer
    )


def _rename(graph: onnx.GraphProto, before: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == before:
                    names[place] = EMBEDDING


def compact(onnx_bytes: bytes) -> bytes:
    """The same QDQ graph in fewer bytes with the same outputs: 5 % fewer for EfficientNet-Lite0.

    All-zero zero points are dropped, as ONNX allows, except beside a Gemm, where ONNX Runtime 1.20 needs
    them. A convolution's bias scale, the product of its input and weight scales, becomes a Mul, which is
    folded on opening. Shapes of inner tensors are dropped.
    """
    model = onnx.load_from_string(onnx_bytes)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    _drop_zero_points(graph, stored)
    _multiply_scales(graph, stored)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:], graph.value_info[:]
    graph.initializer.extend(kept)
    return bytes(model.SerializeToString())


def _drop_zero_points(graph: GraphProto, stored: dict[str, TensorProto]) -> None:
    beside_gemm = {name for node in graph.node if node.op_type == "Gemm" for name in node.input}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3 or node.output[0] in beside_gemm:
            continue
        if node.input[0] in stored and not numpy_helper.to_array(stored[node.input[2]]).any():
            del node.input[2:]


def _multiply_scales(graph: GraphProto, stored: dict[str, TensorProto]) -> None:
    dequantised = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    products: list[NodeProto] = []
    for convolution in [node for node in graph.node if node.op_type == "Conv" and len(node.input) == 3]:
        sources = [dequantised.get(name) for name in convolution.input]
        if any(source is None or source.input[1] not in stored for source in sources):
            continue
        given, weights, bias = (source for source in sources if source is not None)
        factors = [numpy_helper.to_array(stored[source.input[1]]) for source in (given, weights)]
        scale = bias.input[1]
        if (factors[0] * factors[1] == numpy_helper.to_array(stored[scale])).all():
            product = f"{scale}_product"
            products.append(helper.make_node("Mul", [given.input[1], weights.input[1]], [product]))
            bias.input[1] = product
    nodes = [*products, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
