"""A small collection with planted faults, audited once for all tests of this room."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from PIL import Image, ImageDraw

from catflap.artifacts.dataset import Dataset
from catflap.artifacts.manifest import Manifest
from catflap.curation.audit import Audit, audit
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.training.backbones import TINY
from tests.conftest import make_once
from tests.tiny import COLOURS, FRAME, drawn

T = TypeVar("T")
HOSTILE = """</script><script>document.title="hacked"</script><img src=x onerror="document.title='hacked'">"""
NAMES = {"cat": "cat", "other": "other", "third": HOSTILE}
COUNT = 40
FLIPPED = {("cat", 3): "other", ("cat", 11): "other", ("other", 5): "cat", ("third", 7): "cat"}


@dataclass(frozen=True)
class Collection:
    """Photos under a list, a Manifest and a Dataset of them; `flipped` are the files with a wrong label.

    `wrong_copy` shows what the first flipped one shows, under the same wrong label; `twin` shows a cat under
    "other", and `twice` are two files of the same bytes under two labels; `odd` are no such photos.
    """

    root: Path
    manifest: Manifest
    dataset: Dataset
    flipped: dict[str, str]
    wrong_copy: str
    twin: tuple[str, str]
    twice: tuple[str, str]
    odd: str

    def ids(self) -> dict[str, str]:
        """File names to ids."""
        rows = self.manifest.rows(["id", "uri"]).to_pylist()
        return {Path(row["uri"]).name: row["id"] for row in rows}


def write_collection(root: Path) -> Collection:
    """Draw the photos, plant the faults, scan and prepare."""
    (root / "files").mkdir(parents=True)
    listed: dict[str, str] = {}

    def add(name: str, image: Image.Image, label: str, quality: int = 90) -> str:
        image.save(root / "files" / name, quality=quality)
        listed[name] = label
        return name

    flipped = {}
    for kind in COLOURS:
        for number in range(COUNT):
            label = NAMES[FLIPPED.get((kind, number), kind)]
            name = add(f"{kind}{number:02}.jpg", Image.fromarray(drawn(kind, number)), label)
            if (kind, number) in FLIPPED:
                flipped[name] = NAMES[kind]
    copy = add("cat03_copy.jpg", Image.fromarray(drawn("cat", 3)).resize((200, 150)), "other", 70)
    twin = add("cat20_twin.jpg", Image.fromarray(drawn("cat", 20)).resize((200, 150)), "other", 70)
    page = Image.new("RGB", (160, 120), "white")
    for line in range(8, 116, 12):
        ImageDraw.Draw(page).text((6, line), "the quick brown fox jumps", fill="black")
    odd = add("page.png", page, "cat")
    (root / "files" / "cat25_again.jpg").write_bytes((root / "files" / "cat25.jpg").read_bytes())
    listed["cat25_again.jpg"] = HOSTILE
    with open(root / "photos.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("path", "label"), *((f"files/{name}", label) for name, label in listed.items())]
        )
    manifest = scan(root / "photos.csv", root / "manifest", workers=1, profile=False)
    dataset = prepare(manifest, root / "dataset", frame=FRAME, profile=False)
    return Collection(
        root, manifest, dataset, flipped, copy, ("cat20.jpg", twin), ("cat25.jpg", "cat25_again.jpg"), odd
    )


@pytest.fixture(scope="session")
def collection(shared_by_workers: Path) -> Collection:
    """120 drawn photos of three labels with planted faults."""
    root = shared_by_workers / "collection"
    return pickled_once(shared_by_workers / "collection.pickle", lambda: write_collection(root))


@pytest.fixture(scope="session")
def audited(collection: Collection, shared_by_workers: Path) -> Audit:
    """The audit of the collection."""
    out = collection.root / "audited"
    return pickled_once(
        shared_by_workers / "audited.pickle", lambda: audit(collection.dataset, out, backbone=TINY)
    )


def pickled_once(path: Path, make: Callable[[], T]) -> T:
    """What `make` returned to the first worker of this run that asked."""
    kept = make_once(path, lambda: path.write_bytes(pickle.dumps(make())))
    return pickle.loads(kept.read_bytes())  # type: ignore[no-any-return]
