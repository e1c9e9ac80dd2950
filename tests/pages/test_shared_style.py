"""The colours of all pages come from one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from catflap.artifacts.dataset import Dataset
from catflap.evaluation.field_page import field_page
from catflap.html_text import shared_style
from tests.curation.test_page import drawn_page
from tests.evaluation.test_field_page import report as drift_report

TOKENS = "src/catflap/tokens.css"
PALETTE = re.compile(r"--(?:paper|card|ink|soft|line|stage|accent|on-accent|warn)\s*:")


def test_no_other_file_sets_a_colour_of_the_palette(repo: Path) -> None:
    files = [
        path
        for folder in ("src/catflap", "web/src", "web/studio")
        for suffix in ("css", "html", "svelte", "py")
        for path in (repo / folder).rglob(f"*.{suffix}")
        if "static" not in path.parts
    ]
    setting = [path.relative_to(repo).as_posix() for path in files if PALETTE.search(path.read_text("utf-8"))]
    assert setting == [TOKENS]


@pytest.mark.parametrize("page", ["web/src/style.css", "web/studio/src/main.ts"])
def test_the_pages_of_the_browser_import_it(repo: Path, page: str) -> None:
    (found,) = re.findall(r"""import ["'](.*tokens\.css)["']""", (repo / page).read_text("utf-8"))
    assert ((repo / page).parent / found).resolve() == (repo / TOKENS).resolve()


def test_the_pages_of_python_have_it_unescaped(drawn_dataset: Dataset, tmp_path: Path) -> None:
    assert shared_style() in (drawn_dataset.path / "profile.html").read_text("utf-8")
    drawn_page(tmp_path, ["cat", "other"])
    assert shared_style() in (tmp_path / "review.html").read_text("utf-8")
    labels = ("cat", "other")
    assert shared_style() in field_page(drift_report(30, labels, alarms=(7, 29)), labels, 200)
