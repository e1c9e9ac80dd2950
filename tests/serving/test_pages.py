"""What a browser gets, and whether openapi.json tells the truth."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.serving.app import ALWAYS, ROUTES, WITHOUT_KEY, create_app
from catflap.serving.connections import CONNECTION, CROWDED
from catflap.serving.pages import openapi_document
from catflap.serving.serve_settings import ServeSettings
from catflap.serving.service import open_service
from tests.loops import run
from tests.serving.bundles import RED
from tests.serving.client import Server, form

BAD = {"Content-Type": "text/plain"}


def test_openapi_describes_exactly_the_routes() -> None:
    described = {(m.upper(), path) for path, methods in openapi_document()["paths"].items() for m in methods}
    assert described == {(method, path.replace(":path}", "}")) for method, path, _ in ROUTES}


def test_every_reference_in_openapi_leads_somewhere() -> None:
    document = openapi_document()
    for found in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for step in found.split("/"):
            place = place[step]
        assert place


def test_openapi_and_the_reference_have_what_any_route_may_answer() -> None:
    listed = (
        (Path(__file__).parents[2] / "docs/reference/http.md").read_text("utf-8").partition("## Errors")[2]
    )
    for path, methods in openapi_document()["paths"].items():
        for method in methods.values():
            reported = set(method["responses"])
            assert all(
                re.search(rf"^- [\d, ]*\b{status}\b", listed, re.M) for status in reported - {"200", "304"}
            )
            if path not in WITHOUT_KEY:
                assert "500" in reported
            if path not in ALWAYS:
                assert "503" in reported


def test_openapi_states_its_version(server: Server) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", server.ask("/openapi.json").json()["info"]["version"])


ASKED = [
    ("/healthz", "/healthz", None, {}),
    ("/readyz", "/readyz", None, {}),
    ("/v2", "/v2", None, {}),
    ("/v2/health/live", "/v2/health/live", None, {}),
    ("/v2/health/ready", "/v2/health/ready", None, {}),
    ("/v2/models/{name}", "/v2/models/cat", None, {}),
    ("/v2/models/{name}", "/v2/models/cow", None, {}),
    ("/v2/models/{name}/ready", "/v2/models/cat/ready", None, {}),
    ("/v2/models/{name}/infer", "/v2/models/cat/infer", b"{}", {}),
    ("/v2/models/{name}/infer", "/v2/models/cow/infer", b"{}", {}),
    ("/v2/models/{name}/infer", "/v2/models/cat/infer", b"{}", {"Content-Encoding": "gzip"}),
    (
        "/v2/models/{name}/versions/{version}/infer",
        "/v2/models/cat/versions/0/infer",
        b"{}",
        {},
    ),
    ("/predict", "/predict", RED, {}),
    ("/predict", "/predict", b"no photo", {}),
    ("/predict", "/predict", RED, BAD),
    ("/predict", "/predict?model=cow", RED, {}),
    ("/predict", "/predict", *form(("a", RED), ("b", b"no photo"))),
    ("/predict", "/predict", *form(("a", b""))),
    ("/predict", "/predict", *form()),
    ("/bundle/{file}", "/bundle/none", None, {}),
]


@pytest.mark.parametrize(("route", "path", "body", "headers"), ASKED)
def test_answers_are_as_openapi_says(
    server: Server, route: str, path: str, body: bytes | None, headers: dict[str, str]
) -> None:
    document = openapi_document()
    reply = server.ask(path, body, headers)
    reported = document["paths"][route]["get" if body is None else "post"]["responses"][str(reply.status)]
    if "$ref" in reported:
        reported = document["components"]["responses"][reported["$ref"].rpartition("/")[2]]
    schema = {**reported["content"]["application/json"]["schema"], "components": document["components"]}
    jsonschema.validate(reply.json(), schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_for_people_loads_nothing_from_elsewhere(quick: Path, tmp_path: Path, path: str) -> None:
    """`/` is here as it is where the camera page was not built."""
    app = create_app(open_service(ServeSettings((quick,)), print), tmp_path)
    status, headers, body = get(app, path)
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert not re.findall(rb'(?:src|href)="(?!/)', body)


def test_the_description_for_people_has_every_route(server: Server) -> None:
    page = server.ask("/docs").body.decode().replace("<wbr>", "")
    assert all(f"<td>{path}</td>" in page for path in openapi_document()["paths"])


def test_the_files_of_the_bundle(server: Server, quick: Path) -> None:
    bundle = load_bundle(quick)
    for name, data in bundle.members.items():
        reply = server.ask(f"/bundle/{name}")
        assert reply.body == bytes(data)
        again = server.ask(f"/bundle/{name}", headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
    assert server.ask("/bundle/bundle.json").headers["content-type"] == "application/json"
    assert server.ask("/bundle/../pyproject.toml").status == 404


def test_metrics_count_what_happened(server: Server) -> None:
    labels = {"model": "cat", "version": server.models["cat"], "decision": "cat"}
    before = server.metric("catflap_decisions_total", **labels)
    refused = server.metric("catflap_refused_photos_total", reason="not_a_photo")
    body, headers = form(("a", RED), ("b", RED), ("c", b"<html>"))
    server.ask("/predict", body, headers)
    assert server.metric("catflap_decisions_total", **labels) == before + 2
    assert server.metric("catflap_refused_photos_total", reason="not_a_photo") == refused + 1
    assert server.metric("catflap_request_seconds_count", route="/predict") > 0
    assert server.metric("process_resident_memory_bytes") > 1e7


@pytest.mark.parametrize(
    "path", ["docs/reference/http.md", "docs/guides/serve.md", "examples/serve/alerts.yml"]
)
def test_every_metric_that_is_written_about_is_there(repo: Path, server: Server, path: str) -> None:
    server.predict(RED)
    page = server.ask("/metrics").body.decode()
    there = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)) | set(
        re.findall(r"^(\w+)", page, re.MULTILINE)
    )
    assert set(re.findall(r"\bcatflap_[a-z_]+", (repo / path).read_text("utf-8"))) <= there


def get(app: Any, path: str, method: str = "GET", **scope: Any) -> tuple[int, dict[str, str], bytes]:
    """Ask an application without a server; `scope` is what one would add."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)  # the client stays
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [], "http_version": "1.1", "scheme": "http", "server": ("a", 1),
        **scope,
    }  # fmt: skip
    run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


def test_the_camera_page_is_served_isolated_where_it_was_built(quick: Path, tmp_path: Path) -> None:
    files = {
        "index.html": "text/html; charset=utf-8",
        "assets/a.mjs": "text/javascript; charset=utf-8",
        "assets/b.wasm": "application/wasm",
        "manifest.webmanifest": "application/manifest+json",
    }
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    app = create_app(open_service(ServeSettings((quick,)), print), tmp_path)
    for name, kind in files.items():
        status, headers, body = get(app, f"/{name}")
        assert (status, body.decode(), headers["content-type"]) == (200, name, kind)
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert ("immutable" in headers["cache-control"]) == name.startswith("assets/")
    assert get(app, "/")[2] == b"index.html"
    assert get(app, "/none.js")[0] == 404
    assert json.loads(get(app, "/healthz")[2])["status"] == "ok"


def test_the_policy_of_the_camera_page_is_sent_with_every_file(quick: Path, tmp_path: Path) -> None:
    policy = "default-src 'self'; connect-src 'self'"
    meta = f'<meta\n  http-equiv="Content-Security-Policy"\n  content="{policy}"\n/>'
    (tmp_path / "index.html").write_text(f"<!doctype html>{meta}")
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "worker.js").write_text("//")
    app = create_app(open_service(ServeSettings((quick,)), print), tmp_path)
    for path in ("/", "/assets/worker.js"):
        assert get(app, path)[1]["content-security-policy"] == policy


@pytest.mark.parametrize("is_built", [True, False])
def test_a_method_or_path_that_is_not_there_says_so_with_and_without_the_camera_page(
    quick: Path, tmp_path: Path, is_built: bool
) -> None:
    if is_built:
        (tmp_path / "index.html").write_text("page")
    app = create_app(open_service(ServeSettings((quick,)), print), tmp_path)
    wrong = [
        ("PUT", "/predict", {"POST"}), ("OPTIONS", "/predict", {"POST"}), ("HEAD", "/predict", {"POST"}),
        ("GET", "/v2/models/cat/infer", {"POST"}), ("POST", "/healthz", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ]  # fmt: skip
    for method, path, allowed in wrong:
        status, headers, _ = get(app, path, method)
        assert (status, set(headers["allow"].split(", "))) == (405, allowed), (method, path)
    for method, path in (("POST", "/predict/"), ("POST", "/none"), ("GET", "/docs/"), ("HEAD", "/none")):
        assert get(app, path, method)[0] == 404, (method, path)
    assert get(app, "/", "HEAD")[::2] == (200, b"") or not is_built


@pytest.mark.parametrize("path", ["/v2", "/v2/models/cat", "/docs", "/", "/index.html"])
@pytest.mark.parametrize("is_built", [True, False])
def test_where_no_connection_can_give_way_all_but_the_health_is_503(
    quick: Path, tmp_path: Path, path: str, *, is_built: bool
) -> None:
    if is_built:
        (tmp_path / "index.html").write_text("page")
    service = open_service(ServeSettings((quick,)), print)
    app = create_app(service, tmp_path)
    full = {CONNECTION: (SimpleNamespace(guard=SimpleNamespace(most=5)), 0), CROWDED: True}
    if path != "/index.html" or is_built:
        status, headers, body = get(app, path, **full)
        assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
        what, fix = "Too many connections: 5 are open.", "Retry after 1 s."
        error = f"{what} {fix}" if path.startswith("/v2") else {"what": what, "fix": fix}
        assert json.loads(body) == {"error": error}
        assert b'status="503"} 1.0' in service.metrics.page()[0]
    for health in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"):
        assert get(app, health, **full)[0] == 200, "a probe does not take a busy server for a dead one"
