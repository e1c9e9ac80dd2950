"""How the tests start Chromium; the one that they share is the fixture `browser` of conftest.py."""

from __future__ import annotations

import shutil

# Without a graphics card, a sandbox (tests may run as root) or calls to its makers; the camera is a film.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)  # fmt: skip


def chromium() -> str | None:
    """Where a Chromium is."""
    return shutil.which("chromium") or shutil.which("google-chrome")
