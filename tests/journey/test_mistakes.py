"""Twenty mistakes of a first hour: each is answered with what happened and a fix that helps there."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from catflap.artifacts.bundle import SHIPPED
from catflap.cli.main import main
from catflap.installing import install_extra
from tests.tiny import draw_photos, drawn

MISTAKES = {
    "a mistyped command": (["bild", "photos"], "Did you mean: catflap build"),
    "no name for the bundle": (["build", "photos"], "For example: catflap build PHOTOS -o cat.catflap"),
    "a folder that is not there": (["build", "fotos", "-o", "x"], "Name a folder"),
    "photos without a folder a label": (["build", "flat", "-o", "x"], "one folder a label, such as cat/"),
    "one label only": (["build", "onelabel", "-o", "x"], "one folder a label, such as cat/"),
    "three photos a label": (["build", "three", "-o", "x"], "Add photos that are not copies"),
    "broken photos only": (["build", "broken", "-o", "x"], "Copy them again."),
    "one photo in place of a folder": (["build", "photo.jpg", "-o", "x"], "Name a folder, a .zip"),
    "another suffix": (["build", "photos", "-o", "x.onnx"], "Use: -o x.onnx.catflap"),
    "a file where a folder is wanted": (["scan", "photos", "-o", "photo.jpg"], "Choose another output name"),
    "a photo without a bundle": (["predict", "photo.jpg"], "For example: catflap predict"),
    "a bundle that is not there": (["predict", "mine.catflap", "photo.jpg"], "Name a .catflap file"),
    "a mistyped bundle": (["predict", "hlaf.catflap", "photo.jpg"], "Did you mean: half.catflap"),
    "the photo before the bundle": (["predict", "photo.jpg", "half.catflap"], "it comes before the photos"),
    "an option of another command": (["build", "photos", "-o", "x", "--device", "cuda"], "catflap train"),
    "a rate in percent": (["predict", "cat", "photo.jpg", "--error-rate", "2%"], "Use 0.02."),
    "another tool's command": (["report", "half.catflap"], "Did you mean: catflap evaluate"),
    "photos in place of a dataset": (["train", "photos", "-o", "x"], "which `catflap prepare` writes"),
    "an audit of nothing": (["audit", "foto"], "Name a dataset, or what `catflap build` wrote"),
    "a damaged bundle": (["predict", "half.catflap", "photo.jpg"], "Copy or export it again"),
    "a variant that it lacks": (["predict", "cat", "photo.jpg", "--variant", "int4"], "Use one of: int8"),
    "a mistyped option": (["predict", "cat", "photo.jpg", "--erorr-rate", "1"], "Did you mean: --error-rate"),
    "no such video": (["watch", "cat", "film.mp4"], "Name a camera (0 or"),
    "a port in use": (["serve", "cat", "--port", "PORT"], "another --port"),
    "nothing to measure on": (["evaluate", "own.catflap", "-o", "r"], "Name a dataset or a folder of photos"),
    "an audit of a dataset without a name": (["audit", "photos"], "Add -o audited.manifest"),
    "decisions that are none": (
        ["review", "apply", "photos", "notes.txt", "-o", "r"],
        "Name|Scan|Run",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what these people have."""
    root = tmp_path_factory.mktemp("place")
    draw_photos(root / "photos", count=2)
    draw_photos(root / "three", count=3)
    draw_photos(root / "onelabel", labels=("cat",), count=3)
    draw_photos(root / "broken", count=3)
    for photo in (root / "broken").rglob("*.jpg"):
        photo.write_bytes(photo.read_bytes()[:300])
    (root / "flat").mkdir()
    for number in range(3):
        Image.fromarray(drawn("cat", number)).save(root / "flat" / f"{number}.jpg")
    shutil.copy(root / "flat" / "0.jpg", root / "photo.jpg")
    shutil.copy(SHIPPED / "cat.catflap", root / "own.catflap")
    (root / "half.catflap").write_bytes((SHIPPED / "cat.catflap").read_bytes()[:100_000])
    (root / "notes.txt").write_text("cat: good")
    return root


@pytest.fixture
def fix_of(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    monkeypatch.chdir(place)

    def fix_of(*words: str) -> str:
        code = main([*words, "--json"])
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert code in (1, 2)
        assert answer["error"]["what"].endswith((".", ".'", '."')), answer
        return str(answer["error"]["fix"])

    return fix_of


@pytest.mark.parametrize("name", MISTAKES)
def test_the_second_sentence_helps(fix_of: Callable[..., str], name: str) -> None:
    words, fix = MISTAKES[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = fix_of(*(word.replace("PORT", port) if word == "PORT" else word for word in words))
    assert any(part in message for part in fix.split("|")), message


def test_a_full_disk_says_so_and_what_to_do(
    fix_of: Callable[..., str], place: Path, mount_small: Callable[[str], Path]
) -> None:
    small = mount_small("64k")
    (small / "filler").write_bytes(bytes(shutil.disk_usage(small).free))
    for words in (("scan", "photos", "-o", small / "m"), ("bundle", "unpack", "cat", "-o", small / "b")):
        fix = fix_of(*map(str, words))
        assert "free" in fix or "room" in fix or "space" in fix, fix


def test_a_folder_that_may_not_be_written_says_so(
    fix_of: Callable[..., str], mount_small: Callable[[str], Path]
) -> None:
    """A file system that is read-only: root, as in a container, may write everywhere else."""
    shut = mount_small("64k")
    command = ["mount", "-o", "remount,ro", str(shut)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this file system cannot be made read-only")
    for words in (("scan", "photos", "-o", shut / "m"), ("bundle", "unpack", "cat", "-o", shut / "b")):
        assert "can only be read" in fix_of(*map(str, words))


def test_pages_that_were_not_built_name_node(
    fix_of: Callable[..., str], place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from catflap.serving import static_site

    monkeypatch.setattr(static_site.write_site, "__defaults__", (tmp_path / "none",))
    assert "Install Node" in fix_of("web", "cat", "-o", str(tmp_path / "site"))
    pytest.importorskip("uvicorn")
    from catflap.studio.studio import studio

    assert studio.__defaults__ is not None
    monkeypatch.setattr(studio, "__defaults__", (*studio.__defaults__[:-1], tmp_path / "none"))
    assert "Install Node" in fix_of("studio", str(tmp_path / "project"), "--no-browser")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_without_a_python_that_is_new_enough_says_which(repo: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "-B", "PYTHON=", ".venv-base/ready"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "Catflap needs Python 3.11 or newer; name one with PYTHON=" in done.stderr


@pytest.mark.parametrize("verb", [("build", "photos", "-o", "x"), ("audit", "photos"), ("demo",)])
def test_a_verb_that_trains_names_the_extra_with_all_of_it(
    fix_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    monkeypatch.setattr("catflap.errors.find_spec", lambda name: None)
    assert fix_of(*verb) == f"Run: {install_extra('train')}"
