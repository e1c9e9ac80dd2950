"""ExecuTorch: programs (.pte); the one file that owns its Python runtime, which needs torch."""

from __future__ import annotations

import threading

import numpy as np
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engine import Logits, Model, check_threads


def open_model(program: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), frame by frame.

    ExecuTorch's Python runtime chooses its threads itself, whatever `threads` says. Raises BadArtifact
    when the bytes are not a program that takes one frame as float32 and outputs float32.
    """
    import torch

    check_threads(threads)
    data = bytes(program)
    try:
        module = _load_for_executorch_from_buffer(data)
    except RuntimeError as error:
        raise BadArtifact("ExecuTorch refuses the program.", "Export it again.") from error
    lock = threading.Lock()

    def run(frames: Pixels) -> Logits:
        with lock:
            return np.concatenate([run_one(frame) for frame in frames])

    def run_one(frame: Pixels, _data: bytes = data) -> Logits:  # the module points into these bytes
        try:
            logits: Logits = (
                module.forward([torch.from_numpy(frame[None].astype(np.float32))])[0].numpy().copy()
            )
        except RuntimeError as error:
            raise BadArtifact("The program cannot run.", "Export it again.") from error
        if logits.ndim != 2 or len(logits) != 1:
            raise BadArtifact(f"The model's output has the shape {logits.shape}.", "Export it again.")
        return logits

    return run
