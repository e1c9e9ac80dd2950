"""Printing: answers on stdout, as text or JSON; notes, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from catflap.errors import CatflapError, system_reason

if TYPE_CHECKING:
    import argparse

    from catflap.pipeline.build_pace import BuildPace, Pace
    from catflap.progress import Progress, Record

KEYED = (
    "labels",
    "left_out",
    "reasons",
    "remarks",
    "prior",
    "decisions",
    "kinds",
)  # mappings whose keys are the user's names
QUIET_SECONDS = 10.0  # between two progress lines in a log file
REDRAW_SECONDS = 0.1


def emit(fields: Mapping[str, Any], args: argparse.Namespace, text: str | None = None) -> None:
    """Print an answer on stdout: one line of JSON with --json, else `text` or the formatted fields."""
    _print(_json(fields) if args.json else _printable(as_text(fields) if text is None else text))


def note(text: str) -> None:
    """Print a note on stderr, which is not part of the answer."""
    _write(f"{_over_progress()}{_printable(text)}\n")


def report(error: CatflapError, as_json: bool) -> None:
    """Print an error: what and fix on stderr, or with --json one object on stdout unless that is closed."""
    if as_json and sys.stdout is not None:
        with suppress(CatflapError, BrokenPipeError):
            _print(_json({"error": error.to_json()}))
            return
    _write(f"{_over_progress()}{_red('error:')} {_printable(error.what)}\n  fix: {_printable(error.fix)}\n")


def progress_bar(args: argparse.Namespace) -> AbstractContextManager[Progress]:
    """Show progress on stderr: a bar for each step in a terminal, else a line every ten seconds."""
    pace = pacer()
    return _shown_progress(
        lambda step, done, total: _progress_text(step, done, total, pace(step, done, total)), _rich_bars
    )


def whole_bar(args: argparse.Namespace, pace: BuildPace) -> AbstractContextManager[Progress]:
    """Show the progress of a build on stderr: one bar and one time for all, the running step under it."""
    return _shown_progress(lambda *report: _whole_text(pace(*report)), partial(_rich_whole_bar, pace))


@contextmanager
def _shown_progress(
    text_of: Callable[[str, int, int], str], rich_bars: Callable[[], AbstractContextManager[Progress]]
) -> Iterator[Progress]:
    """Progress for a program that named a file, for a log file, or in a terminal, by rich if installed."""
    from catflap.progress import PROGRESS_FILE

    if path := os.environ.get(PROGRESS_FILE):
        yield _json_lines(path)
    elif not _is_terminal():
        yield _quietly(text_of)
    elif find_spec("rich") is None:
        try:
            yield _redrawn(text_of)
        finally:
            _write(_over_progress())
    else:
        with rich_bars() as show:
            yield show


@contextmanager
def _rich_bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}
        pace = pacer()

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, pace="")
            bars.update(tasks[step], completed=done, total=total or None, pace=pace(step, done, total))

        yield show


@contextmanager
def _rich_whole_bar(pace: BuildPace) -> Iterator[Progress]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    bar, head, under = ProgressBar(total=1.0, width=40), Text("build"), Text("")
    with Live(Group(head, bar, under), console=Console(stderr=True), transient=True, refresh_per_second=4):

        def show(step: str, done: int, total: int) -> None:
            now = pace(step, done, total)
            bar.update(now.share)
            head.plain = f"build  {100 * now.share:.0f} %, {_time_left(now)}"
            under.plain = f"  {now.words}"

        yield show


def _whole_text(now: Pace) -> str:
    return f"build: {100 * now.share:.0f} %, {_time_left(now)}; {now.words}"


def _time_left(now: Pace) -> str:
    most = "" if now.at_most is None else f" ({duration(now.at_most)} if every weight is trained)"
    return f"{duration(now.seconds_left)} left{most}"


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def as_text(fields: Mapping[str, Any], name_of: Callable[[str], str] = _words) -> str:
    """Fields as text: one aligned line each, mappings indented, lists of mappings as tables."""
    width = max((len(name_of(name)) for name in fields), default=0)
    lines: list[str] = []
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            lines += [name_of(name), _indented(as_text(value, str if name in KEYED else _words))]
        elif isinstance(value, list | tuple) and value and all(isinstance(row, Mapping) for row in value):
            lines += [name_of(name), _indented(table(value))]
        else:
            lines.append(f"{name_of(name):<{width}}  {_shown(value)}")
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a text table: the columns of the first row, numbers right-aligned."""
    columns = list(rows[0]) if rows else []
    cells = [[_shown(row.get(column)) for column in columns] for row in rows]
    widths = [
        max(len(_words(column)), *(len(row[place]) for row in cells)) for place, column in enumerate(columns)
    ]
    right = [all(type(row.get(column)) in (int, float, type(None)) for row in rows) for column in columns]
    lines = [[_words(column) for column in columns], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def close_stdout() -> None:
    """Redirect stdout to the null device, so that unread output is not written again at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        close_stdout()
        raise CatflapError(
            f"The answer cannot be written: {system_reason(error)}.", "Send it somewhere else."
        ) from error


def _json(fields: Mapping[str, Any]) -> str:
    """One line of ASCII JSON; NaN and infinity become null."""
    try:
        return json.dumps(fields, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(fields), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value)) or "-"
    return str(value) if value != {} else "-"


def _printable(text: str) -> str:
    """Text with escaped control characters: a file name or label must not control the terminal."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _quietly(text_of: Callable[[str, int, int], str]) -> Progress:
    """For a log file: the text of a report every ten seconds, none for short work."""
    last = time.monotonic()

    def show(step: str, done: int, total: int) -> None:
        nonlocal last
        text = text_of(step, done, total)
        if time.monotonic() - last >= QUIET_SECONDS:
            last = time.monotonic()
            _write(f"{text}\n")

    return show


def _json_lines(path: str) -> Progress:
    """For a program that shows progress: a line of JSON at each change, at most ten a second for a step."""
    last: dict[str, float] = {}

    def show(step: str, done: int, total: int) -> None:
        now = time.time()
        if done < total and now - last.get(step, 0) < REDRAW_SECONDS:
            return
        last[step] = now
        _append(path, {"step": step, "done": done, "total": total, "at": now})

    return show


def recorder() -> Record:
    """Write the entries of a training's history beside the progress, for a program that named a file."""
    from catflap.progress import PROGRESS_FILE, ignore

    path = os.environ.get(PROGRESS_FILE)
    return (lambda entry: _append(path, {"entry": entry})) if path else ignore


def _append(path: str, fields: Mapping[str, Any]) -> None:
    with suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(_json(fields) + "\n")


def _redrawn(text_of: Callable[[str, int, int], str]) -> Progress:
    """For a terminal without rich: the text of a report in one line that is redrawn."""
    last = -math.inf

    def show(step: str, done: int, total: int) -> None:
        nonlocal last
        text = text_of(step, done, total)
        if time.monotonic() - last >= REDRAW_SECONDS or done == total:
            last = time.monotonic()
            _write(_over_progress() + text)

    return show


def pacer(clock: Callable[[], float] = time.monotonic) -> Callable[[str, int, int], str]:
    """A function that formats the speed of a step and its remaining time: "1,530 a second, 31 s left".

    Work done before the first call does not count, and a step may be run again; "" while the speed is
    unknown.
    """
    begun: dict[str, tuple[float, int]] = {}

    def pace(step: str, done: int, total: int) -> str:
        start, first = begun.setdefault(step, (clock(), done))
        seconds, fresh = clock() - start, done - first
        if done >= total:
            del begun[step]
        if seconds < 1 or fresh <= 0 or done >= total:
            return ""
        rate = fresh / seconds
        return f"{rate:,.{int(rate < 10)}f} a second, {duration((total - done) / rate)} left"

    return pace


def duration(seconds: float) -> str:
    """Seconds for people: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _progress_text(step: str, done: int, total: int, pace: str) -> str:
    if not total:
        return f"{step}: {done:,}"
    return ", ".join(filter(None, [f"{step}: {done:,} of {total:,} ({100 * done // total} %)", pace]))


def _write(text: str) -> None:
    """Write on stderr if it is open."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _over_progress() -> str:
    """The escape codes that clear a progress line in a terminal."""
    return "\r\x1b[K" if _is_terminal() else ""


def _red(text: str) -> str:
    return f"\x1b[31m{text}\x1b[0m" if _is_terminal() and not os.environ.get("NO_COLOR") else text
