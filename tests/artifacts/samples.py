"""A bundle that is small enough to damage in every byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import write_bundle
from catflap.image import Frame

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


def small_bundle(folder: Path) -> Path:
    """A bundle file that read_bundle accepts."""
    path = folder / "small.catflap"
    write_bundle(path, small_head(), FILES)
    return path
