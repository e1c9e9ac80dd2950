"""Checkpoint to Bundle: the verb `export`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Variant
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import FILE as GOLDEN
from catflap.artifacts.golden import Golden, check_golden
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError, Refused
from catflap.exporting.budget import Budget, LatencyMeter, choose_variants
from catflap.exporting.drawings import drawn_photos
from catflap.exporting.forms import (
    FORMS,
    ExportSource,
    Form,
    as_variant,
    check_variants,
    make,
    tools,
    untested_of,
    variant_names,
)
from catflap.exporting.judge import (
    PRECISIONS,
    answer_calibration,
    golden_tolerance,
    judge,
    load_evaluation_set,
)
from catflap.exporting.layers import worst_layer
from catflap.exporting.targets.onnx_frame import with_temperature
from catflap.exporting.untested import with_untested, write_untested
from catflap.exporting.writing import check_out, name_of, write_verified
from catflap.image import Pixels, read_pixels
from catflap.progress import Progress, silent
from catflap.runtime.decisions import PointSpec, parse_point_specs
from catflap.runtime.engine import Logits, open_members
from catflap.runtime.engine_onnx import VERSION as ONNXRUNTIME
from catflap.training.networks.network import load_network
from catflap.training.networks.onnx_graph import INPUT, OUTPUT, to_onnx
from catflap.version import VERSION

PIXEL_TOLERANCE = 4  # what another decoder may differ by: docs/concepts/frame.md


@dataclass(frozen=True)
class Judged:
    """A variant that may go into a Bundle: its entry in bundle.json, files, and golden logits.

    `calibration_accuracy` is how many of the calibration photos it is right on, 0 to 1.
    """

    entry: dict[str, Any]
    files: dict[str, bytes]
    logits: Logits
    calibration_accuracy: float

    def to_json(self) -> dict[str, Any]:
        """The variant as the machine answer of `catflap export` has it."""
        return {"bytes": sum(map(len, self.files.values())), **self.entry}


def export(
    checkpoint: Checkpoint,
    dataset: Dataset,
    out: Path,
    *,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    operating_points: tuple[str, ...] = (),
    budget: Budget | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write a verified Bundle whose variants were measured from raw photo bytes; the first is the default.

    Golden cases are drawn; the user may add photos of his own. `about` is a sentence or two for the
    card: what the photos are and may be used for. `operating_points`, such as "cat:max_fpr=0.001", are
    chosen for each variant; Refused when one cannot be. With a `budget` only the variants that fit go in,
    the most accurate on calibration photos as the default; Refused when none does. Raises Refused, and
    writes nothing, when a variant differs from the Checkpoint by more than its Precision allows.
    """
    out, variants = Path(out), variant_names((), variants)
    check_out(out)
    check_roles(checkpoint, dataset)
    check_variants(variants)
    wishes = parse_point_specs(operating_points, checkpoint.labels)
    unrun = untested_of(variants)
    photos = (*drawn_photos(checkpoint.frame), *golden_photos)
    check_golden(photos, checkpoint.frame, len(checkpoint.labels) * (len(variants) - len(unrun)))
    frames = np.stack([read_pixels(photo, checkpoint.frame) for photo in photos])
    source = source_of(checkpoint, dataset, progress, wishes)
    untested, unrun_files = write_untested(unrun, source, progress)
    tested = (name for name in variants if name not in unrun)
    judged = {name: write_and_judge(name, FORMS[name], source, frames, progress) for name in tested}
    costs = {} if budget is None else costs_of(judged, frames[:1], budget)
    judged = {name: judged[name] for name in costs or judged}
    variants = tuple(name for name in variants if name in judged or name in untested)
    head = {
        "name": name_of(out),
        "made_from": export_fingerprint(checkpoint, variants, golden_photos, about, operating_points),
        "about": about,
        "labels": list(checkpoint.labels),
        "frame": checkpoint.frame.to_json(),
        "input": {"name": INPUT, "dtype": "uint8", "layout": "NHWC"},
        "output": {"name": OUTPUT, "dtype": "float32"},
        "default_variant": next(iter(judged)),
        "variants": {name: one.entry for name, one in judged.items()},
        "prior": checkpoint.prior,
        "golden": {"file": GOLDEN, "cases": len(photos), "pixel_tolerance": PIXEL_TOLERANCE},
        "ancestors": {**checkpoint.ancestors, "checkpoint": checkpoint.sha256},
        "licences": checkpoint.licences,
        "versions": checkpoint.versions | tools(variants) | {"catflap": VERSION, "onnxruntime": ONNXRUNTIME},
        "training": {"backbone": checkpoint.backbone, "recipe": checkpoint.recipe, "roles": dataset.roles},
    }
    golden = Golden(photos, frames, {name: one.logits for name, one in judged.items()})
    sha256 = write_verified(out, with_untested(head, untested), all_files(judged) | unrun_files, golden)
    answer = export_answer(out, sha256, next(iter(judged)), judged, unrun)
    return {**answer, "costs": costs} if costs else answer


def costs_of(judged: Mapping[str, Judged], frame: Pixels, budget: Budget) -> dict[str, dict[str, float]]:
    """What the variants that fit a budget cost, best first; Refused when none fits."""
    clock = LatencyMeter(budget)
    costs = {}
    for name, one in judged.items():
        model = open_members(one.files, as_variant(name, FORMS[name]), clock.threads)
        ms = clock.ms(model, frame)
        accuracy = one.entry["metrics"]["accuracy"]["value"]
        costs[name] = {
            "mb": sum(map(len, one.files.values())) / 1e6,
            "ms": ms,
            "accuracy": accuracy,
            "calibration_accuracy": one.calibration_accuracy,
        }
    return {name: costs[name] for name in choose_variants(costs, clock)}


def source_of(
    checkpoint: Checkpoint, dataset: Dataset, progress: Progress, wishes: tuple[PointSpec, ...] = ()
) -> ExportSource:
    """What variants are written from and judged by: the float graph and the photos of two roles."""
    evaluation = load_evaluation_set(checkpoint, dataset, progress, wishes)
    graph = to_onnx(load_network(checkpoint), evaluation.frame.height, evaluation.frame.width)
    return ExportSource(checkpoint, graph, evaluation)


def write_and_judge(
    name: str,
    form: Form,
    source: ExportSource,
    frames: Pixels,
    progress: Progress,
    files: dict[str, bytes] | None = None,
    output: str = OUTPUT,
) -> Judged:
    """Write a variant, or take its files, run it on its real runtime, and judge it; Refused when it lost.

    `output` names the logits of an ONNX graph.
    """
    progress(f"write {name}", 0, 1)
    files = make(form, source) if files is None else files
    progress(f"write {name}", 1, 1)
    variant = as_variant(name, form)
    model = open_members(files, variant, output=output)
    logits = model(frames)
    tolerance = golden_tolerance(PRECISIONS[form.precision], variant, files, logits, frames, output)
    if variant.runtime == "onnxruntime":
        answered = source.calibration_answers(files[variant.file], f"{name} on calibration", progress, model)
    else:
        whole = variant.takes_photos
        answered = answer_calibration(
            model, source.evaluation, f"{name} on calibration", progress, whole=whole
        )
    if variant.takes_photos:  # its probabilities are calibrated by what it answered itself
        temperature = source.evaluation.temperature(answered.logits)
        files = {variant.file: with_temperature(files[variant.file], temperature)}
    try:
        entry = judge(variant, model, source.evaluation, answered, progress)
    except Refused as error:
        raise _with_layer(error, variant, files, source) from error
    right = answered.logits.argmax(1) == source.evaluation.calibration.labels
    return Judged({"tolerance": tolerance, **entry}, files, logits, float(right.mean()))


def _with_layer(
    error: Refused, variant: Variant, files: Mapping[str, bytes], source: ExportSource
) -> Refused:
    """The refusal of an ONNX variant, with the layer that loses most; of others, as it is."""
    layer = None
    if variant.runtime == "onnxruntime":
        layer = worst_layer(source.onnx, files[variant.file], source.frames)
    return error if layer is None else Refused(f"{error.what} The layer that loses most: {layer}.", error.fix)


def all_files(judged: Mapping[str, Judged]) -> dict[str, bytes]:
    """The files of all variants."""
    return {member: data for one in judged.values() for member, data in one.files.items()}


def export_answer(
    out: Path, sha256: str, default: str, judged: Mapping[str, Judged], untested: tuple[str, ...]
) -> dict[str, Any]:
    """The machine answer of `catflap export`."""
    return {
        "bundle": str(out),
        "verdict": "pass",
        "sha256": sha256,
        "bytes": out.stat().st_size,
        "default_variant": default,
        "variants": {name: one.to_json() for name, one in judged.items()},
        **({"untested": list(untested)} if untested else {}),
    }


def export_fingerprint(
    checkpoint: Checkpoint,
    variants: tuple[str, ...] = ("int8", "fp32"),
    golden_photos: tuple[bytes, ...] = (),
    about: str = "",
    operating_points: tuple[str, ...] = (),
) -> str:
    """What a Bundle would be made from, without making it."""
    photos = [hashlib.sha256(photo).hexdigest() for photo in golden_photos]
    made_by = [VERSION, ONNXRUNTIME, tools(variant_names((), variants))]
    wishes = [wish.name for wish in parse_point_specs(operating_points)]
    return digest([checkpoint.sha256, list(variants), photos, about, made_by, *wishes])


def check_roles(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Raise CatflapError when this Dataset cannot judge what was trained into the Checkpoint."""
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
