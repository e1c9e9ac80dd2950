"""Models that run on LiteRT; the one file that owns its interpreter."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from catflap.errors import BadArtifact, first_line
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.runtime.engines.model import Logits, Model, check_threads

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class End:
    """How an end of a model stands for numbers: value = (whole number - `zero`) * `scale`."""

    scale: float
    zero: int


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready: `answer` takes what it is given, (1, height, width, 3), gives (1, labels)."""

    shape: tuple[int, ...]
    given: End
    answered: End
    answer: Callable[[Array], Array]


def open_model(flatbuffer: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), one by one.

    `threads` None uses every core. Raises BadArtifact when the bytes are not a model that takes one
    frame as float32, 0 to 255, and answers with float32.
    """
    opened = open_ends(flatbuffer, np.float32, threads)

    def run(frames: Pixels) -> Logits:
        _check(frames, opened)
        return np.concatenate([opened.answer(frame[None].astype(np.float32)) for frame in frames])

    return run


def open_micro(flatbuffer: bytes | memoryview, threads: int | None = None) -> Model:
    """The same of a model with 8-bit ends: frames become int8 and answers logits by its own scales.

    It runs on LiteRT's reference kernels, which round as LiteRT Micro's do, to the bit; the faster ones
    differ by a few steps.
    """
    opened = open_ends(flatbuffer, np.int8, threads)
    levels = as_levels(opened.given)

    def run(frames: Pixels) -> Logits:
        _check(frames, opened)
        answers = np.concatenate([opened.answer(levels[frame[None]]) for frame in frames])
        return ((answers.astype(np.int32) - opened.answered.zero) * opened.answered.scale).astype(np.float32)

    return run


def as_levels(end: End) -> npt.NDArray[np.int8]:
    """What each of the 256 values of a pixel is for the model, int8 (256,)."""
    levels = np.rint(np.arange(256) / end.scale) + end.zero
    return np.clip(levels, -128, 127).astype(np.int8)  # type: ignore[no-any-return]


def open_ends(flatbuffer: bytes | memoryview, kind: Any, threads: int | None = None) -> OpenModel:
    """A model whose ends are both of a kind, np.float32 or np.int8; BadArtifact when it is not that.

    One with int8 ends runs on the reference kernels.
    """
    count = check_threads(threads) or describe_machine().cores
    data = bytes(flatbuffer)
    try:
        kernels = OpResolverType.BUILTIN_REF if kind == np.int8 else OpResolverType.AUTO
        interpreter = Interpreter(
            model_content=data, num_threads=count, experimental_op_resolver_type=kernels
        )
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:  # UnicodeDecodeError, of a damaged name, is a ValueError
        raise BadArtifact(f"LiteRT refuses the model: {first_line(error)}.", "Export it again.") from error
    if [entry["dtype"] for entry in (*inputs, *outputs)] != [kind, kind]:
        wanted = np.dtype(kind).name
        raise BadArtifact(f"The model does not map {wanted} frames to {wanted} logits.", "Export it again.")
    source, target = inputs[0]["index"], outputs[0]["index"]
    turn = threading.Lock()  # an interpreter keeps the frame that it works on

    def answer(frame: Array, _kept: bytes = data) -> Array:  # the interpreter points into it
        with turn:
            interpreter.set_tensor(source, frame)
            interpreter.invoke()
            logits: Array = interpreter.get_tensor(target)
        if logits.ndim != 2 or len(logits) != 1:
            raise BadArtifact(f"The model answers in the shape {logits.shape}.", "Export it again.")
        return logits

    given, answered = (End(*entry["quantization"]) for entry in (inputs[0], outputs[0]))
    if kind == np.int8 and not (given.scale > 0 and answered.scale > 0):
        raise BadArtifact("The model does not say what its whole numbers stand for.", "Export it again.")
    return OpenModel(tuple(inputs[0]["shape"]), given, answered, answer)


def _check(frames: Pixels, opened: OpenModel) -> None:
    if frames.shape[1:] != opened.shape[1:]:
        raise BadArtifact(f"The model takes frames of the shape {opened.shape[1:]}.", "Export it again.")
