"""Models that run on ONNX Runtime; the one file that owns it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from catflap.errors import BadArtifact, CatflapError, why
from catflap.image import Pixels

Logits: TypeAlias = npt.NDArray[np.float32]
Model: TypeAlias = Callable[[Pixels], Logits]

VERSION: str = ort.__version__
# TensorProto.external_data, a tensor that lies outside the file: the key "location" of a protobuf map,
# its tag and its length also in the longer spellings that protobuf allows.
_EXTERNAL = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")


def open_model(onnx: bytes | memoryview, threads: int | None = None, *, optimise: bool = True) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels).

    `threads` None lets ONNX Runtime use every core. `optimise` False runs the graph as it is
    written: quantised layers are then emulated in float, as a processor without int8 would.
    Raises BadArtifact when the bytes are no such model, or keep tensors elsewhere.
    """
    session = open_session(onnx, threads, optimise=optimise)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if [entry.type for entry in (*inputs, *outputs)] != ["tensor(uint8)", "tensor(float)"]:
        raise BadArtifact("The model does not map uint8 frames to float32 logits.", "Export it again.")
    source, target = inputs[0].name, outputs[0].name

    def run(frames: Pixels) -> Logits:
        logits: Logits = run_session(session, {source: frames}, [target])[0]
        if logits.ndim != 2 or len(logits) != len(frames):
            raise BadArtifact(f"The model answers in the shape {logits.shape}.", "Export it again.")
        return logits

    return run


def open_session(
    onnx: bytes | memoryview, threads: int | None = None, *, optimise: bool = True
) -> ort.InferenceSession:
    """ONNX Runtime's session for a model; BadArtifact when it is none, or keeps tensors elsewhere."""
    count = enough_threads(threads)
    model = bytes(onnx)
    if b"location" in model and _EXTERNAL.search(model):  # the first test is ten times faster
        raise BadArtifact("The model keeps tensors outside its file.", "Export it with all tensors inside.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = count
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises pybind types of its own, one for each fault
        raise BadArtifact(f"ONNX Runtime refuses the model: {why(error)}.", "Export it again.") from error


def run_session(
    session: ort.InferenceSession, inputs: Mapping[str, npt.NDArray[Any]], targets: list[str]
) -> list[npt.NDArray[Any]]:
    """Some outputs of a session for its inputs; BadArtifact when it cannot run."""
    try:
        outputs: list[npt.NDArray[Any]] = session.run(targets, dict(inputs))
    except Exception as error:  # as above
        raise BadArtifact(f"The model cannot run: {why(error)}.", "Export it again.") from error
    return outputs


def enough_threads(threads: int | None) -> int:
    """The number of threads that was asked for, 0 for every core; CatflapError when it is none."""
    if threads is not None and threads < 1:
        raise CatflapError(f"{threads} threads are not possible.", "Use 1 or more.")
    return threads or 0
