"""For ONNX Runtime without any image code: the graph with the Frame's crop and resize inside.

It takes one whole photo, decoded and upright, and answers with probabilities and logits, so that a
program in C++, C#, Java, JavaScript or Rust needs nothing but a decoder. docs/reference/targets.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from catflap.exporting.target import Form, Target
from catflap.image import Frame
from catflap.runtime.engine_onnx import EMBEDDING, PHOTO, PROBABILITIES

if TYPE_CHECKING:
    import onnx

    from catflap.exporting.judging import ExportSource

TEMPERATURE = "frame.temperature"  # the number in the graph that divides its logits


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The float graph with the Frame before it and a softmax after it, and perhaps the embedding."""
    return (framed(source.onnx_for_ood, source.checkpoint.frame),)


def framed(graph: bytes, frame: Frame) -> bytes:
    """The ONNX bytes of a graph that takes uint8 frames, for whole photos, uint8 (H, W, 3), of any size.

    The size to resize to is whole numbers that stand in the graph, and the resize works on uint8 in two
    rounded passes, as Pillow does: float pixels or a scale would give others. ONNX Resize, opset 18. The
    temperature of its probabilities is 1. The embedding, where there is one, stays the last output.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from catflap.training.onnx_graph import INPUT, OUTPUT

    model = onnx.load_from_string(graph)
    part, nodes, constants = _crop(frame) if frame.fit == "crop" else (PHOTO, [], {})
    filters: dict[str, dict[str, Any]] = {
        "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
        "bilinear": {"mode": "linear"},
    }
    nodes += [
        helper.make_node("Transpose", [part], ["frame.planes"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["frame.planes", "frame.first"], ["frame.batch"]),
        helper.make_node(
            "Resize", ["frame.batch", "", "", "frame.sizes"], ["frame.resized"], antialias=1,
            exclude_outside=1, coordinate_transformation_mode="half_pixel", **filters[frame.filter],
        ),
        helper.make_node("Transpose", ["frame.resized"], [INPUT], perm=[0, 2, 3, 1]),
    ]  # fmt: skip
    constants |= {"frame.first": [0], "frame.sizes": [1, 3, frame.height, frame.width]}
    answer = [
        helper.make_node("Div", [OUTPUT, TEMPERATURE], ["frame.calibrated"]),
        helper.make_node("Softmax", ["frame.calibrated"], [PROBABILITIES], axis=1),
    ]
    whole = model.graph
    kept = [end for end in whole.output if end.name in (OUTPUT, EMBEDDING)]
    sizes = {end.name: end.type.tensor_type.shape.dim[1].dim_value for end in kept}
    sizes = {OUTPUT: sizes[OUTPUT], PROBABILITIES: sizes[OUTPUT], **sizes}
    body = [*nodes, *whole.node, *answer]
    del whole.node[:], whole.input[:], whole.output[:], whole.value_info[:]
    whole.node.extend(body)
    whole.input.append(helper.make_tensor_value_info(PHOTO, TensorProto.UINT8, ["height", "width", 3]))
    whole.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in sizes.items()
    )
    whole.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()
    )
    whole.initializer.append(numpy_helper.from_array(np.array(1, np.float32), TEMPERATURE))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def with_temperature(graph: bytes, temperature: float) -> bytes:
    """The ONNX bytes of a graph of `framed` whose probabilities are calibrated by a temperature."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        if tensor.name == TEMPERATURE:
            tensor.CopyFrom(numpy_helper.from_array(np.array(temperature, np.float32), TEMPERATURE))
    return bytes(model.SerializeToString())


def _crop(frame: Frame) -> tuple[str, list[onnx.NodeProto], dict[str, list[int]]]:
    """The largest centred part of the frame's aspect, in whole numbers: step 4 of docs/concepts/frame.md."""
    from onnx import helper

    node, names = helper.make_node, iter(range(100))

    def operate(kind: str, *inputs: str) -> str:
        output = f"frame.crop.{next(names)}"
        nodes.append(node(kind, list(inputs), [output]))
        return output

    nodes: list[onnx.NodeProto] = [node("Shape", [PHOTO], ["frame.shape"], end=2)]
    nodes.append(node("Split", ["frame.shape"], ["frame.H", "frame.W"], num_outputs=2))
    sides = []
    for side, other, along, across in (("H", "W", "h", "w"), ("W", "H", "w", "h")):
        scaled = operate("Div", operate("Mul", f"frame.{other}", f"frame.{along}"), f"frame.{across}")
        kept = operate("Min", f"frame.{side}", operate("Max", scaled, "frame.one"))
        start = operate("Div", operate("Sub", f"frame.{side}", kept), "frame.two")
        sides.append((start, operate("Add", start, kept)))
    for position, name in enumerate(("starts", "ends")):
        nodes.append(node("Concat", [side[position] for side in sides], [f"frame.{name}"], axis=0))
    nodes.append(node("Slice", [PHOTO, "frame.starts", "frame.ends"], ["frame.part"]))
    constants = {"frame.h": [frame.height], "frame.w": [frame.width], "frame.one": [1], "frame.two": [2]}
    return "frame.part", nodes, constants


TARGET = Target(
    "onnx-frame", {"onnx-frame": Form("onnxruntime-frame", "fp32", "targets/onnx/frame.onnx")}, convert
)
