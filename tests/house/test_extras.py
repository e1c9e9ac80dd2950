"""The extras of pyproject.toml are those that errors and `catflap doctor` speak of."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from catflap.errors import EXTRAS, first_line, missing_extra, system_reason
from catflap.installing import install_extra
from catflap.machine import describe_machine, installed_extras


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, Any]:
    return tomllib.loads((repo / "pyproject.toml").read_text("utf-8"))["project"]  # type: ignore[no-any-return]


def package(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match
    return match[0]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_module_names_an_extra_that_exists(project: dict[str, Any]) -> None:
    assert set(EXTRAS.values()) <= set(project["optional-dependencies"])


def test_every_module_comes_with_its_extra(project: dict[str, Any]) -> None:
    """Else the fix that an error tells would not help."""
    optional, homes = project["optional-dependencies"], packages_distributions()
    for module in set(EXTRAS) & set(homes):
        asked = {normal(package(line)) for line in optional[EXTRAS[module]]}
        assert asked & {normal(home) for home in homes[module]}, f"{EXTRAS[module]} does not bring {module}"


def test_doctor_knows_every_extra_and_its_packages(project: dict[str, Any]) -> None:
    optional = project["optional-dependencies"]
    found = {extra.name: set(extra.packages) | set(extra.missing) for extra in installed_extras()}
    assert set(found) == {"base", *optional} - {"all"}
    assert found["base"] == {package(line) for line in project["dependencies"]}
    for name in set(optional) - {"all"}:
        assert found[name] >= {package(line) for line in optional[name]} - {"catflap"}


def test_a_missing_module_names_the_extra_and_a_foreign_one_does_not() -> None:
    error = missing_extra(ModuleNotFoundError(name="torch.nn"))
    assert error
    assert error.fix == f"Run: {install_extra('train')}"
    assert missing_extra(ModuleNotFoundError(name="nonsense")) is None
    assert missing_extra(ModuleNotFoundError("no name")) is None


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.memory_mb > 100
    assert machine.python.startswith("3.")
    assert machine.to_json()["instructions"] == sorted(machine.instructions)


def test_a_mute_error_is_told_by_its_kind() -> None:
    assert first_line(AssertionError()) == "AssertionError"
    assert first_line(ValueError(" \n ")) == "ValueError"
    assert first_line(RuntimeError("it broke.\nat line 3")) == "it broke"
    assert len(first_line(RuntimeError("x" * 999))) == 200


def test_what_the_system_says_is_told_without_the_path() -> None:
    with pytest.raises(OSError, match="nowhere") as absent:
        Path("/nowhere/at all").read_bytes()
    assert system_reason(absent.value) == "No such file or directory"
    assert system_reason(OSError("no frames")) == "no frames"
    assert system_reason(ValueError("embedded null byte")) == "embedded null byte"
    assert system_reason(RecursionError()) == "RecursionError"
