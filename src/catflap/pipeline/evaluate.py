"""The verb `evaluate`: measure a Checkpoint or a Bundle on photos and write a Report."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.build_folder import BUNDLE, build_folder, part_of_build
from catflap.artifacts.bundle import Bundle, Variant, load_bundle
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
from catflap.evaluation.decision_rates import flagged_share, set_rates, shipped_decisions
from catflap.evaluation.drift_baseline import Drift, measure_drift
from catflap.evaluation.examples import choose_examples
from catflap.evaluation.metrics import curves, measure, separation
from catflap.evaluation.promises import NO_DECISION, UNLABELLED, compare_with_promises, unknown_labels
from catflap.evaluation.report_page import learning, write_report
from catflap.evaluation.slices import judge_slices
from catflap.image import NO_STATISTICS, STATISTICS, Frame, Pixels, image_statistics
from catflap.machine import versions
from catflap.pipeline.conditions import are_right, measure_corruptions, slices_of, with_evidence
from catflap.pipeline.label_noise import as_labelled, correct_labels, offer_mistakes, sure_mistakes
from catflap.progress import Progress, silent
from catflap.runtime.decisions import Probabilities, decide, decision_rule, softmax
from catflap.runtime.engine import Logits, Model, open_variant, run_with_embedding, runnable_variants
from catflap.runtime.golden_checks import check_bundle
from catflap.runtime.ood import are_unknown, embedding_models, ood_scores, wrong_embedding
from catflap.runtime.scoring import PART, PhotoBytes, score
from catflap.version import VERSION

DRIFT_PHOTOS = 400
NAMED, MAX_NAMED = 3, 100  # photos that could not be read, in a sentence and in report.json
NAME_UNSEEN_PHOTOS = "Name photos that it has not seen, or the dataset that it was trained on."


@dataclass(frozen=True)
class SubjectModel:
    """A model of a subject: frames to logits, or whole photos if it `takes_photos`; and its temperature.

    `variant` is the Bundle's variant that it is; None for a Checkpoint.
    """

    run: Model
    temperature: float = 1.0
    takes_photos: bool = False
    variant: Variant | None = None


@dataclass(frozen=True)
class Subject:
    """A Checkpoint or Bundle, with its models by name, the default one first.

    `seen` maps roles of its own Dataset to a key of Report's SEEN.
    """

    name: str
    labels: tuple[str, ...]
    frame: Frame
    models: dict[str, SubjectModel]
    ancestors: dict[str, str]
    dataset: Path | None
    history: list[dict[str, Any]]
    seen: dict[str, str]
    bundle: Bundle | None = None


@dataclass(frozen=True)
class JudgedPhotos:
    """Photos to measure on: bytes by position, class numbers, groups, names; `role`, `seen` as in Report.

    `key` is a hash that identifies them, `ids` are their own sha256, and `uris` where they were scanned, ""
    where that is not known. A class number is -1 where the label is not the subject's; `stated` are labels as
    the source states them, "" for none; `unread` names photos that cannot be read.
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
    stated: list[str]
    unread: list[str] = field(default_factory=list)


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
    corruptions: bool = False,
    facts: Path | None = None,
    decisions: Path | None = None,
    part: int = PART,
    outcome: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Report:
    """Measure a Checkpoint folder or a Bundle from raw photo bytes and write a Report.

    `photos` is a Dataset or any source that `scan` reads; without it, the Dataset that a Checkpoint was
    trained on. Where roles are stated, as in train/val/test folders, photos of `role`, or test, are used. The
    Report of a Checkpoint also shows its learning curves. Logits are kept beside the Report, `part`
    photos at a time, until it is finished, so that a stopped run continues. `outcome` is that of a build, for
    the head of the Report.
    Right decisions are counted in slices of what is known of the photos, a CSV of `facts` included, and, with
    `corruptions`, on worsened copies of 300 photos. `decisions` corrects labels, as a person decided on the
    Report's page of sure mistakes; the Report then states both counts.
    The photos of a Bundle may have any labels or none: the Report's `verdict` compares its answers with what
    the Bundle promises. Raises CatflapError for labels that a Checkpoint does not know, and, for a Checkpoint
    and for a Bundle that lies beside its NAME.build, for photos that it was trained on, except a role of its
    own Dataset.
    """
    refuse_foreign(Path(out), MARKER)
    check_place(Path(out))
    folder = build_folder(Path(model))
    subject = open_subject(Path(model) if folder is None else folder.with_suffix(BUNDLE))
    if folder is not None:
        subject = replace(subject, dataset=folder / "dataset")
    source = part_of_build(photos, "dataset") if isinstance(photos, Path) else photos
    source = source or subject.dataset
    if source is None:
        raise CatflapError("A bundle does not hold photos.", "Name a dataset or a folder of photos.")
    judged = open_photos(source, role, subject, progress, any_labels=subject.bundle is not None)
    labels_before, corrected = judged.labels, dict[str, Any]()
    if decisions is not None:
        judged, corrected = correct_labels(judged, decisions, subject.labels)
    known = judged.labels != UNLABELLED
    sections, drawn, compared = {}, {}, {}
    main, drift = None, None
    scored = Path(out).with_name(f".{Path(out).name}.scored")
    for name, opened in subject.models.items():
        kept, step = scored / _key(name, subject, judged), f"evaluate {name}"
        variant = opened.variant
        rows = score(
            shipped_model(subject, name), judged.bytes, subject.frame, step, progress,
            whole=opened.takes_photos, kept=kept, part=part,
        )  # fmt: skip
        answers = answers_of(subject, name, rows)
        if main is None:
            main, drift = answers, _drift(subject, answers)
        probabilities = answers.probabilities[known]
        truth = (judged.labels[known], judged.groups[known], subject.labels)
        sections[name] = measure(probabilities, *truth)
        if variant is not None:
            refused = None if answers.unknown is None else answers.unknown[known]
            sections[name]["decisions"] = shipped_decisions(
                variant.decision, variant.operating_points, probabilities, *truth, refused
            )
            if variant.sets is not None and len(probabilities):
                threshold = variant.sets["threshold"]
                sections[name]["sets"] = {
                    "error_rate": variant.sets["error_rate"], "threshold": threshold,
                    **set_rates(threshold, probabilities, truth[0], truth[1]),
                }  # fmt: skip
            if answers.unknown is not None:
                sections[name]["unknown"] = _refusals(variant, judged, answers.ood_scores, answers.unknown)
            compared[name] = _compare(variant, subject, answers, judged, drift)
        drawn[name] = curves(probabilities, *truth)
    assert main is not None  # a subject has a model
    places = np.flatnonzero(known)
    truth = (judged.labels[known], judged.groups[known], subject.labels)
    names, known_photos = [judged.names[place] for place in places], _Some(judged.bytes, places)
    examples = choose_examples(main.probabilities[known], *truth, names, known_photos)
    conditions = _conditions(subject, judged, places, main, facts, corruptions, progress)
    if decisions is not None:
        for when, labels in (("before", labels_before), ("after", judged.labels)):
            corrected[when] = as_labelled(main.decided, labels, subject.labels)
    command = (
        f"catflap evaluate {shlex.join([str(model), str(source), '-o', str(out)])} --decisions decisions.json"
    )

    def offer(folder: Path) -> None:
        offer_mistakes(folder, main.probabilities, judged, subject.labels, command, progress)

    conditions["review"] = len(sure_mistakes(main.probabilities, judged))
    report = write_report(
        Path(out),
        sections,
        title=subject.name,
        labels=subject.labels,
        examples=with_evidence(
            examples, next(iter(subject.models.values())).run, subject.frame, subject.labels
        ),
        outcome=outcome,
        curves=drawn,
        ancestors={**subject.ancestors, **judged.ancestors},
        learnt=learning(subject.history),
        role=judged.role,
        seen=judged.seen,
        verdict=_verdict(subject, judged, compared),
        conditions=conditions,
        corrected=corrected,
        more=offer,
    )
    shutil.rmtree(scored, ignore_errors=True)
    return report


def _refusals(
    variant: Variant, judged: JudgedPhotos, scores: npt.NDArray[np.float32], unknown: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """What `unknown` does on these photos: what it accepts and refuses, and the AUROC."""
    assert variant.unknown is not None
    known = judged.labels != UNLABELLED
    others = ~known & np.array([bool(label) for label in judged.stated])
    return {
        "rate": variant.unknown["rate"],
        "accepted": flagged_share(~unknown[known], judged.groups[known]),
        "refused": flagged_share(unknown[others], judged.groups[others]),
        "auroc": round(separation(scores[known], scores[others]), 6)
        if known.any() and others.any()
        else None,
    }


@dataclass(frozen=True)
class Answers:
    """What a user gets for n photos: a decision each, and probabilities (n, labels).

    `unknown` (n,) is true for those that are; None where nothing ever is. `ood_scores` (n,) are NaN where the
    variant gives no embeddings, and image statistics (n, 3) where it takes whole photos.
    """

    decided: list[str]
    probabilities: Probabilities
    unknown: npt.NDArray[np.bool_] | None
    ood_scores: npt.NDArray[np.float32]
    statistics: npt.NDArray[np.float32]


def shipped_model(subject: Subject, name: str) -> Model:
    """A model of a subject that gives logits, OOD score and image statistics, (n, labels + 4).

    Raises BadArtifact where photos may be unknown and the model gives no embeddings.
    """
    model = subject.models[name]
    variant = model.variant
    models = embedding_models(None if variant is None else variant.baseline, subject.labels)

    def run(frames: Pixels) -> Logits:
        logits, embeddings = run_with_embedding(model.run, frames)
        scores = np.full(len(logits), np.nan, np.float32)
        if embeddings is not None:
            scores = ood_scores(embeddings, logits.argmax(axis=1), models)
        elif variant is not None and variant.unknown:
            raise wrong_embedding(variant)
        statistics = [NO_STATISTICS if model.takes_photos else image_statistics(pixels) for pixels in frames]
        return np.column_stack([logits, scores, np.array(statistics, np.float32)])

    return run


def answers_of(subject: Subject, name: str, rows: Logits) -> Answers:
    """The Answers in the rows of `shipped_model`; a Checkpoint decides for the likeliest label."""
    logits, scores, statistics = np.split(rows, [len(subject.labels), len(subject.labels) + 1], axis=1)
    scores, probabilities = scores[:, 0], softmax(logits, subject.models[name].temperature)
    variant, unknown = subject.models[name].variant, None
    if variant is None:
        decided = [subject.labels[best] for best in probabilities.argmax(axis=1).tolist()]
    else:
        unknown = are_unknown(scores, variant.unknown["threshold"]) if variant.unknown else None
        decided = decide(probabilities, subject.labels, decision_rule(variant.decision), unknown)
    return Answers(decided, probabilities, unknown, scores, statistics)


def _conditions(
    subject: Subject,
    judged: JudgedPhotos,
    places: npt.NDArray[np.int64],
    answers: Answers,
    facts: Path | None,
    corruptions: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The slices, and the corruptions if wanted, of the photos at these places, which have a label."""
    if not len(places):
        return {}
    name = next(iter(subject.models))
    labels, groups, photos = judged.labels[places], judged.groups[places], _Some(judged.bytes, places)
    truth = [subject.labels[number] for number in labels.tolist()]
    slices = slices_of(
        truth, photos, [judged.uris[place] for place in places], [judged.ids[place] for place in places],
        subject.frame, answers.statistics[places], facts, progress,
    )  # fmt: skip
    right = are_right([answers.decided[place] for place in places], truth)
    found = {"slices": judge_slices(right, labels, groups, subject.labels, slices)}
    if corruptions:
        found["corruptions"] = measure_corruptions(
            shipped_model(subject, name), lambda rows: answers_of(subject, name, rows).decided,
            labels, groups, subject.labels, photos, subject.frame, progress,
        )  # fmt: skip
    return found


def _key(name: str, subject: Subject, judged: JudgedPhotos) -> str:
    """A hash of everything that the rows of `shipped_model` depend on."""
    parts = versions(("pillow", "simplejpeg", "numpy", "torch", "onnxruntime"))
    return digest([name, subject.ancestors, judged.key, VERSION, parts, *STATISTICS])


def open_photos(
    source: Path | str,
    role: str | None,
    subject: Subject,
    progress: Progress,
    *,
    any_labels: bool = False,
) -> JudgedPhotos:
    """The photos of a Dataset, or of a source that `scan` reads, with the subject's class numbers.

    CatflapError for photos that the subject was trained on, except a role of its own Dataset; and, without
    `any_labels`, for fewer than two labels, photos without one, and labels that the subject does not know.
    """
    if (Path(source) / DATASET).is_file():
        judged = _of_dataset(Path(source), role or "test", subject)
    else:
        judged = _of_source(source, role, subject, progress, any_labels)
    if not any_labels and (judged.labels == UNLABELLED).any():
        unknown = sorted(set(judged.stated) - set(subject.labels))
        raise CatflapError(
            f"{subject.name} does not know the label {', '.join(map(repr, unknown[:10]))}.",
            f"Use photos labelled {', '.join(subject.labels[:10])}.",
        )
    return judged


def open_subject(model: Path) -> Subject:
    """A Checkpoint folder or a Bundle, the default variant first, ready to measure."""
    if model.is_dir():
        checkpoint = load_checkpoint(model)
        from catflap.training.network import open_checkpoint  # seconds, for torch

        return Subject(
            name=model.name,
            labels=checkpoint.labels,
            frame=checkpoint.frame,
            models={"checkpoint": SubjectModel(open_checkpoint(checkpoint))},
            ancestors={**checkpoint.ancestors, "checkpoint": checkpoint.sha256},
            dataset=checkpoint.dataset_path,
            history=checkpoint.history,
            seen={
                "train": "learnt",
                "validation": "learnt" if checkpoint.recipe == "head" else "chosen",
                **({"calibration": "learnt"} if checkpoint.has_learnt_calibration else {}),
            },
        )
    bundle = load_bundle(model)
    chosen = [bundle.variant(name) for name in runnable_variants(bundle)]
    chosen.sort(key=lambda variant: variant.name != bundle.default_variant)
    return Subject(
        name=bundle.name,
        labels=bundle.labels,
        frame=bundle.frame,
        models={
            one.name: SubjectModel(open_variant(bundle, one), one.temperature, one.takes_photos, one)
            for one in chosen
        },
        ancestors={**bundle.head["ancestors"], "bundle": bundle.sha256},
        dataset=None,
        history=[],
        seen={"train": "learnt", "validation": "chosen", "calibration": "calibrated"},
        bundle=bundle,
    )


def _of_dataset(path: Path, role: str, subject: Subject) -> JudgedPhotos:
    dataset = load_dataset(path)
    photos = dataset.photos(role)
    ids = photos.ids.tolist()
    uris = _scanned_at(dataset, ids)
    names = [uri or id[:12] for uri, id in zip(uris, ids, strict=True)]
    seen = subject.seen.get(role, "no")
    if dataset.sha256 != subject.ancestors.get("dataset"):
        _refuse_prepared_anew(dataset, subject)
        seen = _refuse_learnt(photos.ids, names, subject)
    labels = _numbers(dataset.labels, subject)[photos.labels]
    key, made_of = digest([ids, photos.lengths.tolist()]), {"dataset": dataset.sha256}
    stated = [dataset.labels[number] for number in photos.labels.tolist()]
    return JudgedPhotos(photos, labels, photos.groups, names, made_of, role, seen, key, ids, uris, stated)


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

    "unknown" where its Dataset is not there, as for a Bundle alone.
    """
    if subject.dataset is None:
        return "unknown"
    with suppress(BadArtifact):
        own = load_dataset(subject.dataset)
        if own.sha256 == subject.ancestors.get("dataset"):
            seen = np.concatenate([own.photos(role).ids for role in subject.seen])
            known = np.flatnonzero(np.isin(ids, seen))
            if len(known):
                some = ", ".join(names[place] for place in known[:3]) + (" …" if len(known) > 3 else "")
                raise CatflapError(
                    f"{subject.name} was trained on {len(known):,} of these photos: {some}.",
                    NAME_UNSEEN_PHOTOS,
                )
            return "no"
    return "unknown"


def _of_source(
    source: Path | str, role: str | None, subject: Subject, progress: Progress, any_labels: bool
) -> JudgedPhotos:
    with tempfile.TemporaryDirectory() as folder:
        manifest = scan(source, Path(folder) / "manifest", any_labels=any_labels, progress=progress)
        table = manifest.rows(["uri", "offset", "bytes", "label", "group", "id", "status", "role", "reason"])
    wanted = np.array(table["status"].to_pylist(), np.str_) == "ok"
    refused = table.take(np.flatnonzero(np.array(table["status"].to_pylist(), np.str_) == "quarantined"))
    unread = [
        f"{uri}: {why}" for uri, why in zip(*(refused[n].to_pylist() for n in ("uri", "reason")), strict=True)
    ]
    roles = np.array([stated or "" for stated in table["role"].to_pylist()], np.str_)
    role = _stated_role(source, role, set(roles[wanted].tolist()) - {""})
    table = table.take(np.flatnonzero(wanted & (roles == role) if role else wanted))
    names = table["uri"].to_pylist()
    seen = _refuse_learnt(np.array(table["id"].to_pylist()), names, subject)
    labels, coded = np.unique(table["label"].to_pylist(), return_inverse=True)
    return JudgedPhotos(
        bytes=_Files(list(zip(names, table["offset"].to_pylist(), table["bytes"].to_pylist(), strict=True))),
        labels=_numbers(tuple(labels.tolist()), subject)[coded],
        groups=table["group"].to_numpy().astype(np.int64),
        names=names,
        ancestors={"manifest": manifest.sha256},
        role=role,
        seen=seen,
        key=digest([table["id"].to_pylist(), table["bytes"].to_pylist()]),
        ids=table["id"].to_pylist(),
        uris=names,
        stated=table["label"].to_pylist(),
        unread=unread,
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
    """The subject's class number of each label, -1 for a label that it does not have."""
    numbers = {label: number for number, label in enumerate(subject.labels)}
    return np.array([numbers.get(label, UNLABELLED) for label in labels], np.int64)


@dataclass(frozen=True)
class _Some:
    """Some of the photos, by position."""

    photos: PhotoBytes
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> bytes:
        return self.photos[int(self.places[position])]


def _drift(subject: Subject, answers: Answers) -> Drift | None:
    """The drift of up to 400 photos against the baseline of a Bundle's first variant, if it has one."""
    variant = next(iter(subject.models.values())).variant
    if variant is None or variant.baseline is None or variant.takes_photos:
        return None
    count = len(answers.decided)
    places = np.linspace(0, count - 1, min(count, DRIFT_PHOTOS)).astype(np.int64)
    return measure_drift(
        answers.probabilities[places], subject.labels, variant.baseline,
        answers.statistics[places], answers.ood_scores[places],
    )  # fmt: skip


def _compare(
    variant: Variant,
    subject: Subject,
    answers: Answers,
    judged: JudgedPhotos,
    drift: Drift | None,
) -> dict[str, Any]:
    """A variant's part of the verdict: its golden cases here, and its answers beside what it promises."""
    assert subject.bundle is not None
    numbers = {label: number for number, label in enumerate(subject.labels)}
    decided = np.array([numbers.get(word, NO_DECISION) for word in answers.decided], np.int64)
    ours = np.array([label in numbers or not label for label in judged.stated])  # not of unknown labels
    ours = ours if ours.any() else np.ones_like(ours)
    likeliest = answers.probabilities.argmax(axis=1)
    found = compare_with_promises(
        variant, subject.labels, subject.bundle.prior, likeliest[ours], decided[ours],
        judged.labels[ours], judged.groups[ours], drift,
    )  # fmt: skip
    golden = check_bundle(subject.bundle, variants=(variant.name,))
    checks = [
        {"name": f"verify {one.name}", "value": one.value, "promised": one.limit, "pass": one.passed,
         "text": f"{one.name}: {one.value}, limit {one.limit}."}
        for one in golden
    ]  # fmt: skip
    passed = found["pass"] and all(one.passed for one in golden)
    foreign = unknown_labels(judged.stated, subject.labels, decided)
    return {**found, "pass": passed, "checks": [*checks, *found["checks"]], "unknown_labels": foreign}


def _verdict(subject: Subject, judged: JudgedPhotos, compared: dict[str, Any]) -> dict[str, Any]:
    """The verdict of a Bundle in report.json, with its sentences for people; empty for a Checkpoint."""
    if not compared:
        return {}
    failed = [name for name, one in compared.items() if not one["pass"]]
    shown = compared[failed[0] if failed else next(iter(compared))]
    photos = {
        "judged": len(judged.stated),
        "labelled": int((judged.labels != UNLABELLED).sum()),
        "unlabelled": sum(not label for label in judged.stated),
        "unreadable": len(judged.unread),
    }
    if failed:
        text = f"{', '.join(failed)} on these photos: not as the bundle promises."
    else:
        number = photos["judged"]
        these = f"These {number:,} photos do" if number != 1 else "This photo does"
        text = f"{these} not contradict what the bundle promises."
        if not photos["labelled"]:
            text += (
                " No photo has a label that it knows, so its answers were not judged, only the kind of photo."
            )
    lines = [check["text"] for check in shown["checks"] if not check["pass"]]
    lines += [one["text"] for one in (*shown["explanations"], *shown["unknown_labels"])]
    if shown["not_stated"]:
        lines.append(
            f"The bundle does not state {', '.join(shown['not_stated'])}: not compared. Export it again."
        )
    if judged.unread:
        named = "; ".join(judged.unread[:NAMED]) + ("; …" if judged.unread[NAMED:] else "")
        lines.append(f"{len(judged.unread):,} photos could not be read and are not judged: {named}.")
    unread = judged.unread[:MAX_NAMED]
    return {
        "pass": not failed, "text": text, "lines": lines, "photos": photos, "unreadable": unread,
        "variants": compared,
    }  # fmt: skip
