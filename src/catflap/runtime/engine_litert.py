"""LiteRT: models with float32 ends, and LiteRT Micro models with int8 ends; the one file that owns it."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from catflap.errors import BadArtifact, first_line
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.runtime.engine import ActivationMaps, Embeddings, Logits, Model, TwoOutputModel, check_threads

Array: TypeAlias = npt.NDArray[Any]
_STDERR = threading.Lock()


@dataclass(frozen=True)
class Quantisation:
    """How a model's input or output encodes numbers: value = (integer - `zero`) * `scale`."""

    scale: float
    zero: int

    def floats(self, whole: Array) -> npt.NDArray[np.float32]:
        """The values that int8 numbers stand for."""
        return np.asarray((whole.astype(np.int32) - self.zero) * self.scale, np.float32)


@dataclass(frozen=True)
class LiteRTModel:
    """An open model: `run` maps one input (1, height, width, 3) to logits (1, labels).

    `run_all` gives the embedding (1, `embedding_width`), too, where the model has one, and `run_map`, where
    it is not None, activation maps (1, h, w, labels).
    `shape` is that of the input; `input`, `output` and `embedding` say how int8 ends encode numbers.
    """

    shape: tuple[int, ...]
    input: Quantisation
    output: Quantisation
    embedding: Quantisation | None
    run: Callable[[Array], Array]
    run_all: Callable[[Array], list[Array]]
    run_map: Callable[[Array], list[Array]] | None = None
    embedding_width: int | None = None


class FloatModel:
    """A model with float32 ends: call it with frames, uint8 (n, height, width, 3), for logits (n, labels).

    `has_embedding` and `has_cam` say whether it has the embedding and activation maps as further outputs, and
    `embedding_width` how wide the embedding is.
    """

    def __init__(self, opened: LiteRTModel) -> None:
        self._opened = opened
        self.embedding_width = opened.embedding_width
        self.has_embedding = opened.embedding_width is not None
        self.has_cam = opened.run_map is not None

    def __call__(self, frames: Pixels) -> Logits:
        """Logits, float32 (n, labels), frame by frame."""
        _check_shape(frames, self._opened)
        return np.concatenate([self._opened.run(frame[None].astype(np.float32)) for frame in frames])

    def with_embedding(self, frames: Pixels) -> tuple[Logits, Embeddings]:
        """Logits, float32 (n, labels), and the features before the head, float32 (n, width)."""
        _check_shape(frames, self._opened)
        answers = [self._opened.run_all(frame[None].astype(np.float32)) for frame in frames]
        logits, embeddings = (np.concatenate(rows) for rows in zip(*answers, strict=True))
        return logits, embeddings

    def with_cam(self, frames: Pixels) -> tuple[Logits, ActivationMaps]:
        """Logits, float32 (n, labels), and class activation maps, float32 (n, labels, h, w)."""
        _check_shape(frames, self._opened)
        if self._opened.run_map is None:
            raise BadArtifact("The model has no activation maps.", "Export it again.")
        answers = [self._opened.run_map(frame[None].astype(np.float32)) for frame in frames]
        logits, maps = (np.concatenate(rows) for rows in zip(*answers, strict=True))
        return logits, np.ascontiguousarray(maps.transpose(0, 3, 1, 2))


def open_model(flatbuffer: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), frame by frame.

    `threads` None uses every core. Raises BadArtifact when the bytes are not a model that takes one
    frame as float32, 0 to 255, and outputs float32.
    """
    return FloatModel(open_interpreter(flatbuffer, np.float32, threads))


def open_micro_model(flatbuffer: bytes | memoryview, threads: int | None = None) -> Model:
    """The same for a model with int8 ends: frames become int8 and outputs logits by the model's own scales.

    It runs on LiteRT's reference kernels, which round exactly as LiteRT Micro's do; the faster ones differ
    by a few steps.
    """
    opened = open_interpreter(flatbuffer, np.int8, threads)
    levels = quantised_pixels(opened.input)

    def run(frames: Pixels) -> Logits:
        _check_shape(frames, opened)
        return opened.output.floats(np.concatenate([opened.run(levels[frame[None]]) for frame in frames]))

    def run_all(frames: Pixels) -> tuple[Logits, Embeddings]:
        _check_shape(frames, opened)
        answers = [opened.run_all(levels[frame[None]]) for frame in frames]
        logits, embeddings = (np.concatenate(rows) for rows in zip(*answers, strict=True))
        assert opened.embedding is not None
        return opened.output.floats(logits), opened.embedding.floats(embeddings)

    return run if opened.embedding is None else TwoOutputModel(run_all, opened.embedding_width)


def quantised_pixels(input: Quantisation) -> npt.NDArray[np.int8]:
    """The model's int8 input for each of the 256 pixel values, int8 (256,)."""
    levels = np.rint(np.arange(256) / input.scale) + input.zero
    return np.clip(levels, -128, 127).astype(np.int8)  # type: ignore[no-any-return]


def open_interpreter(flatbuffer: bytes | memoryview, dtype: Any, threads: int | None = None) -> LiteRTModel:
    """Open a model whose input and outputs are all `dtype`, np.float32 or np.int8; else BadArtifact.

    The first output is the logits; one of two dimensions is the embedding, one of four activation maps. A
    model with int8 ends runs on the reference kernels.
    """
    count = check_threads(threads) or describe_machine().cores
    data = bytes(flatbuffer)
    try:
        kernels = OpResolverType.BUILTIN_REF if dtype == np.int8 else OpResolverType.AUTO
        with _quiet():
            interpreter = Interpreter(
                model_content=data, num_threads=count, experimental_op_resolver_type=kernels
            )
            interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:  # a damaged name gives UnicodeDecodeError, a ValueError
        raise BadArtifact(f"LiteRT refuses the model: {first_line(error)}.", "Export it again.") from error
    sides = [len(entry["shape"]) for entry in outputs[1:]]
    if sides not in ([], [2], [4], [2, 4]) or {one["dtype"] for one in (*inputs, *outputs)} != {dtype}:
        wanted = np.dtype(dtype).name
        raise BadArtifact(f"The model does not map {wanted} frames to {wanted} logits.", "Export it again.")
    source, targets = inputs[0]["index"], [entry["index"] for entry in outputs]
    width = int(outputs[1]["shape"][-1]) if 2 in sides else None
    lock = threading.Lock()  # an interpreter keeps the frame that it works on

    def ask(frame: Array, wanted: list[int], _data: bytes = data) -> list[Array]:  # it points into the bytes
        with lock:
            interpreter.set_tensor(source, frame)
            interpreter.invoke()
            return [interpreter.get_tensor(target) for target in wanted]

    def first(frame: Array, count: int) -> list[Array]:
        answers = ask(frame, targets[:count])
        for answer in answers:
            if answer.ndim != 2 or len(answer) != 1:
                raise BadArtifact(f"The model's output has the shape {answer.shape}.", "Export it again.")
        return answers

    def run(frame: Array) -> Array:
        return first(frame, 1)[0]

    def run_all(frame: Array) -> list[Array]:
        return first(frame, 1 if width is None else 2)

    def run_map(frame: Array) -> list[Array]:
        return ask(frame, [targets[0], targets[-1]])

    input, output, *others = (Quantisation(*entry["quantization"]) for entry in (*inputs, *outputs))
    if dtype == np.int8 and not all(one.scale > 0 for one in (input, output, *others)):
        raise BadArtifact("The model does not state its quantisation scales.", "Export it again.")
    embedding = others[0] if 2 in sides else None
    maps = run_map if 4 in sides else None
    return LiteRTModel(tuple(inputs[0]["shape"]), input, output, embedding, run, run_all, maps, width)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what LiteRT prints on stderr when all is well; it has no setting for that.

    Other lines, also of other threads, are written once the block ends.
    """
    with _STDERR, ExitStack() as held:
        try:
            kept, stderr = held.enter_context(tempfile.TemporaryFile()), os.dup(2)
        except OSError:  # no place to write, or no stderr
            yield
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            kept.seek(0)
            for line in kept:
                if not line.startswith(b"INFO: "):
                    os.write(2, line)


def _check_shape(frames: Pixels, opened: LiteRTModel) -> None:
    if frames.shape[1:] != opened.shape[1:]:
        raise BadArtifact(
            f"The model takes frames of shape {opened.shape[1:]}, not {frames.shape[1:]}.", "Export it again."
        )
