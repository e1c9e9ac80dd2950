"""Which photos show the same: near perceptual hashes, confirmed by small pictures, or near embeddings.

1. Near hashes: all pairs of 64-bit hashes within a few bits of each other, among millions. Pigeonhole
   principle: cut a hash into `sure + 2` blocks; two hashes that differ in at most `sure` bits are equal in at
   least two blocks. So for every choice of two blocks the hashes are sorted by these blocks and only
   neighbours with the same key are compared (Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web
   Crawling", 2007). The sort moves whole hashes, not positions, so that memory is read in order; positions
   are looked up at the end, for the few pairs that are near. Whether two hashes are found depends on these
   two alone, so that adding photos changes no old pair.
2. Confirmed pairs: a pair that the hashes suggest counts only when the small pictures are similar too
   (phash.likeness).
3. Groups: confirmed pairs are joined transitively, so a chain of frames stays together. In a group of more
   than max(100, a thousandth of all photos), and only there, the required likeness rises step by step until
   its pieces are small enough. Photos that are similar to the last step stay together whatever their number:
   those are copies.
4. Look-alikes: photos whose embeddings nearly coincide; the one place that uses usearch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from catflap.artifacts.dataset import Positions
from catflap.data.phash import MIRROR, likeness, mirror_thumbs
from catflap.errors import CatflapError, missing_extra
from catflap.image import Pixels

Hashes: TypeAlias = npt.NDArray[np.uint64]
Found: TypeAlias = tuple[Positions, Positions, npt.NDArray[np.bool_]]  # pairs, and which are mirrored
Block: TypeAlias = tuple[int, int]  # lowest bit and width

CHUNK = 1 << 16  # hashes; what fits into the cache while bits are moved
MANY = 1 << 20  # hashes; fewer are searched by one thread
THREADS = 2
SURE = 4  # bits
SPARE = 2  # blocks of a key; three are more sorts, one is more comparisons
WIDEST = 1 << 12  # hashes under one key; each is compared with that many neighbours at most
EQUAL = 8  # photos with one hash that represent all of them
PAIRS_IN_MEMORY = 1 << 20  # beside those that are kept


@dataclass(frozen=True)
class Near:
    """Photos with near hashes; `blocks` gives them as pairs of positions, as often as needed.

    `order` sorts the photos by hash; each hash has a run of photos there, with its start and length.
    `values` are pairs of different hashes by number, and whether they are near when mirrored.
    """

    order: Positions
    starts: Positions
    runs: Positions
    values: list[tuple[Positions, Positions, bool]]

    def blocks(self, most: int = PAIRS_IN_MEMORY) -> Iterator[Found]:
        """All pairs, each once, those of equal hashes first; of the others about `most` at a time."""
        yield from map(self._placed, _equal_pairs(self.starts, self.runs))
        for one, other, mirrored in self.values:
            yield from map(self._placed, _row_pairs(self.starts, self.runs, one, other, mirrored, most))

    def _placed(self, found: Found) -> Found:
        first, second = self.order[found[0]], self.order[found[1]]
        return np.minimum(first, second), np.maximum(first, second), found[2]


def near_pairs(hashes: Hashes, distance: int, *, sure: int = SURE, mirror: int = 0) -> Found:
    """The pairs of `near_hashes` at once: positions, the smaller first, and which pairs are mirrored."""
    blocks = near_hashes(hashes, distance, sure=sure, mirror=mirror).blocks()
    first, second, mirrored = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return first, second, mirrored


def near_hashes(hashes: Hashes, distance: int, *, sure: int = SURE, mirror: int = 0) -> Near:
    """Pairs of photos whose hashes differ in at most `distance` bits, and which pairs are mirrored.

    All pairs within `sure` bits are found, and of those that differ more, as many as have two equal
    blocks: with 4 sure bits, 9 in 10 that differ in 5 bits and 7 in 10 that differ in 6. With
    `mirror`, the bits that a mirrored photo has flipped, pairs that are near after mirroring one of
    them are found too. Of more than 8 equal hashes each is paired with the 8 that follow it, and 8
    represent all of them towards other hashes.
    """
    order, values, starts, runs = _runs(_scatter(hashes))
    flip = int(_scatter(np.array([mirror], dtype=np.uint64))[0])
    return Near(order, starts, runs, list(_value_pairs(values, (distance, sure), flip)))


def _runs(hashes: Hashes) -> tuple[Positions, Hashes, Positions, Positions]:
    """The order that sorts hashes, each hash once, and where its run starts and how long it is."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else order
    return order, ordered[starts], starts, np.diff(np.append(starts, len(order)))


def near_values(values: Hashes, distance: int, sure: int) -> tuple[Hashes, Hashes]:
    """Pairs of different hashes within `distance` bits, as near_pairs finds them; takes each hash once."""
    blocks = _blocks(sure + SPARE)
    choices = list(combinations(range(len(blocks)), SPARE))
    first_choice = _first_choices(len(blocks), choices)

    def search(number: int) -> tuple[Hashes, Hashes]:
        return _search(values, distance, blocks, choices[number], number, first_choice)

    with ThreadPoolExecutor(THREADS if len(values) > MANY else 1) as pool:
        found = list(pool.map(search, range(len(choices))))
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _search(
    values: Hashes,
    distance: int,
    blocks: list[Block],
    chosen: tuple[int, ...],
    number: int,
    first_choice: npt.NDArray[np.int64],
) -> tuple[Hashes, Hashes]:
    """The near pairs that are equal in the chosen blocks, and not already in an earlier choice."""
    moved = [blocks[place] for place in chosen]
    rest = [block for place, block in enumerate(blocks) if place not in chosen]
    key_bits = sum(width for _, width in moved)
    ordered = _move(values, [*moved, *rest])
    ordered.sort()
    found: list[tuple[Hashes, Hashes]] = []
    pairs: list[tuple[Hashes, Hashes]] = []

    def sift() -> None:
        one, other = (_move_back(np.concatenate(part), [*moved, *rest]) for part in zip(*pairs, strict=True))
        equal = np.zeros(len(one), dtype=np.int64)
        for place, (low, width) in enumerate(blocks):
            same = ((one ^ other) >> np.uint64(low)) & np.uint64((1 << width) - 1) == 0
            equal |= same.astype(np.int64) << place
        mine = first_choice[equal] == number
        found.append((one[mine], other[mine]))

    held = 0
    for one, other in _same_key(ordered, 64 - key_bits):
        near = np.flatnonzero(np.bitwise_count(one ^ other) <= distance)
        pairs.append((one[near], other[near]))
        held += len(near)
        if held > PAIRS_IN_MEMORY:
            sift()
            pairs, held = [], 0
    pairs.append((values[:0], values[:0]))
    sift()
    return np.concatenate([one for one, _ in found]), np.concatenate([other for _, other in found])


def _same_key(ordered: Hashes, low_bits: int) -> Iterator[tuple[Hashes, Hashes]]:
    """Blocks of pairs in a sorted array that are equal above the low bits."""
    limit = np.uint64(1 << low_bits)
    for start in range(0, len(ordered), CHUNK):
        part = ordered[start : start + CHUNK + WIDEST]
        same = np.flatnonzero((part[:-1] ^ part[1:])[:CHUNK] < limit)
        for step in range(1, WIDEST):
            one, other = part[same], part[same + step]
            equal = (one ^ other) < limit
            same, one, other = same[equal], one[equal], other[equal]
            if not len(same):
                break
            yield one, other
            same = same[: np.searchsorted(same, len(part) - step - 1)]


def _blocks(count: int) -> list[Block]:
    edges = [64 * place // count for place in range(count + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]


def _first_choices(count: int, choices: list[tuple[int, ...]]) -> npt.NDArray[np.int64]:
    """For each set of equal blocks, as bits, the number of the first choice that lies within it."""
    first = np.full(1 << count, -1, dtype=np.int64)
    sets = np.arange(1 << count)
    for number in reversed(range(len(choices))):
        mask = sum(1 << place for place in choices[number])
        first[(sets & mask) == mask] = number
    return first


def _move(values: Hashes, blocks: list[Block]) -> Hashes:
    """The bits of each hash with the blocks in that order from the top."""
    moved = np.empty_like(values)
    for start in range(0, len(values), CHUNK):
        part = values[start : start + CHUNK]
        total, place = np.zeros_like(part), 64
        for low, width in blocks:
            place -= width
            total |= ((part >> np.uint64(low)) & np.uint64((1 << width) - 1)) << np.uint64(place)
        moved[start : start + CHUNK] = total
    return moved


def _move_back(moved: Hashes, blocks: list[Block]) -> Hashes:
    values, place = np.zeros_like(moved), 64
    for low, width in blocks:
        place -= width
        values |= ((moved >> np.uint64(place)) & np.uint64((1 << width) - 1)) << np.uint64(low)
    return values


def _scatter(hashes: Hashes) -> Hashes:
    """Interleave the bits over eight bytes: neighbouring bits are correlated, and a key needs variety."""
    scattered = np.zeros(len(hashes), dtype=np.uint64)
    for byte in range(8):
        table = np.zeros(256, dtype=np.uint64)
        for bit in range(8):
            source = 8 * byte + bit
            has = ((np.arange(256) >> bit) & 1).astype(np.uint64)
            table |= has << np.uint64(8 * (source % 8) + source // 8)
        for start in range(0, len(hashes), CHUNK):
            part = hashes[start : start + CHUNK]
            scattered[start : start + CHUNK] |= table[(part >> np.uint64(8 * byte)) & np.uint64(255)]
    return scattered


def _value_pairs(
    values: Hashes, within: tuple[int, int], flip: int
) -> Iterator[tuple[Positions, Positions, bool]]:
    """Pairs of places in the sorted array of hashes, plain ones and then mirrored ones."""
    if not flip:
        one, other = near_values(values, *within)
        yield np.searchsorted(values, one), np.searchsorted(values, other), False
        return
    one, other = near_values(_with_mirrored(values, flip), *within)
    yield *_both_in(values, one, other), False
    turned = [(one, other), (other, one), (values, values)]  # at last the exact mirror images
    found = [_both_in(values, one, other, flip) for one, other in turned]
    first, second = (np.concatenate(part) for part in zip(*found, strict=True))
    ahead = first <= second
    pairs = np.unique(np.stack([first[ahead], second[ahead]]), axis=1)
    yield pairs[0], pairs[1], True


def _with_mirrored(values: Hashes, flip: int) -> Hashes:
    """Hashes and those of the mirrored photos, each once."""
    both = np.concatenate([values, values ^ np.uint64(flip)])
    both.sort()
    new = np.concatenate([[True], both[1:] != both[:-1]]) if len(both) else np.empty(0, bool)
    unique: Hashes = both[new]
    return unique


def _both_in(values: Hashes, one: Hashes, other: Hashes, flip: int = 0) -> tuple[Positions, Positions]:
    """The numbers of those pairs of hashes that are both there, the other one with flipped bits."""
    last, found = len(values) - 1, []
    for start in range(0, max(1, len(one)), PAIRS_IN_MEMORY):
        left, right = (
            one[start : start + PAIRS_IN_MEMORY],
            other[start : start + PAIRS_IN_MEMORY] ^ np.uint64(flip),
        )
        first, second = np.searchsorted(values, left), np.searchsorted(values, right)
        both = (values[np.minimum(first, last)] == left) & (values[np.minimum(second, last)] == right)
        found.append((first[both], second[both]))
    return np.concatenate([first for first, _ in found]), np.concatenate([second for _, second in found])


def _equal_pairs(starts: Positions, runs: Positions) -> Iterator[Found]:
    """Neighbours among equal hashes, at most EQUAL places apart."""
    rows = int(runs.sum())
    end = np.repeat(starts + runs, runs)
    for step in range(1, EQUAL + 1):
        first = np.flatnonzero(np.arange(rows) + step < end)
        yield first, first + step, np.zeros(len(first), dtype=bool)


def _row_pairs(
    starts: Positions, runs: Positions, one: Positions, other: Positions, mirrored: bool, most: int
) -> Iterator[Found]:
    """Pairs of hashes as pairs of rows: up to EQUAL rows of the one times EQUAL rows of the other."""
    ends = np.cumsum(np.minimum(runs[one], EQUAL) * np.minimum(runs[other], EQUAL))
    cuts = np.searchsorted(ends, np.arange(0, ends[-1] + most, most), "right") if len(ends) else ends
    for start, stop in pairwise(cuts.tolist()):
        left, right = one[start:stop], other[start:stop]
        wide = np.minimum(runs[right], EQUAL)
        times = np.minimum(runs[left], EQUAL) * wide
        pair = np.repeat(np.arange(stop - start), times)
        down, across = np.divmod(np.arange(len(pair)) - (np.cumsum(times) - times)[pair], wide[pair])
        apart = (left != right)[pair] | (down < across)
        first, second = (starts[left][pair] + down)[apart], (starts[right][pair] + across)[apart]
        yield first, second, np.full(len(first), mirrored)


Thumbs: TypeAlias = Callable[[Positions], Pixels]

NEAR = 6  # bits in which the hashes may differ
CONFIRMED = 0.92  # likeness that confirms a pair; resized, re-encoded or 2 % cropped copies reach 0.95
STRICTER = (0.95, 0.98, 0.995)  # for groups that grew too large; re-encoded copies reach 0.998
LARGE = 100  # photos in a group; or one photo in LARGE_SHARE of all
LARGE_SHARE = 1000
LARGE_OF_FEW, SMALL_SHARE = 10, 4  # of few photos a quarter: those of a fixed camera look like copies
PAIRS_AT_ONCE = 1 << 14  # that are confirmed together


@dataclass(frozen=True)
class Pairs:
    """Confirmed near-duplicates: positions (n,), the smaller first, and their likeness (n,)."""

    first: Positions
    second: Positions
    likeness: npt.NDArray[np.float32]

    def take(self, places: npt.NDArray[np.integer | np.bool_]) -> Pairs:
        """The pairs at some places."""
        return Pairs(self.first[places], self.second[places], self.likeness[places])


def confirmed_pairs(hashes: Hashes, thumbs: Thumbs) -> Pairs:
    """Near-duplicates among photos with these hashes, plain or mirrored; of n photos n - 1 pairs at most.

    Of pairs whose photos are already joined through others, at each likeness that may be required, none
    is kept, and none is confirmed once the strictest likeness joins them. `thumbs` gives the small pictures
    at sorted positions, uint8 (n, 256); it is called once, for the photos that some hash suggests.
    """
    near = near_hashes(hashes, NEAR, mirror=MIRROR)
    suggested = np.zeros(len(hashes), dtype=bool)
    for first, second, _ in near.blocks():
        suggested[first] = suggested[second] = True
    involved = np.flatnonzero(suggested)
    number, pictures = np.cumsum(suggested) - 1, thumbs(involved)
    root, waiting = np.arange(len(involved)), 0
    kept = [Pairs(root[:0], root[:0], np.empty(0, np.float32))]
    for first, second, mirrored in near.blocks():
        for start in range(0, len(first), PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            one, other = number[first[part]], number[second[part]]
            new = root[one] != root[other]
            kept.append(_confirm(one[new], other[new], mirrored[part][new], pictures))
            waiting += len(kept[-1].first)
            if waiting >= len(involved):
                kept, root, waiting = *_spanning(len(involved), kept), 0
    (pairs,), _ = _spanning(len(involved), kept)
    return Pairs(involved[pairs.first], involved[pairs.second], pairs.likeness)


def _confirm(first: Positions, second: Positions, mirrored: npt.NDArray[np.bool_], pictures: Pixels) -> Pairs:
    """Those of suggested pairs that the small pictures confirm."""
    other = pictures[second]
    other[mirrored] = mirror_thumbs(other[mirrored])
    found = likeness(pictures[first], other)
    return Pairs(first, second, found).take(found >= CONFIRMED)


def _spanning(count: int, found: list[Pairs]) -> tuple[list[Pairs], Positions]:
    """The pairs that suffice to join photos at each likeness, as one, and the roots at the strictest."""
    first, second = (np.concatenate([getattr(part, name) for part in found]) for name in ("first", "second"))
    pairs = Pairs(first, second, np.concatenate([part.likeness for part in found]))
    root, roots, kept = np.arange(count), [], []
    for lowest in (*reversed(STRICTER), CONFIRMED):
        here = np.flatnonzero(pairs.likeness >= lowest)
        kept.append(here[_join(root, first[here], second[here])])
        roots.append(root.copy())
    return [pairs.take(np.concatenate(kept))], roots[0]


def bounded_groups(count: int, pairs: Pairs) -> tuple[Positions, int]:
    """The group of each of `count` photos, named by its first position, and how many chains were cut."""
    chained = group = joined(count, pairs.first, pairs.second)
    limit = max(min(LARGE, max(LARGE_OF_FEW, count // SMALL_SHARE)), count // LARGE_SHARE)
    kept = np.ones(len(pairs.first), dtype=bool)
    for required in STRICTER:
        large = np.bincount(group, minlength=count) > limit
        if not large.any():
            break
        kept &= ~large[group[pairs.first]] | (pairs.likeness >= required)
        group = joined(count, pairs.first[kept], pairs.second[kept])
    return group, len(np.unique(chained[chained != group]))


def joined(count: int, first: Positions, second: Positions) -> Positions:
    """The smallest position that each position is connected to through pairs, shape (count,)."""
    root = np.arange(count)
    _join(root, first, second)
    return root


def _join(root: Positions, first: Positions, second: Positions) -> Positions:
    """Join what pairs connect: `root` becomes the smallest position; returns the pairs that were needed."""
    places, last = np.arange(len(first)), np.empty_like(root)
    taken: list[Positions] = []
    while True:
        one, other = root[first], root[second]
        low, high = np.minimum(one, other), np.maximum(one, other)
        apart = low != high
        if not apart.any():
            return np.concatenate([*taken, places[:0]])
        first, second, places, low, high = (part[apart] for part in (first, second, places, low, high))
        np.minimum.at(root, high, low)
        joins = root[high] == low
        last[high[joins]] = places[joins]
        taken.append(places[joins][last[high[joins]] == places[joins]])  # one pair for each join
        while not np.array_equal(above := root[root], root):
            root[:] = above


LOOKALIKE = 0.96  # cosine
NEIGHBOURS = 8
EXACT = 20_000  # rows; up to this all pairs are compared, above it a graph index is used
ROWS_AT_ONCE = 1024

Vectors = npt.NDArray[np.floating]


def load_embeddings(path: Path) -> Vectors:
    """Embeddings from a .npy file of floats, (n, d); no objects are loaded."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CatflapError(f"{path} cannot be read: {error}.", "Save it with numpy.save.") from error
    if not isinstance(found, np.ndarray) or not np.issubdtype(found.dtype, np.floating):
        raise CatflapError(
            f"{path} is not an array of floats.", "Save one row of floats a photo with numpy.save."
        )
    return found


def lookalike_pairs(embeddings: Vectors) -> tuple[Positions, Positions]:
    """Pairs of rows (first < second) whose cosine is at least LOOKALIKE; takes (n, d) of any float type.

    Up to 20,000 rows all pairs are compared; above, each row's 8 nearest by usearch's HNSW index
    (Malkov and Yashunin, 2016), which misses a few. Raises CatflapError for rows of zeros.
    """
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise CatflapError(
            f"Embeddings of the shape {embeddings.shape} cannot be compared.",
            "Give finite numbers, one row a photo.",
        )
    lengths = np.linalg.norm(embeddings.astype(np.float32), axis=1, keepdims=True)
    if (lengths == 0).any():
        raise CatflapError("Some embeddings are all zero.", "Compute the embeddings again.")
    unit = embeddings.astype(np.float32) / lengths
    return _all_pairs(unit) if len(unit) <= EXACT else _nearest_pairs(unit)


def _all_pairs(unit: npt.NDArray[np.float32]) -> tuple[Positions, Positions]:
    found = []
    for start in range(0, len(unit), ROWS_AT_ONCE):
        one, other = np.nonzero(unit[start : start + ROWS_AT_ONCE] @ unit[start:].T >= LOOKALIKE)
        ahead = one < other
        found.append(np.stack([one[ahead], other[ahead]]) + start)
    pairs = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    return pairs[0], pairs[1]


def _nearest_pairs(unit: npt.NDArray[np.float32]) -> tuple[Positions, Positions]:
    try:
        from usearch.index import Index
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    index = Index(ndim=unit.shape[1], metric="cos", dtype="f16")
    index.add(np.arange(len(unit)), unit)
    matches = index.search(unit, NEIGHBOURS + 1)
    first = np.repeat(np.arange(len(unit)), matches.keys.shape[1])
    second = matches.keys.ravel().astype(np.int64)
    near = (matches.distances.ravel() <= 1 - LOOKALIKE) & (first != second)
    low, high = np.minimum(first, second)[near], np.maximum(first, second)[near]
    pairs = np.unique(np.stack([low, high]), axis=1)
    return pairs[0], pairs[1]
