"""A Report says when a model errs: slices, corruptions, where it looked; and counts corrected labels."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from catflap.artifacts.dataset import Dataset
from catflap.artifacts.report import load_report
from catflap.cli.main import main
from catflap.errors import CatflapError
from catflap.pipeline.evaluate import evaluate
from tests.tiny import Exported, draw_photos


@pytest.fixture
def mislabelled(tmp_path: Path) -> Path:
    """Drawn photos, two of whose cats lie among the others."""
    photos = draw_photos(tmp_path / "photos", count=12)
    for number in (3, 4):
        (photos / "cat" / f"{number:02}.jpg").rename(photos / "other" / f"cat{number}.jpg")
    return photos


def test_slices_and_corruptions_stand_in_the_report(
    drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(drawn_bundle.path), str(drawn_dataset.path), "-o", str(tmp_path / "report")]
    assert main([*line, "--corruptions", "--json"]) in (0, 1)
    fields = json.loads(capsys.readouterr().out)
    slices, corruptions = (fields["conditions"][name] for name in ("slices", "corruptions"))
    assert slices["photos"] == drawn_dataset.roles["test"]
    assert (len(corruptions["rows"]), corruptions["photos"]) == (75, corruptions["groups"])
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


@pytest.mark.slow
def test_sure_mistakes_are_offered_and_corrected_labels_count_again(
    drawn_bundle: Exported, mislabelled: Path, tmp_path: Path
) -> None:
    report = evaluate(drawn_bundle.path, mislabelled, tmp_path / "report")
    page = (tmp_path / "report" / "review.html").read_text("utf-8")
    assert "--decisions decisions.json" in page
    ids = [hashlib.sha256(photo.read_bytes()).hexdigest() for photo in mislabelled.glob("other/cat*.jpg")]
    assert all(photo in page for photo in ids)
    assert report.conditions["review"] >= 2
    html = report.page.read_text("utf-8")
    assert 'href="review.html"' in html
    assert "Orange: where it found cat" in html
    decided = {
        "catflap": "decisions", "version": 1, "manifest": "0" * 64,
        "decisions": [
            {"id": ids[0], "was": "other", "decision": "relabel", "label": "cat"},
            {"id": ids[1], "was": "other", "decision": "drop", "reason": "unclear"},
        ],
    }  # fmt: skip
    decisions = tmp_path / "decisions.json"
    decisions.write_text(json.dumps(decided))
    again = evaluate(drawn_bundle.path, mislabelled, tmp_path / "again", decisions=decisions)
    counts = {name: again.corrected[name] for name in ("kept", "relabelled", "dropped", "stale")}
    assert counts == {"kept": 0, "relabelled": 1, "dropped": 1, "stale": 0}
    before, after = again.corrected["before"], again.corrected["after"]
    assert (before["photos"], after["photos"]) == (24, 23)
    measured = next(iter(again.variants.values()))
    assert measured["photos"] == 23
    assert {name: after[name] for name in ("right", "wrong")} == {
        name: measured["decisions"]["counts"][name] for name in ("right", "wrong")
    }
    first = next(iter(report.variants.values()))
    assert before["wrong"] == first["decisions"]["counts"]["wrong"] >= after["wrong"]
    assert measured["accuracy"]["value"] > first["accuracy"]["value"]
    assert "<h2>Corrected labels" in again.page.read_text("utf-8")
    decisions.write_text(decisions.read_text().replace(ids[0], "e" * 64).replace(ids[1], "f" * 64))
    with pytest.raises(CatflapError, match="is about these photos"):
        evaluate(drawn_bundle.path, mislabelled, tmp_path / "again", decisions=decisions)
