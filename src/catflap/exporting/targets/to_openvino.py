"""For OpenVINO: Intel's processors, graphics and NPUs; the one file that owns nncf."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catflap.exporting.target import Form, Target, run_converter

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

FLOAT_LAYERS = 3  # the first have few channels and cause half of the error of the logits
ONNX, FRAMES, GRAPH, WEIGHTS = "model.onnx", "frames.npy", "written.xml", "written.bin"


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The graph and the weights of a precision: fp16 (weights; sums may be float32) or int8."""
    frames = {FRAMES: source.frames} if form.precision == "int8" else {}
    return run_converter(__name__, {ONNX: source.onnx_for_ood, **frames}, (GRAPH, WEIGHTS))


def work(folder: Path) -> None:
    """In the other process: OpenVINO's own format from ONNX, quantised when there are frames."""
    import openvino

    model = openvino.convert_model(str(folder / ONNX))
    if (folder / FRAMES).exists():
        import nncf

        frames = [frame[None] for frame in np.load(folder / FRAMES)]
        layers = [layer for layer in model.get_ordered_ops() if "Convolution" in layer.get_type_name()]
        model = nncf.quantize(
            model,
            nncf.Dataset(frames),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(frames),
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope([layer.get_friendly_name() for layer in layers[:FLOAT_LAYERS]]),
        )
    for section in ("conversion_parameters", "nncf", "Runtime_version", "optimization"):
        if model.has_rt_info(section):  # paths, versions and settings of the machine that wrote it
            model.set_rt_info("", section)
    openvino.save_model(model, str(folder / GRAPH), compress_to_fp16=True)


TARGET = Target(
    "openvino",
    {
        "openvino-int8": Form("openvino", "int8", "targets/openvino/int8.xml", "targets/openvino/int8.bin"),
        "openvino-fp16": Form("openvino", "fp16", "targets/openvino/fp16.xml", "targets/openvino/fp16.bin"),
    },
    convert,
    packages=("openvino",),
    quantisers=("nncf",),
)
