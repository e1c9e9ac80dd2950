"""Suggestions while a person labels: cached features, a head that is refitted at once, a learning curve.

The features are those of a packaged backbone, by ONNX Runtime and without torch: the server stays small. What
is suggested here only helps to label; what a Bundle decides is trained and judged by `build`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.errors import BadPhoto, CatflapError, first_line
from catflap.evaluation.intervals import wilson
from catflap.image import Frame, read_pixels
from catflap.installing import install_extra
from catflap.machine import describe_machine
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import Model
from catflap.runtime.engine_onnx import open_model
from catflap.studio.project import Project
from catflap.training.head import Head, fit_head

Floats: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.int64]

BACKBONE = "efficientnet_lite0"
FRAME = Frame(224, 224)
C = 0.01  # the inverse L2 strength that was best on our photos, see benchmarks/laboratory.md
MOST_FITTED = 8000  # labelled photos that a refit learns from: of more, a random part
MOST_JUDGED = 3000  # labelled photos of the learning curve
LEAST = 5  # photos of each label for a learning curve
FOLDS, STEPS = 5, (1 / 8, 1 / 4, 1 / 2, 1.0)
QUIET = 0.7  # seconds without a decision before the learning curve is computed
ROWS = 4096
BATCHES = 20  # of features of labelled photos, after which the head is refitted
BEHIND = 10  # how nice the threads that compute features are to those that answer the page
FIRST_USEFUL = 200  # photos that the order by usefulness spreads out
ORDERS = ("new", "doubt", "useful", "sure", "alike", "suspects")


@dataclass(frozen=True)
class State:
    """What the last refit suggests, by photo number: the label's number (-1 none), probability and margin."""

    labels: tuple[str, ...] = ()
    suggested: npt.NDArray[np.int16] = field(default_factory=lambda: np.empty(0, np.int16))
    probability: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    margin: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    revision: int = -1  # of the project's labels
    ms: float = 0.0  # of the refit with the suggestions for all photos


def ensure_graph(path: Path, backbone: str = BACKBONE) -> bytes:
    """The backbone as an ONNX graph, written by a process of its own: exporting needs torch and memory."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        code = "from catflap.studio.suggestions import write_graph; write_graph()"
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), backbone], capture_output=True, text=True, check=False
        )
        if done.returncode or not path.is_file():
            last = done.stderr.strip().splitlines()[-1:]
            raise CatflapError(
                f"The backbone cannot be opened: {last[0][:300] if last else 'its process ended'}.",
                f"Run: {install_extra('studio')}",
            )
    return path.read_bytes()


def write_graph() -> None:
    """The process of `ensure_graph`: sys.argv has the file and the backbone."""
    from catflap.artifacts.folder import write_atomically
    from catflap.training.backbones import load_backbone
    from catflap.training.features import feature_graph

    write_atomically(Path(sys.argv[1]), feature_graph(load_backbone(sys.argv[2]), FRAME))


class Features:
    """The features of a project's photos, float16, one row a photo number, in a file that grows."""

    def __init__(self, folder: Path, model: Model, graph: bytes) -> None:
        self._model = model
        self.width = len(self.of_pixels(np.zeros((FRAME.height, FRAME.width, 3), np.uint8)))
        self._folder = folder / f"features-{hashlib.sha256(graph).hexdigest()[:16]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.rows = np.empty((0, self.width), np.float16)
        self.done = np.empty(0, np.uint8)  # 1 there are features, 2 the photo cannot be read

    def of_pixels(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """The features of one frame."""
        answer: Floats = self._model(pixels[None])[0]
        return answer

    def make_room(self, count: int) -> None:
        """Room for photos up to a number."""
        if count < len(self.done):
            return
        count += 1024
        for name, size in (("rows", 2 * self.width), ("done", 1)):
            with open(self._folder / name, "ab") as file:
                file.truncate(max(count * size, file.tell()))
        self.rows = np.memmap(self._folder / "rows", np.float16, "r+", shape=(count, self.width))
        self.done = np.memmap(self._folder / "done", np.uint8, "r+", shape=(count,))

    def compute(self, number: int, place: Path) -> None:
        """Compute and keep the features of a photo; one that vanished is noted and asked for no more."""
        try:
            self.rows[number] = self.of_pixels(read_pixels(place, FRAME))
            self.done[number] = 1
        except BadPhoto:
            self.done[number] = 2


class Suggestions:
    """A thread that keeps features and suggestions up to date with the project."""

    def __init__(self, project: Project, graph: Path, changed: Callable[[], None]) -> None:
        self._project, self._graph, self._changed = project, graph, changed
        self._wake, self._stopping = threading.Event(), False
        self._features: Features | None = None
        self._head: tuple[Head, tuple[str, ...]] | None = None
        self._thread = threading.Thread(target=self._run, name="suggestions", daemon=True)
        self.state = State()
        self.curve: dict[str, Any] | None = None
        self.suspects: dict[int, tuple[str, float]] = {}  # photo -> the label that others suggest
        self.progress = (0, 0)  # photos with features, photos
        self.problem: CatflapError | None = None
        self._judged = self._read = -1  # revisions
        self._rows: list[Any] = []
        self._numbers, self._is_labelled = np.empty(0, np.int64), np.empty(0, np.bool_)
        self._batches, self._is_behind = 0, False

    def start(self) -> None:
        """Begin; the backbone is opened in the background."""
        self._thread.start()
        self._wake.set()

    def wake(self) -> None:
        """Photos or labels have changed."""
        self._wake.set()

    def stop(self) -> None:
        """End after the photo or the fit at hand."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(30)

    # --- What the page asks

    def order(self, order: str, photos: Numbers, like: int | None = None) -> Numbers:
        """Photos in an order: see ORDERS; photos without features come last."""
        state, features = self.state, self._features
        if order == "alike" and like is not None and features is not None and like < len(features.done):
            known = photos[photos < len(features.done)]
            known = known[features.done[known] == 1]
            target = _unit(features.rows[[like]].astype(np.float32))[0]
            scores = np.concatenate(
                [_unit(features.rows[part].astype(np.float32)) @ target for part in _parts(known)]
            )
            return _then(known[np.argsort(-scores, kind="stable")], photos)
        if order == "suspects":
            found = sorted((one for one in self.suspects.items() if one[0] in set(photos.tolist())),
                           key=lambda one: -one[1][1])  # fmt: skip
            return np.array([number for number, _ in found], np.int64)
        if order not in ("doubt", "useful", "sure") or not len(state.suggested):
            return photos[::-1] if order == "new" else photos
        known = photos[photos < len(state.suggested)]
        known = known[state.suggested[known] >= 0]
        if order == "sure":
            keys = (-state.probability[known], state.suggested[known])
            return _then(known[np.lexsort(keys)], photos)
        doubtful = known[np.argsort(state.margin[known], kind="stable")]
        if order == "useful" and features is not None:
            doubtful = np.concatenate([self._spread(doubtful, features), doubtful])
            doubtful = doubtful[np.sort(np.unique(doubtful, return_index=True)[1])]
        return _then(doubtful, photos)

    def _spread(self, doubtful: Numbers, features: Features) -> Numbers:
        """Of the most doubtful photos some that differ: each time the one farthest from those chosen."""
        pool = doubtful[: 5 * FIRST_USEFUL]
        if len(pool) < 2:
            return pool
        unit = _unit(features.rows[pool].astype(np.float32))
        weight = 1 - self.state.margin[pool]
        distance, chosen = np.full(len(pool), 2.0, np.float32), list[int]()
        for _ in range(min(FIRST_USEFUL, len(pool))):
            best = int((distance * weight).argmax())
            chosen.append(best)
            distance = np.minimum(distance, 1 - unit @ unit[best])
        return pool[chosen]

    def describe(self, photo: dict[str, Any]) -> dict[str, Any]:
        """A photo of `Project.describe` with its suggested label and probability, and its suspect label.

        Before there are suggestions, what a Bundle answered about it in the field is the suggestion.
        """
        number, state, answer = photo["n"], self.state, dict(photo)
        if number < len(state.suggested) and state.suggested[number] >= 0:
            answer["suggested"] = state.labels[state.suggested[number]]
            answer["probability"] = round(float(state.probability[number]), 4)
        elif photo["predicted"]:
            answer["suggested"] = photo["predicted"]
            answer["probability"] = round(photo["predicted_probability"], 4)
        if (suspect := self.suspects.get(number)) is not None:
            answer["suspect"] = suspect[0]
        return answer

    def suggested_as(self, label: str, least: float) -> list[int]:
        """Photos without a label that are suggested this one at a probability of `least` or more."""
        state = self.state
        if label not in state.labels:
            return []
        wanted = (state.suggested == state.labels.index(label)) & (state.probability >= least)
        return [number for number in self._project.open_photos() if number < len(wanted) and wanted[number]]

    def look(self, photo: bytes) -> dict[str, float]:
        """A share for each label of a photo by the head of this moment, {} before there is one."""
        features, head = self._features, self._head
        if features is None or head is None:
            return {}
        row = features.of_pixels(read_pixels(photo, FRAME))
        shares = softmax(head[0].logits(row[None]), 1.0)[0]
        return dict(zip(head[1], map(float, shares), strict=True))

    # --- The thread

    def _run(self) -> None:
        try:
            graph = ensure_graph(self._graph)
            self._features = Features(self._project.path / "cache", open_model(graph, threads=1), graph)
        except CatflapError as error:
            self.problem = error
            self._changed()
            return
        with ThreadPoolExecutor(describe_machine().cores, initializer=_step_back) as pool:
            while True:
                self._wake.wait()
                self._wake.clear()
                if self._stopping:
                    return
                try:
                    self._step(self._features, pool)
                    self.problem = None
                except Exception as error:  # a full disk; the thread must not end of it
                    self.problem = CatflapError(
                        f"Suggestions stopped: {first_line(error)}.", "Restart Studio."
                    )
                    self._changed()

    def _step(self, features: Features, pool: ThreadPoolExecutor) -> None:
        """Refit if labels have changed; else compute the features of some photos; else judge."""
        revision = self._project.revision
        if revision != self._read:
            self._rows = self._project.rows("select n, place, label, stack from photos order by n")
            self._numbers = np.array([row["n"] for row in self._rows], np.int64)
            self._is_labelled = np.array([bool(row["label"]) for row in self._rows], np.bool_)
            self._read = revision
            features.make_room(int(self._numbers[-1]) if len(self._numbers) else 0)
        missing = np.flatnonzero(features.done[self._numbers] == 0)
        labelled = missing[self._is_labelled[missing]]
        self.progress = (len(self._rows) - len(missing), len(self._rows))
        self._batches += 1
        is_due = self._is_behind and (not len(labelled) or self._batches % BATCHES == 0)
        if self.state.revision != revision or is_due:
            self._is_behind = False
            self._refit(features, self._rows, revision)
        if len(missing):
            waiting = labelled if len(labelled) else missing
            some = [self._rows[at] for at in waiting[: 8 * describe_machine().cores]]
            list(pool.map(lambda row: features.compute(row["n"], self._project.path / row["place"]), some))
            self.progress = (self.progress[0] + len(some), len(self._rows))
            self._is_behind |= bool(len(labelled))
            if self._head is not None:
                new = np.array([row["n"] for row in some], np.int64)
                _suggest(self.state, self._head[0], features, new)
            self._wake.set()
            self._changed()
        elif self._judged != revision:
            if self._wake.wait(QUIET) or self._stopping:
                return
            self._judge(features, self._rows)
            self._judged = revision
            self._changed()

    def _refit(self, features: Features, rows: Sequence[Any], revision: int) -> None:
        begun = time.perf_counter()
        numbers, labels, truth, _ = _labelled(features, rows)
        count = len(features.done)
        if len(labels) < 2:
            self._head, self.state = None, State(revision=revision)
            self._changed()
            return
        chosen = np.arange(len(numbers))
        if len(numbers) > MOST_FITTED:
            chosen = np.sort(np.random.default_rng(0).permutation(len(numbers))[:MOST_FITTED])
        learnt = features.rows[numbers[chosen]].astype(np.float32), truth[chosen]
        head = fit_head([learnt], len(labels), C, False, balanced=True).scaled(1, 0)
        empty = np.zeros(count, np.float32)
        state = State(labels, np.full(count, -1, np.int16), empty, empty.copy(), revision)
        _suggest(state, head, features, np.flatnonzero(features.done == 1))
        self._head = head, labels
        self.state = replace(state, ms=1000 * (time.perf_counter() - begun))
        self._changed()

    def _judge(self, features: Features, rows: Sequence[Any]) -> None:
        """The learning curve and the suspects, by cross-validation over whole stacks."""
        numbers, labels, truth, stacks = _labelled(features, rows)
        if len(numbers) > MOST_JUDGED:
            keep = np.sort(np.random.default_rng(0).permutation(len(numbers))[:MOST_JUDGED])
            numbers, truth, stacks = numbers[keep], truth[keep], stacks[keep]
        if len(labels) < 2 or np.bincount(truth, minlength=len(labels)).min() < LEAST:
            self.curve, self.suspects = None, {}
            return
        learnt = features.rows[numbers].astype(np.float32)
        points, shares = [], np.empty((0, 0))
        for step in STEPS:
            if self._wake.is_set():  # a new decision goes before
                return
            size, shares = _cross_validated(learnt, truth, stacks, len(labels), step)
            judged = np.isfinite(shares[:, 0])
            if not judged.any():
                continue
            right = shares[judged].argmax(1) == truth[judged]
            groups = len(np.unique(stacks[judged]))
            low, high = (float(end) for end in wilson(right.mean(), groups))
            points.append({"photos": size, "accuracy": float(right.mean()), "low": low, "high": high})
        judged = np.isfinite(shares[:, 0])
        best = np.where(judged, np.where(judged[:, None], shares, 0).argmax(1), truth)
        recalls = []
        for number, label in enumerate(labels):
            own = judged & (truth == number)
            hits, groups = float((best[own] == number).mean()), len(np.unique(stacks[own]))
            low, high = (float(end) for end in wilson(hits, groups))
            recalls.append(
                {"label": label, "photos": int(own.sum()), "recall": hits, "low": low, "high": high}
            )
        self.curve = {"points": points, "labels": recalls, "next": projection(points)}
        wrong = np.flatnonzero(judged & (best != truth))
        self.suspects = {
            int(numbers[at]): (labels[best[at]], float(shares[at, best[at]] - shares[at, truth[at]]))
            for at in wrong
        }


def projection(points: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """What twice as many photos would reach, if the error goes on to fall as a power of the number of photos.

    The interval is that of 200 curves drawn within the intervals of the points; None for fewer than three.
    """
    if len(points) < 3:
        return None
    sizes = np.log([point["photos"] for point in points])
    error = np.array([1 - point["accuracy"] for point in points])
    spread = np.array([(point["high"] - point["low"]) / 3.92 for point in points])
    drawn = error + spread * np.random.default_rng(0).normal(size=(200, len(points)))
    drawn = np.log(np.clip(np.vstack([error, drawn]), 1e-3, 1))
    slopes, intercepts = np.polyfit(sizes, drawn.T, 1)
    at = np.exp(np.minimum(slopes, 0) * (sizes[-1] + np.log(2)) + intercepts)
    at = np.minimum(at, np.exp(drawn[:, -1]))
    low, high = np.quantile(1 - at[1:], [0.025, 0.975])
    return {
        "photos": 2 * points[-1]["photos"],
        "accuracy": float(1 - at[0]),
        "low": float(low),
        "high": float(high),
    }


def _cross_validated(
    learnt: Floats, truth: Numbers, stacks: Numbers, classes: int, share: float
) -> tuple[int, npt.NDArray[np.float64]]:
    """Out-of-fold shares (n, labels), NaN where not judged, of heads that learnt a share of the others."""
    random = np.random.default_rng(0)
    _, owners = np.unique(stacks, return_inverse=True)
    count = int(owners.max()) + 1
    firsts = np.unique(owners, return_index=True)[1]
    fold = np.empty(count, np.int64)
    fold[np.lexsort((random.permutation(count), truth[firsts]))] = np.arange(count) % FOLDS
    drawn = random.random(count)
    shares, sizes = np.full((len(truth), classes), np.nan), []
    for number in range(FOLDS):
        held = fold[owners] == number
        fit = ~held & (drawn[owners] < share)
        if len(np.unique(truth[fit])) < classes:
            continue
        head = fit_head([(learnt[fit], truth[fit])], classes, C, False, balanced=True).scaled(1, 0)
        shares[held] = softmax(head.logits(learnt[held]), 1.0)
        sizes.append(int(fit.sum()))
    return (round(float(np.mean(sizes))) if sizes else 0), shares


def _suggest(state: State, head: Head, features: Features, numbers: Numbers) -> None:
    """Note in the arrays of a state what a head suggests for photos."""
    numbers = numbers[numbers < len(state.suggested)]
    for part in _parts(numbers[features.done[numbers] == 1]):
        shares = softmax(head.logits(features.rows[part].astype(np.float32)), 1.0)
        top = np.partition(shares, -2, axis=1)[:, -2:]
        state.suggested[part], state.probability[part] = shares.argmax(1), top[:, 1]
        state.margin[part] = top[:, 1] - top[:, 0]


def _step_back() -> None:
    """Lower the priority of the calling thread, where the system knows that of a thread (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND)


def _labelled(features: Features, rows: Sequence[Any]) -> tuple[Numbers, tuple[str, ...], Numbers, Numbers]:
    """Numbers, labels, label numbers and stacks of the photos that have a label and features."""
    some = [row for row in rows if row["label"] and features.done[row["n"]] == 1]
    labels = tuple(sorted({row["label"] for row in some}))
    place = {label: number for number, label in enumerate(labels)}
    numbers = np.array([row["n"] for row in some], np.int64)
    truth = np.array([place[row["label"]] for row in some], np.int64)
    return numbers, labels, truth, np.array([row["stack"] for row in some], np.int64)


def _parts(numbers: Numbers) -> list[Numbers]:
    return [numbers[start : start + ROWS] for start in range(0, len(numbers), ROWS)] or [numbers]


def _unit(rows: Floats) -> Floats:
    answer: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return answer


def _then(first: Numbers, photos: Numbers) -> Numbers:
    """The first ones, then those of the photos that are not among them."""
    with suppress(ValueError):
        return np.concatenate([first, photos[~np.isin(photos, first)]])
    return first
