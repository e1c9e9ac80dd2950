"""How answers look to people and to machines."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import pytest

from catflap.cli.output import as_text, emit, pacer, table

AS_JSON = argparse.Namespace(json=True)
AS_TEXT = argparse.Namespace(json=False)


def test_json_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"label": "Kätzchen 猫", "p": 0.5, "path": os.fsdecode(b"caf\xe9.jpg")}
    emit(fields, AS_JSON, "text for people")
    out, err = capsys.readouterr()
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out) == fields
    assert err == ""


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"auc": float("nan"), "rows": [{"x": float("inf")}, (1, 2.5)]}, AS_JSON)
    assert json.loads(capsys.readouterr().out) == {"auc": None, "rows": [{"x": None}, [1, 2.5]]}


def test_text_aligns_and_nests() -> None:
    text = as_text(
        {"photos": 3939, "near_duplicates": 2, "labels": {"not_cat": 1700}, "rate": 0.98765, "x": None}
    )
    assert text.splitlines() == [
        "photos           3,939",
        "near duplicates  2",
        "labels",
        "  not_cat  1,700",
        "rate             0.9877",
        "x                -",
    ]


def test_table_puts_numbers_to_the_right() -> None:
    rows = [{"name": "fp32", "size_mb": 13.5, "ok": True}, {"name": "int8", "size_mb": 3.9, "ok": False}]
    assert table(rows).splitlines() == ["name  size mb  ok", "fp32     13.5  yes", "int8      3.9  no"]
    unknown = [{"what": "photos", "training": None}, {"what": "packages", "training": 44}]
    assert table(unknown).splitlines() == ["what      training", "photos           -", "packages        44"]
    assert table([]) == ""


def test_names_that_are_not_utf8_can_be_printed_in_any_locale() -> None:
    code = (
        "import argparse, os, sys; from catflap.cli import main, doctor\n"
        "from catflap.cli.output import emit\n"
        "def answer(args): emit({'path': os.fsdecode(b'caf\\xe9.jpg'), 'label': '\\u732b'}, args); return 0\n"
        "doctor.answer = answer; sys.argv[1:] = ['doctor']; main.run()"
    )
    for encoding in ("utf-8", "latin-1", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        answer = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False, env=environment
        )
        assert answer.returncode == 0, answer.stderr
        assert b"caf\\udce9.jpg" in answer.stdout


def test_progress_says_how_fast_it_goes_and_how_long_it_takes() -> None:
    now = 0.0
    pace = pacer(lambda: now)
    assert pace("scan", 5000, 60_000) == ""  # what an earlier run has done does not count
    now = 0.5
    assert pace("scan", 9000, 60_000) == ""
    now = 10.0
    assert pace("scan", 20_000, 60_000) == "1,500 a second, 27 s left"
    assert pace("train", 0, 100) == ""
    now = 20.0
    assert pace("train", 25, 100_000) == "2.5 a second, 11.1 h left"
    assert pace("train", 4000, 20_000) == "400 a second, 40 s left"
    assert pace("train", 2000, 60_000) == "200 a second, 5 min left"
    assert (pace("scan", 60_000, 60_000), pace("duplicates", 0, 0)) == ("", "")


def test_progress_of_a_step_that_begins_again_counts_anew() -> None:
    now = 0.0
    pace = pacer(lambda: now)
    pace("finetune", 0, 100)
    now = 50.0
    assert pace("finetune", 100, 100) == ""
    now = 1000.0
    assert pace("finetune", 0, 400) == ""
    now = 1020.0
    assert pace("finetune", 100, 400) == "5.0 a second, 60 s left"
