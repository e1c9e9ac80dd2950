"""A runtime that is installed but does not load: what needs it says so, and everything else goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from catflap.exporting.golden_cases import scene
from catflap.image import encode
from tests.artifacts.samples import with_litert
from tests.matrix import mostly_slow

LIBRARY = "import ctypes\nctypes.CDLL('libnot_there.so.1')\n"  # OSError
EXTENSION = "from . import broken\n"  # ImportError: it is no shared object
PROGRAM = "import sys; from catflap.cli.main import run; sys.argv[0] = 'catflap'; run()"


def broken(folder: Path, module: str, code: str) -> dict[str, str]:
    """The environment of a process in which a package is installed that cannot be imported."""
    package = folder / "packages" / module
    package.mkdir(parents=True)
    (package / f"broken{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"cut short")
    for file in ("__init__.py", *(("interpreter.py",) if module == "ai_edge_litert" else ())):
        (package / file).write_text(code if file == "interpreter.py" or module != "ai_edge_litert" else "")
    paths = [str(folder / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def catflap(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("code", mostly_slow([LIBRARY, EXTENSION]))
def test_the_first_variant_that_can_run_answers(tiny_bundle: Path, tmp_path: Path, code: str) -> None:
    both = with_litert(tiny_bundle, tmp_path / "both.catflap", b"never read")
    environment = broken(tmp_path, "ai_edge_litert", code)
    verified = catflap(environment, "verify", both, "--json")
    assert verified.returncode == 0, verified.stderr
    answer = json.loads(verified.stdout)
    assert "golden:litert-fp32" not in [check["name"] for check in answer["checks"]]
    assert "ai_edge_litert is installed but does not load: " in answer["not_run"]["litert-fp32"]
    assert "pip install --force-reinstall ai-edge-litert" in answer["not_run"]["litert-fp32"]

    (tmp_path / "photo.png").write_bytes(encode(scene(3, 40, 40), "PNG"))
    named = catflap(
        environment, "predict", both, tmp_path / "photo.png", "--variant", "litert-fp32", "--json"
    )
    assert named.returncode == 2
    assert "installed but does not load" in json.loads(named.stdout)["error"]["what"]


def test_a_default_variant_that_does_not_load_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    from tests.runtime.test_classifier import rewritten

    both = with_litert(tiny_bundle, tmp_path / "both.catflap", b"never read")
    first = rewritten(
        both, tmp_path / "first.catflap", lambda head: head.update(default_variant="litert-fp32")
    )
    (tmp_path / "photo.png").write_bytes(encode(scene(3, 40, 40), "PNG"))
    answer = catflap(broken(tmp_path, "ai_edge_litert", EXTENSION), "predict", first, tmp_path / "photo.png")
    assert answer.returncode == 0, answer.stderr
    assert "litert-fp32 cannot run here, so fp32 answers." in answer.stderr


@pytest.mark.slow
def test_it_is_told_before_anything_is_converted(tmp_path: Path) -> None:
    """In one process, because each would load torch again."""
    for tool in ("nncf", "pnnx"):
        (tmp_path / "packages" / tool).mkdir(parents=True)
        (tmp_path / "packages" / tool / "__init__.py").touch()
    (tmp_path / "photos").mkdir()
    modules = ("openvino", "ncnn")
    for module in modules:
        environment = broken(tmp_path, module, EXTENSION)
    words = ("build", str(tmp_path / "photos"), "-o", str(tmp_path / "x.catflap"), "--json", "--variants")
    code = (
        "import sys; from catflap.cli.main import main\n"
        "for module in sys.argv[1].split(','):\n"
        "    assert main([*sys.argv[2:], f'int8,{module}-fp16']) == 2\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, ",".join(modules), *words],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for module, line in zip(modules, ran.stdout.splitlines(), strict=True):
        assert f"{module} is installed but does not load: " in json.loads(line)["error"]["what"]
