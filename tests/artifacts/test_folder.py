"""Folders and files are whole or absent: after kill -9, on a full disk, beside somebody else's things."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catflap.artifacts.folder import (
    OURS,
    atomic_folder,
    check_place,
    discard_work,
    exchange,
    is_ours,
    refuse_foreign,
    unwritable,
    working_folder,
    write_atomically,
)
from catflap.artifacts.schema import digest, read_json, write_json
from catflap.errors import BadArtifact, CatflapError

# Writes version after version of a folder: files that name the version, then the marker.
FILES = 9
WRITER = (
    f"FILES = {FILES}"
    + """
import sys
from pathlib import Path
from catflap.artifacts.folder import atomic_folder, write_atomically
from catflap.artifacts.schema import write_json
target, version = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    version += 1
    with atomic_folder(target, "thing.json") as folder:
        for number in range(FILES):
            (folder / f"{number}.txt").write_text(str(version) * 50)
        write_json(folder / "thing.json", {"catflap": "thing", "version": 1, "number": version})
    write_atomically(target.with_suffix(".bin"), b"%08d" % version * 5000)
"""
)

LOCKER = """
import os, sys
from catflap.artifacts.folder import try_lock
print(try_lock(os.open(sys.argv[1], os.O_RDONLY)), flush=True)
input()
"""


def write_thing(target: Path, number: int) -> None:
    with atomic_folder(target, "thing.json") as folder:
        (folder / "data.txt").write_text(str(number))
        write_json(folder / "thing.json", {"catflap": "thing", "version": 1, "number": number})


def version_of(target: Path) -> int:
    """The version of a whole folder; fails when its files are not all there or of two versions."""
    version = int(read_json(target / "thing.json", "thing")["number"])
    assert len(list(target.iterdir())) == FILES + 1
    for number in range(FILES):
        assert (target / f"{number}.txt").read_text() == str(version) * 50
    return version


@pytest.mark.slow
def test_kill_at_any_moment_leaves_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "it's [a] *thing"
    file = target.with_suffix(".bin")
    dice, last, seen = random.Random(1), 0, 0
    start = time.monotonic()
    write_thing(target, 0)
    longest = max(0.1, 16 * (time.monotonic() - start))  # the writer writes eight times as many files
    shutil.rmtree(target)
    for turn in range(200):
        if turn >= 15 and seen > 5:
            break
        command = [sys.executable, "-c", WRITER, str(target), str(last)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(dice.uniform(0, longest))
            writer.send_signal(signal.SIGKILL)
        if last or target.exists():  # once it is there, it is always there
            now = version_of(target)
            assert now >= last
            seen, last = seen + 1, now
        if file.exists():
            text = file.read_text()
            assert text == text[:8] * 5000
    assert seen > 5
    for number in range(FILES):
        (target / f"{number}.txt").unlink()  # the next one does not have them
    write_thing(target, last + 1)
    write_atomically(file, b"x")
    assert {path.name for path in tmp_path.iterdir()} == {target.name, file.name}, "leftovers were swept"


def test_a_target_that_was_half_replaced_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames: the old one is put back before anything new is written."""
    target = tmp_path / "thing"
    write_thing(target, 1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    target.rename(tmp_path / f".thing.old-{dead.pid}")
    with pytest.raises(RuntimeError), atomic_folder(target, "thing.json"):
        raise RuntimeError("this run fails")
    assert read_json(target / "thing.json", "thing")["number"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    for error in (RuntimeError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_folder(target, "thing.json"):
            raise error
        assert list(tmp_path.iterdir()) == []
    write_thing(target, 1)
    with pytest.raises(RuntimeError), atomic_folder(target, "thing.json"):
        raise RuntimeError("x")
    assert (target / "data.txt").read_text() == "1"


def test_a_run_that_is_alive_is_not_swept(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        theirs = tmp_path / f".thing.partial-{other.pid}"
        theirs.mkdir()
        write_thing(target, 1)
        assert theirs.exists()
        other.communicate(b"\n")
    write_thing(target, 2)
    assert not theirs.exists()


def test_leftovers_of_our_own_number_are_swept(tmp_path: Path) -> None:
    """In a container each run is process 1: what has our number was left by an earlier one."""
    target = tmp_path / "thing"
    (tmp_path / f".thing.partial-{os.getpid()}").mkdir()
    write_thing(target, 1)
    target.rename(tmp_path / f".thing.old-{os.getpid()}")
    with pytest.raises(RuntimeError), atomic_folder(target, "thing.json"):
        raise RuntimeError("this run fails")
    assert read_json(target / "thing.json", "thing")["number"] == 1
    (tmp_path / f".file.partial-{os.getpid()}").mkdir()
    write_atomically(tmp_path / "file", b"x")
    assert {path.name for path in tmp_path.iterdir()} == {"thing", "file"}


def test_what_a_process_of_our_number_is_writing_is_not_swept(tmp_path: Path) -> None:
    """Two containers on one volume, each with a process 1: both write, and the last one to end stays."""
    theirs = tmp_path / f".thing.partial-{os.getpid()}-000000001"
    theirs.mkdir()
    with subprocess.Popen([sys.executable, "-c", LOCKER, str(theirs)], stdin=-1, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        write_thing(tmp_path / "thing", 1)
        assert theirs.exists()
        other.communicate(b"\n")
    write_thing(tmp_path / "thing", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_threads_that_write_one_target_do_not_collide(tmp_path: Path) -> None:
    def write(number: int) -> None:
        write_thing(tmp_path / "thing", number)
        write_atomically(tmp_path / "file", b"%08d" % number * 5000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(80)))
    number = read_json(tmp_path / "thing" / "thing.json", "thing")["number"]
    assert (tmp_path / "thing" / "data.txt").read_text() == str(number)
    data = (tmp_path / "file").read_bytes()
    assert data == data[:8] * 5000
    assert {path.name for path in tmp_path.iterdir()} == {"thing", "file"}


def test_a_folder_is_never_absent_while_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    write_thing(target, 0)
    if not exchange(target, tmp_path / "thing"):
        pytest.skip("this file system cannot exchange names")
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(1, 40):
                write_thing(target, number)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    looks = 0
    while not done.is_set():
        target.stat()
        looks += 1
    writer.join()
    assert looks > 100
    assert version_of_thing(target) == "39"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no call exchanges names there")
def test_linux_and_macos_exchange_names(tmp_path: Path) -> None:
    """Where a file system cannot, which this would not be, it is False; what is absent is an error."""
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "absent", tmp_path / "other")


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EEXIST, errno.ENOSPC])
def test_a_folder_that_another_process_has_just_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Between the look at the target and the rename; a rename that fails for another reason is an error."""
    target, rename = tmp_path / "thing", Path.rename

    def late(path: Path, new: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        if number != errno.ENOSPC:
            write_thing(target, 1)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "rename", late)
    if number == errno.ENOSPC:
        with pytest.raises(CatflapError, match="No space left"):
            write_thing(target, 2)
        assert not target.exists()
    else:
        write_thing(target, 2)
        assert version_of_thing(target) == "2"
    assert len(list(tmp_path.iterdir())) == target.exists()


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot exchange two names, as Windows and NFS."""
    monkeypatch.setattr("catflap.artifacts.folder.exchange", lambda one, other: False)


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_a_failing_rename_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename = tmp_path / "thing", Path.rename
    write_thing(target, 1)

    def fail(path: Path, new: Path) -> Path:
        if ".partial-" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, new)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CatflapError, match="No space left"):
        write_thing(target, 2)
    assert version_of_thing(target) == "1"
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_a_folder_is_replaced(tmp_path: Path) -> None:
    for number in range(3):
        write_thing(tmp_path / "thing", number)
        assert version_of_thing(tmp_path / "thing") == str(number)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_reader_puts_back_what_was_half_replaced(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    write_thing(target, 1)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    target.rename(tmp_path / f".thing.old-{dead.pid}-0123abcd7")
    (tmp_path / f".thing.partial-{dead.pid}-0123abcd6").mkdir()  # the next writer deletes it
    assert read_json(target / "thing.json", "thing")["number"] == 1
    write_thing(target, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_reader_waits_for_the_second_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that is alive: it happens while the reader sleeps."""
    target = tmp_path / "thing"
    write_thing(target, 1)
    with subprocess.Popen(["sleep", "60"]) as other:
        old = target.rename(tmp_path / f".thing.old-{other.pid}")
        monkeypatch.setattr("catflap.artifacts.folder.sleep", lambda seconds: old.rename(target))
        assert read_json(target / "thing.json", "thing")["number"] == 1
        other.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("no_exchange")
def test_without_an_exchange_a_reader_waits_for_the_second_rename(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    write_thing(target, 0)
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(1, 100):
                write_thing(target, number)
        finally:
            done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        assert read_json(target / "thing.json", "thing")["number"] < 100
        reads += 1
    writer.join()
    assert reads > 10
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_link_to_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    write_thing(tmp_path / "thing", 1)
    (tmp_path / "link").symlink_to(tmp_path / "thing")
    with pytest.raises(CatflapError, match="link is a symbolic link"):
        write_thing(tmp_path / "link", 2)


def test_what_this_process_is_writing_elsewhere_is_not_swept(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "thing", "thing.json") as folder:
        write_thing(tmp_path / "other", 1)
        write_thing(folder / "thing", 2)
        write_json(folder / "thing.json", {})
    assert read_json(tmp_path / "thing" / "thing" / "thing.json", "thing")["number"] == 2


def test_a_pipe_with_the_name_of_a_leftover_stops_nobody(tmp_path: Path) -> None:
    """Who opens a pipe to read waits for a writer, unless it is told not to."""
    with subprocess.Popen(["true"]) as dead:
        pass
    os.mkfifo(tmp_path / f".thing.partial-{dead.pid}")

    def stop(number: int, frame: object) -> None:
        raise AssertionError("it waits for a writer")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(30)
    try:
        write_thing(tmp_path / "thing", 1)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_names_that_only_look_like_leftovers_stay(tmp_path: Path) -> None:
    names = [".thing.partial-x", ".thing.partial-", ".thing.backup-1", ".other.partial-1", ".thing.old-1-2"]
    for name in names:
        (tmp_path / name).mkdir()
    write_thing(tmp_path / "thing", 1)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "thing"}


def foreign(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"precious")
    yield tmp_path / "photos"
    (tmp_path / "file").write_bytes(b"precious")
    yield tmp_path / "file"
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    yield tmp_path / "link"
    (tmp_path / "nothing").mkdir()
    (tmp_path / "link to nothing").symlink_to(tmp_path / "nothing")
    yield tmp_path / "link to nothing"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    yield tmp_path / "dangling"
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "manifest.json").write_text("{}")
    yield tmp_path / "manifest"
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path / "pipe"


def test_what_is_not_ours_is_not_touched(tmp_path: Path) -> None:
    for target in foreign(tmp_path):
        before = sorted(str(path) for path in tmp_path.rglob("*"))
        with pytest.raises(CatflapError, match="is not a thing of Catflap"):
            write_thing(target, 1)
        assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize("marker", OURS)
def test_an_artefact_with_a_file_of_the_user_is_not_replaced(tmp_path: Path, marker: str) -> None:
    """The error comes before any work is done; what such an artefact has itself is replaced."""
    target = tmp_path / "made"
    for name in (marker, ".DS_Store", *(pattern.replace("*", "0123") for pattern in OURS[marker])):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("ours")
    refuse_foreign(target, marker)
    for name in ("decisions.json", "more/notes.txt"):
        (target / name).parent.mkdir(exist_ok=True)
        (target / name).write_text("precious")
        with pytest.raises(CatflapError, match=f"holds {name}, which would be lost. Choose another"):
            refuse_foreign(target, marker)
        with pytest.raises(CatflapError, match="would be lost"), atomic_folder(target, marker):
            raise AssertionError("it was begun")
        assert (target / name).read_text() == "precious"
        (target / name).unlink()
    with atomic_folder(target, marker) as folder:
        (folder / marker).write_text("new")
    assert [path.name for path in target.iterdir()] == [marker]


def test_a_folder_of_another_kind_is_replaced_where_the_new_one_has_all_its_files(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    write_thing(target, 1)
    write_thing(target, 2)
    (target / "CMakeLists.txt").write_text("precious")
    (target / "a").symlink_to(tmp_path)
    for name in ("CMakeLists.txt", "a"):
        with pytest.raises(CatflapError, match=f"holds {name}, which would be lost"):
            write_thing(target, 3)
        assert version_of_thing(target) == "2"
        (target / name).unlink()
    (target / "data.txt").write_text("edited")
    with pytest.raises(CatflapError, match=r"data\.txt in .* was changed"):
        write_thing(target, 2)
    assert version_of_thing(target) == "edited"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_the_same_again_is_replaced_and_a_file_that_was_deleted_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    for _ in range(3):
        write_thing(target, 1)
        assert version_of_thing(target) == "1"
        (target / "data.txt").unlink()


def test_a_build_with_a_folder_of_photos_in_it_is_not_only_ours(tmp_path: Path) -> None:
    build = tmp_path / "cats.build"
    write_thing(build / "other", 1)
    (build / "manifest").mkdir()
    write_json(build / "manifest" / "manifest.json", {"catflap": "manifest", "version": 1})
    assert not is_ours(build)
    shutil.rmtree(build / "other")
    assert is_ours(build)
    assert is_ours(build / "manifest")


def version_of_thing(target: Path) -> str:
    return (target / "data.txt").read_text()


def test_a_place_is_tried_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file" / "thing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("link", "loop"):
        with pytest.raises(CatflapError, match="cannot be written"):
            check_place(tmp_path / name)
    with pytest.raises(CatflapError, match="Choose a shorter name"):
        check_place(tmp_path / ("a" * 250))
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "loop"}


def test_an_empty_folder_may_be_filled_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "thing"):
        write_thing(target, 1)
        assert (target / "data.txt").read_text() == "1"


def test_a_file_does_not_take_the_place_of_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for target in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(CatflapError, match="a device or pipe"):
            write_atomically(target, b"x")
        assert not target.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "link"}


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for data in (b"1", b"2"):  # where there is no file yet, and where there is
        write_atomically(tmp_path / "link", data)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "file").read_bytes() == data
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(CatflapError, match="cannot be written"):
        write_atomically(tmp_path / "loop", b"x")


def test_what_a_copy_of_a_tree_met_is_the_reason(tmp_path: Path) -> None:
    """shutil raises one error for many files, a list of (from, to, why), or a text of its own."""
    many = unwritable(tmp_path, shutil.Error([("a", "b", "disk quota"), ("c", "d", "other")]))
    assert many.what == f"{tmp_path} cannot be written: disk quota."
    one = unwritable(tmp_path, shutil.Error("they are the same file"))
    assert one.what == f"{tmp_path} cannot be written: they are the same file."


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_cannot_be_is_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(CatflapError):
        write_thing(tmp_path / name, 1)
    with pytest.raises(CatflapError):
        write_atomically(tmp_path / name, b"x")


def test_a_parent_that_is_a_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(CatflapError, match="cannot be written"):
        write_thing(tmp_path / "file" / "thing", 1)
    with pytest.raises(CatflapError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "thing", b"x")


@pytest.fixture
def full_disk(mount_small: Callable[[str], Path]) -> Path:
    """A file system of one megabyte."""
    return mount_small("1m")


def test_a_full_disk_is_one_error_and_leaves_nothing(full_disk: Path) -> None:
    write_thing(full_disk / "thing", 1)
    with (
        pytest.raises(CatflapError, match="No space left"),
        atomic_folder(full_disk / "thing", "thing.json") as folder,
    ):
        (folder / "data.txt").write_bytes(bytes(2 << 20))
    with pytest.raises(CatflapError, match="No space left"):
        write_atomically(full_disk / "file.bin", bytes(2 << 20))
    assert [path.name for path in full_disk.iterdir()] == ["thing"]
    assert (full_disk / "thing" / "data.txt").read_text() == "1"


def test_a_mount_point_is_told_before_any_work_is_done(mount_small: Callable[[str], Path]) -> None:
    place = mount_small("1m")
    with pytest.raises(CatflapError, match=r"small is a mount point\. Use -o .*small/NAME\."):
        refuse_foreign(place, "thing.json")
    refuse_foreign(place / "NAME", "thing.json")


def test_of_many_files_without_room_the_first_is_told(full_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    for number in range(20):
        (tmp_path / "page" / f"{number}.js").write_bytes(bytes(1 << 19))
    with (
        pytest.raises(CatflapError, match="No space left") as refused,
        atomic_folder(full_disk / "site", "site.json") as folder,
    ):
        shutil.copytree(tmp_path / "page", folder, dirs_exist_ok=True)
    assert len(refused.value.what) < 400


def test_an_error_elsewhere_names_the_place(tmp_path: Path) -> None:
    """A source that cannot be read must not be reported only as a target that cannot be written."""
    with (
        pytest.raises(CatflapError, match=r"absent\.jpg"),
        atomic_folder(tmp_path / "thing", "thing.json"),
    ):
        (tmp_path / "absent.jpg").read_bytes()


@pytest.mark.parametrize(
    ("number", "of_folders"), [(errno.EINVAL, True), (errno.EINVAL, False), (errno.EIO, True)]
)
def test_a_file_system_may_refuse_to_flush_names_but_not_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, of_folders: bool
) -> None:
    """As some network file systems do; a disk that fails is an error."""

    def refuse(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    if number == errno.EINVAL and of_folders:
        write_thing(tmp_path / "thing", 1)
        assert version_of_thing(tmp_path / "thing") == "1"
    else:
        with pytest.raises(CatflapError, match=os.strerror(number)):
            write_thing(tmp_path / "thing", 1)
        assert list(tmp_path.iterdir()) == []


def test_a_working_folder_survives_an_error_and_goes_with_the_end_of_the_work(tmp_path: Path) -> None:
    def fail() -> None:
        with working_folder(tmp_path / "thing", "scan") as work:
            (work / "step").write_text("finished")
            raise RuntimeError("x")

    with pytest.raises(RuntimeError):
        fail()
    with working_folder(tmp_path / "thing", "scan") as again:
        assert (again / "step").read_text() == "finished"
        with (
            pytest.raises(CatflapError, match="Another scan is writing"),
            working_folder(tmp_path / "thing", "scan"),
        ):
            raise AssertionError("both work")
    assert list(tmp_path.iterdir()) == []
    with working_folder(tmp_path / "thing", "scan") as work:
        shutil.rmtree(work)  # somebody tidied up
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_beside_a_finished_target_goes_up_to_what_is_in_use(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    held = len(list(Path("/dev/fd").iterdir()))
    left = [tmp_path / f".thing.{kind}" for kind in ("scan", "train", "decided")]

    def leave() -> None:
        for folder in left[:2]:
            folder.mkdir()
            (folder / "lock").touch()
        left[2].touch()

    leave()
    discard_work(target, "scan", "train", "absent", "decided")
    assert list(tmp_path.iterdir()) == []
    leave()
    with working_folder(target, "train"):
        discard_work(target, "scan", "train", "decided")
        assert sorted(tmp_path.iterdir()) == sorted(left[1:])
    assert len(list(Path("/dev/fd").iterdir())) <= held


BAD_JSON = [
    b"",
    b"[]",
    b"{",
    b"\xff",
    b"[" * 100_000,
    b'{"catflap": "thing"}',
    b'{"catflap": "other", "version": 1}',
]


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: repr(text[:12]))
def test_json_that_is_not_ours_is_one_error(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "thing.json").write_bytes(text)
    with pytest.raises(BadArtifact):
        read_json(tmp_path / "thing.json", "thing")


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": ["é", 0.1]})
    write_json(tmp_path / "b.json", {"a": ["é", 0.1], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"path": "caf\udce9"}) != digest({"path": "cafe"})
