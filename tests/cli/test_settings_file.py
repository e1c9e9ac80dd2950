"""catflap.toml: the command line goes before it, it goes before the defaults, and its mistakes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catflap.cli.main import COMMANDS, main, parser_of
from catflap.cli.settings_file import FILE, with_settings
from catflap.errors import CatflapError


@pytest.fixture
def parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def parsed(text: str, command: str, *words: str) -> Any:
        Path(FILE).write_text(text)
        parser = parser_of(command)
        return parser.parse_args(with_settings(parser, command, words, list(COMMANDS)))

    return parsed


def test_the_command_line_goes_before_the_file_and_the_file_before_the_default(
    parsed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[serve]\nport = 9000\nthreads = 3\n[build]\nminutes = 4.5\n"
    args = parsed(text, "serve", "cat", "--threads", "1")
    assert (args.port, args.threads, args.host) == (9000, 1, parsed("", "serve", "cat").host)
    assert capsys.readouterr().err == "catflap.toml: --port=9000\n"
    assert parsed(text, "build", "photos", "-o", "x").minutes == 4.5


def test_lists_and_switches(parsed: Any) -> None:
    with pytest.raises(CatflapError, match="json in"):
        parsed("[predict]\njson = 1", "predict", "cat", "a.jpg")
    args = parsed('[predict]\nprior = ["cat=0.1", "other=0.9"]\njson = true\n', "predict", "cat", "a.jpg")
    assert (args.prior, args.json, args.paths) == (["cat=0.1", "other=0.9"], True, ["a.jpg"])
    assert parsed('[predict]\nprior = ["cat=0.1"]', "predict", "cat", "a", "--prior", "b=1").prior == ["b=1"]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("[predcit]\nthreads = 1", "Did you mean: predict"),
        ("threads = 1", "such as [build]"),
        ("[predict]\nthread = 1", "Did you mean: threads"),
        ("[predict]\nbundle = 'cat'", "--help-all"),
        ("[predict]\nthreads = [1, 2]", "as on the command line"),
        ("[predict]\nthreads = 'many'", "catflap predict --help"),
        ("[predict\n", "Mend it"),
        ("\ufeff\x00", "Mend it"),
    ],
)
def test_a_mistake_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(FILE).write_text(text)
    assert main(["predict", "cat", "a.jpg", "--json"]) == 2
    assert fix in json.loads(capsys.readouterr().out)["error"]["fix"]


def test_help_is_given_beside_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(FILE).write_text("[predict\n")
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert "PATH" in capsys.readouterr().out
