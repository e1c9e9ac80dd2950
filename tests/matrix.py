"""Parametrised tests whose matrix takes long: a seeded sample is fast, the rest runs in `make check`."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], fast: int = 1, *, several: bool = False) -> list[Any]:
    """The values of one argument (of `several`, where each is a tuple); all but `fast` of them are slow."""
    given = list(values)
    chosen = random.Random(0).sample(range(len(given)), fast)
    return [
        pytest.param(*(value if several else (value,)), marks=() if place in chosen else pytest.mark.slow)
        for place, value in enumerate(given)
    ]
