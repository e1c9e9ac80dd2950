"""ExecuTorch: programs (.pte); the one file that owns its Python runtime, which needs torch."""

from __future__ import annotations

import threading

import numpy as np
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine import Embeddings, Logits, Model, TwoOutputModel, check_threads


def open_model(program: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), frame by frame.

    A second output is the embedding. Its Python runtime chooses the threads itself, whatever `threads`
    says. Raises BadArtifact when the bytes are not a program that takes one frame as float32 and outputs
    float32.
    """
    import torch

    check_threads(threads)
    data = bytes(program)
    try:
        module = _load_for_executorch_from_buffer(data)
        about = module.method_meta("forward")
        shapes = [tuple(about.output_tensor_meta(number).sizes()) for number in range(about.num_outputs())]
    except RuntimeError as error:
        raise BadArtifact("ExecuTorch refuses the program.", "Export it again.") from error
    lock = threading.Lock()

    def run_one(frame: Pixels, _data: bytes = data) -> list[Logits]:  # the module points into these bytes
        try:
            answers = module.forward([torch.from_numpy(frame[None].astype(np.float32))])
            rows: list[Logits] = [answer.numpy().copy() for answer in answers]
        except RuntimeError as error:
            raise BadArtifact("The program cannot run.", "Export it again.") from error
        for row in rows:
            if row.ndim != 2 or len(row) != 1:
                raise BadArtifact(f"The model's output has the shape {row.shape}.", "Export it again.")
        return rows

    def run(frames: Pixels) -> Logits:
        with lock:
            return np.concatenate([run_one(frame)[0] for frame in frames])

    def run_all(frames: Pixels) -> tuple[Logits, Embeddings]:
        with lock:
            logits, embeddings = zip(*map(run_one, frames), strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)

    has_embedding = len(shapes) == 2 and len(shapes[1]) == 2
    return TwoOutputModel(run_all, shapes[1][1]) if has_embedding else run
