"""One server that most tests ask, and the bundles that they serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.bundles import make_bundle
from tests.serving.client import Server, running


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers in a millisecond."""
    return make_bundle(tmp_path_factory.mktemp("quick") / "cat.catflap")


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that needs some 200 ms of a core for an answer."""
    return make_bundle(tmp_path_factory.mktemp("slow") / "slow.catflap", name="slow", effort=10)


@pytest.fixture(scope="session")
def server(quick: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two bundles and small limits."""
    other = tmp_path_factory.mktemp("other") / "dog.catflap"
    make_bundle(other, name="dog", labels=("dog", "no_dog"))
    with running(
        quick, other, "--max-mb", "1", "--max-pixels", "4000000", "--queue", "8", "--upload-timeout", "1"
    ) as one:
        yield one
