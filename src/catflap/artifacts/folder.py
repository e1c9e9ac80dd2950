"""Folders and JSON files that are whole or absent, and the hashes that name what is in them."""

from __future__ import annotations

import errno
import filecmp
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import MappingProxyType
from typing import Any

from catflap.artifacts.locks import try_lock
from catflap.artifacts.schema import faults, is_text, load_schema
from catflap.errors import BadArtifact, CatflapError, system_reason

Json = dict[str, Any]
SCHEMAS = ("manifest", "dataset", "checkpoint")
# What a folder may hold beside its marker; of another kind, as an unpacked Bundle is, what the new one holds.
OURS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "manifest.json": ("photos.parquet", "profile.html", "suspects.jsonl", "review.html"),
        "dataset.json": ("index.parquet", "shards/*.tar", "pixels.npy", "profile.html"),
        "checkpoint.json": ("weights.safetensors",),
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
JUNK = (".DS_Store", "Thumbs.db")  # what file managers leave where somebody looked


@contextmanager
def atomic_folder(target: Path, marker: str) -> Iterator[Path]:
    """Fill a folder under a temporary name; it takes its real name only when the block ends well.

    `marker` is the file that tells this kind of artefact; a target that exists without it is
    somebody else's and is refused, and so is one that holds somebody else's files. Leftovers of killed
    runs are swept.
    """
    try:
        refuse_foreign(target, marker)
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target)
        partial = target.parent / f".{target.name}.partial-{os.getpid()}"
        partial.mkdir()
        held = _hold(partial)
    except (OSError, ValueError) as error:
        raise unwritable(target, error) from error
    try:
        yield partial
        if not (partial / marker).is_file():
            raise FileNotFoundError(f"{marker} was not written")
        if marker not in OURS:
            _refuse_others(target, partial, marker)
        sync(partial)
        old = target.parent / f".{target.name}.old-{os.getpid()}"
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        os.close(held)
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(target: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name and rename it when it is whole.

    `durable` waits until the disk has it; without, a power cut may leave a damaged file, which is
    enough for what can be worked out again.
    """
    with atomic_path(target) as partial:
        write_bytes(partial, data, durable=durable)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file as it is, under its own name; `durable` as `write_atomically` has it."""
    with open(path, "wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """The temporary name of a file; it takes its real name only when the block ends well.

    A link stays one. Raises CatflapError where no file can be, as in place of a device: everybody else
    would lose that.
    """
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            raise CatflapError(f"{target} is a device or pipe, not a file.", "Choose another output name.")
        place = target.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        sweep(place)
    except (OSError, ValueError, RuntimeError) as error:  # the last is a loop of links
        raise unwritable(target, error) from error
    partial = place.parent / f".{place.name}.partial-{os.getpid()}"
    try:
        yield partial
        partial.replace(place)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def refuse_foreign(target: Path, marker: str) -> None:
    """Raise when the target exists, be it a device, and is neither empty nor an artefact of this kind.

    And when it is a mount point, or holds a file that no such artefact has, for that would be lost; and when
    it lies inside an artefact.
    """
    if not target.name:
        raise CatflapError(f"{target} is no name for a folder to be made.", "Choose another output name.")
    _refuse_inside(target)
    if not os.path.lexists(target):
        return
    if os.path.ismount(target):  # which cannot be renamed
        raise CatflapError(f"{target} is a mount point.", f"Use -o {target / 'NAME'}.")
    folder = target.is_dir() and not target.is_symlink()
    if not (folder and ((target / marker).exists() or not any(target.iterdir()))):
        raise CatflapError(
            f"{target} exists and is not a {marker.removesuffix('.json')} of Catflap.",
            "Choose another output name.",
        )
    if marker in OURS:
        _refuse_strangers(target, (marker,), OURS[marker])


def _refuse_inside(target: Path) -> None:
    """Raise when the target lies inside an artefact, which then could not be made anew without losing it."""
    for folder in target.absolute().parents:
        if _is_artefact(folder):
            raise CatflapError(
                f"{target.name} would lie inside {folder}, which Catflap made.",
                "Choose another output name, beside it.",
            )


def is_ours(folder: str | Path) -> bool:
    """Whether a folder is what a verb of Catflap wrote, or the NAME.build of a build, and so no photos."""
    if _is_artefact(folder):
        return True
    if not str(folder).endswith(".build"):
        return False
    try:
        held = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        return all(entry.is_dir() and _is_artefact(entry.path) for entry in held)
    except OSError:
        return False


def _is_artefact(folder: str | Path) -> bool:
    return any(_says_its_kind(Path(folder, marker)) for marker in MARKED)


def _says_its_kind(marker: Path) -> bool:
    try:
        if not marker.is_file():
            return False
        with open(marker, "rb") as file:
            return f'"catflap": "{marker.stem}"'.encode() in file.read(HEAD_BYTES)
    except OSError:
        return False


def _refuse_strangers(target: Path, names: Collection[str], patterns: Collection[str] = ()) -> None:
    """Raise when a folder holds a file that has none of these names."""
    for name in _files(target):
        known = name in names or any(fnmatchcase(name, pattern) for pattern in patterns)
        if not known and name.rpartition("/")[2] not in JUNK:
            raise CatflapError(
                f"{target} holds {name}, which would be lost.", "Choose another output folder."
            )


def _refuse_others(target: Path, new: Path, marker: str) -> None:
    """Raise when a folder holds a file that the new one does not have, or one that a person has changed.

    That it was changed is known where both are made from the same, by the marker.
    """
    names = _files(new)
    _refuse_strangers(target, names)
    if (target / marker).is_file() and filecmp.cmp(target / marker, new / marker, shallow=False):
        for name in names:
            if (target / name).is_file() and not filecmp.cmp(target / name, new / name, shallow=False):
                raise CatflapError(
                    f"{name} in {target} was changed, which would be lost.", "Choose another output folder."
                )


def _files(folder: Path) -> list[str]:
    """The names of all files and links in a folder, seen from it."""
    paths = sorted(folder.rglob("*"))
    return [path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_dir()]


def check_place(target: Path) -> None:
    """Raise CatflapError when nothing can be written beside a target: before any work is done.

    Its parents are made; a link is followed. A place inside an artefact is refused, too.
    """
    _refuse_inside(target)
    try:
        place = target.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(prefix=f".{place.name}.partial-", dir=place.parent):
            pass
    except (OSError, ValueError, RuntimeError) as error:  # the last is a loop of links
        raise unwritable(target, error) from error


@contextmanager
def only_writer(target: Path, verb: str) -> Iterator[None]:
    """Raise CatflapError while another process writes the same target; what a killed one held is free."""
    path = target.with_name(f".{target.name}.{verb}")
    try:
        held = _lock(path)
    except OSError as error:
        raise unwritable(target, error) from error
    if held is None:
        raise CatflapError(
            f"Another {verb} is writing {target}.", "Wait for it, or choose another output name."
        )
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(held)


def unwritable(target: Path, error: Exception) -> CatflapError:
    """The error for a target that cannot be written: full disk, no permission, bad name."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):  # of many files: the first
        error = OSError(str(error.args[0][0][-1])[:200])
    why = system_reason(error)
    elsewhere = getattr(error, "filename", None)
    place = f" ({elsewhere})" if elsewhere and target.name not in str(elsewhere) else ""
    too_long = getattr(error, "errno", None) == errno.ENAMETOOLONG
    return CatflapError(
        f"{target} cannot be written: {why}{place}.",
        "Choose a shorter name." if too_long else "Free some space or choose another output folder.",
    )


def sweep(target: Path) -> None:
    """Remove what killed runs left beside the target; put back a target that was half replaced.

    What has our own number was left by an earlier process that had it, as in a container, where each run is
    number 1; a folder that somebody in another container fills just now is held, and stays.
    """
    for left in sorted(target.parent.glob(f".{glob.escape(target.name)}.*-*")):
        kind, _, pid = left.name.removeprefix(f".{target.name}.").partition("-")
        if kind not in ("partial", "old") or not pid.isdigit() or _is_another(int(pid)) or _is_held(left):
            continue
        if kind == "old" and not target.exists():
            left.rename(target)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def sync(place: Path) -> None:
    """Put a file, or a folder and all that is in it, on disk, so that a power cut finds it whole."""
    for path in (*place.rglob("*"), place):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, fields: Json) -> None:
    """Write a JSON object: sorted keys, two-space indent, UTF-8, so that equal content is equal bytes."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, kind: str) -> Json:
    """Read an artefact's JSON object; BadArtifact when it is absent, damaged or of another kind."""
    try:
        fields = json.loads(path.read_bytes())
        if not is_text(fields):
            raise ValueError("a text in it holds half a letter, which is not Unicode")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadArtifact(
            f"{path.parent} is not a {kind}: {path.name} is missing.", f"Name a {kind}."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BadArtifact(f"{path} cannot be read: {error}.", f"Make the {kind} again.") from error
    if not isinstance(fields, dict) or fields.get("catflap") != kind or fields.get("version") != 1:
        raise BadArtifact(
            f"{path} is not a {kind} of version 1.", f"Make the {kind} again with this Catflap."
        )
    found = faults(fields, load_schema(kind)) if kind in SCHEMAS else []
    if found:
        raise BadArtifact(f"{path} is not valid: {found[0]}.", f"Make the {kind} again with this Catflap.")
    return fields


def digest(value: Any) -> str:
    """The sha256 of a JSON value in canonical form, hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hold(folder: Path) -> int:
    """Lock a folder as long as the descriptor is open: until it is closed, or the process is killed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try_lock(descriptor)
    return descriptor


def _lock(path: Path) -> int | None:
    """The descriptor of a file that was locked in its place; None where somebody else holds it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        if not try_lock(descriptor):
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):  # who held it has removed it meanwhile
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _is_held(path: Path) -> bool:
    """Whether somebody has locked a folder."""
    if not path.is_dir():
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def _is_another(pid: int) -> bool:
    """Whether a process of this number runs and is not this one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
