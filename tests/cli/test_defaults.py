"""The defaults that help tells are those that hold, and stand in one place."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from typing import Any

import pytest

from catflap import LogSettings, Rules, ServeLimits, ServeSettings, WatchSettings
from catflap.cli.options import list_all_options
from catflap.curation import audit, field_queue

SERVE = {
    "--port": ServeSettings.port, "--threads": ServeSettings.threads, "--share": ServeSettings.share,
    "--reload": ServeSettings.reload, "--queue": ServeLimits.queue, "--deadline": ServeLimits.deadline,
    "--upload-timeout": ServeLimits.upload, "--max-mb": ServeLimits.body / 1e6,
    "--max-pixels": ServeLimits.pixels, "--connections": ServeLimits.connections,
}  # fmt: skip
WATCH = {
    "--max-fps": WatchSettings.max_fps, "--fps": WatchSettings.fps, "--stalled": WatchSettings.stalled,
    "--still": WatchSettings.still, "--log-every": WatchSettings.log_every,
    "--clip-seconds": WatchSettings.clip_seconds, "--save-mb": WatchSettings.save_bytes / 1e6,
    "--dwell": Rules.dwell, "--min-frames": Rules.frames,
    "--smoothing": Rules.smoothing, "--log-mb": LogSettings.limit / 1e6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "usual"),
    [
        (["serve", "cat"], SERVE),
        (["watch", "cat", "0"], WATCH),
        (["audit", "a", "-o", "b"], {"--shown": audit.SHOWN}),
        (["review", "queue", "a", "-o", "b"], {"--shown": field_queue.SHOWN}),
    ],
    ids=lambda found: " ".join(found[:1]) if isinstance(found, list) else "",
)
def test_an_option_that_was_not_given_leaves_the_default_to_the_settings(
    words: list[str], usual: dict[str, Any]
) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"catflap.cli.{words[0]}").arguments(parser)
    asked = parser.parse_args(words[1:])
    list_all_options(parser)
    reported = dict(helps(parser))
    for option, value in usual.items():
        assert getattr(asked, option[2:].replace("-", "_")) is None
        number, _, unit = re.search(r"default: ([\d.]+)(( million)?)", reported[option]).groups()
        assert float(number) * (1e6 if unit else 1) == value, option


def helps(parser: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """Each option with its help text, those of parts of the command, too."""
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [pair for part in action.choices.values() for pair in helps(part)]
        found += [(option, str(action.help)) for option in action.option_strings]
    return found
