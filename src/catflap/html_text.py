"""What HTML pages share: escaped file names and labels, so that none acts as markup, and the style."""

from __future__ import annotations

import html
from pathlib import Path


def text(value: object) -> str:
    """A value as escaped text; a control character is shown as its code, such as \\x07 or \\u202e."""
    shown = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))
    return html.escape("".join(shown))


def shared_style() -> str:
    """The style sheet that all pages share; a page puts it in front of its own."""
    return Path(__file__).with_name("tokens.css").read_text("utf-8")
