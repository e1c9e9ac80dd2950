"""Real bundles, small enough to make in a blink: the redder a photo, the more it is a cat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.golden import FILE, Golden, encode_golden, read_golden
from catflap.evaluation.drift_baseline import make_baseline
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, encode, read_pixels
from catflap.runtime.engine_onnx import open_model
from tests.artifacts.samples import small_head, write_bundle

SIDE = 32
RED = encode(np.full((60, 80, 3), (250, 10, 10), np.uint8), "JPEG", quality=95)
BLUE = encode(np.full((60, 80, 3), (10, 10, 250), np.uint8), "JPEG", quality=95)


def make_bundle(
    path: Path,
    *,
    name: str = "cat",
    labels: tuple[str, str] = ("cat", "not_cat"),
    sharpness: float = 0.05,
    effort: int = 0,
    golden_shift: float = 0.0,
    side: int = SIDE,
    fit: str = "squash",
    baseline: dict[str, Any] | None = None,
    embeds: bool = False,
    points: Mapping[float, float] = MappingProxyType({}),
    threshold: float | None = None,
    decision: Mapping[str, Any] | None = None,
    padding: int = 0,
) -> Path:
    """A bundle of one variant, fp32; `effort` makes each answer slower by some 20 ms.

    `sharpness` tells versions apart; `golden_shift` moves the recorded answers, so that it fails
    its verification; `fit` is the frame's; `baseline` is for drift; `embeds` answers with
    an embedding, too, the mean colour; `points` are max_fpr -> threshold for the first label;
    `decision` is the variant's, in place of one from before format 1.1, whose threshold is `threshold`;
    `padding` bytes make the graph larger.
    """
    graph = _graph(sharpness, effort, side, embeds, padding)
    frame = Frame(side, side, fit)
    photos = tuple(encode(scene(seed, 50, 40), "PNG") for seed in range(2))
    frames = np.stack([read_pixels(photo, frame) for photo in photos])
    logits = {"fp32": open_model(graph, 1)(frames) + np.float32(golden_shift)}
    head = small_head()
    variant = {**head["variants"].pop("int8"), "file": "fp32.onnx", "precision": "fp32"}
    variant |= {"temperature": 1.0, "tolerance": 0.01}
    variant |= {} if baseline is None else {"baseline": baseline}
    variant |= {} if decision is None else {"decision": dict(decision)}
    variant |= {"operating_points": [max_fpr_point(labels[0], *point) for point in points.items()]}
    if threshold is not None:
        variant["decision"] = {**variant["decision"], "threshold": threshold}
    head |= {"name": name, "labels": list(labels), "default_variant": "fp32", "variants": {"fp32": variant}}
    head |= {"prior": {labels[0]: 0.25, labels[1]: 0.75}, "frame": frame.to_json()}
    head["golden"] |= {"cases": len(photos)}
    files = {"fp32.onnx": graph, FILE: encode_golden(Golden(photos, frames, logits)), "card.md": b"# Card\n"}
    write_bundle(path, head, files)
    return path


def max_fpr_point(label: str, limit: float, threshold: float) -> dict[str, Any]:
    """An operating point as it stands in bundle.json; nobody has measured what it reaches."""
    figures: dict[str, Any] = {"calibration": {}, "test": {}}
    return {"label": label, "wish": {"max_fpr": limit}, "threshold": threshold, **figures}


def strange_bundle(path: Path, label: str) -> Path:
    """A bundle that passes its golden cases, but whose baseline of a label is of other embeddings."""
    random = np.random.default_rng(0)
    sure = random.uniform(0.1, 0.9, 60)
    answers, embeddings = np.stack([sure, 1 - sure], 1), random.normal(size=(60, 7)).astype(np.float32)
    baseline = make_baseline(answers, ("cat", "not_cat"), np.arange(60), embeddings=embeddings)
    for other in {*baseline["labels"]} - {label}:
        del baseline["labels"][other]["embedding"]
    return make_bundle(path, baseline=baseline, embeds=True)


def with_foreign_default(path: Path, out: Path) -> Path:
    """A bundle whose default variant is for a runtime that nobody has here; its fp32 answers instead."""
    bundle = load_bundle(path)
    head = {name: bundle.head[name] for name in bundle.head if name not in ("catflap_bundle", "files")}
    foreign = {**head["variants"]["fp32"], "runtime": "tpu9"}
    head |= {"variants": {**head["variants"], "tpu": foreign}, "default_variant": "tpu"}
    golden = read_golden(bundle)
    reported = Golden(golden.photos, golden.frames, {**golden.logits, "tpu": golden.logits["fp32"]})
    files = {name: bytes(data) for name, data in bundle.members.items() if name != HEAD}
    write_bundle(out, head, {**files, FILE: encode_golden(reported)})
    return out


def _graph(sharpness: float, effort: int, side: int, embeds: bool, padding: int) -> bytes:
    """uint8 frames to two logits, by the mean of red less that of blue; then work that changes nothing."""
    constants = {
        "weights": np.array([[1, -1], [0, 0], [-1, 1]], np.float32) * np.float32(sharpness),
        "middle": np.array([1, 2], np.int64),
        "kernel": np.full((256, 3, 3, 3), 1e-6, np.float32),
        "wide": np.full((256, 256, 3, 3), 1e-6, np.float32),
        "zero": np.array(0, np.float32),
        "both": np.array([1, 2, 3], np.int64),
        "row": np.array([-1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "middle"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["plain"]),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["work0"], pads=[1, 1, 1, 1]),
    ]
    nodes += [
        helper.make_node("Conv", [f"work{step}", "wide"], [f"work{step + 1}"], pads=[1, 1, 1, 1])
        for step in range(effort)
    ]
    nodes += [
        helper.make_node("ReduceMean", [f"work{effort}", "both"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Reshape", ["nothing", "row"], ["nothings"]),
        helper.make_node("Add", ["plain", "nothings"], ["logits"]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", side, side, 3])
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])]
    if embeds:
        nodes.append(helper.make_node("Identity", ["mean"], ["embedding"]))
        outputs.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3]))
    tensors = [numpy_helper.from_array(array, tensor) for tensor, array in constants.items()]
    graph = helper.make_graph(nodes, "red", [pixels], outputs, tensors)
    graph.doc_string = "x" * padding
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
