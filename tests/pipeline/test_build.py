"""Build keeps what is whole and unchanged, makes what is not, and survives kills with the same bytes."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.checkpoint import WEIGHTS, load_checkpoint
from catflap.artifacts.folder import working_folder
from catflap.artifacts.golden import Golden, encode_golden, read_golden
from catflap.artifacts.manifest import load_manifest
from catflap.artifacts.report import load_report
from catflap.cli.prepare import frame_arguments, frame_of
from catflap.data.roles import SHARES
from catflap.data.scan import scan, some_readable
from catflap.errors import BadArtifact, CatflapError, MissingExtra, Refused
from catflap.exporting.target import Target, check_tools, load_targets
from catflap.image import Frame, encode
from catflap.pipeline.build import build
from catflap.training.plan import Plan
from catflap.verification.verify import verify
from tests.artifacts.samples import write_bundle
from tests.matrix import mostly_slow
from tests.tiny import (
    FRAME,
    TINY,
    Exported,
    draw_photos,
    drawn,
    make_bundle,
    make_checkpoint,
    make_dataset,
)

PLAN = Plan(backbone=TINY)
STEPS = ["scan", "prepare", "train", "export", "evaluate"]


@pytest.fixture(autouse=True)
def shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shares of large sets, which the drawn dataset has."""
    monkeypatch.setattr("catflap.data.prepare.usual_shares", lambda _: SHARES)


@pytest.fixture(scope="module")
def drawn_bundle(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The drawn bundle with photos of its own, which tests here take away and change."""
    dataset = make_dataset(tmp_path_factory.mktemp("drawn"))
    return make_bundle(make_checkpoint(dataset), dataset)


@pytest.fixture
def built(drawn_bundle: Exported, tmp_path: Path) -> Path:
    """The Bundle as `build` would have left it, all but the Report; its photos lie in `photos`."""
    home = drawn_bundle.path.parent
    shutil.copy(drawn_bundle.path, tmp_path / "tiny.catflap")
    for name in ("manifest", "dataset", "checkpoint"):
        shutil.copytree(home / name, tmp_path / "tiny.build" / name)
    return tmp_path / "tiny.catflap"


def made(summary: dict[str, Any]) -> list[str]:
    assert list(summary["steps"]) == STEPS
    return [name for name, step in summary["steps"].items() if not step["skipped"]]


def test_operating_points_are_exported_once_and_unknown_labels_refused_before_train(
    built: Path, drawn_bundle: Exported
) -> None:
    photos, steps = drawn_bundle.path.with_name("photos"), set[str]()
    wishes: Any = {
        "plan": PLAN,
        "frame": FRAME,
        "operating_points": ("cat:min_recall=0.9",),
        "variants": ("fp32",),
    }
    assert made(build(photos, built, **wishes)) == ["export", "evaluate"]
    assert load_bundle(built).variant().operating_points[0]["wish"] == {"min_recall": 0.9}
    assert made(build(photos, built, **wishes)) == []
    shutil.rmtree(built.with_suffix(".build") / "checkpoint")
    wishes["operating_points"] = ("dog:min_recall=0.9",)
    with pytest.raises(CatflapError, match="names an unknown label"):
        build(photos, built, **wishes, progress=lambda step, *_: steps.add(step))
    assert steps == set()


def test_what_is_there_is_kept(built: Path, drawn_bundle: Exported) -> None:
    photos, before = drawn_bundle.path.with_name("photos"), built.read_bytes()
    first = build(photos, built, plan=PLAN, frame=FRAME)
    assert (made(first), first["verdict"]) == (["evaluate"], "pass")
    recorded: list[dict[str, Any]] = []
    assert made(build(photos, built, plan=PLAN, frame=FRAME, record=recorded.append)) == []
    assert recorded == load_checkpoint(built.with_suffix(".build") / "checkpoint").history
    assert built.read_bytes() == before
    assert Path(first["page"]).read_text("utf-8").startswith("<!doctype html>")
    assert load_report(first["report"]).page == Path(first["page"])  # as `evaluate` has it
    assert first["photos"]["found"] == 60
    assert first["variants"]["int8"]["flips"] == drawn_bundle.answer["variants"]["int8"]["fidelity"]["flips"]


def test_what_a_kill_left_beside_finished_steps_is_deleted(built: Path, drawn_bundle: Exported) -> None:
    """A kill after a step's result took its name, and before its working folder was gone."""
    photos, work = drawn_bundle.path.with_name("photos"), built.with_suffix(".build")
    build(photos, built, plan=PLAN, frame=FRAME)
    before = {path.name for path in [built, *work.rglob("*")]}
    for name in ("manifest.scan", "dataset.prepare", "report.scored"):
        (work / f".{name}").mkdir()
        (work / f".{name}" / "lock").touch()
    (work / ".checkpoint.train").touch()
    (work / ".checkpoint.resume").write_bytes(b"weights")
    with working_folder(built, "export") as in_use:
        assert made(build(photos, built, plan=PLAN, frame=FRAME)) == []
        assert in_use.is_dir()
    assert {path.name for path in [built, *work.rglob("*")]} == before


@contextmanager
def absent(photo: Path) -> Iterator[None]:
    """A photo that cannot be read for a while."""
    away = photo.with_suffix(".away")
    photo.rename(away)
    try:
        yield
    finally:
        away.rename(photo)


@contextmanager
def changed(photo: Path) -> Iterator[None]:
    """A photo that has other pixels for a while, at the same size and time."""
    data, status = photo.read_bytes(), photo.stat()
    middle = len(data) // 2
    try:
        photo.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
        yield
    finally:
        photo.write_bytes(data)
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.slow
def test_photos_that_could_not_be_read_are_looked_at_again(built: Path, drawn_bundle: Exported) -> None:
    photos, manifest = drawn_bundle.path.with_name("photos"), built.with_suffix(".build") / "manifest"
    with ExitStack() as meanwhile:

        def vanish(step: str, done: int, total: int) -> None:
            if (step, done) == ("scan", 0):
                meanwhile.enter_context(absent(photos / "cat" / "07.jpg"))

        assert scan(photos, manifest, workers=1, progress=vanish).reasons == {"unreadable": 1}
    summary = build(photos, built, plan=PLAN, frame=FRAME)
    assert (summary["photos"]["found"], summary["photos"]["quarantined"]) == (60, 0)
    assert made(summary) == ["scan", "evaluate"], "the others were made from all photos"
    assert made(build(photos, built, plan=PLAN, frame=FRAME)) == []


@pytest.mark.slow
def test_photos_that_stay_unreadable_are_not_scanned_for_again(built: Path, drawn_bundle: Exported) -> None:
    photos, work = drawn_bundle.path.with_name("photos"), built.with_suffix(".build")
    link, pipe, target = photos / "cat" / "link.jpg", photos / "cat" / "pipe.jpg", built.with_name("07.jpg")
    try:
        link.symlink_to(target)
        os.mkfifo(pipe)
        summary = build(photos, built, plan=PLAN, frame=FRAME)
        assert (made(summary)[0], summary["photos"]["quarantined"]) == ("scan", 2)
        assert made(build(photos, built, plan=PLAN, frame=FRAME)) == []
        shutil.copy(photos / "cat" / "07.jpg", target)
        assert some_readable(load_manifest(work / "manifest"))
    finally:
        link.unlink(missing_ok=True)
        pipe.unlink(missing_ok=True)


@pytest.mark.parametrize("why", mostly_slow(["damaged", "outdated"]))
def test_a_manifest_that_no_dataset_can_be_made_of_is_made_again(
    why: str, built: Path, drawn_bundle: Exported
) -> None:
    photos, work, before = (
        drawn_bundle.path.with_name("photos"),
        built.with_suffix(".build"),
        built.read_bytes(),
    )
    shutil.rmtree(work / "dataset")
    if why == "damaged":
        table = work / "manifest" / "photos.parquet"
        table.write_bytes(table.read_bytes()[:-9])
    else:
        with changed(photos / "cat" / "07.jpg"):
            scan(photos, work / "manifest", workers=1)
    assert made(build(photos, built, plan=PLAN, frame=FRAME)) == ["scan", "prepare", "evaluate"]
    assert built.read_bytes() == before


def test_photos_that_change_all_the_time_are_one_error(built: Path, drawn_bundle: Exported) -> None:
    photos, work = drawn_bundle.path.with_name("photos"), built.with_suffix(".build")
    shutil.rmtree(work / "dataset")
    scans = 0
    with ExitStack() as meanwhile:

        def change(step: str, done: int, total: int) -> None:
            nonlocal scans
            scans += (step, done) == ("scan", 0)
            if (step, done) == ("prepare", 0):
                meanwhile.enter_context(changed(photos / "cat" / f"0{scans}.jpg"))

        with pytest.raises(BadArtifact, match=r"has changed .*\. Delete .*manifest and build again\."):
            build(photos, built, plan=PLAN, frame=FRAME, progress=change)
    assert scans == 1
    assert not (work / "dataset").exists()


def test_a_kept_bundle_that_does_not_pass_here_is_refused(built: Path, drawn_bundle: Exported) -> None:
    """As on a machine on which its variants answer otherwise than where it was exported."""
    kept = load_bundle(built)
    golden = read_golden(kept)
    logits = {name: rows + 9 for name, rows in golden.logits.items()}
    files = {name: bytes(data) for name, data in kept.members.items() if name != HEAD}
    files[kept.head["golden"]["file"]] = encode_golden(Golden(golden.photos, golden.frames, logits))
    write_bundle(built, {name: value for name, value in kept.head.items() if name != "files"}, files)
    with pytest.raises(Refused, match="does not pass here: "):
        build(drawn_bundle.path.with_name("photos"), built, plan=PLAN, frame=FRAME)


@pytest.mark.slow
def test_what_is_damaged_is_made_again_and_the_same(built: Path, drawn_bundle: Exported) -> None:
    photos, before = drawn_bundle.path.with_name("photos"), built.read_bytes()
    built.write_bytes(before[:-1])
    weights = built.with_suffix(".build") / "checkpoint" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    assert made(build(photos, built, plan=PLAN, frame=FRAME)) == ["train", "export", "evaluate"]
    assert built.read_bytes() == before


@pytest.mark.slow
def test_a_new_photo_makes_all_anew(built: Path, drawn_bundle: Exported, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(drawn_bundle.path.with_name("photos"), photos)
    (photos / "cat" / "new.png").write_bytes(encode(drawn("cat", 77), "PNG"))
    before = built.read_bytes()
    summary = build(photos, built, plan=PLAN, frame=FRAME)
    assert made(summary) == STEPS
    assert summary["photos"]["found"] == 61
    assert built.read_bytes() != before


KILLED = """
import os, random, signal, sys, time
from contextlib import suppress
from pathlib import Path
import tests.tiny
import catflap.exporting.export, catflap.pipeline.build, catflap.training.train  # each build does without
from catflap.cli.main import main

def start(out):
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os.environ["CATFLAP_CACHE"] = str(out.with_name("cache"))
        with tests.tiny.keeping_graphs(tests.tiny.GRAPHS):
            words = ["--size", "64", "--backbone", tests.tiny.TINY]
            os._exit(main(["build", sys.argv[1], "-o", str(out), *words]))
    return child

whole, out, begin = Path(sys.argv[2]), Path(sys.argv[3]), time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(start(whole), 0)[1]) == 0
taken, dice = time.monotonic() - begin, random.Random(0)
for third in range(3):
    child = start(out)
    time.sleep(taken * dice.uniform(third, third + 1) / 4)  # what was finished before is not made again
    os.kill(child, signal.SIGKILL)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    assert not out.exists() or out.read_bytes() == whole.read_bytes()
assert os.waitstatus_to_exitcode(os.waitpid(start(out), 0)[1]) == 0
"""


@pytest.mark.slow
def test_killed_builds_leave_whole_artefacts_and_end_with_the_same_bytes(
    drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory, repo: Path
) -> None:
    """Each build is a process of its own, forked from one that has imported what learns."""
    tmp_path, whole = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("whole") / "tiny.catflap"
    out, photos = tmp_path / "tiny.catflap", drawn_bundle.path.with_name("photos")
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(repo)])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, photos, whole, out],
        env=paths, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "\n-9\n" in done.stdout, "one of them was killed"
    assert out.read_bytes() == whole.read_bytes()
    left = {path.name for path in [*tmp_path.iterdir(), *out.with_suffix(".build").iterdir()]}
    assert left == {"cache", "tiny.catflap", "tiny.build", "manifest", "dataset", "checkpoint", "report"}


@pytest.mark.slow
def test_a_frame_that_is_no_square_goes_the_whole_line(drawn_bundle: Exported, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out, variants = tmp_path / "wide.catflap", ("int8", "openvino-fp16")
    summary = build(
        drawn_bundle.path.with_name("photos"), out, plan=PLAN, frame=Frame(96, 64), variants=variants
    )
    assert summary["verdict"] == "pass"
    bundle = load_bundle(out)
    assert (bundle.frame.width, bundle.frame.height) == (96, 64)
    assert verify(out).passed
    both = [member for name, member in bundle.members.items() if name.startswith("targets/openvino/")]
    assert len(both) == 2, "the graph and its weights"
    assert summary["variants"]["openvino-fp16"]["bytes"] == sum(map(len, both))


@pytest.mark.slow
def test_where_nothing_is_said_validation_chooses(tmp_path: Path) -> None:
    out, photos = tmp_path / "chosen.catflap", draw_photos(tmp_path / "photos", count=10)
    summary = build(photos, out, variants=("fp32",))
    assert summary["verdict"] == "pass"
    checkpoint = load_checkpoint(out.with_suffix(".build") / "checkpoint")
    trials = [entry for entry in checkpoint.history if entry["step"] == "trial"]
    assert [(trial["backbone"], trial["size"]) for trial in trials] == [
        ("efficientnet_lite0", 288),
        ("efficientnet_lite2_slim", 320),
    ]
    (picked,) = (trial for trial in trials if trial["picked"])
    assert (checkpoint.backbone, load_bundle(out).frame.width) == (picked["backbone"], picked["size"])
    trained = summary["trained"]
    assert (trained["backbone"], trained["frame"]["width"]) == (picked["backbone"], picked["size"])
    assert (trained["recipe"], {trial["recipe"] for trial in trials}) == ("head", {"head"})


@pytest.mark.slow
def test_what_it_chooses_has_at_most_4_mb(drawn_bundle: Exported, tmp_path: Path) -> None:
    """Of photos of 38 px, too small for the slim Lite2 at 320 px, the list goes on with Lite1."""
    for path in drawn_bundle.path.with_name("photos").rglob("0?.jpg"):
        small = tmp_path / "photos" / path.parent.name / f"{path.stem}.png"
        small.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize((38, 38)).save(small)
    out = tmp_path / "chosen.catflap"

    def stop_after_training(*_: object) -> None:
        if (out.with_suffix(".build") / "checkpoint").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "photos", out, variants=("fp32",), progress=stop_after_training)
    checkpoint = load_checkpoint(out.with_suffix(".build") / "checkpoint")
    trials = [entry for entry in checkpoint.history if entry["step"] == "trial"]
    fits = {(trial["backbone"], trial["size"]): trial["fits"] for trial in trials}
    assert fits == {("efficientnet_lite0", 288): True, ("efficientnet_lite1", 288): False}


@pytest.mark.parametrize(
    ("words", "frame"),
    [([], None), (["--size", "96x64"], Frame(96, 64)), (["--fit", "crop"], Frame(288, 288, "crop"))],
)
def test_a_frame_is_asked_for_or_not(words: list[str], frame: Frame | None) -> None:
    parser = argparse.ArgumentParser()
    frame_arguments(parser)
    assert frame_of(parser.parse_args(words)) == frame


def test_what_was_said_is_left_alone() -> None:
    assert Plan(seed=3, epochs=2).is_default
    choices = [{"backbone": "efficientnet_lite0"}, {"minutes": 1.0}, {"trials": 0}]
    assert not any(Plan(**one).is_default for one in choices)  # type: ignore[arg-type]


def test_what_cannot_be_exported_is_told_before_anything_is_scanned(tmp_path: Path) -> None:
    for variants, what in (
        (("int8", "int9"), "no variant 'int9'"),
        (("coreml-fp32",), "nothing would be tested"),
    ):
        with pytest.raises(CatflapError, match=what):
            build(tmp_path / "none", tmp_path / "x.catflap", variants=variants)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target", [one for one in load_targets().values() if one.packages], ids=lambda one: one.name
)
def test_each_package_that_a_target_needs_is_asked_for_before_anything_is_scanned(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_target = {form.precision: name for name, form in target.forms.items()}
    name = of_target.get("int8") or next(iter(of_target.values()))
    for package in (*target.packages, *target.quantisers):
        absent = package.replace("-", "_")
        monkeypatch.setattr(
            "catflap.errors.find_spec", lambda module, absent=absent: module != absent or None
        )
        with pytest.raises(MissingExtra, match=f"needs {absent},"):
            build(tmp_path / "none", tmp_path / "x.catflap", variants=("int8", name))
        for other in {*of_target.values()} - {name} if package in target.quantisers else ():
            check_tools(other)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_built_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatflapError):
        build(tmp_path / "empty", tmp_path / "x.catflap")
    with pytest.raises(CatflapError):
        build(tmp_path / "none", tmp_path / "x.catflap")
    with pytest.raises(CatflapError, match="name ends with"):
        build(tmp_path / "empty", tmp_path / "x")
    with pytest.raises(CatflapError, match="9 minutes of the recipe scratch"):  # before anything is scanned
        build(tmp_path / "none", tmp_path / "x.catflap", plan=Plan(minutes=9, recipe="scratch"))
    with pytest.raises(CatflapError, match="--epochs has no meaning"):
        build(tmp_path / "none", tmp_path / "x.catflap", plan=Plan(recipe="head", epochs=9))
    assert not (tmp_path / "x.catflap").exists()
