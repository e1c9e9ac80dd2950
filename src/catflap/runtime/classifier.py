"""One photo in, one Prediction out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import chain
from numbers import Real
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.results import Prediction
from catflap.errors import BadArtifact, CatflapError
from catflap.image import Photo, Pixels, read_pixels
from catflap.runtime.decisions import Probabilities, correct_prior, decide, least_at, prior_weights, softmax
from catflap.runtime.engines.model import Embeddings, Logits
from catflap.runtime.engines.onnx import embedding_width, run_with_embedding
from catflap.runtime.engines.opening import choose_variant, open_in
from catflap.runtime.looks import Look, look_of
from catflap.runtime.points import find_point
from catflap.runtime.strangeness import check_width, read_familiar, strangeness_of, unfit


class Classifier:
    """A Bundle, opened and ready: call it with a photo to get a Prediction.

    `bundle` is a path, the name of a shipped bundle ("cat") or an opened Bundle; `variant` a
    name in it; `threads` None means every core. `prior` gives the share of each label where
    the photos will come from; labels that it leaves out share the rest as they did in training.
    `operating_point`, such as "cat:max_fpr=0.001", is the name of one in the variant: then the decision is
    that label where its probability, before any stated prior, reaches the point, and never "unsure".
    `embed` gives each Prediction the embedding too, where the variant has one, for a field log.
    `notice` is what a person should be told of it: that another variant than the default one answers; "".
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle,
        variant: str | None = None,
        *,
        threads: int | None = None,
        prior: Mapping[str, float] | None = None,
        operating_point: str | None = None,
        embed: bool = False,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        self.variant = choose_variant(self.bundle, variant)
        self.notice = self._notice(variant)
        self.labels = self.bundle.labels
        self.operating_point = (
            None if operating_point is None else find_point(self.bundle, self.variant, operating_point)
        )
        self.frame = self.bundle.frame
        self.model = open_in(self.bundle, self.variant, threads)
        check_width(self.variant, embedding_width(self.model))
        trained = {label: self.bundle.prior[label] for label in self.labels}
        self._embed = embed
        self._settings = {
            "variant": variant, "threads": threads, "prior": prior, "operating_point": operating_point,
            "embed": embed,
        }  # fmt: skip
        self._familiar = read_familiar(self.variant.baseline if embed else None, self.labels)
        self._trained = np.array(list(trained.values()))
        self._field = None if prior is None else field_prior(prior, trained)
        if self._field is not None:
            prior_weights(self._trained, self._field)  # refused here, not at the first photo
        self.prior = (
            None if self._field is None else dict(zip(self.labels, self._field.tolist(), strict=True))
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled and copied as what opens it again; its bundle's file must be there, unchanged."""
        path = self.bundle.path
        return _open_again, (path.absolute() if path.is_file() else path, self.bundle.sha256, self._settings)

    def __call__(self, photo: Photo) -> Prediction:
        """The Prediction for a path, a photo's bytes or open file, a PIL image or a uint8 array (H, W, 3)."""
        start = perf_counter()
        pixels = read_pixels(photo, self.frame)
        logits, embeddings = self.logits(pixels[None])
        probabilities = self.probabilities(logits)[0]
        return self.to_prediction(probabilities, start, look_of(pixels), embeddings)

    def logits(self, frames: Pixels) -> tuple[Logits, Embeddings | None]:
        """Logits (n, labels) of frames, uint8 (n, H, W, 3), and embeddings (n, width) if there are to be."""
        return run_with_embedding(self.model, frames) if self._embed else (self.model(frames), None)

    def probabilities(self, logits: Logits) -> Probabilities:
        """Logits (n, labels) to calibrated probabilities (n, labels), for the stated prior."""
        if logits.shape[1] != len(self.labels) or not np.isfinite(logits).all():
            raise BadArtifact(
                f"The variant {self.variant.name} does not answer with a number for each label.",
                "Run catflap verify, or export it again.",
            )
        probabilities = softmax(logits, self.variant.temperature)
        if self._field is None:
            return probabilities
        return correct_prior(probabilities, self._trained, self._field)

    def as_trained(self, probabilities: Probabilities) -> Probabilities:
        """Probabilities (n, labels) for the stated prior, as they are under that of training."""
        if self._field is None:
            return probabilities
        return correct_prior(probabilities, self._field, self._trained)

    def to_prediction(
        self,
        probabilities: Probabilities,
        start: float,
        look: Look | None = None,
        embeddings: Embeddings | None = None,
    ) -> Prediction:
        """One row of probabilities as a Prediction; `start` is when its work began, perf_counter.

        `embeddings` is (1, width).
        """
        best = int(probabilities.argmax())
        embedding = None if embeddings is None else embeddings[0]
        return Prediction(
            label=self.labels[best],
            probability=float(probabilities[best]),
            probabilities=dict(zip(self.labels, probabilities.tolist(), strict=True)),
            decision=self._decision(probabilities),
            ms=(perf_counter() - start) * 1e3,
            look=look,
            embedding=embedding,
            strangeness=None if embedding is None else self._strangeness(embedding, probabilities),
        )

    def _decision(self, probabilities: Probabilities) -> str:
        """A label or "unsure" for one row of probabilities; at an operating point always a label."""
        point = self.operating_point
        if point is None:
            return decide(probabilities[None], self.labels, self.variant.decision["threshold"])[0]
        label = self.labels.index(point["label"])
        if self.as_trained(probabilities[None])[0, label] >= least_at(point["threshold"]):
            return self.labels[label]
        others = [other for other in range(len(self.labels)) if other != label]
        return self.labels[max(others, key=probabilities.__getitem__)]

    def _notice(self, asked: str | None) -> str:
        default = self.bundle.default_variant
        if asked or self.variant.name == default:
            return ""
        return f"{default} cannot run here, so {self.variant.name} answers."

    def _strangeness(self, embedding: Embeddings, probabilities: Probabilities) -> float | None:
        """How strange a photo is for its likeliest label under the prior of training; None when not known."""
        familiar = self._familiar[int(self.as_trained(probabilities[None])[0].argmax())]
        if not np.isfinite(embedding).all() or (familiar and len(familiar.mean) != len(embedding)):
            raise unfit(self.variant)
        return None if familiar is None else strangeness_of(embedding, familiar)


def _open_again(path: Path, sha256: str, settings: dict[str, Any]) -> Classifier:
    bundle = load_bundle(path)
    if bundle.sha256 != sha256:
        raise BadArtifact(f"{path} is another bundle than the classifier's.", "Open it anew.")
    return Classifier(bundle, **settings)


def parse_prior(stated: Iterable[str]) -> dict[str, float] | None:
    """The shares that a person wrote as LABEL=SHARE, one or several in an entry, split by commas.

    An entry with one "=" is one share: a comma in it belongs to its label.
    """
    shares: dict[str, float] = {}
    entries = [[entry] if entry.count("=") == 1 else entry.split(",") for entry in stated]
    for entry in chain.from_iterable(entries):
        label, _, share = entry.rpartition("=")
        if label.strip() in shares:
            raise CatflapError(f"The prior names {label.strip()!r} twice.", "Give each label one share.")
        try:
            shares[label.strip()] = float(share)
        except ValueError as error:
            raise CatflapError(
                f"The prior {entry!r} is not LABEL=SHARE.", "Use: --prior cat=0.001"
            ) from error
    return shares or None


def field_prior(stated: Mapping[str, float], trained: Mapping[str, float]) -> Probabilities:
    """The whole prior, shape (labels,) in the order of `trained`, from the shares stated for some labels."""
    if isinstance(stated, Mapping):  # no two labels differ by blanks only
        names = {label.strip(): label for label in trained}
        stated = {names.get(str(label).strip(), label): share for label, share in stated.items()}
    fits = isinstance(stated, Mapping) and set(stated) <= set(trained)
    fits = fits and all(isinstance(share, Real) and 0 < share < 1 for share in stated.values())
    if not fits or (total := float(sum(stated.values()))) > 1 + 1e-9:
        raise CatflapError(
            f"The prior {stated!r} does not fit the labels {', '.join(trained)}.",
            "Give shares between 0 and 1, such as --prior cat=0.01.",
        )
    rest = {label: share for label, share in trained.items() if label not in stated}
    if (not rest and abs(total - 1) > 1e-6) or (rest and total >= 1):
        raise CatflapError(f"The shares of the prior add up to {total:g}.", "Make all labels add up to 1.")
    scale = (1 - total) / sum(rest.values()) if rest else 0.0
    return np.array([stated.get(label, trained[label] * scale) for label in trained])
