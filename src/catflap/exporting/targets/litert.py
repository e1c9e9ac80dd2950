"""For LiteRT: Android, iOS, the browser, small boards; the one file that owns litert_torch and its quantiser.

The model takes one frame as float32, 0 to 255, and answers with float32 logits, also when it is int8
inside: LiteRT.js refuses 8-bit ends, and an 8-bit answer would clip what calibration did not show.
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np

from catflap.exporting.apart import convert_apart
from catflap.exporting.forms import Source

CHECKPOINT, FRAMES, FLOAT, WRITTEN = "checkpoint", "frames.npy", "fp32.tflite", "written.tflite"


def convert(precision: str, source: Source) -> tuple[bytes, ...]:
    """The .tflite file of a precision, fp32 or int8; converted in a process of its own, for it may crash."""
    whole = _float(str(source.checkpoint.path.resolve()), source.checkpoint.sha256)
    if precision == "fp32":
        return (whole,)
    frames = io.BytesIO()
    np.save(frames, source.frames)
    needs = ("ai_edge_quantizer", "ai_edge_litert")
    return convert_apart(__name__, {FRAMES: frames.getvalue(), FLOAT: whole}, (WRITTEN,), needs)


@lru_cache(maxsize=1)
def _float(checkpoint: str, sha256: str) -> bytes:
    """The float model of a Checkpoint, of which int8 is made as well."""
    return convert_apart(__name__, {CHECKPOINT: checkpoint}, (WRITTEN,), ("litert_torch",))[0]


def work(folder: Path) -> None:
    """In the other process: a float model from a Checkpoint, or an int8 model from a float one."""
    if (folder / CHECKPOINT).exists():
        _write_float(Path((folder / CHECKPOINT).read_text("utf-8")), folder / WRITTEN)
    else:
        _write_int8(folder / FLOAT, np.load(folder / FRAMES), folder / WRITTEN)


def _write_float(checkpoint: Path, out: Path) -> None:
    import litert_torch
    import torch

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import load_network

    opened = load_checkpoint(checkpoint)
    example = torch.zeros(1, opened.frame.height, opened.frame.width, 3)
    litert_torch.convert(load_network(opened).eval(), (example,)).export(str(out))


def _write_int8(given: Path, frames: np.ndarray, out: Path) -> None:
    """Static int8, weights for each channel; float at both ends. Ranges are those that the frames show."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe

    (signature, ends), *_ = Interpreter(str(given)).get_signature_list().items()
    samples = [{ends["inputs"][0]: frame[None].astype(np.float32)} for frame in frames]
    work = quantizer.Quantizer(str(given))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        work.update_quantization_recipe(regex=".*", operation_name=end, algorithm_key="no_quantize")
    made = work.quantize(work.calibrate({signature: samples}))
    out.write_bytes(made.quantized_model)
