"""Studio's numbers, each by a real server and, for the page, a real Chromium.

python benchmarks/studio.py first grid thumbs suggest kills look     # the parts to measure; default: all

first    opening the address -> first paint and the grid with 100,000 photos
grid     frames a second while that grid is scrolled
thumbs   thumbnails a second, photos of 500 x 375 px, two cores, none cached
suggest  a decision -> the suggestions for all photos, 1,000 and 20,000 labelled photos
kills    kills -9 of the server at random moments in a labelling session
look     opening the page -> a live answer about two things held before a fake camera, 20 photos each

The 100,000 photos have distinct hashes and share 200 drawn files, as referenced photos may.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from machine import header

from catflap.image import encode
from catflap.studio.project import NewPhoto, open_project

REPO = Path(__file__).resolve().parents[1]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)
PARTS = ("first", "grid", "thumbs", "suggest", "kills", "look")
FRAMES = """() => new Promise((resolve) => {
  const box = document.querySelector('.grid'), times = []; let last = performance.now(); const begun = last;
  const step = (now) => {
    times.push(now - last); last = now; box.scrollTop += 40;
    now - begun < 8000 ? requestAnimationFrame(step) : resolve(times.slice(5));
  };
  requestAnimationFrame(step);
})"""
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


class Server:
    """`catflap studio` as a process, and a client that has its cookie."""

    def __init__(self, project: Path) -> None:
        code = "from catflap.cli.main import run; run()"
        command = [
            sys.executable,
            "-c",
            code,
            "studio",
            str(project),
            "--port",
            "0",
            "--json",
            "--no-browser",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url: str = json.loads(self.process.stdout.readline())["url"]
        self.cookie = ""
        parts = urlsplit(self.url)
        _, headers, _ = self._request("GET", f"/?{parts.query}")
        self.cookie = headers["set-cookie"].split(";")[0]

    def _request(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=120)
        connection.request(method, path, body or None, headers={"Cookie": self.cookie})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, data

    def get(self, path: str) -> bytes:
        status, _, data = self._request("GET", path)
        assert status == 200, data
        return data

    def post(self, path: str, body: Any) -> Any:
        status, _, data = self._request("POST", path, json.dumps(body).encode())
        assert status == 200, data
        return json.loads(data)

    def until(self, check: Callable[[Any], Any]) -> Any:
        while not check(state := json.loads(self.get("/api/state"))):
            time.sleep(0.02)
        return state

    def memory_mb(self) -> float:
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def cpu_seconds(self) -> float:
        import psutil

        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def is_fitted(revision: int, state: Any) -> bool:
    """Whether the suggestions are those of a revision of the labels, or of a later one."""
    return bool(state["learner"]["revision"] >= revision)


def photos(folder: Path, count: int) -> list[Path]:
    """Drawn JPEGs of 500 x 375 px in two colours."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        draw = np.random.default_rng(number)
        small = draw.integers(0, 255, (12, 16, 3)) // 2 + np.array(((120, 20, 0), (0, 40, 120))[number % 2])
        pixels = np.kron(small, np.ones((32, 32, 1)))[:375, :500] + draw.normal(0, 6, (375, 500, 3))
        path = folder / f"{number}.jpg"
        path.write_bytes(encode(np.clip(pixels, 0, 255).astype(np.uint8), "JPEG", quality=90))
        made.append(path)
    return made


def project_of(root: Path, count: int, labelled: int = 0, files: int = 200) -> Path:
    """A project of many photos that share some files; the first ones are labelled."""
    places = photos(root / "files", min(count, files))
    project = open_project(root / "project")
    row = {"bytes": 1, "width": 500, "height": 375, "phash": None, "thumb": None, "reason": ""}
    project.add_photos(
        [
            NewPhoto(
                str(places[n % len(places)]), f"{n}.jpg", f"label {n % 2}" if n < labelled else None,
                {**row, "id": f"{n:064x}"},
            )
            for n in range(count)
        ]
    )  # fmt: skip
    project.close()
    return root / "project"


def in_browser(url: str, measure: Callable[[Any], Any], film: Path | None = None) -> Any:
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *([f"--use-file-for-fake-video-capture={film}"] if film else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, permissions=["camera"], bypass_csp=True
        )
        context.set_default_timeout(180_000)
        page = context.new_page()
        answer = measure(page)
        browser.close()
    return answer


def many(root: Path, parts: set[str]) -> dict[str, Any]:
    """`first` and `grid`: 100,000 photos."""
    server = Server(project_of(root, 100_000))
    answer: dict[str, Any] = {"photos": 100_000}

    def measure(page: Any) -> None:
        page.goto(server.url)
        page.wait_for_selector("h1")
        page.reload()  # as on any later day: the server knows the browser
        page.wait_for_selector("h1")
        if "first" in parts:
            answer["first_paint_ms"] = page.evaluate(PAINT)
            begun = time.perf_counter()
            page.evaluate("location.hash = 'label'")
            page.wait_for_function(
                "[...document.querySelectorAll('.tile img')].filter((i) => i.complete).length > 20"
            )
            answer["label_screen_ms"] = 1000 * (time.perf_counter() - begun)
        if "grid" in parts:
            page.evaluate("location.hash = 'label'")
            page.wait_for_selector(".tile img")
            times = page.evaluate(FRAMES)
            answer["frames"] = len(times)
            answer["frames_a_second"] = 1000 * len(times) / sum(times)
            answer["frame_p95_ms"] = float(np.quantile(times, 0.95))

    in_browser(server.url, measure)
    answer["server_mb"] = server.memory_mb()
    server.stop()
    return answer


def thumbs(root: Path) -> dict[str, Any]:
    server = Server(project_of(root, 600, files=600))
    server.until(lambda state: state["learner"]["done"] == 600)  # which uses the cores, too
    before = server.cpu_seconds()
    begun = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: server.get(f"/thumb/{n}"), range(1, 601)))
    rate = 600 / (time.perf_counter() - begun)
    cpu = server.cpu_seconds() - before
    begun = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: server.get(f"/thumb/{n}"), range(1, 601)))
    cached = 600 / (time.perf_counter() - begun)
    server.stop()
    return {"n": 600, "a_second": rate, "cached_a_second": cached, "cpu_ms_each": 1000 * cpu / 600}


def suggest(root: Path, count: int, features_of: int = 200) -> dict[str, Any]:
    """A decision -> new suggestions; the features of the shared files are copied to all photos first."""
    project = project_of(root / str(count), count + 500, count)
    few = project_of(root / f"few{count}", features_of)
    server = Server(few)
    server.until(lambda state: state["learner"]["done"] == features_of)
    server.stop()
    (folder,) = (few / "cache").glob("features-*")
    rows = np.fromfile(folder / "rows", np.float16).reshape(len(np.fromfile(folder / "done", np.uint8)), -1)
    number = (np.arange(count + 500) % features_of) + 1
    noise = np.random.default_rng(0).normal(0, 0.05, (count + 500, rows.shape[1])).astype(np.float16)
    target = project / "cache" / folder.name
    target.mkdir(parents=True, exist_ok=True)
    os.link(few / "cache" / "backbone.onnx", project / "cache" / "backbone.onnx")
    np.vstack([rows[:1], rows[number] + noise]).tofile(target / "rows")
    np.concatenate([[0], np.ones(count + 500)]).astype(np.uint8).tofile(target / "done")
    server = Server(project)
    server.until(lambda state: state["learner"]["labels"])
    seconds = []
    for step in range(12):
        begun = time.perf_counter()
        made = server.post("/api/decide", {"photos": [count + 1 + step], "label": f"label {step % 2}"})
        server.until(partial(is_fitted, made["revision"]))
        seconds.append(time.perf_counter() - begun)
    memory = server.memory_mb()
    server.stop()
    ordered = sorted(seconds)
    return {
        "labelled": count, "n": len(seconds), "median_s": statistics.median(ordered), "max_s": ordered[-1],
        "server_mb": memory,
    }  # fmt: skip


def kills(root: Path, rounds: int) -> dict[str, Any]:
    project = project_of(root, 100)
    answered: dict[int, str] = {}
    lost = decisions = 0
    for attempt in range(rounds):
        server = Server(project)
        details = server.post("/api/details", {"photos": list(range(1, 101))})["photos"]
        assert len(details) == 100
        for one in details:
            known = answered.get(one["n"])
            if known is not None and one["label"] != known and one["label"] != answered.get(-one["n"]):
                lost += 1
            if one["label"]:
                answered[one["n"]] = one["label"]
            answered.pop(-one["n"], None)

        def work(server: Server = server, attempt: int = attempt) -> None:
            nonlocal decisions
            draw = random.Random(attempt)
            while True:
                number, label = draw.randint(1, 100), f"label {draw.randint(0, 4)}"
                answered[-number] = label  # may or may not be kept until it is answered
                try:
                    server.post("/api/decide", {"photos": [number], "label": label})
                except (OSError, http.client.HTTPException, ValueError):
                    return
                answered[number] = label
                answered.pop(-number, None)
                decisions += 1

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(random.Random(-attempt).uniform(0, 0.6))
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        thread.join()
    return {"kills": rounds, "decisions": decisions, "lost": lost}


def look(root: Path) -> dict[str, Any]:
    """Two things held before the camera: the film shows the one, then the other, for ever."""
    made = photos(root / "film", 2)
    film = root / "film.mjpeg"
    film.write_bytes(made[0].read_bytes() * 90 + made[1].read_bytes() * 90)
    server = Server(root / "project")

    def measure(page: Any) -> float:
        begun = time.perf_counter()
        page.goto(server.url)
        page.wait_for_selector("h1")
        page.click("text=Open the camera")
        page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
        for label in ("one", "other"):
            page.fill("input[list]", label)
            page.focus(".camera .primary")
            page.keyboard.down("Space")
            page.wait_for_timeout(20 * 180)
            page.keyboard.up("Space")
        page.wait_for_selector(".shares li")
        return time.perf_counter() - begun

    seconds = in_browser(server.url, measure, film)
    state = json.loads(server.get("/api/state"))
    server.stop()
    return {"seconds": seconds, "photos": {one["name"]: one["photos"] for one in state["labels"]}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--kills", type=int, default=100)
    args = parser.parse_args()
    header(parts=",".join(args.parts), load=os.getloadavg()[0])
    parts = set(args.parts)
    with tempfile.TemporaryDirectory(prefix="studio-bench-") as folder:
        root = Path(folder)
        if parts & {"first", "grid"}:
            print(json.dumps({"many": many(root / "many", parts)}), flush=True)
        if "thumbs" in parts:
            print(json.dumps({"thumbs": thumbs(root / "thumbs")}), flush=True)
        if "suggest" in parts:
            for count in (1000, 20_000):
                print(json.dumps({"suggest": suggest(root / "suggest", count)}), flush=True)
        if "look" in parts:
            print(json.dumps({"look": look(root / "look")}), flush=True)
        if "kills" in parts:
            print(json.dumps({"kills": kills(root / "kills", args.kills)}), flush=True)


if __name__ == "__main__":
    main()
