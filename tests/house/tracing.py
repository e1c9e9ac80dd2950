"""Run a command in a network namespace without routes, with a home directory of its own, under strace.

What is reported: a connection or a datagram to an address other than the loopback one, a DNS query to any
address, and a file outside of the places that docs/concepts/privacy.md names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

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


def tracing(tmp_path: Path) -> Callable[..., Traced]:
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
