"""The routes of a Studio as an ASGI application: page, thumbnails, answers in JSON, events."""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from catflap.artifacts.bundle import Bundle, load_bundle
from catflap.artifacts.folder import unwritable, write_atomically
from catflap.artifacts.report import load_report
from catflap.data.listing import by_folder
from catflap.errors import BadPhoto, CatflapError, first_line, missing_extra
from catflap.image import encode, highlight, read_file, thumbnail
from catflap.runtime.activation_maps import evidence
from catflap.runtime.classifier import Classifier
from catflap.serving import pages
from catflap.serving.app import CONTENT_TYPES
from catflap.serving.static_site import PAGE as CAMERA_PAGE
from catflap.studio.importing import Importer, check_readable
from catflap.studio.jobs import COMMAND, PAGES, Jobs
from catflap.studio.phone import Phone
from catflap.studio.places import cards
from catflap.studio.project import ASIDE, Project
from catflap.studio.suggestions import ORDERS, Suggestions

PAGE = Path(__file__).parent / "static"  # built from web/studio/
SIDE, LARGE = 256, 1600  # px of thumbnails and of photos on the screen
MOST_DETAILS = 1000
SHOWN_JOBS = 200
SHOWN_SLICES = 12
JSON_BYTES = 16 << 20
LOOK_BYTES = 8 << 20
UPLOAD_BYTES = 8 << 30
BEAT = 15.0  # seconds between two signs of life of the event stream
GAP = 0.15  # seconds between two events
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}


class Studio:
    """The parts of a running Studio; `version` grows with every change that the page should know of."""

    def __init__(
        self, project: Project, *, command: tuple[str, ...] | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.project = project
        self.version = 0
        self.stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self.importer = Importer(project, self.photos_changed)
        self.suggestions = Suggestions(project, project.path / "cache" / "backbone.onnx", self.changed)
        self.jobs = Jobs(project, self.changed, command or COMMAND, options)
        self.phone = Phone(self._take_from_phone)
        self._opened: tuple[Path, int, Bundle] | None = None  # the last one: its path and date
        self._classifier: tuple[Bundle, Classifier] | None = None

    def start(self) -> None:
        """Start the threads."""
        self._loop = asyncio.get_running_loop()
        self.suggestions.start()
        self.jobs.start()

    def _take_from_phone(self, photo: bytes, name: str, label: str) -> dict[str, Any]:
        """Add a photo that a phone sent."""
        with self.importer.inbox_file(name) as path:
            path.write_bytes(photo)
            answer = self.importer.take(path, name, label.strip() or None)
        self.photos_changed()
        return answer

    def close(self) -> None:
        """End the threads and processes, except the jobs."""
        self.phone.close()
        self.suggestions.stop()
        self.jobs.close()
        self.importer.close()
        self.project.close()

    def changed(self) -> None:
        """Tell every open page, from any thread."""
        self.version += 1
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._tell)

    def photos_changed(self) -> None:
        """Photos were added: suggest for them."""
        self.suggestions.wake()
        self.changed()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait_for_news(self, seconds: float) -> None:
        """Return at the next change, or after some seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._news.wait()), seconds)

    def bundle(self, path: Path) -> Bundle:
        """An opened Bundle, kept while its file is the same."""
        opened, modified = self._opened, path.stat().st_mtime_ns
        if opened is None or opened[:2] != (path, modified):
            self._opened = opened = path, modified, load_bundle(path)
        return opened[2]

    def where(self, path: Path, photo: Path, label: str) -> bytes | None:
        """A JPEG of where the network found a label; None when the default variant has no maps."""
        bundle = self.bundle(path)
        kept = self._classifier
        if kept is None or kept[0] is not bundle:
            self._classifier = kept = bundle, Classifier(bundle, threads=1)
        classifier = kept[1]
        data = read_file(str(photo), classifier.frame.max_bytes)
        heat = evidence(classifier.model, data, classifier.frame, classifier.labels.index(label))
        return None if heat is None else encode(highlight(data, heat, classifier.frame), "JPEG", quality=88)

    def state(self) -> dict[str, Any]:
        """What every screen shows."""
        suggestions = self.suggestions
        problem = suggestions.problem
        return {
            "name": self.project.path.absolute().name,
            "version": self.version,
            **self.project.summary(),
            "learner": {
                "done": suggestions.progress[0],
                "total": suggestions.progress[1],
                "ms": suggestions.state.ms,
                "revision": suggestions.state.revision,
                "labels": suggestions.state.labels,
                "problem": problem.to_json() if problem else None,
                "curve": suggestions.curve,
                "suspects": len(suggestions.suspects),
            },
            "importing": self.importer.progress,
            "phone": self.phone.url,
            "jobs": [job.to_json() for job in self.jobs.latest(SHOWN_JOBS)],
        }


Handler = Callable[[Studio, Request], Awaitable[Response]]


async def state(studio: Studio, request: Request) -> Response:
    """`GET /api/state`: what every screen shows."""
    return JSONResponse(await asyncio.to_thread(studio.state))


async def events(studio: Studio, request: Request) -> Response:
    """`GET /api/events`: a line for each change (SSE), so that the page asks for the state again."""

    async def stream() -> AsyncIterator[bytes]:
        seen = -1
        while not studio.stopping:
            if studio.version != seen:
                seen = studio.version
                yield f"data: {seen}\n\n".encode()
                await asyncio.sleep(GAP)
            else:
                before = time.monotonic()
                await studio.wait_for_news(BEAT)
                if time.monotonic() - before >= BEAT:
                    yield b": still here\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def photos(studio: Studio, request: Request) -> Response:
    """`GET /api/photos?show=&order=&like=`: the numbers of photos in an order, one a stack."""
    query = request.query_params
    show, order = query.get("show", "open"), query.get("order", "new")
    like = int(query["like"]) if query.get("like", "").isdecimal() else None
    if order not in ORDERS:
        raise CatflapError(f"There is no order {order[:40]!r}.", f"Use one of: {', '.join(ORDERS)}.")

    def find() -> list[int]:
        condition, values = "label is null", list[Any]()
        if order == "suspects":
            condition = "label != ''"
        elif show == "all":
            condition = "1"
        elif show == "aside":
            condition = "label = ''"
        elif show == "field":
            condition = "label is null and predicted is not null"
        elif show.startswith("label:"):
            condition, values = "label = ?", [show.removeprefix("label:")]
        if show == "expanded" and like is not None:
            condition, values = "stack = (select stack from photos where n = ?)", [like]
            rows = studio.project.rows(f"select n from photos where {condition} order by n", values)
        else:
            rows = studio.project.rows(
                f"select min(n) as n from photos where {condition} group by stack order by 1", values
            )
        numbers = np.array([row["n"] for row in rows], np.int64)
        found: list[int] = studio.suggestions.order(order, numbers, like).tolist()
        return found

    return JSONResponse({"photos": await asyncio.to_thread(find), "revision": studio.project.revision})


async def details(studio: Studio, request: Request) -> Response:
    """`POST /api/details`: what a grid shows of some photos: label, suggestion, stack, name."""
    body = await _json(request)
    asked = [int(number) for number in body.get("photos", [])][:MOST_DETAILS]

    def find() -> list[dict[str, Any]]:
        marks = ",".join("?" * len(asked))
        rows = studio.project.rows(
            "select p.n, p.label, p.name, p.width, p.height, p.remarks, p.stack, p.predicted, "
            "p.predicted_probability, "
            "(select count(*) from photos s where s.stack = p.stack) as alike "
            f"from photos p where p.n in ({marks})",
            asked,
        )
        suggested = studio.suggestions.state
        suspects = studio.suggestions.suspects
        answers = []
        for row in rows:
            answer = {name: row[name] for name in row.keys()}  # noqa: SIM118  a Row has no other way
            number = row["n"]
            if number < len(suggested.suggested) and suggested.suggested[number] >= 0:
                answer["suggested"] = suggested.labels[suggested.suggested[number]]
                answer["probability"] = round(float(suggested.probability[number]), 4)
            elif row["predicted"]:
                answer["suggested"], answer["probability"] = (
                    row["predicted"],
                    round(row["predicted_probability"], 4),
                )
            if number in suspects:
                answer["suspect"] = suspects[number][0]
            answers.append(answer)
        return answers

    return JSONResponse({"photos": await asyncio.to_thread(find)})


async def sure(studio: Studio, request: Request) -> Response:
    """`POST /api/sure`: open photos that are suggested a label at a probability or more: count, accept."""
    body = await _json(request)
    label, least, accept = str(body["label"]), float(body["least"]), bool(body.get("accept"))

    def find() -> dict[str, Any]:
        suggested = studio.suggestions.state
        if label not in suggested.labels:
            return {"photos": 0}
        wanted = (suggested.suggested == suggested.labels.index(label)) & (suggested.probability >= least)
        rows = studio.project.rows("select n from photos where label is null")
        numbers = [row["n"] for row in rows if row["n"] < len(wanted) and wanted[row["n"]]]
        if accept:
            studio.project.decide(numbers, label, key=body.get("key"))
        return {"photos": len(numbers)}

    answer = await asyncio.to_thread(find)
    if accept:
        studio.photos_changed()
    return JSONResponse(answer)


async def decide(studio: Studio, request: Request) -> Response:
    """`POST /api/decide`: give photos a label, leave them out (""), or take their label away (null)."""
    body = await _json(request)
    label = body.get("label")
    if label is not None and not isinstance(label, str):
        raise CatflapError("The label is no text.", "Send a name, an empty text or null.")
    numbers = [int(number) for number in body["photos"]]
    label = label.strip() if label else label
    changed = await asyncio.to_thread(studio.project.decide, numbers, label, key=body.get("key"))
    studio.photos_changed()
    return JSONResponse({"changed": changed, "revision": studio.project.revision})


async def undo(studio: Studio, request: Request) -> Response:
    """`POST /api/undo`: take back the last decision; {"redo": true} the last undo."""
    body = await _json(request)
    found = await asyncio.to_thread(studio.project.undo, redo=bool(body.get("redo")))
    studio.photos_changed()
    return JSONResponse({"photos": found})


async def labels(studio: Studio, request: Request) -> Response:
    """`POST /api/labels`: add a label; {"remove": true} removes one without photos."""
    body = await _json(request)
    change = studio.project.remove_label if body.get("remove") else studio.project.add_label
    name = str(body["name"]).strip()
    if name == ASIDE:
        raise CatflapError("The label has no name.", "Type one, such as cat.")
    await asyncio.to_thread(change, name)
    studio.changed()
    return JSONResponse({"labels": studio.project.summary()["labels"]})


async def folders(studio: Studio, request: Request) -> Response:
    """`POST /api/folders`: the label of each path of a dropped folder, by the rule of `scan`."""
    body = await _json(request)
    return JSONResponse({"labels": [label for _, label in by_folder([str(path) for path in body["paths"]])]})


async def upload(studio: Studio, request: Request) -> Response:
    """`POST /api/upload?name=&label=`: one photo or archive, its bytes as the body."""
    name = request.query_params.get("name", "photo")[-200:]
    label = request.query_params.get("label", "").strip() or None
    with studio.importer.inbox_file(name) as path:
        size = 0
        with open(path, "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > UPLOAD_BYTES:
                    raise CatflapError(f"{name} is too large.", "Import it by its path on this machine.")
                file.write(chunk)
        answer = await asyncio.to_thread(studio.importer.take, path, name, label)
    studio.photos_changed()
    return JSONResponse(answer)


async def import_path(studio: Studio, request: Request) -> Response:
    """`POST /api/import`: a folder, list, archive or address that this machine can read."""
    body = await _json(request)
    source = str(body["path"]).strip()
    check_readable(source)
    if studio.importer.progress:
        raise CatflapError("Another import is running.", "Wait for it.")
    source = source if "://" in source else str(Path(source).expanduser())
    answer = await asyncio.to_thread(studio.importer.add_source, source, copy=bool(body.get("copy")))
    await asyncio.to_thread(studio.importer.stack)
    return JSONResponse(
        {**answer, "refused": answer["refused"][:200], "count_refused": len(answer["refused"])}
    )


async def record(studio: Studio, request: Request) -> Response:
    """`POST /api/record`: frames of a camera, stream or video of this machine; {"stop": true} ends it."""
    body = await _json(request)
    if body.get("stop"):
        studio.importer.stop_recording()
        return JSONResponse({})
    if studio.importer.progress:
        raise CatflapError("Another import is running.", "Wait for it.")
    address, label = str(body["address"]).strip(), str(body.get("label") or "").strip() or None
    take = studio.importer.record
    answer = await asyncio.to_thread(take, address, int(body["frames"]), float(body["every"]), label)
    await asyncio.to_thread(studio.importer.stack)
    studio.photos_changed()
    return JSONResponse(answer)


async def phone(studio: Studio, request: Request) -> Response:
    """`POST /api/phone`: open the page for a phone, {"camera": true} in https; {"close": true} closes it."""
    body = await _json(request)
    if body.get("close"):
        await asyncio.to_thread(studio.phone.close)
    else:
        await asyncio.to_thread(lambda: studio.phone.open(camera=bool(body.get("camera"))))
    studio.changed()
    return JSONResponse({"url": studio.phone.url})


async def demo(studio: Studio, request: Request) -> Response:
    """`POST /api/demo`: free photos to try Studio with: handwritten digits, a few of them labelled."""
    answer = await asyncio.to_thread(studio.importer.add_demo)
    return JSONResponse({**answer, "photos": []})


async def stack(studio: Studio, request: Request) -> Response:
    """`POST /api/stack`: find near-duplicates, after uploads."""
    await asyncio.to_thread(studio.importer.stack)
    return JSONResponse({})


async def refused(studio: Studio, request: Request) -> Response:
    """`GET /api/refused`: photos that were refused, with the reason; `DELETE` forgets them."""
    if request.method == "DELETE":
        await asyncio.to_thread(studio.project.clear_refused)
        studio.changed()
        return JSONResponse({})
    rows = studio.project.rows("select name, reason, sentence from refused order by n desc limit 1000")
    return JSONResponse({"refused": [dict(row) for row in rows]})


async def thumb(studio: Studio, request: Request) -> Response:
    """`GET /thumb/N` and `GET /photo/N`: a photo upright in sRGB, small or large, as JPEG."""
    number = int(request.path_params["number"])
    is_small = request.url.path.startswith("/thumb/")

    def make() -> bytes | None:
        kept = studio.project.path / "cache" / "thumbs" / f"{number % 256:02x}" / f"{number}.jpg"
        if is_small:
            with suppress(OSError):
                return kept.read_bytes()
        place = studio.project.place_of(number)
        if place is None:
            return None
        made = thumbnail(place, SIDE if is_small else LARGE, 82 if is_small else 88)
        if is_small:
            with suppress(OSError, CatflapError):
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(kept, made, durable=False)
        return made

    try:
        data = await asyncio.to_thread(make)
    except BadPhoto as error:  # it vanished or changed since it was imported
        return JSONResponse({"error": error.to_json()}, 410)
    if data is None:
        return JSONResponse({"error": {"what": "There is no such photo.", "fix": "Reload the page."}}, 404)
    return Response(data, media_type="image/jpeg", headers=FOREVER)


async def look(studio: Studio, request: Request) -> Response:
    """`POST /api/look`: what the suggestions of this moment say about a picture; the body is a JPEG."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LOOK_BYTES:
            raise CatflapError("The picture is too large.", "Send a smaller one.")
    return JSONResponse({"shares": await asyncio.to_thread(studio.suggestions.look, data)})


async def build(studio: Studio, request: Request) -> Response:
    """`POST /api/build`: start a build with a time limit in minutes, or none."""
    body = await _json(request)
    minutes = float(body["minutes"]) if body.get("minutes") else None
    return JSONResponse({"job": await asyncio.to_thread(studio.jobs.build, minutes)})


async def job(studio: Studio, request: Request) -> Response:
    """`POST /api/jobs/N/stop` or `/continue`."""
    change = {"stop": studio.jobs.stop, "continue": studio.jobs.go_on}.get(request.path_params["what"])
    if change is None:
        raise HTTPException(404)
    await asyncio.to_thread(change, int(request.path_params["number"]))
    studio.changed()
    return JSONResponse({})


async def training(studio: Studio, request: Request) -> Response:
    """`GET /api/jobs/N/training`: the candidates of a build with their figures, and its curves, so far."""
    number = int(request.path_params["number"])
    return JSONResponse(await asyncio.to_thread(studio.jobs.training_of, number))


async def model(studio: Studio, request: Request) -> Response:
    """`GET /api/models/N`: a build's verdict, and what its Bundle answered about each test photo."""
    number = int(request.path_params["number"])

    def find() -> dict[str, Any]:
        path = studio.jobs.bundle_of(number)
        bundle = studio.bundle(path)
        report = load_report(path.with_suffix(".build") / "report")
        answers = studio.jobs.answers_of(number)
        head, variant = bundle.head, bundle.head["variants"][bundle.default_variant]
        judged = []
        if answers is not None:
            truth = {row["n"]: row["label"] for row in studio.project.rows("select n, label from photos")}
            for answer in answers:
                photo = int(Path(answer["path"]).stem)
                judged.append(
                    {**{key: answer.get(key) for key in JUDGED}, "photo": photo, "truth": truth.get(photo)}
                )
        numbers = {row["id"]: row["n"] for row in studio.project.rows("select n, id from photos")}
        compared = studio.jobs.comparison_of(number)
        if compared:
            names = ("before", "verdict", "why", "wrong", "right", "margin")
            changed = [{**one, "photo": numbers.get(one["id"])} for one in compared["photos_changed"][:200]]
            compared = {**{name: compared.get(name) for name in names}, "changed": changed}
        return {
            "compared": compared,
            "name": bundle.name,
            "labels": list(bundle.labels),
            "variant": bundle.default_variant,
            "prior": head["prior"],
            "decision": variant["decision"],
            "metrics": {
                key: report.variants[bundle.default_variant].get(key) for key in ("accuracy", "decisions")
            },
            "bytes": path.stat().st_size,
            "variants": {name: bundle.size_of(one) for name, one in bundle.variants.items()},
            "photos": judged,
            "slices": _lowest_slices(report.conditions.get("slices") or {}),
            "pages": {kind: studio.jobs.page_of(number, kind) is not None for kind in PAGES},
            "is_judged": answers is not None,
            "labels_then": json.loads((studio.jobs.folder(number) / "labels.json").read_text("utf-8")),
        }

    return JSONResponse(await asyncio.to_thread(find))


JUDGED = ("label", "probability", "probabilities", "decision")


def _lowest_slices(found: dict[str, Any]) -> dict[str, Any]:
    """The slices of a report with the fewest right decisions, and how many were tested."""
    rows = sorted(found.get("rows", []), key=lambda row: (not row["worse"], row["right"]["value"]))
    return {"tests": found.get("tests", 0), "rows": rows[:SHOWN_SLICES]}


async def where(studio: Studio, request: Request) -> Response:
    """`GET /where/N/PHOTO?label=`: where the network of a build found a label in a photo, as JPEG."""
    path = studio.jobs.bundle_of(int(request.path_params["number"]))
    place = studio.project.place_of(int(request.path_params["photo"]))
    if place is None:
        raise HTTPException(404)
    label = request.query_params.get("label", "")
    made = await asyncio.to_thread(studio.where, path, place, label)
    if made is None:
        raise HTTPException(404)
    return Response(made, media_type="image/jpeg", headers=FOREVER)


async def explain(studio: Studio, request: Request) -> Response:
    """`POST /api/models/N/explain`: write a page by the verb `kind`: compare, or explain of a `photo`."""
    body = await _json(request)
    number, photo = int(request.path_params["number"]), body.get("photo")
    start = studio.jobs.explain
    job = await asyncio.to_thread(start, number, str(body["kind"]), None if photo is None else int(photo))
    return JSONResponse({"job": job})


async def explanation(studio: Studio, request: Request) -> Response:
    """`GET /explain/N/KIND`: the page that such a job wrote; it brings a stricter policy of its own."""
    found = studio.jobs.page_of(int(request.path_params["number"]), request.path_params["kind"])
    if found is None:
        raise HTTPException(404)
    policy = "sandbox allow-scripts; frame-ancestors 'self'"
    return FileResponse(found, media_type="text/html", headers={"content-security-policy": policy})


async def deliver(studio: Studio, request: Request) -> Response:
    """`GET /api/models/N/places`: a card for each place that the Bundle of a build can run."""
    path = studio.jobs.bundle_of(int(request.path_params["number"]))
    return JSONResponse({"places": await asyncio.to_thread(lambda: cards(studio.bundle(path), path))})


async def download(studio: Studio, request: Request) -> Response:
    """`GET /models/N`: the Bundle of a build, as a file."""
    path = studio.jobs.bundle_of(int(request.path_params["number"]))
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


async def report(studio: Studio, request: Request) -> Response:
    """`GET /report/N`: the report of a build."""
    path = studio.jobs.bundle_of(int(request.path_params["number"]))
    page = path.with_suffix(".build") / "report" / "report.html"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
    return FileResponse(page, media_type="text/html", headers={"content-security-policy": policy})


async def export(studio: Studio, request: Request) -> Response:
    """`POST /api/export`: the labelled photos as class folders, copied into a new folder on this machine."""
    body = await _json(request)
    target = Path(str(body["path"]).strip()).expanduser()

    def copy() -> dict[str, Any]:
        if not target.is_absolute() or target.exists():
            raise CatflapError(
                f"{target} exists, or is no whole path.", "Name a new folder, such as /home/me/cats."
            )
        part = target.with_name(f".{target.name}.part")
        counts: dict[str, int] = {}
        try:
            shutil.rmtree(part, ignore_errors=True)
            for row in studio.project.rows(
                "select n, place, label, id from photos where label != '' order by n"
            ):
                place = studio.project.path / row["place"]
                folder = part / row["label"].replace("/", "∕").lstrip(".")
                folder.mkdir(parents=True, exist_ok=True)
                if place.is_file():
                    shutil.copyfile(place, folder / f"{row['id'][:16]}{place.suffix}")
                    counts[row["label"]] = counts.get(row["label"], 0) + 1
            part.rename(target)
        except OSError as error:
            raise unwritable(target, error) from error
        return {"path": str(target), "labels": counts}

    return JSONResponse(await asyncio.to_thread(copy))


async def try_page(studio: Studio, request: Request) -> Response:
    """`GET /try/N/…`: the camera page with the Bundle of a build."""
    number, name = int(request.path_params["number"]), request.path_params["file"]
    bundle = await asyncio.to_thread(studio.bundle, studio.jobs.bundle_of(number))
    headers = pages.camera_headers(CAMERA_PAGE)
    if name.startswith("bundle/"):
        member = name.removeprefix("bundle/")
        if member not in bundle.members:
            raise HTTPException(404)
        tag = f'"{bundle.hash_of(member)}"'
        headers = {**pages.ISOLATED, "etag": tag, "cache-control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        kind = pages.CONTENT_TYPES.get(Path(member).suffix, "application/octet-stream")
        return Response(bytes(bundle.members[member]), media_type=kind, headers=headers)
    path = (CAMERA_PAGE / (name or "index.html")).resolve()
    if CAMERA_PAGE.resolve() not in path.parents or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, headers=headers)


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/api/state", state),
    ("GET", "/api/events", events),
    ("GET", "/api/photos", photos),
    ("POST", "/api/details", details),
    ("POST", "/api/sure", sure),
    ("POST", "/api/decide", decide),
    ("POST", "/api/undo", undo),
    ("POST", "/api/labels", labels),
    ("POST", "/api/folders", folders),
    ("POST", "/api/upload", upload),
    ("POST", "/api/import", import_path),
    ("POST", "/api/record", record),
    ("POST", "/api/demo", demo),
    ("POST", "/api/phone", phone),
    ("POST", "/api/stack", stack),
    ("GET", "/api/refused", refused),
    ("DELETE", "/api/refused", refused),
    ("GET", "/thumb/{number:int}", thumb),
    ("GET", "/photo/{number:int}", thumb),
    ("POST", "/api/look", look),
    ("POST", "/api/build", build),
    ("POST", "/api/jobs/{number:int}/{what}", job),
    ("GET", "/api/jobs/{number:int}/training", training),
    ("GET", "/api/models/{number:int}", model),
    ("GET", "/api/models/{number:int}/places", deliver),
    ("POST", "/api/models/{number:int}/explain", explain),
    ("POST", "/api/export", export),
    ("GET", "/where/{number:int}/{photo:int}", where),
    ("GET", "/explain/{number:int}/{kind}", explanation),
    ("GET", "/models/{number:int}", download),
    ("GET", "/report/{number:int}", report),
    ("GET", "/try/{number:int}/{file:path}", try_page),
)


def create_app(studio: Studio, page: Path = PAGE) -> Starlette:
    """The application of a Studio, with its page at `/`."""
    for suffix, content_type in CONTENT_TYPES.items():
        mimetypes.add_type(content_type, suffix)

    def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(studio, request)
            except CatflapError as error:
                return JSONResponse({"error": error.to_json()}, 400)
            except ModuleNotFoundError as error:  # OpenCV, for a stream
                problem = missing_extra(error)
                if problem is None:
                    raise
                return JSONResponse({"error": problem.to_json()}, 400)
            except ClientDisconnect:
                return Response(status_code=499)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                # of what the page sent, or a bug
                logging.getLogger(__name__).warning("%s", request.url.path, exc_info=True)
                what = f"This request cannot be understood: {first_line(error)}."
                return JSONResponse({"error": {"what": what, "fix": "Reload the page."}}, 400)

        return answer

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        studio.start()
        try:
            yield
        finally:
            await asyncio.to_thread(studio.close)

    routes: list[BaseRoute] = [
        Route(path, endpoint(handler), methods=[method]) for method, path, handler in ROUTES
    ]
    if (page / "index.html").is_file():
        routes.append(Mount("/", StaticFiles(directory=page, html=True)))
    return Starlette(routes=routes, lifespan=lifespan)


async def _json(request: Request) -> dict[str, Any]:
    """The body of a request, a JSON object."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > JSON_BYTES:
            raise CatflapError("The request is too large.", "Send less at once.")
    body = json.loads(data or b"{}")
    if not isinstance(body, dict):
        raise ValueError("it is no object")
    return body
