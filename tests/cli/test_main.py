"""The front of the command line, as a process: exit codes, streams, and errors as sentences."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from catflap.artifacts.bundle import SHIPPED
from catflap.cli import prepare
from catflap.cli.main import COMMANDS, GROUPS, main
from catflap.data.roles import SHARES
from catflap.installing import install_extra

CATFLAP = Path(sys.executable).with_name("catflap")
# A command that does what a test wants, in a process of its own; {} is its body.
DRIVER = """
import os, signal, sys, time
from catflap.cli import doctor, main
from catflap.cli.output import emit, progress_bar
from catflap.errors import BadArtifact, MissingExtra, Refused
def answer(args):
    {}
doctor.answer = answer
sys.exit(main.main(sys.argv[1:] or ["doctor"]))
"""


def catflap(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CATFLAP, *words], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Answered:
    """What `main` did in this process, as CompletedProcess has it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def answered(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answered]:
    """Answer a command line in this process, which is quicker than a new one."""

    def answer(*words: str) -> Answered:
        try:
            code = main(words)
        except SystemExit as end:  # argparse after --help
            code = int(end.code or 0)
        streams = capsys.readouterr()
        return Answered(code, streams.out, streams.err)

    return answer


def driven(body: str, *words: str, python: Path | str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", DRIVER.format(body), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def in_terminal(command: list[str], **variables: str) -> str:
    """What a command writes into a real terminal."""
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(command[0], command, {**environment, "TERM": "xterm", **variables})
    written = b""
    try:
        while chunk := os.read(terminal, 4096):
            written += chunk
    except OSError:
        pass  # how Linux says that the terminal's other end is gone
    os.waitpid(process, 0)
    os.close(terminal)
    return written.decode()


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_every_command_on_one_screen(
    words: tuple[str, ...], answered: Callable[..., Answered]
) -> None:
    answer = answered(*words)
    assert answer.returncode == 0
    assert all(f"  {name} " in answer.stdout for name in COMMANDS)
    assert [line.split()[0] for line in answer.stdout.splitlines() if line.startswith(tuple(GROUPS))] == [
        *GROUPS
    ]
    assert len(answer.stdout.splitlines()) <= 30
    assert max(map(len, answer.stdout.splitlines())) <= 80
    assert answer.stderr == ""


def test_help_of_a_command_may_be_asked_for_in_two_ways(answered: Callable[..., Answered]) -> None:
    assert answered("help", "scan").stdout == answered("scan", "--help").stdout != ""


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("trian",), "catflap train"),
        (("export", "c", "-o", "b.catflap", "--target", "ncnn"), "--targets"),
        (
            ("bundle", "strip", "cat", "-o", "b.catflap", "--variants", "int8", "--variant", "int8"),
            "--variants",
        ),
        (("prepare", "m", "-o", "d", "--fit", "sqash"), "squash"),
        (("review", "aply", "m"), "apply"),
        (("completion", "bsh"), "bash"),
    ],
)
def test_a_mistyped_word_is_told_with_the_one_that_was_meant(
    words: tuple[str, ...], meant: str, answered: Callable[..., Answered]
) -> None:
    answer = answered(*words)
    assert (answer.returncode, answer.stderr.splitlines()[1]) == (2, f"  fix: Did you mean: {meant}")


def test_a_word_that_resembles_nothing_is_answered_with_the_help(answered: Callable[..., Answered]) -> None:
    assert "fix: Run: catflap doctor --help" in answered("doctor", "--nonsense").stderr
    assert "fix: Run: catflap --help" in answered("xyzzy").stderr


def completed(*words: str, cwd: Path) -> list[str]:
    """What bash offers for the last of some words."""
    script = subprocess.run(
        [CATFLAP, "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        "$(complete -p catflap | sed 's/.*-F \\([^ ]*\\).*/\\1/') catflap\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    answer = subprocess.run(["bash", "-c", ask], cwd=cwd, capture_output=True, text=True, check=True)
    return answer.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_options_and_files(tmp_path: Path) -> None:
    (tmp_path / "mine.catflap").touch()
    assert completed("catflap", "tra", cwd=tmp_path) == ["train", "trace"]
    assert completed("catflap", "train", "--epo", cwd=tmp_path) == ["--epochs"]
    assert completed("catflap", "train", "--ten", cwd=tmp_path) == ["--tensorboard"]  # of --help-all
    assert completed("catflap", "review", "qu", cwd=tmp_path) == ["queue"]
    assert completed("catflap", "verify", "mi", cwd=tmp_path) == ["mine.catflap"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_given_every_command(shell: str, answered: Callable[..., Answered]) -> None:
    script = answered("completion", shell).stdout
    assert [name for name in COMMANDS if name not in script] == []
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_version() -> None:
    assert catflap("--version").stdout.startswith("catflap ")


def test_a_command_tells_its_example(answered: Callable[..., Answered]) -> None:
    answer = answered("doctor", "--help")
    assert answer.returncode == 0
    assert "example:\n  catflap doctor" in answer.stdout


INTERRUPT = (  # the handler may have been taken away by whatever started the tests
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"
)


@pytest.mark.parametrize(
    "words",
    [
        ("scna",),
        ("doctor", "--nonsense"),
        ("doctor", "surplus"),
        ("prepare", "m", "-o", "d", "--size", "9y"),
        ("predict", "cat", "a.jpg", "--log", "l", "--log-mb", "nan"),
        ("predict", "cat", "a.jpg", "--log-photos"),
        ("watch", "cat", "v.mp4", "--save", "d", "--save-mb", "1e400"),
        ("predict", "cat", "a.jpg", "--log-mb", "5"),
        ("predict", "cat", "a.jpg", "--log-mb", "0"),
        ("scan", "photos", "-o", "m", "--on", "ray", "--workers", "2"),
        ("watch", "cat", "v.mp4", "--save-mb", "5"),
        ("watch", "cat", "v.mp4", "--save", "d", "--clip-seconds", "5"),
        ("watch", "cat", "v.mp4", "--log-every", "5"),
        ("serve", "cat", "--share", "0.5"),
        ("verify", "cat", "--signature", "cat.sig"),
        ("verify", "cat", "--identity", ""),
        ("predict", "cat", "a.jpg", "--identity", "", "--issuer", ""),
        ("bundle", "add", "cat", "--checkpoint", "c", "-o", "o.catflap", "--name", "n"),
        ("bundle", "add", "cat", "--checkpoint", "c", "-o", "o.catflap", "--file", "m", "--variants", "fp32"),
    ],
)
def test_wrong_usage_is_two_sentences_and_exit_2(
    words: tuple[str, ...], answered: Callable[..., Answered]
) -> None:
    answer = answered(*words)
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert "\n  fix: " in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("words", [("export", "a.checkpoint"), ("build", "photos")])
def test_a_card_text_that_is_not_utf_8_is_told_before_any_work(words: tuple[str, str]) -> None:
    answer = catflap(*words, "-o", "a.catflap", "--about", "caf\udce9")
    assert answer.returncode == 2
    assert "--about has bytes that are not UTF-8." in answer.stderr


def test_options_of_a_part_of_a_command_are_not_abbreviated_either(
    tmp_path: Path, answered: Callable[..., Answered]
) -> None:
    answer = answered("bundle", "unpack", "cat", "--ou", str(tmp_path / "files"))
    assert (answer.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "-o/--out" in answer.stderr


@pytest.mark.parametrize(
    "words",
    [
        *(("bundle", part) for part in ("inspect", "unpack", "add", "strip", "sbom")),
        *(("review", part) for part in ("apply", "queue", "take")),
    ],
)
def test_a_part_of_a_command_tells_what_it_does_and_its_example(
    words: tuple[str, str], answered: Callable[..., Answered]
) -> None:
    whole, part = answered(words[0], "--help").stdout, answered(*words, "--help").stdout
    assert f"\n\nexample:\n  catflap {' '.join(words)} " in part
    about = part.split("\n\n")[1]
    assert about[0].isupper()
    assert about[-1] == "."
    for page in (whole, part):
        assert " print the answer as JSON\n" in page


def test_json_may_stand_before_or_after_the_part_of_a_command(
    tmp_path: Path, answered: Callable[..., Answered]
) -> None:
    for words in (("bundle", "--json", "inspect"), ("bundle", "inspect", "--json")):
        assert json.loads(answered(*words, "cat").stdout)["name"] == "cat"


def test_a_host_that_is_an_unset_variable_is_not_the_whole_network() -> None:
    answer = catflap("serve", "cat", "--port", "0", "--host", "", timeout=60)
    assert answer.returncode == 2
    assert "The host (--host) is empty." in answer.stderr


def test_json_may_stand_before_or_after_the_command(answered: Callable[..., Answered]) -> None:
    for words in (("doctor", "--json"), ("--json", "doctor")):
        fields = json.loads(answered(*words).stdout)
        assert fields["extras"]["base"]["installed"] is True


def test_wrong_usage_with_json_is_one_object(answered: Callable[..., Answered]) -> None:
    answer = answered("scna", "--json")
    assert answer.returncode == 2
    assert json.loads(answer.stdout)["error"]["fix"] == "Did you mean: catflap scan"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise BadArtifact('It is bad.', 'Mend it.')", 2, "error: It is bad.\n  fix: Mend it.\n"),
        ("raise Refused('No.', 'Try less.')", 1, "error: No.\n  fix: Try less.\n"),
        ("import ray_that_is_not_there", 2, "This is a bug in Catflap: ModuleNotFoundError"),
        ("raise KeyError('x\\ny')", 2, "This is a bug in Catflap: KeyError"),
        ("raise MemoryError", 2, "memory"),
        ("open('a' * 300)", 2, "File name too long"),
        ("open('/proc/self/mem').read()", 2, "The system refuses"),
        (INTERRUPT, 130, "Stopped."),
    ],
)
def test_every_exception_becomes_a_sentence(body: str, code: int, message: str) -> None:
    answer = driven(body)
    assert answer.returncode == code
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) <= 2


def test_a_missing_extra_says_what_to_install() -> None:
    answer = driven("raise ModuleNotFoundError(name='torch.nn')", "doctor", "--json")
    assert json.loads(answer.stdout)["error"]["fix"] == f"Run: {install_extra('train')}"
    assert answer.returncode == 2


def test_the_traceback_can_be_seen() -> None:
    code = DRIVER.format("raise KeyError('x')")
    environment = {**os.environ, "CATFLAP_TRACEBACK": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert "Traceback" in answer.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    answer = subprocess.run(
        [CATFLAP, "doctor"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert answer.stderr == ""
    assert answer.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_is_a_sentence() -> None:
    with open("/dev/full", "w") as full:
        answer = subprocess.run(
            [CATFLAP, "doctor"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: The answer cannot be written: No space left")
    assert len(answer.stderr.splitlines()) == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_do_not_break_the_answer(closed: str) -> None:
    answer = subprocess.run(
        ["sh", "-c", f'"$0" doctor {closed}', CATFLAP], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0
    assert answer.stderr == ""


def test_an_error_without_stderr_does_not_go_to_stdout() -> None:
    answer = subprocess.run(
        ["sh", "-c", '"$0" scna 2>&-', CATFLAP], capture_output=True, text=True, check=False
    )
    assert answer.stdout == ""
    assert answer.returncode == 2


def test_an_error_in_json_without_stdout_is_told_on_stderr() -> None:
    answer = subprocess.run(
        ["sh", "-c", '"$0" scna --json >&-', CATFLAP], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: There is no command 'scna'.")


def test_colour_is_for_terminals_that_want_it() -> None:
    assert "\x1b[31merror:" in in_terminal([str(CATFLAP), "scna"])
    assert "\x1b[31m" not in in_terminal([str(CATFLAP), "scna"], NO_COLOR="1")
    assert "\x1b" not in in_terminal([str(CATFLAP), "scna"], TERM="dumb")
    assert "\x1b" not in catflap("scna").stderr


def test_control_characters_in_names_do_not_reach_the_terminal() -> None:
    answer = catflap("\x1b[2Jscan")
    assert "\x1b" not in answer.stderr
    assert "\\x1b[2Jscan" in answer.stderr


PROGRESS = """
    with progress_bar(args) as progress:
        for done in range(50):
            progress("reading photos", done, 50); time.sleep(0.01)
    emit({"done": True}, args)
    return 0"""


def test_progress_stays_out_of_pipes_and_logs() -> None:
    answer = driven(PROGRESS, "doctor", "--json")
    assert json.loads(answer.stdout) == {"done": True}
    assert answer.stderr == ""


def test_progress_shows_in_a_terminal_with_rich() -> None:
    assert "reading photos" in in_terminal([sys.executable, "-c", DRIVER.format(PROGRESS)])


def test_progress_shows_in_a_terminal_without_rich(base_python: Path) -> None:
    written = in_terminal([str(base_python), "-c", DRIVER.format(PROGRESS)])
    assert "reading photos: 0 of 50 (0 %)" in written
    assert written.replace("\r\n", "\n").endswith("\r\x1b[Kdone  yes\n"), "the line is gone at the end"


def test_the_shares_that_help_tells_are_those_of_the_roles() -> None:
    """The data room is not imported for a help text."""
    assert prepare.ROLES == SHARES


@pytest.mark.slow
def test_the_shipped_bundle_is_told_from_a_file_of_almost_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from catflap.cli.main import run; run()", "bundle", "inspect"]

    def message(name: str) -> str:
        answer = subprocess.run([*command, name], cwd=tmp_path, capture_output=True, text=True, check=False)
        return answer.stderr

    assert message("cat") == ""
    (tmp_path / "cat.catflap").write_bytes((SHIPPED / "cat.catflap").read_bytes())
    assert message("cat") == "cat is the shipped bundle; yours is cat.catflap.\n"
    assert message("cat.catflap") == message("./cat.catflap") == message(str(tmp_path / "cat")) == ""
    (tmp_path / "dog.catflap").touch()
    assert "shipped" not in message("dog")
