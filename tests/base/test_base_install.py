"""The edge install: numpy, onnxruntime, Pillow and nothing else; torch is proved to be unneeded."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from catflap.cli.main import COMMANDS
from catflap.errors import EXTRAS
from catflap.exporting.golden_cases import scene
from catflap.image import encode

BASE = {"catflap", "numpy", "onnxruntime", "pillow"}
BROUGHT = {
    "flatbuffers",
    "packaging",
    "protobuf",
    "coloredlogs",
    "humanfriendly",
    "sympy",
    "mpmath",
    "ml-dtypes",
}
TOOLS = {"pip", "setuptools", "wheel"}
HELP = """
import io, sys
from contextlib import redirect_stdout
from catflap.cli.main import main
for name in sys.argv[1:]:
    with redirect_stdout(io.StringIO()) as out:
        try:
            code = main([name, "--help"])
        except SystemExit as end:
            code = end.code or 0
    print(f"\\n{name} {code}\\n{out.getvalue()}")
"""
NEED_AN_EXTRA = {
    "scan": ("data", ["PHOTOS", "-o", "OUT"]),
    "build": ("train", ["PHOTOS", "-o", "OUT.catflap"]),
    "train": ("train", ["PHOTOS", "-o", "OUT"]),
    "export": ("train", ["CHECKPOINT", "-o", "OUT.catflap"]),
}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(scene(1, 500, 375), "JPEG"))
    return path


def python(base_python: Path, code: str, *words: str) -> str:
    command = [str(base_python), "-c", code, *words]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def catflap(base_python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(base_python.with_name("catflap")), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_holds_the_base_and_nothing_else(base_python: Path) -> None:
    listed = json.loads(python(base_python, LIST_PACKAGES))
    assert set(listed) >= BASE
    assert set(listed) - BASE - BROUGHT - TOOLS == set()


LIST_PACKAGES = (
    "import json; from importlib.metadata import distributions\n"
    "print(json.dumps(sorted({entry.metadata['Name'].lower() for entry in distributions()})))"
)


def test_no_extra_can_be_imported(base_python: Path) -> None:
    code = (
        "import sys; from importlib.util import find_spec\n"
        "print([name for name in sys.argv[1:] if find_spec(name)])"
    )
    assert python(base_python, code, *EXTRAS).strip() == "[]"


def test_every_public_name_is_there_or_says_what_to_install(base_python: Path) -> None:
    code = (
        "import catflap\n"
        "for name in catflap.__all__:\n"
        "    try: getattr(catflap, name); print(name)\n"
        "    except catflap.CatflapError as error: assert 'pip install' in error.fix, error.fix"
    )
    there = set(python(base_python, code).split())
    assert there >= {
        "Classifier",
        "verify",
        "bench",
        "Bundle",
        "load_bundle",
        "Frame",
        "Prediction",
        "ServeSettings",
        "WatchSettings",
        "CatflapError",
    }


def test_every_command_can_be_asked_for_help(base_python: Path) -> None:
    """One after the other in one process, which has to load what each needs."""
    helped = python(base_python, HELP, *COMMANDS)
    for name in COMMANDS:
        assert f"\n{name} 0\nusage: catflap {name}" in helped, name


def test_verify_predict_bench_and_doctor_work(base_python: Path, tiny_bundle: Path, photo: Path) -> None:
    verdict = json.loads(catflap(base_python, "verify", str(tiny_bundle), "--json").stdout)
    assert verdict["verdict"] == "pass", verdict
    answer = json.loads(catflap(base_python, "predict", str(tiny_bundle), str(photo), "--json").stdout)
    assert answer["label"] in ("cold", "warm")
    assert catflap(base_python, "bench", str(tiny_bundle), "--seconds", "0.05", "--json").returncode == 0
    parts = json.loads(catflap(base_python, "doctor", "--json").stdout)["extras"]
    assert parts["base"]["installed"]
    assert not parts["train"]["installed"]


def test_the_shipped_cat_verifies_and_answers(base_python: Path, photo: Path) -> None:
    assert json.loads(catflap(base_python, "verify", "cat", "--json").stdout)["verdict"] == "pass"
    answer = json.loads(catflap(base_python, "predict", "cat", str(photo), "--json").stdout)
    assert set(answer["probabilities"]) == {"cat", "not_cat"}


@pytest.mark.slow
def test_a_folder_is_watched_logged_and_queued(
    base_python: Path, tiny_bundle: Path, photo: Path, tmp_path: Path
) -> None:
    """All but cameras, videos and MQTT; those say what to install."""
    words = ("--log", str(tmp_path / "field.log"), "--log-photos", "--json")
    watched = catflap(base_python, "watch", str(tiny_bundle), str(photo.parent), *words)
    assert watched.returncode == 0, watched.stdout
    assert json.loads(watched.stdout.splitlines()[-1])["judged"] == 1
    drift = catflap(base_python, "drift", str(tiny_bundle), str(tmp_path / "field.log"), "--json")
    assert json.loads(drift.stdout)["photos"] == 1
    queue = catflap(
        base_python, "review", "queue", str(tmp_path / "field.log"), "-o", str(tmp_path / "queue")
    )
    assert queue.returncode == 0, queue.stderr
    (tmp_path / "film.mp4").write_bytes(b"x")
    film = catflap(base_python, "watch", str(tiny_bundle), str(tmp_path / "film.mp4"))
    assert "[live]" in film.stderr


@pytest.mark.parametrize("name", NEED_AN_EXTRA)
def test_what_needs_an_extra_says_which(base_python: Path, tmp_path: Path, name: str) -> None:
    extra, words = NEED_AN_EXTRA[name]
    answer = catflap(base_python, name, *(word.replace("OUT", str(tmp_path / "out")) for word in words))
    assert answer.returncode == 2
    assert re.search(rf"fix: Run: .* install .*\[{extra}\]", answer.stderr)
    assert "Traceback" not in answer.stderr


def test_an_answer_loads_no_heavy_module(tiny_bundle: Path, photo: Path, repo: Path) -> None:
    """In the full environment, where they could be loaded, they are not."""
    code = (
        "import sys; from catflap.cli.main import main\n"
        "assert main(['predict', *sys.argv[1:], '--json']) == 0; assert main(['verify', sys.argv[1]]) == 0\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    full = repo / ".venv" / "bin" / "python"
    if not full.exists():
        pytest.skip("there is no .venv; run: make .venv/ready")
    loaded = set(python(full, code, str(tiny_bundle), str(photo)).splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert loaded & (set(EXTRAS) | {"scipy", "pandas", "fsspec", "pydantic", "sympy"}) == set()


def test_it_writes_the_camera_page_or_says_that_it_was_not_built(base_python: Path, tmp_path: Path) -> None:
    answer = catflap(base_python, "web", "cat", "-o", str(tmp_path / "site"))
    if answer.returncode:
        assert "has no camera page" in answer.stderr
    else:
        assert (tmp_path / "site" / "bundle" / "bundle.json").is_file()
