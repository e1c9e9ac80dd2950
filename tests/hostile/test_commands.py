"""Hostile files through the command line: an answer or a reason each, no traceback, no noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
    for name in ("pipe.jpg", "loop.jpg", "empty.jpg", "phone.heic", "absent.jpg"):
        answer = catflap("predict", tiny_bundle, folder / "cat" / name)
        assert answer.returncode == 1
        assert json.loads(answer.stdout)["error"]["fix"]


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


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_verify_of_a_damaged_bundle_is_a_no(tiny_bundle: Path, tmp_path: Path, damage: str) -> None:
    whole = tiny_bundle.read_bytes()
    middle = len(whole) // 2
    data = {
        "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "cut": whole[:middle],
        "empty": b"",
        "other": JPEG,
    }[damage]
    path = tmp_path / "bad.catflap"
    path.write_bytes(data)
    answer = catflap("verify", path)
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["verdict"] == "fail"
    assert catflap("predict", path, tmp_path / "x.jpg").returncode == 2


@pytest.mark.parametrize("name", ["absent.catflap", "", ".", "a" * 300, "/dev/zero", "/dev/null", "pipe"])
@pytest.mark.parametrize("command", ["verify", "predict", "bench", "trace", "evaluate", "watch", "drift"])
def test_what_is_no_bundle_is_one_error(tmp_path: Path, command: str, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    after = {
        "predict": ["x.jpg"],
        "evaluate": [str(tmp_path), "-o", str(tmp_path / "r")],
        "watch": [str(tmp_path)],
        "drift": ["x.log"],
    }
    more = after.get(command, [])
    answer = catflap(command, tmp_path / name if name == "pipe" else name, *more)
    assert answer.returncode == 2, answer.stdout
    assert json.loads(answer.stdout)["error"]["fix"]


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


@pytest.mark.parametrize(
    "name", ["absent.log", "", ".", "a" * 300, "/dev/zero", "/dev/null", "pipe", "photo"]
)
@pytest.mark.parametrize("words", [("drift", "cat", "LOG"), ("review", "queue", "LOG", "-o", "OUT")])
def test_what_is_no_field_log_is_one_error(tmp_path: Path, words: tuple[str, ...], name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "photo").write_bytes(JPEG)
    log = str(tmp_path / name) if name in ("pipe", "photo") else name
    answer = catflap(*({"LOG": log, "OUT": str(tmp_path / "queue")}.get(word, word) for word in words))
    assert answer.returncode == 2, answer.stdout
    assert json.loads(answer.stdout)["error"]["fix"]


@pytest.mark.parametrize("name", ["", ".", "a" * 300, "/dev/zero", "/dev/full", "pipe", "photo"])
def test_a_field_log_cannot_be_written_there(tmp_path: Path, tiny_bundle: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "photo").write_bytes(JPEG)
    log = str(tmp_path / name) if name in ("pipe", "photo") else name
    answer = catflap("predict", tiny_bundle, tmp_path / "photo", "--log", log)
    assert answer.returncode == 2, answer.stdout
    assert json.loads(answer.stdout)["error"]["fix"]
    assert (tmp_path / "photo").read_bytes() == JPEG
