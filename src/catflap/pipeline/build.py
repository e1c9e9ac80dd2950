"""The verb `build`: photos to a verified Bundle in one command, resumable step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.folder import discard_work
from catflap.artifacts.manifest import UNREADABLE, Manifest, load_manifest
from catflap.artifacts.report import Report, load_report
from catflap.curation.kept_decisions import reviewed
from catflap.data.prepare import prepare, prepare_fingerprint
from catflap.data.scan import scan, scan_fingerprint, some_readable
from catflap.errors import BadArtifact, Refused
from catflap.exporting.export import export, export_fingerprint
from catflap.exporting.repack import check_out
from catflap.exporting.target import check_variants, variant_names
from catflap.image import Frame
from catflap.pipeline.evaluate import evaluate
from catflap.pipeline.outcome import answer_ms, outcome, same
from catflap.progress import Progress, Record, ignore, silent
from catflap.runtime.decisions import check_error_rate, check_unknown_rate, parse_point_specs
from catflap.training.plan import Plan
from catflap.training.search import DEFAULT_TRIALS
from catflap.training.train import DEFAULT_PLAN, WORK_FILES, train
from catflap.verification.verify import verify

T = TypeVar("T")


class _Steps:
    """The seconds of each step and whether it was skipped, for the summary."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[str, Any]] = {}
        self._begun = perf_counter()

    def end(self, name: str, *, skipped: bool = False) -> None:
        """Note that a step has just ended; the next one begins."""
        now = perf_counter()
        self.taken[name] = {"seconds": now - self._begun, "skipped": skipped}
        self._begun = now


def build(
    source: Path | str,
    out: Path,
    *,
    frame: Frame | None = None,
    plan: Plan = DEFAULT_PLAN,
    variants: tuple[str, ...] = (),
    about: str = "",
    operating_points: tuple[str, ...] = (),
    error_rate: float | None = None,
    unknown_rate: float | None = None,
    progress: Progress = silent,
    record: Record = ignore,
) -> dict[str, Any]:
    """Scan, prepare, train, export, verify and evaluate; returns a summary.

    The artifacts lie in NAME.build beside the Bundle, and so do a person's decisions about labels (`review
    apply` of the build), which are applied to the photos. A step whose inputs have not changed is skipped, so
    that a stopped build continues; photos that could not be read are tried again. Without a frame, backbone,
    minutes and trials, validation chooses between Lite0 at 288 px and the slim Lite2 at 320 px (smaller
    frames if the photos are much smaller), and a poor head is fine-tuned. `record` is that of `train`.
    Raises Refused when the Bundle fails verification here, also one of an earlier run.
    """
    out = Path(out)
    check_out(out)
    work = out.with_suffix(".build")
    if frame is None and plan.is_default and plan.recipe in (None, "head"):
        plan = replace(plan, trials=DEFAULT_TRIALS, max_mb=plan.size_limit)
    plan.check()  # before scan and prepare, which may take hours
    if variants:
        check_variants(variant_names((), variants))
    parse_point_specs(operating_points)
    check_error_rate(error_rate)
    check_unknown_rate(unknown_rate)
    steps = _Steps()

    manifest, dataset = _scan_and_prepare(source, work, frame or Frame(), plan.seed, steps, progress)
    parse_point_specs(operating_points, dataset.labels)  # before train, which may take hours, too

    checkpoint = _kept(load_checkpoint, work / "checkpoint")
    skipped = checkpoint is not None and checkpoint.made_from == plan.fingerprint(dataset)
    if checkpoint is None or not skipped:
        checkpoint = train(dataset, work / "checkpoint", plan, progress=progress, record=record)
    else:
        for entry in checkpoint.history:
            record(entry)
        discard_work(work / "checkpoint", "train", *WORK_FILES)
    steps.end("train", skipped=skipped)

    asked: Any = {"variants": variants, "about": about, "operating_points": operating_points}
    asked |= {"error_rate": error_rate, "unknown_rate": unknown_rate}
    bundle = _kept(load_bundle, out)
    skipped = bundle is not None and bundle.head.get("made_from") == export_fingerprint(checkpoint, **asked)
    if bundle is None or not skipped:
        export(checkpoint, dataset, out, **asked, progress=progress)
        bundle = load_bundle(out)
    else:  # export verifies a new one
        _verify(out, progress)
        discard_work(out, "export")
    steps.end("export", skipped=skipped)

    reached = outcome(bundle, manifest, dataset, checkpoint, ms=answer_ms(bundle, dataset))
    report = _kept(load_report, work / "report")
    skipped = (
        report is not None
        and report.ancestors.get("bundle") == bundle.sha256
        and same(report.outcome, reached)
    )
    if report is None or not skipped:
        report = evaluate(out, dataset.path, work / "report", outcome=reached, progress=progress)
    else:
        discard_work(work / "report", "scored")
    steps.end("evaluate", skipped=skipped)
    return _summary(bundle, manifest, dataset, checkpoint, report, steps) | {"outcome": reached}


def _scan_and_prepare(
    source: Path | str, work: Path, frame: Frame, seed: int, steps: _Steps, progress: Progress
) -> tuple[Manifest, Dataset]:
    """The Manifest and the Dataset; scans again where an earlier Manifest turns out damaged or outdated."""
    place = work / "manifest"
    manifest = _kept(load_manifest, place)
    skipped = manifest is not None and _is_current(manifest, source)
    while True:
        if manifest is None or not skipped:
            manifest = scan(source, place, progress=progress)
        else:
            discard_work(place, "scan")
        steps.end("scan", skipped=skipped)
        clean, was_there = reviewed(work, manifest, progress=progress)
        if clean is not manifest:
            steps.end("review", skipped=was_there)
        try:
            return clean, _prepared(clean, work / "dataset", frame, seed, steps, progress)
        except BadArtifact as error:
            if not skipped:
                raise BadArtifact(error.what, f"Delete {place} and build again.") from error
        skipped = False


def _is_current(manifest: Manifest, source: Path | str) -> bool:
    """Whether a Manifest is of the photos as they are now, and none that was unreadable can be read now."""
    try:
        return manifest.made_from == scan_fingerprint(source) and (
            UNREADABLE not in manifest.reasons or not some_readable(manifest)
        )
    except BadArtifact:
        return False


def _prepared(
    manifest: Manifest, place: Path, frame: Frame, seed: int, steps: _Steps, progress: Progress
) -> Dataset:
    dataset = _kept(load_dataset, place)
    made_from = prepare_fingerprint(manifest, frame=frame, seed=seed)
    skipped = dataset is not None and dataset.made_from == made_from
    if dataset is None or not skipped:
        dataset = prepare(manifest, place, frame=frame, seed=seed, progress=progress)
    else:
        discard_work(place, "prepare")
    steps.end("prepare", skipped=skipped)
    return dataset


def _kept(load: Callable[[Path], T], place: Path) -> T | None:
    """What an earlier run left; None where it is absent or damaged."""
    try:
        return load(place)
    except BadArtifact:
        return None


def _verify(out: Path, progress: Progress) -> None:
    """Raise Refused when the Bundle of an earlier run does not pass on this machine."""
    failed = [check.name for check in verify(out, progress=progress).checks if not check.passed]
    if failed:
        raise Refused(f"{out} does not pass here: {', '.join(failed)}.", "Run: catflap doctor")


def _summary(
    bundle: Bundle,
    manifest: Manifest,
    dataset: Dataset,
    checkpoint: Checkpoint,
    report: Report,
    steps: _Steps,
) -> dict[str, Any]:
    variants = {
        name: {
            "bytes": bundle.size_of(variant),
            "accuracy": variant.metrics["accuracy"],
            "decisions": bundle.head["variants"][name].get("decisions"),
            "flips": variant.fidelity["flips"],
            "flip_rate": variant.fidelity["flip_rate"],
            "decision": variant.decision,
        }
        for name, variant in bundle.variants.items()
    }
    return {
        "bundle": str(bundle.path),
        "verdict": "pass",
        "bytes": bundle.path.stat().st_size,
        "sha256": bundle.sha256,
        "photos": {"found": manifest.photos, "quarantined": manifest.quarantined, **dataset.roles},
        "trained": {
            "backbone": checkpoint.backbone,
            "frame": checkpoint.frame.to_json(),
            "recipe": checkpoint.recipe,
            "validation_accuracy": checkpoint.metrics["accuracy"],
        },
        "variants": variants,
        "report": str(report.path),
        "page": str(report.page),
        "steps": steps.taken,
        "seconds": sum(step["seconds"] for step in steps.taken.values()),
    }
