"""How little `import catflap` may pull in, and how few files a photo goes through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

import catflap
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.runtime.classifier import Classifier


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
    code = (
        f"import sys; before = set(sys.modules); {statement}\n"
        "print(*(name for name, module in sys.modules.items() if module and name not in before))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in answer.stdout.split()}


def test_one_photo_goes_through_twelve_calls_in_four_files(tmp_path: Path) -> None:
    """From the path to the Prediction, so that a reader can follow it with a finger."""
    classifier, photo = Classifier("cat", variant="int8", threads=1), tmp_path / "photo.jpg"
    photo.write_bytes(encode(scene(1, 500, 375), "JPEG"))
    classifier(photo)  # imports and what is done once
    calls, ours = [], Path(catflap.__file__).parent

    def note(frame: FrameType, event: str, _: object) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(ours):
            calls.append((str(file.relative_to(ours)), frame.f_code.co_name))

    sys.setprofile(note)
    try:
        classifier(photo)
    finally:
        sys.setprofile(None)
    assert len(calls) <= 12, calls
    assert len({file for file, _ in calls}) <= 4, calls
