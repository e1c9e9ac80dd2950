"""Target: LiteRT, for Android, iOS, browsers and small boards; owns litert_torch and its quantiser.

Both precisions are written from their ONNX graph (tflite_writer.py), which takes no converter. Graphs with
other operators than it knows go through litert-torch, where that is installed.

The model takes one frame as float32, 0 to 255, and answers with float32 logits, also when it is int8
inside: LiteRT.js refuses 8-bit ends, and an 8-bit answer would clip what calibration did not show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.exporting.onnx_edits import with_side_outputs
from catflap.exporting.target import Argument, Form, Target, run_converter
from catflap.exporting.targets.to_onnx import int8_graph
from catflap.exporting.tflite_writer import UnknownOperator, pack, write_tflite

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

CHECKPOINT, FRAMES, FLOAT, WRITTEN = "checkpoint", "frames.npy", "fp32.tflite", "written.tflite"
EMBEDDED = "embedded"  # where the features before the head are a second output
LARGEST = "largest"  # of the logits that an 8-bit end can represent, when the ends are 8-bit
CONVOLUTION, DEPTHWISE = 3, 4  # BuiltinOperator CONV_2D and DEPTHWISE_CONV_2D of the schema
CLOSE = 1e-3  # of the largest: two converters fold batch norm into weights in another order of sums

Weights: TypeAlias = npt.NDArray[np.float32]


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The .tflite file of a precision, fp32 or int8."""
    try:
        graph = with_side_outputs(source.onnx) if form.precision == "fp32" else int8_graph(source)
        return (write_tflite(graph, embedding=source.may_be_unknown),)
    except UnknownOperator:
        if find_spec("litert_torch") is None:
            raise
    return (_float_of(source),) if form.precision == "fp32" else write_int8(source)


def write_int8(source: ExportSource, largest: float | None = None) -> tuple[bytes, ...]:
    """The int8 file; with `largest` its ends are int8 too, and answers hold logits from -largest to it."""
    from catflap.exporting.rounding import convolution_weights

    written = _float_of(source)
    before, after = convolution_weights(source.onnx), convolution_weights(source.rounded)
    rounded = replace_weights(written, [(before[name], after[name]) for name in before])
    ends = {} if largest is None else {LARGEST: repr(largest)}
    return run_converter(__name__, {FRAMES: source.frames, FLOAT: rounded, **ends}, (WRITTEN,))


def _float_of(source: ExportSource) -> bytes:
    return _float(source.checkpoint.path, source.checkpoint.sha256, source.may_be_unknown)


@lru_cache(maxsize=1)
def _float(checkpoint: Path, sha256: str, embedded: bool) -> bytes:
    """The float model of a Checkpoint, of which int8 is made as well; its outputs are logits, embedding."""
    given: dict[str, Argument] = {CHECKPOINT: checkpoint, **({EMBEDDED: ""} if embedded else {})}
    return run_converter(__name__, given, (WRITTEN,))[0]


def work(folder: Path) -> None:
    """In the other process: a float model from a Checkpoint, or an int8 model from a float one."""
    if (folder / FLOAT).exists():
        largest = float((folder / LARGEST).read_text()) if (folder / LARGEST).exists() else None
        _write_int8(folder / FLOAT, np.load(folder / FRAMES), largest, folder / WRITTEN)
    else:
        _write_float(folder / CHECKPOINT, (folder / EMBEDDED).exists(), folder / WRITTEN)


def _write_float(checkpoint: Path, embedded: bool, out: Path) -> None:
    import litert_torch
    import torch

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import TwoOutputNetwork, load_network

    opened = load_checkpoint(checkpoint)
    example = torch.zeros(1, opened.frame.height, opened.frame.width, 3)
    network = load_network(opened)
    module = TwoOutputNetwork(network) if embedded else network
    litert_torch.convert(module.eval(), (example,)).export(str(out))


def _write_int8(given: Path, frames: np.ndarray, largest: float | None, out: Path) -> None:
    """Static int8, weights for each channel; `largest` makes the ends and the first layers int8 as well."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe

    from catflap.exporting.quantise import FLOAT_LAYERS

    interpreter = Interpreter(str(given))
    (signature, ends), *_ = interpreter.get_signature_list().items()
    work, name = quantizer.Quantizer(str(given)), qtyping.TFLOperationName
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    if largest is None:
        first = first_convolutions(given.read_bytes(), FLOAT_LAYERS)
        exact = [(".*", name.INPUT), (".*", name.OUTPUT)]
        exact += [(re.escape(at), kind) for at in first for kind in (name.CONV_2D, name.DEPTHWISE_CONV_2D)]
        for place, kind in exact:
            work.update_quantization_recipe(regex=place, operation_name=kind, algorithm_key="no_quantize")
    samples = ({ends["inputs"][0]: frame[None].astype(np.float32)} for frame in frames)
    ranges = _widest([work.calibrate({signature: [sample]}) for sample in samples])
    if largest is not None:
        (pixels,), (logits, *_) = interpreter.get_input_details(), interpreter.get_output_details()
        for end, low, high in ((pixels, 0.0, 255.0), (logits, -largest, largest)):
            ranges[end["name"]]["min"][...], ranges[end["name"]]["max"][...] = low, high
    out.write_bytes(compact_tflite(bytes(work.quantize(ranges).quantized_model)))


def _widest(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of the ranges of each frame the least and the greatest; the quantiser's own are averages.

    Averages cut off rare values, such as bright pixels and confident logits: with them the error of the
    logits was eight times as large.
    """
    joined: dict[str, dict[str, Any]] = {}
    for name, first in found[0].items():
        least = np.min([ranges[name]["min"] for ranges in found], axis=0)
        greatest = np.max([ranges[name]["max"] for ranges in found], axis=0)
        joined[name] = {**first, "min": least, "max": greatest}
    return joined


def compact_tflite(model_bytes: bytes) -> bytes:
    """The same model in fewer bytes, with the same outputs.

    Equal vectors are stored once, such as the zero points of int8 weights: eight zero bytes per channel.
    Inner tensors lose their names, long paths through torch modules. Weights stored behind the flatbuffer
    move into it, aligned, as LiteRT Micro requires.
    """
    model = _opened(model_bytes)
    for graph in model.subgraphs:
        ends = {*graph.inputs, *graph.outputs}
        for number, tensor in enumerate(graph.tensors):
            if number not in ends:
                tensor.name = str(number)
    return pack(model)


def replace_weights(model_bytes: bytes, exchanged: Iterable[tuple[Weights, Weights]]) -> bytes:
    """The same float model with other weights: in its convolutions the first of a pair becomes the second.

    Weights are float32 (filters, channels of a group, height, width), as ONNX has them, and are found by
    their values. A convolution that has none of them stays as it is.
    """
    from ai_edge_litert import schema_py_generated as schema

    model, pairs = _opened(model_bytes), list(exchanged)
    for code, operator, tensors in _convolutions(model):
        tensor = tensors[operator.inputs[1]]
        buffer = model.buffers[tensor.buffer]
        if tensor.type != schema.TensorType.FLOAT32 or buffer.data is None:
            continue
        found = np.frombuffer(buffer.data.tobytes(), np.float32).reshape(tensor.shape)
        for before, after in pairs:
            known = _laid_out(before, code)
            if known.shape == found.shape and np.abs(known - found).max() <= CLOSE * np.abs(known).max():
                buffer.data = np.frombuffer(_laid_out(after, code).tobytes(), np.uint8)
                break
    return pack(model)


def first_convolutions(model_bytes: bytes, count: int) -> list[str]:
    """The names of the outputs of a model's first convolutions."""
    found = _convolutions(_opened(model_bytes))[:count]
    return [tensors[operator.outputs[0]].name.decode("utf-8") for _, operator, tensors in found]


def operators(model_bytes: bytes) -> list[str]:
    """The names of the operators that a model uses, sorted."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    return sorted({names[_code(code)] for code in _opened(model_bytes).operatorCodes})


def _opened(model_bytes: bytes) -> Any:
    """The model as schema objects; weights stored behind the flatbuffer are in their buffers."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # 0 and 1 mean that there is none
            where = slice(buffer.offset, buffer.offset + buffer.size)
            buffer.data = np.frombuffer(model_bytes[where], np.uint8)
        buffer.offset = buffer.size = 0
    return model


def _convolutions(model: Any) -> list[tuple[int, Any, Any]]:
    """Each convolution in execution order: operator code, operator, tensors of its graph."""
    codes = [_code(code) for code in model.operatorCodes]
    return [
        (codes[operator.opcodeIndex], operator, graph.tensors)
        for graph in model.subgraphs
        for operator in graph.operators
        if codes[operator.opcodeIndex] in (CONVOLUTION, DEPTHWISE)
    ]


def _code(code: Any) -> int:
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))


def _laid_out(weights: Weights, code: int) -> Weights:
    """Weights of ONNX in the order of a LiteRT operator: (filters, height, width, channels), or, when each
    filter has a channel of its own, (1, height, width, filters).
    """
    order = (1, 2, 3, 0) if code == DEPTHWISE else (0, 2, 3, 1)
    return np.ascontiguousarray(weights.transpose(order), dtype=np.float32)


TARGET = Target(
    "litert",
    {
        "litert-int8": Form("litert", "int8", "targets/litert/int8.tflite"),
        "litert-fp32": Form("litert", "fp32", "targets/litert/fp32.tflite"),
    },
    convert,
    packages=("ai-edge-litert",),
)
