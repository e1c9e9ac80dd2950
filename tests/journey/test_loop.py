"""The loop of a person: build, audit, decide, apply, and the same build again with the mended labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catflap.artifacts.manifest import load_manifest
from catflap.cli.main import main
from catflap.image import encode
from tests.tiny import TINY, draw_photos, drawn

BUILD = ("--backbone", TINY, "--size", "64", "--variants", "fp32")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> list[dict[str, Any]]:
        """The JSON lines of a command, which must be fine."""
        capsys.readouterr()
        assert main([*words, "--json"]) == 0, capsys.readouterr().out
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.mark.slow
def test_a_wrong_label_is_found_mended_and_built_again(run: Callable[..., Any], tmp_path: Path) -> None:
    photos = draw_photos(tmp_path / "photos", count=24)
    wrong = photos / "cat" / "wrong.jpg"
    wrong.write_bytes(encode(drawn("other", 500), "JPEG", quality=90))
    (first,) = run("build", "photos", "-o", "mine", *BUILD)
    assert first["bundle"] == "mine.catflap"
    suspects = run("audit", "mine.catflap", "--backbone", TINY)
    found = next(one for one in suspects if one["uri"].endswith("wrong.jpg"))
    assert (found["label"], found["suggested"]) == ("cat", "other")

    audited = load_manifest(tmp_path / "mine.build" / "audit")
    page = (audited.path / "review.html").read_text("utf-8")
    assert audited.sha256 in page or load_manifest(tmp_path / "mine.build" / "manifest").sha256 in page
    decision = {"id": found["id"], "was": "cat", "decision": "relabel", "label": "other"}
    Path("decisions.json").write_text(
        json.dumps(
            {"catflap": "decisions", "version": 1, "manifest": audited.sha256, "decisions": [decision]}
        )
    )
    run("review", "apply", "mine.catflap", "decisions.json")
    (second,) = run("build", "photos", "-o", "mine", *BUILD)
    assert second["steps"]["scan"]["skipped"]
    assert not second["steps"]["export"]["skipped"]
    labels = {}
    for path in (tmp_path / "mine.build").rglob("manifest.json"):
        labels[path.parent.name] = load_manifest(path.parent).labels
    assert {"cat": 24, "other": 25} in [dict(counts) for counts in labels.values()]
    (answer,) = run("predict", "mine.catflap", str(wrong))
    assert answer["label"] == "other"
    assert np.isclose(sum(answer["probabilities"].values()), 1)
