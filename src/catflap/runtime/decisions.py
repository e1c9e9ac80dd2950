"""From logits to a decision: probabilities, the prior of the field, and the word "unsure"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.results import UNSURE
from catflap.errors import CatflapError

Probabilities: TypeAlias = npt.NDArray[np.float64]
TIE = 1e-5  # of a threshold: more than float32 and other machines err by, less than a step of int8 answers
MOST_APART = 1e200  # so that no product with a probability leaves the range of a double


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Probabilities:
    """Probabilities from logits of the shape (..., classes), divided by the temperature first.

    The temperature is what `fit_temperature` gave for this variant (Guo et al. 2017).
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def correct_prior(
    probabilities: npt.ArrayLike, trained: npt.ArrayLike, field: npt.ArrayLike
) -> Probabilities:
    """Probabilities (..., classes) as they are where the labels are as frequent as `field` says.

    `trained` and `field` are the shares of the labels, shape (classes,), in training and where
    the model is used. Saerens, Latinne and Decaestecker 2002, equation 2.4. Raises CatflapError
    when a share is not above 0.
    """
    weighted = np.asarray(probabilities, np.float64) * prior_weights(trained, field)
    return np.asarray(weighted / weighted.sum(axis=-1, keepdims=True))


def prior_weights(trained: npt.ArrayLike, field: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """How much more frequent each label is in the field than in training, shape (classes,).

    Raises CatflapError when a share is not above 0, or too far from the other for probabilities.
    """
    before, after = np.asarray(trained, np.float64), np.asarray(field, np.float64)
    if not all((shares > 0).all() and np.isfinite(shares).all() for shares in (before, after)):
        raise CatflapError(
            "The share of a label is not a number above 0.",
            "Give every label a share between 0 and 1, for example 0.001.",
        )
    with np.errstate(over="ignore", under="ignore"):
        weights = np.asarray(after / before)
    if not ((weights > 1 / MOST_APART) & (weights < MOST_APART)).all():
        raise CatflapError(
            f"The shares of a label in training and in the field differ by more than {MOST_APART:g} times.",
            "Give every label a share between 0 and 1, for example 0.001; or export the bundle again.",
        )
    return weights


def decide(probabilities: npt.ArrayLike, labels: Sequence[str], threshold: float) -> list[str]:
    """A label for each row of probabilities (n, classes), or "unsure".

    The answer is a label when that label alone reaches the threshold (`conformal_threshold`). LiteRT's int8
    answers come in steps, and the threshold is often one of them: a hundred-thousandth below it counts as
    reached, so that every machine sees the tie.
    """
    reached = np.atleast_2d(np.asarray(probabilities, np.float64)) >= threshold * (1 - TIE)
    sole, first = reached.sum(axis=1) == 1, reached.argmax(axis=1)
    return [labels[label] if alone else UNSURE for alone, label in zip(sole, first, strict=True)]


def least_at(threshold: float) -> float:
    """The least probability that counts as reaching an operating point's threshold.

    Ties count, as in `decide`; these thresholds may be close to 1, so that the margin is one of the odds.
    """
    return threshold - TIE * threshold * (1 - threshold)
