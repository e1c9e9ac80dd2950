"""The documentation cannot drift: links lead somewhere, commands and options are described, blocks run."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from catflap.cli.main import COMMANDS
from catflap.exporting.golden_cases import scene
from catflap.image import encode

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md"), *(REPO / "benchmarks").glob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(`{3,}|~{3,})(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(python|sh)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"<!-- runnable -->\s*\n```(python|sh)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown(page: Path) -> str:
    return str(page.relative_to(REPO))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+\s+(.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{shown(page)} links to {link}"
        assert target.is_relative_to(REPO), f"{shown(page)} links out of the repository: {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{shown(page)} links to {link}, which has no such heading"


def test_pictures_are_there_used_and_small() -> None:
    """README and the guides show them; docs/make_pictures.py writes them."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    shown = set(re.findall(r"pictures/([\w.-]+\.(?:svg|webp|png))", text))
    there = {path.name: path for path in (REPO / "docs" / "pictures").iterdir()}
    assert shown == set(there)
    assert set(runpy.run_path(str(REPO / "docs" / "make_pictures.py"))["PICTURES"]) == set(there)
    assert sum(path.stat().st_size for path in there.values()) <= 200_000


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (REPO / "docs" / "index.md").resolve()
    seen, waiting = set(), [index]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in LINK.findall(FENCE.sub("", page.read_text("utf-8"))):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists():
                waiting.append(target)
    missing = set((REPO / "docs").rglob("*.md")) - seen
    assert missing == set(), "no page leads there"


def test_every_benchmark_is_listed() -> None:
    listed = re.findall(
        r"^\| `(\w+\.py)` \|", (REPO / "benchmarks" / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert {path.name for path in (REPO / "benchmarks").glob("*.py")} == set(listed)


def test_the_generated_pages_are_up_to_date() -> None:
    """Of the command line from its parsers, of the Python interface from the public names."""
    pages = runpy.run_path(str(REPO / "docs" / "make_reference.py"))
    for name in ("cli", "api"):
        written = (REPO / "docs" / "reference" / f"{name}.md").read_text("utf-8")
        assert written == pages[f"{name}_page"](), "run: python docs/make_reference.py"
    tree = (REPO / "CONTRIBUTING.md").read_text("utf-8")
    assert tree == pages["contributing_page"](), "run: python docs/make_reference.py"


def test_what_json_prints_is_told_of_every_command() -> None:
    text = (REPO / "docs" / "reference" / "json.md").read_text("utf-8")
    listed = {row.split()[0] for row in re.findall(r"^- `([\w ]+)`:", text, re.MULTILINE)}
    assert set(COMMANDS) == listed


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    mkdocs = Path(sys.executable).with_name("mkdocs")
    command = [mkdocs, "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    answer = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    loaded = re.compile(r"<(?:script|img|iframe|source)[^>]+src=.?(https?:|//)|<link[^>]+href=.?(https?:|//)")
    for page in (tmp_path / "site").rglob("*.html"):
        found = [
            match[0] for match in loaded.finditer(page.read_text("utf-8")) if "canonical" not in match[0]
        ]
        assert found == [], page


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_python_blocks_are_python(page: Path) -> None:
    for kind, _, code in BLOCK.findall(page.read_text("utf-8")):
        if kind == "python":
            compile(code, shown(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_commands_in_blocks_are_commands(page: Path) -> None:
    """Every `catflap …` line of a shell block parses; it need not run."""
    for kind, _, code in BLOCK.findall(page.read_text("utf-8")):
        for line in code.replace("\\\n", " ").splitlines() if kind == "sh" else ():
            words = shlex.split(line, comments=True)
            if words[:1] != ["catflap"] or words[1:2] in ([], ["--help"], ["--version"]):
                continue
            assert words[1] in COMMANDS, f"{shown(page)}: {line}"
            parser = argparse.ArgumentParser(exit_on_error=False)
            import_module(f"catflap.cli.{words[1]}").arguments(parser)
            parser.add_argument("--json", action="store_true")
            parser.parse_args(words[2 : words.index(">") if ">" in words else None])


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page.name == "README.md" else pytest.mark.slow)
        for page in PAGES
        if RUNNABLE.search(page.read_text("utf-8"))
    ],
    ids=shown,
)
def test_runnable_blocks_run(page: Path, tmp_path: Path) -> None:
    """Blocks under `<!-- runnable -->` run one after the other in a folder that has some-photo.jpg."""
    (tmp_path / "some-photo.jpg").write_bytes(encode(scene(1, 500, 375), "JPEG"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for kind, code in RUNNABLE.findall(page.read_text("utf-8")):
        command = [sys.executable, "-c", code] if kind == "python" else ["bash", "-euc", code]
        answer = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"{shown(page)}:\n{code}\n{answer.stdout}{answer.stderr}"
