"""The bundles that are served: checked before they are, and replaced while they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter

import numpy as np

from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError, Refused
from catflap.image import Pixels
from catflap.machine import give_back_memory
from catflap.runtime.classifier import Classifier
from catflap.runtime.golden_checks import check_bundle
from catflap.runtime.image_statistics import image_statistics
from catflap.runtime.signature import SUFFIX, read_signed
from catflap.serving.answers import Problem
from catflap.serving.metrics import Metrics
from catflap.serving.settings import BundlePath, ServeSettings

Stamp = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class Served:
    """One version of a bundle, verified on this machine and ready to judge.

    `name` is the bundle's; `version` is the beginning of its sha256.
    """

    name: str
    version: str
    classifier: Classifier


@dataclass
class _Place:
    """A file that is served, its role, what it was when it was last looked at, and whether that was refused.

    `signature` is what the signature beside it was then; it may come after the file.
    """

    path: Path
    role: str
    served: Served
    stamp: Stamp
    signature: Stamp = None
    refused: bool = False


class ModelRegistry:
    """All that is served, by name; `refresh` looks whether a file was replaced."""

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._asked = 0  # turns, and those of them that were the canary's
        self._heard = 0
        self._lock = Lock()
        self._places = [self._place(path, "served") for path in settings.bundles]
        names = [place.served.name for place in self._places]
        if len(set(names)) < len(names):
            raise CatflapError(
                f"Two bundles have the same name: {', '.join(names)}.",
                "Serve the second as --canary or --shadow, or export it under another name.",
            )
        rival = settings.shadow if settings.canary is None else settings.canary
        self._rival = None if rival is None else self._second(rival)

    @property
    def default(self) -> Served:
        """The first bundle."""
        return self._places[0].served

    @property
    def shadow(self) -> Served | None:
        """The bundle that judges beside the default one without being heard."""
        return self._rival.served if self._rival is not None and self._settings.shadow is not None else None

    def notices(self) -> list[str]:
        """What the operator should know of what is served, canary and shadow, too."""
        return [_notice(place.served) for place in self._all() if place.served.classifier.notice]

    def names(self) -> list[str]:
        """The names that are served."""
        return [place.served.name for place in self._places]

    def versions(self, name: str) -> list[Served]:
        """The versions of a name, the one that answers by default first; Problem 404 when there is none."""
        found = [place.served for place in self._all() if place.served.name == name]
        if not found:
            raise Problem(404, f"There is no model {name!r}.", f"Use one of: {', '.join(self.names())}.")
        return found

    def find(self, name: str | None = None, version: str | None = None) -> list[Served]:
        """The versions that may answer a request, the usual one first; Problem 404 when there is none."""
        found = self.versions(name or self.default.name)
        fitting = [served for served in found if version in (None, served.version)]
        if not fitting:
            known = ", ".join(served.version for served in found)
            raise Problem(404, f"{found[0].name} has no version {version!r}.", f"Use one of: {known}.")
        return fitting

    def choose(self, found: Sequence[Served]) -> Served:
        """The one of them that judges the photos which are here now: the canary its share, evenly spread."""
        if not self._is_shared(found):
            return found[0]
        with self._lock:
            self._asked += 1
            is_due = int(self._asked * self._settings.share) > self._heard
            self._heard += is_due
        return found[-1] if is_due else found[0]

    def give_back(self, found: Sequence[Served], served: Served) -> None:
        """Count no turn for one that was chosen and judged nothing: the canary's share is of the others."""
        if self._is_shared(found):
            with self._lock:
                self._asked -= 1
                self._heard -= served is found[-1]

    def refresh(self, note: Callable[[str], None]) -> None:
        """Load every file that was replaced; where the new one is not fit, the old one stays."""
        for place in self._all():
            stamp, signature = _stamp(place.path), self._signature(place.path)
            is_signed_anew = place.refused and signature != place.signature
            if stamp is None or (stamp == place.stamp and not is_signed_anew):
                continue
            place.stamp, place.signature = stamp, signature
            self._replace(place, note)
            give_back_memory()

    def _signature(self, path: Path) -> Stamp:
        """What changes when a bundle is signed anew; None where nobody looks at signatures."""
        return None if self._settings.signer is None else _stamp(f"{path}{SUFFIX}")

    def _replace(self, place: _Place, note: Callable[[str], None]) -> None:
        place.refused = False
        try:
            new = self._successor(place)
        except CatflapError as error:
            place.refused = True
            note(f"{place.path} was replaced, but the old version stays: {error.what} {error.fix}")
            self._metrics.reload(place.served.name, "refused")
            return
        if new is not None:
            old, place.served = place.served.version, new
            self._metrics.reload(new.name, "loaded")
            self._metrics.serving(new.name, new.version, place.role, old)
            note(f"{new.name}: version {new.version} replaces {old}.")
            if new.classifier.notice:
                note(_notice(new))

    def _all(self) -> list[_Place]:
        return [*self._places, *([self._rival] if self._rival else [])]

    def _is_shared(self, found: Sequence[Served]) -> bool:
        """Whether a canary is the last of them."""
        return len(found) > 1 and self._settings.canary is not None

    def _place(self, path: BundlePath, role: str, name: str | None = None) -> _Place:
        served, where, stamp = _load(path, self._settings)
        served = replace(served, name=name or served.name)
        self._metrics.serving(served.name, served.version, role)
        return _Place(where, role, served, stamp)

    def _second(self, path: BundlePath) -> _Place:
        role = "shadow" if self._settings.canary is None else "canary"
        place = self._place(path, role, self.default.name)
        if fault := _other_labels(self.default, place.served):
            raise Refused(
                f"{place.path} cannot be the {role} (--{role}). {fault}",
                "Name one with the same labels in the same order, or serve it as a bundle of its own.",
            )
        return place

    def _successor(self, place: _Place) -> Served | None:
        """What the file holds now, or None when it is the same as before."""
        served, _, _ = _load(place.path, self._settings)
        if served.version == place.served.version:
            return None
        if fault := _other_labels(place.served, served):
            raise Refused(fault, "Start the server again with it.")
        return replace(served, name=place.served.name)


def _load(path: BundlePath, settings: ServeSettings) -> tuple[Served, Path, Stamp]:
    """A bundle whose golden cases pass here, after one answer; Refused when they do not, or it has none."""
    stamp = _stamp(path)
    bundle = read_signed(path, settings.signer)
    failed = [check for check in check_bundle(bundle, threads=settings.threads) if not check.passed]
    if failed:
        told = ", ".join(f"{check.name} {check.value} (limit {check.limit})" for check in failed)
        raise Refused(
            f"{bundle.path} fails its verification here: {told}.", "Run catflap verify, or export it again."
        )
    pixels = min(bundle.frame.max_pixels, settings.limits.pixels)
    limited = replace(bundle, frame=replace(bundle.frame, max_pixels=pixels))
    classifier = Classifier(
        limited,
        settings.variant,
        threads=settings.threads,
        prior=settings.prior,
        operating_point=settings.operating_point,
        embed=True,
    )
    _answer_once(classifier, read_golden(bundle).frames[:1])
    return Served(bundle.name, bundle.sha256[:12], classifier), bundle.path, stamp or _stamp(bundle.path)


def _answer_once(classifier: Classifier, frames: Pixels) -> None:
    """Answer as a request is answered, and as if each label were the likeliest, for each has a baseline."""
    logits, embeddings = classifier.logits(frames)
    classifier.probabilities(logits)
    for certain in np.eye(len(classifier.labels)):
        classifier.to_prediction(certain, perf_counter(), image_statistics(frames[0]), embeddings)


def _notice(served: Served) -> str:
    return f"{served.name} {served.version}: {served.classifier.notice}"


def _other_labels(old: Served, new: Served) -> str:
    """How labels differ, so that clients, who know a probability by its place, misread it; "" if not."""
    ours, theirs = old.classifier.labels, new.classifier.labels
    if ours == theirs:
        return ""
    order = " in this order" if set(ours) == set(theirs) else ""
    return f"It decides between {', '.join(theirs[:9])}{order}, {old.name} between {', '.join(ours[:9])}."


def _stamp(path: BundlePath) -> Stamp:
    """What changes when a file is replaced, or None where there is none."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino  # ctime: chmod
