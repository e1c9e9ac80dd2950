"""For ONNX Runtime: float as the Checkpoint is, half of that, and int8 that calibration photos approve.

Each also gives the embedding, as a second output.
"""

from __future__ import annotations

import numpy as np

from catflap.exporting.embedding import with_embedding
from catflap.exporting.forms import Source
from catflap.exporting.judge import PRECISIONS
from catflap.exporting.quantise import halve, quantise
from catflap.runtime.scoring import score
from catflap.runtime.session import open_model

FLOAT_LAYERS = 3


def convert(precision: str, source: Source) -> tuple[bytes, ...]:
    """The ONNX file of a precision: fp32, fp16 or int8."""
    if precision == "int8":
        return (with_embedding(_int8(source)),)
    return (with_embedding(halve(source.onnx) if precision == "fp16" else source.onnx),)


def _int8(source: Source) -> bytes:
    """The int8 graph; with its first layers in float when calibration photos flip more without."""
    photos, frame = source.jury.calibration, source.jury.frame
    expected = score(open_model(source.onnx), photos, frame).argmax(1)

    def flips(graph: bytes) -> float:
        return float(np.mean(score(open_model(graph), photos, frame).argmax(1) != expected))

    whole = quantise(source.onnx, source.frames)
    lost = flips(whole)
    if lost <= PRECISIONS["int8"].max_flip_rate:
        return whole
    careful = quantise(source.onnx, source.frames, FLOAT_LAYERS)
    return careful if flips(careful) < lost else whole
