"""Access to a Studio: token, password and cookie; requests from other sites and names are refused."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

Message: TypeAlias = MutableMapping[str, Any]
App: TypeAlias = Callable[[Message, Any, Any], Awaitable[None]]

SECRET = "secret"  # the file of a project; its cookies stay valid when the server starts again
LOCAL = ("127.0.0.1", "localhost", "::1")
TRIES, MINUTE = 10, 60.0  # wrong passwords that are answered in a minute
MOST_BODY = 4096  # bytes of a login
SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",  # so that the camera page in a frame has threads
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def read_secret(project: Path) -> str:
    """The secret of a project, which only its owner can read; made if it has none."""
    path = project / SECRET
    try:
        found = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        found = ""
    if len(found) < 32:
        found = secrets.token_urlsafe(32)
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(found)
    return found


class AccessControl:
    """An ASGI application around another: lets in who has the token or the password.

    `host` is the address that is listened on. On this machine's own, the Host of a request must be one of its
    names, so that no other site can reach it by a name that it points here (DNS rebinding); elsewhere it must
    be an address or this machine's name. A request that changes something must come from the page itself.
    """

    def __init__(self, app: App, secret: str, host: str, password: str | None = None) -> None:
        self._app, self._password = app, password
        self.token = hmac.new(secret.encode(), b"token", hashlib.sha256).hexdigest()[:32]
        self._cookie = hmac.new(secret.encode(), f"cookie {password}".encode(), hashlib.sha256).hexdigest()
        self._is_local = host in LOCAL or ipaddress.ip_address(host).is_loopback
        self._names = {*LOCAL, host, socket.gethostname().lower()}
        self._failed: list[float] = []

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                added = [(n.encode(), v.encode()) for n, v in SECURITY.items() if n.encode() not in own]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if problem := self._foreign(scope, headers):
            await _answer(send_secured, 403, problem)
        elif self._is_known(headers.get("cookie", ""), scope):
            await self._app(scope, receive, send_secured)
        elif scope["path"] == "/" and self._has_token(scope):
            await self._let_in(send_secured, scope)
        elif scope["path"] == "/login" and self._password and scope["method"] == "POST":
            await self._log_in(scope, receive, send_secured)
        else:
            await _answer(send_secured, 401, self._closed(), form=bool(self._password))

    def _foreign(self, scope: Message, headers: dict[str, str]) -> str:
        """Why a request is refused from any sender; "" when it may be answered."""
        host = headers.get("host", "")
        name = (urlsplit(f"//{host}").hostname or "").lower()
        if name not in self._names and (self._is_local or not _is_address(name)):
            return f"This Studio is not called {host[:100]}. Open it at the address that the terminal shows."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "")
        if scope["method"] not in ("GET", "HEAD") and (
            (origin is not None and urlsplit(origin).netloc.lower() != host.lower())
            or site not in ("", "same-origin", "none")
        ):
            return "Another site sent this request, so it was refused."
        return ""

    def _name(self, scope: Message) -> str:
        return f"catflap-studio-{(scope.get('server') or ('', 0))[1]}"  # cookies do not know ports

    def _is_known(self, cookies: str, scope: Message) -> bool:
        try:
            found = SimpleCookie(cookies).get(self._name(scope))
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._cookie.encode())

    def _has_token(self, scope: Message) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._password is None and hmac.compare_digest(given.encode(), self.token.encode())

    async def _let_in(self, send: Any, scope: Message) -> None:
        cookie = f"{self._name(scope)}={self._cookie}; HttpOnly; SameSite=Strict; Path=/; Max-Age=31536000"
        await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    async def _log_in(self, scope: Message, receive: Any, send: Any) -> None:
        now = monotonic()
        self._failed = [at for at in self._failed if now - at < MINUTE]
        if len(self._failed) >= TRIES:
            await _answer(send, 429, "Too many wrong passwords. Try again in a minute.", form=True)
            return
        body = b""
        while len(body) <= MOST_BODY:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        given = parse_qs(body[:MOST_BODY].decode("utf-8", "replace")).get("password", [""])[0]
        if hmac.compare_digest(given.encode(), (self._password or "").encode()):
            await self._let_in(send, scope)
        else:
            self._failed.append(now)
            await _answer(send, 401, "That is not the password.", form=True)

    def _closed(self) -> str:
        if self._password:
            return "This Studio asks for its password."
        return "Open Studio at the address with the token that its terminal shows."


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _answer(
    send: Any, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None, *, form: bool = False
) -> None:
    field = (
        '<form method="post" action="/login"><label>Password <input name="password" type="password" '
        'autocomplete="current-password" required autofocus></label> <button>Open</button></form>'
        if form
        else ""
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Catflap Studio</title>'
        f"<main><h1>Catflap Studio</h1><p>{html.escape(text)}</p>{field}</main></html>"
    ).encode()
    start = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(page)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*start, *(headers or [])]})
    await send({"type": "http.response.body", "body": page})
