"""Hostile files through the command line: an answer or a reason each, no traceback, no noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from catflap.artifacts.manifest import load_manifest
from catflap.exporting.golden_cases import scene
from catflap.image import encode
from tests.hostile.test_photos import png_head

CATFLAP = Path(sys.executable).with_name("catflap")
JPEG = encode(scene(1, 90, 70), "JPEG")
BAD = {
    b"empty.jpg": b"",
    b"page.jpg": b"<!DOCTYPE html><html>404</html>",
    b"cut.jpg": JPEG[: len(JPEG) // 2],
    b"noise.png": bytes(range(256)) * 8,
    b"bomb.png": png_head(20_000, 20_000),
    b"phone.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300),
    b"caf\xe9\n\x1b[2J.jpg": JPEG[:200],
}
GOOD = {
    b"plain.jpg": JPEG,
    b"named_jpg.jpg": encode(scene(2, 90, 70), "PNG"),
    b"cmyk.jpg": encode(scene(3, 90, 70), "JPEG", "CMYK"),
    b"\xff\xfe.jpg": encode(scene(4, 90, 70), "JPEG"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: good and bad photos, a pipe, a loop of links and a folder named like a photo."""
    root = tmp_path / "photos"
    for label in ("cat", "other"):
        (root / label).mkdir(parents=True)
    for name, data in {**GOOD, **BAD}.items():
        with open(os.fsencode(root / "cat") + b"/" + name, "wb") as file:
            file.write(data)
    for seed in range(5, 8):
        (root / "other" / f"{seed}.jpg").write_bytes(encode(scene(seed, 90, 70), "JPEG"))
    os.mkfifo(root / "cat" / "pipe.jpg")
    (root / "cat" / "loop.jpg").symlink_to("loop.jpg")
    (root / "cat" / "folder.jpg").mkdir()
    (root / "other" / "up").symlink_to(root)
    return root


def catflap(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [CATFLAP, *map(str, words), "--json"]
    answer = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, errors="surrogateescape"
    )
    assert "Traceback" not in answer.stdout + answer.stderr
    assert "bug in Catflap" not in answer.stdout + answer.stderr
    return answer


MANY = """
import contextlib, io, json, sys
from catflap.cli.main import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words, "--json"])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


def catflap_often(commands: list[list[str | Path]]) -> list[tuple[int, Any]]:
    """Exit code and JSON of each command, all of one process."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", MANY], input=words, capture_output=True, text=True, check=True, timeout=300
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "bug in Catflap" not in done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(code, json.loads(out)) for code, out, _ in answers]


def test_predict_answers_for_every_photo(folder: Path, tiny_bundle: Path) -> None:
    answer = catflap("predict", tiny_bundle, folder / "cat")
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert answer.returncode == 1
    assert answer.stderr == ""
    judged = {os.path.basename(os.fsencode(line["path"])) for line in lines if "label" in line}  # noqa: PTH119
    refused = {os.path.basename(os.fsencode(line["path"])) for line in lines if "error" in line}  # noqa: PTH119
    assert judged == set(GOOD)
    assert refused >= {name for name in BAD if not name.endswith(b".heic")}
    assert all(line["error"]["what"] and line["error"]["fix"] for line in lines if "error" in line)


def test_predict_names_one_bad_photo(folder: Path, tiny_bundle: Path) -> None:
    names = ("pipe.jpg", "loop.jpg", "empty.jpg", "phone.heic", "absent.jpg")
    answers = catflap_often([["predict", tiny_bundle, folder / "cat" / name] for name in names])
    assert [code for code, _ in answers] == [1] * len(names)
    assert all(fields["error"]["fix"] for _, fields in answers)


def test_scan_sets_aside_what_is_bad_and_goes_on(folder: Path, tmp_path: Path) -> None:
    answer = catflap("scan", folder, "-o", tmp_path / "m", "--workers", "1")
    fields = json.loads(answer.stdout)
    assert answer.returncode == 0, fields
    assert fields["ok"] == len(GOOD) - 1 + 3, "a name that is not UTF-8 cannot stand in a table"
    rows = load_manifest(tmp_path / "m").rows().to_pylist()
    bad = [row for row in rows if row["status"] == "quarantined"]
    reasons = {row["uri"].rpartition("/")[2]: row["reason"].partition(":")[0] for row in bad}
    assert reasons["empty.jpg"] == "empty"
    assert reasons["page.jpg"] == "not_a_photo"
    assert reasons["bomb.png"] == "too_many_pixels"
    assert reasons["cut.jpg"] == "truncated"
    assert all(reasons.values())


def test_verify_of_a_damaged_bundle_is_a_no(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = tiny_bundle.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut": whole[:middle],
        "empty": b"",
        "other": JPEG,
    }
    paths = [tmp_path / f"{name}.catflap" for name in damaged]
    for path, data in zip(paths, damaged.values(), strict=True):
        path.write_bytes(data)
    verified = catflap_often([["verify", path] for path in paths])
    assert [(code, fields["verdict"]) for code, fields in verified] == [(1, "fail")] * len(paths)
    predicted = catflap_often([["predict", path, tmp_path / "x.jpg"] for path in paths])
    assert [code for code, _ in predicted] == [2] * len(paths)


NAMES = ("", ".", "a" * 300, "/dev/zero", "/dev/null", "pipe")  # of what is no file of ours


def test_what_is_no_bundle_is_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    after: dict[str, list[str | Path]] = {
        "verify": [],
        "predict": ["x.jpg"],
        "bench": [],
        "trace": [],
        "evaluate": [tmp_path, "-o", tmp_path / "r"],
        "watch": [tmp_path],
        "drift": ["x.log"],
    }
    names = [tmp_path / name if name == "pipe" else name for name in ("absent.catflap", *NAMES)]
    commands = [[command, name, *after[command]] for command in after for name in names]
    for command, (code, fields) in zip(commands, catflap_often(commands), strict=True):
        assert code == 2, (command, fields)
        assert fields["error"]["fix"], command


@pytest.mark.slow
def test_watch_logs_and_queues_what_is_good_in_a_hostile_folder(
    folder: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    log = tmp_path / "field.log"
    answer = catflap("watch", tiny_bundle, folder / "cat", "--every-frame", "--log", log, "--log-photos")
    assert answer.returncode == 0
    assert answer.stderr == ""
    summary = json.loads(answer.stdout.splitlines()[-1])
    assert summary["judged"] == len(GOOD)
    assert summary["unreadable"] == summary["frames"] - len(GOOD) > 5
    queue = catflap("review", "queue", log, "-o", tmp_path / "queue")
    assert queue.returncode == 0
    assert json.loads(queue.stdout)["gone"] == 0


def test_what_is_no_field_log_is_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "photo").write_bytes(JPEG)
    logs = [
        tmp_path / name if name in ("pipe", "photo") else name for name in ("absent.log", *NAMES, "photo")
    ]
    commands: list[list[str | Path]] = []
    for log in logs:
        commands += [["drift", "cat", log], ["review", "queue", log, "-o", tmp_path / "queue"]]
    for command, (code, fields) in zip(commands, catflap_often(commands), strict=True):
        assert code == 2, (command, fields)
        assert fields["error"]["fix"], command


def test_a_field_log_cannot_be_written_there(tmp_path: Path, tiny_bundle: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "photo").write_bytes(JPEG)
    names = ("", ".", "a" * 300, "/dev/zero", "/dev/full", "pipe", "photo")
    logs = [tmp_path / name if name in ("pipe", "photo") else name for name in names]
    commands: list[list[str | Path]] = [
        ["predict", tiny_bundle, tmp_path / "photo", "--log", log] for log in logs
    ]
    for command, (code, fields) in zip(commands, catflap_often(commands), strict=True):
        assert code == 2, (command, fields)
        assert fields["error"]["fix"], command
    assert (tmp_path / "photo").read_bytes() == JPEG
