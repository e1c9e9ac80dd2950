"""Build the source archive and the wheel, and prove that the wheel alone is whole: `make dist`.

For each Python that is named (default: this one): a new environment, the wheel, `verify`, `predict` and
`web` on the base install; then the extra `serve`, `POST /predict`, and the camera page in Chromium where
there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from email import message_from_bytes
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
MB = 1_000_000
LIMIT_MB = 25
HELD = (
    "serving/static/index.html", "serving/static/sources.sha256", "studio/static/index.html",
    "artifacts/shipped/cat.catflap",
)  # fmt: skip
ANSWERED = "#answer[data-probability]"


def run(*command: object, cwd: Path = REPO, **options: object) -> str:
    """What the command printed on stdout; an error shows its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(out: Path) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from the unpacked archive, not from this checkout."""
    sys.path.insert(0, str(REPO))
    from hatch_build import build_page

    problem = build_page(REPO)
    if problem:
        sys.exit(problem)
    out.mkdir(exist_ok=True)
    for old in (*out.glob("catflap-*.tar.gz"), *out.glob("catflap-*.whl")):
        old.unlink()
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out)
    (archive,) = out.glob("catflap-*.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (tree,) = Path(folder).iterdir()
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=tree)
    (wheel,) = out.glob("catflap-*.whl")
    return archive, wheel


def check_files(archive: Path, wheel: Path) -> None:
    """What is in them, their size, and what an index of packages will show."""
    run(sys.executable, "-m", "twine", "check", "--strict", archive, wheel)
    with tarfile.open(archive) as packed:
        sources = packed.getnames()
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = message_from_bytes(packed.read(metadata))
    for held in HELD:
        assert f"catflap/{held}" in names, f"the wheel lacks {held}"
        assert any(name.endswith(f"src/catflap/{held}") for name in sources), f"the archive lacks {held}"
    assert not any("node_modules" in name or "__pycache__" in name for name in [*names, *sources])
    assert message.get_all("Project-URL"), "no project URLs"
    text = str(message.get_payload())
    relative = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|#", link)]
    assert relative == [], f"relative links in the README of the package: {relative}"
    for path in (archive, wheel):
        assert path.stat().st_size <= LIMIT_MB * MB, f"{path.name} is larger than {LIMIT_MB} MB"
        print(f"{path.name}: {path.stat().st_size / MB:.1f} MB")


def check_install(python: str, wheel: Path, folder: Path) -> None:
    """Install the wheel into a new environment of this Python, and use it there."""
    began = time.monotonic()
    run(python, "-m", "venv", folder / "env")
    bin_folder = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    python_there, catflap = bin_folder / "python", bin_folder / "catflap"
    pip = (python_there, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, wheel)
    seconds = time.monotonic() - began
    version = run(python_there, "-c", "import platform; print(platform.python_version())").strip()
    verdict = json.loads(run(catflap, "verify", "cat", "--json", cwd=folder))
    assert verdict["verdict"] == "pass", verdict
    photo = folder / "photo.png"
    run(
        python_there,
        "-c",
        "from PIL import Image; Image.new('RGB', (320, 240), 'teal').save('photo.png')",
        cwd=folder,
    )
    answer = json.loads(run(catflap, "predict", "cat", photo, "--json", cwd=folder))
    run(catflap, "web", "cat", "-o", folder / "site", cwd=folder)
    assert (folder / "site" / "index.html").is_file()
    run(*pip, f"{wheel}[serve]")
    command = [str(catflap), "serve", "cat", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["url"]
            request = urllib.request.Request(f"{address}/predict", photo.read_bytes())
            served = json.load(urllib.request.urlopen(request))
            assert served["decision"] == answer["decision"], (served, answer)
            page = open_page(address, photo)
        finally:
            server.terminate()
    assert page in (None, answer["label"]), f"the page says {page!r}, predict {answer['label']!r}"
    shown = "the page not opened (no Chromium)" if page is None else f"page {page}"
    print(
        f"Python {version}: installed in {seconds:.0f} s; verify {verdict['verdict']}, "
        f"predict {answer['label']}, serve {served['label']}, {shown}"
    )


def open_page(address: str, photo: Path) -> str | None:
    """The label that the camera page gives the photo; None where there is no browser."""
    sys.path.insert(0, str(REPO))
    from tests.chromium import FLAGS, chromium

    path = chromium()
    if path is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        page = browser.new_page()
        page.goto(f"{address}/")
        page.set_input_files("#file", photo)
        answer = page.locator(ANSWERED)
        answer.wait_for(timeout=60_000)
        label = str(answer.get_attribute("data-label"))
        browser.close()
    return label


def main() -> None:
    """Build, check, and install with each Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "pythons", nargs="*", default=[sys.executable], help="interpreters, such as python3.13"
    )
    parser.add_argument("--out", type=Path, default=REPO / "dist", help="folder to write (default: dist)")
    parser.add_argument("--wheel", type=Path, help="check this wheel's installation only, build nothing")
    args = parser.parse_args()
    wheel = args.wheel
    if wheel is None:
        archive, wheel = build(args.out.resolve())
        check_files(archive, wheel)
    for python in args.pythons:
        with tempfile.TemporaryDirectory() as folder:
            check_install(python, wheel.resolve(), Path(folder).resolve())


if __name__ == "__main__":
    main()
