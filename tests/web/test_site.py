"""`catflap web` and the build of the page into the package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.cli.main import main
from catflap.errors import BadArtifact, CatflapError
from catflap.serving.static_site import write_site

BUILT = ("hatch_build.py", "pyproject.toml", "README.md", "LICENSE")


def test_the_command_writes_a_whole_site(
    page_built: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "site"
    for _ in range(2):  # the second run replaces the first
        assert main(["web", str(tiny_bundle), "-o", str(out), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
    bundle = load_bundle(tiny_bundle)
    assert answer["sha256"] == bundle.sha256
    assert answer["files"] == sum(path.is_file() for path in out.rglob("*"))
    assert {name: (out / "bundle" / name).read_bytes() for name in bundle.members} == dict(bundle.members)
    assert (out / "index.html").is_file()
    assert list((out / "assets").glob("*.wasm"))
    assert "Microsoft" in (out / "third-party.txt").read_text("utf-8")
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


def test_without_the_page_the_command_says_what_to_do(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(CatflapError) as caught:
        write_site(tiny_bundle, tmp_path / "site", tmp_path / "nothing")
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


def packed(repo: Path, tmp_path: Path, page: str, kind: str = "wheel") -> tuple[str, list[str]]:
    """Pack a copy of the checkout without npm; return its output and the names in the wheel or archive."""
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
    if page != "absent":
        for built in ("src/catflap/serving/static", "src/catflap/studio/static"):
            shutil.copytree(repo / built, tree / built)
    if page == "old":
        (tree / "web" / "index.html").write_text("anew")
    (tree / "private.pem").write_text("a key that somebody keeps in the clone")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path / "out")]
    environment = {**os.environ, "PATH": str(tmp_path)}  # no npm there
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "out").iterdir()
    opened = zipfile.ZipFile(made) if kind == "wheel" else tarfile.open(made)
    with opened as archive:
        names = archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()
    return done.stdout + done.stderr, names


@pytest.mark.slow
def test_a_wheel_has_the_page(page_built: Path, repo: Path, tmp_path: Path) -> None:
    message, names = packed(repo, tmp_path, "built")
    assert "Node" not in message
    assert "catflap/serving/static/third-party.txt" in names
    licences = [name.partition(".dist-info/licenses/")[2] for name in names if "/licenses/" in name]
    assert sorted(licences) == ["LICENSE", "web/public/third-party.txt"]
    assert "catflap/serving/static/index.html" in names
    assert any(name.endswith(".wasm") for name in names)
    assert not any("node_modules" in name for name in names)


def test_without_node_the_package_is_made_all_the_same(repo: Path, tmp_path: Path) -> None:
    message, names = packed(repo, tmp_path, "absent")
    assert "Node was not found" in message
    assert "simple upload page" in message
    assert "npm --prefix web ci" in message
    assert "catflap/cli/main.py" in names
    assert not any("/static/" in name for name in names)


@pytest.mark.slow
def test_a_page_of_other_sources_is_packed_and_told(page_built: Path, repo: Path, tmp_path: Path) -> None:
    message, names = packed(repo, tmp_path, "old")
    assert "may be of other sources" in message
    assert "catflap/serving/static/index.html" in names


@pytest.mark.slow
def test_a_source_archive_has_what_a_build_needs_and_nobodys_keys(
    page_built: Path, repo: Path, tmp_path: Path
) -> None:
    _, names = packed(repo, tmp_path, "built", "sdist")
    inside = {name.partition("/")[2] for name in names}
    assert {*BUILT, "src/catflap/cli/main.py", "web/package.json", "web/public/third-party.txt"} <= inside
    assert "src/catflap/serving/static/index.html" in inside
    assert "private.pem" not in inside


def test_the_unit_tests_of_the_page_pass(repo: Path, npm: Path) -> None:
    done = subprocess.run([npm, "test", "--", "--no-isolate"], cwd=repo / "web", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
