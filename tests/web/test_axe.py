"""The camera page with an answer on it: axe finds nothing, in light and dark, on a phone and a desk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.pages.test_accessibility import AXE, RUN_AXE, WIDTHS
from tests.web.person import ANSWERED, RED, give, photo_file

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_the_camera_page(browser: Browser, address: str, scheme: str) -> None:
    context = browser.new_context(permissions=["camera"], color_scheme=scheme, bypass_csp=True)
    try:
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto(address)
        page.locator("#verdict[data-state=pass]").wait_for()
        give(page, photo_file(RED))
        page.locator(ANSWERED).wait_for()
        page.evaluate(AXE.read_text("utf-8"))
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate(RUN_AXE) == [], width
    finally:
        context.close()
