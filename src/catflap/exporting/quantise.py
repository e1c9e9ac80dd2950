"""Float ONNX graphs to int8 and fp16 ones; the one file that owns onnxruntime's tools for that."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from catflap.errors import CatflapError, why
from catflap.exporting.compact import compact
from catflap.exporting.forms import FLOAT_LAYERS
from catflap.image import Pixels
from catflap.training.onnx_graph import INPUT

FRAMES_AT_ONCE = 4  # every activation of these is in memory at once
PERCENTILE = 99.999


def quantise(onnx_bytes: bytes, frames: Pixels, percentile: float = PERCENTILE) -> bytes:
    """The int8 form of a model, as ONNX bytes: QDQ, uint8 activations, int8 weights for each channel.

    Activation ranges are a percentile over calibration frames, uint8 (n, height, width, 3), n ≥ 1; 100 is
    min-max. The logits stay float, so that none is clipped to what calibration showed. Inputs and
    outputs keep their types, and the first two convolutions stay float. Raises CatflapError when the
    graph cannot be quantised.
    """
    count = len(frames) // FRAMES_AT_ONCE * FRAMES_AT_ONCE or len(frames)
    with tempfile.TemporaryDirectory() as folder:
        given, prepared, written = (Path(folder) / f"{name}.onnx" for name in ("given", "prepared", "int8"))
        given.write_bytes(onnx_bytes)
        try:
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            _without_chatter(
                quantize_static,
                prepared,
                written,
                _Reader(frames[:count]),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=_first_convolutions(prepared),
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={
                    "CalibPercentile": percentile,
                    "CalibStridedMinMax": min(FRAMES_AT_ONCE, count),
                    "OpTypesToExcludeOutputQuantization": ["Gemm"],
                },
            )
        except Exception as error:  # the quantiser raises many types for graphs that it does not know
            raise CatflapError(
                f"The model cannot be quantised: {why(error)}.",
                "Export it with --variants fp32, or choose another backbone.",
            ) from error
        return compact(written.read_bytes())


def halve(onnx_bytes: bytes) -> bytes:
    """The fp16 form of a model, as ONNX bytes; it still takes uint8 frames and gives float32 logits."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(onnx_bytes), keep_io_types=True)
    return bytes(model.SerializeToString())


def _first_convolutions(path: Path) -> list[str]:
    return [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][:FLOAT_LAYERS]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands calibration frames to the quantiser one at a time, in ranges that it asks for."""

    def __init__(self, frames: Pixels) -> None:
        self.frames = frames
        self.set_range(0, len(frames))

    def __len__(self) -> int:
        return len(self.frames)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Start again, with some of the frames."""
        self.rest = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, Any] | None:
        """The next frame as the model's input, or None."""
        position = next(self.rest, None)
        return None if position is None else {INPUT: np.ascontiguousarray(self.frames[position][None])}


def _without_chatter(step: Any, *arguments: Any, **named: Any) -> None:
    """Run a step that logs to the root logger and prints, and keep both off the user's terminal."""
    import contextlib
    import io

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            step(*arguments, **named)
    finally:
        root.setLevel(level)
