"""Drift: how often undisturbed windows of 200 photos alarm, and how far disturbed ones are.

    python benchmarks/drift.py
    python benchmarks/drift.py --photos PHOTOS --bundle mine.catflap --unknown PHOTOS_OF_SOMETHING_ELSE

Photos: class folders, CATFLAP_PHOTOS or ../shared/data/photos. Their test and calibration roles are judged.
To count false alarms these are dealt anew into two halves, by near-duplicate group: one gives the baseline,
windows of the other are measured. `--unknown` names photos of what was never learnt: 200 of them are a
window, and 20 of them among 180 that are known.
A score above 1 alarms.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from machine import header, need_photos
from PIL import Image, ImageFilter

from catflap.artifacts.dataset import Photos
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.evaluation.drift_baseline import WINDOW, Drift, make_baseline, measure_drift
from catflap.exporting.golden_cases import scene
from catflap.image import encode, image_statistics, read_pixels
from catflap.runtime.classifier import Classifier, list_photos
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import run_with_embedding
from catflap.runtime.ood import embedding_models
from catflap.runtime.scoring import PhotoBytes, frames_of


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = os.environ.get("CATFLAP_PHOTOS") or Path(__file__).parents[2] / "shared" / "data" / "photos"
    parser.add_argument("--photos", type=Path, default=Path(default), help="a class folder")
    parser.add_argument("--bundle", default="cat")
    parser.add_argument("--unknown", type=Path, action="append", default=[], help="a folder of photos")
    parser.add_argument("--deals", type=int, default=300, help="into two halves, five windows each")
    args = parser.parse_args()
    need_photos(args.photos)
    classifier = Classifier(args.bundle, embed=True)

    def judged(photos: PhotoBytes) -> Judged:
        logits, statistics, embeddings = [], [], []
        for frames in frames_of(photos, classifier.frame):
            answered, found = run_with_embedding(classifier.model, frames)
            logits.append(answered)
            statistics += [image_statistics(frame) for frame in frames]
            embeddings += [] if found is None else [found]
        answers = softmax(np.concatenate(logits), classifier.variant.temperature)
        return Judged(answers, np.array(statistics), np.concatenate(embeddings) if embeddings else None)

    with tempfile.TemporaryDirectory() as folder:
        manifest = scan(args.photos, Path(folder) / "manifest")
        dataset = prepare(manifest, Path(folder) / "dataset", frame=classifier.frame)
        calibration, test = dataset.photos("calibration"), dataset.photos("test")
        header(window=WINDOW, calibration=len(calibration), test=len(test), deals=args.deals)
        given, more = judged(calibration), judged(test)
        groups = np.concatenate([calibration.groups, test.groups + calibration.groups.max() + 1])
        print(
            json.dumps({"undisturbed": undisturbed(given.and_(more), groups, classifier.labels, args.deals)})
        )
        baseline = given.baseline(classifier.labels, calibration.groups)
        drawn = [encode(scene(seed, 500, 375), "JPEG") for seed in range(WINDOW)]
        windows = {name: changed(test, change) for name, change in CHANGES.items()} | {"drawings": drawn}
        for name, photos in windows.items():
            print(json.dumps({name: judged(photos).drift(classifier.labels, baseline).to_json()}))
        for folder in args.unknown:
            unknown = judged([Path(path).read_bytes() for path, _ in some_of(folder)])
            few = unknown.at(np.arange(20)).and_(more.at(np.arange(180)))
            print(json.dumps({f"{folder.name}, 200": unknown.drift(classifier.labels, baseline).to_json()}))
            print(json.dumps({f"{folder.name}, 20 of 200": few.drift(classifier.labels, baseline).to_json()}))
        print(json.dumps({"cost": cost(classifier, test[0])}))


@dataclass(frozen=True)
class Judged:
    """The answers (n, labels), statistics (n, 3) and embeddings (n, width) of photos."""

    answers: np.ndarray
    statistics: np.ndarray
    embeddings: np.ndarray | None

    def at(self, rows: np.ndarray) -> Judged:
        """Some of them."""
        kept = None if self.embeddings is None else self.embeddings[rows]
        return Judged(self.answers[rows], self.statistics[rows], kept)

    def and_(self, other: Judged) -> Judged:
        """Both."""
        both = None
        if self.embeddings is not None and other.embeddings is not None:
            both = np.concatenate([self.embeddings, other.embeddings])
        answers, statistics = (
            np.concatenate(pair)
            for pair in ((self.answers, other.answers), (self.statistics, other.statistics))
        )
        return Judged(answers, statistics, both)

    def baseline(self, labels: Sequence[str], groups: np.ndarray) -> dict[str, Any]:
        """What export would keep of them."""
        return make_baseline(self.answers, labels, groups, self.statistics, self.embeddings)

    def drift(self, labels: Sequence[str], baseline: dict[str, Any]) -> Drift:
        """How far they are from a baseline."""
        return measure_drift(
            self.answers, labels, baseline, self.statistics, self.ood_scores(labels, baseline)
        )

    def ood_scores(self, labels: Sequence[str], baseline: dict[str, Any]) -> np.ndarray | None:
        """As a Classifier measures it, (n,)."""
        if self.embeddings is None:
            return None
        familiar = embedding_models(baseline, labels)
        known = [familiar[label] for label in self.answers.argmax(axis=1)]
        return np.array(
            [
                np.nan if one is None else one.scores(embedding[None])[0]
                for embedding, one in zip(self.embeddings, known, strict=True)
            ]
        )


def some_of(folder: Path) -> list[tuple[str, object]]:
    """200 photos of a folder, drawn."""
    found = [entry for entry in list_photos(str(folder)) if entry[1] is None]
    rows = np.random.default_rng(2).permutation(len(found))[:WINDOW]
    return [found[row] for row in rows]


def cost(classifier: Classifier, photo: bytes, times: int = 200) -> dict[str, float]:
    """What looking at a frame takes, in turns with a whole answer."""
    frame = read_pixels(photo, classifier.frame)
    answer_ms, look_ms = [], []
    for _ in range(times):
        begun = perf_counter()
        classifier(photo)
        between = perf_counter()
        image_statistics(frame)
        look_ms.append((perf_counter() - between) * 1e3)
        answer_ms.append((between - begun) * 1e3)
    answer, look = float(np.median(answer_ms)), float(np.median(look_ms))
    return {
        "answer_ms": round(answer, 3),
        "look_ms": round(look, 3),
        "share": round(look / answer, 4),
        "n": times,
    }


def undisturbed(judged: Judged, groups: np.ndarray, labels: Sequence[str], deals: int) -> dict[str, Any]:
    """The share of windows that alarm though nothing was changed, by what alarmed, and the greatest score."""
    random = np.random.default_rng(0)
    every = np.unique(groups)
    found: list[Drift] = []
    for _ in range(deals):
        random.shuffle(every)
        first = np.isin(groups, every[: len(every) // 2])
        baseline = judged.at(np.flatnonzero(first)).baseline(labels, groups[first])
        scores = judged.ood_scores(labels, baseline)
        rest = np.flatnonzero(~first)
        for _ in range(5):
            window = random.permutation(rest)[:WINDOW]
            signs = (judged.statistics[window], None if scores is None else scores[window])
            found.append(measure_drift(judged.answers[window], labels, baseline, *signs))
    alarms = float(np.mean([drift.alarm for drift in found]))
    by = {
        name: round(float(np.mean([drift.scores[name] > 1 for drift in found])), 4)
        for name in found[0].scores
    }
    return {
        "windows": len(found),
        "alarms": round(alarms, 4),
        "by": by,
        "greatest_score": round(max(drift.score for drift in found), 3),
    }


def blur(strength: float) -> Callable[[Image.Image], Image.Image]:
    """A Gaussian blur of this radius on a photo of 500 px."""
    return lambda image: image.filter(ImageFilter.GaussianBlur(strength * max(image.size) / 500))


def night(light: float) -> Callable[[Image.Image], Image.Image]:
    """This share of the light, with the noise of a sensor."""

    def change(image: Image.Image) -> Image.Image:
        levels = np.asarray(image, np.float32) * light
        noise = np.random.default_rng(0).normal(0, 6, levels.shape)
        return Image.fromarray(np.clip(levels + noise, 0, 255).astype(np.uint8))

    return change


CHANGES = {
    "unchanged, saved again": lambda image: image,
    "blur, radius 1 of 500 px": blur(1),
    "blur, radius 2 of 500 px": blur(2),
    "blur, radius 5 of 500 px": blur(5),
    "half of the light": night(0.5),
    "a quarter of the light": night(0.25),
    "a tenth of the light": night(0.1),
}


def changed(photos: Photos, change: Callable[[Image.Image], Image.Image]) -> list[bytes]:
    """A window of photos, each changed and saved as JPEG."""
    found = []
    for position in np.random.default_rng(1).permutation(len(photos))[:WINDOW]:
        image = change(Image.open(io.BytesIO(photos[int(position)])).convert("RGB"))
        found.append(encode(np.asarray(image), "JPEG", quality=92))
    return found


if __name__ == "__main__":
    main()
