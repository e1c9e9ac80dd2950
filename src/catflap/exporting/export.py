"""Checkpoint to Bundle: the verb `export`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import SUFFIX, write_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset, Photos
from catflap.artifacts.folder import digest
from catflap.artifacts.golden import FILE as GOLDEN
from catflap.artifacts.golden import Golden, encode_golden
from catflap.errors import CatflapError, Refused
from catflap.evaluation.calibration import conformal_threshold, fit_temperature
from catflap.evaluation.gate import fidelity, gate
from catflap.evaluation.metrics import measure
from catflap.exporting.card import card
from catflap.exporting.drawings import drawn_photos
from catflap.exporting.quantise import quantise
from catflap.image import Frame, Pixels, read_pixels
from catflap.progress import Progress, silent
from catflap.runtime.decisions import softmax
from catflap.runtime.scoring import frames_of, score
from catflap.runtime.session import VERSION as ONNXRUNTIME
from catflap.runtime.session import Logits, Model, open_model
from catflap.training.answer import open_checkpoint
from catflap.training.network import Network, load_network
from catflap.training.onnx_graph import INPUT, OUTPUT, to_onnx
from catflap.version import VERSION

MOST_PHOTOS = 20_000  # of a role, drawn by seed; more would not change a digit that is printed
CALIBRATION_FRAMES = 48
ERROR_RATE = 0.01
PIXEL_TOLERANCE = 3


@dataclass(frozen=True)
class Precision:
    """What a variant may lose against the Checkpoint before export refuses it.

    `spread` is the share of the largest golden logit by which another machine may always differ;
    a share of photos below `free` photos is always allowed, because so few cannot tell.
    """

    spread: float
    max_flip_rate: float
    max_probability_difference: float
    max_accuracy_drop: float
    free: int


PRECISIONS: Mapping[str, Precision] = {
    "int8": Precision(0.03, 0.005, 0.35, 0.005, 2),
    "fp32": Precision(0.001, 0.0, 1e-3, 0.0, 0),
}


@dataclass(frozen=True)
class _Photos:
    """The two roles that export may look at, and the answers of the Checkpoint on the second."""

    calibration: Photos
    test: Photos
    frame: Frame
    labels: tuple[str, ...]
    reference: Logits


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    *,
    name: str | None = None,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a Bundle whose variants were each measured from raw photo bytes; the first is the default.

    Golden cases are drawn, unless the user gives photos of his own. Raises Refused, and writes nothing,
    when a variant differs from the Checkpoint by more than its Precision allows.
    """
    _check_request(checkpoint, dataset, variants)
    photos = _photos(checkpoint, dataset, seed, progress)
    graphs = _graphs(load_network(checkpoint), photos, variants, progress)
    sources = (*drawn_photos(), *golden_photos)
    frames = np.stack([read_pixels(photo, dataset.frame) for photo in sources])
    described, logits = {}, {}
    for variant in variants:
        model = open_model(graphs[variant])
        logits[variant] = model(frames)
        tolerance = _tolerance(PRECISIONS[variant], graphs[variant], logits[variant], frames)
        described[variant] = {"tolerance": tolerance, **_describe(variant, model, photos, progress)}
    head = {
        "name": name or Path(out).name.removesuffix(SUFFIX),
        "made_from": export_fingerprint(checkpoint, variants, golden_photos, seed),
        "labels": list(checkpoint.labels),
        "frame": dataset.frame.to_json(),
        "input": {"name": INPUT, "dtype": "uint8", "layout": "NHWC"},
        "output": {"name": OUTPUT, "dtype": "float32"},
        "default_variant": variants[0],
        "variants": described,
        "prior": checkpoint.prior,
        "golden": {"file": GOLDEN, "cases": len(sources), "pixel_tolerance": PIXEL_TOLERANCE},
        "ancestors": {**checkpoint.ancestors, "checkpoint": checkpoint.sha256},
        "licences": checkpoint.licences,
        "versions": {**checkpoint.versions, "catflap": VERSION, "onnxruntime": ONNXRUNTIME},
        "training": {"backbone": checkpoint.backbone, "recipe": checkpoint.recipe, "roles": dataset.roles},
    }
    files = {f"{variant}.onnx": graphs[variant] for variant in variants}
    files[GOLDEN] = encode_golden(Golden(sources, frames, logits))
    files["card.md"] = card(head).encode("utf-8")
    sha256 = write_bundle(Path(out), head, files)
    return {
        "bundle": str(out),
        "sha256": sha256,
        "bytes": Path(out).stat().st_size,
        "default_variant": variants[0],
        "variants": {variant: {"bytes": len(graphs[variant]), **described[variant]} for variant in variants},
    }


def export_fingerprint(
    checkpoint: Checkpoint,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    seed: int = 0,
) -> str:
    """What a Bundle would be made from, without making it."""
    photos = [hashlib.sha256(photo).hexdigest() for photo in golden_photos]
    return digest([checkpoint.sha256, list(variants), photos, seed, VERSION, ONNXRUNTIME])


def _check_request(checkpoint: Checkpoint, dataset: Dataset, variants: tuple[str, ...]) -> None:
    unknown = [name for name in variants if name not in PRECISIONS]
    if unknown or not variants:
        raise CatflapError(f"There is no variant {', '.join(unknown)!r}.", f"Use: {', '.join(PRECISIONS)}.")
    if checkpoint.ancestors.get("dataset") != dataset.sha256:
        raise CatflapError(
            f"{checkpoint.path} was not trained on {dataset.path}.",
            "Name the dataset that it was trained on.",
        )
    for role in ("calibration", "test"):
        photos = dataset.photos(role)
        if len(np.unique(photos.labels)) < 2:
            raise CatflapError(
                f"The {role} role has photos of fewer than two labels.",
                "Prepare the dataset from more photos.",
            )


def _photos(checkpoint: Checkpoint, dataset: Dataset, seed: int, progress: Progress) -> _Photos:
    calibration, test = (_sample(dataset.photos(role), seed) for role in ("calibration", "test"))
    return _Photos(
        calibration, test, dataset.frame, dataset.labels,
        score(open_checkpoint(checkpoint), test, dataset.frame, "checkpoint on test", progress),
    )  # fmt: skip


def _sample(photos: Photos, seed: int) -> Photos:
    """At most MOST_PHOTOS of a role, in an order that mixes the labels."""
    order = np.random.default_rng(seed).permutation(len(photos))
    return photos.take(order[:MOST_PHOTOS])


def _graphs(
    network: Network, photos: _Photos, variants: tuple[str, ...], progress: Progress
) -> dict[str, bytes]:
    progress("graphs", 0, len(variants))
    graphs = {"fp32": to_onnx(network, photos.frame.height, photos.frame.width)}
    if "int8" in variants:
        chosen = photos.calibration.take(np.arange(min(CALIBRATION_FRAMES, len(photos.calibration))))
        graphs["int8"] = quantise(graphs["fp32"], np.concatenate(list(frames_of(chosen, photos.frame))))
    progress("graphs", len(variants), len(variants))
    return graphs


def _tolerance(precision: Precision, graph: bytes, logits: Logits, frames: Pixels) -> float:
    """By how much a golden logit may differ elsewhere: a share, or twice what plain arithmetic changes here.

    Processors without int8 instructions emulate them in float, and then round otherwise.
    """
    emulated = open_model(graph, optimise=False)(frames)
    least = precision.spread * float(np.abs(logits).max())
    return max(least, 2 * float(np.abs(logits - emulated).max()))


def _describe(name: str, model: Model, photos: _Photos, progress: Progress) -> dict[str, Any]:
    """A variant's entry in bundle.json, measured from raw bytes; Refused when it lost too much."""
    calibration = score(model, photos.calibration, photos.frame, f"{name} on calibration", progress)
    test = score(model, photos.test, photos.frame, f"{name} on test", progress)
    temperature = fit_temperature(calibration, photos.calibration.labels)
    probabilities = softmax(test, temperature)
    lost = fidelity(
        softmax(photos.reference, temperature), probabilities, photos.test.labels, photos.test.groups
    )
    precision = PRECISIONS[name]
    free = precision.free / len(photos.test)
    checks = gate(
        lost,
        max_flip_rate=max(precision.max_flip_rate, free),
        max_probability_difference=precision.max_probability_difference,
        max_accuracy_drop=max(precision.max_accuracy_drop, free),
    )
    failed = [check for check in checks if not check.passed]
    if failed:
        told = ", ".join(f"{check.name} {check.value:.4g} > {check.limit:.4g}" for check in failed)
        raise Refused(
            f"The variant {name} differs too much from the checkpoint: {told}.",
            "Export it without this variant (--variants), or give it more calibration photos.",
        )
    return {
        "file": f"{name}.onnx",
        "runtime": "onnxruntime",
        "precision": name,
        "temperature": temperature,
        "metrics": measure(probabilities, photos.test.labels, photos.test.groups, photos.labels),
        "fidelity": lost,
        "decision": _decision(softmax(calibration, temperature), photos.calibration),
    }


def _decision(probabilities: npt.NDArray[np.float64], calibration: Photos) -> dict[str, Any]:
    """The conformal threshold for the least error rate, from ERROR_RATE up, that the groups can promise."""
    groups = len(np.unique(calibration.groups))
    rate = max(ERROR_RATE, 1.0 / (groups + 1))
    threshold = conformal_threshold(probabilities, calibration.labels, rate, calibration.groups)
    return {"threshold": threshold, "error_rate": rate, "photos": len(calibration), "groups": groups}
