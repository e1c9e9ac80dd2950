"""Write folders and files so that a kill leaves them whole or absent: temporary names, locks, the cache.

A finished folder takes its name in one step where the system can exchange two names (Linux, macOS). Elsewhere
it takes two renames; `recover` completes them when a kill came between.
"""

from __future__ import annotations

import ctypes
import errno
import filecmp
import itertools
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from tempfile import gettempdir
from time import sleep
from types import MappingProxyType

from catflap.errors import CatflapError, system_reason

# The files that each kind of artifact may contain beside its marker. An artifact of another kind, such as an
# unpacked bundle, may contain what its replacement contains.
OURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "manifest.json": ("photos.parquet", "profile.html", "suspects.jsonl", "review.html"),
        "dataset.json": ("index.parquet", "shards/*.tar", "pixels.npy", "profile.html"),
        "checkpoint.json": ("weights.safetensors", "cross_fitted.npz"),
        "report.json": ("report.html",),
        "queue.json": ("photos/*", "review.html"),
        "field-photos.json": ("*/field-*",),
        "site.json": (
            "index.html",
            "sw.js",
            "manifest.webmanifest",
            "icon*",
            "third-party.txt",
            "assets/*",
            "bundle/*",
        ),
    }
)
MARKED = tuple(name for name in OURS if name != "field-photos.json")  # those are photos to scan
HEAD_BYTES = 1 << 16  # of a marker; its kind stands in the first few hundred
JUNK = (".DS_Store", "Thumbs.db")  # left by file managers
PROCESS = secrets.token_hex(4)  # tells this process from an earlier one with the same PID, as in a container
_TEMPORARY = re.compile(r"(partial|old)-(\d+)(?:-([0-9a-f]{8}\d+))?")
RENAME_CHECKS = 50  # of 10 ms
LONGEST_OWNER = 24  # characters after "partial-": PID, dash, PROCESS and a counter
_COUNTER = itertools.count()  # tells two threads of this process apart
_AT_FDCWD, _EXCHANGE = -100, 2  # renameat2(2)
_SWAP = 2  # renamex_np(2) of macOS


@contextmanager
def atomic_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder that takes the name `target` when the block ends without an error.

    `marker` is the JSON file that identifies this kind of artifact. A target that exists without it, or that
    contains other files, belongs to somebody else: CatflapError. Leftovers of killed runs are deleted.
    """
    try:
        refuse_foreign(target, marker)
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        partial = _temporary(target, "partial")
        partial.mkdir()
        held = _hold(partial)
    except (OSError, ValueError) as error:
        raise unwritable(target, error) from error
    try:
        yield partial
        if not (partial / marker).is_file():
            raise FileNotFoundError(f"{marker} was not written")
        if marker not in OURS:
            _refuse_changed(target, partial, marker)
        sync(partial)
        _replace_folder(partial, target)
        with suppress(OSError):  # a folder may be writable and not readable
            _sync_names(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        _release(held)
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name, then rename it.

    `durable` waits until the data is on disk. Without it a power cut may leave a damaged file, which is
    acceptable for a cache.
    """
    with atomic_path(target) as partial:
        write_bytes(partial, data, durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file directly under its name; `durable` as in `write_atomically`."""
    with open(path, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield the temporary name of a file that takes the name `target` when the block ends without an error.

    A symbolic link is followed and stays one. Raises CatflapError where the target is a device or a pipe.
    """
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise CatflapError(f"{target} is a device or pipe, not a file.", "Choose another output name.")
        place = target.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place)
        partial = _temporary(place, "partial")
        partial.touch(exist_ok=False)
        held = _hold(partial)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise unwritable(target, error) from error
    try:
        yield partial
        partial.replace(place)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        _release(held)
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_foreign(target: Path, marker: str) -> None:
    """Raise CatflapError unless the target is absent, an empty folder, or an artifact of this kind.

    Also when it is a mount point, contains a file that such an artifact does not have, or lies inside another
    artifact.
    """
    if not target.name:
        raise CatflapError(f"{target} cannot be the name of a new folder.", "Choose another output name.")
    _refuse_inside(target)
    if not os.path.lexists(target):
        return
    if os.path.ismount(target):  # which cannot be renamed
        raise CatflapError(f"{target} is a mount point.", f"Use -o {target / 'NAME'}.")
    folder = target.is_dir() and not target.is_symlink()
    if not (folder and ((target / marker).exists() or not any(target.iterdir()))):
        link = "is a symbolic link, so it" if target.is_symlink() else "exists and"
        raise CatflapError(
            f"{target} {link} is not a {marker.removesuffix('.json')} of Catflap.",
            "Choose another output name.",
        )
    if marker in OURS:
        _refuse_unknown(target, (marker,), OURS[marker])


def _refuse_inside(target: Path) -> None:
    """Raise CatflapError when the target lies inside an artifact: replacing that one would delete it."""
    for folder in target.absolute().parents:
        if _is_artifact(folder):
            raise CatflapError(
                f"{target.name} would lie inside {folder}, which Catflap made.",
                "Choose another output name, beside it.",
            )


def is_ours(folder: str | Path) -> bool:
    """Whether Catflap wrote a folder (an artifact, or the NAME.build of a build): it contains no photos."""
    if _is_artifact(folder):
        return True
    if not str(folder).endswith(".build"):
        return False
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        return all(entry.is_dir() and _is_artifact(entry.path) for entry in entries)
    except OSError:
        return False


def _is_artifact(folder: str | Path) -> bool:
    return any(_states_its_kind(Path(folder, marker)) for marker in MARKED)


def _states_its_kind(marker: Path) -> bool:
    try:
        if not marker.is_file():
            return False
        with open(marker, "rb") as file:
            return f'"catflap": "{marker.stem}"'.encode() in file.read(HEAD_BYTES)
    except OSError:
        return False


def _refuse_unknown(target: Path, names: Collection[str], patterns: Collection[str] = ()) -> None:
    """Raise CatflapError when a folder contains a file that matches none of the names and patterns."""
    for name in _files(target):
        known = name in names or any(fnmatchcase(name, pattern) for pattern in patterns)
        if not known and name.rpartition("/")[2] not in JUNK:
            raise CatflapError(
                f"{target} holds {name}, which would be lost.", "Choose another output folder."
            )


def _refuse_changed(target: Path, new: Path, marker: str) -> None:
    """Raise CatflapError when the target has a file that its replacement lacks, or one that a person edited.

    An edit is recognised where both folders have the same marker, and so were made from the same input.
    """
    names = _files(new)
    _refuse_unknown(target, names)
    if (target / marker).is_file() and filecmp.cmp(target / marker, new / marker, shallow=False):
        for name in names:
            if (target / name).is_file() and not filecmp.cmp(target / name, new / name, shallow=False):
                raise CatflapError(
                    f"{name} in {target} was changed, which would be lost.", "Choose another output folder."
                )


def _files(folder: Path) -> list[str]:
    """The relative names of all files and links in a folder."""
    paths = sorted(folder.rglob("*"))
    return [path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_dir()]


def check_place(target: Path) -> None:
    """Raise CatflapError when nothing can be written beside a target, or when it lies inside an artifact.

    Called before long work begins. Parent folders are created; a link is followed.
    """
    _refuse_inside(target)
    try:
        place = target.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        longest = place.parent / f".{place.name}.partial-".ljust(len(place.name) + 10 + LONGEST_OWNER, "9")
        longest.touch()
        longest.unlink(missing_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise unwritable(target, error) from error


def unwritable(target: Path, error: Exception) -> CatflapError:
    """The error for a target that cannot be written: full disk, no permission, bad name."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of many files: the first
        error = OSError(str(error.args[0][0][-1])[:200])
    why = system_reason(error)
    elsewhere = getattr(error, "filename", None)
    place = f" ({elsewhere})" if elsewhere and target.name not in str(elsewhere) else ""
    fixes = {
        errno.ENAMETOOLONG: "Choose a shorter name.",
        errno.EACCES: "Choose a folder that you may write.",
        errno.EPERM: "Choose a folder that you may write.",
        errno.ENOTDIR: "A file has the name of this folder: choose another output folder.",
        errno.EEXIST: "A file has the name of this folder: choose another output folder.",
        errno.EROFS: "Choose a folder on another disk: this one can only be read.",
    }
    fix = fixes.get(getattr(error, "errno", None) or 0, "Free some space or choose another output folder.")
    return CatflapError(f"{target} cannot be written: {why}{place}.", fix)


def sync(place: Path) -> None:
    """Flush a file, or a folder with everything in it, to disk, so that it survives a power cut."""
    for path in (*place.rglob("*"), place):
        _sync_names(path) if path.is_dir() else _sync_file(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_names(folder: Path) -> None:
    """Flush the names in a folder to disk; Windows cannot, and some network file systems refuse."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


# --- Replacing a folder


def _replace_folder(new: Path, target: Path) -> None:
    """Give a finished folder the name of the target; an old target gets the name `new`, or is deleted."""
    if not target.exists():
        try:
            new.rename(target)
            return
        except OSError as error:  # another thread or process has just written it
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    if exchange(new, target):
        return
    old = _temporary(target, "old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:  # also KeyboardInterrupt: the old one stays in place
        if not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two existing paths in one step; False where the system or file system cannot."""
    call = _exchange_call()
    if call is None:
        return False
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = call(*names, _SWAP)
    else:
        failed = call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _EXCHANGE)
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM):
        return False  # NFS, FAT, some FUSE file systems, a seccomp filter
    raise OSError(number, os.strerror(number), str(other))


@cache
def _exchange_call() -> ctypes._NamedFuncPointer | None:
    """The C function that exchanges two names: renameat2 of Linux, renamex_np of macOS; None elsewhere."""
    if not sys.platform.startswith(("linux", "darwin")):
        return None
    with suppress(OSError, AttributeError):  # AttributeError: a libc without it
        libc = ctypes.CDLL(None, use_errno=True)
        return libc.renamex_np if sys.platform == "darwin" else libc.renameat2
    return None


def recover(target: Path) -> bool:
    """Put back a folder whose replacement was killed between two renames; whether it is there now.

    Readers call it when they find the target absent. Where a running process is between its two renames, this
    waits for the second one.
    """
    old = f".{target.name}.old-"
    for _ in range(RENAME_CHECKS):
        if target.exists() or not _siblings(target, old):
            break
        for left in _leftovers(target):
            if left.name.startswith(old) and not target.exists():
                with suppress(OSError):  # another reader was faster, or the folder cannot be written
                    left.rename(target)
        if not target.exists():
            sleep(0.01)
    return target.exists()


def sweep(target: Path) -> None:
    """Delete what killed runs left beside a target; put the target back if it was half replaced."""
    recover(target)
    for left in _leftovers(target):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _temporary(target: Path, kind: str) -> Path:
    """A name beside the target that no other thread or process uses, and that `sweep` recognises."""
    return target.parent / f".{target.name}.{kind}-{os.getpid()}-{PROCESS}{next(_COUNTER)}"


def _siblings(target: Path, prefix: str) -> list[Path]:
    """The paths beside the target whose names begin with the prefix; none if the folder cannot be read.

    Unlike Path.glob this keeps no compiled pattern for each name, of which `watch` writes thousands.
    """
    try:
        with os.scandir(target.parent) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(prefix))
    except OSError:
        return []
    return [target.parent / name for name in names]


def _leftovers(target: Path) -> list[Path]:
    """The temporary files and folders of this target whose process has ended.

    A running process is recognised by its PID and, across containers that share a folder, by its lock.
    """
    found, prefix = [], f".{target.name}."
    for left in _siblings(target, prefix):
        name = _TEMPORARY.fullmatch(left.name.removeprefix(prefix))
        if name is None:
            continue
        pid, token = int(name[2]), name[3] or ""
        alive = token.startswith(PROCESS) if pid == os.getpid() else _is_running(pid)
        if not (alive or _is_held(left)):
            found.append(left)
    return found


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return _is_running_on_windows(pid)
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _is_running_on_windows(pid: int) -> bool:
    """As `_is_running`; os.kill(pid, 0) would send Ctrl-C there."""
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    process = kernel.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
    if not process:
        return bool(kernel.GetLastError() == 5)  # ERROR_ACCESS_DENIED: it runs, as another user
    running = kernel.WaitForSingleObject(process, 0) == 0x102  # WAIT_TIMEOUT
    kernel.CloseHandle(process)
    return bool(running)


# --- Locks, which end with the process that holds them


@contextmanager
def only_writer(target: Path, verb: str) -> Iterator[None]:
    """Raise CatflapError while another process writes the same target; a killed process holds nothing."""
    path = target.with_name(f".{target.name}.{verb}")
    try:
        held = _lock(path)
    except OSError as error:
        raise unwritable(target, error) from error
    if held is None:
        raise _busy(target, verb)
    try:
        yield
    finally:
        if os.name == "posix":
            with suppress(OSError):
                path.unlink()
        os.close(held)


@contextmanager
def working_folder(target: Path, verb: str) -> Iterator[Path]:
    """A folder `.NAME.VERB` beside the target for finished steps of long work, for one process at a time.

    It survives an error or a kill, so that the next run continues from it, and is deleted when the block ends
    without an error.
    """
    folder = target.parent / f".{target.name}.{verb}"
    try:
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process has just finished and deleted it
                held = _lock(folder / "lock")
                break
    except OSError as error:
        raise unwritable(target, error) from error
    if held is None:
        raise _busy(target, verb)
    try:
        yield folder
    except BaseException:
        os.close(held)
        raise
    if os.name == "posix":
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)
    else:  # which does not delete open files
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


def discard_work(target: Path, *kinds: str) -> None:
    """Delete each `.NAME.KIND` beside a finished target: a run was killed after it had finished the target.

    Nothing is deleted from the first one on that another process has locked.
    """
    for kind in kinds:
        left = target.with_name(f".{target.name}.{kind}")
        lock = left / "lock" if left.is_dir() else left
        held = _lock(lock) if lock.exists() else None
        if lock.exists() and held is None:
            return
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
        _release(held)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; False where somebody else holds it.

    True on file systems without locks. Standard library only: predict, watch and serve lock the field log in
    the base installation.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        return _try_lock_on_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _try_lock_on_windows(descriptor: int) -> bool:
    try:
        import msvcrt
    except ModuleNotFoundError:
        return True
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EDEADLK)
    return True


def _busy(target: Path, verb: str) -> CatflapError:
    return CatflapError(f"Another {verb} is writing {target}.", "Wait for it, or choose another output name.")


def _lock(path: Path) -> int | None:
    """The descriptor of a lock file, which is created; None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):  # the process that held it has just deleted it
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _hold(path: Path) -> int | None:
    """Lock a temporary file or folder; None on Windows, where an open file cannot be renamed."""
    if os.name != "posix":
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try_lock(descriptor)
    return descriptor


def _release(held: int | None) -> None:
    if held is not None:
        os.close(held)


def _is_held(path: Path) -> bool:
    """Whether somebody has locked a temporary file or folder."""
    if os.name != "posix":
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


# --- The cache


def cache_folder(kind: str) -> Path:
    """Where results that can be computed again are kept: $CATFLAP_CACHE or ~/.cache/catflap.

    Without a home directory, as in a container, a folder in the temporary directory.
    """
    root = os.environ.get("CATFLAP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "catflap"
    try:
        return Path(root).expanduser() / kind
    except RuntimeError:
        return _temporary_cache() / kind


def _temporary_cache() -> Path:
    """A temporary folder that only this user can write; CatflapError where there is none."""
    with suppress(OSError, AttributeError):  # AttributeError: Windows has no getuid
        user = os.getuid()
        folder = Path(gettempdir()) / f"catflap-{user}"
        folder.mkdir(0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            return folder
    raise CatflapError("There is no home folder for the cache.", "Set CATFLAP_CACHE to a folder.")
