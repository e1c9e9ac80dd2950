"""Ray: a real cluster of several processes on this machine gives the Manifest that local work gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from catflap.data import ray_cluster
from catflap.data.parts import plan_parts
from catflap.data.scan import scan
from catflap.data.sources import DEFAULT_COLUMNS, open_source
from catflap.errors import CatflapError
from catflap.version import VERSION
from tests.data.photos import class_folders, draw, encoded, tree

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

PORT = 21_001


LETHAL = """
import os
from catflap.data.examine import examine_photo
from catflap.data.workers import work_on_stdin
def lethal(reference):
    if "/cat/007" in reference["uri"]:
        os._exit(9)
    return examine_photo(reference)
work_on_stdin(lethal)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = class_folders(tmp_path_factory.mktemp("ray") / "photos", 100)
    (source / "cat" / "empty.jpg").write_bytes(b"")
    (source / "cat" / "half.jpg").write_bytes(encoded(draw(1), quality=95)[:-900])
    return source


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray cluster of its own processes, reached through its client server."""
    pytest.importorskip("grpc")
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--port=21000", f"--ray-client-server-port={PORT}", "--num-cpus=2"]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    subprocess.run([*command, "--include-dashboard=false"], check=True, capture_output=True, env=environment)
    yield f"ray://127.0.0.1:{PORT}"
    subprocess.run([ray, "stop", "--force"], check=True, capture_output=True)


def test_a_local_ray_gives_the_same_manifest(photos: Path, tmp_path: Path) -> None:
    local = scan(photos, tmp_path / "local")
    on_ray = scan(photos, tmp_path / "ray", on="ray")
    assert tree(on_ray.path) == tree(local.path)
    assert local.reasons == {"empty": 1, "truncated": 1}


def test_a_cluster_at_an_address_gives_the_same_manifest(photos: Path, cluster: str, tmp_path: Path) -> None:
    assert tree(scan(photos, tmp_path / "ray", on=cluster).path) == tree(scan(photos, tmp_path / "m").path)


def test_a_photo_that_kills_its_process_is_found_on_ray(photos: Path, tmp_path: Path) -> None:
    parts = plan_parts(tmp_path, open_source(photos, DEFAULT_COLUMNS).references, "test")
    command = (sys.executable, "-c", LETHAL)
    found = dict(ray_cluster.run(parts.missing(), "ray", command=command))
    table = pa.concat_tables([found[number] for number in sorted(found)])
    crashed = table.filter(pc.equal(table["reason"], "decoder_crashed"))
    assert [Path(uri).name for uri in crashed["uri"].to_pylist()] == ["007.jpg"]
    assert table.num_rows == 202


def test_nodes_that_cannot_start_a_worker_are_one_error(photos: Path, tmp_path: Path) -> None:
    parts = plan_parts(tmp_path, open_source(photos, DEFAULT_COLUMNS).references, "test")
    command = (sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(CatflapError, match=r"cannot run this Catflap: .*does not start") as error:
        list(ray_cluster.run(parts.missing(), "ray", command=command))
    assert f"Install Catflap {VERSION} there" in error.value.fix


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "ray://192.0.2.1:10001", "http://127.0.0.1"])
def test_an_address_that_does_not_answer_is_an_error_within_half_a_minute(
    address: str, photos: Path, tmp_path: Path
) -> None:
    """In a process of its own, because Ray's client keeps trying in the background."""
    code = "import sys; from catflap.cli.main import run; sys.exit(run())"
    command = [sys.executable, "-c", code, "scan", str(photos), "-o", str(tmp_path / "m"), "--on", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # with Python's start
    assert done.returncode == 2
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_place_that_is_none_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="not the address of a Ray cluster"):
        scan(photos, tmp_path / "m", on="spark")
