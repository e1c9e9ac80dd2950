"""Photos into a project: uploads, or a source on this machine; each is judged as `scan` judges it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from catflap.artifacts.field_log import LogRow, read_field_log
from catflap.artifacts.folder import sync, unwritable
from catflap.curation.field_queue import bytes_of
from catflap.data.duplicates import bounded_groups, confirmed_pairs
from catflap.data.examine import FRAME
from catflap.data.listing import PHOTO_SUFFIXES, SUFFIXES, Reference, reference, reference_table
from catflap.data.reading import is_url, read_photo
from catflap.data.sources import open_source
from catflap.data.workers import Worker
from catflap.errors import BadPhoto, CatflapError
from catflap.image import encode
from catflap.live.frame_sources import find_source
from catflap.live.frames import SourceLost, Stop, open_first
from catflap.machine import describe_machine
from catflap.studio.project import NewPhoto, Project

ARCHIVES = (".zip", ".tar")
BATCH = 32
DEMO = 12  # photos of each digit that keep their label
NO_PICTURE = "no_picture: the log has only the answer; photos are kept with --log-photos"
SQLITE = b"SQLite format 3\0"  # how a field log begins
STREAM_SECONDS = 10.0  # without a frame, after which a stream is lost
MOST_RECORDED = 2000  # frames of a stream at once
SLACK = 1e-3  # seconds by which a frame may be early


class Importer:
    """Worker processes that examine photos for a project, and the inbox in which uploads arrive.

    `changed` is called after each batch. `progress` is the source that is being imported with how many of its
    photos are done, or None.
    """

    def __init__(self, project: Project, changed: Callable[[], None]) -> None:
        self._project, self._changed = project, changed
        self._workers: Queue[Worker] = Queue()
        self._all = [Worker() for _ in range(describe_machine().cores)]
        for worker in self._all:
            self._workers.put(worker)
        self._inbox = project.path / "inbox"
        self._inbox.mkdir(exist_ok=True)
        for (
            left
        ) in self._inbox.iterdir():  # of a Studio that was killed; no client got the answer that it is kept
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._stacking = threading.Lock()
        self._recording = Stop()
        self.progress: dict[str, Any] | None = None

    def close(self) -> None:
        """End the worker processes."""
        self._recording.requested = True
        for worker in self._all:
            worker.stop()
            worker.end()

    @contextmanager
    def inbox_file(self, name: str) -> Iterator[Path]:
        """A new file for an upload, with the suffix of its name; CatflapError when it cannot be written."""
        suffix = Path(name).suffix.lower()
        path = self._inbox / (
            secrets.token_hex(8) + (suffix if suffix in (*PHOTO_SUFFIXES, *ARCHIVES) else "")
        )
        try:
            yield path
        except OSError as error:
            raise unwritable(path, error) from error
        finally:
            path.unlink(missing_ok=True)

    def take(self, path: Path, name: str, label: str | None) -> dict[str, Any]:
        """Add an uploaded photo, or those of an uploaded archive or field log; what is refused says why."""
        if path.suffix in ARCHIVES or _is_field_log(path):
            return self.add_source(path, copy=True, shown=name)
        size = path.stat().st_size
        return self._add([(reference(str(path), label or "", bytes=size), name)], copy=True)

    def add_source(self, source: str | Path, *, copy: bool, shown: str = "") -> dict[str, Any]:
        """Add the photos of a folder, list, archive, field log or address.

        Files are referenced where they lie unless `copy`. The photos of a folder without
        folders have no labels, and nor have those of a field log: what was answered becomes a suggestion.
        """
        path = Path(source)
        if _is_field_log(path):
            return self._add_field_log(path, shown or path.name)
        if path.is_dir() and not any(
            entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()
        ):
            references: list[Reference] = [
                reference(str(file.absolute()), "", bytes=file.stat().st_size)
                for file in sorted(path.iterdir())
                if file.suffix.lower() in PHOTO_SUFFIXES and file.is_file()
            ]
        elif path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
            references = [reference(str(path.absolute()), "", bytes=path.stat().st_size)]
        else:
            references = list(open_source(source).references)
        named = [
            (one, f"{shown}: {_inner(one['uri'])}" if shown else _inner(one["uri"])) for one in references
        ]
        batches = (
            self._add(named[start : start + BATCH], copy=copy) for start in range(0, len(named), BATCH)
        )
        return self._in_batches(shown or str(source), len(named), batches)

    def _in_batches(self, source: str, count: int, answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Add batch after batch and show how many photos are done; returns the sums of the answers."""
        total: dict[str, Any] = {"added": 0, "known": 0, "refused": [], "two_labels": []}
        self.progress = {"source": source, "done": 0, "total": count}
        try:
            for answer in answers:
                for key in total:
                    total[key] += answer[key]
                done = self.progress["done"] + answer["added"] + answer["known"] + len(answer["refused"])
                self.progress = {**self.progress, "done": min(done, count)}
                self._changed()
        finally:
            self.progress = None
            self._changed()
        return total

    def _add_field_log(self, log: Path, shown: str) -> dict[str, Any]:
        """Add the photos of a field log of which the log or a file has the bytes, with the last answers."""
        rows = list({row.photo: row for row in read_field_log(log)}.values())
        batches = (
            self._add_logged(log, rows[start : start + BATCH], shown) for start in range(0, len(rows), BATCH)
        )
        return self._in_batches(shown, len(rows), batches)

    def _add_logged(self, log: Path, rows: Sequence[LogRow], shown: str) -> dict[str, Any]:
        photos: list[tuple[Reference, str]] = []
        predicted: list[tuple[str, float]] = []
        gone: list[tuple[str, str]] = []
        folder = self._inbox / secrets.token_hex(8)
        folder.mkdir()
        try:
            for row in rows:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.time))
                data, name = bytes_of(log, row), f"{shown}: {when}"
                if data is None:
                    gone.append((name, NO_PICTURE))
                    continue
                path = folder / f"{len(photos)}.jpg"
                path.write_bytes(data)
                photos.append((reference(str(path), "", bytes=len(data)), name))
                best = int(row.probabilities.argmax())
                predicted.append((row.model.labels[best], float(row.probabilities[best])))
            answer = self._add(photos, copy=True, predicted=predicted)
        except OSError as error:
            raise unwritable(folder, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if gone:
            self._project.refuse(gone)
            answer["refused"] += [{"name": name, "reason": reason} for name, reason in gone]
        return answer

    def record(self, address: str, count: int, every: float, label: str | None) -> dict[str, Any]:
        """Add frames of what `watch` can open: `count` of them, one every so many seconds.

        Raises CatflapError for an address that names no source, and for a source that gives no frame. One
        that is lost later, or that ends, leaves what was recorded.
        """
        if address == "-" or not 1 <= count <= MOST_RECORDED or not 0.05 <= every <= 3600:
            raise CatflapError(
                "This cannot be recorded.", f"Use 1 to {MOST_RECORDED} frames, 0.05 to 3600 seconds apart."
            )
        source = find_source(address, FRAME, timeout=STREAM_SECONDS, fps=1 / every)
        self._recording = stop = Stop()
        opened = open_first(source)

        def frames() -> Iterator[dict[str, Any]]:
            taken, due = 0, 0.0
            while taken < count and not stop.requested:
                try:
                    frame = opened.read()
                except SourceLost as error:
                    if taken:
                        return
                    raise CatflapError(
                        f"{source.name} gives no frame: {error}.", "Check the camera."
                    ) from error
                if frame is None:
                    return
                now = time.monotonic() if frame.clock is None else frame.clock
                if taken and now < due - SLACK:
                    continue
                taken, due = taken + 1, now + every
                name = f"{source.name} {time.strftime('%Y-%m-%d %H:%M:%S')} {taken}.jpg"
                try:
                    photo = frame.load()
                except BadPhoto as error:
                    self._project.refuse([(name, f"{error.reason}: {error.what}")])
                    yield {
                        "added": 0,
                        "known": 0,
                        "refused": [{"name": name, "reason": error.reason}],
                        "two_labels": [],
                    }
                    continue
                data = photo if isinstance(photo, bytes) else encode(np.asarray(photo), "JPEG", quality=92)
                with self.inbox_file("frame.jpg") as path:
                    path.write_bytes(data)
                    yield self.take(path, name, label)

        try:
            return self._in_batches(source.name, count, frames())
        finally:
            opened.close()

    def stop_recording(self) -> None:
        """End a recording after the frame at hand."""
        self._recording.requested = True

    def add_demo(self) -> dict[str, Any]:
        """Add scikit-learn's handwritten digits, of which DEMO of each have their label."""
        folder = self._inbox / "digits"
        code = "import sys; from catflap.pipeline.demo import write_digits; from pathlib import Path; "
        done = subprocess.run(  # it needs scikit-learn and torch, which this process does without
            [sys.executable, "-c", f"{code}write_digits(Path(sys.argv[1]))", str(folder)], check=False
        )
        if done.returncode:
            raise CatflapError("The digits cannot be written.", "Run: pip install 'catflap[studio]'")
        answer = self.add_source(folder, copy=True, shown="digits")
        shutil.rmtree(folder, ignore_errors=True)
        rows = self._project.rows("select n, label from photos where name like 'digits: %' order by n")
        seen: dict[str, int] = {}
        unlabelled = []
        for row in rows:
            seen[row["label"]] = seen.get(row["label"], 0) + 1
            if seen[row["label"]] > DEMO:
                unlabelled.append(row["n"])
        self._project.decide(unlabelled, None, with_stacks=False)
        self._changed()
        return answer

    def _add(
        self,
        photos: Sequence[tuple[Reference, str]],
        *,
        copy: bool,
        predicted: Sequence[tuple[str, float]] = (),
    ) -> dict[str, Any]:
        """Examine photos, keep the bytes of those that are fine, and add them in one transaction.

        `predicted` has what a Bundle answered about each.
        """
        unlabelled = [  # scan refuses a photo without a label; here a person gives it one
            {**one, "fault": "" if one["fault"] == "no_label" else one["fault"]} for one, _ in photos
        ]
        worker = self._workers.get()
        try:
            rows = worker.examine(reference_table(unlabelled)).to_pylist()
        finally:
            self._workers.put(worker)
        new, refused = [], []
        for at, (one, row, (_, name)) in enumerate(zip(unlabelled, rows, photos, strict=True)):
            if row["status"] != "ok":
                refused.append((name, row["reason"]))
                continue
            try:
                place = self._keep(one, row) if copy or _within(one) else one["uri"]
            except BadPhoto as error:
                refused.append((name, f"{error.reason}: {error.what}"))
                continue
            new.append(NewPhoto(place, name, one["label"] or None, row, predicted[at] if predicted else None))
        answers = self._project.add_photos(new)
        if refused:
            self._project.refuse(refused)
        return {
            "added": sum("special" not in one for one in answers),
            "known": sum("special" in one for one in answers),
            "refused": [{"name": name, "reason": reason} for name, reason in refused],
            "two_labels": [one["name"] for one in answers if one.get("special") == "two_labels"],
            "photos": [one["photo"] for one in answers],
        }

    def _keep(self, one: Reference, row: dict[str, Any]) -> str:
        """Write the bytes of a photo under their hash, durably; returns the place in the project."""
        place = f"photos/{row['id'][:2]}/{row['id']}{SUFFIXES.get(row['format'], ('',))[0]}"
        target = self._project.path / place
        if target.exists() and target.stat().st_size == row["bytes"]:
            return place
        crc = one["modified"] if one["uri"].startswith("zip://") else None
        data = read_photo(one["uri"], one["offset"], one["bytes"], FRAME.max_bytes, crc)
        part = self._inbox / secrets.token_hex(8)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            sync(part)
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise unwritable(target, error) from error
        return place

    def stack(self) -> None:
        """Find near-duplicates among all photos and note their stacks."""
        with self._stacking:
            rows = self._project.rows("select n, phash, thumb from photos where phash is not null order by n")
            if len(rows) < 2:
                return
            hashes = np.frombuffer(b"".join(row["phash"] for row in rows), ">u8").astype(np.uint64)

            def thumbs(positions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
                pictures = b"".join(rows[at]["thumb"] for at in positions.tolist())
                return np.frombuffer(pictures, np.uint8).reshape(-1, 256)

            groups, _ = bounded_groups(len(rows), confirmed_pairs(hashes, thumbs))
            self._project.set_stacks(
                (row["n"], rows[group]["n"]) for row, group in zip(rows, groups.tolist(), strict=True)
            )
        self._changed()


def _within(one: Reference) -> bool:
    """Whether a photo lies in an archive or an object store, so that it can only be copied."""
    return bool(one["offset"] >= 0 or is_url(one["uri"]))


def _is_field_log(path: Path) -> bool:
    """Whether a file is a database: of those only field logs are read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(SQLITE)) == SQLITE
    except (OSError, ValueError):
        return False


def _inner(uri: str) -> str:
    """The name of a photo for people: the last two parts of its path."""
    path = uri.removeprefix("zip://").partition("::")[0]
    return "/".join(Path(path).parts[-2:])


def check_readable(source: str) -> None:
    """Raise CatflapError for a source that is not there."""
    if not is_url(source) and not Path(source).expanduser().exists():
        raise CatflapError(
            f"{source} does not exist.", "Give the path of a folder, list or archive on this machine."
        )
