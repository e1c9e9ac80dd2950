"""What the tests of what leaves the device share: commands that are traced, and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import make_once
from tests.house.tracing import Traced, tracing

if TYPE_CHECKING:
    from catflap.artifacts.checkpoint import Checkpoint
    from catflap.artifacts.dataset import Dataset
    from tests.tiny import Exported


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Traced]:
    """Run a command isolated and traced, in `tmp_path / "work"`."""
    return tracing(tmp_path)


@pytest.fixture(scope="module")
def made(drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a verb may ask for."""
    from catflap.runtime.classifier import Classifier, predict
    from catflap.runtime.recording import LogSettings, recording

    folder = tmp_path_factory.mktemp("made")
    line = drawn_dataset.path.parent
    for name in ("photos", "manifest", "dataset", "checkpoint", "tiny.catflap"):
        (folder / name).symlink_to(line / name)
    photos = sorted((line / "photos").rglob("*.jpg"))
    with recording(LogSettings(folder / "field.log", pictures=True), print) as recorder:
        for _ in predict(Classifier(line / "tiny.catflap"), photos[:8], recorder):
            pass
    (folder / "decisions.json").write_text('{"catflap": "decisions", "version": 1}')
    return folder


@pytest.fixture(scope="module")
def installed(installed_checkpoint: Checkpoint, drawn_dataset: Dataset) -> Path:
    """A folder with a checkpoint that every process can open, and its bundle."""
    from catflap.exporting.export import export

    path = installed_checkpoint.path
    out = path.with_suffix(".catflap")
    make_once(out, lambda: export(installed_checkpoint, drawn_dataset, out, variants=("fp32",)))
    return path.parent
