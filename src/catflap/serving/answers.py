"""What a route is asked and what it answers, free of any web framework."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from catflap.errors import CatflapError

JSON = "application/json"


@dataclass(frozen=True)
class Call:
    """One request: its place, its words, and two things that can be awaited.

    `read` gives the whole body or raises Problem; `gone` returns when the client has left.
    """

    places: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    read: Callable[[], Awaitable[bytes]]
    gone: Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Answer:
    """What goes back: bytes, a status and headers."""

    body: bytes
    status: int = 200
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


class Problem(CatflapError):
    """A request that gets no answer, and the HTTP status that says so."""

    def __init__(self, status: int, what: str, fix: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(what, fix)
        self.status = status
        self.headers = dict(headers or {})
        self.args = (status, what, fix, self.headers)


def answer_json(fields: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer of JSON."""
    return Answer(json.dumps(fields).encode(), status, JSON, headers or {})


def answer_problem(problem: Problem, protocol: bool) -> Answer:
    """A Problem as JSON: one string where the Open Inference Protocol wants it, else what and fix."""
    error: Any = f"{problem.what} {problem.fix}" if protocol else problem.to_json()
    return answer_json({"error": error}, problem.status, problem.headers)
