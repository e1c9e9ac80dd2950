"""What the camera page keeps on a device, and what it lets go of."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.web.conftest import file_server
from tests.web.person import Open, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

MEMBER, SCRIPT = "assets/kept/0123", "assets/litert_wasm_internal-Older123.js"  # of earlier ones
OTHER = "other/assets/kept/0123"  # of another page at the same address


def kept(page: Page) -> set[str]:
    """The paths that are kept beside the page's own files."""
    found = page.evaluate(
        "async () => (await (await caches.open('catflap-kept')).keys()).map(({ url }) => url)"
    )
    return {url.split("/", 3)[3] for url in found}


def is_whole(page: Page) -> bool:
    """Whether the head, the network, the golden cases and the runtime are there."""
    paths = kept(page)
    members = [path for path in paths if path.startswith("assets/kept/") and len(path) > 60]
    return len(members) == 2 and any(path.endswith(".wasm") for path in paths)


def test_what_earlier_bundles_and_pages_left_is_let_go(open_page: Open, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    with file_server(tmp_path / "site") as (url, _):
        page = open_page(url)
        page.locator("#verdict[data-state=pass]").wait_for()
        wait_for(page, lambda: is_whole(page))
        page.evaluate("async () => void (await navigator.serviceWorker.ready)")
        page.evaluate(
            """async (paths) => {
              const cache = await caches.open('catflap-kept');
              for (const path of paths) await cache.put('/' + path, new Response('old'));
            }""",
            [MEMBER, SCRIPT, OTHER],
        )
        page.reload()
        page.locator("#verdict[data-state=pass]").wait_for()
        wait_for(page, lambda: MEMBER not in kept(page))
        assert {SCRIPT, OTHER} <= kept(page)
        assert is_whole(page)
        worker = tmp_path / "site" / "sw.js"
        worker.write_text(worker.read_text("utf-8") + "// a newer one\n", "utf-8")
        page.evaluate("async () => void (await (await navigator.serviceWorker.ready).update())")
        wait_for(page, lambda: SCRIPT not in kept(page))
        assert OTHER in kept(page)
        assert is_whole(page)
