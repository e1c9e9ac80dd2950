"""For ONNX Runtime: float as the Checkpoint is, half of that, and int8 that calibration photos approve.

Each also gives the embedding, as a second output.
"""

from __future__ import annotations

import numpy as np

from catflap.exporting.embedding import with_embedding
from catflap.exporting.forms import ExportSource
from catflap.exporting.judge import PRECISIONS
from catflap.exporting.quantising.quantise import PERCENTILE, halve, quantise

PERCENTILES = (PERCENTILE, 100.0, 99.99)  # of activations; the first does where none flips


def convert(precision: str, source: ExportSource) -> tuple[bytes, ...]:
    """The ONNX file of a precision: fp32, fp16 or int8."""
    if precision == "int8":
        return (_int8(source),)
    return (with_embedding(halve(source.onnx) if precision == "fp16" else source.onnx),)


def _int8(source: ExportSource) -> bytes:
    """The int8 graph, with the first ranges of activations that calibration photos approve, or the best."""
    expected = source.answers.argmax(1)
    tried: list[tuple[float, bytes]] = []
    for percentile in PERCENTILES:
        graph = with_embedding(quantise(source.rounded, source.frames, percentile))
        flips = float(np.mean(source.calibration_answers(graph).logits.argmax(1) != expected))
        tried.append((flips, graph))
        if flips <= PRECISIONS["int8"].max_flip_rate:
            break
    return min(tried, key=lambda pair: pair[0])[1]
