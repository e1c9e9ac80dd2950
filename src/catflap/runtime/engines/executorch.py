"""Models that run on ExecuTorch; the one file that owns its runtime, which needs torch beside it."""

from __future__ import annotations

import threading

import numpy as np
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engines.model import Logits, Model, check_threads


def open_model(program: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), one by one.

    ExecuTorch's Python runtime chooses its threads itself, whatever `threads` says. Raises BadArtifact
    when the bytes are not a program that takes one frame as float32 and answers with float32.
    """
    import torch

    check_threads(threads)
    data = bytes(program)
    try:
        module = _load_for_executorch_from_buffer(data)
    except RuntimeError as error:
        raise BadArtifact("ExecuTorch refuses the program.", "Export it again.") from error
    turn = threading.Lock()

    def run(frames: Pixels) -> Logits:
        with turn:
            return np.concatenate([answer(frame) for frame in frames])

    def answer(frame: Pixels, _kept: bytes = data) -> Logits:  # the module points into it
        try:
            logits: Logits = (
                module.forward([torch.from_numpy(frame[None].astype(np.float32))])[0].numpy().copy()
            )
        except RuntimeError as error:
            raise BadArtifact("The program cannot run.", "Export it again.") from error
        if logits.ndim != 2 or len(logits) != 1:
            raise BadArtifact(f"The model answers in the shape {logits.shape}.", "Export it again.")
        return logits

    return run
