"""Text on a page: what a file is called or a label says is shown there, and never obeyed."""

from __future__ import annotations

import html


def text(value: object) -> str:
    """A value as escaped text; a control character is shown as its code, such as \\x07 or \\u202e."""
    shown = (letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))
    return html.escape("".join(shown))
