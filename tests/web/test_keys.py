"""The camera page behind API keys: the browser asks its user once, and everything that it needs comes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.serving.client import Server, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

KEY = "a-key-of-many-letters-for-tests"


@pytest.fixture
def guarded(page_built: Path, tiny_bundle: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that asks for a key."""
    (tmp_path / "keys").write_text(f"{KEY}\n")
    with running(tiny_bundle, "--keys", tmp_path / "keys") as server:
        yield server


def test_with_the_key_the_page_works_from_its_files_to_its_golden_cases(
    browser: Browser, guarded: Server
) -> None:
    context = browser.new_context(
        permissions=["camera"], http_credentials={"username": "anybody", "password": KEY}
    )
    try:
        context.set_default_timeout(60_000)
        page = context.new_page()
        refused: list[str] = []
        page.on("response", lambda one: refused.append(one.url) if one.status == 401 else None)
        page.goto(f"http://127.0.0.1:{guarded.port}/")
        page.locator("#verdict[data-state=pass]").wait_for()
        page.locator("#answer[data-probability]").wait_for()
        assert [url for url in refused if not url.endswith(".webmanifest")] == []
    finally:
        context.close()


def test_without_the_key_neither_the_page_nor_the_bundle_comes(guarded: Server) -> None:
    for path in ("/", "/bundle/bundle.json", "/bundle/fp32.onnx", "/manifest.webmanifest", "/docs"):
        answer = guarded.ask(path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Basic"), "a browser asks its user"
    assert guarded.ask("/readyz").status == 200
