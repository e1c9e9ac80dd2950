"""Standard defects of runtimes and clients, injected on purpose: do the golden cases notice each of them?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from catflap.evaluation.intervals import Floats
from catflap.exporting.golden_cases import DrawnCase, drawn_cases, extra_case
from catflap.image import Frame, Pixels, read_pixels, read_whole
from catflap.runtime.decisions import Probabilities, softmax
from catflap.runtime.engine import Logits, Model
from catflap.runtime.engine_onnx import open_model

MAX_EXTRA = 16  # cases more than are always drawn
ASSUMED_TOLERANCE = 0.02  # of the largest logit: what int8 variants have
VISIBLE = 3.0  # times the tolerance: a defect that moves a golden answer by so much is certain to be noticed
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Change: TypeAlias = Callable[[bytes, Frame], Pixels]
PixelChange: TypeAlias = Callable[[Pixels], Pixels]


def _normalised(mean: Sequence[float], std: Sequence[float]) -> PixelChange:
    """Frames that a network for mean 0.5 and std 0.5 sees as if another normalisation had been applied."""

    def change(pixels: Pixels) -> Pixels:
        scaled = (pixels / 255 - np.array(mean)) / np.array(std)
        return _levels(127.5 + 127.5 * scaled)

    return change


def _levels(values: npt.NDArray[Any]) -> Pixels:
    levels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return levels


def _sampled(photo: bytes, frame: Frame, nearest: bool) -> Pixels:
    """The photo resized without antialias: each pixel of the frame is one point of the photo."""
    whole = read_whole(photo, frame).astype(np.float64)
    height, width = whole.shape[:2]
    if frame.fit == "crop":
        kept_height = min(height, max(1, width * frame.height // frame.width))
        kept_width = min(width, max(1, height * frame.width // frame.height))
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        whole = whole[top : top + kept_height, left : left + kept_width]
        height, width = whole.shape[:2]
    rows = (np.arange(frame.height) + 0.5) * height / frame.height - 0.5
    columns = (np.arange(frame.width) + 0.5) * width / frame.width - 0.5
    if nearest:
        return _levels(whole[np.rint(rows).astype(int)][:, np.rint(columns).astype(int)])
    lines = _between(whole, rows)
    return _levels(_between(lines.swapaxes(0, 1), columns).swapaxes(0, 1))


def _between(lines: Floats, places: Floats) -> Floats:
    """Linear interpolation between lines (n, …) at fractional places."""
    first = np.clip(np.floor(places).astype(int), 0, len(lines) - 1)
    second = np.minimum(first + 1, len(lines) - 1)
    share = np.clip(places - first, 0, 1)[:, None, None]
    return np.asarray((1 - share) * lines[first] + share * lines[second])


def _shifted(photo: bytes, frame: Frame) -> Pixels:
    return np.asarray(np.roll(read_pixels(photo, frame), 1, axis=(0, 1)))


def _off_by_one_resize(photo: bytes, frame: Frame) -> Pixels:
    larger = read_pixels(photo, replace(frame, width=frame.width + 1, height=frame.height + 1))
    return np.asarray(larger[: frame.height, : frame.width])


def _other_fit(photo: bytes, frame: Frame) -> Pixels:
    return read_pixels(photo, replace(frame, fit="crop" if frame.fit == "squash" else "squash"))


def _grey(pixels: Pixels) -> Pixels:
    weights = np.array([0.299, 0.587, 0.114])
    return np.asarray(_levels(pixels @ weights)[..., None].repeat(3, -1))


FRAME_DEFECTS: Mapping[str, Change] = MappingProxyType(  # a client that makes the frame itself
    {
        "no antialias": lambda photo, frame: _sampled(photo, frame, nearest=False),
        "nearest pixel": lambda photo, frame: _sampled(photo, frame, nearest=True),
        "crop off by one": _shifted,
        "resize off by one": _off_by_one_resize,
        "squash for crop, or crop for squash": _other_fit,
    }
)
ENGINE_DEFECTS: Mapping[str, PixelChange] = MappingProxyType(  # a runtime that is given the right frame
    {
        "BGR": lambda pixels: pixels[..., ::-1],
        "ImageNet mean and std": _normalised(IMAGENET_MEAN, IMAGENET_STD),
        "normalised twice": _normalised((0.5,) * 3, (0.25,) * 3),
        "scaled to 0 to 1 only": _normalised((0.0,) * 3, (1.0,) * 3),
        "mean 0.5 without std": _normalised((0.5,) * 3, (1.0,) * 3),
        "gamma 2.2": lambda pixels: _levels(255 * (pixels / 255) ** (1 / 2.2)),
        "mirrored": lambda pixels: pixels[:, ::-1],
        "upside down": lambda pixels: pixels[::-1],
        "grey": _grey,
    }
)


def stale_weights(graph: bytes) -> bytes:
    """A graph with the weights of an earlier training run: 2 % noise on each."""
    random = np.random.default_rng(0)

    def change(weights: npt.NDArray[Any], place: int) -> npt.NDArray[Any]:
        return np.asarray(weights + 0.02 * weights.std() * random.standard_normal(weights.shape))

    return _with_weights(graph, change)


def per_tensor_weights(graph: bytes) -> bytes:
    """A graph whose weights are rounded to int8 with one scale for a whole layer."""

    def change(weights: npt.NDArray[Any], place: int) -> npt.NDArray[Any]:
        step = max(float(np.abs(weights).max()) / 127, 1e-12)
        return np.rint(weights / step) * step

    return _with_weights(graph, change)


def wrong_range(graph: bytes) -> bytes:
    """A graph with one layer in the middle at half its scale."""
    count = len(_weights(onnx.load_from_string(graph)))
    return _with_weights(graph, lambda weights, place: weights * (0.5 if place == count // 2 else 1.0))


GRAPH_DEFECTS: Mapping[str, Callable[[bytes], bytes]] = MappingProxyType(
    {
        "stale weights": stale_weights,
        "per-tensor weights": per_tensor_weights,
        "one layer's range wrong": wrong_range,
    }
)
ANSWER_DEFECTS: Mapping[str, Callable[[Logits, float], Probabilities]] = MappingProxyType(
    {
        "softmax twice": lambda logits, temperature: softmax(softmax(logits, temperature)),
        "temperature dropped": lambda logits, temperature: softmax(logits),
        "labels permuted": lambda logits, temperature: np.roll(softmax(logits, temperature), 1, axis=1),
    }
)


def choose_cases(
    frame: Frame, model: Model, pixel_tolerance: int, extra: int = MAX_EXTRA
) -> tuple[tuple[DrawnCase, ...], dict[str, float]]:
    """Drawn golden cases among which every defect of a client or a runtime is visible, as far as one can.

    Starts with `drawn_cases` and adds up to `extra` cases that make a defect visible which was not. Returns
    the cases and, for each defect, its largest effect in tolerances: of the frame, in grey levels, for
    defects before the model, and of a logit for defects inside it. `model` is the float graph.
    """
    cases = list(drawn_cases(frame))
    logits = model(np.stack([read_pixels(case.photo, frame) for case in cases]))
    tolerance = ASSUMED_TOLERANCE * float(np.abs(logits).max())
    effects = visibility(cases, frame, model, pixel_tolerance, tolerance)
    for seed in range(extra):
        hidden = [name for name, effect in effects.items() if effect < VISIBLE]
        if not hidden:
            break
        case = extra_case(seed)
        found = visibility([case], frame, model, pixel_tolerance, tolerance, hidden)
        if any(effect >= VISIBLE for effect in found.values()):
            cases.append(case)
            effects |= {name: max(effect, effects[name]) for name, effect in found.items()}
    return tuple(cases), {name: round(effect, 2) for name, effect in effects.items()}


def visibility(
    cases: Sequence[DrawnCase],
    frame: Frame,
    model: Model,
    pixel_tolerance: float,
    tolerance: float,
    names: Collection[str] | None = None,
) -> dict[str, float]:
    """The largest effect of each defect, or of the named ones, on these cases, in tolerances.

    Defects of decoding change only the cases that state what they would make of them.
    """
    frames = np.stack([read_pixels(case.photo, frame) for case in cases])
    expected, found = model(frames), dict[str, float]()

    def pixels(places: Sequence[int], defective: Sequence[Pixels]) -> float:
        levels = np.abs(np.stack(defective).astype(np.int16) - frames[list(places)]).max()
        return float(levels) / pixel_tolerance

    for name in dict.fromkeys(name for case in cases for name in case.defective):
        if names is None or name in names:
            places = [place for place, case in enumerate(cases) if name in case.defective]
            found[name] = pixels(
                places, [read_pixels(cases[place].defective[name], frame) for place in places]
            )
    for name, change in FRAME_DEFECTS.items():
        if names is None or name in names:
            found[name] = pixels(range(len(cases)), [change(case.photo, frame) for case in cases])
    for name, alter in ENGINE_DEFECTS.items():
        if names is None or name in names:
            changed = np.stack([alter(one) for one in frames])
            found[name] = float(np.abs(model(changed) - expected).max()) / tolerance
    return found


def graph_visibility(graph: bytes, frames: Pixels, tolerance: float) -> dict[str, float]:
    """The largest effect on a logit of defects in the weights of a float ONNX graph, in tolerances."""
    expected = open_model(graph)(frames)
    return {
        name: float(np.abs(open_model(edit(graph))(frames) - expected).max()) / tolerance
        for name, edit in GRAPH_DEFECTS.items()
    }


def answer_visibility(logits: Logits, temperature: float, tolerance: float) -> dict[str, float]:
    """The largest change of a probability by each defect after the logits, in tolerances."""
    expected = softmax(logits, temperature)
    return {
        name: float(np.abs(change(logits, temperature) - expected).max()) / tolerance
        for name, change in ANSWER_DEFECTS.items()
    }


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The weights of convolutions and of the head, in the order of the graph."""
    read = [node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return [stored[name] for name in dict.fromkeys(read) if name in stored]


def _with_weights(graph: bytes, change: Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]) -> bytes:
    model = onnx.load_from_string(graph)
    for place, tensor in enumerate(_weights(model)):
        weights = change(numpy_helper.to_array(tensor), place).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return bytes(model.SerializeToString())
