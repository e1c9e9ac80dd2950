"""The install command fits where this Catflap came from, and a shell takes it apart into what pip wants."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from catflap import installing

ORIGINS = {
    "an editable clone": (
        {"url": "file:///home/me/my%20clone", "dir_info": {"editable": True}},
        ["-e", "/home/me/my clone[train]"],
    ),
    "a clone": ({"url": "file:///home/me/clone", "dir_info": {}}, ["/home/me/clone[train]"]),
    "a wheel": (
        {"url": "file:///tmp/catflap-0.1.0-py3-none-any.whl", "archive_info": {}},
        ["catflap[train] @ file:///tmp/catflap-0.1.0-py3-none-any.whl"],
    ),
    "a repository": (
        {"url": "https://x.org/r.git", "vcs_info": {"vcs": "git", "requested_revision": "v1"}},
        ["catflap[train] @ git+https://x.org/r.git@v1"],
    ),
    "the index": ({}, ["catflap[train]"]),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_the_command_fits_where_it_came_from(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, wanted = ORIGINS[name]
    monkeypatch.setattr(installing, "_origin", lambda: origin)
    words = shlex.split(installing.install_extra("train"))
    assert words[words.index("install") + 1 :] == wanted


def test_it_uses_the_pip_of_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installing.shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    assert installing.install("x") == "pip install x"
    monkeypatch.setattr(installing.shutil, "which", lambda name: str(tmp_path / name))
    assert shlex.split(installing.install("x")) == [sys.executable, "-m", "pip", "install", "x"]
    monkeypatch.setattr(installing, "find_spec", lambda name: None)
    assert installing.install("x") == "uv pip install x"


def test_a_clone_that_was_never_installed_is_one(repo: Path) -> None:
    assert installing._origin() == {"url": repo.as_uri(), "dir_info": {"editable": True}}
