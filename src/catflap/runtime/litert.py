"""Models that run on LiteRT; the one file that owns its interpreter."""

from __future__ import annotations

import threading

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from catflap.errors import BadArtifact, why
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.runtime.session import Logits, Model, enough_threads


def open_model(flatbuffer: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), one by one.

    `threads` None uses every core. Raises BadArtifact when the bytes are not a model that takes one
    frame as float32, 0 to 255, and answers with float32.
    """
    count = enough_threads(threads) or describe_machine().cores
    data = bytes(flatbuffer)
    try:
        interpreter = Interpreter(model_content=data, num_threads=count)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadArtifact(f"LiteRT refuses the model: {why(error)}.", "Export it again.") from error
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if [entry["dtype"] for entry in (*inputs, *outputs)] != [np.float32, np.float32]:
        raise BadArtifact("The model does not map float32 frames to float32 logits.", "Export it again.")
    source, target, shape = inputs[0]["index"], outputs[0]["index"], tuple(inputs[0]["shape"])
    turn = threading.Lock()  # an interpreter keeps the frame that it works on

    def run(frames: Pixels) -> Logits:
        if frames.shape[1:] != shape[1:]:
            raise BadArtifact(f"The model takes frames of the shape {shape[1:]}.", "Export it again.")
        with turn:
            return np.concatenate([answer(frame) for frame in frames])

    def answer(frame: Pixels, _kept: bytes = data) -> Logits:  # the interpreter points into it
        interpreter.set_tensor(source, frame[None].astype(np.float32))
        interpreter.invoke()
        logits: Logits = interpreter.get_tensor(target)
        if logits.ndim != 2 or len(logits) != 1:
            raise BadArtifact(f"The model answers in the shape {logits.shape}.", "Export it again.")
        return logits

    return run
