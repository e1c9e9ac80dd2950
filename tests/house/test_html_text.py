"""What stands on every page that Catflap writes."""

from __future__ import annotations

import os

from catflap.html_text import text


def test_text_is_escaped_and_control_characters_are_shown_as_their_code() -> None:
    assert text("<b>Käfer & 'co'</b>") == "&lt;b&gt;Käfer &amp; &#x27;co&#x27;&lt;/b&gt;"
    assert text("a\x07b\u202ec\n") == "a\\x07b\\u202ec\\n"
    assert text(os.fsdecode(b"not utf-8: \xff")) == "not utf-8: \\udcff"
    assert text(12) == "12"
