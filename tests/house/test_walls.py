"""Which room may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

from catflap.errors import EXTRAS

# A foreign library belongs to one file. These belong to more: the files, or their folder, and why.
SHARED = {
    "torch": (
        "training/ exporting/ runtime/engine_executorch.py",
        "the network, its features, training, graphs and weights; lint-imports holds it",
    ),
    "timm": ("training/backbones.py training/depthwise.py", "its models; its convolutions, made faster"),
    "safetensors": ("training/", "weights of a Checkpoint and the resume state of fine-tuning"),
    "pyarrow": ("artifacts/tables.py data/", "tables.py owns the files; the data room computes with tables"),
    "starlette": (
        "serving/app.py serving/http_messages.py studio/routes.py",
        "two servers, each with its routes; a response that sends itself has starlette's types",
    ),
    "ai_edge_litert": (
        "runtime/engine_litert.py exporting/targets/to_litert.py exporting/tflite_writer.py",
        "it runs models; its quantiser asks it; it brings the schema of its files",
    ),
    "openvino": ("runtime/engine_openvino.py exporting/targets/to_openvino.py", "one runs, one writes"),
    "executorch": ("runtime/engine_executorch.py exporting/targets/to_executorch.py", "one runs, one writes"),
    "onnx": ("exporting/", "its quantiser and the graph with the Frame inside"),
    "onnxruntime": (
        "runtime/engine_onnx.py exporting/quantise.py",
        "it runs models; its quantiser makes int8",
    ),
}


def test_imports_go_down_the_house(repo: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([lint, "--no-cache"], cwd=repo, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_only_image_py_knows_pillow(repo: Path) -> None:
    assert importers(repo)["PIL"] == ["image.py"]


def test_each_foreign_library_has_one_file(repo: Path) -> None:
    crowded = {}
    for library, files in importers(repo).items():
        homes = tuple(SHARED[library][0].split()) if library in SHARED else tuple(files[:1])
        outside = [file for file in files if not file.startswith(homes)]
        if library in {*EXTRAS, "onnxruntime"} and outside:
            crowded[library] = files
    assert crowded == {}


def test_every_foreign_library_names_its_extra(repo: Path) -> None:
    base = {"numpy", "onnxruntime", "PIL", "flatbuffers", "packaging"}  # onnxruntime brings the last two
    foreign = set(importers(repo)) - set(sys.stdlib_module_names) - {"catflap"} - base
    assert foreign <= set(EXTRAS), "a missing module would not be explained; add it to errors.EXTRAS"


@cache
def importers(repo: Path) -> dict[str, list[str]]:
    """Top-level module -> the files that import it, also inside functions, not for types only."""
    source = repo / "src" / "catflap"
    found: dict[str, set[str]] = {}
    for path in sorted(source.rglob("*.py")):
        for name in imported(ast.parse(path.read_text("utf-8"))):
            found.setdefault(name.partition(".")[0], set()).add(str(path.relative_to(source)))
    return {name: sorted(files) for name, files in found.items()}


def imported(tree: ast.AST) -> list[str]:
    names: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
        names += imported(node)
    return names
