"""A Bundle is looked into, unpacked, stripped and added to; what differs stays out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from catflap.artifacts import golden as golden_room
from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.artifacts.golden import HEADERS, read_golden
from catflap.cli.main import main
from catflap.errors import CatflapError, MissingExtra
from catflap.exporting.export import add_file, add_variants
from catflap.exporting.golden_cases import scene
from catflap.exporting.quantise import quantise
from catflap.exporting.repack import strip_bundle
from catflap.image import encode
from catflap.pipeline.trace import trace
from catflap.runtime.classifier import Classifier
from catflap.verification.verify import verify
from tests.artifacts.samples import write_bundle
from tests.tiny import Exported


def answered(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict:
    assert main(["bundle", *map(str, words), "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def stripped(drawn_bundle: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stripped") / "small.catflap"
    assert main(["bundle", "strip", str(drawn_bundle.path), "-o", str(path), "--variants", "int8"]) == 0
    return path


def test_inspect_says_what_is_in_it(drawn_bundle: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = load_bundle(drawn_bundle.path)
    reported = answered(capsys, "inspect", drawn_bundle.path)
    assert reported["labels"] == list(bundle.labels)
    assert {file["file"] for file in reported["files"]} == set(bundle.members) - {HEAD}
    for variant in reported["variants"]:
        about = bundle.variant(variant["variant"])
        assert variant["bytes"] == len(bundle.members[about.file])
        assert variant["accuracy"] == about.metrics["accuracy"]["value"]
        assert variant["runs_here"]


def test_unpack_writes_every_file(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(capsys, "unpack", drawn_bundle.path, "-o", tmp_path / "files")
    for name, data in load_bundle(drawn_bundle.path).members.items():
        assert (tmp_path / "files" / name).read_bytes() == data
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("mine")
    answered(capsys, "unpack", drawn_bundle.path, "-o", tmp_path / "mine", code=2)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["note.txt"]


def test_a_stripped_bundle_answers_as_before(drawn_bundle: Exported, stripped: Path) -> None:
    photo = encode(scene(5, 300, 200), "JPEG")
    whole, small = Classifier(drawn_bundle.path, "int8"), Classifier(stripped)
    assert small(photo).probabilities == whole(photo).probabilities
    assert verify(stripped).passed
    left_out = len(load_bundle(drawn_bundle.path).members["fp32.onnx"])
    assert stripped.stat().st_size < drawn_bundle.path.stat().st_size - left_out


def test_a_stripped_bundle_keeps_what_was_measured(drawn_bundle: Exported, stripped: Path) -> None:
    before, after = load_bundle(drawn_bundle.path), load_bundle(stripped)
    assert after.variants == {"int8": before.variant("int8")}
    assert set(after.members) == {HEAD, "int8.onnx", "golden.npz", "card.md"}
    golden, kept = read_golden(before), read_golden(after)
    assert kept.photos == golden.photos
    assert (kept.logits["int8"] == golden.logits["int8"]).all()
    assert set(kept.logits) == {"int8"}
    assert after.head["ancestors"] == {**before.head["ancestors"], "bundle": before.sha256}
    assert after.head["made_from"] != before.head["made_from"]
    assert "| fp32 |" not in bytes(after.members["card.md"]).decode()
    assert [step["kind"] for step in trace(stripped)][:3] == ["bundle", "bundle", "checkpoint"]


def test_stripping_is_reproducible_and_never_in_place(
    drawn_bundle: Exported, stripped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(capsys, "strip", drawn_bundle.path, "-o", tmp_path / "small.catflap", "--variants", "int8")
    assert (tmp_path / "small.catflap").read_bytes() == stripped.read_bytes()
    before = stripped.read_bytes()
    reported = answered(capsys, "strip", stripped, "-o", stripped, "--variants", "int8", code=2)
    assert "is the bundle itself" in reported["error"]["what"]
    reported = answered(capsys, "strip", stripped, "-o", tmp_path / "x.catflap", "--variants", "int4", code=2)
    assert "no variant 'int4'" in reported["error"]["what"]
    assert stripped.read_bytes() == before
    assert not (tmp_path / "x.catflap").exists()


def test_what_was_stripped_can_be_added_again(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    stripped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "both.catflap"
    answered(capsys, "add", stripped, "-o", out, "--checkpoint", drawn_checkpoint.path, "--variants", "fp32")
    before, after = load_bundle(drawn_bundle.path), load_bundle(out)
    assert after.variants == before.variants
    assert after.default_variant == "int8"
    assert (read_golden(after).logits["fp32"] == read_golden(before).logits["fp32"]).all()
    assert after.head["ancestors"]["bundle"] == load_bundle(stripped).sha256
    assert verify(out).passed
    reported = answered(
        capsys, "add", out, "-o", tmp_path / "x.catflap", "--checkpoint", drawn_checkpoint.path, code=2
    )
    assert "has a variant 'int8'" in reported["error"]["what"]


def test_a_file_that_differs_is_not_added(
    drawn_bundle: Exported, drawn_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was calibrated on grey, and the right one under another name."""
    fp32 = bytes(load_bundle(drawn_bundle.path).members["fp32.onnx"])
    words = ["add", drawn_bundle.path, "-o", tmp_path / "new.catflap", "--checkpoint", drawn_checkpoint.path]
    (tmp_path / "grey.onnx").write_bytes(quantise(fp32, np.full((8, 64, 64, 3), 128, np.uint8)))
    reported = answered(capsys, *words, "--file", tmp_path / "grey.onnx", "--precision", "int8", code=1)
    assert "grey differs too much from the checkpoint" in reported["error"]["what"]
    assert not (tmp_path / "new.catflap").exists()
    graph = onnx.load_from_string(fp32)
    graph.graph.output.extend([graph.graph.output.pop(0)])  # another tool may name the embedding first
    (tmp_path / "other.onnx").write_bytes(graph.SerializeToString())
    answered(capsys, *words, "--file", tmp_path / "other.onnx", "--name", "again")
    bundle = load_bundle(tmp_path / "new.catflap")
    assert bundle.variant("again").fidelity["flips"] == 0
    assert set(bundle.variants) == {"int8", "fp32", "again"}


def rewritten(bundle: Path, out: Path, head: dict[str, Any], files: dict[str, bytes]) -> Path:
    """The Bundle with some fields of its head and some files changed or added."""
    opened = load_bundle(bundle)
    fields = {name: value for name, value in opened.head.items() if name != "files"}
    members = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    write_bundle(out, {**fields, **head}, {**members, **files})
    return out


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("targets/other/mine.onnx", ["--file", "fp32.onnx", "--name", "mine"]),
        ("targets/openvino/fp16.bin", ["--variants", "openvino-fp16"]),
        ("targets/coreml/fp32.mlmodel", ["--variants", "coreml-fp32"]),
    ],
)
def test_no_variant_takes_the_file_of_another(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = load_bundle(drawn_bundle.path)
    fp32 = bytes(bundle.members["fp32.onnx"])
    (tmp_path / "fp32.onnx").write_bytes(fp32)
    variants = {**bundle.head["variants"], "fp32": {**bundle.head["variants"]["fp32"], "file": file}}
    path = rewritten(drawn_bundle.path, tmp_path / "x.catflap", {"variants": variants}, {file: fp32})
    reported = answered(
        capsys, "add", path, "-o", "new.catflap", "--checkpoint", drawn_checkpoint.path, *words, code=2
    )
    assert f"has a file {file} of another variant" in reported["error"]["what"]
    assert not (tmp_path / "new.catflap").exists()


@pytest.mark.parametrize(("end", "other"), [("pixels", "input"), ("logits", "output")])
def test_a_graph_whose_ends_are_called_otherwise_is_not_added(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    end: str,
    other: str,
) -> None:
    graph = onnx.load_from_string(bytes(load_bundle(drawn_bundle.path).members["fp32.onnx"])).graph
    for names in (each for node in graph.node for each in (node.input, node.output)):
        names[:] = [other if name == end else name for name in names]
    for value in (*graph.input, *graph.output):
        value.name = other if value.name == end else value.name
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "mine.onnx").write_bytes(made.SerializeToString())
    words = ["-o", tmp_path / "new.catflap", "--checkpoint", drawn_checkpoint.path]
    reported = answered(capsys, "add", drawn_bundle.path, *words, "--file", tmp_path / "mine.onnx", code=2)
    assert reported["error"]["what"].startswith("The graph of mine takes ")
    assert other in reported["error"]["what"]
    assert "take 'pixels' and give 'logits'" in reported["error"]["what"]
    assert not (tmp_path / "new.catflap").exists()


@pytest.mark.parametrize(
    "head",
    [
        {"training": {"epochs": 3}},
        {"training": "long", "about": 5, "versions": {}},
        {"training": {"backbone": ["x"], "recipe": None, "roles": {"train": "many"}}, "about": "Mine."},
    ],
)
def test_the_card_of_another_writers_bundle_tells_what_is_there(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: dict[str, Any]
) -> None:
    path = rewritten(tiny_bundle, tmp_path / "x.catflap", head, {})
    answered(capsys, "strip", path, "-o", tmp_path / "y.catflap", "--variants", "fp32")
    card = bytes(load_bundle(tmp_path / "y.catflap").members["card.md"]).decode()
    assert card.startswith("# warmth\n")
    assert "| fp32 | not stated | 1 of 100 |" in card
    assert ("Mine." in card) == (head.get("about") == "Mine.")


def test_golden_cases_may_have_another_name(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = load_bundle(tiny_bundle)
    files = {name: bytes(data) for name, data in opened.members.items() if name != HEAD}
    files["cases.npz"] = files.pop("golden.npz")
    head = {name: value for name, value in opened.head.items() if name != "files"}
    head["golden"] = {**head["golden"], "file": "cases.npz"}
    write_bundle(tmp_path / "x.catflap", head, files)
    answered(capsys, "strip", tmp_path / "x.catflap", "-o", tmp_path / "y.catflap", "--variants", "fp32")
    stripped = load_bundle(tmp_path / "y.catflap")
    assert set(stripped.members) == {HEAD, "fp32.onnx", "cases.npz", "card.md"}
    assert read_golden(stripped).photos == read_golden(opened).photos
    assert verify(stripped.path).passed


def test_what_is_absent_is_told_before_photos_are_scored(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = (load_bundle(drawn_bundle.path), drawn_checkpoint, drawn_dataset, tmp_path / "new.catflap")
    (tmp_path / "mine.pte").write_bytes(b"a program")
    for place in ("catflap.errors", "catflap.runtime.engine"):
        monkeypatch.setattr(f"{place}.find_spec", lambda name: None)
    reported: list[str] = []

    def progress(step: str, *_: int) -> None:
        reported.append(step)

    for name, needed in (("openvino-fp16", "openvino"), ("coreml-fp32", "coremltools")):
        with pytest.raises(MissingExtra, match=f"needs {needed}, which is not installed"):
            add_variants(*given, (name,), progress=progress)
    with pytest.raises(MissingExtra, match="needs executorch, which is not installed"):
        add_file(*given, tmp_path / "mine.pte", "mine", progress=progress)
    assert reported == []
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pte"]


def test_golden_cases_that_would_be_too_large_are_told_before_photos_are_scored(
    drawn_bundle: Exported,
    drawn_checkpoint: Checkpoint,
    drawn_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut = tmp_path / "cut.catflap"
    strip_bundle(drawn_bundle.path, cut, ("fp32",))
    bundle = load_bundle(cut)
    golden = read_golden(bundle)
    size = sum(map(len, golden.photos)) + golden.frames.nbytes + 2 * golden.logits["fp32"].nbytes
    monkeypatch.setattr(golden_room, "MAX_BYTES", size + 8 * len(golden.photos) + HEADERS - 1)
    reported: list[str] = []

    def progress(step: str, *_: int) -> None:
        reported.append(step)

    out = tmp_path / "new.catflap"
    with pytest.raises(CatflapError, match="Add fewer variants, or strip one first"):
        add_variants(bundle, drawn_checkpoint, drawn_dataset, out, ("int8",), progress=progress)
    assert (reported, out.exists()) == ([], False)


def test_a_variant_that_cannot_run_here_is_told_and_not_judged(
    drawn_bundle: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(drawn_bundle.path)
    head = {name: value for name, value in bundle.head.items() if name != "files"}
    foreign = {**head["variants"]["fp32"], "runtime": "abacus", "file": "card.md"}
    head["variants"] = {**head["variants"], "fp32": foreign}
    path = tmp_path / "foreign.catflap"
    write_bundle(path, head, {name: bytes(data) for name, data in bundle.members.items() if name != HEAD})
    verdict = verify(path)
    assert verdict.passed
    assert "abacus" in verdict.not_run["fp32"]
    assert [check.name for check in verdict.checks] == [
        "integrity",
        "pixels",
        "golden:int8",
        "decisions:int8",
    ]
    assert main(["verify", str(path), "--variants", "fp32", "--json"]) == 2
    assert "abacus" in json.loads(capsys.readouterr().out)["error"]["what"]
    assert main(["verify", str(path), "--variants", "int4"]) == 2
