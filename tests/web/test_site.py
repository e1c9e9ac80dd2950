"""`catflap web` and the build of the page into the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from catflap.artifacts.bundle import read_bundle
from catflap.cli.main import main
from catflap.errors import BadArtifact, CatflapError
from catflap.serving import site
from catflap.serving.site import write_site

BUILT = ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE")


def test_the_command_writes_a_whole_site(
    page_built: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "site"
    for _ in range(2):  # the second run replaces the first
        assert main(["web", str(tiny_bundle), "-o", str(out), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
    bundle = read_bundle(tiny_bundle)
    assert answer["sha256"] == bundle.sha256
    assert answer["files"] == sum(path.is_file() for path in out.rglob("*"))
    assert {name: (out / "bundle" / name).read_bytes() for name in bundle.members} == dict(bundle.members)
    assert (out / "index.html").is_file()
    assert list((out / "assets").glob("*.wasm"))
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_foreign_folder_and_a_damaged_bundle_are_refused(
    page_built: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CatflapError):
        write_site(tiny_bundle, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    bad = tmp_path / "bad.catflap"
    bad.write_bytes(tiny_bundle.read_bytes()[:-1])
    with pytest.raises(BadArtifact):
        write_site(bad, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_without_the_page_the_command_says_what_to_do(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "PAGE", tmp_path / "nothing")
    with pytest.raises(CatflapError) as caught:
        write_site(tiny_bundle, tmp_path / "site")
    assert "npm --prefix web ci" in caught.value.fix
    assert "Node 20.19 or newer" in caught.value.fix  # as web/package.json says


def test_the_page_is_small(page_built: Path) -> None:
    """Our own script at most 60 kB gzip, with the page's styles and the two runtimes' glue counted in."""
    import gzip

    scripts = [path for path in page_built.rglob("*.js") if "litert_wasm" not in path.name]
    assert sum(len(gzip.compress(path.read_bytes(), 9)) for path in scripts) <= 60_000


def test_the_words_stand_in_one_file(page_built: Path, repo: Path) -> None:
    for name in ("index.html", "manifest.webmanifest"):
        assert "{{" not in (page_built / name).read_text("utf-8")
    source = (repo / "web" / "index.html").read_text("utf-8")
    between = [part.split("<")[0].strip() for part in source.partition("<body>")[2].split(">")]
    assert [words for words in between if words and not words.startswith("{{") and words != "&nbsp;"] == []


def wheel_of(repo: Path, tmp_path: Path, path: str) -> tuple[str, list[str]]:
    """Pack a copy of the checkout with a PATH; what was said, and the names in the wheel."""
    pytest.importorskip("hatchling")
    tree = tmp_path / "tree"
    for name in BUILT:
        tree.mkdir(exist_ok=True)
        shutil.copy(repo / name, tree / name)
    for name in ("src", "web"):
        left_out = shutil.ignore_patterns(
            "node_modules", "__pycache__", *([] if name == "web" else ["static"])
        )
        shutil.copytree(repo / name, tree / name, ignore=left_out, dirs_exist_ok=True)
    (tree / ".gitignore").write_text((repo / ".gitignore").read_text())
    if path == "built":
        shutil.copytree(repo / site.PAGE.relative_to(repo), tree / site.PAGE.relative_to(repo))
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "out")]
    environment = {**os.environ, "PATH": str(tmp_path)}  # no npm there
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    return done.stdout + done.stderr, zipfile.ZipFile(wheel).namelist()


def test_a_wheel_has_the_page(page_built: Path, repo: Path, tmp_path: Path) -> None:
    said, names = wheel_of(repo, tmp_path, "built")
    assert "Node" not in said
    assert "catflap/serving/static/index.html" in names
    assert any(name.endswith(".wasm") for name in names)
    assert not any("node_modules" in name for name in names)


def test_without_node_the_package_is_made_all_the_same(repo: Path, tmp_path: Path) -> None:
    said, names = wheel_of(repo, tmp_path, "absent")
    assert "Node was not found" in said
    assert "npm --prefix web ci" in said
    assert "catflap/cli/main.py" in names
    assert not any("serving/static" in name for name in names)


def test_the_unit_tests_of_the_page_pass(repo: Path, npm: Path) -> None:
    done = subprocess.run([npm, "test"], cwd=repo / "web", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
