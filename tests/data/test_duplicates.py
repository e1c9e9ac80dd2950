"""Near-duplicates: exact search, planted truths, and groups that stay small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from catflap.data import duplicates
from catflap.data.duplicates import (
    CONFIRMED,
    NEAR,
    STRICTER,
    Pairs,
    bounded_groups,
    confirmed_pairs,
    joined,
    load_embeddings,
    lookalike_pairs,
    near_pairs,
)
from catflap.data.examine import examine_photo
from catflap.data.listing import reference
from catflap.data.phash import MIRROR, SIDE, likeness, signature
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.errors import CatflapError
from tests.data.photos import class_folders, draw, encoded


def hashes(count: int, kind: str, seed: int = 0) -> np.ndarray:
    """Random hashes with one in ten a near copy of another, evenly spread or with bits that hang together."""
    dice = np.random.default_rng(seed)
    found = dice.integers(0, 2**64, count, dtype=np.uint64)
    if kind == "correlated":
        found &= np.uint64(0xFFFF_0F0F_00FF_1111)
        found |= found << np.uint64(1) & np.uint64(0x0000_F0F0_FF00_2222)
    for row in range(0, count, 10):
        for bit in dice.integers(0, 64, row % 7):
            found[row] = found[row - 1] ^ np.uint64(1 << int(bit)) if row else found[row]
    found[5::50] = found[4::50]
    return found


@pytest.mark.parametrize("kind", ["even", "correlated"])
@pytest.mark.parametrize("distance", [0, 1, 4, 6])
def test_the_search_finds_exactly_what_comparing_all_finds(kind: str, distance: int) -> None:
    found = hashes(3000, kind)
    first, second, mirrored = near_pairs(found, distance, sure=max(4, distance))
    differences = np.bitwise_count(found[:, None] ^ found[None, :])
    one, other = np.nonzero(np.triu(differences <= distance, 1))
    assert not mirrored.any()
    assert pairs_of(first, second) == pairs_of(one, other)
    assert len(first) == len(one)


def test_what_is_beyond_the_sure_bits_is_mostly_found_and_never_depends_on_others() -> None:
    dice = np.random.default_rng(0)
    found = dice.integers(0, 2**64, 4000, dtype=np.uint64)
    for row in range(0, 4000, 2):
        found[row + 1] = found[row]
        for bit in dice.choice(64, 5 + row % 4 // 2, replace=False):
            found[row + 1] ^= np.uint64(1 << int(bit))
    pairs = pairs_of(*near_pairs(found, 6)[:2])
    assert 0.8 < len([pair for pair in pairs if pair[0] % 4 == 0]) / 1000 < 0.95
    assert 0.6 < len([pair for pair in pairs if pair[0] % 4 == 2]) / 1000 < 0.8
    fewer = pairs_of(*near_pairs(found[:1000], 6)[:2])
    assert fewer == {pair for pair in pairs if max(pair) < 1000}


def test_the_search_finds_mirrored_copies() -> None:
    found = hashes(2000, "even")
    found[1::20] = found[0::20] ^ np.uint64(MIRROR)
    first, second, mirrored = near_pairs(found, 4, mirror=MIRROR)
    turned = np.bitwise_count(found[:, None] ^ found[None, :] ^ np.uint64(MIRROR)) <= 4
    one, other = np.nonzero(np.triu(turned, 1))
    assert pairs_of(first[mirrored], second[mirrored]) == pairs_of(one, other)
    plain = np.nonzero(np.triu(np.bitwise_count(found[:, None] ^ found[None, :]) <= 4, 1))
    assert pairs_of(first[~mirrored], second[~mirrored]) == pairs_of(*plain)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_hashes_are_no_trouble(count: int) -> None:
    assert [len(part) for part in near_pairs(hashes(count, "even"), 4, mirror=MIRROR)] == [0, 0, 0]


def test_a_thousand_equal_hashes_are_one_group_without_a_million_pairs() -> None:
    found = np.full(1000, 12345, np.uint64)
    first, second, _ = near_pairs(found, 4)
    assert len(first) < 10_000
    assert (joined(1000, first, second) == 0).all()


def pairs_of(first: np.ndarray, second: np.ndarray) -> set[tuple[int, int]]:
    return {(min(pair), max(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}


CHANGES: dict[str, tuple[float, Callable[[Image.Image], Image.Image]]] = {
    "re-encoded": (1.0, lambda image: image),
    "half the size": (1.0, lambda image: image.resize((image.width // 2, image.height // 2))),
    "a third of the size": (1.0, lambda image: image.resize((image.width // 3, image.height // 3))),
    "another aspect": (1.0, lambda image: image.resize((100, 100))),
    "grey": (1.0, lambda image: image.convert("L")),
    "mirrored": (1.0, ImageOps.mirror),
    "less contrast": (1.0, lambda image: ImageEnhance.Contrast(image).enhance(0.7)),
    "cropped by 2 %": (0.9, lambda image: cropped(image, 0.02)),
}


def cropped(image: Image.Image, share: float) -> Image.Image:
    left, top = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((left, top, image.width - left, image.height - top))


@pytest.mark.parametrize("change", CHANGES)
def test_planted_copies_are_found_and_nothing_else(change: str, tmp_path: Path) -> None:
    """Of 60 photos half have a changed copy; recall as stated, and no pair that was not planted."""
    recall, make = CHANGES[change]
    images = [draw(number, 320, 240) for number in range(60)]
    copies = [make(image) for image in images[::2]]
    found = signatures(tmp_path, [*images, *copies], quality=75)
    pairs = pairs_of(found.first, found.second)
    planted = {(2 * number, 60 + number) for number in range(30)}
    assert pairs <= planted
    assert len(pairs) >= recall * 30


def signatures(folder: Path, images: list[Image.Image], quality: int) -> Pairs:
    phashes, thumbs = examined(folder, images, quality)
    return confirmed_pairs(phashes, lambda places: thumbs[places])


def examined(folder: Path, images: list[Image.Image], quality: int) -> tuple[np.ndarray, np.ndarray]:
    rows = []
    for number, image in enumerate(images):
        (folder / f"{number}.jpg").write_bytes(encoded(image, quality=quality))
        rows.append(examine_photo(reference(str(folder / f"{number}.jpg"), "")))
    thumbs = np.stack([np.frombuffer(row["thumb"], np.uint8) for row in rows])
    return np.array([row["phash"] for row in rows], np.uint64), thumbs


def test_mirroring_flips_exactly_the_odd_columns() -> None:
    grey = np.asarray(draw(1).convert("L"))
    one = signature(grey, grey.shape)
    other = signature(grey[:, ::-1], grey.shape)
    assert one.phash is not None
    assert other.phash is not None
    assert (one.phash ^ other.phash ^ MIRROR).bit_count() <= 1
    assert MIRROR.bit_count() == SIDE


def test_a_flat_photo_has_no_hash() -> None:
    assert signature(np.full((40, 40), 7, np.uint8), (40, 40)).phash is None


def test_a_chain_stays_together_until_it_grows_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of 150 frames with one weak link: 100 is the limit, so the link is cut there and only there."""
    alike = np.full(149, 0.97, np.float32)
    alike[74] = 0.93
    chain = Pairs(np.arange(149), np.arange(1, 150), alike)
    group, cut = bounded_groups(1000, chain)
    assert cut == 1
    assert np.unique(group[:150]).tolist() == [0, 75]
    short = Pairs(np.arange(90), np.arange(1, 91), alike[:90])
    group, cut = bounded_groups(1000, short)
    assert (cut, np.unique(group[:91]).tolist()) == (0, [0])
    copies = Pairs(np.arange(499), np.arange(1, 500), np.full(499, 0.999, np.float32))
    group, cut = bounded_groups(1000, copies)
    assert (cut, np.unique(group[:500]).tolist()) == (0, [0])
    assert CONFIRMED < STRICTER[0] < STRICTER[-1]


def test_joining_follows_chains_of_any_length() -> None:
    dice = np.random.default_rng(0)
    order = dice.permutation(5000)
    group = joined(6000, order[:-1], order[1:])
    assert (group[:5000] == 0).all()
    assert (group[5000:] == np.arange(5000, 6000)).all()


def test_frames_of_one_camera_are_grouped_as_if_every_pair_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "LARGE", 20)
    monkeypatch.setattr(duplicates, "PAIRS_AT_ONCE", 64)  # so that pairs are judged in many turns
    frames = [frame_of_one_camera(number) for number in range(120)]
    phashes, thumbs = examined(tmp_path, frames, quality=75)
    first, second, mirrored = near_pairs(phashes, NEAR, mirror=MIRROR)
    alike = likeness(thumbs[first], thumbs[second])
    sure = (alike >= CONFIRMED) & ~mirrored
    every = Pairs(first[sure], second[sure], alike[sure])
    found = confirmed_pairs(phashes, lambda places: thumbs[places])
    assert len(every.first) > 10 * len(frames)
    assert len(found.first) < len(frames)
    group, cut = bounded_groups(len(frames), every)
    assert cut
    assert 2 < len(np.unique(group)) < len(frames) * 2 / 3
    assert bounded_groups(len(frames), found)[0].tolist() == group.tolist()


def frame_of_one_camera(number: int) -> Image.Image:
    """A scene in changing light, with noise, and in two of three frames with something in it."""
    dice = np.random.default_rng(number)
    pixels = np.asarray(draw(7, 160, 120)) * dice.uniform(0.6, 1.2) + dice.normal(0, 6, (120, 160, 3))
    if number % 3:
        side, top, left = dice.integers(10, 40), dice.integers(0, 80), dice.integers(0, 120)
        pixels[top : top + side, left : left + side] = dice.uniform(0, 255, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_lookalikes_by_embedding_share_a_role(tmp_path: Path) -> None:
    manifest = scan(class_folders(tmp_path / "photos", 40), tmp_path / "m", workers=1)
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(80, 16)).astype(np.float32)
    vectors[1::2] = vectors[0::2] + 0.01 * dice.normal(size=(40, 16))
    plain = prepare(manifest, tmp_path / "plain")
    joint = prepare(manifest, tmp_path / "joint", embeddings=vectors)
    assert plain.made_from != joint.made_from
    ids = manifest.rows(["id"])["id"].to_pylist()
    role = {id: name for name in joint.roles for id in joint.photos(name).ids.tolist()}
    assert all(role[ids[row]] == role[ids[row + 1]] for row in range(0, 80, 2))
    with pytest.raises(CatflapError, match="79 embeddings for 80 photos"):
        prepare(manifest, tmp_path / "short", embeddings=vectors[:79])


@pytest.mark.slow
def test_many_embeddings_are_searched_by_an_index() -> None:
    pytest.importorskip("usearch")
    dice = np.random.default_rng(0)
    vectors = dice.normal(size=(21_000, 32)).astype(np.float32)
    vectors[20_000:] = vectors[:1000] + 0.02 * dice.normal(size=(1000, 32))
    first, second = lookalike_pairs(vectors)
    found = pairs_of(first, second)
    planted = {(row, 20_000 + row) for row in range(1000)}
    assert len(found & planted) >= 950
    assert found <= planted


def test_embeddings_that_cannot_be_compared(tmp_path: Path) -> None:
    for vectors in (np.zeros((3, 4), np.float32), np.full((3, 4), np.nan), np.ones(3)):
        with pytest.raises(CatflapError):
            lookalike_pairs(vectors)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "numbers.npy", np.arange(4))
    for name in ("objects.npy", "numbers.npy", "none.npy"):
        with pytest.raises(CatflapError):
            load_embeddings(tmp_path / name)
