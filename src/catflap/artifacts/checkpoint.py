"""The Checkpoint: trained weights and how they were trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.schema import digest, digest_file, read_json, write_json
from catflap.errors import BadArtifact
from catflap.image import Frame

MARKER = "checkpoint.json"
WEIGHTS = "weights.safetensors"
CROSS_FITTED = "cross_fitted.npz"


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `weights.safetensors` and `checkpoint.json`.

    Where the head has learnt from the calibration photos, too, `cross_fitted.npz` has what `held_out` adds.
    `mean` and `std` are the backbone's input normalisation on pixels scaled to 0..1;
    `dataset` is the path of its Dataset relative to the Checkpoint, for export and evaluate;
    `prior` is the share of each label among the train photos; `history` has the entries of a
    search, the heads, and of the loop its settings, steps, epochs and blends; `cost` has the fields that
    docs/concepts/training.md lists.
    """

    path: Path
    backbone: str
    labels: tuple[str, ...]
    frame: Frame
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: str
    seed: int
    prior: dict[str, float]
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    cost: dict[str, Any]
    sha256: str
    dataset: str
    made_from: str
    ancestors: dict[str, str]
    licences: dict[str, str]
    versions: dict[str, str]

    @property
    def dataset_path(self) -> Path:
        """Where its Dataset was when it was trained."""
        return self.path / self.dataset

    @property
    def is_calibrated(self) -> bool:
        """Whether its probabilities were calibrated on photos that it was not trained on."""
        scales = {"logit_scale", "evidence_scale"}  # the latter in older checkpoints
        return self.recipe == "head" and any(scales & set(entry) for entry in self.history)

    @property
    def has_learnt_calibration(self) -> bool:
        """Whether its head has learnt from calibration photos."""
        if not (self.path / CROSS_FITTED).is_file():
            return False
        with np.load(self.path / CROSS_FITTED, allow_pickle=False) as arrays:
            return len(arrays["ids"]) > 0

    def held_out(self, ids: npt.NDArray[np.str_]) -> npt.NDArray[np.float32]:
        """What to add to the logits of these calibration photos, (n, labels), to calibrate by them.

        The sum is the logits of a head fitted to all photos but those of its fold (cross-fitting; Vovk 2015,
        cross-conformal prediction). Zeros for photos that the head has not learnt from.
        """
        added = np.zeros((len(ids), len(self.labels)), np.float32)
        if (self.path / CROSS_FITTED).is_file():
            with np.load(self.path / CROSS_FITTED, allow_pickle=False) as arrays:
                rows = dict(zip(arrays["ids"].tolist(), arrays["added"], strict=True))
            for position, name in enumerate(ids.tolist()):
                if name in rows:
                    added[position] = rows[name]
        return added

    def to_json(self) -> dict[str, Any]:
        """The machine answer of `catflap train`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "path"}
        return {**fields, "frame": self.frame.to_json(), "labels": list(self.labels)}


def save_checkpoint(folder: Path, fields: dict[str, Any]) -> None:
    """Write checkpoint.json beside the files that it names by hash; computes `sha256`."""
    fields = {**fields, "weights_sha256": digest_file(folder / WEIGHTS)}
    if (folder / CROSS_FITTED).is_file():
        fields["cross_fitted_sha256"] = digest_file(folder / CROSS_FITTED)
    fields["sha256"] = _identity(fields)
    write_json(folder / MARKER, {"catflap": "checkpoint", "version": 1, **fields})


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Open a Checkpoint folder; BadArtifact when it is not one or its weights have changed."""
    path = Path(path)
    fields = read_json(path / MARKER, "checkpoint")
    if not (path / WEIGHTS).is_file() or digest_file(path / WEIGHTS) != fields["weights_sha256"]:
        raise BadArtifact(f"The weights of {path} are missing or changed.", "Train again.")
    expected = fields.get("cross_fitted_sha256")
    is_there = (path / CROSS_FITTED).is_file()
    if is_there != bool(expected) or (is_there and digest_file(path / CROSS_FITTED) != expected):
        raise BadArtifact(f"{path / CROSS_FITTED} is missing or changed.", "Train again.")
    names = set(Checkpoint.__dataclass_fields__) - {"path", "labels", "frame", "mean", "std"}
    return Checkpoint(
        path=path,
        labels=tuple(fields["labels"]),
        frame=Frame.from_json(fields["frame"]),
        mean=tuple(fields["mean"]),
        std=tuple(fields["std"]),
        **{name: fields[name] for name in names},
    )


def _identity(fields: dict[str, Any]) -> str:
    """The hash that identifies a Checkpoint: its weights and ancestors, not its cost."""
    names = ("backbone", "labels", "frame", "mean", "std", "recipe", "seed", "weights_sha256", "ancestors")
    return digest({name: fields[name] for name in (*names, "cross_fitted_sha256") if name in fields})
