"""The routes of the server as an ASGI application; the one file that owns Starlette."""

from __future__ import annotations

import asyncio
import mimetypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from catflap.errors import CatflapError
from catflap.serving import pages, predict, protocol, status
from catflap.serving.answers import Answer, Call, Problem, answer_problem
from catflap.serving.keys import check_key
from catflap.serving.service import Service, close_service
from catflap.serving.site import PAGE
from catflap.serving.workers import LEFT

Handler: TypeAlias = Callable[[Service, Call], Awaitable[Answer]]

MODEL = "/v2/models/{name}"
VERSIONED = "/v2/models/{name}/versions/{version}"
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/predict", predict.predict),
    ("GET", "/healthz", status.healthz),
    ("GET", "/readyz", status.readyz),
    ("GET", "/metrics", status.metrics),
    ("GET", "/openapi.json", pages.openapi),
    ("GET", "/docs", pages.docs),
    ("GET", "/bundle/{file:path}", pages.bundle_file),
    ("GET", "/v2", protocol.server_metadata),
    ("GET", "/v2/health/live", protocol.live),
    ("GET", "/v2/health/ready", protocol.ready),
    ("GET", MODEL, protocol.model_metadata),
    ("GET", f"{MODEL}/ready", protocol.model_ready),
    ("POST", f"{MODEL}/infer", protocol.infer),
    ("GET", VERSIONED, protocol.model_metadata),
    ("GET", f"{VERSIONED}/ready", protocol.model_ready),
    ("POST", f"{VERSIONED}/infer", protocol.infer),
)
OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")  # without a key
ALWAYS = (*OPEN, "/metrics")  # however many connections are open
CROWDED = "catflap.crowded"  # the ASGI extension of a request that came while too many were
ENDING = Problem(503, "The server ends.", "Send it again.", {"Connection": "close"})
LINGER = 5.0  # seconds in which the rest of a refused body is dropped
KINDS = {
    ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml",
    ".wasm": "application/wasm", ".tflite": "application/octet-stream", ".onnx": "application/octet-stream",
}  # fmt: skip


def create_app(service: Service, camera: Path = PAGE) -> Starlette:
    """The application: every route, and the camera page at `/` when its folder is there."""
    routes: list[BaseRoute] = [
        Route(path, partial(_endpoint, service, path, handler), methods=[method])
        for method, path, handler in ROUTES
    ]
    is_built = (camera / "index.html").is_file()
    if is_built:
        for suffix, kind in KINDS.items():
            mimetypes.add_type(kind, suffix)  # what the system thinks of .mjs or .wasm differs
    else:
        routes.append(Route("/", partial(_endpoint, service, "/", pages.upload), methods=["GET"]))
    lost = partial(_lost, service)
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: lost},
        lifespan=partial(_lifespan, service),
    )
    app.router.redirect_slashes = False
    if is_built:
        # not a route: one for every path would answer for those that take another method
        app.router.default = _Camera(service, camera)
    return app


async def _endpoint(service: Service, route: str, handler: Handler, request: Request) -> Response:
    """Answer one request, whatever happens, and count it."""
    start = perf_counter()
    whole = request.method != "POST"

    async def read() -> bytes:
        nonlocal whole
        body = await service.bodies.read(request.stream(), request.headers, tally)
        whole = True
        return body

    with service.bodies.hold() as tally:
        try:
            if route not in ALWAYS:
                _check_crowd(request.scope)
            if route not in OPEN:
                check_key(request.headers, service.keys)
            call = Call(
                request.path_params, request.query_params, request.headers, read, partial(_gone, request)
            )
            answer = await handler(service, call)
        except ClientDisconnect:
            answer = Answer(b"", LEFT)
        except asyncio.CancelledError:  # the server ends, and drops nothing of what still comes
            whole, answer = True, answer_problem(ENDING, protocol=route.startswith("/v2"))
        except Exception as error:
            answer = answer_problem(_problem(service, error), protocol=route.startswith("/v2"))
    service.metrics.request(route, answer.status, perf_counter() - start)
    return _response(answer, whole)


def _check_crowd(scope: Scope) -> None:
    """Raise Problem 503 when the request came while too many connections were open; its own is closed."""
    if CROWDED in scope.get("extensions", ()):
        raise Problem(
            503, "Too many connections are open.", "Try again later.",
            {"Retry-After": "1", "Connection": "close"},
        )  # fmt: skip


async def _gone(request: Request) -> None:
    """Return when the client has left; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problem(service: Service, error: Exception) -> Problem:
    """Any exception as a Problem; what nobody foresaw is told to the operator, not to the client."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CatflapError):
        return Problem(500, error.what, error.fix)
    if os.environ.get("CATFLAP_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    service.note(f"This is a bug in Catflap: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Problem(500, "The server made a mistake.", "Its operator finds it in the log.")


async def _lost(service: Service, request: Request, error: Exception) -> Response:
    """Paths that are not there and methods that they do not take."""
    assert isinstance(error, HTTPException)
    what = {
        404: "There is nothing at this path.",
        405: f"This path does not take {request.method}.",
    }.get(error.status_code, error.detail)
    told = error.__cause__  # by the camera page
    problem = (
        told if isinstance(told, Problem) else Problem(error.status_code, what, "See /docs.", error.headers)
    )
    answer = answer_problem(problem, protocol=request.url.path.startswith("/v2"))
    service.metrics.request("other", answer.status, 0.0)
    return _response(answer, whole=request.method in ("GET", "HEAD"))


def _response(answer: Answer, whole: bool) -> Response:
    """An answer for the framework; `whole` tells whether all of the request was read."""
    kind, parting = (Response, {}) if whole else (_Parting, {"Connection": "close"})
    return kind(answer.body, answer.status, {"content-type": answer.kind, **answer.headers, **parting})


class _Parting(Response):
    """An answer given before the whole request was read.

    What still comes is dropped for a while, so that the client reads the answer and not a reset.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})


class _Camera(StaticFiles):
    """The built camera page: isolated, so that WebAssembly may use threads, and behind the keys."""

    def __init__(self, service: Service, folder: Path) -> None:
        super().__init__(directory=folder, html=True)
        self._service = service
        self._headers = pages.camera_headers(folder)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, with the headers of an isolated page; 405 for another method, 404 where there is none."""
        try:
            _check_crowd(scope)
            check_key(Request(scope).headers, self._service.keys)
        except Problem as problem:
            raise HTTPException(problem.status, problem.what, problem.headers) from problem
        response = await super().get_response(path, {**scope, "method": "GET"})
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        hashed = path.startswith("assets/")
        response.headers.update(self._headers)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


@asynccontextmanager
async def _lifespan(service: Service, app: Starlette) -> AsyncIterator[None]:
    """While the server runs, look for replaced bundles on a thread of its own."""
    watching = asyncio.create_task(_watch(service))
    try:
        yield
    finally:
        watching.cancel()
        close_service(service)


async def _watch(service: Service) -> None:
    while True:
        await asyncio.sleep(service.settings.reload)
        try:
            await asyncio.to_thread(service.models.refresh, service.note)
        except Exception as error:
            service.note(f"Looking for new bundles failed: {error}")
