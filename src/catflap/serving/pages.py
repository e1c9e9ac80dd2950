"""What a browser gets: headers for security and caching, the upload form, docs, bundle files with ETags."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import Bundle
from catflap.serving.http_messages import HttpError, Request, Response
from catflap.serving.service import Service
from catflap.version import VERSION

HERE = Path(__file__).parent
HTML = "text/html; charset=utf-8"
CONTENT_TYPES = {".json": "application/json", ".md": "text/markdown; charset=utf-8"}
# WebAssembly gets threads only in a page that is isolated from other origins.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SELF_CONTAINED = {
    **ISOLATED,
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' blob:; frame-ancestors 'none'",
}


def camera_headers(page: Path) -> dict[str, str]:
    """The headers of the camera page and its files, among them the security policy that index.html states.

    A worker obeys only the policy in the headers of its own script.
    """
    text = (page / "index.html").read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', text)
    return {**ISOLATED, "Content-Security-Policy": policy[1]} if policy else ISOLATED


def cache_control(path: str) -> str:
    """How long a browser keeps a file of the camera page: for ever if its name has its hash."""
    return "public, max-age=31536000, immutable" if path.startswith("assets/") else "no-cache"


async def upload_form(service: Service, request: Request) -> Response:
    """`/` where the camera page was not built: choose photos, see the decisions."""
    return Response(_upload_page(), content_type=HTML, headers=SELF_CONTAINED)


async def openapi(service: Service, request: Request) -> Response:
    """`/openapi.json`: every route, OpenAPI 3.1."""
    return Response(_openapi_json())


async def docs(service: Service, request: Request) -> Response:
    """`/docs`: every route, for people."""
    return Response(_docs_page(), content_type=HTML, headers=SELF_CONTAINED)


async def bundle_file(service: Service, request: Request) -> Response:
    """`/bundle/FILE`: a file of the default bundle, for the camera page."""
    bundle = service.models.default.classifier.bundle
    return member_response(bundle, request.path_params["file"], request.headers)


def member_response(bundle: Bundle, name: str, request_headers: Mapping[str, str]) -> Response:
    """A file of a Bundle, or 304 for a browser that has it; HttpError 404 when there is no such file."""
    if name not in bundle.members:
        raise HttpError(
            404, f"The bundle has no file {name[:100]!r}.", f"It has: {', '.join(bundle.members)}."
        )
    headers = {**ISOLATED, "ETag": f'"{bundle.hash_of(name)}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in request_headers.get("if-none-match", ""):
        return Response(b"", 304, headers=headers)
    content_type = CONTENT_TYPES.get(Path(name).suffix, "application/octet-stream")
    return Response(bundle.members[name], content_type=content_type, headers=headers)


@cache
def openapi_document() -> dict[str, Any]:
    """openapi.json with the version of this Catflap."""
    document: dict[str, Any] = json.loads((HERE / "openapi.json").read_text("utf-8"))
    document["info"]["version"] = VERSION
    return document


@cache
def _openapi_json() -> bytes:
    return json.dumps(openapi_document()).encode()


@cache
def _docs_page() -> bytes:
    rows = []
    for path, methods in openapi_document()["paths"].items():
        for method, entry in methods.items():
            cells = (method.upper(), path, entry["summary"], entry.get("description", ""))
            escaped = [html.escape(cell) for cell in cells]
            escaped[1] = escaped[1].replace("/", "/<wbr>")
            rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in escaped) + "</tr>")
    page = (HERE / "docs.html").read_text("utf-8")
    return page.replace("<!-- routes -->", "\n".join(rows)).encode()


@cache
def _upload_page() -> bytes:
    return (HERE / "upload.html").read_bytes()
