"""Who may ask: API keys."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from catflap.errors import CatflapError
from catflap.serving.answers import Problem

SHORTEST = 16  # letters of a key; fewer can be tried out


def read_keys(path: Path | None) -> tuple[bytes, ...]:
    """The sha256 of each key in a file, one a line, # for remarks; none without a file."""
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise CatflapError(
            f"The keys in {path} cannot be read: {error}.",
            "Name a readable UTF-8 text file with one key a line.",
        ) from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys or min(map(len, keys)) < SHORTEST:
        raise CatflapError(
            f"{path} has no key, or one of fewer than {SHORTEST} letters.",
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return tuple(sha256(key.encode()).digest() for key in keys)


def check_key(headers: Mapping[str, str], keys: tuple[bytes, ...]) -> None:
    """Raise Problem 401 unless the request brings a key, or no keys are asked for.

    A key comes as `Authorization: Bearer KEY`, as `X-API-Key: KEY`, or as the password of
    `Authorization: Basic`, which is what a browser asks its user for.
    """
    if not keys:
        return
    brought = sha256(_brought(headers).encode("utf-8", "surrogateescape")).digest()
    if not any(hmac.compare_digest(brought, key) for key in keys):
        raise Problem(
            401, "This server asks for a key.", "Send the header Authorization: Bearer KEY.",
            {"WWW-Authenticate": 'Basic realm="Catflap: the key is the password"'},
        )  # fmt: skip


def _brought(headers: Mapping[str, str]) -> str:
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).decode("utf-8").partition(":")[2]
        except ValueError:
            return ""
    return headers.get("x-api-key", "")
