"""Operating points by name, LABEL:WISH=NUMBER, as in cat:max_fpr=0.001."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from catflap.artifacts.bundle import Bundle, Variant
from catflap.errors import CatflapError

MOST: Mapping[str, float] = MappingProxyType({"max_fpr": 1.0, "min_recall": 1.0, "cost_ratio": 1e9})


@dataclass(frozen=True)
class Wish:
    """What is asked of the decision for one label against the rest: one argument of `operating_point`."""

    label: str
    kind: str
    value: float

    @property
    def name(self) -> str:
        """LABEL:WISH=NUMBER."""
        return f"{self.label}:{self.kind}={self.value:.12g}"


def parse_wishes(texts: Iterable[str], labels: Collection[str] | None = None) -> tuple[Wish, ...]:
    """The wishes that a person wrote as LABEL:WISH=NUMBER, each once; of these labels if they are known."""
    wishes: list[Wish] = []
    for text in texts:
        wish = _parsed(text)
        if wish is None:
            raise CatflapError(
                f"The operating point {text!r} is not LABEL:WISH=NUMBER.",
                "Use max_fpr or min_recall, 0 to 1, or cost_ratio: --operating-point cat:max_fpr=0.001",
            )
        if labels is not None and wish.label not in labels:
            raise CatflapError(
                f"The operating point {text!r} is about a label that is not there.",
                f"Use one of: {', '.join(labels)}.",
            )
        if wish in wishes:
            raise CatflapError(f"The operating point {wish.name!r} is stated twice.", "State it once.")
        wishes.append(wish)
    return tuple(wishes)


def wishes_of(variant: Variant) -> tuple[Wish, ...]:
    """The wishes behind a variant's operating points, but for kinds that only a later version knows."""
    stated = [(point["label"], *next(iter(point["wish"].items()))) for point in variant.operating_points]
    return tuple(Wish(*each) for each in stated if each[1] in MOST)


def point_names(variant: Variant) -> list[str]:
    """What the operating points are called that a variant has and that can be asked for."""
    return [wish.name for wish in wishes_of(variant)]


def find_point(bundle: Bundle, variant: Variant, name: str) -> dict[str, Any]:
    """A variant's operating point by name; CatflapError, with those that it has, when this is none."""
    wish = _parsed(name)
    for point in variant.operating_points:
        if wish is not None and (wish.label, {wish.kind: wish.value}) == (point["label"], point["wish"]):
            return point
    known = point_names(variant)
    fix = f"Use one of: {', '.join(known)}." if known else f"Export it with --operating-point {name}."
    raise CatflapError(f"{variant.name} of {bundle.path.name} has no operating point {name!r}.", fix)


def _parsed(text: str) -> Wish | None:
    label, _, wish = text.rpartition(":")
    kind, _, number = wish.partition("=")
    try:
        value = float(number)
    except ValueError:
        return None
    stated = bool(label) and kind in MOST and math.isfinite(value) and 0 <= value <= MOST[kind]
    return Wish(label, kind, value) if stated else None
