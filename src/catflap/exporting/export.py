"""Checkpoint to Bundle: the verb `export`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.bundle import SUFFIX, read_bundle, refuse_foreign_file, write_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.folder import digest, sweep, unwritable
from catflap.artifacts.golden import FILE as GOLDEN
from catflap.artifacts.golden import Golden, encode_golden
from catflap.errors import CatflapError, Refused
from catflap.exporting.card import card
from catflap.exporting.drawings import drawn_photos
from catflap.exporting.judge import PRECISIONS, Jury, golden_tolerance, judge, seat_jury
from catflap.exporting.quantise import quantise
from catflap.image import read_pixels
from catflap.progress import Progress, silent
from catflap.runtime.checks import check_bundle
from catflap.runtime.scoring import frames_of, score
from catflap.runtime.session import VERSION as ONNXRUNTIME
from catflap.runtime.session import open_model
from catflap.training.network import load_network
from catflap.training.onnx_graph import INPUT, OUTPUT, to_onnx
from catflap.version import VERSION

CALIBRATION_FRAMES = 48
FLOAT_LAYERS = 3
PIXEL_TOLERANCE = 4  # what another decoder may differ by: docs/concepts/frame.md


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a verified Bundle whose variants were measured from raw photo bytes; the first is the default.

    Golden cases are drawn; the user may add photos of his own. `about` is a sentence or two for the
    card: what the photos are and may be used for. Raises Refused, and writes nothing, when
    a variant differs from the Checkpoint by more than its Precision allows or a golden case fails.
    """
    out = Path(out)
    _check_request(checkpoint, dataset, out, variants)
    jury = seat_jury(checkpoint, dataset, seed, progress)
    graphs = _graphs(checkpoint, jury, variants, progress)
    sources = (*drawn_photos(), *golden_photos)
    frames = np.stack([read_pixels(photo, dataset.frame) for photo in sources])
    described, logits = {}, {}
    for variant in variants:
        model = open_model(graphs[variant])
        logits[variant] = model(frames)
        tolerance = golden_tolerance(PRECISIONS[variant], graphs[variant], logits[variant], frames)
        described[variant] = {"tolerance": tolerance, **judge(variant, model, jury, progress)}
    head = {
        "name": _name(out),
        "made_from": export_fingerprint(checkpoint, variants, golden_photos, about, seed),
        "about": about,
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
    with _verified(out) as partial:
        sha256 = write_bundle(partial, head, files)
    return {
        "bundle": str(out),
        "verdict": "pass",
        "sha256": sha256,
        "bytes": out.stat().st_size,
        "default_variant": variants[0],
        "variants": {variant: {"bytes": len(graphs[variant]), **described[variant]} for variant in variants},
    }


def _name(out: Path) -> str:
    """The file's name without its suffix, in the letters that a bundle's name may have."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", out.name.removesuffix(SUFFIX)).strip("-.")[:100] or "bundle"


def export_fingerprint(
    checkpoint: Checkpoint,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    seed: int = 0,
) -> str:
    """What a Bundle would be made from, without making it."""
    photos = [hashlib.sha256(photo).hexdigest() for photo in golden_photos]
    return digest([checkpoint.sha256, list(variants), photos, about, seed, VERSION, ONNXRUNTIME])


def _check_request(checkpoint: Checkpoint, dataset: Dataset, out: Path, variants: tuple[str, ...]) -> None:
    if not out.name.endswith(SUFFIX):
        raise CatflapError(f"A bundle's name ends with {SUFFIX}.", f"Use: -o {out.name}{SUFFIX}")
    refuse_foreign_file(out)
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


def _graphs(
    checkpoint: Checkpoint, jury: Jury, variants: tuple[str, ...], progress: Progress
) -> dict[str, bytes]:
    progress("graphs", 0, len(variants))
    graphs = {"fp32": to_onnx(load_network(checkpoint), jury.frame.height, jury.frame.width)}
    if "int8" in variants:
        graphs["int8"] = _int8(graphs["fp32"], jury)
    progress("graphs", len(variants), len(variants))
    return graphs


def _int8(fp32: bytes, jury: Jury) -> bytes:
    """The int8 graph; with its first layers in float when calibration photos flip more without."""
    photos = jury.calibration
    chosen = photos.take(np.arange(min(CALIBRATION_FRAMES, len(photos))))
    frames = np.concatenate(list(frames_of(chosen, jury.frame)))
    expected = score(open_model(fp32), photos, jury.frame).argmax(1)

    def flips(graph: bytes) -> float:
        return float(np.mean(score(open_model(graph), photos, jury.frame).argmax(1) != expected))

    whole = quantise(fp32, frames)
    lost = flips(whole)
    if lost <= PRECISIONS["int8"].max_flip_rate:
        return whole
    careful = quantise(fp32, frames, FLOAT_LAYERS)
    return careful if flips(careful) < lost else whole


@contextmanager
def _verified(out: Path) -> Iterator[Path]:
    """A temporary name for a Bundle, which takes its real one when its golden cases pass here."""
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out)
        yield partial
        failed = [check.name for check in check_bundle(read_bundle(partial)) if not check.passed]
        if failed:
            raise Refused(f"The new bundle does not pass: {', '.join(failed)}.", "Run: catflap doctor")
        partial.replace(out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        partial.unlink(missing_ok=True)
