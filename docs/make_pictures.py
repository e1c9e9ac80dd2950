"""Write the pictures of README from free photos: the terminal, the camera page, the report of a build.

Needs `[train,serve]`, Chromium and Playwright: python docs/make_pictures.py [NAME …]
"""

from __future__ import annotations

import functools
import html
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

OUT = Path(__file__).resolve().parent / "pictures"
SAMPLES = ("chelsea.png", "coffee.png", "rocket.jpg")
DIGITS = ("1", "3", "7", "9")
LABELLED, OPEN = range(30), range(30, 45)  # of each digit in the picture of Studio
IMPORT = """path => fetch("/api/import", {method: "POST", headers: {"Content-Type": "application/json"},
  body: JSON.stringify({path})}).then(answer => answer.text())"""
WEBP_QUALITY = 80
SESSION = (
    "catflap verify cat",
    f"catflap predict cat {' '.join(SAMPLES)}",
)
CHARACTER, LINE, MARGIN = 8.4, 20, 16  # px, of a monospaced font of 14 px


def terminal(work: Path) -> bytes:
    """What the commands of SESSION print here, as SVG."""
    for name in SAMPLES:
        (work / name).write_bytes(files("skimage.data").joinpath(name).read_bytes())
    lines: list[tuple[str, str]] = []
    for command in SESSION:
        _, verb, *words = command.split()
        done = subprocess.run(
            [sys.executable, "-c", "from catflap.cli.main import run; run()", verb, *words],
            cwd=work, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines += [("#7ee787", f"$ {command}")] + [("#e6edf3", line) for line in done.stdout.splitlines()]
    width = round(max(len(text) for _, text in lines) * CHARACTER + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number + 14}" fill="{colour}">{html.escape(text)}</text>'
        for number, (colour, text) in enumerate(lines)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="14" '
        f'xml:space="preserve"><title>{html.escape(" and ".join(SESSION))}</title>'
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n{rows}\n</svg>\n'
    ).encode()


def camera(work: Path) -> bytes:
    """The camera page, as `catflap web cat` writes it, with an answer."""
    from catflap.serving.static_site import write_site

    write_site("cat", work / "site")
    with offered(work / "site") as address, opened(address, 400, 720) as page:
        (work / "cat.png").write_bytes(files("skimage.data").joinpath("chelsea.png").read_bytes())
        page.set_input_files("#file", work / "cat.png")
        page.locator("#answer[data-probability]").wait_for(timeout=120_000)
        page.get_by_text("Verified here").wait_for(timeout=120_000)
        page.wait_for_timeout(500)  # the transition
        return as_webp(page.screenshot())


def report(work: Path) -> bytes:
    """The head of the report of a build from scikit-learn's handwritten digits."""
    from catflap.image import Frame
    from catflap.pipeline.build import build
    from catflap.pipeline.demo import DIGIT_PX, write_digits

    build(write_digits(work / "digits"), work / "mine.catflap", frame=Frame(DIGIT_PX, DIGIT_PX))
    with (
        offered(work / "mine.build" / "report") as address,
        opened(f"{address}/report.html", 1000, 760) as page,
    ):
        return as_webp(page.screenshot())


def studio(work: Path) -> bytes:
    """Studio's second step: labelled digits, and suggestions for those that are not."""
    photos = four_digits(work / "digits")
    (work / "open").mkdir()
    for folder in photos.iterdir():
        for number, path in enumerate(sorted(folder.iterdir())):
            if number in OPEN:
                path.rename(work / "open" / path.name)
            elif number not in LABELLED:
                path.unlink()
    command = [
        sys.executable,
        "-c",
        "from catflap.cli.main import run; run()",
        "studio",
        str(work / "digits-project"),
    ]
    with subprocess.Popen([*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["url"]
        with opened(address, 1100, 760) as page:
            for folder in (photos, work / "open"):
                page.evaluate(IMPORT, str(folder))
            page.goto(address.partition("?")[0].rstrip("/") + "/#label")
            page.wait_for_timeout(40_000)  # features and suggestions
            picture = as_webp(page.screenshot())
        server.terminate()
    return picture


STRIP = """stages => {
  const images = [...document.querySelectorAll(".flow .pair")].filter((_, place) => stages.includes(place));
  const flow = document.querySelectorAll(".flow > li > img");
  const strip = document.createElement("div");
  strip.id = "strip";
  strip.style.cssText = "display:grid;grid-template-columns:repeat(6,150px);gap:8px 14px;padding:16px;"
    + "width:max-content;font-size:13px;background:var(--card)";
  const cell = (source, words) => {
    const figure = document.createElement("figure"), image = new Image(150, 150);
    figure.style.cssText = "border:0;border-radius:0;background:none";
    image.src = source; image.style.cssText = "object-fit:cover;border-radius:6px;image-rendering:pixelated";
    figure.append(image, words); strip.append(figure);
  };
  cell(flow[1].src, "the frame, 224 × 224 px");
  for (const pair of images) cell(pair.querySelectorAll("img")[0].src, pair.querySelector("h4").textContent);
  const note = document.createElement("p");
  note.textContent = "Below: where a change of that output would change the loss most.";
  strip.append(note);
  for (const pair of images) cell(pair.querySelectorAll("img")[1].src, "its gradient");
  document.body.append(strip);
}"""


def training_step(work: Path) -> bytes:
    """Activations and gradients of a few stages, from the page of `explain`."""
    with opened(explained(work).as_uri(), 1100, 800) as page:
        page.evaluate(STRIP, [0, 2, 4, 6, 8])
        page.wait_for_timeout(500)
        return as_webp(page.locator("#strip").screenshot())


def head_steps(work: Path) -> bytes:
    """The slider of that page after ten steps on the head."""
    with opened(explained(work).as_uri(), 900, 800) as page:
        page.locator("#slider").fill("10")
        return as_webp(page.locator("#player").screenshot())


def explained(work: Path) -> Path:
    """The page of `explain` for scikit-image's cat, with a head from the photos of CATFLAP_PHOTOS."""
    from catflap.comparison.explain import explain
    from catflap.image import Frame
    from catflap.pipeline.build import build
    from catflap.training.plan import Plan

    photos = os.environ.get("CATFLAP_PHOTOS", "../shared/data/photos")
    plan = Plan(backbone="efficientnet_lite0")
    build(photos, work / "cats.catflap", frame=Frame(224, 224), plan=plan)
    (work / "chelsea.png").write_bytes(files("skimage.data").joinpath("chelsea.png").read_bytes())
    page = work / "explain.html"
    parts = work / "cats.build" / "checkpoint", work / "cats.catflap", work / "chelsea.png"
    explain(*parts, page, label="cat")
    return page


def four_digits(folder: Path) -> Path:
    """Four of scikit-learn's handwritten digits as class folders."""
    from catflap.pipeline.demo import write_digits

    photos = write_digits(folder)
    for one in photos.iterdir():
        if one.name not in DIGITS:
            shutil.rmtree(one)
    return photos


@contextmanager
def offered(folder: Path) -> Iterator[str]:
    """The address of a folder's files on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def opened(address: str, width: int, height: int) -> Iterator[Any]:
    """A page in Chromium, of a size in CSS pixels."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(OUT.parents[1]))
    from tests.chromium import FLAGS, chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(f"{address}")
        page.wait_for_load_state()
        yield page
        browser.close()


def as_webp(png: bytes) -> bytes:
    """A screenshot in fewer bytes."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


PICTURES: dict[str, Callable[[Path], bytes]] = {
    "terminal.svg": terminal,
    "camera-page.webp": camera,
    "report.webp": report,
    "studio.webp": studio,
    "training-step.webp": training_step,
    "head-steps.webp": head_steps,
}


def main(names: list[str]) -> None:
    """Write the pictures named, or all."""
    OUT.mkdir(exist_ok=True)
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as work:
            (OUT / name).write_bytes(PICTURES[name](Path(work)))
        print(f"{name}: {(OUT / name).stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
