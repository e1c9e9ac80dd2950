"""From photo paths to Predictions: `Classifier` answers one photo, `predict` many paths and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.errors import BadArtifact, BadPhoto, CatflapError, system_reason
from catflap.image import ImageStatistics, Photo, image_statistics, read_file, read_pixels
from catflap.runtime.decisions import (
    Probabilities,
    complete_prior,
    correct_prior,
    decide,
    decision_rule,
    find_operating_point,
    point_cutoff,
    prior_weights,
    softmax,
)
from catflap.runtime.engine import (
    Embeddings,
    Logits,
    choose_variant,
    embedding_width,
    has_embedding,
    open_variant,
)
from catflap.runtime.ood import are_unknown, check_width, embedding_models, wrong_embedding

BundleLike: TypeAlias = "str | os.PathLike[str] | Bundle"
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".jpf", ".heic", ".heif", ".hif",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mjpeg", ".mjpg")


@dataclass(frozen=True)
class Prediction:
    """The answer for one photo: the likeliest label, calibrated probabilities, and a decision.

    `decision` is a label, "unsure" or "unknown"; `ms` is the wall time from photo to answer in milliseconds.
    The rest is there where it was asked for: the `logits`, float32 (labels,); and for the field log and drift
    the `image_statistics` of the frame (image.py), the `embedding`, which is the features before the head,
    float32 (width,), and its `ood_score` (runtime/ood.py).
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    decision: str
    ms: float
    logits: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    image_statistics: ImageStatistics | None = field(default=None, repr=False, compare=False)
    embedding: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    ood_score: float | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The fields of one line of `catflap predict --json`."""
        names = ("label", "probability", "probabilities", "decision", "ms")
        return {name: getattr(self, name) for name in names}


class Classifier:
    """An open Bundle: call it with a photo to get a Prediction.

    `bundle` is a path, the name of a shipped bundle ("cat") or an open Bundle; `variant` the name of one in
    it; `threads` None uses every core. `prior` gives the share of each label where the photos will come from;
    labels that it leaves out divide the rest as in training.
    `operating_point`, such as "cat:max_fpr=0.001", names one in the variant: the decision is then that label
    where its probability, before any stated prior, reaches the point's threshold, and never "unsure" or
    "unknown".
    `error_rate` decides at another error rate of the bundle's curve: the greatest there that is not above it;
    `rule` holds the threshold and rate that decide.
    `embed` adds to each Prediction its logits, image statistics and, where the variant has them, embedding
    and OOD score.
    `notice` states that another variant than the default one answers, or that too few photos prove the
    operating point; else "".
    """

    def __init__(
        self,
        bundle: BundleLike,
        variant: str | None = None,
        *,
        threads: int | None = None,
        prior: Mapping[str, float] | None = None,
        operating_point: str | None = None,
        error_rate: float | None = None,
        embed: bool = False,
    ) -> None:
        if operating_point is not None and error_rate is not None:
            raise CatflapError(
                "An operating point and an error rate are both stated.", "State one: each is a way to decide."
            )
        self._settings = {
            "variant": variant, "threads": threads, "prior": prior, "operating_point": operating_point,
            "error_rate": error_rate, "embed": embed,
        }  # fmt: skip
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.labels = self.bundle.labels
        self.frame = self.bundle.frame
        self.variant = choose_variant(self.bundle, variant)
        default = self.bundle.default_variant
        self.notice = ""
        if not variant and self.variant.name != default:
            self.notice = f"{default} cannot run here, so {self.variant.name} answers."
        self.rule = decision_rule(self.variant.decision, error_rate)
        self.operating_point = None
        if operating_point is not None:
            self.operating_point = find_operating_point(self.bundle, self.variant, operating_point)
            if "note" in self.operating_point:
                self.notice = f"{self.notice} {operating_point} is {self.operating_point['note']}.".strip()
        self.model = open_variant(self.bundle, self.variant, threads)
        self._embed = embed
        unknown = self.variant.unknown if operating_point is None else None
        self.unknown_threshold: float | None = None if unknown is None else unknown["threshold"]
        self._runs_embedding = has_embedding(self.model) and (embed or unknown is not None)
        described = self.variant.baseline if self._runs_embedding else None
        self._embedding_models = embedding_models(described, self.labels)
        check_width(self.variant, embedding_width(self.model))
        trained = {label: self.bundle.prior[label] for label in self.labels}
        self._trained = np.array(list(trained.values()))
        self._field = None if prior is None else complete_prior(prior, trained)
        self.prior: dict[str, float] | None = None
        if self._field is not None:
            prior_weights(self._trained, self._field)  # refuses an unusable prior now, not at the first photo
            self.prior = dict(zip(self.labels, self._field.tolist(), strict=True))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the path and settings to open it again; its file must be there, unchanged."""
        path = self.bundle.path
        return _reopen, (path.absolute() if path.is_file() else path, self.bundle.sha256, self._settings)

    def __call__(self, photo: Photo) -> Prediction:
        """The Prediction for a path, a photo's bytes or open file, a PIL image or a uint8 array (H, W, 3)."""
        start = perf_counter()
        pixels = read_pixels(photo, self.frame)
        frames, embeddings = pixels[None], None
        if self._runs_embedding:
            logits, embeddings = self.model.with_embedding(frames)  # type: ignore[attr-defined]
        else:
            logits = self.model(frames)
        statistics = image_statistics(pixels) if self._embed else None
        return self.to_prediction(self.probabilities(logits)[0], start, logits, embeddings, statistics)

    def probabilities(self, logits: Logits) -> Probabilities:
        """Calibrated probabilities (n, labels) from logits (n, labels), under the stated prior."""
        if logits.shape[1] != len(self.labels) or not np.isfinite(logits).all():
            raise BadArtifact(
                f"The variant {self.variant.name} does not give a finite logit for each label.",
                "Run catflap verify, or export it again.",
            )
        probabilities = softmax(logits, self.variant.temperature)
        if self._field is None:
            return probabilities
        return correct_prior(probabilities, self._trained, self._field)

    def as_trained(self, probabilities: Probabilities) -> Probabilities:
        """Probabilities (n, labels) under the prior of training, from those under the stated prior."""
        if self._field is None:
            return probabilities
        return correct_prior(probabilities, self._field, self._trained)

    def to_prediction(
        self,
        probabilities: Probabilities,
        start: float,
        logits: Logits | None = None,
        embeddings: Embeddings | None = None,
        statistics: ImageStatistics | None = None,
    ) -> Prediction:
        """The Prediction from one photo's probabilities (labels,), logits (1, labels), embedding (1, width).

        `start` is the perf_counter() at which its work began. The OOD score, for which logits and embedding
        are needed, is that of the likeliest label under the prior of training, which has the greatest logit.
        """
        best, score = int(probabilities.argmax()), None
        if logits is not None and embeddings is not None:
            model = self._embedding_models[int(logits[0].argmax())]
            if not np.isfinite(embeddings).all() or (model and len(model.mean) != embeddings.shape[1]):
                raise wrong_embedding(self.variant)
            score = None if model is None else float(model.scores(embeddings)[0])
        if self.operating_point is None:
            limit = self.unknown_threshold
            unknown = None if limit is None or score is None else are_unknown([score], limit)
            decision = decide(probabilities, self.labels, self.rule, unknown)[0]
        else:
            decision = self._decide_at_point(self.operating_point, probabilities)
        return Prediction(
            label=self.labels[best],
            probability=float(probabilities[best]),
            probabilities=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            decision=decision,
            ms=(perf_counter() - start) * 1e3,
            logits=logits[0] if self._embed and logits is not None else None,
            image_statistics=statistics,
            embedding=embeddings[0] if self._embed and embeddings is not None else None,
            ood_score=score,
        )

    def _decide_at_point(self, point: Mapping[str, Any], probabilities: Probabilities) -> str:
        """The point's label where its probability reaches the threshold, else the likeliest other label."""
        label = self.labels.index(point["label"])
        if self.as_trained(probabilities[None])[0, label] >= point_cutoff(point["threshold"]):
            return self.labels[label]
        others = [other for other in range(len(self.labels)) if other != label]
        return self.labels[max(others, key=probabilities.__getitem__)]


def _reopen(path: Path, sha256: str, settings: dict[str, Any]) -> Classifier:
    bundle = load_bundle(path)
    if bundle.sha256 != sha256:
        raise BadArtifact(f"{path} has changed since the classifier opened it.", "Open it again.")
    return Classifier(bundle, **settings)


def predict(
    classifier: Classifier | BundleLike,
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    recorder: Callable[..., None] | None = None,
) -> Iterator[tuple[str, Prediction | BadPhoto]]:
    """Each photo's path with its Prediction, or with the BadPhoto that says why there is none.

    A folder stands for the photos under it, sorted by name; an empty or unreadable folder gives a BadPhoto,
    too. `recorder`, a Recorder, writes a FieldLog. Instead of a Classifier, pass a bundle's path, its name or
    an open Bundle.
    """
    if not isinstance(classifier, Classifier):
        classifier = Classifier(classifier, embed=recorder is not None)
    for path in (paths,) if isinstance(paths, str | os.PathLike) else paths:
        for photo, fault in list_photos(os.fspath(path)):
            if fault is not None:
                yield photo, fault
                continue
            try:
                data = photo if recorder is None else read_file(photo, classifier.frame.max_bytes)
                prediction = classifier(data)
            except BadPhoto as error:
                fix = error.fix
                if _is_watchable(photo):
                    fix = "Use catflap watch for a video, an address, or JPEGs on stdin (-)."
                yield photo, BadPhoto(error.reason, error.what, fix)
                continue
            if recorder is not None:
                recorder(classifier, data, prediction, "predict", path=photo)
            yield photo, prediction


def _is_watchable(path: str) -> bool:
    """Whether a path names a source for `catflap watch`: stdin, a URL, a pipe or a video."""
    try:
        is_stream = path == "-" or "://" in path or Path(path).is_fifo()
    except ValueError:
        return False
    return is_stream or path.lower().endswith(VIDEO_SUFFIXES)


def list_photos(path: str) -> Iterator[tuple[str, BadPhoto | None]]:
    """The path itself, or the photos under the folder that it names, with a BadPhoto for a bad folder."""
    if not path:  # an unset shell variable; Path("") would be the current folder
        yield path, BadPhoto("unreadable", "The name of a photo is empty.", "Name a photo or a folder.")
        return
    if not Path(path).is_dir():
        yield path, None
        return
    found = 0
    for found, entry in enumerate(_walk(path, ()), 1):  # noqa: B007
        yield entry
    if not found:
        yield path, BadPhoto("empty", "The folder has no photos.", f"Photos end with {', '.join(SUFFIXES)}.")


def _walk(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, BadPhoto | None]]:
    """Files with a photo's suffix in a folder and below; links are followed, but not in circles."""
    try:
        status = Path(folder).stat()
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        what = f"The folder cannot be listed: {system_reason(error)}."
        yield folder, BadPhoto("unreadable", what, "Check its permissions.")
        return
    here = (status.st_dev, status.st_ino)
    if here in parents:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            yield from _walk(entry.path, (*parents, here))
        elif entry.name.lower().endswith(SUFFIXES):
            yield entry.path, None
