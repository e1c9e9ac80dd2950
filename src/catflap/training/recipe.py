"""What a training run of every weight is made from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of the loop; rates are SGD's, the backbone's is `body` × the head's.

    `batch` is of all processes together. `norm` says that batch norm learns its statistics anew,
    which only a random start needs. `blended` says that the end is mixed with the start as
    validation likes best.
    """

    epochs: int = 3
    batch: int = 32
    rate: float = 0.02
    body: float = 0.1
    momentum: float = 0.9
    decay: float = 1e-4
    smoothing: float = 0.05
    warm_up: float = 0.1
    average: float = 0.99
    smallest_crop: float = 0.5
    save_every: int = 25
    norm: bool = False
    blended: bool = True


def scratch(epochs: int) -> Recipe:
    """For weights that start at random: a larger rate for all of them, and stronger cropping."""
    return Recipe(
        epochs, rate=0.1, body=1.0, decay=5e-4, smoothing=0.1, smallest_crop=0.35, norm=True, blended=False
    )
