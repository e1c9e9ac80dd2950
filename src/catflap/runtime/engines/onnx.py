"""Models that run on ONNX Runtime; the one file that owns it."""

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
from catflap.runtime.engines.model import Embeddings, Logits, Model, check_threads

EMBEDDING = "embedding"  # what the second output of a graph is called, where there is one
VERSION: str = ort.__version__
# TensorProto.external_data, a tensor that lies outside the file: the key "location" of a protobuf map,
# its tag and its length also in the longer spellings that protobuf allows.
_EXTERNAL = re.compile(rb"(?:\x0a|\x8a\x80*\x00)(?:\x08|\x88\x80*\x00)location")
# A whole graph: MatMulInteger of `a`, uint8 (2, 2), and (127, 127), int8.
_PAIR = (
    b'\x08\x05:V\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x01g'
    b"*\r\x08\x02\x08\x01\x10\x03B\x01bJ\x02\x7f\x7f"
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x02\n\x02\x08\x02"
    b"b\x13\n\x01c\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x02\n\x02\x08\x01B\x04\n\x00\x10\n"
)


class OnnxModel:
    """A model on ONNX Runtime: call it with frames, uint8 (n, height, width, 3), for logits (n, labels)."""

    def __init__(
        self, session: ort.InferenceSession, output: str | None = None, source: str | None = None
    ) -> None:
        """Raises BadArtifact when the session does not take frames as `source` and give logits as `output`.

        `embedding_width` is what the graph states of its embedding; None where it has none or does not say.
        """
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if source is not None and source not in [end.name for end in inputs]:
            raise BadArtifact(f"The model has no input {source!r:.100}.", "Export it again.")
        names = [end.name for end in outputs]
        self._target = output or names[0]
        if self._target not in names:
            raise BadArtifact(f"The model has no output {self._target!r:.100}.", "Export it again.")
        self.has_embedding = [name for name in names if name != self._target] == [EMBEDDING]
        types = [end.type for end in (*inputs, *outputs)]
        if types != ["tensor(uint8)", *["tensor(float)"] * (1 + self.has_embedding)]:
            raise BadArtifact("The model does not map uint8 frames to float32 logits.", "Export it again.")
        self._session = session
        self._source = inputs[0].name
        stated = outputs[names.index(EMBEDDING)].shape[-1:] if self.has_embedding else []
        self.embedding_width: int | None = stated[0] if stated and isinstance(stated[0], int) else None

    def __call__(self, frames: Pixels) -> Logits:
        """Logits, float32 (n, labels)."""
        return self._run(frames, [self._target])[0]

    def with_embedding(self, frames: Pixels) -> tuple[Logits, Embeddings]:
        """Logits, float32 (n, labels), and the features in front of the head, float32 (n, width)."""
        logits, found = self._run(frames, [self._target, EMBEDDING])
        return logits, found

    def _run(self, frames: Pixels, targets: list[str]) -> list[npt.NDArray[np.float32]]:
        answers = run_session(self._session, {self._source: frames}, targets)
        for answer in answers:
            if answer.ndim != 2 or len(answer) != len(frames):
                raise BadArtifact(f"The model answers in the shape {answer.shape}.", "Export it again.")
        return answers


def open_model(
    onnx: bytes | memoryview,
    threads: int | None = None,
    *,
    optimise: bool = True,
    output: str | None = None,
    source: str | None = None,
) -> OnnxModel:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels).

    `threads` None lets ONNX Runtime use every core. `optimise` False runs the graph as it is
    written: quantised layers are then emulated in float, as a runtime without int8 would.
    `output` names the logits and `source` the frames; None takes the first. Raises BadArtifact when
    the bytes are no such model, or keep tensors elsewhere.
    """
    return OnnxModel(open_session(onnx, threads, optimise=optimise), output, source)


def run_with_embedding(model: Model, frames: Pixels) -> tuple[Logits, Embeddings | None]:
    """What a model answers to frames, and the embeddings (n, width) where it has such an output."""
    if isinstance(model, OnnxModel) and model.has_embedding:
        return model.with_embedding(frames)
    return model(frames), None


def embedding_width(model: Model) -> int | None:
    """How wide a model says that its embeddings are; None where it has none or does not say."""
    return model.embedding_width if isinstance(model, OnnxModel) else None


def open_session(
    onnx: bytes | memoryview, threads: int | None = None, *, optimise: bool = True
) -> ort.InferenceSession:
    """ONNX Runtime's session for a model; BadArtifact when it is none, or keeps tensors elsewhere.

    int8 layers give the same sums on every processor.
    """
    count = check_threads(threads)
    model = bytes(onnx)
    if b"location" in model and _EXTERNAL.search(model):  # the first test is ten times faster
        raise BadArtifact("The model keeps tensors outside its file.", "Export it with all tensors inside.")
    options = _options(count, exact=clips_pairs())
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises pybind types of its own, one for each fault
        raise BadArtifact(
            f"ONNX Runtime refuses the model: {first_line(error)}.", "Export it again."
        ) from error


@cache
def clips_pairs() -> bool:
    """Whether ONNX Runtime's fast int8 sums are cut off at 16 bits here, as on x86-64 without VNNI.

    It is asked for one such sum, so that nothing need be known of the processor or the system.
    """
    session = ort.InferenceSession(_PAIR, _options(1, exact=False), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"a": np.full((2, 2), 255, np.uint8)})
    return bool((sums != 2 * 255 * 127).any())


def _options(threads: int, *, exact: bool) -> ort.SessionOptions:
    """What a session is opened with; `exact` multiplies uint8 by uint8 on x86-64, which is slower."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def run_session(
    session: ort.InferenceSession, inputs: Mapping[str, npt.NDArray[Any]], targets: list[str]
) -> list[npt.NDArray[Any]]:
    """Some outputs of a session for its inputs; BadArtifact when it cannot run."""
    try:
        outputs: list[npt.NDArray[Any]] = session.run(targets, dict(inputs))
    except Exception as error:  # as above
        raise BadArtifact(f"The model cannot run: {first_line(error)}.", "Export it again.") from error
    return outputs
