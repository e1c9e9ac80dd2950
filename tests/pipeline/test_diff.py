"""diff: a bundle may replace itself where the photos prove it; a worse one never; the page shows why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.pipeline import diff as module
from catflap.pipeline.diff import diff, write_diff_page
from tests.tiny import Exported


def test_a_bundle_beside_itself(
    drawn_bundle: Exported, drawn_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["diff", str(drawn_bundle.path), str(drawn_bundle.path), str(drawn_dataset.path), "--json"]
    assert main(line) == 1
    few = json.loads(capsys.readouterr().out)
    assert (few["verdict"], few["changed"], few["photos_changed"]) == ("not shown", 0, [])
    assert few["needed"] > few["groups"]
    assert main([*line, "--margin", "0.5"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "yes"


def test_a_worse_model_is_refused_and_the_page_shows_what_changed(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = drawn_dataset.path.with_name("photos")
    opened = module.open_subject

    def worse(path: Path) -> object:
        subject = opened(drawn_bundle.path)
        if path.name != "worse.catflap":
            return subject
        (name, model), *_ = subject.models.items()
        worse_model = replace(model, run=lambda frames: -model.run(frames))
        return replace(subject, name="worse", models={name: worse_model})

    monkeypatch.setattr(module, "open_subject", worse)
    table = tmp_path / "facts.csv"
    table.write_text(
        "file,camera\n" + "".join(f"cat/{n:02}.jpg,{'old' if n < 15 else 'new'}\n" for n in range(30))
    )
    result = diff(drawn_bundle.path, tmp_path / "worse.catflap", photos, facts=table)
    assert not result.may_replace
    assert result.fields["verdict"] == "no"
    names = [part["name"] for part in result.fields["slices"]]
    assert {"label cat", "label other", "camera old", "camera new"} <= set(names)
    assert result.fields["photos_changed"][0]["kind"] == "worse"
    page = tmp_path / "diff.html"
    write_diff_page(result, page)
    html = page.read_text("utf-8")
    assert "B may not replace A." in html
    assert "data:image/jpeg" in html
    assert "camera old" in html
    (tmp_path / "mine.html").write_text("my page")
    with pytest.raises(CatflapError, match="not such a page"):
        write_diff_page(result, tmp_path / "mine.html")


def test_a_checkpoint_may_be_compared_with_its_bundle(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, drawn_dataset: Dataset,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = ["diff", str(drawn_checkpoint.path), str(drawn_bundle.path), str(drawn_dataset.path)]
    assert main([*line, "--role", "train"]) in (0, 1)
    answer = capsys.readouterr()
    assert "has seen these photos before" in answer.err
    assert "all photos" in answer.out


def test_models_of_other_labels_are_refused(
    drawn_bundle: Exported, drawn_dataset: Dataset, tiny_bundle: Path
) -> None:
    with pytest.raises(CatflapError, match="differ"):
        diff(drawn_bundle.path, tiny_bundle, drawn_dataset.path)
