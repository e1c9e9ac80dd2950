"""The engine: kills, crashes, full disks and two scans at once."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tarfile
import time
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pytest

from catflap.artifacts.manifest import Manifest
from catflap.data import workers
from catflap.data.examine import examine
from catflap.data.packing import BLOCK
from catflap.data.parts import Parts, plan_parts
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.data.sources import DEFAULT_COLUMNS, open_source
from catflap.errors import CatflapError, MissingExtra
from tests.data.photos import class_folders, tree
from tests.matrix import mostly_slow

SCAN = "import sys; from catflap.data.scan import scan; scan(sys.argv[1], sys.argv[2], workers=1)"
LETHAL = """
import ctypes, os, sys
from catflap.data.examine import examine_photo
from catflap.data.workers import work_on_stdin
def lethal(reference):
    if "/cat/007" in reference["uri"]:
        os.kill(os.getpid(), 11)
    if "/cat/011" in reference["uri"]:
        ctypes.PyDLL(None).pause()  # a decoder that hangs in C code and holds Python's lock
    return examine_photo(reference)
work_on_stdin(lethal)
"""
DEAF = """
import os, sys
from catflap.data.examine import PART_ROW
from catflap.data.workers import send
os.close(0)
send(sys.stdout.buffer, PART_ROW.empty_table())
"""
SYNCED = """
import os, sys
from pathlib import Path
from catflap.artifacts import folder
from catflap.artifacts.manifest import load_manifest
from catflap.data.prepare import prepare
plain = folder.sync
folder.sync = lambda place: os.kill(os.getpid(), int(sys.argv[3])) if place.is_dir() else plain(place)
prepare(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]))
"""

INTERRUPTED = """
import os, signal, sys, threading
from pathlib import Path
from catflap.artifacts.manifest import load_manifest
from catflap.data import packing
from catflap.data.prepare import prepare
packing.SHARD_BYTES = 20_000
once = threading.Lock()  # threads report progress, and two may report the same
def end(step, done, total):
    if (step, done) == ("prepare", 80) and once.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGINT)
try:
    prepare(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]), progress=end)
except KeyboardInterrupt:
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("engine") / "photos", 150)


@pytest.fixture(scope="module")
def whole(photos: Path) -> Manifest:
    """The Manifest of a scan that nothing disturbed."""
    return scan(photos, photos.parent / "whole", workers=1)


def test_a_killed_scan_goes_on_where_it_stopped(photos: Path, whole: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "m"
    process = subprocess.Popen([sys.executable, "-c", SCAN, str(photos), str(out)])
    parts = tmp_path / ".m.scan" / "parts"
    while process.poll() is None and len(list(parts.glob("*.parquet"))) < 3:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    started: list[int] = []

    def note(step: str, done: int, total: int) -> None:
        if step == "scan":
            started.append(done)
            now = {name: (parts / name).stat().st_mtime_ns for name in kept}
            assert now == kept

    manifest = scan(photos, out, workers=1, progress=note)
    assert started[0] >= 3 * 16
    assert tree(manifest.path) == tree(whole.path)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_parts_of_another_source_are_not_taken(photos: Path, tmp_path: Path, worker_processes: None) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(photos, tmp_path / "m", workers=1, progress=stop)
    assert list((tmp_path / ".m.scan" / "parts").iterdir())
    other = class_folders(tmp_path / "other", 12)
    assert scan(other, tmp_path / "m", workers=1).photos == 24


def test_a_part_that_was_cut_short_is_made_again(photos: Path, whole: Manifest, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(photos, tmp_path / "m", workers=1, progress=stop)
    part = next((tmp_path / ".m.scan" / "parts").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-10])
    assert scan(photos, tmp_path / "m", workers=1).sha256 == whole.sha256


def test_a_part_with_a_photo_that_could_not_be_read_is_made_again(whole: Manifest, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 150)
    photo, away = root / "cat" / "003.jpg", tmp_path / "away.jpg"

    def stop(step: str, done: int, total: int) -> None:
        if (step, done) == ("scan", 0):
            photo.rename(away)
        if step == "duplicates":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(root, tmp_path / "m", workers=1, progress=stop)
    away.rename(photo)
    started: list[int] = []
    manifest = scan(root, tmp_path / "m", workers=1, progress=lambda _, done, __: started.append(done))
    assert started[0] == 300 - 16, "the other parts are kept"
    assert (manifest.sha256, manifest.reasons) == (whole.sha256, whole.reasons)


def test_a_worker_that_dies_costs_nothing(photos: Path, whole: Manifest, tmp_path: Path) -> None:
    """Every worker that can be found is killed a few times while the scan runs."""
    psutil = pytest.importorskip("psutil")
    killed = 0
    others = {child.pid for child in psutil.Process().children()}  # such as a browser of other tests

    def kill(step: str, done: int, total: int) -> None:
        nonlocal killed
        if step == "scan" and done and killed < 3:
            for child in psutil.Process().children():
                if child.pid not in others:
                    child.kill()
                    killed += 1

    manifest = scan(photos, tmp_path / "m", workers=2, progress=kill)
    assert killed
    assert tree(manifest.path) == tree(whole.path)


@pytest.mark.slow
def test_a_worker_that_is_gone_before_its_batch_arrives_is_an_answer(photos: Path, tmp_path: Path) -> None:
    """What it did not read is left in the buffer of its pipe, which cannot be flushed any more."""
    _, references = next(iter(planned(photos, tmp_path / "work").missing()))
    worker = workers.Worker((sys.executable, "-c", DEAF))
    try:
        rows = worker.examine(references.slice(0, 2))
    finally:
        worker.end()
    assert rows["reason"].to_pylist() == ["decoder_crashed"] * 2


def test_a_cluster_without_ray_is_told_before_the_source_is_listed(tmp_path: Path) -> None:
    if find_spec("ray"):
        pytest.skip("Ray is installed")
    with pytest.raises(MissingExtra, match="needs ray"):
        scan(tmp_path / "nothing", tmp_path / "m", on="ray")


def planned(photos: Path, folder: Path) -> Parts:
    folder.mkdir()
    return plan_parts(folder, open_source(photos, DEFAULT_COLUMNS).references, "test")


@pytest.mark.slow
def test_photos_that_crash_or_hang_their_process_are_quarantined(photos: Path, tmp_path: Path) -> None:
    parts = planned(photos, tmp_path / "work")
    command = (sys.executable, "-c", LETHAL)
    found = dict(workers.run(parts.missing(), 2, deadline=4.0, command=command))
    table = pa.concat_tables([found[number] for number in sorted(found)])
    lost = pa.compute.starts_with(table["reason"], "decoder_")
    names = [Path(uri).name for uri in table.filter(lost)["uri"].to_pylist()]
    reasons = table.filter(lost)["reason"].to_pylist()
    assert dict(zip(names, reasons, strict=True)) == {
        "007.jpg": "decoder_crashed", "011.jpg": "decoder_timeout: over 4 s",
    }  # fmt: skip
    plain = pa.concat_tables([examine(references) for _, references in parts.missing()])
    keep = pa.compute.invert(lost)
    assert table.num_rows == 300
    assert table.filter(keep).equals(plain.filter(keep))


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_that_is_not_possible_is_refused(photos: Path, tmp_path: Path, deadline: float) -> None:
    with pytest.raises(CatflapError, match="cannot be examined in"):
        scan(photos, tmp_path / "m", workers=1, deadline=deadline)


def test_a_worker_that_does_not_start_is_an_error(photos: Path, tmp_path: Path) -> None:
    parts = planned(photos, tmp_path / "work")
    with pytest.raises(CatflapError, match="does not start"):
        list(workers.run(parts.missing(), 1, command=(sys.executable, "-c", "raise SystemExit(3)")))


def test_no_worker_is_an_error(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="0 processes"):
        scan(photos, tmp_path / "m", workers=0)


def test_two_scans_into_one_place_do_not_mix(photos: Path, tmp_path: Path) -> None:
    def again(step: str, done: int, total: int) -> None:
        if (step, done) == ("scan", 0):
            with pytest.raises(CatflapError, match="Another scan"):
                scan(photos, tmp_path / "m", workers=1)

    assert scan(photos, tmp_path / "m", workers=1, progress=again).photos == 300


def test_what_is_there_already_is_not_overwritten_unless_it_is_ours(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("do not touch")
    with pytest.raises(CatflapError, match="not a manifest"):
        scan(photos, tmp_path / "mine", workers=1)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "do not touch"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_killed_prepare_keeps_its_whole_shards(whole: Manifest, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(whole, tmp_path / "d", progress=stop)
    shards = tmp_path / ".d.prepare" / "shards"
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.tar")}
    assert kept
    assert not (tmp_path / "d").exists()
    dataset = prepare(whole, tmp_path / "d")
    for name, time_written in kept.items():
        assert (dataset.path / "shards" / name).stat().st_mtime_ns == time_written
    assert tree(dataset.path) == tree(prepare(whole, tmp_path / "again").path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "d"]


def test_a_prepare_that_goes_on_counts_what_is_done(whole: Manifest, tmp_path: Path) -> None:
    reported: list[int] = []

    def stop(step: str, done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    def tell(step: str, done: int, total: int) -> None:
        if step == "prepare":
            reported.append(done)

    with pytest.raises(KeyboardInterrupt):
        prepare(whole, tmp_path / "d", progress=stop)
    total = sum(prepare(whole, tmp_path / "d", progress=tell).roles.values())
    assert max(reported) == total > len(reported)


@pytest.mark.parametrize("how", mostly_slow([signal.SIGINT, signal.SIGKILL]))
def test_a_prepare_that_ends_while_the_disk_is_written_keeps_its_shards(
    how: signal.Signals, whole: Manifest, tmp_path: Path
) -> None:
    """Its last step, which takes long where the disk is slow: no shard is written again."""
    out = tmp_path / "d"
    done = subprocess.run([sys.executable, "-c", SYNCED, str(whole.path), str(out), str(int(how))])
    assert done.returncode == -how
    assert not out.exists()
    kept = {path.name: path.stat() for path in (tmp_path / ".d.prepare" / "shards").iterdir()}
    assert len(kept) == 4
    dataset = prepare(whole, out)
    for name, status in kept.items():
        now = (dataset.path / "shards" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert tree(dataset.path) == tree(prepare(whole, tmp_path / "again").path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "d"]


def test_shards_are_moved_where_there_are_no_links(
    whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepare(whole, tmp_path / "plain")

    def refuse(*paths: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # as exFAT says

    monkeypatch.setattr("os.link", refuse)
    assert tree(prepare(whole, tmp_path / "d").path) == tree(plain.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "plain"]


@pytest.mark.parametrize(
    "note", [b"", bytes(500), b"\x93NUMPY\1\0", None], ids=["empty", "0", "half", "none"]
)
def test_a_shard_whose_note_a_power_cut_spoilt_is_written_again(
    note: bytes | None, whole: Manifest, tmp_path: Path
) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(whole, tmp_path / "d", progress=stop)
    notes = list((tmp_path / ".d.prepare" / "notes").iterdir())
    assert notes
    for path in notes:
        path.unlink() if note is None else path.write_bytes(note)
    assert tree(prepare(whole, tmp_path / "d").path) == tree(prepare(whole, tmp_path / "again").path)


def test_a_shard_that_fails_ends_the_others(
    whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: str, done: int, total: int) -> None:
        if (step, done) == ("prepare", 80):
            raise CatflapError("It fails.", "Do not.")

    monkeypatch.setattr("catflap.data.packing.SHARD_BYTES", 20_000)
    with pytest.raises(CatflapError):
        prepare(whole, tmp_path / "d", progress=fail)
    written = list((tmp_path / ".d.prepare" / "shards").glob("*.tar"))
    assert len(written) < prepare(whole, tmp_path / "d").shards / 2


def test_ctrl_c_in_one_shard_ends_the_others(
    whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own: one that cleans up for too long on a busy machine ends where it is."""
    words = [sys.executable, "-c", INTERRUPTED, str(whole.path), str(tmp_path / "d")]
    assert subprocess.run(words, check=False).returncode in (3, 128 + signal.SIGINT)
    written = list((tmp_path / ".d.prepare" / "shards").glob("*.tar"))
    monkeypatch.setattr("catflap.data.packing.SHARD_BYTES", 20_000)
    assert len(written) < prepare(whole, tmp_path / "d").shards / 2


def limited(*arguments: str, most: int = 64_000) -> subprocess.CompletedProcess[str]:
    """Run a command that may write files of so many bytes, which is how a full disk looks."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    ignore = "import signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    command = [sys.executable, "-c", f"{ignore}; from catflap.cli.main import run; sys.exit(run())"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.parametrize("verb", ["scan", "prepare"])
def test_a_full_disk_is_one_clear_error(verb: str, photos: Path, whole: Manifest, tmp_path: Path) -> None:
    source = photos if verb == "scan" else whole.path
    done = limited(verb, str(source), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_of_pixels_costs_no_shards(whole: Manifest, tmp_path: Path) -> None:
    arguments = ("prepare", str(whole.path), "-o", str(tmp_path / "out"), "--pixels")
    done = limited(*arguments, most=5_000_000)
    assert (done.returncode, done.stdout) == (2, "")
    assert "out cannot be written: File too large" in done.stderr
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.prepare" / "shards").iterdir()}
    assert len(kept) == 4
    dataset = prepare(whole, tmp_path / "out", pixels=True)
    for path, written in kept.items():
        assert (dataset.path / "shards" / path.name).stat().st_mtime_ns == written
    pixels = dataset.train_pixels()
    assert pixels is not None
    assert len(pixels) == dataset.roles["train"]


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(photos: Path, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    process = subprocess.Popen([sys.executable, "-c", SCAN, str(photos), str(tmp_path / "m")])
    children: list[int] = []
    while process.poll() is None and not children:
        children = [child.pid for child in psutil.Process(process.pid).children()]
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert children

    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    for _ in range(1000):
        if not any(map(lives, children)):
            break
        time.sleep(0.01)
    assert not [pid for pid in children if lives(pid)]


def test_a_shard_is_what_its_index_says(whole: Manifest, tmp_path: Path) -> None:
    dataset = prepare(whole, tmp_path / "d")
    photos = dataset.photos("test")
    with tarfile.open(dataset.path / "shards" / str(photos.shards[0])) as archive:
        members = {member.name: member for member in archive}
        for position in range(len(photos)):
            photo = members[f"{photos.ids[position]}.jpg"]
            assert (photo.offset_data, photo.size) == (photos.offsets[position], photos.lengths[position])
            label = archive.extractfile(members[f"{photos.ids[position]}.cls"])
            assert label is not None
            assert int(label.read()) == photos.labels[position]
    assert photos.offsets[0] == 3 * BLOCK
