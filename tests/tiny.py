"""The tiny network (33,000 weights) and a line of artefacts made with it, for quick tests.

`TINY` is a backbone like any other of timm's: `Plan(backbone=TINY)`, `load_backbone(TINY)` and everything
after them take the same way as Lite0, in milliseconds. Importing this file registers it in this process; a
test that runs the command line in a process of its own starts `[*CATFLAP, "train", ...]`.
The session fixtures `drawn_dataset`, `drawn_checkpoint` and `drawn_bundle` of conftest.py are made with it,
once a run; `keeping_graphs` keeps the ONNX graphs of networks for the workers of a run and for later runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock
from PIL import Image
from timm.models import register_model
from timm.models.efficientnet import EfficientNet, decode_arch_def

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.folder import write_atomically
from catflap.image import Frame, Pixels
from catflap.training import onnx_graph

TINY = "catflap_tiny"
CATFLAP = (sys.executable, str(Path(__file__).resolve()))
GRAPHS = Path(__file__).resolve().parents[1] / ".cache" / "test-graphs"
HEAD = ("head.weight", "head.bias")  # of a Network
STAGES = (  # as in EfficientNet-Lite, an eighth as wide
    "ds_r1_k3_s1_e1_c8", "ir_r1_k3_s2_e3_c16", "ir_r1_k5_s2_e3_c24",
    "ir_r1_k3_s2_e3_c40", "ir_r1_k3_s1_e3_c64",
)  # fmt: skip

FRAME = Frame(64, 64)
COLOURS = {"cat": (200, 80, 60), "other": (60, 90, 200), "third": (70, 190, 80)}


@register_model
def catflap_tiny(pretrained: bool = False, **_: Any) -> EfficientNet:
    """The network without a classifier; "pretrained" are the weights of one seed, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2 if pretrained else 1)
        network = EfficientNet(
            block_args=decode_arch_def([[stage] for stage in STAGES]),
            num_classes=0,
            num_features=128,
            stem_size=8,
            fix_stem=True,
            act_layer=torch.nn.ReLU6,
            pad_type="same",
        )
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(part.weight)
            elif isinstance(part, torch.nn.BatchNorm2d):  # so that folding has something to fold
                torch.nn.init.uniform_(part.weight, 0.9, 1.1)
                torch.nn.init.uniform_(part.bias, -0.1, 0.1)
    network.pretrained_cfg = {
        "input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "license": "Apache-2.0",
    }  # fmt: skip
    return network


@dataclass(frozen=True)
class Exported:
    """A Bundle, and what `export` returned when it was written."""

    path: Path
    answer: dict[str, Any]


def drawn(label: str, number: int) -> Pixels:
    """A photo of blobs in the label's colour, uint8 (120, 160, 3), always the same."""
    random = np.random.default_rng([list(COLOURS).index(label), number])
    blobs = np.clip(np.array(COLOURS[label]) + random.normal(0, 60, (9, 12, 3)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((160, 120), Image.Resampling.BICUBIC))


def draw_photos(root: Path, labels: tuple[str, ...] = ("cat", "other"), count: int = 30) -> Path:
    """A class folder of drawn JPEGs."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(drawn(label, number)).save(root / label / f"{number:02}.jpg", quality=90)
    return root


def make_dataset(root: Path, labels: tuple[str, ...] = ("cat", "other"), count: int = 30) -> Dataset:
    """Drawn photos, scanned and prepared for a frame of 64 px; `photos` and `manifest` lie beside it.

    The roles have the shares of large sets, so that calibration and test have enough photos for baselines.
    """
    from catflap.data.prepare import prepare
    from catflap.data.roles import SHARES
    from catflap.data.scan import scan

    photos = draw_photos(root / "photos", labels, count)
    manifest = scan(photos, root / "manifest", workers=1)
    return prepare(manifest, root / "dataset", frame=FRAME, shares=SHARES)


def make_checkpoint(dataset: Dataset, backbone: str = TINY) -> Checkpoint:
    """A head on a backbone, in `checkpoint` beside the Dataset."""
    from catflap.training.plan import Plan
    from catflap.training.train import train

    return train(dataset, dataset.path.with_name("checkpoint"), Plan(backbone=backbone))


def exporter() -> bytes:
    """What graphs depend on besides their network: our exporter and the versions of its tools."""
    versions = " ".join(version(name) for name in ("torch", "onnx", "onnxscript"))
    return sha256(Path(onnx_graph.__file__).read_bytes() + versions.encode()).digest()


def kept_graph(folder: Path, module: torch.nn.Module, height: int, width: int) -> bytes:
    """What `to_onnx` gives, kept in a folder: torch's exporter takes three seconds for the tiny network.

    Networks that differ only in their linear head share a file, whose head is replaced.
    tests/training/test_onnx_graph.py tests the exporter itself, and that both ways give the same bytes.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    arrays = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}
    heads = {name: array for name, array in arrays.items() if name.removeprefix("network.") in HEAD}
    digest = sha256(exporter() + f"{module} {height} {width} {module.training}".encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        if name not in heads:
            digest.update(array.tobytes())
    path = folder / f"{digest.hexdigest()}.onnx"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_atomically(path, onnx_graph.to_onnx(module, height, width), durable=False)
    path.touch()
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:
        if tensor.name in heads:
            tensor.raw_data = heads[tensor.name].tobytes()
    return graph.SerializeToString()


@contextmanager
def keeping_graphs(folder: Path) -> Iterator[None]:
    """Take graphs from a folder where it has them, in this process; 200 MB stay when nobody uses it."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [(path.stat(), path) for path in folder.glob("*.onnx")]
    left = 200_000_000
    for status, path in sorted(found, key=lambda one: one[0].st_mtime, reverse=True):
        left -= status.st_size
        if left < 0 and status.st_mtime < time() - 3600:  # not those of a run beside this one
            path.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("exporting.judging", "training.features", "training.finetune"):
            patch.setattr(import_module(f"catflap.{name}"), "to_onnx", partial(kept_graph, folder))
        yield


def make_bundle(checkpoint: Checkpoint, dataset: Dataset) -> Exported:
    """The Checkpoint as a Bundle of int8 and fp32, `tiny.catflap` beside the Dataset."""
    from catflap.exporting.export import export

    path = dataset.path.with_name("tiny.catflap")
    return Exported(path, export(checkpoint, dataset, path))


if __name__ == "__main__":
    from catflap.cli.main import run

    with keeping_graphs(GRAPHS):
        run()
