"""Escape file names and labels for HTML pages, so that none of them acts as markup or script."""

from __future__ import annotations

import html


def text(value: object) -> str:
    """A value as escaped text; a control character is shown as its code, such as \\x07 or \\u202e."""
    shown = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))
    return html.escape("".join(shown))
