"""`catflap audit` and `catflap review apply`, as a person and as a program uses them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from catflap.cli.main import main
from catflap.curation.audit import Audit
from catflap.training.backbones import TINY
from tests.curation.conftest import Collection


def test_audit_prints_a_line_a_suspect_and_writes_the_same_bytes_again(
    audited: Audit, collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a Dataset that was moved away from its Manifest, too."""
    moved = shutil.copytree(collection.dataset.path, tmp_path / "elsewhere" / "dataset")
    named = ["--manifest", str(collection.manifest.path)]
    words = [str(moved), *named, "-o", str(tmp_path / "audited"), "--backbone", TINY]
    assert main(["audit", *words, "--json"]) == 0
    printed = capsys.readouterr()
    lines = [json.loads(line) for line in printed.out.splitlines()]
    assert lines == [one.to_json() for one in audited.suspects]
    assert {"id", "uri", "label", "suggested", "score"} <= set(lines[0])
    assert str(tmp_path / "audited" / "review.html") in printed.err
    assert "Nothing was changed" in printed.err
    for file in sorted(audited.manifest.path.iterdir()):
        assert (tmp_path / "audited" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("places", [("--json", "after"), ("--json", "before")])
def test_review_apply_answers_and_its_exit_code_tells_what_is_left(
    audited: Audit, collection: Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    places: tuple[str, str],
) -> None:  # fmt: skip
    ids = collection.ids()
    kept = {"id": ids["cat01.jpg"], "was": "cat", "decision": "keep"}
    unknown = {"id": "0" * 64, "was": "cat", "decision": "keep"}
    decisions = tmp_path / "decisions.json"
    words = ["apply", str(audited.manifest.path), str(decisions), "-o", str(tmp_path / "reviewed")]
    words = [*words, places[0]] if places[1] == "after" else [places[0], *words]
    for rows, code in (([kept], 0), ([kept, unknown], 1)):
        fields = {
            "catflap": "decisions",
            "version": 1,
            "manifest": audited.manifest.sha256,
            "decisions": rows,
        }
        decisions.write_text(json.dumps(fields))
        assert main(["review", *words]) == code
        printed = capsys.readouterr()
        answer = json.loads(printed.out)
        assert (answer["kept"], len(answer["unknown"])) == (1, code)
        assert ("were not applied" in printed.err) == bool(code)


@pytest.mark.parametrize(
    "words",
    [[], ["aply", "m", "d", "-o", "n"], ["apply"], ["apply", "m", "d"], ["apply", "m", "d", "-o", "n"]],
)
def test_review_misused_is_one_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["review", *words]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_bad_decisions_file_is_an_error_in_json_too(
    audited: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "decisions.json").write_text("<html>not found</html>")
    words = [str(audited.manifest.path), str(tmp_path / "decisions.json"), "-o", str(tmp_path / "reviewed")]
    assert main(["review", "apply", *words, "--json"]) == 2
    assert set(json.loads(capsys.readouterr().out)["error"]) == {"what", "fix"}
    assert not (tmp_path / "reviewed").exists()
