"""Nothing leaves the device: no verb and no engine connects anywhere, looks a name up, or writes elsewhere.

Each command runs in a network namespace without routes, with a home directory of its own, under strace. A
test fails on a connection or a datagram to an address other than the loopback one, on a DNS query to any
address, and on a file outside of the places that docs/concepts/privacy.md names.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from catflap.artifacts.bundle import load_bundle
from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.cli.main import COMMANDS
from catflap.exporting.export import export
from catflap.offline import BLOCKED, SWITCHES
from catflap.runtime.classifier import Classifier, predict
from catflap.runtime.recording import LogSettings, recording
from catflap.training.backbones import TINY
from tests.tiny import Exported

CALLS = (
    "connect,sendto,sendmsg,sendmmsg,openat,open,creat,mkdir,mkdirat,"
    "rename,renameat,renameat2,link,linkat,symlink"
)
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
DNS = re.compile(r"sin6?_port=htons\((53|853|5353)\)")
WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")
PLACES = ("/dev/", "/proc/", "/sys/")  # not files on a disk


@cache
def why_not() -> str:
    """Why these tests cannot run here; "" where they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces and strace are of Linux"
    lacking = [tool for tool in ("unshare", "strace", "ip") if shutil.which(tool) is None]
    if lacking:
        return f"{', '.join(lacking)} is not installed; run: apt-get install strace iproute2 util-linux"
    tried = subprocess.run(
        ["unshare", "-n", "strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False
    )
    return "" if tried.returncode == 0 else "only root may make a network namespace and trace in it"


@dataclass(frozen=True)
class Traced:
    """What a command did: exit code, stdout and stderr, addresses that it tried, and files that it wrote."""

    code: int
    stdout: str
    stderr: str
    addresses: tuple[str, ...]
    written: tuple[str, ...]


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Traced]:
    """Run a command isolated and traced, in `tmp_path / "work"`."""
    if why_not():
        pytest.skip(why_not())
    (tmp_path / "work").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()

    def run(*command: str | Path, stdin: str = "", **more: str) -> Traced:
        trace = tmp_path / "trace"
        kept = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",  # as for all tests: with more, threads wait in loops beside other workers
        }
        home = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "LC_ALL": "C.UTF-8"}
        strace = [
            "strace",
            "-f",
            "-qq",
            "-y",
            "-s",
            "300",
            "--seccomp-bpf",
            "-e",
            f"trace={CALLS}",
            "-o",
            str(trace),
        ]
        isolated = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
        done = subprocess.run(
            [*isolated, *strace, *map(str, command)],
            input=stdin, capture_output=True, text=True, check=False, timeout=3600,
            cwd=tmp_path / "work", env={**kept, **home, **more},
        )  # fmt: skip
        lines = trace.read_text("utf-8", "replace").splitlines()
        inside = (str(tmp_path / "work"), str(tmp_path / "tmp"))
        return Traced(
            done.returncode, done.stdout, done.stderr, tuple(filter(is_sent_away, lines)),
            tuple(p for p in map(written_path, lines) if p and not p.startswith((*PLACES, *inside))),
        )  # fmt: skip

    return run


def is_sent_away(line: str) -> bool:
    """Whether a traced call addresses another machine, or a name server on any."""
    if "AF_INET" not in line or not re.search(r"\b(connect|sendto|sendmsg|sendmmsg)\(", line):
        return False
    return DNS.search(line) is not None or LOOPBACK.search(line) is None


def written_path(line: str) -> str:
    """The path that a traced call created or wrote; "" where it did neither."""
    if re.search(r"= -1 E", line):
        return ""
    call = re.search(r"\b(open|openat|creat|mkdir|mkdirat|rename\w*|link\w*|symlink)\(", line)
    if call is None or (call[1].startswith("open") and not WRITES.search(line)):
        return ""
    paths = re.findall(r'"((?:[^"\\]|\\.)*)"', line)
    folder = re.search(r"(?:AT_FDCWD|\d+)<([^>]*)>", line)
    path = paths[-1] if paths else ""
    if path.startswith("/"):
        return path
    return f"{folder[1]}/{path}" if folder else ""  # as mkdir("out"): in the working directory


def program(*words: str | Path) -> tuple[str, ...]:
    return (sys.executable, "-c", "from catflap.cli.main import run; run()", *map(str, words))


def check(did: Traced, tmp_path: Path) -> None:
    """It went well, addressed nobody, and wrote only where it was told to, and in Catflap's cache."""
    assert did.code == 0, did.stderr
    assert did.addresses == ()
    cache = tmp_path / "home" / ".cache" / "catflap"
    elsewhere = [name for name in did.written if not Path(name).is_relative_to(cache)]
    assert [name for name in elsewhere if Path(name) not in cache.parents] == []


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


@pytest.fixture(scope="module")
def made(drawn_bundle: Exported, drawn_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a verb may ask for."""
    folder = tmp_path_factory.mktemp("made")
    line = drawn_dataset.path.parent
    for name in ("photos", "manifest", "dataset", "checkpoint", "tiny.catflap"):
        (folder / name).symlink_to(line / name)
    photos = sorted((line / "photos").rglob("*.jpg"))
    with recording(LogSettings(folder / "field.log", pictures=True), print) as recorder:
        for _ in predict(Classifier(line / "tiny.catflap"), photos[:8], recorder):
            pass
    (folder / "decisions.json").write_text('{"catflap": "decisions", "version": 1}')
    return folder


@pytest.fixture(scope="module")
def installed(installed_checkpoint: Checkpoint, drawn_dataset: Dataset) -> Path:
    """A folder with a checkpoint that every process can open, and its bundle."""
    path = installed_checkpoint.path
    export(installed_checkpoint, drawn_dataset, path.with_suffix(".catflap"), variants=("fp32",))
    return path.parent


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
    "demo": ("demo", "-o", "demo"),  # the default backbones and variants go this way
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


IN_TURN = """
import json, sys
import sklearn.datasets
from catflap.cli.main import main
digits = sklearn.datasets.load_digits()
few = [at for at, digit in enumerate(digits.target) if digit in (1, 7)][:60]
digits.images, digits.target = digits.images[few], digits.target[few]
sklearn.datasets.load_digits = lambda: digits  # all of them take minutes to learn from, and go the same way
for words in json.loads(sys.argv[1]):
    print("catflap", *words, file=sys.stderr, flush=True)
    if code := main(words):
        sys.exit(f"exit code {code}")
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
LOOP = """
import sys, time
from catflap import Classifier
classifier, end = Classifier(sys.argv[1], sys.argv[2]), time.monotonic() + 3
while time.monotonic() < end:
    print(classifier(sys.argv[3]).label)
    time.sleep(0.05)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "module"),
    [
        ("openvino", "nncf"),
        ("ncnn", "pnnx"),
        ("litert", "litert_torch"),
        ("executorch", "executorch"),
        ("coreml", "coremltools"),
    ],
)
def test_an_engine_and_its_converter_send_and_leave_nothing(
    target: str, module: str, made: Path, installed: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    check(
        traced(*program("export", installed / "installed", "-o", "new.catflap", "--targets", target)),
        tmp_path,
    )
    bundle = load_bundle(tmp_path / "work" / "new.catflap")
    photo = made / "photos" / "cat" / "00.jpg"
    for variant in bundle.variants.values():
        if variant.runtime not in ("onnxruntime", "onnxruntime-frame"):
            check(traced(sys.executable, "-c", LOOP, bundle.path, variant.name, photo), tmp_path)


@pytest.mark.slow
def test_a_classifier_in_a_loop_sends_and_leaves_nothing(
    made: Path, traced: Callable[..., Traced], tmp_path: Path
) -> None:
    photo = made / "photos" / "cat" / "00.jpg"
    check(traced(sys.executable, "-c", LOOP, made / "tiny.catflap", "int8", photo), tmp_path)


def test_the_base_installation_sends_and_leaves_nothing(
    base_python: Path, made: Path, traced: Callable[..., Traced], tmp_path: Path, repo: Path
) -> None:
    words = ("predict", "cat", str(made / "photos" / "cat"))
    code = "from catflap.cli.main import run; run()"
    check(traced(base_python, "-c", code, *words, PYTHONPATH=str(repo / "src")), tmp_path)
