"""From logits to a decision: softmax, prior correction, the rule of `unsure`, operating points.

Operating points have names, LABEL:KIND=NUMBER, as in cat:max_fpr=0.001.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.bundle import Bundle, Variant
from catflap.artifacts.results import UNKNOWN, UNSURE
from catflap.errors import CatflapError

Probabilities: TypeAlias = npt.NDArray[np.float64]
TOP = "top"  # the value of `rule` in bundle.json for a threshold on the likeliest label's probability
TIE = 1e-5  # relative tolerance at a threshold: above the error of float32, below a step of int8 outputs
MAX_PRIOR_RATIO = 1e200  # keeps every product with a probability within the range of a double
# The kinds of operating points, with the largest number each may have.
POINT_KINDS: Mapping[str, float] = MappingProxyType({"max_fpr": 1.0, "min_recall": 1.0, "cost_ratio": 1e9})


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Probabilities:
    """Probabilities from logits (..., labels) divided by the variant's temperature (Guo et al. 2017)."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class DecisionRule:
    """When a label is decided, else "unsure".

    With `top`, the likeliest label is decided if its probability reaches `threshold`, so that at most
    `error_rate` of new photos get a wrong label (`risk_threshold`). Without it, as in Bundles before format
    1.1, a label is decided if it alone reaches the threshold.
    """

    threshold: float
    error_rate: float
    top: bool = True


def decision_rule(decision: Mapping[str, Any], error_rate: float | None = None) -> DecisionRule:
    """The rule of a variant's `decision` in bundle.json, or that of its risk curve for another error rate.

    The rate on the curve is the greatest that is not above `error_rate`. Raises CatflapError when there is no
    such rate or no curve.
    """
    if error_rate is None:
        return DecisionRule(decision["threshold"], decision["error_rate"], decision.get("rule") == TOP)
    curve = decision.get("curve", [])
    if not curve:
        raise CatflapError(
            f"The bundle has no curve of error rates to choose {error_rate!r} from.",
            "Export it again with this version of Catflap.",
        )
    if not (isinstance(error_rate, Real) and curve[0]["error_rate"] <= error_rate * (1 + 1e-9) < 1):
        rates = ", ".join(f"{point['error_rate']:g}" for point in curve)
        raise CatflapError(
            f"The bundle cannot promise the error rate {error_rate!r}.", f"Use one of: {rates}."
        )
    point = [each for each in curve if each["error_rate"] <= error_rate * (1 + 1e-9)][-1]
    return DecisionRule(point["threshold"], point["error_rate"])


def decide(
    probabilities: npt.ArrayLike,
    labels: Sequence[str],
    rule: DecisionRule,
    unknown: npt.ArrayLike | None = None,
) -> list[str]:
    """A label, "unsure" or "unknown" for each row of probabilities (n, labels).

    It is "unknown" where `unknown` (n,) is true.
    """
    rows = np.atleast_2d(np.asarray(probabilities, np.float64))
    if rule.top:
        decided = rows.max(axis=1) >= rule.threshold
    else:  # LiteRT's int8 outputs come in steps: a tie with the threshold must count on every machine
        decided = (rows >= rule.threshold * (1 - TIE)).sum(axis=1) == 1
    names = np.array([*labels, UNSURE, UNKNOWN], object)
    numbers = np.where(decided, rows.argmax(axis=1), len(labels))
    if unknown is not None:
        numbers = np.where(np.asarray(unknown), len(labels) + 1, numbers)
    found: list[str] = names[numbers].tolist()
    return found


def check_error_rate(error_rate: float | None) -> None:
    """Raise CatflapError for an error rate that is not between 0 and 1; None is fine."""
    if error_rate is not None and not 0 < error_rate < 1:
        raise CatflapError(f"The error rate is {error_rate}.", "Use one between 0 and 1, such as 0.02.")


def check_unknown_rate(rate: float | None, labels: Collection[str] = ()) -> None:
    """Raise CatflapError for a rate that is not from 0 to below 1, or where a label is called "unknown"."""
    if rate is not None and not 0 <= rate < 1:
        raise CatflapError(f"The unknown rate is {rate}.", "Use one such as 0.05; 0 switches it off.")
    if rate and UNKNOWN in labels:
        raise CatflapError(
            f"The label {UNKNOWN!r} has the name of a decision.",
            "Rename the label, or leave --unknown-rate out.",
        )


def prediction_sets(probabilities: npt.ArrayLike, threshold: float) -> npt.NDArray[np.bool_]:
    """Which labels are in each photo's prediction set, (n, labels): those that reach the threshold.

    The likeliest label is always in it.
    """
    rows = np.asarray(probabilities, np.float64)
    inside = rows >= threshold
    inside[np.arange(len(rows)), rows.argmax(axis=1)] = True
    return inside


def point_cutoff(threshold: float) -> float:
    """The lowest probability that counts as reaching an operating point's threshold.

    Ties count. These thresholds may be close to 1, so the tolerance is relative to the odds.
    """
    return threshold - TIE * threshold * (1 - threshold)


def correct_prior(
    probabilities: npt.ArrayLike, trained: npt.ArrayLike, field: npt.ArrayLike
) -> Probabilities:
    """Probabilities (..., labels) under the field's label shares instead of those of training.

    `trained` and `field` are the shares of the labels, (labels,), in training and where the model is used.
    Saerens, Latinne and Decaestecker 2002, equation 2.4. Raises CatflapError when a share is not above 0.
    """
    weighted = np.asarray(probabilities, np.float64) * prior_weights(trained, field)
    return np.asarray(weighted / weighted.sum(axis=-1, keepdims=True))


def prior_weights(trained: npt.ArrayLike, field: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The ratio of each label's share in the field to that in training, (labels,).

    Raises CatflapError when a share is not above 0, or a ratio is out of range.
    """
    before, after = np.asarray(trained, np.float64), np.asarray(field, np.float64)
    if not all((shares > 0).all() and np.isfinite(shares).all() for shares in (before, after)):
        raise CatflapError(
            "The share of a label is not a number above 0.",
            "Give every label a share between 0 and 1, for example 0.001.",
        )
    with np.errstate(over="ignore", under="ignore"):
        weights = np.asarray(after / before)
    if not ((weights > 1 / MAX_PRIOR_RATIO) & (weights < MAX_PRIOR_RATIO)).all():
        raise CatflapError(
            f"A label's shares in training and in the field differ by more than {MAX_PRIOR_RATIO:g} times.",
            "Give every label a share between 0 and 1, for example 0.001; or export the bundle again.",
        )
    return weights


def parse_prior(entries: Iterable[str]) -> dict[str, float] | None:
    """The shares written as LABEL=SHARE, one or several (separated by commas) in an entry; None for none.

    An entry with one "=" is one share: a comma in it belongs to its label.
    """
    shares: dict[str, float] = {}
    parts = [[entry] if entry.count("=") == 1 else entry.split(",") for entry in entries]
    for part in chain.from_iterable(parts):
        label, _, share = part.rpartition("=")
        if label.strip() in shares:
            raise CatflapError(f"The prior names {label.strip()!r} twice.", "Give each label one share.")
        try:
            shares[label.strip()] = float(share)
        except ValueError as error:
            raise CatflapError(f"The prior {part!r} is not LABEL=SHARE.", "Use: --prior cat=0.001") from error
    return shares or None


def complete_prior(stated: Mapping[str, float], trained: Mapping[str, float]) -> Probabilities:
    """The share of every label, (labels,) in the order of `trained`, from the shares stated for some labels.

    The other labels divide the rest in the proportions of training. Raises CatflapError when the shares do
    not fit the labels or do not leave a rest.
    """
    if isinstance(stated, Mapping):  # no two labels differ only in surrounding blanks
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


@dataclass(frozen=True)
class PointSpec:
    """A request for an operating point of one label against the rest.

    `kind` is "max_fpr", "min_recall" or "cost_ratio", an argument of `evaluation.operating.operating_point`,
    and `value` its number.
    """

    label: str
    kind: str
    value: float

    @property
    def name(self) -> str:
        """LABEL:KIND=NUMBER."""
        return f"{self.label}:{self.kind}={self.value:.12g}"


def parse_point_specs(texts: Iterable[str], labels: Collection[str] | None = None) -> tuple[PointSpec, ...]:
    """The operating points written as LABEL:KIND=NUMBER, each once; of these labels if they are known."""
    specs: list[PointSpec] = []
    for text in texts:
        spec = _parse_point(text)
        if spec is None:
            raise CatflapError(
                f"The operating point {text!r} is not LABEL:KIND=NUMBER.",
                "Use max_fpr or min_recall, 0 to 1, or cost_ratio: --operating-point cat:max_fpr=0.001",
            )
        if labels is not None and spec.label not in labels:
            raise CatflapError(
                f"The operating point {text!r} names an unknown label.", f"Use one of: {', '.join(labels)}."
            )
        if spec in specs:
            raise CatflapError(f"The operating point {spec.name!r} is stated twice.", "State it once.")
        specs.append(spec)
    return tuple(specs)


def point_specs(variant: Variant) -> tuple[PointSpec, ...]:
    """The specs of a variant's operating points, without kinds that only a later version knows."""
    stated = [(point["label"], *next(iter(point["wish"].items()))) for point in variant.operating_points]
    return tuple(PointSpec(*each) for each in stated if each[1] in POINT_KINDS)


def find_operating_point(bundle: Bundle, variant: Variant, name: str) -> dict[str, Any]:
    """A variant's operating point by name; CatflapError, which lists those it has, if there is none."""
    spec = _parse_point(name)
    for point in variant.operating_points:
        if spec is not None and (spec.label, {spec.kind: spec.value}) == (point["label"], point["wish"]):
            return point
    known = [each.name for each in point_specs(variant)]
    fix = f"Use one of: {', '.join(known)}." if known else f"Export it with --operating-point {name}."
    raise CatflapError(f"{variant.name} of {bundle.path.name} has no operating point {name!r}.", fix)


def _parse_point(text: str) -> PointSpec | None:
    label, _, spec = text.rpartition(":")
    kind, _, number = spec.partition("=")
    try:
        value = float(number)
    except ValueError:
        return None
    valid = bool(label) and kind in POINT_KINDS and math.isfinite(value) and 0 <= value <= POINT_KINDS[kind]
    return PointSpec(label, kind, value) if valid else None
