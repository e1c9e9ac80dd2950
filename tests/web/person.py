"""What a person does on the camera page: hands files over, waits, reads the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from catflap.image import encode

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[[str], "Page"]
ANSWERED = "#answer[data-probability]"
RED, BLUE = (
    encode(np.full((60, 80, 3), colour, np.uint8), "PNG") for colour in ((180, 60, 40), (40, 60, 190))
)


def photo_file(data: bytes, name: str = "photo.png", kind: str = "image/png") -> dict[str, object]:
    return {"name": name, "mimeType": kind, "buffer": data}


def give(page: Page, photo: dict[str, object]) -> None:
    """Choose a file as a person does, and wait until it is judged."""
    before = page.get_attribute("#still", "src")
    page.set_input_files("#file", [photo])  # type: ignore[list-item]
    wait_for(page, lambda: page.get_attribute("#still", "src") != before)


def wait_for(page: Page, true: Callable[[], bool]) -> None:
    """What Playwright's own wait_for_function would do, which the page's security policy forbids."""
    for _ in range(60 * 20):
        if true():
            return
        page.wait_for_timeout(50)
    raise AssertionError("it did not come")


def answer(page: Page) -> tuple[str, float]:
    box = page.locator(ANSWERED)
    return str(box.get_attribute("data-label")), float(str(box.get_attribute("data-probability")))
