"""What people open in a browser beside the camera page: an upload form and the description of the API."""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

from catflap.artifacts.bundle import HEAD
from catflap.serving.answers import Answer, Call, Problem, answer_json
from catflap.serving.service import Service
from catflap.version import VERSION

HERE = Path(__file__).parent
HTML = "text/html; charset=utf-8"
KINDS = {".json": "application/json", ".md": "text/markdown; charset=utf-8"}
# Threads in WebAssembly need a page that is isolated from other origins.
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
OWN_ONLY = {
    **ISOLATED,
    "Content-Security-Policy": "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' blob:; frame-ancestors 'none'",
}


def camera_headers(folder: Path) -> dict[str, str]:
    """The headers of the camera page and its files, among them the security policy that index.html states.

    A worker hears of a policy only by the header of its own script.
    """
    page = (folder / "index.html").read_text("utf-8")
    stated = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', page)
    return {**ISOLATED, "Content-Security-Policy": stated[1]} if stated else ISOLATED


async def upload(service: Service, call: Call) -> Answer:
    """`/` where the camera page was not built: choose photos, see the decisions."""
    return Answer((HERE / "upload.html").read_bytes(), kind=HTML, headers=OWN_ONLY)


async def openapi(service: Service, call: Call) -> Answer:
    """`/openapi.json`: the description of every route, OpenAPI 3.1."""
    return answer_json(description())


async def docs(service: Service, call: Call) -> Answer:
    """`/docs`: the same for people."""
    page = (HERE / "docs.html").read_text("utf-8")
    return Answer(page.replace("<!-- routes -->", _rows()).encode(), kind=HTML, headers=OWN_ONLY)


async def bundle_file(service: Service, call: Call) -> Answer:
    """`/bundle/FILE`: a file of the default bundle, for the camera page."""
    name = call.places["file"]
    bundle = service.models.default.classifier.bundle
    if name not in bundle.members:
        raise Problem(404, f"The bundle has no file {name[:100]!r}.", f"It has: {', '.join(bundle.members)}.")
    data = bytes(bundle.members[name])
    sha256 = hashlib.sha256(data).hexdigest() if name == HEAD else bundle.head["files"][name]["sha256"]
    headers = {**ISOLATED, "ETag": f'"{sha256}"', "Cache-Control": "no-cache"}
    if headers["ETag"] in call.headers.get("if-none-match", ""):
        return Answer(b"", 304, headers=headers)
    return Answer(data, kind=KINDS.get(Path(name).suffix, "application/octet-stream"), headers=headers)


def description() -> dict[str, Any]:
    """openapi.json with the version of this Catflap."""
    found: dict[str, Any] = json.loads((HERE / "openapi.json").read_text("utf-8"))
    found["info"]["version"] = VERSION
    return found


def _rows() -> str:
    rows = []
    for path, methods in description()["paths"].items():
        for method, about in methods.items():
            cells = (method.upper(), path, about["summary"], about.get("description", ""))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return "\n".join(rows)
