"""For ExecuTorch with XNNPACK: Android, iOS and embedded programs of the torch family.

The model takes one frame as float32, 0 to 255, and answers with float32 logits, and with the embedding where
photos may be unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from catflap.exporting.target import Argument, Form, Target, run_converter

if TYPE_CHECKING:
    from catflap.exporting.judging import ExportSource

CHECKPOINT, WRITTEN = "checkpoint", "written.pte"
EMBEDDED = "embedded"  # where the features before the head are a second output


def convert(form: Form, source: ExportSource) -> tuple[bytes, ...]:
    """The .pte file of the only precision that is written: fp32."""
    embedded = {EMBEDDED: ""} if source.may_be_unknown else {}
    given: dict[str, Argument] = {CHECKPOINT: source.checkpoint.path, **embedded}
    return run_converter(__name__, given, (WRITTEN,))


def work(folder: Path) -> None:
    """In the other process: a program for XNNPACK from the torch module."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from catflap.artifacts.checkpoint import load_checkpoint
    from catflap.training.network import TwoOutputNetwork, load_network

    opened = load_checkpoint(folder / CHECKPOINT)
    example = torch.zeros(1, opened.frame.height, opened.frame.width, 3)
    network = load_network(opened)
    module = TwoOutputNetwork(network) if (folder / EMBEDDED).exists() else network
    program = torch.export.export(module.eval(), (example,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    (folder / WRITTEN).write_bytes(lowered.to_executorch().buffer)


TARGET = Target(
    "executorch",
    {"executorch-fp32": Form("executorch", "fp32", "targets/executorch/fp32.pte")},
    convert,
    packages=("executorch",),
)
