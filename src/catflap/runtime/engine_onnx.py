"""ONNX Runtime: sessions, and models that map frames or whole photos to logits; the one file that owns it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from catflap.errors import BadArtifact, first_line
from catflap.image import Pixels
from catflap.runtime.engine import (
    ActivationMaps,
    Embeddings,
    Logits,
    Model,
    TwoOutputModel,
    check_threads,
)

VERSION: str = ort.__version__
EMBEDDING, CAM = "embedding", "cam"  # the names of a graph's further outputs, where it has them
PHOTO, LOGITS, PROBABILITIES = "photo", "logits", "probabilities"  # the ends of a whole-photo graph
# TensorProto.external_data, a tensor stored outside the file: the key "location" of a protobuf map entry,
# with its tag and length also in the longer varint encodings that protobuf allows.
_EXTERNAL = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
# A whole graph: MatMulInteger of `a`, uint8 (2, 2), and (127, 127), int8.
_PAIR = (
    b'\x08\x05:V\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01g'
    b"*\r\x08\x02\x08\x01\x10\x03B\x01bJ\x02\x7f\x7f"
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"b\x13\n\x01c\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x02\n\x02\x08\x01B\x04\n\x00\x10\n"
)


class OnnxModel:
    """A model on ONNX Runtime: call it with frames, uint8 (n, height, width, 3), for logits (n, labels).

    `has_embedding` and `has_cam` say whether the graph has the outputs "embedding" and "cam";
    `embedding_width` is the width that the graph states, None if it states none. What nobody asks for is not
    computed.
    """

    def __init__(
        self, session: ort.InferenceSession, output: str | None = None, source: str | None = None
    ) -> None:
        """Raises BadArtifact unless the session maps the input `source` to the logits output `output`."""
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if source is not None and source not in [end.name for end in inputs]:
            raise BadArtifact(f"The model has no input {source!r:.100}.", "Export it again.")
        names = [end.name for end in outputs]
        self._output = output or names[0]
        if self._output not in names:
            raise BadArtifact(f"The model has no output {self._output!r:.100}.", "Export it again.")
        self.has_embedding, self.has_cam = EMBEDDING in names, CAM in names
        types = [end.type for end in (*inputs, *outputs)]
        others = set(names) - {self._output, EMBEDDING, CAM}
        if others or types != ["tensor(uint8)", *["tensor(float)"] * len(names)]:
            raise BadArtifact("The model does not map uint8 frames to float32 logits.", "Export it again.")
        self._session = session
        self._input = inputs[0].name
        stated = outputs[names.index(EMBEDDING)].shape[-1:] if self.has_embedding else []
        self.embedding_width: int | None = stated[0] if stated and isinstance(stated[0], int) else None

    def __call__(self, frames: Pixels) -> Logits:
        """Logits, float32 (n, labels)."""
        try:
            logits: Logits = self._session.run([self._output], {self._input: frames}, _asked_only())[0]
        except Exception as error:  # ONNX Runtime raises a pybind type of its own for each fault
            raise _cannot_run(error) from error
        if logits.ndim != 2 or len(logits) != len(frames):
            raise _wrong_shape(logits)
        return logits

    def with_embedding(self, frames: Pixels) -> tuple[Logits, Embeddings]:
        """Logits, float32 (n, labels), and the features before the head, float32 (n, width)."""
        names = [self._output, EMBEDDING]
        try:
            logits, embeddings = self._session.run(names, {self._input: frames}, _asked_only())
        except Exception as error:  # as above
            raise _cannot_run(error) from error
        for answer in (logits, embeddings):
            if answer.ndim != 2 or len(answer) != len(frames):
                raise _wrong_shape(answer)
        return logits, embeddings

    def with_cam(self, frames: Pixels) -> tuple[Logits, ActivationMaps]:
        """Logits, float32 (n, labels), and class activation maps, float32 (n, labels, h, w)."""
        logits, maps = run_session(self._session, {self._input: frames}, [self._output, CAM])
        if logits.ndim != 2 or maps.ndim != 4 or maps.shape[:2] != logits.shape:
            raise _wrong_shape(maps)
        return logits, maps


def open_model(
    onnx: bytes | memoryview,
    threads: int | None = None,
    *,
    optimise: bool = True,
    output: str | None = None,
    source: str | None = None,
) -> OnnxModel:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels).

    `threads` None uses every core. `optimise` False runs the graph as written: quantised layers are then
    emulated in float, as a runtime without int8 kernels would. `output` names the logits and `source` the
    frames; None takes the first. Raises BadArtifact when the bytes are no such model, or when the model
    stores tensors in other files.
    """
    return OnnxModel(open_session(onnx, threads, optimise=optimise), output, source)


def open_whole_photo_model(onnx: bytes | memoryview, threads: int | None = None) -> Model:
    """A graph that contains the Frame: decoded photos, uint8 (n, H, W, 3), to logits, one photo at a time.

    A frame counts as a photo that needs no resizing. A further output is the embedding. Raises BadArtifact
    when the bytes are no such model.
    """
    session = open_session(onnx, threads)
    ends = {end.name: end.type for end in (*session.get_inputs(), *session.get_outputs())}
    embedded = ends.pop(EMBEDDING, "") == "tensor(float)"
    if ends != {PHOTO: "tensor(uint8)", LOGITS: "tensor(float)", PROBABILITIES: "tensor(float)"}:
        raise BadArtifact(
            "The model does not map a uint8 photo to logits and probabilities.", "Export it again."
        )

    def run(photos: Pixels) -> Logits:
        logits = np.concatenate([run_session(session, {PHOTO: photo}, [LOGITS])[0] for photo in photos])
        if logits.ndim != 2 or len(logits) != len(photos):
            raise _wrong_shape(logits)
        return logits

    def run_all(photos: Pixels) -> tuple[Logits, Embeddings]:
        found = [run_session(session, {PHOTO: photo}, [LOGITS, EMBEDDING]) for photo in photos]
        logits, embeddings = (np.concatenate(rows) for rows in zip(*found, strict=True))
        for rows in (logits, embeddings):
            if rows.ndim != 2 or len(rows) != len(photos):
                raise _wrong_shape(rows)
        return logits, embeddings

    return TwoOutputModel(run_all) if embedded else run


def open_session(
    onnx: bytes | memoryview, threads: int | None = None, *, optimise: bool = True
) -> ort.InferenceSession:
    """An ONNX Runtime session; BadArtifact when the bytes are no model or it stores tensors in other files.

    int8 layers give the same sums on every processor.
    """
    count = check_threads(threads)
    model = bytes(onnx)
    if b"location" in model and _EXTERNAL.search(model):  # the first test is ten times faster
        raise BadArtifact(
            "The model stores tensors in other files.", "Export it with all tensors in one file."
        )
    options = _options(count, exact=int8_sums_saturate())
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise BadArtifact(
            f"ONNX Runtime refuses the model: {first_line(error)}.", "Export it again."
        ) from error


def run_session(
    session: ort.InferenceSession, inputs: Mapping[str, npt.NDArray[Any]], outputs: list[str]
) -> list[npt.NDArray[Any]]:
    """The named outputs of a session for its inputs; BadArtifact when it cannot run."""
    try:
        answers: list[npt.NDArray[Any]] = session.run(outputs, dict(inputs), _asked_only())
    except Exception as error:  # as above
        raise _cannot_run(error) from error
    return answers


@cache
def _asked_only() -> ort.RunOptions:
    """Options of a run that computes the outputs that are asked for, and nothing else."""
    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    return options


@cache
def int8_sums_saturate() -> bool:
    """Whether ONNX Runtime's fast int8 sums saturate at 16 bits here, as on x86-64 without VNNI.

    One such sum is computed, so that nothing need be known about the processor or the system.
    """
    session = ort.InferenceSession(_PAIR, _options(1, exact=False), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((2, 2), 255, np.uint8)})
    return bool((sums != 2 * 255 * 127).any())


def _options(threads: int, *, exact: bool) -> ort.SessionOptions:
    """Session options; `exact` multiplies uint8 by uint8 on x86-64, which is slower but never saturates."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _cannot_run(error: Exception) -> BadArtifact:
    return BadArtifact(f"The model cannot run: {first_line(error)}.", "Export it again.")


def _wrong_shape(answer: npt.NDArray[Any]) -> BadArtifact:
    return BadArtifact(f"The model's output has the shape {answer.shape}.", "Export it again.")
