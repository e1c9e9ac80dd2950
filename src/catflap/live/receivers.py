"""Receivers of events: one POST to a webhook, one run of a command; delivery.py orders and retries them."""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from http.client import HTTPException
from threading import Thread
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from catflap.errors import CatflapError, system_reason
from catflap.live.delivery import Event, NotDelivered
from catflap.live.timed_http import build_opener

WEBHOOK_SECONDS = 10.0  # for a whole request
COMMAND_SECONDS = 10.0  # for a command, before it gets SIGTERM
KILL_SECONDS = 1.0  # between SIGTERM and SIGKILL
URL_SAFE = "%/?:@!$&'()*+,;=~[]|"  # what quoting leaves alone in a path and a query


def webhook(url: str, seconds: float = WEBHOOK_SECONDS) -> Callable[[Event], None]:
    """A function that POSTs an event as JSON; anything but 2xx within `seconds` is NotDelivered.

    A redirection is NotDelivered too: urllib would follow it with a GET, without the event.
    """
    address, headers = _webhook_address(url)
    headers["Content-Type"] = "application/json"
    opener = build_opener(_NoRedirect())

    def deliver(event: Event) -> None:
        request = urllib.request.Request(address, json.dumps(event).encode(), headers)
        try:
            opener.open(request, timeout=seconds).close()
        except HTTPError as error:
            raise NotDelivered(str(error)) from error
        except (OSError, HTTPException) as error:
            raise NotDelivered(str(getattr(error, "reason", error)) or type(error).__name__) from error

    return deliver


def _webhook_address(url: str) -> tuple[str, dict[str, str]]:
    """A URL as it is sent, in ASCII, and the header for the name and the password in it."""
    public = url.rpartition("@")[2]  # without the password
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        host = host.encode("idna").decode()
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in host
    except ValueError:
        valid = False
    if not valid:
        raise CatflapError(f"The webhook {public!r} is not a valid URL.", "Use http://… or https://…")
    path, query = quote(parts.path, URL_SAFE), quote(parts.query, URL_SAFE)
    name, _, password = user.partition(":")
    key = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    headers = {"Authorization": f"Basic {key}"} if user else {}
    return urlunsplit((parts.scheme, host, path, query, "")), headers


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, and says where it leads, so that the user can name that address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Raise HTTPError."""
        raise HTTPError(req.full_url, code, f"{msg}, to {newurl[:200]}", headers, fp)


def commands(of: Mapping[str, str], seconds: float = COMMAND_SECONDS) -> Callable[[Event], None]:
    """A function that runs the command of the label that an event decides.

    It runs without a shell, with the event as JSON on its stdin and CATFLAP_DECISION, CATFLAP_PREVIOUS and
    CATFLAP_PROBABILITY in its environment, for at most `seconds`. NotDelivered when it fails.
    """
    try:
        arguments = {label: shlex.split(command) for label, command in of.items()}
    except ValueError as error:
        raise CatflapError(f"A command cannot be parsed: {error}.", "Close its quotes.") from error
    if not all(arguments.values()):
        raise CatflapError("A command is empty.", "Use: --on cat 'pinctrl set 17 op dh'")

    def deliver(event: Event) -> None:
        command = arguments[event["decision"]]
        names = ("decision", "previous", "probability")
        variables = {f"CATFLAP_{name.upper()}": str(event[name]) for name in names}
        try:
            code, message = _run(command, json.dumps(event).encode(), {**os.environ, **variables}, seconds)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotDelivered(f"{command[0]}: {system_reason(error)}") from error
        if code:
            raise NotDelivered(f"{command[0]} ended with {code}: {message}")

    return deliver


def _run(command: list[str], data: bytes, environment: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """Run a command to its end: its exit code and its last line on stderr; OSError, or TimeoutExpired.

    Processes that it leaves behind are not waited for, and may go on writing: a thread reads as long as they
    do. When the command itself takes too long it is ended with all of its process group.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C and a terminal that closes stop the watch, not its commands
    )
    assert process.stdin is not None
    assert process.stderr is not None
    tail = bytearray()
    listener = Thread(target=_read_tail, args=(process.stderr, tail), name="command", daemon=True)
    listener.start()
    # a thread, because a command that reads nothing would hold up a long event
    Thread(target=_write, args=(process.stdin, data), name="command", daemon=True).start()
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        _end_group(process)
        raise
    listener.join(0.2)
    return code, " ".join(bytes(tail).decode("utf-8", "replace").strip().splitlines()[-1:])[:200]


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group, first with SIGTERM, then with SIGKILL, which nothing can ignore."""
    if os.name != "posix":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(KILL_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(KILL_SECONDS)


def _write(pipe: IO[bytes], data: bytes) -> None:
    with suppress(OSError), pipe:  # the command need not read
        pipe.write(data)


def _read_tail(pipe: IO[bytes], tail: bytearray) -> None:
    """Read to the end, and keep the last bytes."""
    with pipe:
        while part := os.read(pipe.fileno(), 4096):
            tail += part
            del tail[:-1000]
