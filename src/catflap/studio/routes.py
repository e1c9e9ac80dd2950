"""The routes of a Studio as an ASGI application: the page, its pictures, answers in JSON, events."""

from __future__ import annotations

import asyncio
import json
import logging
import mimetypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from catflap.data.listing import by_folder
from catflap.errors import BadPhoto, CatflapError, first_line, missing_extra
from catflap.serving import pages
from catflap.serving.app import CONTENT_TYPES
from catflap.serving.http_messages import HttpError
from catflap.serving.static_site import PAGE as CAMERA_PAGE
from catflap.studio.build_results import results_of
from catflap.studio.importing import check_readable
from catflap.studio.places import cards
from catflap.studio.project import ASIDE
from catflap.studio.running import Studio
from catflap.studio.suggestions import ORDERS

PAGE = Path(__file__).parent / "static"  # built from web/studio/
MOST_DETAILS = 1000
SHOWN_REFUSED = 1000
JSON_BYTES = 16 << 20
LOOK_BYTES = 8 << 20
UPLOAD_BYTES = 8 << 30
BEAT = 15.0  # seconds between two signs of life of the event stream
GAP = 0.15  # seconds between two events
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}


Handler = Callable[[Studio, Request], Awaitable[ASGIApp]]  # such as a Response


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

    if order == "suspects" and show != "expanded":
        show = order

    def find() -> list[int]:
        numbers = studio.project.photos_of_screen(show, like)
        found: list[int] = studio.suggestions.order(order, np.array(numbers, np.int64), like).tolist()
        return found

    return JSONResponse({"photos": await asyncio.to_thread(find), "revision": studio.project.revision})


async def details(studio: Studio, request: Request) -> Response:
    """`POST /api/details`: what a grid shows of some photos: label, suggestion, stack, name."""
    body = await _json(request)
    asked = [int(number) for number in body.get("photos", [])][:MOST_DETAILS]

    def find() -> list[dict[str, Any]]:
        return [studio.suggestions.describe(row) for row in studio.project.describe(asked)]

    return JSONResponse({"photos": await asyncio.to_thread(find)})


async def sure(studio: Studio, request: Request) -> Response:
    """`POST /api/sure`: open photos that are suggested a label at a probability or more: count, accept."""
    body = await _json(request)
    label, least, accept = str(body["label"]), float(body["least"]), bool(body.get("accept"))

    def find() -> dict[str, Any]:
        numbers = studio.suggestions.suggested_as(label, least)
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
    return JSONResponse({"refused": studio.project.latest_refused(SHOWN_REFUSED)})


async def thumb(studio: Studio, request: Request) -> Response:
    """`GET /thumb/N` and `GET /photo/N`: a photo upright in sRGB, small or large, as JPEG."""
    make = studio.pictures.small if request.url.path.startswith("/thumb/") else studio.pictures.large
    try:
        data = await asyncio.to_thread(make, int(request.path_params["number"]))
    except BadPhoto as error:  # it vanished or changed since it was imported
        return JSONResponse({"error": error.to_json()}, 410)
    if data is None:
        return JSONResponse({"error": {"what": "There is no such photo.", "fix": "Reload the page."}}, 404)
    return Response(data, media_type="image/jpeg", headers=FOREVER)


async def look(studio: Studio, request: Request) -> Response:
    """`POST /api/look`: a share for each label by the head of this moment; the body is a JPEG."""
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
        return results_of(studio.project, studio.jobs, number, studio.bundle(path), path)

    return JSONResponse(await asyncio.to_thread(find))


async def where(studio: Studio, request: Request) -> Response:
    """`GET /where/N/PHOTO?label=`: where the network of a build found a label in a photo, as JPEG."""
    path = studio.jobs.bundle_of(int(request.path_params["number"]))
    photo, label = int(request.path_params["photo"]), request.query_params.get("label", "")
    made = await asyncio.to_thread(lambda: studio.pictures.heat(studio.bundle(path), photo, label))
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

    counts = await asyncio.to_thread(studio.project.copy_labelled, target)
    return JSONResponse({"path": str(target), "labels": counts})


async def try_page(studio: Studio, request: Request) -> ASGIApp:
    """`GET /try/N/…`: the camera page with the Bundle of a build."""
    number, name = int(request.path_params["number"]), request.path_params["file"]
    bundle = await asyncio.to_thread(studio.bundle, studio.jobs.bundle_of(number))
    if name.startswith("bundle/"):
        return pages.member_response(bundle, name.removeprefix("bundle/"), request.headers)
    path = (CAMERA_PAGE / (name or "index.html")).resolve()
    if CAMERA_PAGE.resolve() not in path.parents or not path.is_file():
        raise HTTPException(404)
    return FileResponse(path, headers=pages.camera_headers(CAMERA_PAGE))


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

    def endpoint(handler: Handler) -> Callable[[Request], Awaitable[ASGIApp]]:
        async def answer(request: Request) -> ASGIApp:
            try:
                return await handler(studio, request)
            except CatflapError as error:
                status = error.status if isinstance(error, HttpError) else 400
                return JSONResponse({"error": error.to_json()}, status)
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
