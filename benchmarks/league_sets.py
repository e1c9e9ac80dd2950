"""The photo sets of the league: where each comes from, how it is labelled, and how it is split without leaks.

Nothing of them is committed. Each set is a public repository at a fixed commit. `gather` clones it, copies
its photos into class folders and splits them into photos to learn from and photos to judge with. Photos of
one group (near-duplicates, frames of one track, rooms of one house, drawings by one person, cells of one
slide) never stand on both sides.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from catflap.data.scan import scan

SMALL = (500, 300)  # photos to learn from, photos to judge with
LARGE = (4_000, 1_000)
LIST = "learn.csv"  # beside learn/: the same photos with the groups that the set states
FEWEST = 8  # a label of fewer photos in the whole set is left out: nothing could judge it
Photo = tuple[str, str, str, bytes]  # label, group ("" where only near-duplicates are known), name, bytes


class Repository:
    """A bare clone at one commit."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder, self.commit = folder, commit

    def names(self, pattern: str) -> list[re.Match[str]]:
        """Every path that matches, in order."""
        listed = self.git("ls-tree", "-r", "-z", "--name-only", self.commit).decode(
            "utf-8", "surrogateescape"
        )
        return [found for name in listed.split("\0") if (found := re.fullmatch(pattern, name))]

    def read(self, name: str) -> bytes:
        """One file."""
        return self.git("cat-file", "blob", f"{self.commit}:{name}")

    def read_all(self, names: list[str]) -> Iterator[bytes]:
        """Many files, by one process."""
        with subprocess.Popen(
            ["git", "-C", str(self.folder), "cat-file", "--batch"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin
            assert process.stdout
            for name in names:
                process.stdin.write(f"{self.commit}:{name}\n".encode("utf-8", "surrogateescape"))
                process.stdin.flush()
                size = int(process.stdout.readline().split()[2])
                yield process.stdout.read(size + 1)[:-1]
            process.stdin.close()

    def git(self, *words: str) -> bytes:
        return subprocess.run(["git", "-C", str(self.folder), *words], capture_output=True, check=True).stdout


@dataclass(frozen=True)
class PhotoSet:
    """One data set: `read` yields its photos with label and group."""

    name: str
    kind: str
    repository: str
    commit: str
    read: Callable[[Repository], Iterator[Photo]]


def by_path(pattern: str) -> Callable[[Repository], Iterator[Photo]]:
    """Photos whose path names their label, and their group where the pattern has one."""

    def read(repository: Repository) -> Iterator[Photo]:
        found = repository.names(pattern)
        for match, content in zip(found, repository.read_all([one.group() for one in found]), strict=True):
            parts = match.groupdict()
            yield parts["label"].lower(), parts.get("group") or "", match.group(), content

    return read


def solar_cells(repository: Repository) -> Iterator[Photo]:
    """Electroluminescence pictures of solar cells: intact, or surely defective (probability 1)."""
    table = repository.read("src/elpv_dataset/data/labels.csv").decode()
    for line in table.splitlines():
        name, probability, _kind = line.split()
        if float(probability) in (0.0, 1.0):
            label = "defective" if float(probability) else "intact"
            yield label, "", name, repository.read(f"src/elpv_dataset/data/{name}")


def expressions(repository: Repository) -> Iterator[Photo]:
    """Faces by expression, strongly unbalanced; what one person labelled says nothing of who is shown."""
    legend = csv.DictReader(io.StringIO(repository.read("data/legend.csv").decode()))
    labelled = {row["image"]: row["emotion"].lower() for row in legend}
    found = [one.group() for one in repository.names(r"images/.*\.jpg")]
    kept = [name for name in found if labelled.get(name.removeprefix("images/"))]
    kept = sorted(kept, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:6_000]
    for name, content in zip(kept, repository.read_all(kept), strict=True):
        yield labelled[name.removeprefix("images/")], "", name, content


def blood_cells(repository: Repository) -> Iterator[Photo]:
    """Cells cut out of slides by their boxes; a slide is a group, and of red cells three a slide are kept."""
    for match in repository.names(r"BCCD/Annotations/(.*)\.xml"):
        slide = match[1]
        boxes = ElementTree.fromstring(repository.read(match.group())).iter("object")
        picture = Image.open(io.BytesIO(repository.read(f"BCCD/JPEGImages/{slide}.jpg"))).convert("RGB")
        counted: Counter[str] = Counter()
        for box in boxes:
            label = (box.findtext("name") or "").lower()
            corners = [int(box.findtext(f"bndbox/{key}") or 0) for key in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = corners
            counted[label] += 1
            if counted[label] > 3 or right - left < 16 or bottom - top < 16:
                continue
            out = io.BytesIO()
            picture.crop((left, top, right, bottom)).save(out, "PNG")
            yield label, slide, f"{slide}-{label}-{counted[label]}.png", out.getvalue()


def characters(repository: Repository) -> Iterator[Photo]:
    """Handwritten characters of many alphabets, 120 labels; each was drawn once by each of 20 people."""
    labels: set[str] = set()
    for part in ("images_background_small1", "images_background_small2"):
        archive = zipfile.ZipFile(io.BytesIO(repository.read(f"python/{part}.zip")))
        for name in sorted(archive.namelist()):
            match = re.fullmatch(r"[^/]+/([^/]+)/(character\d+)/\d+_(\d+)\.png", name)
            if match:
                label = f"{match[1]}-{match[2]}".lower()
                labels.add(label)
                if len(labels) <= 120:
                    yield label, f"person {match[3]}", name, archive.read(name)


def traffic_signs(repository: Repository) -> Iterator[Photo]:
    """German traffic signs, 43 labels; a track of 30 frames is a group, and every tenth frame is kept."""
    found = [
        one
        for one in repository.names(r"GTSRB/Final_Training/Images/(\d+)/(\d+)_(\d+)\.ppm")
        if int(one[3]) % 10 == 9
    ]
    for match, content in zip(found, repository.read_all([one.group() for one in found]), strict=True):
        out = io.BytesIO()
        Image.open(io.BytesIO(content)).save(out, "PNG")
        yield match[1], f"{match[1]} {match[2]}", f"{match[1]}_{match[2]}_{match[3]}.png", out.getvalue()


SETS = (
    PhotoSet(
        "potato_leaves", "plants", "Suraj123781/potato-leaf-disease-classification",
        "f75a1c6a4854b85325ba21921b336c21dbe02e8b",
        by_path(r"data/(?:train|val)/Potato___(?P<label>[^/]+)/[^/]+\.(?i:jpe?g|png)"),
    ),
    PhotoSet(
        "groceries", "food", "marcusklasson/GroceryStoreDataset",
        "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc",
        by_path(r"dataset/(?:train|val|test)/(?:[^/]+/)+?(?P<label>[^/]+)/[^/]+\.jpg"),
    ),
    PhotoSet(
        "ants_bees", "insects", "zhangtao7750/syn", "f0503091488f67b6809a6da2eaa43c25f2f277fc",
        by_path(r"hymenoptera_data/(?:train|val)/(?P<label>[^/]+)/[^/]+\.jpg"),
    ),
    PhotoSet(
        "steel", "surfaces (industrial)", "duanhan123/YOLOv3_PyTorch",
        "3d2a7e486d31f9d6155f9abcfbc6a9c5af5b4150",
        by_path(r"NEU-DET/IMAGES/(?P<label>[a-z_-]+?)_\d+\.jpg"),
    ),
    PhotoSet(
        "solar_cells", "infrared camera (electroluminescence)", "zae-bayern/elpv-dataset",
        "411fd729dad19511883306aa85e52f1962cba581", solar_cells,
    ),
    PhotoSet(
        "textures", "textures", "pan8915/DeepTexture", "522f46f683af11e93673bff29f81df14f49edfb2",
        by_path(r"images/(?P<label>[^/]+)/[^/]+\.jpg"),
    ),
    PhotoSet(
        "rooms", "scenes", "emanhamed/Houses-dataset", "5e148219500558089cf5cf121b626b17fdde9b92",
        by_path(r"Houses Dataset/(?P<group>\d+)_(?P<label>[a-z]+)\.jpg"),
    ),
    PhotoSet(
        "expressions", "faces, strongly unbalanced", "muxspace/facial_expressions",
        "5fb9c13afac07c55eae8d25eb6b50af344ad60c9", expressions,
    ),
    PhotoSet(
        "blood_cells", "cells", "Shenggan/BCCD_Dataset", "d272fb14cdff6e473fafeeeba32aba5f560e9e43",
        blood_cells,
    ),
    PhotoSet(
        "characters", "documents, 120 labels", "brendenlake/omniglot",
        "057f034baf2ecb8530bc5710e5a23584d2a519cc", characters,
    ),
    PhotoSet(
        "traffic_signs", "signs, 43 labels", "hergerr/traffic-sign-recognition",
        "80c6270c952cb66ec6eda521911d5cd992788333", traffic_signs,
    ),
)  # fmt: skip


def gather(photo_set: PhotoSet, size: str, cache: Path, clones: Path | None = None) -> Path:
    """A folder with learn/<label>/*, judge/<label>/* and LIST, made once; the same on every machine.

    `size` is "small" or "all". `clones` is a folder of clones named OWNER+NAME, for a machine without
    a network; otherwise the commit is fetched from GitHub.
    """
    out = cache / size / photo_set.name
    if not out.is_dir() or not (out / LIST).is_file():
        photos = extracted(photo_set, cache, clones)
        if not out.is_dir():
            separate(photo_set, size, cache, photos)
        write_list(out, photos)
    return out


def separate(photo_set: PhotoSet, size: str, cache: Path, photos: Path) -> None:
    """Link the photos to learn from and to judge with into their folders."""
    out = cache / size / photo_set.name
    rows = scan(photos, cache / "manifests" / photo_set.name, profile=False).rows(
        ["uri", "label", "group", "status"]
    )
    kept = [row for row in rows.to_pylist() if row["status"] == "ok"]
    common = Counter(row["label"] for row in kept)
    kept = [row for row in kept if common[row["label"]] >= FEWEST]
    learn, judge = divided([(row["uri"], str(row["group"])) for row in kept], *sizes(size))
    making = out.with_name(out.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    labels = {row["uri"]: row["label"] for row in kept}
    known = {labels[uri] for uri in learn}
    for role, uris in (("learn", learn), ("judge", judge)):
        for uri in uris:
            if labels[uri] in known:
                target = making / role / labels[uri] / Path(uri).name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(local(uri, photos))
    making.rename(out)


def write_list(out: Path, photos: Path) -> None:
    """LIST of the photos to learn from: path, label, and the group that the set states."""
    with photos.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (out / "learn" / row["path"]).is_file()]
    making = out / f"{LIST}.making"
    with making.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group"])
        table.writerows((f"learn/{row['path']}", row["label"], row["group"]) for row in rows)
    making.rename(out / LIST)


def with_wrong_labels(photos: Path, share: float) -> Path:
    """The folder of `gather` with another label for a share of the photos to learn from, made once.

    Which photos and labels depends on the photos' names only. The photos to judge with keep their labels.
    """
    out = photos.parent.with_name(f"{photos.parent.name}-wrong-{share:g}") / photos.name
    if out.is_dir():
        return out
    making = out.with_name(out.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    (making / "judge").symlink_to((photos / "judge").resolve())
    with (photos / LIST).open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = sorted({row["label"] for row in rows})
    for label in labels:
        (making / "learn" / label).mkdir(parents=True)
    drawn = {row["path"]: int(hashlib.sha256(row["path"].encode()).hexdigest()[:16], 16) for row in rows}
    with (making / LIST).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "group"])
        for row in rows:
            number, label = drawn[row["path"]], row["label"]
            if number % 10_000 < share * 10_000:
                others = [one for one in labels if one != label]
                label = others[number // 10_000 % len(others)]
            place = Path("learn") / label / Path(row["path"]).name
            (making / place).hardlink_to(photos / row["path"])
            table.writerow([place, label, row["group"]])
    making.rename(out)
    return out


def sizes(size: str) -> tuple[int, int]:
    return {"small": SMALL, "all": LARGE}[size]


def local(uri: str, root: Path) -> Path:
    """Where a photo of the manifest lies."""
    path = Path(uri.removeprefix("file://"))
    return path if path.is_absolute() else root / path


def divided(photos: list[tuple[str, str]], learn: int, judge: int) -> tuple[list[str], list[str]]:
    """Names to learn from and to judge with: whole groups, in an order that only their names decide."""
    groups: dict[str, list[str]] = {}
    for name, group in photos:
        groups.setdefault(group, []).append(name)
    order = sorted(groups, key=lambda group: hashlib.sha256(min(groups[group]).encode()).hexdigest())
    judge = min(judge, len(photos) * 3 // 8)
    judges: list[str] = []
    learners: list[str] = []
    for group in order:
        if len(judges) < judge:
            judges += groups[group]
        elif len(learners) < learn:
            learners += groups[group]
    return sorted(learners[:learn]), sorted(judges[:judge])


def extracted(photo_set: PhotoSet, cache: Path, clones: Path | None) -> Path:
    """Class folders of all photos, and a list with the groups that the set states."""
    out = cache / "photos" / photo_set.name
    if not out.is_dir():
        making = out.with_name(out.name + ".making")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        with (making / "photos.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label", "group"])
            for label, group, name, content in photo_set.read(clone(photo_set, cache, clones)):
                place = Path(label) / (
                    hashlib.sha256(name.encode()).hexdigest()[:12] + Path(name).suffix.lower()
                )
                (making / label).mkdir(exist_ok=True)
                (making / place).write_bytes(content)
                table.writerow([place, label, group])
        making.rename(out)
    return out / "photos.csv"


def clone(photo_set: PhotoSet, cache: Path, clones: Path | None) -> Repository:
    """The repository at its commit."""
    name = photo_set.repository.replace("/", "+")
    for place in (clones / name / "repo", clones / name) if clones else ():
        if (place / "objects").is_dir():
            return Repository(place, photo_set.commit)
    folder = cache / "clones" / name
    if not (folder / "FETCH_HEAD").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "-C", str(folder), "init", "--bare", "-q"], check=True)
        address = f"https://github.com/{photo_set.repository}"
        subprocess.run(
            ["git", "-C", str(folder), "fetch", "-q", "--depth", "1", address, photo_set.commit], check=True
        )
    return Repository(folder, photo_set.commit)
