"""How long work tells how far it is: any function that takes the step, what is done and the total."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Progress: TypeAlias = Callable[[str, int, int], None]


def nobody(told: object) -> None:
    """Tell nobody: neither an answer nor a note."""


def silent(step: str, done: int, total: int) -> None:
    """Tell nobody."""


def track(items: Iterable[T], step: str, total: int, progress: Progress) -> Iterator[T]:
    """Hand items on, telling after each how many of the total are done."""
    progress(step, 0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(step, done, total)
