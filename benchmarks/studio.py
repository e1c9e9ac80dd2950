"""Studio's numbers, each by a real server and, for the page, a real Chromium.

python benchmarks/studio.py first grid thumbs suggest kills look     # the parts to measure; default: all

first    opening the address -> first paint and the grid with 100,000 photos
grid     frames a second while that grid is scrolled, beside an empty page that scrolls (software rendering)
thumbs   thumbnails a second, photos of 500 x 375 px, two cores, none cached
suggest  a decision -> the suggestions for all photos, 1,000 and 20,000 labelled photos
kills    kills -9 of the server at random moments while a person labels and adds photos, and a build runs
look     opening the page -> a live answer about two things held before a fake camera, 20 photos each

The 100,000 photos have distinct hashes and share 200 drawn files, as referenced photos may.
"""

from __future__ import annotations

import argparse
import hashlib
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
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
from machine import header

from catflap.image import Frame, encode, read_pixels
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
EMPTY = """<div class=grid style="height:700px;overflow:auto"><div style="height:2000000px"></div></div>"""
SPENT = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration", "TaskDuration")
HELD, FILM_RATE = (
    10,
    30,
)  # seconds that a thing is held before the camera, frames a second of Chromium's fake one
THINGS = ("cat", "coffee")
COLOUR = """() => {
  const canvas = new OffscreenCanvas(32, 24), context = canvas.getContext('2d'), sums = [0, 0, 0];
  context.drawImage(document.querySelector('video'), 0, 0, 32, 24);
  context.getImageData(0, 0, 32, 24).data.forEach((value, at) => { if (at % 4 < 3) sums[at % 4] += value; });
  return sums;
}"""
TOP = "() => document.querySelector('.shares span')?.textContent"
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def start(project: Path) -> subprocess.Popen[str]:
    """`catflap studio` as a process that prints its address."""
    code = "from catflap.cli.main import run; run()"
    options = ["--port", "0", "--json", "--no-browser"]
    command = [sys.executable, "-c", code, "studio", str(project), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Server:
    """`catflap studio` as a process, and a client that has its cookie."""

    def __init__(self, project: Path) -> None:
        self.process = start(project)
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

    def upload(self, name: str, data: bytes, label: str) -> Any:
        status, _, answer = self._request(
            "POST", f"/api/upload?{urlencode({'name': name, 'label': label})}", data
        )
        assert status == 200, answer
        return json.loads(answer)

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

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


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
            answer["grid"] = scroll(page)
            page.goto("about:blank")
            page.set_content(EMPTY)
            answer["empty"] = scroll(page)

    in_browser(server.url, measure)
    answer["server_mb"] = server.memory_mb()
    server.stop()
    return answer


def scroll(page: Any) -> dict[str, float]:
    """Frames a second while a box is scrolled, and the main thread's CPU time for a frame."""
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> dict[str, float]:
        found = {one["name"]: one["value"] for one in browser.send("Performance.getMetrics")["metrics"]}
        return {name: found[name] for name in SPENT}

    before = spent()
    times = page.evaluate(FRAMES)
    after = spent()
    each = {
        f"{name.removesuffix('Duration').lower()}_ms": 1000 * (after[name] - before[name]) / len(times)
        for name in SPENT
    }
    return {
        "frames": len(times), "frames_a_second": 1000 * len(times) / sum(times),
        "frame_p95_ms": float(np.quantile(times, 0.95)), **each,
    }  # fmt: skip


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


@dataclass(frozen=True)
class Known:
    """What a person knows of a project: each photo's label, and for each decision the label before it."""

    labels: dict[int, str | None]
    before: tuple[tuple[int, str | None], ...] = ()

    def decided(self, photo: int, label: str) -> Known:
        if self.labels[photo] == label:
            return self
        return Known({**self.labels, photo: label}, (*self.before, (photo, self.labels[photo])))

    def undone(self) -> Known:
        photo, label = self.before[-1]
        return Known({**self.labels, photo: label}, self.before[:-1])


class Session:
    """A person who labels, undoes and adds photos, one request after the other, until the server is killed.

    `known` is what was answered. `pending` is what was asked last and not answered: it may have happened.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.pending: tuple[str, Any] | None = None
        self.added: dict[str, str] = {}  # sha256 -> label, of photos whose upload was answered
        self.answered = self.lost = 0

    def work(self, server: Server, draw: random.Random) -> None:
        with suppress(OSError, http.client.HTTPException, ValueError, AssertionError):
            while True:
                self.step(server, draw)

    def step(self, server: Server, draw: random.Random) -> None:
        kind = draw.choices(("decide", "undo", "upload"), (8, 1, 1))[0]
        label = f"label {draw.randint(0, 4)}"
        if kind == "upload":
            pixels = np.random.default_rng(draw.randint(0, 1 << 62)).integers(0, 255, (96, 128, 3))
            data = encode(pixels.astype(np.uint8), "JPEG", quality=90)
            name = hashlib.sha256(data).hexdigest()
            self.pending = (kind, label)
            (number,) = server.upload(f"{name}.jpg", data, label)["photos"]
            self.added[name] = label
            self.known = Known({**self.known.labels, number: label}, self.known.before)
        elif kind == "undo" and self.known.before:
            self.pending = (kind, None)
            undone = server.post("/api/undo", {})["photos"]
            self.lost += undone != [self.known.before[-1][0]]
            self.known = self.known.undone()
        else:
            photo = draw.choice(sorted(self.known.labels))
            body = {"photos": [photo], "label": label, "key": f"{draw.getrandbits(90):x}"}
            self.pending = ("decide", body)
            server.post("/api/decide", body)
            self.known = self.known.decided(photo, label)
        self.answered += 1
        self.pending = None

    def check(self, server: Server) -> None:
        """Compare what a new server says with what was answered; what was pending may be there or not.

        A decision that was not answered is sent again with its key, as the page does: it counts once.
        """
        found = labels_of(server)
        kind: str
        asked: Any
        kind, asked = self.pending or ("", None)
        after = self.known
        if kind == "decide":
            after = self.known.decided(asked["photos"][0], asked["label"])
        elif kind == "undo":
            after = self.known.undone()
        elif kind == "upload" and len(new := found.keys() - self.known.labels.keys()) == 1:
            after = Known({**self.known.labels, new.pop(): asked}, self.known.before)
        expected = after if found == after.labels or kind == "decide" else self.known
        if kind == "decide" and found in (self.known.labels, after.labels):
            server.post("/api/decide", asked)
            found = labels_of(server)
        self.lost += sum(found.get(photo, "") != label for photo, label in expected.labels.items())
        self.known = expected if found == expected.labels else Known(found)
        self.pending = None


def labels_of(server: Server) -> dict[int, str | None]:
    """The label of every photo, as the server says it."""
    numbers = json.loads(server.get("/api/photos?show=all"))["photos"]
    found: dict[int, str | None] = {}
    for first in range(0, len(numbers), 1000):
        details = server.post("/api/details", {"photos": numbers[first : first + 1000]})["photos"]
        found |= {one["n"]: one["label"] for one in details}
    return found


def kills(root: Path, rounds: int) -> dict[str, Any]:
    """Kill the server, every tenth time while it starts, during a labelling session and a build."""
    made = photos(root / "files", 100)
    for number, path in enumerate(made):
        folder = root / "photos" / f"label {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(folder / path.name)
    server = Server(root / "project")
    server.post("/api/import", {"path": str(root / "photos")})
    session = Session(Known(labels_of(server)))
    job = server.post("/api/build", {})["job"]
    survived = 0
    for attempt in range(rounds):
        draw = random.Random(attempt)
        thread = threading.Thread(target=session.work, args=(server, draw))
        thread.start()
        time.sleep(draw.uniform(0, 3))  # the first photo waits for a process that examines it
        server.kill()
        thread.join()
        if attempt % 10 == 9:
            starting = start(root / "project")
            time.sleep(draw.uniform(0, 2))
            starting.kill()
            starting.wait()
        server = Server(root / "project")
        session.check(server)
        survived += state_of(server, job) == "running"
        if attempt % 10 == 9:
            print(f"{attempt + 1} kills, {session.answered} answered, {session.lost} lost", file=sys.stderr)
    server.until(lambda state: all(one["state"] != "running" for one in state["jobs"]))
    built = state_of(server, job)
    server.stop()
    kept = {path.stem: path for path in (root / "project" / "photos").rglob("*") if path.is_file()}
    whole = {name for name, path in kept.items() if hashlib.sha256(path.read_bytes()).hexdigest() == name}
    return {
        "kills": rounds, "answered": session.answered, "decisions_lost": session.lost,
        "photos_added": len(session.added), "photos_lost": len(session.added.keys() - whole),
        "kills_during_the_build": survived, "build": built,
    }  # fmt: skip


def state_of(server: Server, job: int) -> str:
    jobs = json.loads(server.get("/api/state"))["jobs"]
    return next(str(one["state"]) for one in jobs if one["number"] == job)


def shares(colour: Any) -> Any:
    """How much of a colour is red, green and blue, whatever the light."""
    return colour / colour.sum()


def hold_up(root: Path) -> tuple[Path, list[Any]]:
    """A film in which two photos of scikit-image are held before a camera in turn, HELD seconds each.

    Each frame is shifted, lit and noisy in its own way. With it the colours of both things.
    """
    from skimage import data  # without types

    things: Any = data
    film, colours = root / "film.mjpeg", list[Any]()
    root.mkdir(parents=True, exist_ok=True)
    with open(film, "wb") as file:
        for thing in (things.chelsea(), things.coffee()):
            large = read_pixels(np.ascontiguousarray(thing), Frame(720, 540))
            colours.append(shares(large.sum((0, 1))))
            draw = np.random.default_rng(0)
            for number in range(HELD * FILM_RATE):
                left, top = (40 + 40 * np.sin(number / np.array([17, 11]))).astype(int)
                part = large[top : top + 480, left : left + 640] * draw.uniform(0.85, 1.1)
                noisy = np.clip(part + draw.normal(0, 3, part.shape), 0, 255).astype(np.uint8)
                file.write(encode(noisy, "JPEG", quality=85))
    return film, colours


def look(root: Path) -> dict[str, Any]:
    """A person opens the page and its camera, holds up two things for 20 photos each, and then looks."""
    film, colours = hold_up(root)
    server = Server(root / "project")

    def held(page: Any) -> int:
        seen = shares(np.array(page.evaluate(COLOUR)))
        return int(np.argmin([np.abs(seen - colour).sum() for colour in colours]))

    def photos_of(label: str) -> int:
        labels = json.loads(server.get("/api/state"))["labels"]
        return sum(one["photos"] for one in labels if one["name"] == label)

    def measure(page: Any) -> dict[str, float]:
        begun = time.perf_counter()
        page.goto(server.url)
        page.wait_for_selector("h1")
        page.click("text=Open the camera")
        page.wait_for_function("document.querySelector('video')?.videoWidth > 0")
        answer = {"camera_s": time.perf_counter() - begun}
        for thing, label in enumerate(THINGS):
            page.fill("input[list]", label)
            page.focus(".camera .primary")
            while photos_of(label) < 20:
                while held(page) != thing:
                    page.wait_for_timeout(50)
                page.keyboard.down("Space")
                while held(page) == thing and photos_of(label) < 20:
                    page.wait_for_timeout(50)
                page.keyboard.up("Space")
            answer[f"photos_of_{label}_s"] = time.perf_counter() - begun
        server.until(lambda state: len(state["learner"]["labels"]) == 2)
        answer["suggestions_s"] = time.perf_counter() - begun
        while len(answer) < 4 + len(THINGS):
            label = THINGS[held(page)]
            if page.evaluate(TOP) == label:
                answer.setdefault(f"answers_{label}_s", time.perf_counter() - begun)
            page.wait_for_timeout(50)
        return answer

    seconds = in_browser(server.url, measure, film)
    state = json.loads(server.get("/api/state"))
    server.stop()
    return {**seconds, "photos": {one["name"]: one["photos"] for one in state["labels"]}}


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
