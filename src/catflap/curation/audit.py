"""audit: a Dataset to its Manifest with suspects, and a page on which a person decides about them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catflap.artifacts.dataset import Dataset
from catflap.artifacts.folder import atomic_folder, refuse_foreign
from catflap.artifacts.manifest import MARKER, TABLE, Manifest, load_manifest, save_manifest
from catflap.artifacts.schema import digest
from catflap.curation.cards import make_cards
from catflap.curation.finding import find
from catflap.curation.label_errors import confusions
from catflap.curation.lookup import TwoLabels, source_manifest
from catflap.curation.out_of_fold import everyone, predict_out_of_fold
from catflap.curation.page import PAGE, write_page
from catflap.curation.suspects import Suspect, write_suspects
from catflap.errors import CatflapError
from catflap.progress import Progress, silent
from catflap.training.heads.features import open_extractor
from catflap.training.networks.backbone import PACKAGED, load_backbone
from catflap.training.networks.slim import slimmed
from catflap.training.processes import pick_device
from catflap.version import VERSION

SHOWN = 400  # suspects on the page; more than a person decides in one sitting
REVISION = 1  # raised when the same Dataset gives other suspects than before


@dataclass(frozen=True)
class Audit:
    """What an audit found: `manifest` is the one that it wrote, `suspects` are in the order to look at them.

    `confusions` estimates how many photos of a label show another, {"label", "shows", "photos"} each,
    the commonest first; `settled` counts suspects on which a person has decided before.
    """

    manifest: Manifest
    suspects: tuple[Suspect, ...]
    confusions: tuple[dict[str, Any], ...]
    settled: int

    @property
    def page(self) -> Path:
        """The page on which a person decides."""
        return self.manifest.path / PAGE


def audit(
    dataset: Dataset,
    out: Path,
    *,
    manifest: Manifest | None = None,
    backbone: str = PACKAGED,
    shown: int = SHOWN,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> Audit:
    """Find suspects among the photos of all roles and write the Manifest folder `out`.

    It has the rows of the Dataset's Manifest, unchanged, beside suspects.jsonl and review.html, which
    shows `shown` suspects. Features are cached, so a stopped audit goes on where it was. `manifest` is
    the one that the Dataset was prepared from, when it is no longer where it was.
    """
    out = Path(out)
    refuse_foreign(out, MARKER)
    manifest = source_manifest(dataset, manifest)
    if out.resolve() == manifest.path.resolve():
        raise CatflapError(f"{out} is the manifest to audit.", "Choose another output name.")
    if shown < 0 or seed < 0:
        raise CatflapError(f"{shown} suspects with the seed {seed} are not possible.", "Use 0 or more.")
    found, device = everyone(dataset), pick_device(device)
    body = slimmed(load_backbone(backbone), found.photos, dataset.frame, device=device, progress=progress)
    extractor = open_extractor(body, dataset.frame, device=device)
    opinion = predict_out_of_fold(extractor, found.photos, len(dataset.labels), seed, progress)
    findings = find(dataset.labels, found.photos, opinion, manifest)
    suspects = findings.suspects
    with atomic_folder(out, MARKER) as folder:
        shutil.copyfile(manifest.path / TABLE, folder / TABLE)
        write_suspects(folder, suspects)
        cards = make_cards(extractor, found, opinion, dataset.labels, findings, shown)
        labels = _every_label(dataset.labels, findings.twice)
        write_page(folder, cards, labels, manifest.sha256, len(suspects), progress)
        settings = [REVISION, dataset.sha256, backbone, shown, seed, VERSION]
        ancestors = {"manifest": manifest.sha256, "dataset": dataset.sha256}
        fields = {**manifest.to_json(), "made_from": digest(settings), "ancestors": ancestors}
        save_manifest(folder, fields)
    joint = confusions(found.photos.labels, opinion.probabilities)
    return Audit(load_manifest(out), suspects, _listed(dataset.labels, joint), findings.settled)


def _every_label(labels: Sequence[str], twice: Sequence[TwoLabels]) -> list[str]:
    """The Dataset's labels, then those that only quarantined photos have."""
    return list(dict.fromkeys([*labels, *(label for one in twice for label in one.labels)]))


def _listed(labels: Sequence[str], joint: Any) -> tuple[dict[str, Any], ...]:
    pairs = [(int(joint[one, other]), one, other) for one, other in np.argwhere(joint > 0) if one != other]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return tuple(
        {"label": labels[one], "shows": labels[other], "photos": count} for count, one, other in pairs
    )
