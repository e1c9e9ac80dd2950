"""For ncnn: phones and small boards without a runtime's installation; the one file that owns pnnx.

The model takes one frame as ncnn's Mat.from_pixels makes it: float32 planes, 0 to 255, RGB.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from catflap.exporting.target import Argument, Form, Target, run_converter

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

CHECKPOINT, PRECISION, GRAPH, WEIGHTS = "checkpoint", "precision", "written.param", "written.bin"
EMBEDDED = "embedded"  # where the features before the head are a second output


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The .param and the .bin of a precision: fp32 or fp16 (weights; sums are float32)."""
    given: dict[str, Argument] = {CHECKPOINT: source.checkpoint.path, PRECISION: form.precision}
    if source.may_be_unknown:
        given[EMBEDDED] = ""
    return run_converter(__name__, given, (GRAPH, WEIGHTS))


def work(folder: Path) -> None:
    """In the other process: ncnn's format from the torch module."""
    import pnnx
    import torch

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import Network, load_network

    class Planes(torch.nn.Module):
        """The network for float planes, so that no permutation is left in the graph."""

        def __init__(self, network: Network) -> None:
            super().__init__()
            self.network = network

        def forward(self, planes: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
            """Logits of planes, float32 (1, 3, height, width), 0 to 255; and features where wanted."""
            network = self.network
            features = network.backbone((planes - network.mean) * network.scale)
            logits: torch.Tensor = network.head(features)
            return (logits, features) if embedded else logits

    embedded = (folder / EMBEDDED).exists()
    opened = load_checkpoint(folder / CHECKPOINT)
    example = torch.zeros(1, 3, opened.frame.height, opened.frame.width)
    os.chdir(folder)  # pnnx writes beside its input and speaks on stdout
    with contextlib.redirect_stdout(io.StringIO()):
        pnnx.export(
            Planes(load_network(opened)).eval(),
            "model.pt",
            example,
            ncnnparam=GRAPH,
            ncnnbin=WEIGHTS,
            fp16=(folder / PRECISION).read_text("utf-8") == "fp16",
        )


TARGET = Target(
    "ncnn",
    {
        "ncnn-fp32": Form("ncnn", "fp32", "targets/ncnn/fp32.param", "targets/ncnn/fp32.bin"),
        "ncnn-fp16": Form("ncnn", "fp16", "targets/ncnn/fp16.param", "targets/ncnn/fp16.bin"),
    },
    convert,
    packages=("pnnx", "ncnn"),
)
