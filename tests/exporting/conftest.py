"""What several tests of this room look at."""

from __future__ import annotations

import pytest

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.training.backbones import TINY
from catflap.training.plan import Plan
from catflap.training.train import train
from tests.tiny import Exported


@pytest.fixture(scope="module")
def bundle(drawn_bundle: Exported) -> Bundle:
    """The drawn Bundle, opened."""
    return load_bundle(drawn_bundle.path)


@pytest.fixture(scope="module")
def installed_checkpoint(drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A head on an installed backbone: a converter's own process does not know the tests' tiny network."""
    return train(drawn_dataset, tmp_path_factory.mktemp("installed") / "checkpoint", Plan(backbone=TINY))
