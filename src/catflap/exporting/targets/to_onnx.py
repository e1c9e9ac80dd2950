"""Target: ONNX Runtime. fp32, fp16 and int8 graphs, which also give the embedding and, but for fp16, maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catflap.exporting.target import Form, Target

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

PERCENTILES = (99.999, 100.0, 99.99)  # of activations; tried until the calibration photos hardly flip


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The ONNX file of a precision: fp32, fp16 or int8."""
    from catflap.exporting.onnx_edits import with_side_outputs
    from catflap.exporting.quantise import to_fp16

    if form.precision == "int8":
        return (int8_graph(source),)
    return (with_side_outputs(to_fp16(source.onnx) if form.precision == "fp16" else source.onnx),)


def int8_graph(source: ExportSource) -> bytes:
    """The int8 graph with the first activation percentile that passes on calibration photos, or the best."""

    def make() -> dict[str, np.ndarray]:
        return {"graph": np.frombuffer(_quantised(source), np.uint8)}

    return source.workspace.arrays(f"int8-graph-{source.key}", make)["graph"].tobytes()


def _quantised(source: ExportSource) -> bytes:
    from catflap.evaluation.gate import GATE_LIMITS
    from catflap.exporting.onnx_edits import with_side_outputs
    from catflap.exporting.quantise import quantise

    expected = source.logits.argmax(1)
    tried: list[tuple[float, bytes]] = []
    for percentile in PERCENTILES:
        graph = with_side_outputs(quantise(source.rounded, source.frames, percentile))
        flips = float(np.mean(source.calibration_answers(graph).logits.argmax(1) != expected))
        tried.append((flips, graph))
        if flips <= GATE_LIMITS["int8"].max_flip_rate:
            break
    return min(tried, key=lambda pair: pair[0])[1]


TARGET = Target(
    "onnx",
    {
        "int8": Form("onnxruntime", "int8", "int8.onnx"),
        "fp32": Form("onnxruntime", "fp32", "fp32.onnx"),
        "fp16": Form("onnxruntime", "fp16", "fp16.onnx"),
    },
    convert,
)
