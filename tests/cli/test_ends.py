"""How commands end that somebody stops: what they began is put away, and the exit code says who it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A command that does what a test wants, run as the program runs it; {} is its body.
DRIVER = """
import os, signal, subprocess, sys, tempfile, time
from importlib import import_module
from catflap.cli import main
from catflap.cli.output import emit
command = import_module("catflap.cli." + sys.argv[1])
def answer(args):
    {}
command.answer, command.arguments = answer, lambda parser: None
main.run()
"""
WORKING = """
    with tempfile.TemporaryDirectory() as folder:
        print(folder, os.getpid(), flush=True)
        helper = "import os, time; input(); print(os.getpid(), flush=True); time.sleep(300)"
        subprocess.run([sys.executable, "-c", helper], input=b"go")  # which `run` writes when it waits
"""
FORKING = """
    reading, writing = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(writing, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    os.kill(worker, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(worker, 0)[1]))
    return 0
"""
ANYTHING = "lambda parser: parser.add_argument('words', nargs='*')"
FAILING = """
    import atexit, threading
    from catflap.errors import CatflapError
    atexit.register(threading.Event().wait)
    print("an answer")
    raise CatflapError("It fails.", "Do not.")
"""


def driven(body: str, verb: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER.format(body), verb]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)  # type: ignore[call-overload]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_no_folder_and_no_process(number: int, code: int) -> None:
    with driven(WORKING, "doctor") as process:
        assert process.stdout is not None
        folder, pid = process.stdout.readline().split()
        helper = int(process.stdout.readline())
        for _ in range(2):  # timeout(1) sends it to the process, and then to its group
            os.kill(int(pid), number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (code, "Stopped.\n")
    assert not Path(folder).exists()
    assert not lives(helper)


@pytest.mark.slow
def test_under_nohup_a_terminal_that_goes_away_stops_nothing() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with driven(WORKING, "doctor", preexec_fn=ignore) as process:
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_of_many_processes_one_that_fails_waits_for_none() -> None:
    """nccl parts from the others at exit, who wait for what this one does not do any more."""
    with driven(FAILING, "doctor", env={**os.environ, "WORLD_SIZE": "2"}) as process:
        stdout, errors = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, "an answer\n")
    assert errors == "error: It fails.\n  fix: Do not.\n"


def test_a_forked_worker_is_ended_as_ever() -> None:
    with driven(FORKING, "doctor") as process:
        stdout, errors = process.communicate(timeout=60)
    assert (process.returncode, stdout.strip(), errors) == (0, str(int(signal.SIGTERM)), "")


@pytest.mark.parametrize(
    ("verb", "resumes"),
    [("scan", True), ("train", True), ("evaluate", True), ("predict", False), ("verify", False)],
)
def test_only_what_goes_on_says_so(verb: str, resumes: bool) -> None:
    with driven("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", verb) as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    at_once = "Stopping; what is done is kept.\n" if resumes else ""
    assert stderr.startswith(f"{at_once}Stopped.")
    assert ("Run the same command again" in stderr) == resumes


def test_a_folder_that_is_called_like_an_endless_verb_changes_nothing(tmp_path: Path) -> None:
    """`catflap scan serve` is a scan, which SIGTERM ends in order; `catflap predict build` does not go on."""
    body = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)"
    for words, message in (
        (("scan", "serve"), "Stopping; what is done is kept."),
        (("predict", "build"), "Stopped.\n"),
    ):
        command = [sys.executable, "-c", DRIVER.format(body).replace("lambda parser: None", ANYTHING), *words]
        process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert process.returncode == 143
        assert process.stderr.startswith(message)
