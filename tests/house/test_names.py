"""The public names, and what every room says of itself."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import catflap
from catflap.cli.main import COMMANDS


def test_every_public_name_is_there() -> None:
    assert len(set(catflap.__all__)) == len(catflap.__all__)
    for name in catflap.__all__:
        assert not isinstance(getattr(catflap, name), ModuleType), f"{name} is a module, not a name"


def test_what_public_functions_take_is_public_too() -> None:
    """Nobody has to look for the room of the settings that a verb asks for."""
    functions = [made for name in catflap.__all__ if inspect.isfunction(made := getattr(catflap, name))]
    asked = {kind for made in functions for kind in kinds_taken(made)}
    asked |= {kind for outer in asked for kind in kinds_taken(outer)}
    assert {kind.__name__ for kind in asked} >= {"WatchSettings", "Rules", "ServeSettings", "ServeLimits"}
    assert {kind.__name__ for kind in asked} - set(catflap.__all__) == set()


def kinds_taken(made: Callable[..., Any]) -> list[type]:
    """Our dataclasses among the types of what a function takes."""
    words = " ".join(str(each.annotation) for each in inspect.signature(made).parameters.values())
    named = [vars(sys.modules[made.__module__]).get(word) for word in re.findall(r"\w+", words)]
    return [each for each in named if is_dataclass(each) and each.__module__.startswith("catflap.")]


def test_dir_lists_the_public_names() -> None:
    assert set(catflap.__all__) <= set(dir(catflap))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = catflap.nonsense


def test_no_room_is_named_like_a_public_name(repo: Path) -> None:
    rooms = {path.stem for path in (repo / "src" / "catflap").iterdir()}
    assert rooms & set(catflap.__all__) == set()


def test_no_two_modules_of_ours_have_one_name(repo: Path) -> None:
    """A file is found by its name alone; only commands are named like their verbs."""
    files = [path for path in (repo / "src" / "catflap").rglob("*.py") if path.stem != "__init__"]
    names = Counter(path.stem for path in files if path.parent.name != "cli")
    assert {name for name, count in names.items() if count > 1} == set()


@pytest.mark.slow
def test_public_names_come_in_any_order() -> None:
    """A name that was asked for first must not turn into a module later."""
    code = (
        "import catflap, types\n"
        "for order in (sorted(catflap.__all__), sorted(catflap.__all__, reverse=True)):\n"
        "    for name in order:\n"
        "        assert not isinstance(getattr(catflap, name), types.ModuleType), name\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_room_is_one_docstring(repo: Path) -> None:
    for path in sorted((repo / "src" / "catflap").glob("*/**/__init__.py")):
        body = ast.parse(path.read_text("utf-8")).body
        assert len(body) == 1, f"{path} holds code"
        assert ast.get_docstring(ast.parse(path.read_text("utf-8"))), f"{path} has no docstring"


def test_every_command_has_a_module(repo: Path) -> None:
    modules = {path.stem for path in (repo / "src" / "catflap" / "cli").glob("*.py")}
    assert modules - {"__init__", "main", "options", "output", "settings_file"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_the_contract(name: str) -> None:
    module = import_module(f"catflap.cli.{name}")
    assert module.HELP
    assert module.HELP[-1] == "."
    assert module.EXAMPLE.startswith(f"catflap {name}")
    assert callable(module.arguments)
    assert callable(module.answer)
