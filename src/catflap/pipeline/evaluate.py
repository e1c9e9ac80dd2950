"""The verb `evaluate`: measure a Checkpoint or a Bundle on photos and write a Report."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Variant, load_bundle
from catflap.artifacts.checkpoint import load_checkpoint
from catflap.artifacts.dataset import MARKER as DATASET
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.folder import check_place, refuse_foreign
from catflap.artifacts.manifest import load_manifest
from catflap.artifacts.report import MARKER, Report
from catflap.artifacts.schema import digest
from catflap.data.reading import read_photo
from catflap.data.scan import scan
from catflap.errors import BadArtifact, CatflapError
from catflap.evaluation.decision_rates import shipped_decisions
from catflap.evaluation.metrics import curves, measure, worst_mistakes
from catflap.evaluation.report_page import learning, write_report
from catflap.image import Frame
from catflap.machine import versions
from catflap.progress import Progress, silent
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import Model, open_variant, runnable_variants
from catflap.runtime.scoring import PART, PhotoBytes, score
from catflap.version import VERSION

NAME_UNSEEN_PHOTOS = "Name photos that it has not seen, or the dataset that it was trained on."


@dataclass(frozen=True)
class Subject:
    """A Checkpoint or Bundle; `models` maps names to model, temperature, and whether it takes whole photos.

    `seen` maps roles of its own Dataset to a key of Report's SEEN.
    """

    name: str
    labels: tuple[str, ...]
    frame: Frame
    models: dict[str, tuple[Model, float, bool]]
    ancestors: dict[str, str]
    dataset: Path | None
    history: list[dict[str, Any]]
    seen: dict[str, str]
    variants: dict[str, Variant] = field(default_factory=dict)  # of a Bundle


@dataclass(frozen=True)
class JudgedPhotos:
    """Photos to measure on: bytes by position, class numbers, groups, names; `role`, `seen` as in Report.

    `key` is a hash that identifies them, `ids` are their own sha256, and `uris` where they were scanned, ""
    where that is not known.
    """

    bytes: PhotoBytes
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    names: list[str]
    ancestors: dict[str, str]
    role: str
    seen: str
    key: str
    ids: list[str]
    uris: list[str]


@dataclass(frozen=True)
class _Files:
    """Photos of a scanned folder, read on access."""

    places: list[tuple[str, int, int]]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> bytes:
        return read_photo(*self.places[position], Frame.max_bytes)


def evaluate(
    model: Path | str,
    photos: Path | str | None,
    out: Path,
    *,
    role: str | None = None,
    part: int = PART,
    progress: Progress = silent,
) -> Report:
    """Measure a Checkpoint folder or a Bundle from raw photo bytes and write a Report.

    `photos` is a Dataset or any source that `scan` reads; without it, the Dataset that a Checkpoint was
    trained on. Where roles are stated, as in train/val/test folders, photos of `role`, or test, are used. The
    Report of a Checkpoint also shows its learning curves. Logits are kept beside the Report, `part`
    photos at a time, until it is finished, so that a stopped run continues.
    Raises CatflapError for photos that a Checkpoint was trained on, except a role of its own Dataset.
    """
    refuse_foreign(Path(out), MARKER)
    check_place(Path(out))
    subject = open_subject(Path(model))
    source = photos or subject.dataset
    if source is None:
        raise CatflapError("A bundle does not hold photos.", "Name a dataset or a folder of photos.")
    judged = open_photos(source, role, subject, progress)
    sections, drawn, first = {}, {}, None
    scored = Path(out).with_name(f".{Path(out).name}.scored")
    for name, (run, temperature, whole) in subject.models.items():
        kept, step = scored / _key(name, subject, judged), f"evaluate {name}"
        logits = score(run, judged.bytes, subject.frame, step, progress, whole=whole, kept=kept, part=part)
        probabilities = softmax(logits, temperature)
        first = probabilities if first is None else first
        truth = (judged.labels, judged.groups, subject.labels)
        sections[name] = measure(probabilities, *truth)
        if variant := subject.variants.get(name):
            points = variant.operating_points
            sections[name]["decisions"] = shipped_decisions(variant.decision, points, probabilities, *truth)
        drawn[name] = curves(probabilities, *truth)
    report = write_report(
        Path(out),
        sections,
        title=subject.name,
        labels=subject.labels,
        mistakes=[] if first is None else worst_mistakes(first, *truth, judged.names, judged.bytes),
        curves=drawn,
        ancestors={**subject.ancestors, **judged.ancestors},
        learnt=learning(subject.history),
        role=judged.role,
        seen=judged.seen,
    )
    shutil.rmtree(scored, ignore_errors=True)
    return report


def _key(name: str, subject: Subject, judged: JudgedPhotos) -> str:
    """A hash of everything that the logits of a model depend on."""
    parts = versions(("pillow", "simplejpeg", "numpy", "torch", "onnxruntime"))
    return digest([name, subject.ancestors, judged.key, VERSION, parts])


def open_photos(source: Path | str, role: str | None, subject: Subject, progress: Progress) -> JudgedPhotos:
    """The photos of a Dataset, or of a source that `scan` reads, with the subject's class numbers.

    CatflapError for photos that a Checkpoint was trained on, except a role of its own Dataset.
    """
    if (Path(source) / DATASET).is_file():
        return _of_dataset(Path(source), role or "test", subject)
    return _of_source(source, role, subject, progress)


def open_subject(model: Path) -> Subject:
    """A Checkpoint folder or a Bundle, the default variant first, ready to measure."""
    if model.is_dir():
        checkpoint = load_checkpoint(model)
        from catflap.training.network import open_checkpoint  # seconds, for torch

        return Subject(
            model.name,
            checkpoint.labels,
            checkpoint.frame,
            {"checkpoint": (open_checkpoint(checkpoint), 1.0, False)},
            {**checkpoint.ancestors, "checkpoint": checkpoint.sha256},
            checkpoint.dataset_path,
            checkpoint.history,
            {"train": "learnt", "validation": "learnt" if checkpoint.recipe == "head" else "chosen"},
        )
    bundle = load_bundle(model)
    chosen = [bundle.variant(name) for name in runnable_variants(bundle)]
    chosen.sort(key=lambda variant: variant.name != bundle.default_variant)
    return Subject(
        bundle.name,
        bundle.labels,
        bundle.frame,
        {one.name: (open_variant(bundle, one), one.temperature, one.takes_photos) for one in chosen},
        {**bundle.head["ancestors"], "bundle": bundle.sha256},
        None,
        [],
        {"train": "learnt", "validation": "chosen", "calibration": "calibrated"},
        {one.name: one for one in chosen},
    )


def _of_dataset(path: Path, role: str, subject: Subject) -> JudgedPhotos:
    dataset = load_dataset(path)
    photos = dataset.photos(role)
    names = [photo[:12] for photo in photos.ids.tolist()]
    seen = subject.seen.get(role, "no")
    if dataset.sha256 != subject.ancestors.get("dataset"):
        _refuse_prepared_anew(dataset, subject)
        seen = _refuse_learnt(photos.ids, names, subject)
    labels = _numbers(dataset.labels, subject)[photos.labels]
    key, ids = digest([photos.ids.tolist(), photos.lengths.tolist()]), photos.ids.tolist()
    uris, made_of = _scanned_at(dataset, ids), {"dataset": dataset.sha256}
    return JudgedPhotos(photos, labels, photos.groups, names, made_of, role, seen, key, ids, uris)


def _scanned_at(dataset: Dataset, ids: list[str]) -> list[str]:
    """The URIs of a Dataset's photos, from its Manifest; "" where that is gone or another one by now."""
    with suppress(CatflapError):
        manifest = load_manifest(dataset.path / dataset.manifest)
        if dataset.manifest and manifest.sha256 == dataset.ancestors.get("manifest"):
            table = manifest.rows(["id", "uri"])
            known = dict(zip(table["id"].to_pylist(), table["uri"].to_pylist(), strict=True))
            return [known.get(photo, "") for photo in ids]
    return [""] * len(ids)


def _refuse_prepared_anew(dataset: Dataset, subject: Subject) -> None:
    """Raise CatflapError when the Checkpoint's own Dataset was prepared again: roles may have changed."""
    is_place = subject.dataset is not None and dataset.path.resolve() == subject.dataset.resolve()
    if is_place and dataset.ancestors.get("manifest") == subject.ancestors.get("manifest"):
        raise CatflapError(
            f"{dataset.path} was prepared again after {subject.name} was trained on it, "
            "so its photos may have other roles.",
            NAME_UNSEEN_PHOTOS,
        )


def _refuse_learnt(ids: npt.NDArray[np.str_], names: list[str], subject: Subject) -> str:
    """Raise CatflapError for photos that a Checkpoint was trained on; returns `seen` for Report.

    "unknown" for a Bundle, and for a Checkpoint whose Dataset is gone.
    """
    if subject.dataset is None:
        return "unknown"
    with suppress(BadArtifact):
        own = load_dataset(subject.dataset)
        if own.sha256 == subject.ancestors.get("dataset"):
            seen = np.concatenate([own.photos(learnt).ids for learnt in ("train", "validation")])
            known = np.flatnonzero(np.isin(ids, seen))
            if len(known):
                some = ", ".join(names[place] for place in known[:3]) + (" …" if len(known) > 3 else "")
                raise CatflapError(
                    f"{subject.name} was trained on {len(known):,} of these photos: {some}.",
                    NAME_UNSEEN_PHOTOS,
                )
            return "no"
    return "unknown"


def _of_source(source: Path | str, role: str | None, subject: Subject, progress: Progress) -> JudgedPhotos:
    with tempfile.TemporaryDirectory() as folder:
        manifest = scan(source, Path(folder) / "manifest", progress=progress)
        table = manifest.rows(["uri", "offset", "bytes", "label", "group", "id", "status", "role"])
    wanted = np.array(table["status"].to_pylist(), np.str_) == "ok"
    roles = np.array([stated or "" for stated in table["role"].to_pylist()], np.str_)
    role = _stated_role(source, role, set(roles[wanted].tolist()) - {""})
    table = table.take(np.flatnonzero(wanted & (roles == role) if role else wanted))
    names = table["uri"].to_pylist()
    seen = _refuse_learnt(np.array(table["id"].to_pylist()), names, subject)
    labels, coded = np.unique(table["label"].to_pylist(), return_inverse=True)
    return JudgedPhotos(
        _Files(list(zip(names, table["offset"].to_pylist(), table["bytes"].to_pylist(), strict=True))),
        _numbers(tuple(labels.tolist()), subject)[coded],
        table["group"].to_numpy().astype(np.int64),
        names,
        {"manifest": manifest.sha256},
        role,
        seen,
        digest([table["id"].to_pylist(), table["bytes"].to_pylist()]),
        table["id"].to_pylist(),
        names,
    )


def _stated_role(source: Path | str, role: str | None, stated: set[str]) -> str:
    """The role to use, "" where the source states no roles; CatflapError for a role that it does not have."""
    if not stated:
        if role:
            raise CatflapError(f"{source} states no roles.", "Leave the role out.")
        return ""
    if (role or "test") not in stated:
        raise CatflapError(
            f"{source} has no photos of the role {role or 'test'}.",
            f"Name one that it has: {', '.join(sorted(stated))}.",
        )
    return role or "test"


def _numbers(labels: tuple[str, ...], subject: Subject) -> npt.NDArray[np.int64]:
    """The subject's class number of each label; CatflapError for a label that it does not have."""
    unknown = [label for label in labels if label not in subject.labels]
    if unknown:
        raise CatflapError(
            f"{subject.name} does not know the label {', '.join(map(repr, unknown))}.",
            f"Use photos labelled {', '.join(subject.labels[:10])}.",
        )
    return np.array([subject.labels.index(label) for label in labels], np.int64)
