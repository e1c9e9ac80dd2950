"""What an index of packages shows: the README's links lead to the repository that version.py names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from catflap.version import REPOSITORY

pytest.importorskip("hatchling")


def test_the_addresses_are_those_that_bundles_name(repo: Path) -> None:
    urls = tomllib.loads((repo / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    assert urls["Source"] == REPOSITORY
    assert all(url.startswith(REPOSITORY) for url in urls.values())


def test_the_readme_of_the_package_has_no_relative_link(repo: Path) -> None:
    from hatch_build import absolute_links

    written = (repo / "README.md").read_text("utf-8")
    shown = absolute_links(written, REPOSITORY)
    targets = re.findall(r"""(?:\]\(|(?:src|srcset|href)=")([^)\s"]+)""", shown)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for target in targets:  # and each leads to a file of the repository
        path = re.match(rf"{REPOSITORY}/(?:blob|raw)/main/([^#]+)", target)
        assert path is None or (repo / path[1]).exists(), target


def test_pictures_are_read_as_files_and_pages_as_pages() -> None:
    from hatch_build import absolute_links

    text = '![one](docs/a.svg) [two](docs/b.md#c) [three](https://x.org/d) <img src="docs/e.webp"> [four](#f)'
    assert absolute_links(text, "https://github.com/o/n") == (
        "![one](https://github.com/o/n/raw/main/docs/a.svg) "
        "[two](https://github.com/o/n/blob/main/docs/b.md#c) [three](https://x.org/d) "
        '<img src="https://github.com/o/n/raw/main/docs/e.webp"> [four](#f)'
    )
