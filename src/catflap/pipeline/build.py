"""Photos to a verified Bundle in one command: the verb `build`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import Dataset, load_dataset
from catflap.artifacts.manifest import UNREADABLE, Manifest, load_manifest
from catflap.artifacts.report import Report, load_report
from catflap.data.prepare import prepare, prepare_fingerprint
from catflap.data.scan import scan, scan_fingerprint, some_readable
from catflap.errors import BadArtifact, Refused
from catflap.exporting.export import export, export_fingerprint
from catflap.exporting.repack import check_out
from catflap.exporting.target import check_variants, variant_names
from catflap.image import Frame
from catflap.pipeline.evaluate import evaluate
from catflap.progress import Progress, silent
from catflap.runtime.decisions import parse_point_specs
from catflap.training.plan import Plan
from catflap.training.train import USUAL, train
from catflap.verification.verify import verify

T = TypeVar("T")
Steps: TypeAlias = dict[str, dict[str, Any]]
VARIANTS = ("int8", "fp32")
USUAL_TRIALS = 2  # of the candidates, where nothing is said


def build(
    source: Path | str,
    out: Path,
    *,
    frame: Frame | None = None,
    plan: Plan = USUAL,
    variants: tuple[str, ...] = VARIANTS,
    about: str = "",
    operating_points: tuple[str, ...] = (),
    progress: Progress = silent,
) -> dict[str, Any]:
    """Walk the whole line: scan, prepare, train, export, verify, evaluate; returns a summary.

    The artefacts lie in NAME.build beside the Bundle. A step whose inputs have not changed is
    skipped, so that a stopped build goes on where it was; photos that could not be read are looked at again.
    Where neither a frame is given nor anything that a plan says about backbone, recipe, time or trials,
    validation chooses between Lite0 at 288 px and the slim Lite2 at 320 px; of photos that are much smaller
    between smaller frames. Raises Refused when the Bundle does not pass here, be it an earlier run's.
    """
    out = Path(out)
    check_out(out)
    work = out.with_suffix(".build")
    if frame is None and plan.is_open:
        plan = replace(plan, trials=USUAL_TRIALS, recipe="head", limits=plan.kept_limits)
    plan.check()  # before scan and prepare, which may take hours
    check_variants(variant_names((), variants))
    parse_point_specs(operating_points)
    frame = frame or Frame()
    steps: Steps = {}

    manifest, dataset = _prepared(source, work, frame, plan.seed, steps, progress)
    parse_point_specs(operating_points, dataset.labels)  # before train, which may take hours, too
    trained = plan.fingerprint(dataset)
    checkpoint = _step(
        steps, "train", lambda: load_checkpoint(work / "checkpoint"),
        lambda found: found.made_from == trained,
        lambda: train(dataset, work / "checkpoint", plan, progress=progress),
    )  # fmt: skip
    asked: Any = {"variants": variants, "about": about, "operating_points": operating_points}
    exported = export_fingerprint(checkpoint, **asked)
    bundle = _step(
        steps, "export", lambda: load_bundle(out), lambda found: found.head.get("made_from") == exported,
        lambda: load_bundle(export(checkpoint, dataset, out, **asked, progress=progress)["bundle"]),
    )  # fmt: skip
    if steps["export"]["skipped"]:  # else export has
        _verify(out, progress)
    report = _step(
        steps, "evaluate", lambda: load_report(work / "report"),
        lambda found: found.ancestors.get("bundle") == bundle.sha256,
        lambda: evaluate(out, dataset.path, work / "report", progress=progress),
    )  # fmt: skip
    photos = {"found": manifest.photos, "quarantined": manifest.quarantined, **dataset.roles}
    return _summary(bundle, photos, checkpoint, report, steps)


def _prepared(
    source: Path | str, work: Path, frame: Frame, seed: int, steps: Steps, progress: Progress
) -> tuple[Manifest, Dataset]:
    """Scan and prepare; scan afresh where the Manifest of an earlier run turns out damaged or outdated."""
    found, made_from = work / "manifest", scan_fingerprint(source)

    def scanned(fresh: Callable[[Manifest], bool]) -> Manifest:
        return _step(
            steps, "scan", lambda: load_manifest(found), fresh,
            lambda: scan(source, found, progress=progress),
        )  # fmt: skip

    def prepared(manifest: Manifest) -> Dataset:
        made_from = prepare_fingerprint(manifest, frame=frame, seed=seed)
        return _step(
            steps, "prepare", lambda: load_dataset(work / "dataset"),
            lambda kept: kept.made_from == made_from,
            lambda: prepare(manifest, work / "dataset", frame=frame, seed=seed, progress=progress),
        )  # fmt: skip

    def unchanged(kept: Manifest) -> bool:
        if kept.made_from != made_from:
            return False
        return UNREADABLE not in kept.reasons or not some_readable(kept)

    manifest = scanned(unchanged)
    while True:
        try:
            return manifest, prepared(manifest)
        except BadArtifact as error:
            if not steps["scan"]["skipped"]:
                raise BadArtifact(error.what, f"Delete {found} and build again.") from error
        manifest = scanned(lambda _: False)


def _verify(out: Path, progress: Progress) -> None:
    """Raise Refused when a Bundle of an earlier run does not pass on this machine."""
    failed = [check.name for check in verify(out, progress=progress).checks if not check.passed]
    if failed:
        raise Refused(f"{out} does not pass here: {', '.join(failed)}.", "Run: catflap doctor")


def _summary(
    bundle: Bundle, photos: dict[str, int], checkpoint: Checkpoint, report: Report, steps: Steps
) -> dict[str, Any]:
    variants = {
        name: {
            "bytes": bundle.size_of(variant),
            "accuracy": variant.metrics["accuracy"],
            "flips": variant.fidelity["flips"],
            "flip_rate": variant.fidelity["flip_rate"],
        }
        for name, variant in bundle.variants.items()
    }
    return {
        "bundle": str(bundle.path),
        "verdict": "pass",
        "bytes": bundle.path.stat().st_size,
        "sha256": bundle.sha256,
        "photos": photos,
        "trained": {
            "backbone": checkpoint.backbone,
            "frame": checkpoint.frame.to_json(),
            "recipe": checkpoint.recipe,
            "validation_accuracy": checkpoint.metrics["accuracy"],
        },
        "variants": variants,
        "report": str(report.path),
        "page": str(report.page),
        "steps": steps,
        "seconds": sum(step["seconds"] for step in steps.values()),
    }


def _step(
    steps: Steps, name: str, load: Callable[[], T], fresh: Callable[[T], bool], make: Callable[[], T]
) -> T:
    """Do a step, or keep what an earlier run left; note its seconds and whether it was skipped."""
    start = perf_counter()
    kept = _kept(load, fresh)
    answer = make() if kept is None else kept
    steps[name] = {"seconds": perf_counter() - start, "skipped": kept is not None}
    return answer


def _kept(load: Callable[[], T], fresh: Callable[[T], bool]) -> T | None:
    """What an earlier run left, when it is whole and was made from the same."""
    try:
        found = load()
        return found if fresh(found) else None
    except BadArtifact:
        return None
