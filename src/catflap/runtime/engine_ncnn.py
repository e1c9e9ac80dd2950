"""ncnn: models as a graph (param) and its weights (bin); the one file that owns it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ncnn
import numpy as np

from catflap.errors import BadArtifact
from catflap.image import Pixels
from catflap.machine import describe_machine
from catflap.runtime.engine import Embeddings, Logits, Model, TwoOutputModel, check_threads


def open_model(graph: bytes | memoryview, weights: bytes | memoryview, threads: int | None = None) -> Model:
    """A function from frames, uint8 (n, height, width, 3), to logits, float32 (n, labels), frame by frame.

    A second output is the embedding. `threads` None uses every core. Sums are float32 on every processor.
    Raises BadArtifact when the files are not a model with one input and one or two outputs.
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
    if refused or len(net.input_names()) != 1 or len(net.output_names()) not in (1, 2):
        raise BadArtifact("ncnn refuses the model.", "Export it again.")
    (source,), targets = net.input_names(), sorted(net.output_names())  # pnnx: out0, out1

    def run_one(frame: Pixels, wanted: list[str]) -> list[Logits]:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1), np.float32)
        with net.create_extractor() as extractor:
            extractor.input(source, ncnn.Mat(planes))
            answers = []
            for target in wanted:
                failed, found = extractor.extract(target)
                answers.append(np.array(found, np.float32))
                if failed or answers[-1].ndim != 1:
                    what = f"The model's output has the shape {answers[-1].shape}."
                    raise BadArtifact(what, "Export it again.")
        return answers

    def run(frames: Pixels) -> Logits:
        return np.stack([run_one(frame, targets[:1])[0] for frame in frames])

    def run_all(frames: Pixels) -> tuple[Logits, Embeddings]:
        logits, embeddings = zip(*(run_one(frame, targets) for frame in frames), strict=True)
        return np.stack(logits), np.stack(embeddings)

    return TwoOutputModel(run_all) if len(targets) == 2 else run
