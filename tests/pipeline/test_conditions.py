"""A Report says when a model errs: slices, corruptions, where it looked; and counts corrected labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catflap.artifacts.dataset import Dataset
from catflap.artifacts.report import load_report
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.pipeline import evaluate as module
from catflap.pipeline.evaluate import Subject, evaluate
from tests.tiny import Exported


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle whose first model calls every second photo by the other label."""
    opened = module.open_subject

    def open_swapped(path: Path) -> Subject:
        subject = opened(path)
        (name, (run, temperature, whole)), *_ = subject.models.items()

        def worse(frames: np.ndarray) -> np.ndarray:
            logits = run(frames).copy()
            logits[::2] = logits[::2, ::-1]
            return logits

        return replace(subject, models={name: (worse, temperature, whole)})

    monkeypatch.setattr(module, "open_subject", open_swapped)


def test_slices_and_corruptions_stand_in_the_report(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(drawn_bundle.path), str(drawn_dataset.path), "-o", str(tmp_path / "report")]
    assert main([*line, "--corruptions", "--json"]) in (0, 1)
    fields = json.loads(capsys.readouterr().out)
    slices, corruptions = (fields["conditions"][name] for name in ("slices", "corruptions"))
    assert slices["photos"] == drawn_dataset.roles["test"]
    assert (len(corruptions["rows"]), corruptions["photos"]) == (70, corruptions["groups"])
    assert corruptions["mean"] <= corruptions["clean"]["value"]
    html = load_report(tmp_path / "report").page.read_text("utf-8")
    assert "<h2>Slices" in html
    assert "gaussian noise" in html


def test_a_users_column_is_a_slice(drawn_bundle: Exported, tmp_path: Path) -> None:
    photos, table = drawn_bundle.path.with_name("photos"), tmp_path / "facts.csv"
    rows = [
        f"{label}/{n:02}.jpg,{'old' if n % 2 else 'new'}" for label in ("cat", "other") for n in range(30)
    ]
    table.write_text("file,camera\n" + "\n".join(rows))
    report = evaluate(drawn_bundle.path, photos, tmp_path / "report", facts=table)
    assert {"camera old", "camera new"} <= {row["slice"] for row in report.conditions["slices"]["rows"]}


@pytest.mark.usefixtures("swapped")
def test_sure_mistakes_are_offered_and_corrected_labels_count_again(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path
) -> None:
    report = evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "report")
    assert report.conditions["review"] > 0
    page = (tmp_path / "report" / "review.html").read_text("utf-8")
    assert "catflap evaluate" in page
    html = report.page.read_text("utf-8")
    assert 'href="review.html"' in html
    assert "Orange: where it found" in html
    photos = drawn_dataset.photos("test")
    first = next(place for place in range(len(photos)) if photos.ids[place] in page)
    labels = [drawn_dataset.labels[number] for number in photos.labels.tolist()]
    other = next(label for label in drawn_dataset.labels if label != labels[first])
    decided = {
        "catflap": "decisions", "version": 1, "manifest": "0" * 64,
        "decisions": [{"id": photos.ids[first], "was": labels[first], "decision": "relabel", "label": other}],
    }  # fmt: skip
    decisions = tmp_path / "decisions.json"
    decisions.write_text(json.dumps(decided))
    again = evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "again", decisions=decisions)
    assert (again.corrected["relabelled"], again.corrected["dropped"]) == (1, 0)
    before, after = again.corrected["before"], again.corrected["after"]
    assert before["photos"] == after["photos"] == len(photos)
    assert after["right"] >= before["right"]
    assert after != before or before["unsure"]
    counts = again.variants[next(iter(again.variants))]["decisions"]["counts"]
    assert (counts["right"], counts["wrong"]) == (after["right"], after["wrong"])
    assert "<h2>Corrected labels" in again.page.read_text("utf-8")
    decided["decisions"][0]["id"] = "f" * 64  # type: ignore[index]
    decisions.write_text(json.dumps(decided))
    with pytest.raises(CatflapError, match="is about these photos"):
        evaluate(drawn_bundle.path, drawn_dataset.path, tmp_path / "again", decisions=decisions)
