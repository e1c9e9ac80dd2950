"""Float ONNX graphs to int8 and fp16 ones; the one file that owns onnxruntime's tools for that."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process

from catflap.errors import CatflapError, first_line, system_reason
from catflap.exporting.quantising.compact import compact
from catflap.exporting.quantising.ranges import Range, activation_ranges
from catflap.image import Pixels

FLOAT_LAYERS = 2  # of int8 forms; the second sees channels that nearly cancel: half of all that int8 loses
PERCENTILE = 99.999
COPIES = 4  # of a model that its tools write into temporary files, at most


def quantise(onnx_bytes: bytes, frames: Pixels, percentile: float = PERCENTILE) -> bytes:
    """The int8 form of a model, as ONNX bytes: QDQ, uint8 activations, int8 weights for each channel.

    Activation ranges are a percentile over calibration frames, uint8 (n, height, width, 3), n ≥ 1; 100 is
    min-max. The logits stay float, so that none is clipped to what calibration showed. Inputs and
    outputs keep their types, and the first two convolutions stay float. Raises CatflapError when the
    graph cannot be quantised.
    """
    with _temporary_folder() as folder:
        given, prepared, written = (folder / f"{name}.onnx" for name in ("given", "prepared", "int8"))
        given.write_bytes(onnx_bytes)
        disk = shutil.disk_usage(folder)
        if disk.total and disk.free < COPIES * len(onnx_bytes):  # else the optimiser leaves out what fails
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with _quiet():
                quant_pre_process(given, prepared, skip_symbolic_shape=True)
            ranges = activation_ranges(prepared.read_bytes(), frames, percentile)
            with _quiet():
                _write_int8(onnx.load(prepared), ranges, written)
        except OSError:
            raise  # of the temporary folder, not of the model
        except Exception as error:  # the quantiser raises many types for graphs that it does not know
            raise CatflapError(
                f"The model cannot be quantised: {first_line(error)}.",
                "Export it with --variants fp32, or choose another backbone.",
            ) from error
        return compact(written.read_bytes())


def halve(onnx_bytes: bytes) -> bytes:
    """The fp16 form of a model, as ONNX bytes; it still takes uint8 frames and gives float32 logits."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(onnx_bytes), keep_io_types=True)
    return bytes(model.SerializeToString())


def _write_int8(model: onnx.ModelProto, ranges: Mapping[str, Range], path: Path) -> None:
    held = {
        name: TensorData(lowest=np.array(low), highest=np.array(high)) for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, held),
        nodes_to_quantize=[],
        nodes_to_exclude=_first_layers(model),
        op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry}),
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(path))


def _first_layers(model: onnx.ModelProto) -> list[str]:
    """The nodes up to the last convolution that stays float: pixels are not rounded in front of it either."""
    places = [place for place, node in enumerate(model.graph.node) if node.op_type == "Conv"]
    end = places[:FLOAT_LAYERS][-1] if places else -1
    return [node.name for node in model.graph.node[: end + 1]]


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder that is gone when the block ends; CatflapError where nothing can be written into it."""
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
    """Keep what the quantiser says to the root logger off the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
