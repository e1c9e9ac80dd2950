"""What a user chooses about a training."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError
from catflap.training.networks.backbone import PACKAGED
from catflap.training.search.candidates import MOST_TRIALS
from catflap.training.search.halving import SearchLimits
from catflap.version import VERSION

NO_LIMITS = SearchLimits()
RECIPES = ("head", "finetune", "scratch")
PRECISIONS = ("auto", "fp32")
EDGE_MB = 4.0  # in int8
EPOCHS = 3


@dataclass(frozen=True)
class Plan:
    """How to train.

    Recipe "head" learns a linear head on frozen features; "finetune" then trains every weight for
    `epochs`, or 3; "scratch" trains every weight from a random start. None is "head", but "finetune" where
    `trials` were asked for, every head is poor and an epoch helps it. With `minutes` the head is followed,
    unless "head" was asked for, by as much fine-tuning as fits (for many small pictures in small frames,
    where no recipe was named, by epochs from a random start), kept if its log loss on validation is lower by
    more than chance, or in any case where "finetune" was asked for.
    `teachers` are Checkpoints whose opinion of the train photos is learnt beside their labels. With
    `trials` so many backbones, frame sizes and fits are tried first, within `limits`, and the best
    replaces `backbone` and frame. Without a `backbone` and `trials`, `minutes` try as many as half of
    them allows, of those that have at most 4 MB in int8 where no limit says otherwise; 0 trials are none.
    Weights learn in fp32 or, with the precision "auto", in bf16 or fp16 where that is faster.
    """

    backbone: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    teachers: tuple[Checkpoint, ...] = ()
    trials: int | None = None
    limits: SearchLimits = NO_LIMITS
    seed: int = 0
    precision: str = "auto"

    @property
    def is_open(self) -> bool:
        """Whether backbone, recipe, time, teachers and trials are all left to whoever follows this plan."""
        asked = (self.backbone, self.recipe, self.minutes, self.trials)
        return not self.teachers and all(one is None for one in asked)

    @property
    def searches(self) -> bool:
        """Whether candidates are tried first."""
        return bool(self.trials) or (self.trials is None and bool(self.minutes) and self.backbone is None)

    @property
    def explores(self) -> bool:
        """Whether the search tries fine-tuning, too; with minutes it is tried after the search."""
        return bool(self.trials) and self.recipe != "head" and not self.minutes

    @property
    def may_tune(self) -> bool:
        """Whether weights may learn beyond the head."""
        asked = self.recipe in ("finetune", "scratch")
        return asked or (self.recipe is None and bool(self.minutes or self.trials))

    @property
    def rounds(self) -> int:
        """Epochs of every weight, where no clock says how many."""
        return EPOCHS if self.epochs is None else self.epochs

    @property
    def kept_limits(self) -> SearchLimits:
        """The limits of the search: those that were given, and 4 MB for one that nobody asked for."""
        return self.limits if self.trials else replace(self.limits, max_mb=self.limits.max_mb or EDGE_MB)

    def fingerprint(self, dataset: Dataset) -> str:
        """What a Checkpoint would be made from, without making it."""
        teachers = [teacher.sha256 for teacher in self.teachers]
        recipe = self.recipe or ("" if self.may_tune else "head")
        loop = [self.rounds, teachers, self.precision] if recipe != "head" else []
        search = [self.trials, *astuple(self.kept_limits)] if self.searches else []
        backbone = self.backbone or PACKAGED
        settings = [dataset.sha256, backbone, recipe, self.minutes or 0, loop, search, self.seed]
        return digest([*settings, VERSION, str(torch.__version__)])

    def check(self) -> None:
        """Raise CatflapError when this cannot be done on any photos."""
        if self.recipe not in (None, *RECIPES):
            raise CatflapError(f"There is no recipe {self.recipe!r}.", f"Use one of: {', '.join(RECIPES)}.")
        if self.precision not in PRECISIONS:
            raise CatflapError(
                f"There is no precision {self.precision!r}.", f"Use one of: {', '.join(PRECISIONS)}."
            )
        if self.teachers and not self.may_tune:
            raise CatflapError("A head learns from no teacher.", "Add --recipe finetune, or leave it out.")
        if self.epochs is not None and (self.minutes or not self.may_tune):
            who = "Minutes say how many epochs fit" if self.minutes else "A head has no epochs"
            raise CatflapError(f"{who}.", "Leave --epochs out, or name --recipe finetune and no --minutes.")
        if self.rounds < 1 or not 0 <= self.seed < 1 << 63:
            raise CatflapError(
                f"{self.rounds} epochs with the seed {self.seed} are not possible.",
                "Use 1 or more, and 0 to 2^63 - 1.",
            )
        if self.trials and self.backbone:
            raise CatflapError(
                f"The backbone {self.backbone} and a search for one were asked for.",
                "Leave out --backbone, or --budget.",
            )
        if self.limits != NO_LIMITS and not self.searches:
            raise CatflapError(
                "There are limits of a search and no search.",
                "Add --budget 8 or --minutes 15, or leave --search-ms and --search-mb out.",
            )
        for limit in (self.limits.max_ms, self.limits.max_mb):
            if limit is not None and not limit > 0:
                raise CatflapError(f"A limit of {limit:g} is not possible.", "Use numbers above 0.")
        if self.minutes is not None and (not self.minutes > 0 or self.recipe == "scratch"):
            raise CatflapError(
                f"{self.minutes} minutes of the recipe {self.recipe} are not possible.",
                "Give more than 0 minutes, and leave the recipe out: validation chooses it.",
            )
        if self.trials and (not 2 <= self.trials <= MOST_TRIALS or self.recipe == "scratch"):
            raise CatflapError(
                f"A search of {self.trials} trials with the recipe {self.recipe} is not possible.",
                f"Use 2 to {MOST_TRIALS} trials with the recipe head or finetune.",
            )
