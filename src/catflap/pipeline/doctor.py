"""The verb `doctor` for a project: what its manifest, dataset, checkpoint, bundle and log fall short of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from catflap.artifacts.bundle import SUFFIX, Bundle, load_bundle
from catflap.artifacts.checkpoint import MARKER as CHECKPOINT
from catflap.artifacts.checkpoint import Checkpoint, load_checkpoint
from catflap.artifacts.dataset import MARKER as DATASET
from catflap.artifacts.dataset import ROLES, Dataset, load_dataset
from catflap.artifacts.field_log import read_field_log
from catflap.artifacts.manifest import MARKER as MANIFEST
from catflap.artifacts.manifest import Manifest, load_manifest
from catflap.artifacts.report import MARKER as REPORT
from catflap.artifacts.report import Report, load_report
from catflap.errors import CatflapError
from catflap.pipeline.drift import drift
from catflap.runtime.signature import SUFFIX as SIGNATURE
from catflap.verification.verify import verify

FINE, ADVICE, MEND, UNKNOWN = "fine", "advice", "mend", "unknown"
BURSTS = 0.05  # share of near-duplicates from which photos look like bursts
FEW_TEST_GROUPS = 30  # fewer independent test photos show nothing
BADLY_CALIBRATED = 0.05  # of the calibration error's lower bound
CERTAIN = 3.0  # tolerances by which a defect moves a golden answer for certain, as `export` wants it
NOTICED = 1.0  # tolerances from which `verify` notices it on this machine
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a check found: `state` is fine, advice, mend or unknown; `command` is the one that helps."""

    check: str
    state: str
    what: str
    why: str
    command: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as `catflap doctor PROJECT --json` has it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Project:
    """What a project left: each artifact that is there, None what is not; `broken` has the errors."""

    path: Path
    manifest: Manifest | None
    dataset: Dataset | None
    checkpoint: Checkpoint | None
    report: Report | None
    bundle: Bundle | None
    logs: tuple[Path, ...]
    broken: tuple[CatflapError, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing of Catflap."""
        return not self.broken and all(
            each is None for each in (self.manifest, self.dataset, self.checkpoint, self.report, self.bundle)
        )

    @property
    def name(self) -> str:
        """The path of its bundle, as a command names it."""
        if self.bundle is not None:
            return str(self.bundle.path)
        return str(
            self.path.with_suffix(SUFFIX) if self.path.suffix == ".build" else self.path / "mine.catflap"
        )

    @property
    def build(self) -> str:
        """The command that makes or continues it."""
        source = "PHOTOS" if self.manifest is None else self.manifest.source
        return f"catflap build {source} -o {self.name}"


def examine_project(path: Path | str) -> list[Finding]:
    """What a project falls short of, each with why and the one command that helps; the worst first.

    `path` is a bundle, the NAME.build folder beside it, a folder with one of them, or a folder with a
    manifest, dataset or checkpoint. Raises CatflapError when it does not exist or holds several projects.
    """
    project = open_project(Path(path))
    if project.is_empty:
        why = "There is nothing to check: no manifest, dataset, checkpoint or bundle."
        return [Finding("project", MEND, f"{project.path} holds nothing of Catflap.", why, project.build)]
    found = [finding for check in CHECKS for finding in check(project)]
    order = [MEND, ADVICE, UNKNOWN, FINE]
    return sorted(found, key=lambda finding: order.index(finding.state))


def open_project(path: Path) -> Project:
    """Find and open what a project left."""
    if not path.exists():
        raise CatflapError(f"{path} does not exist.", "Name a bundle, or the folder NAME.build beside it.")
    bundles, works = _places(path)
    if len(bundles) > 1 or len(works) > 1:
        several = bundles if len(bundles) > 1 else works
        names = ", ".join(sorted(each.name for each in several)[:5])
        raise CatflapError(f"{path} holds several projects: {names}.", "Name one of them.")
    broken: list[CatflapError] = []
    parts: dict[str, Path] = {}
    for work in works:
        for folder in (work, *sorted(each for each in work.iterdir() if each.is_dir())):
            for marker in (MANIFEST, DATASET, CHECKPOINT, REPORT):
                if (folder / marker).is_file() and marker not in parts:
                    parts[marker] = folder

    def opened(load: Callable[[Path], T], place: Path | None) -> T | None:
        if place is None:
            return None
        try:
            return load(place)
        except CatflapError as error:
            broken.append(error)
            return None

    beside = {each.parent for each in (*bundles, *works)} | ({path} if path.is_dir() else set())
    return Project(
        path=works[0] if works else path,
        manifest=opened(load_manifest, parts.get(MANIFEST)),
        dataset=opened(load_dataset, parts.get(DATASET)),
        checkpoint=opened(load_checkpoint, parts.get(CHECKPOINT)),
        report=opened(load_report, parts.get(REPORT)),
        bundle=opened(load_bundle, next(iter(bundles), None)),
        logs=tuple(sorted({log for folder in beside for log in folder.glob("*.log") if _is_log(log)})),
        broken=tuple(broken),
    )


def _places(path: Path) -> tuple[list[Path], list[Path]]:
    """The bundles and working folders that a path stands for."""
    if path.is_file():
        work = path.with_suffix(".build")
        return [path], [work] if work.is_dir() else []
    inner = [each for each in path.iterdir() if each.is_dir()]
    if any(
        (folder / marker).is_file() for folder in (path, *inner) for marker in (MANIFEST, DATASET, CHECKPOINT)
    ):
        beside = path.with_suffix(SUFFIX)
        own = sorted(path.glob(f"*{SUFFIX}"))
        return own or ([beside] if path.suffix == ".build" and beside.is_file() else []), [path]
    return sorted(path.glob(f"*{SUFFIX}")), sorted(each for each in inner if each.suffix == ".build")


def _is_log(path: Path) -> bool:
    with suppress(CatflapError, OSError):
        return next(read_field_log(path), None) is not None
    return False


# --- The checks


def _whole(project: Project) -> Iterator[Finding]:
    """Every artifact opens and all steps were done."""
    why = "What is damaged or missing cannot be checked, and nothing may rest on it."
    for error in project.broken:
        yield Finding("whole", MEND, error.what, why, project.build)
    steps = {
        "manifest": "scan",
        "dataset": "prepare",
        "checkpoint": "train",
        "bundle": "export",
        "report": "evaluate",
    }
    missing = [verb for name, verb in steps.items() if getattr(project, name) is None]
    if missing and not project.broken:
        alone = len(missing) == 4 and project.bundle is not None
        what = f"Not there: what {', '.join(missing)} would leave."
        state = UNKNOWN if alone else MEND
        yield Finding("whole", state, what, "The checks of those steps were left out.", project.build)
    elif not missing:
        yield Finding("whole", FINE, "Manifest, dataset, checkpoint, bundle and report are there.", "")


def _current(project: Project) -> Iterator[Finding]:
    """Each artifact was made from the one before, and the manifest from the photos as they are."""
    why = "What was tested is no longer what the photos are, or what runs."
    links = (
        ("dataset", project.dataset, "manifest", project.manifest),
        ("checkpoint", project.checkpoint, "dataset", project.dataset),
        ("bundle", project.bundle, "checkpoint", project.checkpoint),
        ("report", project.report, "bundle", project.bundle),
    )
    stale = False
    for name, child, kind, parent in links:
        if child is None or parent is None:
            continue
        ancestors = child.head["ancestors"] if isinstance(child, Bundle) else child.ancestors
        if ancestors.get(kind) not in (None, parent.sha256):
            stale = True
            yield Finding("current", MEND, f"The {name} was made from another {kind}.", why, project.build)
    if project.manifest is None:
        return
    source = _source(project)
    if source is None:
        what = f"The photos, {project.manifest.source}, are not here, so their age is not known."
        yield Finding("current", UNKNOWN, what, why)
    elif _newest(source) > (project.manifest.path / MANIFEST).stat().st_mtime:
        yield Finding(
            "current", MEND, "Photos were added, changed or removed after the scan.", why, project.build
        )
    elif not stale:
        yield Finding("current", FINE, "Everything was made from the photos as they are.", "")


def _source(project: Project) -> Path | None:
    """The folder or file that the manifest was scanned from, where it is on this machine."""
    assert project.manifest is not None
    stated = Path(project.manifest.source)
    places = (stated, project.path.parent / stated, project.path / stated)
    return next((each for each in places if each.exists()), None)


def _newest(source: Path) -> float:
    """When a file under it was changed, or a folder's list of files, in seconds since 1970."""
    newest = source.stat().st_mtime
    for folder, _, names in os.walk(source):
        for name in (".", *names):
            with suppress(OSError):
                newest = max(newest, (Path(folder) / name).stat().st_mtime)
    return newest


def _roles(project: Project) -> Iterator[Finding]:
    """No group in two roles, and a test role that is large enough for the claim."""
    if project.dataset is None:
        return
    groups = {role: np.unique(project.dataset.photos(role).groups) for role in ROLES}
    prepare = f"catflap prepare {_manifest_path(project)} -o {project.dataset.path}"
    every, counts = np.unique(np.concatenate(list(groups.values())), return_counts=True)
    shared = int((counts > 1).sum())
    why = "Test photos that training has seen make the accuracy look better than it is."
    if shared:
        what = f"{shared} groups of near-duplicates lie in several roles."
        yield Finding("roles", MEND, what, why, prepare)
    else:
        yield Finding("roles", FINE, f"None of {len(every):,} groups lies in two roles.", why)
    test = len(groups["test"])
    rate = None if project.bundle is None else project.bundle.variant().decision.get("error_rate")
    needed = max(FEW_TEST_GROUPS, 0 if not rate else round(3 / rate))
    why = "Even without a single mistake, n independent photos show an error rate of 3 / n at best (95 %)."
    if test < needed:
        claim = f"the promised error rate of {100 * rate:.2g} % needs" if rate else "a figure needs"
        what = f"The test role has {test} independent photos; {claim} {needed}."
        yield Finding("test size", MEND if test < FEW_TEST_GROUPS else ADVICE, what, why, project.build)
    else:
        yield Finding("test size", FINE, f"The test role has {test:,} independent photos.", why)


def _manifest_path(project: Project) -> str:
    return "MANIFEST" if project.manifest is None else str(project.manifest.path)


def _photos(project: Project) -> Iterator[Finding]:
    """Bursts without stated groups, imbalance, shortcuts, what scan found, labels that nobody audited."""
    manifest = project.manifest
    if manifest is None:
        return
    stated = any(group for group in manifest.rows(["user_group"])["user_group"].unique().to_pylist())
    share = manifest.near_duplicates / manifest.ok if manifest.ok else 0.0
    why = "Photos of one burst, video or animal are alike: only stated groups keep them in one role."
    scan = f"catflap scan PHOTOS.csv -o {manifest.path} --group-column group"
    if series := manifest.finding("series"):
        yield Finding("groups", ADVICE, series, why, scan)
    elif not stated and share > BURSTS:
        what = f"{100 * share:.0f} % of the photos are near-duplicates, and no groups are stated."
        yield Finding("groups", ADVICE, what, why, scan)
    else:
        what = "Groups are stated." if stated else f"{100 * share:.1f} % of the photos are near-duplicates."
        yield Finding("groups", FINE, what, why)
    why = "Of a rare label few photos are learnt from and few are tested, and its recall is uncertain."
    if imbalance := manifest.finding("class_imbalance"):
        yield Finding("balance", ADVICE, imbalance, why, "catflap review queue FIELD.log -o queue")
    elif manifest.labels:
        yield Finding("balance", FINE, "No label has many times the photos of another.", why)
    shortcuts = [check["what"] for check in manifest.checks if check["check"] == "shortcut"]
    why = "A network learns the easiest clue; in the field that clue does not tell the labels apart."
    for what in shortcuts:
        yield Finding("shortcut", MEND, what, why, f"catflap scan PHOTOS -o {manifest.path}")
    if not shortcuts:
        yield Finding("shortcut", FINE, "Neither size, format nor file name gives a label away.", why)
    for check in manifest.checks:
        if check["check"] in ("stated_roles_leak", "near_duplicate_two_labels"):
            state = MEND if check["check"] == "stated_roles_leak" else ADVICE
            why = "The same thing would be learnt and tested, or learnt under two names."
            yield Finding("duplicates", state, check["what"], why, _audit(project))
    if not {"decisions", "dataset"} & set(manifest.ancestors):
        why = "In most collections some labels are wrong; they spoil training and the test alike."
        yield Finding("labels", ADVICE, "The labels were never audited.", why, _audit(project))
    else:
        yield Finding("labels", FINE, "The labels come from an audit or a review.", "")


def _audit(project: Project) -> str:
    dataset = "DATASET" if project.dataset is None else project.dataset.path
    return f"catflap audit {dataset} -o audited.manifest"


def _calibration(project: Project) -> Iterator[Finding]:
    """Probabilities are calibrated, and a decision threshold exists."""
    bundle = project.bundle
    if bundle is None:
        return
    variant = bundle.variant()
    error = variant.metrics.get("calibration_error") or {}
    why = "Thresholds, priors and “unsure” all rest on calibrated probabilities."
    export = (
        f"catflap export {project.checkpoint.path if project.checkpoint else 'CHECKPOINT'} -o {bundle.path}"
    )
    low, value = error.get("low"), error.get("value")
    if value is None:
        yield Finding("calibration", UNKNOWN, "The bundle states no calibration error.", why, export)
    elif low is not None and low > BADLY_CALIBRATED:
        what = f"Probabilities are off by {100 * value:.1f} points on average."
        yield Finding("calibration", MEND, what, why, export)
    else:
        yield Finding(
            "calibration", FINE, f"Probabilities are off by {100 * value:.1f} points on average.", why
        )
    if not variant.decision.get("curve"):
        what = "The decision promises no error rate: there were too few calibration photos."
        yield Finding("decision", ADVICE, what, why, export)


def _golden(project: Project) -> Iterator[Finding]:
    """Every standard defect of a runtime moves a golden answer."""
    bundle = project.bundle
    if bundle is None:
        return
    why = "A golden case that a broken decoder or resize passes gives false trust on the device."
    export = (
        f"catflap export {project.checkpoint.path if project.checkpoint else 'CHECKPOINT'} -o {bundle.path}"
    )
    defects = bundle.head["golden"].get("defects")
    if not defects:
        yield Finding(
            "golden cases", ADVICE, "It is not known which defects the golden cases show.", why, export
        )
        return
    missed = [name for name, moved in defects.items() if moved < NOTICED]
    weak = [name for name, moved in defects.items() if NOTICED <= moved < CERTAIN]
    if missed:
        what = (
            f"The golden cases do not show {len(missed)} of {len(defects)} defects: {', '.join(missed[:3])}."
        )
        yield Finding("golden cases", MEND, what, why, export)
    elif weak:
        what = (
            f"The golden cases show {len(weak)} of {len(defects)} defects by less than {CERTAIN:g} "
            f"tolerances ({', '.join(weak[:3])}): another processor may hide them."
        )
        yield Finding("golden cases", ADVICE, what, why)
    else:
        yield Finding("golden cases", FINE, f"The golden cases show each of {len(defects)} defects.", why)


def _device(project: Project) -> Iterator[Finding]:
    """The bundle passes here, is signed, has a baseline for drift, a log, and usable licences."""
    bundle = project.bundle
    if bundle is None:
        return
    name = str(bundle.path)
    why = "What was tested must be what runs: pixels, logits and decisions on that very device."
    verdict = verify(bundle.path)
    failed = [check.name for check in verdict.checks if not check.passed]
    if failed:
        what = f"It fails here: {', '.join(failed[:3])}."
        yield Finding("verify", MEND, what, why, f"catflap verify {name}")
    else:
        what = "It passes on this machine; whether it did on your devices is recorded nowhere."
        yield Finding("verify", UNKNOWN, what, why, f"catflap verify {name}")
    why = "Without a signature a device cannot tell your bundle from another's."
    if bundle.path.with_name(bundle.path.name + SIGNATURE).is_file():
        yield Finding("signature", FINE, "A signature lies beside the bundle.", why)
    else:
        yield Finding(
            "signature", ADVICE, "The bundle is not signed.", why, f"catflap sign {name} --key private.pem"
        )
    yield from _field(project, bundle)
    why = "A licence that forbids your use makes every further step worthless."
    unclear = [part for part, words in bundle.head["licences"].items() if _is_unclear(str(words))]
    checkpoint = project.checkpoint.path if project.checkpoint else "CHECKPOINT"
    if unclear or not bundle.head["licences"]:
        what = f"The licence of the {', '.join(unclear) or 'weights'} is unknown or forbids commercial use."
        yield Finding("licences", ADVICE, what, why, f"catflap bundle inspect {name}")
    elif not bundle.head.get("about"):
        what = "The bundle does not state where its photos are from and what they may be used for."
        yield Finding("licences", ADVICE, what, why, f"catflap export {checkpoint} -o {name} --about TEXT")
    else:
        yield Finding("licences", FINE, "Licences and the use of the photos are stated.", why)


def _is_unclear(words: str) -> bool:
    lowered = words.lower()
    return (
        not lowered.strip()
        or lowered in ("unknown", "none")
        or "-nc" in lowered
        or "noncommercial" in lowered
    )


def _field(project: Project, bundle: Bundle) -> Iterator[Finding]:
    """A baseline for drift, and what a field log shows."""
    why = "Light, cameras and seasons change; without a baseline and a log nobody notices."
    name = str(bundle.path)
    checkpoint = project.checkpoint.path if project.checkpoint else "CHECKPOINT"
    if bundle.variant().baseline is None:
        what = "The bundle has no baseline for drift."
        yield Finding("drift", ADVICE, what, why, f"catflap export {checkpoint} -o {name}")
    if not project.logs:
        what = "There is no field log beside the bundle."
        yield Finding("drift", ADVICE, what, why, f"catflap watch {name} CAMERA --log field.log")
    for log in project.logs:
        command = f"catflap drift {name} {log} -o drift.html"
        try:
            found = drift(bundle.path, log)
        except CatflapError as error:
            yield Finding("drift", UNKNOWN, error.what, why, command)
            continue
        if found.latest is None:
            yield Finding("drift", UNKNOWN, f"{log.name} has {found.photos} photos, too few to test.", why)
        elif found.alarm:
            what = f"The newest photos in {log.name} differ from the calibration photos."
            yield Finding("drift", MEND, what, why, command)
        else:
            yield Finding("drift", FINE, f"The newest photos in {log.name} look as tested.", why)


CHECKS: Sequence[Callable[[Project], Iterator[Finding]]] = (
    _whole, _current, _roles, _photos, _calibration, _golden, _device,
)  # fmt: skip


def project_fields(path: Path | str) -> dict[str, Any]:
    """The machine answer of `catflap doctor PROJECT`: findings, and how many of each state."""
    findings = examine_project(path)
    counts = {
        state: sum(finding.state == state for finding in findings) for state in (MEND, ADVICE, UNKNOWN, FINE)
    }
    return {"project": str(path), "states": counts, "findings": [finding.to_json() for finding in findings]}
