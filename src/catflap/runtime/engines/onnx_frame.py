"""ONNX models with the Frame inside, which take one whole photo."""

from __future__ import annotations

import numpy as np

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.runtime.engines.model import Logits, Model
from catflap.runtime.engines.onnx import open_session, run_session

PHOTO, LOGITS, PROBABILITIES = "photo", "logits", "probabilities"


def open_model(onnx: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from decoded photos, uint8 (n, H, W, 3), to logits, float32 (n, labels), one by one.

    A frame is a photo that needs no resizing. Raises BadArtifact when the bytes are no such model.
    """
    session = open_session(onnx, threads)
    ends = {end.name: end.type for end in (*session.get_inputs(), *session.get_outputs())}
    if ends != {PHOTO: "tensor(uint8)", LOGITS: "tensor(float)", PROBABILITIES: "tensor(float)"}:
        raise BadArtifact(
            "The model does not map a uint8 photo to logits and probabilities.", "Export it again."
        )

    def run(photos: Pixels) -> Logits:
        logits = np.concatenate([run_session(session, {PHOTO: photo}, [LOGITS])[0] for photo in photos])
        if logits.ndim != 2 or len(logits) != len(photos):
            raise BadArtifact(f"The model answers in the shape {logits.shape}.", "Export it again.")
        return logits

    return run
