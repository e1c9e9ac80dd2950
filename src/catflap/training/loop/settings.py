"""The settings of the loop, for each kind of start: what a training run of every weight is made from."""

from __future__ import annotations

from dataclasses import dataclass

from catflap.data.loader import Crops

GOOD_HEAD = 0.95  # of the validation photos; below, features are changed more than kept
MANY_PHOTOS = 10_000  # to learn from; then a random start takes larger batches
SMALL_SIDE = 64  # pixels; a part of such a picture, made larger, is blurred


@dataclass(frozen=True)
class LoopSettings:
    """Settings of a run in which every weight learns.

    `epochs` may be a part of one; `batch` is of all processes together. `optimiser` is sgd (with Nesterov's
    momentum) or adamw (Loshchilov & Hutter 2019). The head learns at `learning_rate`, the backbone at
    `backbone_rate_ratio` × that. `warm_up` is the share of steps in which the rate grows; `ema_decay` that of
    the running average of the weights. `smallest_crop` and `shift` are those of data.loader's Crops.
    `train_batch_norm` lets batch norm learn its statistics anew, which only a random start needs. `blended`
    mixes the end with the start by validation; where that is `careful`, the start alone is kept unless the
    mix is better there by more than chance. `save_every` counts steps between two savings on a CPU.
    """

    epochs: float = 3
    optimiser: str = "sgd"
    batch: int = 32
    learning_rate: float = 0.02
    backbone_rate_ratio: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.05
    warm_up: float = 0.1
    ema_decay: float = 0.99
    smallest_crop: float = 0.5
    shift: float = 0.0
    save_every: int = 25
    train_batch_norm: bool = False
    blended: bool = True
    careful: bool = False

    @property
    def crops(self) -> Crops:
        """How photos are varied."""
        return Crops(self.smallest_crop, shift=self.shift)


def finetuning(epochs: float, backbone_rate_ratio: float, head_accuracy: float, side: int) -> LoopSettings:
    """For weights that start with a head on frozen features, of this accuracy on what judges it, 0 to 1.

    `backbone_rate_ratio` is what the backbone states; at 1 the features must change whatever the head. Else
    a good head's are kept: small steps at a tenth, most of each photo, and labels as they are, for smoothed
    ones spoil the probabilities of a head that is nearly always right. When the head is poor they must
    change, and AdamW gives every weight the step that it needs. Small pictures, of `side` pixels, are then
    moved by up to an eighth; larger ones are cropped.
    """
    if backbone_rate_ratio == 1:
        return LoopSettings(epochs, backbone_rate_ratio=backbone_rate_ratio)
    if head_accuracy >= GOOD_HEAD:
        return LoopSettings(
            epochs,
            learning_rate=0.005,
            backbone_rate_ratio=backbone_rate_ratio,
            label_smoothing=0.0,
            smallest_crop=0.8,
        )
    return LoopSettings(
        epochs,
        optimiser="adamw",
        learning_rate=1.5e-4,
        backbone_rate_ratio=1.0,
        weight_decay=0.01,
        shift=_shift(side),
    )


def scratch(epochs: float, photos: int, side: int) -> LoopSettings:
    """For weights that start at random: one large rate for all of them, and batch norm that learns.

    Many photos are learnt from in larger batches. Small pictures, of `side` pixels, are moved by up to an
    eighth; larger ones are cropped.
    """
    batch, rate = (128, 0.2) if photos >= MANY_PHOTOS else (32, 0.1)
    return LoopSettings(
        epochs, batch=batch, learning_rate=rate, backbone_rate_ratio=1.0, weight_decay=5e-4,
        label_smoothing=0.1, smallest_crop=0.35, shift=_shift(side), train_batch_norm=True, blended=False,
    )  # fmt: skip


def _shift(side: int) -> float:
    return 1 / 8 if side <= SMALL_SIDE else 0.0
