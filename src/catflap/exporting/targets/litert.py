"""For LiteRT: Android, iOS, the browser, small boards; the one file that owns litert_torch and its quantiser.

The model takes one frame as float32, 0 to 255, and answers with float32 logits, also when it is int8
inside: LiteRT.js refuses 8-bit ends, and an 8-bit answer would clip what calibration did not show.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from catflap.exporting.forms import ExportSource
from catflap.exporting.quantising.quantise import FLOAT_LAYERS
from catflap.exporting.quantising.rounding import convolution_weights
from catflap.exporting.subprocesses import convert_apart

CHECKPOINT, FRAMES, FLOAT, WRITTEN = "checkpoint", "frames.npy", "fp32.tflite", "written.tflite"
LARGEST = "largest"  # of the logits that an 8-bit end can say, when the ends are 8-bit


def convert(precision: str, source: ExportSource) -> tuple[bytes, ...]:
    """The .tflite file of a precision, fp32 or int8; converted in a process of its own, for it may crash."""
    return (_float_of(source),) if precision == "fp32" else write_int8(source)


def write_int8(source: ExportSource, largest: float | None = None) -> tuple[bytes, ...]:
    """The int8 file; with `largest` its ends are int8 too, and answers hold logits from -largest to it."""
    written = _float_of(source)
    from catflap.exporting.targets.litert_file import with_weights

    before, after = convolution_weights(source.onnx), convolution_weights(source.rounded)
    rounded = with_weights(written, [(before[name], after[name]) for name in before])
    ends = {} if largest is None else {LARGEST: repr(largest)}
    return convert_apart(__name__, {FRAMES: source.frames, FLOAT: rounded, **ends}, (WRITTEN,))


def _float_of(source: ExportSource) -> bytes:
    return _float(source.checkpoint.path, source.checkpoint.sha256)


@lru_cache(maxsize=1)
def _float(checkpoint: Path, sha256: str) -> bytes:
    """The float model of a Checkpoint, of which int8 is made as well."""
    return convert_apart(__name__, {CHECKPOINT: checkpoint}, (WRITTEN,))[0]


def work(folder: Path) -> None:
    """In the other process: a float model from a Checkpoint, or an int8 model from a float one."""
    if (folder / FLOAT).exists():
        largest = float((folder / LARGEST).read_text()) if (folder / LARGEST).exists() else None
        _write_int8(folder / FLOAT, np.load(folder / FRAMES), largest, folder / WRITTEN)
    else:
        _write_float(folder / CHECKPOINT, folder / WRITTEN)


def _write_float(checkpoint: Path, out: Path) -> None:
    import litert_torch
    import torch

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.networks.network import load_network

    opened = load_checkpoint(checkpoint)
    example = torch.zeros(1, opened.frame.height, opened.frame.width, 3)
    litert_torch.convert(load_network(opened).eval(), (example,)).export(str(out))


def _write_int8(given: Path, frames: np.ndarray, largest: float | None, out: Path) -> None:
    """Static int8, weights for each channel; `largest` makes the ends and the first layers int8 as well."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe

    from catflap.exporting.targets.litert_file import compact, first_convolutions

    interpreter = Interpreter(str(given))
    (signature, ends), *_ = interpreter.get_signature_list().items()
    work, name = quantizer.Quantizer(str(given)), qtyping.TFLOperationName
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    if largest is None:
        first = first_convolutions(given.read_bytes(), FLOAT_LAYERS)
        exact = [(".*", name.INPUT), (".*", name.OUTPUT)]
        exact += [(re.escape(at), kind) for at in first for kind in (name.CONV_2D, name.DEPTHWISE_CONV_2D)]
        for place, kind in exact:
            work.update_quantization_recipe(regex=place, operation_name=kind, algorithm_key="no_quantize")
    samples = ({ends["inputs"][0]: frame[None].astype(np.float32)} for frame in frames)
    ranges = _widest([work.calibrate({signature: [sample]}) for sample in samples])
    if largest is not None:
        (pixels,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
        for end, low, high in ((pixels, 0.0, 255.0), (logits, -largest, largest)):
            ranges[end["name"]]["min"][...], ranges[end["name"]]["max"][...] = low, high
    out.write_bytes(compact(bytes(work.quantize(ranges).quantized_model)))


def _widest(found: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Of the ranges of each frame the least and the greatest; the quantiser's own are averages.

    Averages cut off what is rare, bright pixels at one end and sure answers at the other: with them the
    logits were off by eight times as much.
    """
    joined: dict[str, dict[str, Any]] = {}
    for name, first in found[0].items():
        least = np.min([ranges[name]["min"] for ranges in found], axis=0)
        greatest = np.max([ranges[name]["max"] for ranges in found], axis=0)
        joined[name] = {**first, "min": least, "max": greatest}
    return joined
