"""OpenVINO: models in its IR format, a graph and its weights; the one file that owns its runtime."""

from __future__ import annotations

import threading

import numpy as np
import openvino

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine import Logits, Model, check_threads


def open_model(graph: bytes | memoryview, weights: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels).

    `threads` None uses every core. Sums are float32 even where the processor prefers bfloat16, so that
    every processor gives the same answers. Raises BadArtifact when the files are no such model.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": check_threads(threads),
    }
    core = openvino.Core()
    try:
        parts = openvino.Tensor(np.frombuffer(weights, np.uint8))
        model = core.read_model(model=bytes(graph), weights=parts)
        if [str(end.element_type.to_string()) for end in (*model.inputs, *model.outputs)] != ["u8", "f32"]:
            raise BadArtifact("The model does not map uint8 frames to float32 logits.", "Export it again.")
        compiled = core.compile_model(model, "CPU", settings)
    except (RuntimeError, ValueError) as error:
        raise BadArtifact(f"OpenVINO refuses the model: {_last_line(error)}.", "Export it again.") from error
    lock = threading.Lock()  # a compiled model keeps the request that it works on

    def run(frames: Pixels) -> Logits:
        try:
            with lock:
                logits: Logits = compiled(np.ascontiguousarray(frames))[0].copy()
        except (RuntimeError, ValueError) as error:
            raise BadArtifact(f"The model cannot run: {_last_line(error)}.", "Export it again.") from error
        if logits.ndim != 2 or len(logits) != len(frames):
            raise BadArtifact(f"The model's output has the shape {logits.shape}.", "Export it again.")
        return logits

    return run


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
