"""Bundles for tests: one small enough to damage in every byte, one that runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from catflap.artifacts.bundle import HEAD, encode_bundle, load_bundle
from catflap.artifacts.golden import Golden, encode_golden, read_golden
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, encode, read_pixels
from catflap.runtime.engine_onnx import open_model

FILES = {"int8.onnx": b"not a real model", "golden.npz": b"no cases", "card.md": b"# Card\n"}


def small_head() -> dict[str, Any]:
    """The fields of a bundle.json that conforms; a new copy each time."""
    head = {
        "name": "cat",
        "labels": ["cat", "not_cat"],
        "frame": Frame(32, 32).to_json(),
        "input": {"name": "pixels", "dtype": "uint8", "layout": "NHWC"},
        "output": {"name": "logits", "dtype": "float32"},
        "default_variant": "int8",
        "variants": {
            "int8": {
                "file": "int8.onnx",
                "runtime": "onnxruntime",
                "precision": "int8",
                "temperature": 1.5,
                "tolerance": 0.05,
                "metrics": {"accuracy": {"value": 0.99, "low": 0.98, "high": 1.0}},
                "fidelity": {
                    "photos": 100,
                    "flips": 1,
                    "flip_rate": 0.01,
                    "max_probability_difference": 0.2,
                },
                "decision": {"threshold": 0.6, "error_rate": 0.01, "photos": 50},
            }
        },
        "prior": {"cat": 0.25, "not_cat": 0.75},
        "golden": {"file": "golden.npz", "cases": 1, "pixel_tolerance": 2},
        "ancestors": {"checkpoint": "0" * 64},
        "licences": {"model": "Apache-2.0"},
        "versions": {"catflap": "0.1.0"},
    }
    return json.loads(json.dumps(head))  # type: ignore[no-any-return]


def write_bundle(path: Path, head: dict[str, Any], files: Mapping[str, bytes]) -> str:
    """Write a bundle that nobody has verified, and return its sha256."""
    data = encode_bundle(path, head, files)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def small_bundle(folder: Path) -> Path:
    """A bundle file that load_bundle accepts."""
    path = folder / "small.catflap"
    write_bundle(path, small_head(), FILES)
    return path


def runnable_bundle(folder: Path) -> Path:
    """A bundle that verifies and answers: "warm" when a photo is redder than it is blue, else "cold"."""
    frame = Frame(32, 32)
    photos = tuple(encode(scene(seed, 60, 50), "PNG") for seed in range(4))
    frames = np.stack([read_pixels(photo, frame) for photo in photos])
    model = _colour_model()
    golden = Golden(photos, frames, {"fp32": open_model(model, 1)(frames)})
    head = small_head()
    head |= {"name": "warmth", "labels": ["cold", "warm"], "default_variant": "fp32"}
    head |= {"prior": {"cold": 0.5, "warm": 0.5}}
    variant = {**head["variants"]["int8"], "file": "fp32.onnx", "precision": "fp32", "temperature": 1.0}
    head["variants"] = {"fp32": variant}
    head["golden"] = {"file": "golden.npz", "cases": len(photos), "pixel_tolerance": 2}
    path = folder / "warmth.catflap"
    write_bundle(
        path, head, {"fp32.onnx": model, "golden.npz": encode_golden(golden), "card.md": b"# Warmth\n"}
    )
    return path


def with_litert(
    bundle: Path,
    out: Path,
    tflite: bytes,
    *,
    name: str = "litert-fp32",
    logits: npt.NDArray[np.float32] | None = None,
    ood: npt.NDArray[np.float32] | None = None,
    **fields: Any,
) -> Path:
    """The bundle with a variant for LiteRT, whose golden logits are those of fp32 if none are given.

    `ood` are the golden cases' OOD scores, where it has `unknown`.
    """
    opened = load_bundle(bundle)
    golden = read_golden(opened)
    head = {field: value for field, value in opened.head.items() if field != "files"}
    file = f"targets/litert/{name}.tflite"
    about = {**head["variants"]["fp32"], "runtime": "litert", "file": file, **fields}
    head["variants"] = {**head["variants"], name: about}
    answers = {**golden.logits, name: golden.logits["fp32"] if logits is None else logits}
    files = {member: bytes(data) for member, data in opened.members.items() if member != HEAD}
    refusals = {}
    if ood is not None:
        limit = fields["unknown"]["threshold"]
        rows = np.append(ood, [limit * 1.001, limit * 0.999]).astype(np.float32)
        refusals = {"ood": {name: rows}, "unknown": {name: rows > limit}}
    new = Golden(golden.photos, golden.frames, answers, **refusals)
    files |= {file: tflite, "golden.npz": encode_golden(new)}
    write_bundle(out, head, files)
    return out


def _colour_model() -> bytes:
    """uint8 frames to logits: the mean colour times a matrix, as an ONNX graph."""
    weights = np.array([[-0.2, 0.2], [0, 0], [0.2, -0.2]], np.float32)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "warmth",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 32, 32, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.array([1, 2]), "axes"), numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 18)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return model
