"""ncnn: models as a graph (param) and its weights (bin); the one file that owns it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ncnn
import numpy as np

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.runtime.engine import Logits, Model, check_threads


def open_model(graph: bytes | memoryview, weights: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), frame by frame.

    `threads` None uses every core. Sums are float32 on every processor. Raises BadArtifact when
    the files are not a model with one input and one output.
    """
    net = ncnn.Net()
    net.opt.num_threads = check_threads(threads) or describe_machine().cores
    net.opt.use_vulkan_compute = False
    net.opt.openmp_blocktime = 0  # idle threads yield the processor
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.bin"
        file.write_bytes(weights)
        refused = net.load_param_mem(bytes(graph).decode("utf-8", "replace")) or net.load_model(str(file))
    if refused or len(net.input_names()) != 1 or len(net.output_names()) != 1:
        raise BadArtifact("ncnn refuses the model.", "Export it again.")
    (source,), (target,) = net.input_names(), net.output_names()

    def run(frames: Pixels) -> Logits:
        return np.stack([run_one(frame) for frame in frames])

    def run_one(frame: Pixels) -> Logits:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)
        with net.create_extractor() as extractor:
            extractor.input(source, ncnn.Mat(planes))
            failed, found = extractor.extract(target)
            logits = np.array(found, np.float32)
        if failed or logits.ndim != 1:
            raise BadArtifact(f"The model's output has the shape {logits.shape}.", "Export it again.")
        return logits

    return run
