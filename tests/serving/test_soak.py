"""Mixed requests of several clients, for as long as CATFLAP_SOAK_SECONDS says; memory stays flat."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from catflap.exporting.golden_cases import drawn_photos
from catflap.image import encode
from tests.serving.bundles import BLUE, RED, make_bundle
from tests.serving.client import PATIENCE, Server, form, running

SECONDS = float(os.environ.get("CATFLAP_SOAK_SECONDS", "6"))
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
PHOTOS = (RED, BLUE, *drawn_photos())
HOSTILE = (b"", b"<html>", RED[:300], bytes(5000), b"\xff\xd8\xff" + bytes(100_000))


def ask_anything(server: Server, dice: random.Random) -> int:
    """One request of many kinds; its status, or 0 when the client did not wait for one."""
    kind = dice.randrange(8)
    if kind <= 3:
        return server.predict(dice.choice(PHOTOS)).status
    if kind == 4:
        return server.predict(dice.choice(HOSTILE)).status
    if kind == 5:
        body, headers = form(("a", dice.choice(PHOTOS)), ("b", dice.choice(HOSTILE)))
        return server.ask("/predict", body, headers).status
    if kind == 6:
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [7] * 3072}
        return server.ask("/v2/models/cat/infer", json.dumps({"inputs": [tensor]}).encode()).status
    server.raw(dice.choice((HEAD + bytes(99), b"GET /healthz HT", b"\0\1garbage\r\n\r\n"))).close()
    return 0


def ask_until(server: Server, seed: int, end: float) -> list[int]:
    dice = random.Random(seed)
    statuses = []
    while time.monotonic() < end:
        statuses.append(ask_anything(server, dice))
    return statuses


def loaded(server: Server) -> float:
    """How many new versions it has taken up."""
    return server.metric("catflap_reloads_total", model="cat", result="loaded")


def put(data: bytes, served: Path) -> None:
    """Replace the file in one step."""
    new = served.with_name("new")
    new.write_bytes(data)
    new.replace(served)


def wait_for(server: Server, versions: int) -> None:
    """Return when it has taken up so many, and given back the memory of the last one."""
    end = time.monotonic() + PATIENCE
    while loaded(server) < versions:
        assert time.monotonic() < end, f"{loaded(server)} of {versions} new versions were taken up"
        time.sleep(0.05)
    time.sleep(0.5)  # it counts a version first


def is_flat(memory: list[int]) -> bool:
    """Whether the last turns have no more than the first ones, once it is warm; what grows never is again."""
    return min(memory[-3:]) <= 1.05 * max(memory[2:5])


@pytest.mark.slow
def test_mixed_requests_and_reloads_leave_memory_flat(tmp_path: Path, quick: Path) -> None:
    served = tmp_path / "cat.catflap"
    shutil.copy(quick, served)
    other = make_bundle(tmp_path / "other.catflap", sharpness=0.06)
    with running(served, "--reload", "0.5") as server, ThreadPoolExecutor(6) as clients:
        process = psutil.Process(server.process.pid)
        memory: list[int] = []
        statuses, turns = [], 10
        for turn in range(2 * turns):
            end = time.monotonic() + SECONDS / turns
            asking = [clients.submit(ask_until, server, 100 * turn + seed, end) for seed in range(6)]
            put(other.read_bytes(), served)
            statuses += [status for one in asking for status in one.result()]
            wait_for(server, 2 * turn + 1)
            put(quick.read_bytes(), served)
            wait_for(server, 2 * turn + 2)
            memory.append(process.memory_full_info().uss)  # at rest, without what is free
            if turn + 1 >= turns and is_flat(memory):  # it differs by a tenth from turn to turn
                break
        assert set(statuses) <= {0, 200, 422}
        assert statuses.count(200) > 50
        assert is_flat(memory), f"memory grows: {memory}"


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do as they like")
def test_the_memory_of_large_photos_is_given_back(quick: Path) -> None:
    side = 4000
    pixels = np.full((side, side, 4), 200, np.uint8)
    large = encode(pixels, "PNG", compress_level=1)
    with running(quick) as server, ThreadPoolExecutor(2) as clients:
        server.predict(RED)
        before = server.metric("process_resident_memory_bytes")
        for _ in range(2):  # glibc takes for usual what was freed once
            assert {reply.status for reply in clients.map(server.predict, [large] * 2)} == {200}
        assert server.metric("process_resident_memory_bytes") < before + pixels.nbytes / 2
