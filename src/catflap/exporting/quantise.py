"""Float ONNX graphs to int8 and fp16, with activation ranges from 48 calibration frames.

The ranges are our own: for Lite0 at 288 px and 16 frames ONNX Runtime's PercentileCalibrater took 33 s and
1.7 GB, because it keeps every activation of all frames; `activation_ranges` took 8 s and 0.4 GB on the same
two busy cores, and is exact where that has a histogram of 2,048 bins.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from catflap.errors import CatflapError, first_line, system_reason
from catflap.exporting.onnx_edits import compact, with_outputs
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.progress import prefetch
from catflap.runtime.engine_onnx import open_session, run_session

Floats: TypeAlias = npt.NDArray[np.float32]
Range: TypeAlias = tuple[np.float32, np.float32]
CALIBRATION_FRAMES = 48  # of a variant
FRAMES_AT_ONCE = 4  # at most: all activations of these are in memory
FLOAT_LAYERS = 2  # stay float in int8 graphs; the second causes half of the loss of int8
PERCENTILE = 99.999
COPIES = 4  # of a model in temporary files, at most


def quantise(onnx_bytes: bytes, frames: Pixels, percentile: float = PERCENTILE) -> bytes:
    """The int8 form of a model, as ONNX bytes: QDQ, uint8 activations, int8 weights for each channel.

    Activation ranges are a percentile over calibration frames, uint8 (n, height, width, 3), n ≥ 1; 100 is
    min-max. The logits stay float, so that none is clipped to the calibration range. Inputs and outputs keep
    their types, and the first two convolutions stay float. Raises CatflapError for a graph that cannot be
    quantised.
    """
    with _temporary_folder() as folder:
        given, prepared, written = (folder / f"{name}.onnx" for name in ("given", "prepared", "int8"))
        given.write_bytes(onnx_bytes)
        disk = shutil.disk_usage(folder)
        if disk.total and disk.free < COPIES * len(
            onnx_bytes
        ):  # else the optimiser silently skips what fails
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with _quiet():
                quant_pre_process(given, prepared, skip_symbolic_shape=True)
            ranges = activation_ranges(prepared.read_bytes(), frames, percentile)
            with _quiet():
                _write_int8(onnx.load(prepared), ranges, written)
        except OSError:
            raise  # of the temporary folder, not of the model
        except Exception as error:  # the quantiser raises many types for unknown graphs
            raise CatflapError(
                f"The model cannot be quantised: {first_line(error)}.",
                "Export it with --variants fp32, or choose another backbone.",
            ) from error
        return compact(written.read_bytes())


def to_fp16(onnx_bytes: bytes) -> bytes:
    """The fp16 form of a model, as ONNX bytes; inputs and outputs keep their types."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(onnx_bytes), keep_io_types=True)
    return bytes(model.SerializeToString())


def _write_int8(model: onnx.ModelProto, ranges: Mapping[str, Range], path: Path) -> None:
    tensors = {
        name: TensorData(lowest=np.array(low), highest=np.array(high)) for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, tensors),
        nodes_to_quantize=[],
        nodes_to_exclude=_first_layers(model),
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(path))


def _first_layers(model: onnx.ModelProto) -> list[str]:
    """The nodes up to the last float convolution: pixels are not rounded in front of it either."""
    places = [place for place, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    end = places[:FLOAT_LAYERS][-1] if places else -1
    return [node.name for node in model.graph.node[: end + 1]]


@dataclass(frozen=True)
class _Extremes:
    """The minimum and maximum of a tensor over frames, and its `keep` largest magnitudes."""

    low: np.float32
    high: np.float32
    largest: Floats
    keep: int

    def joined(self, other: _Extremes) -> _Extremes:
        largest = _largest(np.concatenate([self.largest, other.largest]), self.keep)
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)  # which keep a NaN
        return _Extremes(low, high, largest, self.keep)


def activation_ranges(graph: bytes, frames: Pixels, percentile: float) -> dict[str, Range]:
    """The quantisation range of each float tensor between the layers of a graph: minimum and maximum.

    Over frames, uint8 (n, height, width, 3), n ≥ 1, clipped at the percentile of the tensor's magnitudes; 100
    clips nothing. Frames run on all cores. Raises ValueError for a tensor that is not finite.
    """
    model = onnx.load_from_string(graph)
    outputs = dict.fromkeys(name for node in model.graph.node for name in node.output if name)
    session = open_session(with_outputs(model, outputs), threads=1, optimise=False)
    types = {end.name: end.type for end in session.get_outputs()}
    names = [name for name in outputs if types[name] == "tensor(float)"]
    pixels = session.get_inputs()[0].name
    floors = dict.fromkeys(names, np.float32(-1))  # of the largest magnitudes so far
    found: dict[str, _Extremes] = {}

    def run(frame: Pixels) -> list[_Extremes]:
        tensors = run_session(session, {pixels: frame[None]}, names)
        return [
            _extremes(tensor, floors[name], 1 + int((1 - percentile / 100) * tensor.size * len(frames)))
            for name, tensor in zip(names, tensors, strict=True)
        ]

    for seen in prefetch(run, frames, min(FRAMES_AT_ONCE, describe_machine().cores)):
        for name, one in zip(names, seen, strict=True):
            found[name] = found[name].joined(one) if name in found else one
            if len(found[name].largest) == one.keep:
                floors[name] = found[name].largest.min()
    return {name: _range(name, seen) for name, seen in found.items()}


def _extremes(tensor: Floats, floor: np.float32, keep: int) -> _Extremes:
    """The extremes of one frame, with magnitudes above the floor only. An empty tensor counts as a zero."""
    values = tensor.ravel() if tensor.size else np.zeros(1, np.float32)
    above = np.concatenate([values[values > floor], -values[values < -floor]]) if floor >= 0 else abs(values)
    return _Extremes(values.min(), values.max(), _largest(above, keep), keep)


def _largest(values: Floats, count: int) -> Floats:
    return np.partition(values, -count)[-count:] if len(values) > count else values


def _range(name: str, seen: _Extremes) -> Range:
    if not np.isfinite((seen.low, seen.high)).all():
        raise ValueError(f"the tensor {name} is not finite")
    most = seen.largest.min()
    return max(seen.low, -most), min(seen.high, most)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A temporary folder; CatflapError where it cannot be written."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        place = f" {tempfile.tempdir}" if tempfile.tempdir else ""
        raise CatflapError(
            f"The folder for temporary files{place} cannot be written: {system_reason(error)}.",
            "Make room there, or let TMPDIR name another folder.",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, to which the quantiser writes."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
