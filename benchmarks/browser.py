"""The camera page in Chromium: a picture to its answer, a visit to its first answer, bytes to download.

    python benchmarks/browser.py                        # the bundle that ships
    python benchmarks/browser.py A.catflap B.catflap    # others, in turns
    python benchmarks/browser.py A.catflap --mediapipe  # beside MediaPipe with A's LiteRT model in int8

One thread: a plain file server isolates no page, so WebAssembly gets none to share. The camera is
fake and sees a drawn picture of 640 × 480 px; a visit begins with an empty cache.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import http.server
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from machine import header
from playwright.sync_api import Browser, Page, sync_playwright

from catflap.artifacts.bundle import load_bundle
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from catflap.serving.static_site import PAGE, write_site

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
)  # fmt: skip
OBSERVE = """window.measured = [];
new PerformanceObserver((list) => {
  for (const { startTime, duration, detail } of list.getEntries()) {
    measured.push({ startTime, duration, ...detail });
  }
}).observe({ type: "measure" });"""


PEER = "MediaPipe ImageClassifier"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A plain file server that prints nothing."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", nargs="*", default=["cat"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="of camera pictures for a variant and round"
    )
    parser.add_argument("--mediapipe", action="store_true", help="needs npm, and ai-edge-litert")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        film = Path(folder) / "film.mjpeg"
        film.write_bytes(
            b"".join(encode(scene(seed, 640, 480), "JPEG", quality=92) * 15 for seed in range(4))
        )
        camera = f"--use-file-for-fake-video-capture={film}"
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*FLAGS, camera])
        header(browser=f"Chromium {browser.version}", packages=packages(), rounds=args.rounds)
        sites = {name: Path(folder) / str(number) for number, name in enumerate(args.bundles)}
        for name, site in sites.items():
            write_site(name, site)
            print(json.dumps({"bundle": name, "gzip_bytes": downloads(site)}))
        peer = mediapipe(args.bundles[0], Path(folder) / "mediapipe") if args.mediapipe else None
        measure(browser, sites, args.rounds, args.seconds, peer)
        browser.close()


def mediapipe(bundle: str, site: Path) -> Path:
    """A page of MediaPipe's with the LiteRT model in int8 of a bundle."""
    from peers.mediapipe_site import PACKAGE
    from peers.mediapipe_site import write_site as write_peer

    opened = load_bundle(bundle)
    models = [one for one in opened.variants.values() if (one.runtime, one.precision) == ("litert", "int8")]
    if not models:
        raise SystemExit(f"{bundle} has no LiteRT variant in int8: catflap bundle add --variants litert-int8")
    packed = write_peer(bytes(opened.members[models[0].file]), site)
    print(json.dumps({"peer": PACKAGE, "gzip_bytes": packed}))
    return site


def measure(browser: Browser, sites: dict[str, Path], rounds: int, seconds: float, peer: Path | None) -> None:
    """Visit every site once a round, and let each of its variants look at the camera."""
    first: dict[str, list[float]] = {name: [] for name in (*sites, *([PEER] if peer else []))}
    taken: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for name, site in sites.items():
            with visit(browser, site) as page:
                verified(page)
                first[name].append(first_answer(page))
                for variant in page.locator("#variant option").all_text_contents():
                    taken.setdefault((name, variant), []).extend(look(page, variant, seconds))
        if peer is not None:
            with visit(browser, peer, observe="") as page:
                while not page.evaluate("window.measured?.length"):
                    page.wait_for_timeout(100)
                first[PEER].append(first_answer(page))
                page.wait_for_timeout(1000)  # as long as the golden cases take, at least
                page.evaluate("measured.length = 0")
                page.wait_for_timeout(seconds * 1000)
                taken.setdefault((PEER, "litert-int8"), []).extend(page.evaluate("measured"))
    for name, times in first.items():
        print(json.dumps({"bundle": name, "first_answer_ms": round(median(times)), "n": len(times)}))
    for (name, variant), answers in taken.items():
        steps = {"answer": "duration", "pixels": "pixelsMs", "network": "networkMs"}
        known = {step: field for step, field in steps.items() if field in answers[0]}
        ms = {step: spread([answer[field] for answer in answers]) for step, field in known.items()}
        rate = round(len(answers) / (rounds * seconds), 1)
        print(
            json.dumps({
                "bundle": name, "variant": variant, "ms": ms, "pictures_a_second": rate, "n": len(answers)
            })
        )  # fmt: skip


@contextmanager
def visit(browser: Browser, site: Path, observe: str = OBSERVE) -> Iterator[Page]:
    """A page that nobody visited before, with the camera allowed."""
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = browser.new_context(permissions=["camera"]).new_page()
    page.add_init_script(observe)
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    yield page
    page.context.close()
    server.shutdown()


def first_answer(page: Page) -> float:
    """Milliseconds from the visit to the first answer."""
    begun = page.evaluate("measured[0]")
    return float(begun["startTime"] + begun["duration"])


def look(page: Page, variant: str, seconds: float) -> list[dict[str, float]]:
    """Let a variant look at the camera, after its golden cases, which would be in the way."""
    if page.input_value("#variant") != variant:
        page.click("#open-adjust")
        page.select_option("#variant", variant)
        page.locator("#verdict[data-state=running]").wait_for()
        page.click("#close")
    verified(page)
    page.evaluate("measured.length = 0")
    page.wait_for_timeout(seconds * 1000)
    found: list[dict[str, float]] = page.evaluate("measured")
    return found


def verified(page: Page) -> None:
    """Wait for the end of the golden cases."""
    page.locator("#verdict:not([data-state=running]):not(:empty)").wait_for(timeout=120_000)


def downloads(site: Path) -> dict[str, int]:
    """What one visit downloads, packed, by part; a variant needs its own runtime and network only."""

    def packed(*paths: Path) -> int:
        return sum(len(gzip.compress(path.read_bytes(), 9)) for path in paths)

    page = [path for path in PAGE.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg")]
    own = [path for path in page if "litert_wasm" not in path.name]
    (litert,) = PAGE.rglob("litert_wasm_internal*.wasm")
    (onnx,) = PAGE.rglob("ort-wasm*.wasm")
    glue = {
        "litert": list(PAGE.rglob("litert_wasm_internal*.js")),
        "onnxruntime": list(PAGE.rglob("ort-wasm*.mjs")),
    }
    runtimes = {"litert": packed(litert, *glue["litert"]), "onnxruntime": packed(onnx, *glue["onnxruntime"])}
    common = packed(*own, site / "bundle" / "bundle.json", site / "bundle" / "golden.npz")
    scripts = packed(*[path for path in own if path.suffix == ".js"])
    variants = json.loads((site / "bundle" / "bundle.json").read_text())["variants"]
    whole = {
        f"all with {name}": common + runtimes[about["runtime"]] + packed(site / "bundle" / about["file"])
        for name, about in variants.items()
        if about["runtime"] in runtimes
    }
    return {"scripts": scripts, "page, golden cases": common, **runtimes, **whole}


def spread(times: list[float]) -> dict[str, float]:
    tenths = quantiles(times, n=10, method="inclusive")
    return {name: round(tenths[place], 1) for name, place in (("p50", 4), ("p10", 0), ("p90", 8))}


def packages() -> dict[str, str]:
    lock = json.loads((Path(__file__).parents[1] / "web" / "package-lock.json").read_text())["packages"]
    return {name: lock[f"node_modules/{name}"]["version"] for name in ("onnxruntime-web", "@litertjs/core")}


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("There is no Chromium here: apt-get install chromium")
    return path


if __name__ == "__main__":
    main()
