"""The verb `studio`: open a project and serve its page on this machine."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catflap.errors import CatflapError
from catflap.image import silence_libtiff
from catflap.progress import ignore
from catflap.serving.connections import Guard, run_server, uvicorn_server
from catflap.serving.serve import LogLimiter, bind
from catflap.serving.serve_settings import ServeLimits
from catflap.stopping import stopped_by_signals
from catflap.studio.access import AccessControl, read_secret
from catflap.studio.project import open_project
from catflap.studio.routes import PAGE, create_app
from catflap.studio.running import Studio

LIMITS = ServeLimits(upload=3600, deadline=3600, connections=200)  # archives and large folders take long


@dataclass(frozen=True)
class StudioSettings:
    """A project folder and the address of its page. Beyond this machine's own address a password is needed.

    `command` starts the verbs, and `options` are given to every `build`; both are for tests.
    """

    project: Path
    host: str = "127.0.0.1"
    port: int = 8700
    password: str | None = None
    command: Sequence[str] | None = None
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        try:
            is_local = self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError as error:
            raise CatflapError(
                f"{self.host!r} is no address.", "Use 127.0.0.1, or 0.0.0.0 for the local network."
            ) from error
        if not is_local and not self.password:
            raise CatflapError(
                f"{self.host} can be reached from other machines.",
                "Set a password in CATFLAP_STUDIO_PASSWORD, or type it when asked.",
            )
        if not 0 <= self.port <= 65535:
            raise CatflapError(f"The port (--port) is {self.port}.", "Use 0 to 65535.")


def studio(
    settings: StudioSettings,
    ready: Callable[[dict[str, Any]], None] = ignore,
    note: Callable[[str], None] = ignore,
    page: Path = PAGE,
) -> None:
    """Serve a project until SIGTERM, SIGHUP or Ctrl-C; jobs that run then go on without the server.

    `ready` is called with the address, which has the token, once the server listens. Raises CatflapError when
    another Studio has the project open, when it is damaged, and when the page was not built.
    """
    if not (page / "index.html").is_file():
        raise CatflapError(
            "This installation has no Studio page, because Node was missing when it was built.",
            "Install Node 20.19 or newer and run: npm --prefix web ci && npm --prefix web run build",
        )
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    silence_libtiff()
    with bind(host, settings.port) as listener:
        project = open_project(Path(settings.project))
        command = tuple(settings.command) if settings.command else None
        parts = Studio(project, command=command, options=tuple(settings.options))
        app = AccessControl(create_app(parts, page), read_secret(project.path), host, settings.password)
        listener.guard = guard = Guard(LIMITS, ignore)
        server = uvicorn_server(app, guard, LIMITS)
        server.config.timeout_graceful_shutdown = 5
        listener.listen()
        address, port = listener.getsockname()[:2]
        base = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        project.note_address(base)

        def stop() -> None:
            parts.stopping = True
            parts.changed()  # ends the event streams
            server.should_exit = True

        limited = LogLimiter(note)
        with stopped_by_signals(stop):
            url = base if settings.password else f"{base}/?token={app.token}"
            ready({"url": url, "project": str(project.path)})
            if settings.password:
                limited("Warning: without https, the password and the photos cross the network unencrypted.")
            asyncio.run(run_server(server, guard, listener))
