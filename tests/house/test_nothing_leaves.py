"""Nothing leaves the device: no verb connects anywhere, looks a name up, or writes elsewhere.

Each command is traced as tests/house/tracing.py says; test_nothing_leaves_engines.py does so with engines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catflap.cli.main import COMMANDS
from catflap.offline import BLOCKED, SWITCHES
from catflap.training.backbones import TINY
from tests.house.tracing import Traced, check, program


def test_the_tracing_sees_what_leaves(traced: Callable[..., Traced], tmp_path: Path) -> None:
    """Without it every test below would pass: a DNS query, a connection, and a file in the home directory."""
    asks = "import socket\ntry: socket.create_connection(('192.0.2.1', 80))\nexcept OSError: pass\n"
    names = "s = socket.socket(type=socket.SOCK_DGRAM)\ns.sendto(b'x', ('127.0.0.53', 53))\n"
    files = "import pathlib; (pathlib.Path.home() / 'deviceid').write_text('x')"
    did = traced(sys.executable, "-c", asks + names + files)
    assert did.code == 0, did.stderr
    assert len(did.addresses) == 2
    assert did.written == (str(tmp_path / "home" / "deviceid"),)


def test_every_switch_is_set_before_a_library_is_loaded() -> None:
    code = (
        "import os, sys, catflap\n"
        "print([os.environ[name] for name in sys.argv[1:]], sys.modules['openvino_telemetry'])"
    )
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    asked = {**kept, "RAY_USAGE_STATS_ENABLED": "1"}  # a user's own word stays
    done = subprocess.run(
        [sys.executable, "-c", code, *SWITCHES], env=asked, capture_output=True, text=True, check=True
    )
    assert BLOCKED == ("openvino_telemetry",)
    expected = [{**SWITCHES, "RAY_USAGE_STATS_ENABLED": "1"}[name] for name in SWITCHES]
    assert done.stdout == f"{expected} None\n"


# Words after `catflap` for each verb, run where `made` has its names; a verb that is not here is a failure.
FAST: dict[str, tuple[str, ...]] = {
    "bundle": ("bundle", "inspect", "M/tiny.catflap"),
    "completion": ("completion", "bash"),
    "doctor": ("doctor",),
    "predict": ("predict", "M/tiny.catflap", "M/photos", "--log", "new.log", "--log-photos"),
    "scan": ("scan", "M/photos", "-o", "manifest"),
    "trace": ("trace", "M/tiny.catflap"),
    "verify": ("verify", "cat"),
    "watch": ("watch", "M/tiny.catflap", "M/photos/cat", "--save", "saved"),
    "web": ("web", "M/tiny.catflap", "-o", "site"),
}
SLOW: dict[str, tuple[str, ...]] = {
    "audit": ("audit", "M/dataset", "-o", "audited", "--backbone", TINY),
    "bench": ("bench", "M/tiny.catflap", "--seconds", "0.1"),
    "build": ("build", "M/photos", "-o", "new.catflap", "--size", "64", "--backbone", TINY),
    "compare": ("compare", "I/installed.catflap"),  # the side of training comes with the demo
    "demo": ("demo", "-o", "demo"),
    "diff": ("diff", "M/tiny.catflap", "M/tiny.catflap", "M/photos", "--margin", "0.3"),
    "drift": ("drift", "M/tiny.catflap", "field.log", "-o", "drift.html"),
    "evaluate": ("evaluate", "M/tiny.catflap", "M/dataset", "-o", "report"),
    "explain": (
        "explain",
        "I/installed",
        "I/installed.catflap",
        "M/photos/cat/00.jpg",
        "-o",
        "explain.html",
    ),
    "export": ("export", "I/installed", "-o", "exported.catflap"),
    "plan": ("plan", "--photos", "1e6", "--sample", "M/photos"),
    "prepare": ("prepare", "M/manifest", "-o", "dataset", "--size", "64"),
    "review": ("review", "queue", "field.log", "-o", "queue"),
    "train": (
        *("train", "M/dataset", "-o", "checkpoint"),
        *("--recipe", "finetune", "--epochs", "1", "--backbone", TINY),
    ),
}
APART = ("serve", "sign", "studio")  # with tests of their own below


# The default backbone takes minutes where a part of it, whose weights come from the same file, takes the same
# way; and of graphs that are the same torch's exporter, which is reached by the first of them, writes one.
IN_TURN = f"""
import json, sys
from functools import partial
from pathlib import Path
import sklearn.datasets
from catflap.cli.main import main
from catflap.comparison import compare
from catflap.image import Frame
from catflap.pipeline import demo, machine_rates
from catflap.training import search
from tests.tiny import keeping_graphs
digits = sklearn.datasets.load_digits()
few = [at for at, digit in enumerate(digits.target) if digit in (1, 7)][:24]
digits.images, digits.target = digits.images[few], digits.target[few]
sklearn.datasets.load_digits = lambda: digits
search.LITE0 = "{TINY}"
demo.build = partial(demo.build, variants=("fp32",))
compare.STARTS = 1
machine_rates.SECONDS = 0.2
machine_rates.measure_rates = partial(machine_rates.measure_rates, backbone="{TINY}", frame=Frame(64, 64))
with keeping_graphs(Path("graphs")):
    for words in json.loads(sys.argv[1]):
        print("catflap", *words, file=sys.stderr, flush=True)
        if code := main(words):
            sys.exit(f"exit code {{code}}")
"""


def test_every_verb_is_run() -> None:
    assert {*FAST, *SLOW, *APART} == set(COMMANDS)


@pytest.mark.parametrize("verb", FAST)
def test_a_verb_sends_and_leaves_nothing(
    verb: str, made: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    words = [word.replace("M/", f"{made}/") for word in FAST[verb]]
    shutil.copy(made / "field.log", tmp_path / "work")  # which is opened for writing
    did = traced(*program(*words))
    if "This installation has no camera page" in did.stderr:
        pytest.skip("the camera page is not built; run: make web")
    check(did, tmp_path)


@pytest.mark.slow
def test_the_other_verbs_send_and_leave_nothing(
    made: Path, installed: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    """One after another in one process, which imports the libraries for learning once."""
    lines = [
        [word.replace("M/", f"{made}/").replace("I/", f"{installed}/") for word in words]
        for words in SLOW.values()
    ]
    shutil.copy(made / "field.log", tmp_path / "work")
    check(traced(sys.executable, "-c", IN_TURN, json.dumps(lines)), tmp_path)


SERVED = """
import json, subprocess, sys, time, urllib.request
serve = "from catflap.cli.main import run; run()"
words = ["serve", sys.argv[1], "--port", "0", "--json"]
server = subprocess.Popen([sys.executable, "-c", serve, *words], stdout=-1)
fields = json.loads(server.stdout.readline())
if "url" not in fields:
    sys.exit(str(fields))
address = fields["url"]
for path in ("/healthz", "/", "/metrics", "/v2"):
    urllib.request.urlopen(address + path).read()
with open(sys.argv[2], "rb") as photo:
    for _ in range(20):
        photo.seek(0)
        print(urllib.request.urlopen(urllib.request.Request(address + "/predict", photo.read())).read())
        time.sleep(0.2)  # long enough for a collector that sends what has gathered
server.terminate()
sys.exit(server.wait())
"""
STUDIO = """
import json, subprocess, sys, time, urllib.request
studio = "from catflap.cli.main import run; run()"
words = ["studio", "project", "--port", "0", "--json"]
server = subprocess.Popen([sys.executable, "-c", studio, *words], stdout=-1)
ready = json.loads(server.stdout.readline())
if "error" in ready:
    sys.exit(ready["error"]["what"])
address = ready["url"]
browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
for _ in range(5):
    browser.open(address).read()
    time.sleep(0.2)
server.terminate()
sys.exit(server.wait())
"""
SIGNED = """
import sys
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from catflap.cli.main import main
key = ec.generate_private_key(ec.SECP256R1())
pem = serialization.Encoding.PEM
open("private.pem", "wb").write(
    key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
)
public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
open("public.pem", "wb").write(public)
open("own.catflap", "wb").write(open(sys.argv[1], "rb").read())
code = main(["sign", "own.catflap", "--key", "private.pem"])
sys.exit(code or main(["verify", "own.catflap", "--key", "public.pem"]))
"""


@pytest.mark.slow
def test_a_server_sends_and_leaves_nothing(made: Path, traced: Callable[..., Traced], tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    check(traced(sys.executable, "-c", SERVED, made / "tiny.catflap", made / "photos/cat/00.jpg"), tmp_path)


@pytest.mark.slow
def test_studio_sends_and_leaves_nothing(traced: Callable[..., Traced], tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    did = traced(sys.executable, "-c", STUDIO)
    if "has no Studio page" in did.stderr:
        pytest.skip("Studio's page is not built: run npm ci and npm run build in web/")
    check(did, tmp_path)


@pytest.mark.slow
def test_signing_and_verifying_by_a_key_sends_and_leaves_nothing(
    made: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    pytest.importorskip("model_signing")
    check(traced(sys.executable, "-c", SIGNED, made / "tiny.catflap"), tmp_path)


def test_the_base_installation_sends_and_leaves_nothing(
    base_python: Path, made: Path, traced: Callable[..., Traced], tmp_path: Path, repo: Path
) -> None:
    words = ("predict", "cat", str(made / "photos" / "cat"))
    code = "from catflap.cli.main import run; run()"
    check(traced(base_python, "-c", code, *words, PYTHONPATH=str(repo / "src")), tmp_path)
