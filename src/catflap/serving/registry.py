"""The bundles that are served: verified first, reloaded when their files change, with canary and shadow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np

from catflap.artifacts.golden import read_golden
from catflap.errors import CatflapError, Refused
from catflap.image import Pixels
from catflap.machine import give_back_memory
from catflap.runtime.classifier import Classifier
from catflap.runtime.golden_checks import check_bundle
from catflap.runtime.signature import SUFFIX, read_signed
from catflap.serving.http_messages import HttpError
from catflap.serving.serve_settings import BundlePath, ServeSettings
from catflap.serving.server_metrics import Metrics

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
class _Slot:
    """A bundle file and the version that is served from it.

    `role` is served, canary or shadow; `stamp` identifies the file as it was at the last check, `signature`
    the signature beside it, which may come after the file; `refused` is whether that file was refused.
    """

    path: Path
    role: str
    served: Served
    stamp: Stamp
    signature: Stamp = None
    refused: bool = False


class Candidates(dict[tuple[str | None, str | None], list[Served]]):
    """The versions that may answer a request, the default one first, by the model and version that it states.

    None states neither. HttpError 404 for what is not served.
    """

    def __missing__(self, key: tuple[str | None, str | None]) -> list[Served]:
        name, version = key
        found = self.get((name or None, None))
        if found is None:
            known = ", ".join(name for name, version in self if name is not None and version is None)
            raise HttpError(404, f"There is no model {str(name)[:100]!r}.", f"Use one of: {known}.")
        if version is None:  # an empty name
            return found
        known = ", ".join(served.version for served in found)
        what = f"{found[0].name} has no version {version[:100]!r}."
        raise HttpError(404, what, f"Use one of: {known}.")


class ModelRegistry:
    """All bundles that are served, by name; `refresh` takes up the files that were replaced.

    `candidates` are the versions that may answer each request; `has_challenger` is whether a canary or shadow
    stands beside the first bundle.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._asked = 0  # choices between served version and canary; _canaried of them were the canary
        self._canaried = 0
        self._lock = Lock()
        self._slots = [self._open_slot(path, "served") for path in settings.bundles]
        names = [slot.served.name for slot in self._slots]
        if len(set(names)) < len(names):
            raise CatflapError(
                f"Two bundles have the same name: {', '.join(names)}.",
                "Serve the second as --canary or --shadow, or export it under another name.",
            )
        path = settings.shadow if settings.canary is None else settings.canary
        self._challenger = None if path is None else self._open_challenger(path)
        self.has_challenger = path is not None
        self.candidates = self._candidates()

    @property
    def default(self) -> Served:
        """The first bundle."""
        return self._slots[0].served

    def beside(self, served: Served) -> Served | None:
        """The version whose decisions are only compared with those of the one that answered, if any.

        That is the shadow; and beside an answer of the canary, the version that it may replace.
        """
        if self._challenger is None or served.name != self.default.name:
            return None
        other = self._challenger.served if self._settings.shadow is not None else self.default
        return None if other.version == served.version else other

    def notices(self) -> list[str]:
        """What the operator should know about the versions that are served."""
        return [_notice(slot.served) for slot in self._all() if slot.served.classifier.notice]

    def names(self) -> list[str]:
        """The names of the models, the default one first."""
        return [slot.served.name for slot in self._slots]

    def versions(self, name: str) -> list[Served]:
        """The versions of a model, its default one first."""
        return [slot.served for slot in self._all() if slot.served.name == name]

    def choose(self, found: Sequence[Served]) -> Served:
        """The version that judges the next photos: the canary for its share of requests, evenly spread."""
        if not self._is_shared(found):
            return found[0]
        with self._lock:
            self._asked += 1
            is_due = int(self._asked * self._settings.share) > self._canaried
            self._canaried += is_due
        return found[-1] if is_due else found[0]

    def undo_choice(self, found: Sequence[Served], served: Served) -> None:
        """Do not count a choice after which no photo was judged: the canary has its share of the others."""
        if self._is_shared(found):
            with self._lock:
                self._asked -= 1
                self._canaried -= served is found[-1]

    async def watch(self, seconds: float, note: Callable[[str], None]) -> None:
        """For ever, `refresh` after so many seconds."""
        # one thread for all: the allocator keeps memory for each thread that ever loaded a bundle
        with ThreadPoolExecutor(1, "reload") as thread:
            while True:
                await asyncio.sleep(seconds)
                try:
                    await asyncio.get_running_loop().run_in_executor(thread, self.refresh, note)
                except Exception as error:
                    note(f"Checking for new bundles failed: {error}")

    def refresh(self, note: Callable[[str], None]) -> None:
        """Load every file that was replaced; where the new one is refused, the old version stays."""
        for slot in self._all():
            stamp, signature = _stamp(slot.path), self._signature(slot.path)
            is_newly_signed = slot.refused and signature != slot.signature
            if stamp is None or (stamp == slot.stamp and not is_newly_signed):
                continue
            slot.stamp, slot.signature = stamp, signature
            self._replace(slot, note)
            give_back_memory()

    def _signature(self, path: Path) -> Stamp:
        """The stamp of the signature beside a bundle; None where signatures are not checked."""
        return None if self._settings.signer is None else _stamp(f"{path}{SUFFIX}")

    def _replace(self, slot: _Slot, note: Callable[[str], None]) -> None:
        slot.refused = False
        try:
            new = self._successor(slot)
        except CatflapError as error:
            slot.refused = True
            note(f"{slot.path} was replaced, but the old version stays: {error.what} {error.fix}")
            self._metrics.reload(slot.served.name, "refused")
            return
        if new is not None:
            old, slot.served = slot.served.version, new
            self.candidates = self._candidates()
            self._metrics.reload(new.name, "loaded")
            self._metrics.serving(new.name, new.version, slot.role, old)
            note(f"{new.name}: version {new.version} replaces {old}.")
            if new.classifier.notice:
                note(_notice(new))

    def _candidates(self) -> Candidates:
        found = Candidates()
        for name in (None, *self.names()):
            versions = self.versions(name or self.default.name)
            found[name, None] = versions
            for served in versions:
                found[name, served.version] = [one for one in versions if one.version == served.version]
        return found

    def _all(self) -> list[_Slot]:
        return [*self._slots, *([self._challenger] if self._challenger else [])]

    def _is_shared(self, found: Sequence[Served]) -> bool:
        """Whether the last of them is a canary."""
        return len(found) > 1 and self._settings.canary is not None

    def _open_slot(self, path: BundlePath, role: str, name: str | None = None) -> _Slot:
        served, where, stamp = _load(path, self._settings)
        served = replace(served, name=name or served.name)
        self._metrics.serving(served.name, served.version, role)
        return _Slot(where, role, served, stamp)

    def _open_challenger(self, path: BundlePath) -> _Slot:
        role = "shadow" if self._settings.canary is None else "canary"
        slot = self._open_slot(path, role, self.default.name)
        if fault := _other_labels(self.default, slot.served):
            raise Refused(
                f"{slot.path} cannot be the {role} (--{role}). {fault}",
                "Name one with the same labels in the same order, or serve it as a bundle of its own.",
            )
        return slot

    def _successor(self, slot: _Slot) -> Served | None:
        """The version that the file holds now, or None when it is the same as before."""
        served, _, _ = _load(slot.path, self._settings)
        if served.version == slot.served.version:
            return None
        if fault := _other_labels(slot.served, served):
            raise Refused(fault, "Start the server again with it.")
        return replace(served, name=slot.served.name)


def _load(path: BundlePath, settings: ServeSettings) -> tuple[Served, Path, Stamp]:
    """A bundle whose golden cases pass on this machine, ready to judge; Refused when they do not pass."""
    stamp = _stamp(path)
    bundle = read_signed(path, settings.signer)
    failed = [check for check in check_bundle(bundle, threads=settings.threads) if not check.passed]
    if failed:
        faults = ", ".join(f"{check.name} {check.value} (limit {check.limit})" for check in failed)
        raise Refused(
            f"{bundle.path} fails its verification here: {faults}.", "Run catflap verify, or export it again."
        )
    pixels = min(bundle.frame.max_pixels, settings.limits.pixels)
    limited = replace(bundle, frame=replace(bundle.frame, max_pixels=pixels))
    classifier = Classifier(
        limited,
        settings.variant,
        threads=settings.threads,
        prior=settings.prior,
        operating_point=settings.operating_point,
        error_rate=settings.error_rate,
        embed=True,
    )
    _warm_up(classifier, read_golden(bundle).frames[0])
    return Served(bundle.name, bundle.sha256[:12], classifier), bundle.path, stamp or _stamp(bundle.path)


def _warm_up(classifier: Classifier, frame: Pixels) -> None:
    """Judge once as a request does, and once per label as if it were the likeliest: each has a baseline."""
    embedding = classifier(frame).embedding
    if embedding is not None:
        for certain in np.eye(len(classifier.labels)):
            classifier.to_prediction(certain, 0.0, certain[None].astype(np.float32), embedding[None])


def _notice(served: Served) -> str:
    return f"{served.name} {served.version}: {served.classifier.notice}"


def _other_labels(old: Served, new: Served) -> str:
    """How the labels differ, which would mislead clients that know a probability by its index; "" if not."""
    ours, theirs = old.classifier.labels, new.classifier.labels
    if ours == theirs:
        return ""
    order = " in this order" if set(ours) == set(theirs) else ""
    return f"It decides between {', '.join(theirs[:9])}{order}, {old.name} between {', '.join(ours[:9])}."


def _stamp(path: BundlePath) -> Stamp:
    """Numbers that change when a file is replaced; None where there is no file."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino  # ctime: chmod
