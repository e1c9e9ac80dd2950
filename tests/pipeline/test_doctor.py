"""What a project falls short of: each check finds what it is for, and is silent where all is well."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import Manifest
from catflap.cli.main import COMMANDS, main
from catflap.errors import CatflapError
from catflap.pipeline import doctor
from catflap.pipeline.doctor import CHECKS, Finding, Project, examine_project, open_project
from tests.tiny import Exported


@pytest.fixture(scope="module")
def project(drawn_dataset: Dataset, drawn_checkpoint: Checkpoint, drawn_bundle: Exported) -> Project:
    return open_project(drawn_dataset.path.parent)


@pytest.fixture(autouse=True)
def no_verify(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Verification takes a second: once is enough."""
    if request.function is not test_the_command_line_says_what_to_run:
        verdict = type("Verdict", (), {"checks": ()})
        monkeypatch.setattr(doctor, "verify", lambda _: verdict)


def found(project: Project, check: str) -> list[Finding]:
    return [finding for run in CHECKS for finding in run(project) if finding.check == check]


def states(project: Project, check: str) -> list[str]:
    return [finding.state for finding in found(project, check)]


def with_head(project: Project, **fields: Any) -> Project:
    assert project.bundle is not None
    return replace(project, bundle=replace(project.bundle, head={**project.bundle.head, **fields}))


def with_variant(project: Project, **fields: Any) -> Project:
    bundle = project.bundle
    assert bundle is not None
    changed = replace(bundle.variant(), **fields)
    return replace(project, bundle=replace(bundle, variants={**bundle.variants, changed.name: changed}))


def manifest_of(project: Project) -> Manifest:
    assert project.manifest is not None
    return project.manifest


def test_a_project_is_found_from_its_folder_and_its_bundle(project: Project, drawn_bundle: Exported) -> None:
    assert project.bundle is not None
    assert project.bundle.path == drawn_bundle.path
    assert None not in (project.manifest, project.dataset, project.checkpoint)
    assert project.report is None
    alone = open_project(drawn_bundle.path)
    assert (alone.manifest, alone.dataset) == (None, None)
    assert alone.bundle is not None


def test_a_half_finished_project_says_what_is_missing(project: Project) -> None:
    (finding,) = found(project, "whole")
    assert finding.state == "mend"
    assert "evaluate" in finding.what
    (early,) = found(replace(project, bundle=None, checkpoint=None), "whole")
    assert "train, export, evaluate" in early.what
    assert early.command.startswith("catflap build ")
    assert states(replace(project, manifest=None, dataset=None, checkpoint=None), "whole") == ["unknown"]


def test_an_empty_folder_is_told_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["state"] == "mend"
    assert finding["command"].startswith("catflap build ")
    assert main(["doctor", str(tmp_path / "absent")]) == 2
    for name in ("a.build", "b.build"):
        (tmp_path / name).mkdir()
    with pytest.raises(CatflapError, match="several projects"):
        examine_project(tmp_path)


def test_damage_is_found(drawn_dataset: Dataset, drawn_bundle: Exported, tmp_path: Path) -> None:
    shutil.copytree(drawn_dataset.path, tmp_path / "dataset")
    (tmp_path / "x.catflap").write_bytes(drawn_bundle.path.read_bytes()[:-9])
    whole = [each for each in examine_project(tmp_path) if each.check == "whole"]
    assert whole[0].state == "mend"
    assert "x.catflap" in whole[0].what


def test_roles_that_leak_and_are_too_small_are_found(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(project, "roles") == ["fine"]
    assert states(project, "test size") == ["mend"]  # 9 photos
    original = Dataset.photos

    def leaking(self: Dataset, role: str) -> Any:
        photos = original(self, role)
        return replace(photos, groups=np.arange(len(photos)) + (0 if role == "test" else 5))

    monkeypatch.setattr(Dataset, "photos", leaking)
    (finding,) = found(project, "roles")
    assert finding.state == "mend"
    assert "catflap prepare" in finding.command

    def many(self: Dataset, role: str) -> Any:
        photos = original(self, role)
        return replace(photos, groups=np.arange(100) + 1000 * "tcv".find(role[0]))

    monkeypatch.setattr(Dataset, "photos", many)
    rule = {"threshold": 0.9, "error_rate": 0.02, "curve": []}
    assert states(with_variant(project, decision=rule), "test size") == ["advice"]  # needs 150
    rule["error_rate"] = 0.05
    assert states(with_variant(project, decision=rule), "test size") == ["fine"]


def test_stale_artifacts_are_found(project: Project, tmp_path: Path) -> None:
    other = replace(manifest_of(project), sha256="0" * 64)
    assert any("another manifest" in each.what for each in found(replace(project, manifest=other), "current"))
    report = type("Report", (), {"ancestors": {"bundle": "0" * 64}})
    assert any("report" in each.what for each in found(replace(project, report=report), "current"))  # type: ignore[arg-type]
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    late = (manifest_of(project).path / "manifest.json").stat().st_mtime + 60
    old = late - 3600
    (photos / "cat" / "new.jpg").touch()
    for place in (photos / "cat" / "new.jpg", photos / "cat", photos):
        os.utime(place, (old, old))
    moved = replace(project, manifest=replace(manifest_of(project), source=str(photos)))
    assert states(moved, "current") == ["fine"]
    os.utime(photos / "cat" / "new.jpg", (late, late))
    assert states(moved, "current") == ["mend"]
    gone = replace(project, manifest=replace(manifest_of(project), source=str(tmp_path / "gone")))
    assert states(gone, "current") == ["unknown"]


def test_what_the_photos_lack_is_found(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of(project)
    assert states(project, "groups") == states(project, "balance") == states(project, "shortcut") == ["fine"]
    assert states(project, "labels") == ["advice"]
    audited = replace(manifest, ancestors={"decisions": "0" * 64})
    assert states(replace(project, manifest=audited), "labels") == ["fine"]
    bursts = replace(manifest, near_duplicates=manifest.ok // 2)
    assert states(replace(project, manifest=bursts), "groups") == ["advice"]
    monkeypatch.setattr(Manifest, "rows", lambda *_: pa.table({"user_group": ["", "burst 1"]}))
    assert states(replace(project, manifest=bursts), "groups") == ["fine"]
    what = "The largest label has 10 times the photos of 'cat'."
    rare = replace(manifest, checks=[*manifest.checks, {"check": "class_imbalance", "what": what}])
    (finding,) = found(replace(project, manifest=rare), "balance")
    assert (finding.state, "'cat'" in finding.what) == ("advice", True)
    checks = [
        {"check": "shortcut", "what": "Width alone predicts the label."},
        {"check": "stated_roles_leak", "what": "x"},
    ]
    clues = replace(project, manifest=replace(manifest, checks=checks))
    assert states(clues, "shortcut") == states(clues, "duplicates") == ["mend"]


def test_what_the_bundle_lacks_is_found(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = with_variant(project, metrics={"calibration_error": {"value": 0.02, "low": 0.0, "high": 0.05}})
    assert states(fine, "calibration") == ["fine"]
    bad = with_variant(project, metrics={"calibration_error": {"value": 0.2, "low": 0.1, "high": 0.3}})
    assert states(bad, "calibration") == ["mend"]
    assert states(with_variant(project, metrics={}), "calibration") == ["unknown"]
    assert states(with_variant(project, decision={"curve": []}), "decision") == ["advice"]
    assert states(project, "golden cases") == ["fine"]
    golden = {**project.bundle.head["golden"], "defects": {"BGR": 0.9, "grey": 8.0}}  # type: ignore[union-attr]
    (finding,) = found(with_head(project, golden=golden), "golden cases")
    assert (finding.state, "BGR" in finding.what) == ("mend", True)
    golden["defects"] = {"BGR": 2.9, "grey": 8.0}
    (finding,) = found(with_head(project, golden=golden), "golden cases")
    assert (finding.state, "BGR" in finding.what) == ("advice", True)
    assert states(project, "signature") == ["advice"]
    assert states(with_head(project, licences={"weights": "CC-BY-NC-4.0"}), "licences") == ["advice"]
    assert states(with_head(project, about="Drawn."), "licences") == ["fine"]
    assert states(with_variant(project, baseline=None), "drift").count("advice") == 2  # and no log
    failed = type("Check", (), {"passed": False, "name": "golden int8"})
    monkeypatch.setattr(doctor, "verify", lambda _: type("Verdict", (), {"checks": (failed,)}))
    assert states(project, "verify") == ["mend"]


def test_a_signature_and_a_log_are_found(
    project: Project, drawn_bundle: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "mine.catflap"
    shutil.copy(drawn_bundle.path, bundle)
    bundle.with_name("mine.catflap.sig").write_text("{}")
    photos = drawn_bundle.path.with_name("photos")
    assert main(["predict", str(bundle), str(photos), "--log", str(tmp_path / "field.log")]) == 0
    (tmp_path / "other.log").write_text("not a field log")
    here = open_project(bundle)
    assert [log.name for log in here.logs] == ["field.log"]
    assert states(here, "signature") == ["fine"]
    (finding,) = found(here, "drift")
    assert (finding.state, "60 photos" in finding.what) == ("unknown", True)
    window = type("Report", (), {"latest": True, "alarm": True, "photos": 300})
    monkeypatch.setattr(doctor, "drift", lambda *_: window)
    assert states(here, "drift") == ["mend"]


def test_the_command_line_says_what_to_run(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = drawn_bundle.path.parent
    assert main(["doctor", str(folder), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["states"]["mend"] == sum(each["state"] == "mend" for each in answer["findings"])
    assert {each["check"] for each in answer["findings"]} >= {
        "whole", "current", "roles", "test size", "groups", "balance", "shortcut", "labels", "calibration",
        "golden cases", "verify", "signature", "drift", "licences",
    }  # fmt: skip
    for finding in answer["findings"]:
        if finding["state"] in ("mend", "advice"):
            assert finding["command"].split()[1] in COMMANDS
            assert finding["why"]
    assert main(["doctor", str(folder)]) == 1
    text = capsys.readouterr().out
    assert text.index("mend ") < text.index("advice ") < text.index("fine ")
    assert "run: catflap sign" in text
    assert main(["doctor", "--json"]) == 0
    assert "extras" in json.loads(capsys.readouterr().out)
