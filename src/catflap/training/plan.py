"""The plan of a training: what a user may choose, and which choices contradict each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError
from catflap.training.backbones import PACKAGED, load_backbone
from catflap.training.search import MAX_TRIALS
from catflap.training.weights_file import WeightsFile
from catflap.version import VERSION

RECIPES = ("head", "finetune", "scratch")
PRECISIONS = ("auto", "fp32")
DEFAULT_MAX_MB = 4.0  # in int8, of a search whose size nobody limits
EPOCHS = 3


@dataclass(frozen=True)
class Plan:
    """How to train.

    Recipe "head" fits a linear head on frozen features; "finetune" then trains every weight; "scratch" trains
    every weight from a random start. None fits a head, fine-tunes where the head is poor, and keeps what is
    expected to be better. Fine-tuning takes `epochs`, else as many as fit into `minutes`, else a number that
    depends on the photos. `trials` backbones and frames are compared first and the best replaces `backbone`
    and frame; `minutes` without a `backbone` compare as many as fit into a quarter of them. Candidates slower
    than `max_ms` a frame (fp32, one thread) or larger than `max_mb` in int8 are left out. `weights` replace
    the pretrained ones of `backbone`. `teachers` are
    Checkpoints whose predictions for the train photos are learnt beside the labels. `precision` "auto" trains
    in bf16 or fp16 where that is faster.
    """

    backbone: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    teachers: tuple[Checkpoint, ...] = ()
    trials: int | None = None
    max_ms: float | None = None
    max_mb: float | None = None
    seed: int = 0
    precision: str = "auto"
    weights: WeightsFile | None = None

    @property
    def is_default(self) -> bool:
        """Whether backbone, minutes and trials are left to `build`."""
        return self.backbone is None and self.minutes is None and self.trials is None

    @property
    def searches(self) -> bool:
        """Whether candidates are compared first."""
        return bool(self.trials) or (self.trials is None and bool(self.minutes) and self.backbone is None)

    @property
    def may_finetune(self) -> bool:
        """Whether weights beyond the head may be trained."""
        return self.recipe != "head"

    @property
    def size_limit(self) -> float | None:
        """Megabytes in int8 that a candidate of the search may have."""
        return self.max_mb if self.max_mb is not None or self.trials else DEFAULT_MAX_MB

    def fingerprint(self, dataset: Dataset) -> str:
        """A hash of everything that the Checkpoint depends on."""
        teachers = [teacher.sha256 for teacher in self.teachers]
        loop = [self.epochs, teachers, self.precision] if self.may_finetune else []
        search = [self.trials, self.max_ms, self.size_limit] if self.searches else []
        backbone = self.backbone or PACKAGED
        settings = [dataset.sha256, backbone, self.recipe, self.minutes, loop, search, self.seed]
        settings += [self.weights.sha256] if self.weights else []
        return digest([*settings, VERSION, str(torch.__version__)])

    def check(self) -> None:
        """Raise CatflapError for a plan that is impossible on any photos, or weights that do not fit."""
        if self.recipe not in (None, *RECIPES):
            raise CatflapError(f"There is no recipe {self.recipe!r}.", f"Use one of: {', '.join(RECIPES)}.")
        if self.precision not in PRECISIONS:
            raise CatflapError(
                f"There is no precision {self.precision!r}.", f"Use one of: {', '.join(PRECISIONS)}."
            )
        if self.teachers and self.recipe not in ("finetune", "scratch"):
            raise CatflapError("--teacher needs --recipe finetune or scratch.", "Add --recipe finetune.")
        if self.epochs is not None and self.minutes:
            raise CatflapError("--epochs and --minutes exclude each other.", "Leave one of them out.")
        if self.epochs is not None and self.recipe == "head":
            raise CatflapError("--epochs has no meaning for --recipe head.", "Leave --epochs out.")
        if (self.epochs is not None and self.epochs < 1) or not 0 <= self.seed < 1 << 63:
            raise CatflapError(
                f"{self.epochs} epochs with the seed {self.seed} are not possible.",
                "Use 1 or more epochs, and a seed from 0 to 2^63 - 1.",
            )
        if self.trials and self.backbone:
            raise CatflapError(
                f"--budget compares backbones, and --backbone {self.backbone} names one.",
                "Leave one of them out.",
            )
        limits = [limit for limit in (self.max_ms, self.max_mb) if limit is not None]
        if limits and not self.searches:
            raise CatflapError(
                "--max-ms and --max-mb limit a search, and there is none.", "Add --budget 8 or --minutes 15."
            )
        for limit in limits:
            if not limit > 0:
                raise CatflapError(f"A limit of {limit:g} is not possible.", "Use a number above 0.")
        if self.minutes is not None and (not self.minutes > 0 or self.recipe == "scratch"):
            raise CatflapError(
                f"{self.minutes} minutes of the recipe {self.recipe} are not possible.",
                "Use more than 0 minutes, and no --recipe scratch.",
            )
        if self.trials and (not 2 <= self.trials <= MAX_TRIALS or self.recipe == "scratch"):
            raise CatflapError(
                f"A search of {self.trials} trials with the recipe {self.recipe} is not possible.",
                f"Use 2 to {MAX_TRIALS} trials, and no --recipe scratch.",
            )
        if self.weights:
            if self.backbone is None or self.recipe == "scratch":
                raise CatflapError(
                    "--weights are of one backbone, from which head and finetune start.",
                    "Name it with --backbone, and leave out --recipe scratch.",
                )
            load_backbone(self.backbone, weights=self.weights)
