"""Series by file name: photos named like frames of tracks, bursts or persons, which look alike, too.

Near-duplicates share a role by themselves; frames of one scene that differ more do not, and a test photo
beside its neighbour in train makes a model look better than it is. Names such as 00012_00003.png are a sign
of such series. They count only if photos of one series are more alike than those of different series.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

LAST_NUMBER = re.compile(r"(.*?)\d+\D*")
COMPARED = 500  # pairs of a block of the table: enough, and cheap beside reading the photos
FEWEST = 10  # series; two or three are rather sources than scenes
SHARE = 0.25  # of the photos in series, from which they are worth a word
ALIKE, SURELY = 0.55, 0.52  # how often the photo of the same series is the nearer one; the lower bound (95 %)


@dataclass
class Series:
    """What was counted: photos, those in series, series, and comparisons with what the same series won.

    `example` is the name of a photo in a series; `stated` is whether the source states groups.
    """

    photos: int = 0
    members: int = 0
    series: int = 0
    compared: int = 0
    won: float = 0.0
    example: str = ""
    stated: bool = False

    @property
    def alike(self) -> float:
        """How often a photo is nearer to one of its series than to another of its label; 0.5 is chance."""
        return self.won / self.compared if self.compared else 0.5

    @property
    def suspicious(self) -> bool:
        """Whether many photos are in series, and look like it."""
        low = self.alike - 1.96 * (0.25 / max(1, self.compared)) ** 0.5
        many = self.series >= FEWEST and self.members >= SHARE * self.photos
        return not self.stated and many and self.alike >= ALIKE and low >= SURELY


def count_series(rows: pa.Table, counts: Series) -> None:
    """Count a block of the photos that are ok: uri, label, phash and user_group.

    Series that lie in several blocks count in each; the table has the order of the files' names.
    """
    columns = (rows[name].to_pylist() for name in ("label", "uri", "phash", "user_group"))
    listed = list(zip(*columns, strict=True))
    counts.photos += len(listed)
    counts.stated = counts.stated or any(group for *_, group in listed)
    hashed = sorted((label, _series(uri), uri, phash) for label, uri, phash, _ in listed if phash is not None)
    step = -(-len(hashed) // COMPARED)
    for _, photos in groupby(hashed, key=lambda photo: photo[0]):
        label = list(photos)
        runs = [list(run) for _, run in groupby(label, key=lambda photo: photo[1])]
        if len(runs) < 2:
            continue
        start = 0
        for run in runs:
            if len(run) > 1 and run[0][1]:
                counts.series += 1
                counts.members += len(run)
                counts.example = counts.example or run[0][2].rpartition("/")[2]
                for place in range(-start % step, len(run), step):
                    _compare(run, place, label, start, counts)
            start += len(run)


def _compare(run: list[Any], place: int, label: list[Any], start: int, counts: Series) -> None:
    """Compare a photo of a run with its neighbour and with a photo half a label away."""
    others = len(label) - len(run)
    other = label[(start + len(run) + (place + others // 2) % others) % len(label)]
    near, far = ((run[place][3] ^ photo[3]).bit_count() for photo in (run[(place + 1) % len(run)], other))
    counts.compared += 1
    counts.won += (near < far) + 0.5 * (near == far)


def _series(uri: str) -> str:
    """The path up to the last number of the file's name; "" without one."""
    folder, slash, name = uri.rpartition("/")
    found = LAST_NUMBER.fullmatch(name.rpartition(".")[0] or name)
    return f"{folder}{slash}{found[1]}" if found else ""
