"""Many servers behind one address: the examples for nginx and Ray Serve, where these are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.serving.bundles import BLUE, RED
from tests.serving.client import eventually, running

DRIVER = """
import sys, ray
from ray import serve
ray.init(num_cpus=2, include_dashboard=False, logging_level="error")
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
from on_ray import application
serve.run(application)
print("ready", flush=True)
sys.stdin.read()
serve.shutdown()
ray.shutdown()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_nginx_hides_that_a_server_ends(quick: Path, repo: Path, tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("there is no nginx here: apt-get install nginx-light")
    port = free_port()
    with running(quick) as first, running(quick) as second:
        text = (repo / "examples" / "serve" / "nginx.conf").read_text("utf-8")
        for old, new in (
            ("8001", first.port),
            ("8002", second.port),
            ("listen 8000", f"listen 127.0.0.1:{port}"),
        ):
            assert old in text
            text = text.replace(old, str(new))
        conf = tmp_path / "nginx.conf"
        conf.write_text(f"daemon off;\npid {tmp_path}/pid;\nerror_log stderr;\n{text}")
        proxy = subprocess.Popen([nginx, "-p", tmp_path, "-c", conf], stderr=subprocess.DEVNULL)
        try:
            whole = replace(first, port=port)
            eventually(lambda: is_open(port))
            assert [whole.predict(RED).status for _ in range(6)] == [200] * 6
            assert first.metric("catflap_requests_total", route="/predict", status="200") > 0
            assert second.metric("catflap_requests_total", route="/predict", status="200") > 0
            assert second.stop() == 0
            assert [whole.predict(RED).status for _ in range(6)] == [200] * 6
        finally:
            proxy.terminate()
            proxy.wait()


def is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_replicas_of_ray_serve_speak_the_protocol(quick: Path, repo: Path) -> None:
    pytest.importorskip("ray.serve", reason="ray[serve] is not installed", exc_type=ImportError)
    variables = {"CATFLAP_BUNDLE": str(quick), "CATFLAP_REPLICAS": "2", "CATFLAP_CPUS": "0.5"}
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(port)],
        cwd=repo / "examples" / "serve",
        env={**os.environ, **variables, "PYTHONPATH": str(repo / "src")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any(line == "ready\n" for line in process.stdout), "Ray Serve did not start"
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        photos = triton.InferInput("photo", [2], "BYTES")
        photos.set_data_from_numpy(np.array([RED, BLUE], dtype=object))
        assert client.is_model_ready("cat")
        for _ in range(10):
            assert client.infer("cat", [photos]).as_numpy("decision").tolist() == [b"cat", b"not_cat"]
        client.close()
