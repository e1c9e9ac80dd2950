"""Where events go besides the line on stdout: a webhook, a broker, a command, frames and clips."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from threading import Lock, Thread
from typing import IO
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from catflap.artifacts.folder import write_atomically
from catflap.errors import CatflapError, system_reason
from catflap.live.delivery import Event, NotDelivered

PATIENCE = 10.0  # seconds for a webhook or a command
AS_IT_IS = "%/?:@!$&'()*+,;=~[]|"  # what quoting leaves alone in a path and a query
SAVED = re.compile(r"\d{8}T\d{6}\.\d{3}-\d{6,}-[^/]*\.(jpg|mp4)")


def webhook(url: str) -> Callable[[Event], None]:
    """A function that POSTs an event as JSON; anything but 2xx, a redirection too, is not delivered."""
    address, headers = _address(url)
    headers["Content-Type"] = "application/json"
    opener = urllib.request.build_opener(_Staying)

    def deliver(event: Event) -> None:
        data = json.dumps(event).encode()
        request = urllib.request.Request(address, data, headers)
        try:
            opener.open(request, timeout=PATIENCE).close()
        except (OSError, HTTPException) as error:
            raise NotDelivered(str(error) or type(error).__name__) from error

    return deliver


def _address(url: str) -> tuple[str, dict[str, str]]:
    """A URL as it is sent, in ASCII, and the header for the name and the password in it."""
    named = url.rpartition("@")[2]  # without the password
    try:
        parts = urlsplit(url)
        user, _, host = parts.netloc.rpartition("@")
        host = host.encode("idna").decode()
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and " " not in host
    except ValueError:
        good = False
    if not good:
        raise CatflapError(f"The webhook {named!r} is no proper URL.", "Use http://… or https://…")
    path, query = quote(parts.path, AS_IT_IS), quote(parts.query, AS_IT_IS)
    name, _, password = user.partition(":")
    key = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    headers = {"Authorization": f"Basic {key}"} if user else {}
    return urlunsplit((parts.scheme, host, path, query, "")), headers


class _Staying(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would ask the other place with a GET, without the event."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """Where it leads is told, so that its operator can name it."""
        raise HTTPError(req.full_url, code, f"{msg}, to {newurl[:200]}", headers, fp)


def commands(of: Mapping[str, str]) -> Callable[[Event], None]:
    """A function that runs the command of the label that was decided, for events that `has_command` wants.

    It runs without a shell, with the event as JSON on its stdin and CATFLAP_DECISION, CATFLAP_PREVIOUS
    and CATFLAP_PROBABILITY in its environment.
    """
    try:
        words = {label: shlex.split(command) for label, command in of.items()}
    except ValueError as error:
        raise CatflapError(f"A command cannot be read: {error}.", "Close its quotes.") from error
    if not all(words.values()):
        raise CatflapError("A command is empty.", "Use: --on cat 'pinctrl set 17 op dh'")

    def deliver(event: Event) -> None:
        command = words[event["decision"]]
        names = ("decision", "previous", "probability")
        told = {f"CATFLAP_{name.upper()}": str(event[name]) for name in names}
        data = json.dumps(event).encode()
        try:
            code, said = _run(command, data, {**os.environ, **told})
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotDelivered(f"{command[0]}: {system_reason(error)}") from error
        if code:
            raise NotDelivered(f"{command[0]} ended with {code}: {said}")

    return deliver


def has_command(of: Mapping[str, str], event: Event) -> bool:
    """Whether an event decides something that has a command."""
    return event.get("decision") in of


def _run(command: list[str], data: bytes, environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a command to its end, and what it said last on stderr; OSError, or TimeoutExpired.

    What it leaves running is not waited for, and may go on talking: somebody listens as long as it does.
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
    said = bytearray()
    listener = Thread(target=_listen, args=(process.stderr, said), name="command", daemon=True)
    listener.start()
    with suppress(BrokenPipeError), process.stdin as pipe:  # it need not read
        pipe.write(data)
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    listener.join(0.2)
    return code, " ".join(bytes(said).decode("utf-8", "replace").strip().splitlines()[-1:])[:200]


def _listen(pipe: IO[bytes], said: bytearray) -> None:
    """Read to the end, and keep the last of it."""
    with pipe:
        while part := os.read(pipe.fileno(), 4096):
            said += part
            del said[:-1000]


class CappedFolder:
    """A folder of frames and clips of what was decided, which never grows beyond `limit` bytes.

    Only files that are named like its own are ever deleted, the oldest first. A disk that is full is
    told once, and the watch goes on. Threads may share it.
    """

    def __init__(self, folder: Path, limit: int, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._limit = limit
        self._note = note
        self._failing = False
        self._lock = Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            mine = sorted(entry.name for entry in os.scandir(folder) if SAVED.fullmatch(entry.name))
            self._sizes = {name: (folder / name).stat().st_size for name in mine}
        except OSError as error:
            raise CatflapError(
                f"Frames cannot be saved in {folder}: {system_reason(error)}.",
                "Name a folder that can be written.",
            ) from error
        self.bytes = sum(self._sizes.values())

    def save(self, jpeg: bytes, when: float, number: int, label: str) -> str | None:
        """Save a JPEG taken `when`, in seconds since 1970; its path, or None when that failed."""
        name = self.name(when, number, label, "jpg")
        return self.path(name) if self.put(name, jpeg) else None

    def name(self, when: float, number: int, label: str, suffix: str) -> str:
        """What a file is called: when it was, the number of its frame, and what was decided."""
        stamp = datetime.fromtimestamp(when).strftime("%Y%m%dT%H%M%S.%f")[:-3]
        word = re.sub(r"[^A-Za-z0-9_]+", "-", label)[:40]
        return f"{stamp}-{number:06}-{word}.{suffix}"

    def path(self, name: str) -> str:
        """Where a file of that name lies."""
        return str(self._folder / name)

    def put(self, name: str, data: bytes) -> bool:
        """Save a file, for which the oldest make room; False when that failed."""
        if len(data) > self._limit:
            return False
        with self._lock:
            self._make_room(len(data))
            try:
                write_atomically(self._folder / name, data, durable=False)
            except CatflapError as error:
                if not self._failing:
                    self._failing = True
                    self._note(f"{error.what} {error.fix} The watch goes on without saving.")
                return False
            self._failing = False
            self._sizes[name] = len(data)
            self.bytes += len(data)
            return True

    def _make_room(self, size: int) -> None:
        while self._sizes and self.bytes + size > self._limit:
            oldest = next(iter(self._sizes))
            with suppress(OSError):
                (self._folder / oldest).unlink(missing_ok=True)
            self.bytes -= self._sizes.pop(oldest)
