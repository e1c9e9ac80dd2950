"""Which room may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from catflap.errors import EXTRAS

# A foreign library belongs to one file. These belong to several, each for a reason.
SHARED = {
    "torch": "a network, its training and its export are several files; import-linter keeps it in two rooms",
    "torchvision": "comes with torch",
    "pyarrow": "tables.py owns the format of Parquet files; the data room computes with Arrow tables",
    "onnx": "the graph surgery of exporting and the count of operations both read ONNX files",
}


def test_imports_go_down_the_house(repo: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    answer = subprocess.run([lint, "--no-cache"], cwd=repo, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


def test_only_image_py_knows_pillow(repo: Path) -> None:
    assert importers(repo)["PIL"] == ["image.py"]


def test_only_one_file_of_runtime_knows_onnxruntime_at_run_time(repo: Path) -> None:
    assert [file for file in importers(repo)["onnxruntime"] if not file.startswith("exporting/")] == [
        "runtime/session.py"
    ]


def test_each_foreign_library_has_one_file(repo: Path) -> None:
    crowded = {
        library: files
        for library, files in importers(repo).items()
        if library in EXTRAS and library not in SHARED and len(files) > 1
    }
    assert crowded == {}


def test_every_foreign_library_names_its_extra(repo: Path) -> None:
    base = {"numpy", "onnxruntime", "PIL"}
    foreign = set(importers(repo)) - set(sys.stdlib_module_names) - {"catflap"} - base
    assert foreign <= set(EXTRAS), "a missing module would not be explained; add it to errors.EXTRAS"


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
