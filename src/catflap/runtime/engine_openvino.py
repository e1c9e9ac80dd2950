"""OpenVINO: models in its IR format, a graph and its weights; the one file that owns its runtime."""

from __future__ import annotations

import threading

import numpy as np
import openvino

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine import Embeddings, Logits, Model, TwoOutputModel, check_threads


def open_model(graph: bytes | memoryview, weights: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels).

    A second output is the embedding. `threads` None uses every core. Sums are float32 even where the
    processor prefers bfloat16, so that every processor gives the same answers. Raises BadArtifact when the
    files are no such model.
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
        kinds = [str(end.element_type.to_string()) for end in (*model.inputs, *model.outputs)]
        if kinds not in (["u8", "f32"], ["u8", "f32", "f32"]):
            raise BadArtifact("The model does not map uint8 frames to float32 logits.", "Export it again.")
        compiled = core.compile_model(model, "CPU", settings)
    except (RuntimeError, ValueError) as error:
        raise BadArtifact(f"OpenVINO refuses the model: {_last_line(error)}.", "Export it again.") from error
    lock = threading.Lock()  # a compiled model keeps the request that it works on

    def run_all(frames: Pixels) -> list[Logits]:
        try:
            with lock:
                found = compiled(np.ascontiguousarray(frames))
                answers: list[Logits] = [found[end].copy() for end in compiled.outputs]
        except (RuntimeError, ValueError) as error:
            raise BadArtifact(f"The model cannot run: {_last_line(error)}.", "Export it again.") from error
        for answer in answers:
            if answer.ndim != 2 or len(answer) != len(frames):
                raise BadArtifact(f"The model's output has the shape {answer.shape}.", "Export it again.")
        return answers

    def run(frames: Pixels) -> tuple[Logits, Embeddings]:
        logits, embeddings = run_all(frames)
        return logits, embeddings

    return TwoOutputModel(run) if len(compiled.outputs) == 2 else lambda frames: run_all(frames)[0]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
