"""What a browser gets: the camera page (served, or as a static site), upload form, docs, bundle files."""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import HEAD, load_bundle
from catflap.artifacts.folder import atomic_folder
from catflap.artifacts.schema import write_json
from catflap.errors import CatflapError
from catflap.serving.http_messages import HttpError, Request, Response
from catflap.serving.service import Service
from catflap.version import VERSION

HERE = Path(__file__).parent
PAGE = HERE / "static"  # the camera page, built from web/
MARKER = "site.json"  # in a folder that write_site made, which only then may be replaced
MEMBERS = "bundle"  # the folder of a site with the files of its bundle
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
    name = request.path_params["file"]
    bundle = service.models.default.classifier.bundle
    if name not in bundle.members:
        raise HttpError(
            404, f"The bundle has no file {name[:100]!r}.", f"It has: {', '.join(bundle.members)}."
        )
    data = bundle.members[name]
    digest = hashlib.sha256(data).hexdigest() if name == HEAD else bundle.head["files"][name]["sha256"]
    headers = {**ISOLATED, "ETag": f'"{digest}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(b"", 304, headers=headers)
    content_type = CONTENT_TYPES.get(Path(name).suffix, "application/octet-stream")
    return Response(data, content_type=content_type, headers=headers)


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
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    page = (HERE / "docs.html").read_text("utf-8")
    return page.replace("<!-- routes -->", "\n".join(rows)).encode()


@cache
def _upload_page() -> bytes:
    return (HERE / "upload.html").read_bytes()


def write_site(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], page: Path = PAGE
) -> dict[str, Any]:
    """Write the camera page and the files of a Bundle into a folder, for any web server; whole or not at all.

    `bundle` is a path or the name of a shipped bundle. Raises BadArtifact when it is damaged and
    CatflapError when this Catflap was installed without the page.
    """
    if not (page / "index.html").is_file():
        raise CatflapError(
            "This installation has no camera page, because Node was missing when it was built.",
            "Install Node 20.19 or newer and run: npm --prefix web ci && npm --prefix web run build",
        )
    opened = load_bundle(bundle)
    target = Path(out)
    with atomic_folder(target, MARKER) as folder:
        shutil.copytree(page, folder, ignore=shutil.ignore_patterns("sources.sha256"), dirs_exist_ok=True)
        for name, data in opened.members.items():
            path = folder / MEMBERS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        answer = {"bundle": opened.name, "sha256": opened.sha256}
        write_json(folder / MARKER, {"catflap": "site", "version": 1, **answer})
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    return {"site": str(target), **answer, "files": len(sizes), "bytes": sum(sizes)}
