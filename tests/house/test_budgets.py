"""How long a file and a function may be, and how little `import catflap` may pull in."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from catflap.exporting.drawings import scene
from catflap.image import encode
from catflap.runtime.classifier import Classifier

MAX_FILE = 400
MAX_FUNCTION = 60
CODE = ("src", "tests", "benchmarks", "examples")


def python_files(repo: Path) -> list[Path]:
    return [path for folder in CODE for path in sorted((repo / folder).rglob("*.py"))]


def test_files_are_short(repo: Path) -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in python_files(repo)}
    assert {str(path): lines for path, lines in lengths.items() if lines > MAX_FILE} == {}


def test_functions_are_short(repo: Path) -> None:
    long = {}
    for path in python_files(repo):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION:
                    long[f"{path}:{node.name}"] = lines
    assert long == {}


@pytest.mark.parametrize("statement", ["import catflap", "import catflap.cli.main"])
def test_the_front_door_is_light(statement: str) -> None:
    """Only the standard library comes in, so the import costs milliseconds on every machine."""
    heavy = modules_after(statement) - set(sys.stdlib_module_names) - {"catflap"}
    assert {name for name in heavy if not name.startswith("_")} == {"__main__"} & heavy


def test_the_rooms_of_the_device_need_no_other_extra() -> None:
    """What predict and verify import is base: numpy, onnxruntime, Pillow and what these bring."""
    loaded = modules_after("import catflap.runtime.classifier, catflap.verification.verify")
    assert loaded & {"torch", "pyarrow", "sklearn", "rich", "onnx", "scipy", "pandas"} == set()


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a statement loads beyond those that a bare interpreter has."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in answer.stdout.split()}


def test_one_photo_goes_through_five_files() -> None:
    """From the path to the Prediction, so that a reader can follow it with a finger."""
    classifier, photo = Classifier("cat", variant="int8", threads=1), encode(scene(1, 500, 375), "JPEG")
    classifier(photo)  # imports and what is done once
    files = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and "/catflap/" in file:
            files.add(file.rpartition("/catflap/")[2])

    sys.setprofile(note)
    try:
        classifier(photo)
    finally:
        sys.setprofile(None)
    assert len(files) <= 5, sorted(files)
