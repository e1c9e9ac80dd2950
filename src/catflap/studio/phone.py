"""A page for a phone in the same network, while it is wanted: it can add photos, and nothing else.

Over http it uploads photos without a warning; over https, which the browser warns of, it can use the camera.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from catflap.errors import CatflapError, system_reason
from catflap.progress import ignore
from catflap.serving.connections import Guard, run_server, uvicorn_server
from catflap.serving.serve import bind
from catflap.serving.serve_settings import ServeLimits
from catflap.studio.certificate import tls_context

LIMITS = ServeLimits(upload=600, deadline=600, connections=20)
MOST_BYTES = 64 << 20  # of one photo
POLICY = "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'"
PAGE = Path(__file__).with_name("phone.html")


class Phone:
    """The server of the page, in a thread of its own; its address has a token that ends with it."""

    def __init__(self, take: Callable[[bytes, str, str], dict[str, Any]]) -> None:
        self._take = take
        self._server: Any = None
        self._thread: threading.Thread | None = None
        self.url = ""

    def open(self, *, camera: bool = False) -> str:
        """The address for a phone, in https for its `camera`; listens on this machine's network address."""
        if self.url.startswith("https:" if camera else "http:"):
            return self.url
        self.close()
        host, token = own_address(), secrets.token_urlsafe(12)
        certificate = tls_context(host) if camera else None
        listener = bind(host, 0)
        listener.guard = guard = Guard(LIMITS, ignore)
        self._server = server = uvicorn_server(self._app(f"/{token}"), guard, LIMITS, certificate)
        server.config.timeout_graceful_shutdown = 2
        listener.listen()
        self.url = f"http{'s' if camera else ''}://{host}:{listener.getsockname()[1]}/{token}"

        def run() -> None:
            with listener:
                asyncio.run(run_server(server, guard, listener))

        self._thread = threading.Thread(target=run, name="phone", daemon=True)
        self._thread.start()
        return self.url

    def close(self) -> None:
        """Stop listening."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join(10)
        self._thread, self.url = None, ""

    def _app(self, path: str) -> Callable[..., Any]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                for _ in ("startup", "shutdown"):
                    message = await receive()
                    await send({"type": f"{message['type']}.complete"})
            elif not hmac.compare_digest(scope["path"].encode(), path.encode()):
                await _answer(send, 404, b"There is nothing here.", "text/plain")
            elif scope["method"] == "GET":
                nonce = secrets.token_urlsafe(12)
                policy = POLICY.format(nonce=nonce)
                await _answer(
                    send,
                    200,
                    PAGE.read_text("utf-8").replace("NONCE", nonce).encode(),
                    "text/html; charset=utf-8",
                    policy,
                )
            else:
                await self._upload(scope, receive, send)

        return app

    async def _upload(self, scope: Any, receive: Any, send: Any) -> None:
        body, is_whole = bytearray(), False
        while not is_whole and len(body) <= MOST_BYTES:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            is_whole = not message.get("more_body")
        fields = parse_qs(scope["query_string"].decode("latin-1"))
        name, label = (fields.get(field, [""])[0] for field in ("name", "label"))
        try:
            if not is_whole:
                raise CatflapError("too_large: the photo is too large.", "Send a smaller one.")
            answer = await asyncio.to_thread(self._take, bytes(body), name or "phone.jpg", label)
        except CatflapError as error:
            answer = {"added": 0, "known": 0, "refused": [{"name": name, "reason": error.what}]}
        await _answer(send, 200, json.dumps(answer).encode(), "application/json")


async def _answer(send: Any, status: int, body: bytes, kind: str, policy: str = "default-src 'none'") -> None:
    headers = {
        "content-type": kind,
        "content-length": str(len(body)),
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def own_address() -> str:
    """The address of this machine in its network; CatflapError where it has none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # UDP: only the route is looked up
        except OSError as error:
            raise CatflapError(
                f"This machine is in no network: {system_reason(error)}.", "Connect it to the phone's Wi-Fi."
            ) from error
        return str(probe.getsockname()[0])
