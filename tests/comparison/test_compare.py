"""The two environments side by side: what is measured is whole and points the right way."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import MARKER, WEIGHTS, Checkpoint, load_checkpoint, save_checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.comparison.compare import _probed, compare, table
from catflap.comparison.probe import probe
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.export import export
from catflap.exporting.golden_cases import drawn_photos
from catflap.machine import installed_packages, peak_memory_mb
from catflap.training.train import train
from tests.artifacts.samples import runnable_bundle
from tests.tiny import Exported


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    path.write_bytes(drawn_photos()[0])
    return str(path)


def test_the_base_is_a_small_part_of_what_training_needs() -> None:
    base, train = installed_packages(), installed_packages(("train",))
    assert {"catflap", "numpy", "onnxruntime", "pillow"} <= set(base)
    assert {"torch", "timm", "scikit-learn", "pyarrow", "onnx"} <= set(train) - set(base)
    assert set(base) < set(train)
    assert not {"pytest", "ruff", "torch"} & set(base)
    assert 0 < sum(base.values()) < 0.5 * sum(train.values())
    assert base["numpy"] > 10  # MB


def test_both_sides_answer_the_same_photo(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, photo: str
) -> None:
    for side, model, variant in (
        ("training", drawn_checkpoint.path, ""),
        ("inference", drawn_bundle.path, "int8"),
    ):
        answer = probe(side, str(model), photo, variant)
        assert 0 < answer["milliseconds"] < 5e3
        assert answer["timed_seconds"] > 0
        assert answer["memory_mb"] > 20


def test_what_lies_where_somebody_works_is_not_run(
    photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = runnable_bundle(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("numpy", "random"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nraise SystemExit('ran')\n")
    assert _probed("inference", bundle, Path(photo), "fp32")["answering_memory_mb"] > 10
    assert not (tmp_path / "ran").exists()


def test_memory_is_told_in_the_unit_of_files() -> None:
    """In MB of 10^6 bytes, between what the kernel has before and after."""

    def told_by_the_kernel() -> float:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        assert peak is not None
        return int(peak[1]) * 1024 / 1e6

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    before = told_by_the_kernel()
    assert before <= peak_memory_mb() <= told_by_the_kernel()


@pytest.mark.slow
def test_the_comparison_is_whole_and_sane(drawn_dataset: Dataset, tmp_path: Path) -> None:
    """With the default backbone, which a process of its own knows, too."""
    checkpoint, path = train(drawn_dataset, tmp_path / "checkpoint"), tmp_path / "lite0.catflap"
    export(checkpoint, drawn_dataset, path, variants=("int8",))
    found = compare(checkpoint.path, path)
    learning, answering = found["training"], found["inference"]
    assert set(learning) == set(answering)
    assert learning["flops_a_photo"] == answering["flops_a_photo"]  # a frozen head has no backward pass
    assert learning["flops_in_all"] > answering["flops_in_all"]
    assert answering["photos_per_second"] == 1e3 / answering["milliseconds_an_answer"]
    for what in ("answering_memory_mb", "packages", "packages_mb", "model_bytes"):
        assert learning[what] > answering[what] > 0, what
    assert answering["model_bytes"] == len(load_bundle(path).members["int8.onnx"])
    assert learning["model_bytes"] == (checkpoint.path / WEIGHTS).stat().st_size
    assert json.loads(json.dumps(found)) == found
    rows = {row["what"]: row for row in table(found)}
    assert len(rows) == len(answering)
    assert rows["packages"]["ratio"] == learning["packages"] / answering["packages"]


def test_a_bundle_of_another_checkpoint_is_refused(
    drawn_checkpoint: Checkpoint, drawn_bundle: Exported, tmp_path: Path
) -> None:
    shutil.copytree(drawn_checkpoint.path, tmp_path / "other")
    fields = json.loads((tmp_path / "other" / MARKER).read_text())
    fields["seed"] = 7
    save_checkpoint(
        tmp_path / "other", {k: v for k, v in fields.items() if k not in ("catflap", "version", "sha256")}
    )
    assert load_checkpoint(tmp_path / "other").sha256 != drawn_checkpoint.sha256
    with pytest.raises(CatflapError, match="was not exported from"):
        compare(tmp_path / "other", drawn_bundle.path)
    with pytest.raises(BadArtifact):
        compare(drawn_bundle.path, drawn_bundle.path)
    with pytest.raises(BadArtifact, match="no variant"):
        compare(drawn_checkpoint.path, drawn_bundle.path, variant="int4")
