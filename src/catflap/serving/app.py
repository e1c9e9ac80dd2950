"""The server's routes as an ASGI application: /predict, health, dispatch, keys, errors; owns Starlette."""

from __future__ import annotations

import asyncio
import mimetypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response as StarletteResponse
from starlette.routing import BaseRoute, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from catflap.errors import CatflapError
from catflap.runtime.classifier import Prediction
from catflap.serving import inference_protocol as protocol
from catflap.serving import pages
from catflap.serving.connections import CONNECTION, CROWDED
from catflap.serving.form_data import FORM, FormFile, parse_form
from catflap.serving.http_messages import (
    HttpError,
    Request,
    Response,
    check_key,
    error_response,
    json_response,
)
from catflap.serving.service import CLIENT_LEFT, Service, close_service, judge
from catflap.serving.static_site import PAGE
from catflap.version import VERSION

Handler: TypeAlias = Callable[[Service, Request], Awaitable[Response]]
# application/x-www-form-urlencoded is what curl states by default
RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
TOO_LARGE = ("too_many_bytes", "too_many_pixels")


async def predict(service: Service, request: Request) -> Response:
    """`/predict`: judge the photo that is the body, or every file of a form.

    One raw photo gives the fields of a Prediction, or the status 422 (413 when it is too large). A form gives
    `predictions`, for each file what `catflap predict --json` prints, and the status 422 only when none could
    be read.
    """
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != FORM and kind not in RAW and not kind.startswith("image/"):
        raise HttpError(
            415, f"The Content-Type {kind[:80]!r} is not a photo.", f"Send image/*, or files as {FORM}."
        )
    candidates = service.models.candidates[request.query.get("model"), request.query.get("version")]
    async with service.bodies.read(request) as body:
        if kind == FORM:  # on a thread, because a large one takes a while to parse
            files = await asyncio.to_thread(parse_form, body, content_type, service.settings.limits.queue)
            if not files:
                raise HttpError(
                    400, "The form has no file.", "Send at least one, such as: curl -F photo=@cat.jpg"
                )
        else:
            files = [FormFile("", body)]
        served, results = await judge(service, candidates, [file.data for file in files], request)
    about = {"model": served.name, "version": served.version}
    if kind != FORM:
        [result] = results
        if isinstance(result, Prediction):
            return json_response({**result.to_json(), **about})
        status = 413 if result.reason in TOO_LARGE else 422
        return json_response({"error": result.to_json(), **about}, status)
    lines = []
    for file, result in zip(files, results, strict=True):
        fields = result.to_json() if isinstance(result, Prediction) else {"error": result.to_json()}
        lines.append({"path": file.name, **fields})
    any_read = any(isinstance(result, Prediction) for result in results)
    return json_response({"predictions": lines, **about}, 200 if any_read else 422)


async def healthz(service: Service, request: Request) -> Response:
    """`/healthz`: the process answers."""
    return json_response({"status": "ok", "version": VERSION})


async def readyz(service: Service, request: Request) -> Response:
    """`/readyz`: every bundle was verified on this machine; names and versions of what is served."""
    models = {
        name: [served.version for served in service.models.versions(name)] for name in service.models.names()
    }
    return json_response({"status": "ready", "models": models})


async def metrics(service: Service, request: Request) -> Response:
    """`/metrics`: counters and latencies for Prometheus."""
    body, content_type = service.metrics.page()
    return Response(body, content_type=content_type)


MODEL = "/v2/models/{name}"
VERSIONED = "/v2/models/{name}/versions/{version}"
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("POST", "/predict", predict),
    ("GET", "/healthz", healthz),
    ("GET", "/readyz", readyz),
    ("GET", "/metrics", metrics),
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
WITHOUT_KEY = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
ALWAYS = (*WITHOUT_KEY, "/metrics")  # however many connections are open
CONTENT_TYPES = {  # the system's own table may lack or differ in these
    ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".json": "application/json", ".webmanifest": "application/manifest+json", ".svg": "image/svg+xml",
    ".wasm": "application/wasm", ".tflite": "application/octet-stream", ".onnx": "application/octet-stream",
}  # fmt: skip


def create_app(service: Service, page: Path = PAGE) -> Starlette:
    """The application: every route, and the camera page at `/` if its folder `page` exists."""
    routes: list[BaseRoute] = [
        Route(path, partial(_endpoint, service, path, handler), methods=[method])
        for method, path, handler in ROUTES
    ]
    is_built = (page / "index.html").is_file()
    if is_built:
        for suffix, content_type in CONTENT_TYPES.items():
            mimetypes.add_type(content_type, suffix)
    else:
        routes.append(Route("/", partial(_endpoint, service, "/", pages.upload_form), methods=["GET"]))
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: cast(Any, partial(_not_found, service))},
        lifespan=partial(_lifespan, service),
    )
    app.router.redirect_slashes = False
    if is_built:
        # not a route: one for every path would also answer for paths that exist with another method
        app.router.default = _CameraPage(service, page)
    return app


async def _endpoint(service: Service, route: str, handler: Handler, request: StarletteRequest) -> Response:
    """Answer one request whatever happens, and count it."""
    start = perf_counter()
    parts = request.path_params, request.query_params, request.headers
    try:
        if route not in ALWAYS and request.scope.get(CROWDED):
            raise _too_many_connections(request.scope)
        if service.keys and route not in WITHOUT_KEY:
            check_key(request.headers, service.keys)
        response = await handler(service, Request(*parts, request.stream(), request.receive))
    except ClientDisconnect:
        response = Response(b"", CLIENT_LEFT)
    except asyncio.CancelledError:  # at shutdown, of what is not done in time
        stopping = HttpError(503, "The server is shutting down.", "Retry.", {"Connection": "close"})
        response = error_response(stopping, as_text=route.startswith("/v2"))
    except Exception as error:
        response = error_response(_to_http_error(service, error), as_text=route.startswith("/v2"))
    service.metrics.request(route, response.status, perf_counter() - start)
    return response


def _too_many_connections(scope: Scope) -> HttpError:
    return HttpError(
        503, f"Too many connections: {scope[CONNECTION][0].guard.most} are open.", "Retry after 1 s.",
        {"Retry-After": "1", "Connection": "close"},
    )  # fmt: skip


def _to_http_error(service: Service, error: Exception) -> HttpError:
    """Any exception as an HttpError; an unexpected one is logged, and its text is not sent."""
    if isinstance(error, HttpError):
        return error
    if isinstance(error, CatflapError):
        return HttpError(500, error.what, error.fix)
    if os.environ.get("CATFLAP_TRACEBACK"):
        import traceback

        traceback.print_exception(error)
    service.note(f"This is a bug in Catflap: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return HttpError(500, "Internal server error.", "The server's log has the reason.")


async def _not_found(service: Service, request: StarletteRequest, error: Exception) -> Response:
    """The response for an unknown path, a method that it does not accept, or the camera page's errors."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HttpError):  # of the camera page
        http_error = error.__cause__
    else:
        what = {
            404: f"There is nothing at {request.url.path[:100]}.",
            405: f"{request.url.path[:100]} does not accept {request.method[:20]}.",
        }.get(error.status_code, error.detail)
        http_error = HttpError(error.status_code, what, "See /docs.", error.headers)
    service.metrics.request("other", http_error.status, 0.0)
    return error_response(http_error, as_text=request.url.path.startswith("/v2"))


class _CameraPage(StaticFiles):
    """The built camera page: isolated, so that WebAssembly may use threads, and behind the keys."""

    def __init__(self, service: Service, page: Path) -> None:
        super().__init__(directory=page, html=True)
        self._service = service
        self._headers = pages.camera_headers(page)

    async def get_response(self, path: str, scope: Scope) -> StarletteResponse:
        """A file; HTTPException 405 for another method, 404 where there is none."""
        try:
            if scope.get(CROWDED):
                raise _too_many_connections(scope)
            check_key(StarletteRequest(scope).headers, self._service.keys)
        except HttpError as error:
            raise HTTPException(error.status, error.what, error.headers) from error
        response = await super().get_response(path, {**scope, "method": "GET"})
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        response.headers.update(self._headers)
        response.headers["Cache-Control"] = pages.cache_control(path)
        return response


@asynccontextmanager
async def _lifespan(service: Service, app: Starlette) -> AsyncIterator[None]:
    """While the server runs, check for replaced bundle files; at its end close the service."""
    watching = asyncio.create_task(service.models.watch(service.settings.reload, service.note))
    try:
        yield
    finally:
        watching.cancel()
        close_service(service)
