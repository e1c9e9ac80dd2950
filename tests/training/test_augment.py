"""The loader: truly shuffled, shared out without overlap, resumed to the bit, and clear about bad photos."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catflap import image
from catflap.artifacts.dataset import PIXELS, SHARDS, Dataset, load_dataset
from catflap.artifacts.manifest import Manifest
from catflap.data.jpeg import plain_rgb
from catflap.data.packing import shrunk
from catflap.data.prepare import prepare
from catflap.data.scan import scan
from catflap.errors import BadArtifact, CatflapError
from catflap.exporting.golden_cases import scene
from catflap.image import Frame
from catflap.training.augment import Batch, Crops, Place, crop, load_batches, resize
from tests.data.photos import class_folders, draw, encoded

FRAME = Frame(48, 32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    source = class_folders(tmp_path_factory.mktemp("loader") / "photos", 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(8):  # what the fast decoder does not take
        picture = draw(9000 + number)
        (source / "cat" / f"turned{number}.jpg").write_bytes(encoded(picture, exif=exif))
        (source / "dog" / f"png{number}.png").write_bytes(encoded(draw(9100 + number), "PNG"))
    return scan(source, source.parent / "m", workers=1, profile=False)


@pytest.fixture(scope="module")
def dataset(manifest: Manifest) -> Dataset:
    return prepare(manifest, manifest.path.parent / "d", frame=FRAME, pixels=True, profile=False)


def loaded(dataset: Dataset, batch: int = 7, **options: object) -> list[Batch]:
    return list(load_batches(dataset.photos("train"), FRAME, batch, **{"epochs": 2, **options}))  # type: ignore[arg-type]


def same(one: list[Batch], other: list[Batch]) -> bool:
    if [batch.after for batch in one] != [batch.after for batch in other]:
        return False
    pairs = list(zip(one, other, strict=True))
    return all(np.array_equal(a, b) for x, y in pairs for a, b in zip(x[:3], y[:3], strict=True))


def test_every_photo_comes_once_an_epoch_in_an_order_of_its_own(dataset: Dataset) -> None:
    photos, batches = dataset.photos("train"), loaded(dataset)
    label_of = dict(zip(photos.ids.tolist(), photos.labels.tolist(), strict=True))
    orders = []
    for epoch in (0, 1):
        mine = batches[epoch * len(batches) // 2 : (epoch + 1) * len(batches) // 2]
        order = np.concatenate([batch.ids for batch in mine]).tolist()
        assert sorted(order) == sorted(photos.ids.tolist())
        assert np.concatenate([batch.labels for batch in mine]).tolist() == [label_of[id] for id in order]
        orders.append(order)
    assert orders[0] != orders[1]
    assert {(batch.frames.dtype.name, batch.frames.shape[1:]) for batch in batches} == {
        ("uint8", (32, 48, 3))
    }
    assert [len(batch.ids) for batch in batches[: len(batches) // 2]][:-1] == [7] * (len(batches) // 2 - 1)


def test_the_shuffle_is_true(dataset: Dataset) -> None:
    """Over 300 epochs each photo's mean place is the middle, and neighbours are never the same pairs."""
    photos = dataset.photos("train")
    count, places, pairs = len(photos), np.zeros(len(photos)), set()
    place_of = {id: place for place, id in enumerate(photos.ids.tolist())}
    blank = np.zeros((count, 4, 4, 3), np.uint8)
    for batch in load_batches(photos, Frame(8, 8), count, epochs=300, pixels=blank, workers=1):
        order = [place_of[id] for id in batch.ids.tolist()]
        places[order] += np.arange(count)
        pairs |= set(pairwise(order))
    spread = count / np.sqrt(12 * 300)
    assert np.abs(places / 300 - (count - 1) / 2).max() < 5 * spread
    assert len(pairs) > 0.95 * count * (count - 1)


@pytest.mark.parametrize("done", range(20))
def test_it_goes_on_bit_for_bit_after_any_batch(dataset: Dataset, done: int) -> None:
    whole = loaded(dataset)
    start = whole[done - 1].after if done else Place()
    assert same(loaded(dataset, start=Place(**start.to_json())), whole[done:])
    assert len(whole) == 20


def test_neither_threads_nor_batches_change_what_a_photo_looks_like(dataset: Dataset) -> None:
    whole = loaded(dataset, epochs=1)
    assert same(loaded(dataset, epochs=1, workers=5), whole)
    seen = {id: frame for batch in whole for id, frame in zip(batch.ids, batch.frames, strict=True)}
    for batch in loaded(dataset, 3, epochs=1):
        assert all(np.array_equal(seen[id], frame) for id, frame in zip(batch.ids, batch.frames, strict=True))


def test_another_seed_or_epoch_is_another_part(dataset: Dataset) -> None:
    def frames(**place: int) -> dict[str, bytes]:
        start = Place(**place)
        batches = loaded(dataset, start=start, epochs=start.epoch + 1)
        return {
            str(id): frame.tobytes()
            for batch in batches
            for id, frame in zip(batch.ids, batch.frames, strict=True)
        }

    one, two, three = frames(), frames(epoch=1), frames(seed=1)
    assert all(len({one[id], two[id], three[id]}) == 3 for id in one)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_an_epoch_without_overlap(dataset: Dataset, world: int) -> None:
    total = len(dataset.photos("train"))
    shares = [loaded(dataset, epochs=1, rank=rank, world=world) for rank in range(world)]
    ids = [[id for batch in share for id in batch.ids.tolist()] for share in shares]
    assert {len(mine) for mine in ids} == {total // world}
    assert len(set().union(*ids)) == total // world * world
    assert len({tuple(len(batch.ids) for batch in share) for share in shares}) == 1
    least = {"batch": total // world - 1, "epochs": 1, "world": world, "merge": True}
    assert {len(loaded(dataset, rank=rank, **least)) for rank in range(world)} == {1}, "none is alone"


def test_an_epoch_can_go_on_with_another_number_of_ranks(dataset: Dataset) -> None:
    first = [next(load_batches(dataset.photos("train"), FRAME, 7, rank=rank, world=2)) for rank in (0, 1)]
    assert first[0].after == first[1].after
    rest = [loaded(dataset, epochs=1, start=first[0].after, rank=rank, world=3) for rank in range(3)]
    before = {id for batch in first for id in batch.ids.tolist()}
    after = [id for share in rest for batch in share for id in batch.ids.tolist()]
    assert not before & set(after)
    assert len(after) == len(set(after)) == (len(dataset.photos("train")) - 14) // 3 * 3


def test_without_a_last_epoch_it_never_ends(dataset: Dataset) -> None:
    batches = list(islice(load_batches(dataset.photos("train"), FRAME, 7), 30))
    assert batches[-1].after.epoch == 3


def test_no_more_than_asked_for_is_made_ahead(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(data: bytes, frame: Frame) -> image.Pixels | None:
        made.append(len(data))
        return plain_rgb(data, frame)

    monkeypatch.setattr("catflap.training.augment.plain_rgb", counted)
    batches = load_batches(dataset.photos("train"), FRAME, 4, workers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 4 <= len(made) <= 3 * 4


def test_parts_are_as_large_and_as_spread_as_asked() -> None:
    whole = np.zeros((300, 400, 3), np.uint8)
    dice = np.random.default_rng(0)
    parts = [crop(whole, Frame(64, 64), Crops(0.25, 0.3), dice.random(4)) for _ in range(2000)]
    areas = np.array([part.shape[0] * part.shape[1] / 120_000 for part in parts])
    aspects = np.array([np.log(part.shape[1] / 400 / (part.shape[0] / 300)) for part in parts])
    assert areas.min() > 0.22
    assert areas.max() > 0.9
    assert 0.55 < np.abs(aspects).max() < 0.63
    square = [crop(whole, Frame(64, 64, "crop"), Crops(0.25, 0.0), dice.random(4)) for _ in range(200)]
    assert all(abs(part.shape[0] - part.shape[1]) <= 1 for part in square)


def test_a_moved_picture_keeps_its_pixels_and_mirrors_its_edge() -> None:
    dice = np.random.default_rng(0)
    whole = dice.integers(0, 256, (32, 40, 3), np.uint8)
    seen = set()
    for _ in range(1500):
        moved = crop(whole, Frame(32, 32), Crops(shift=1 / 8), dice.random(4))
        assert moved.shape == whole.shape
        at = next(
            (down, across)
            for down, across in np.ndindex(9, 11)
            if np.array_equal(moved[4:-4, 5:-5], whole[down : down + 24, across : across + 30])
        )
        seen.add(at)
        down, across = at[0] - 4, at[1] - 5
        if down > 0:
            assert np.array_equal(moved[-down:], moved[-2 * down : -down][::-1])
        if across < 0:
            assert np.array_equal(moved[:, :-across], moved[:, -across : -2 * across][:, ::-1])
    assert len(seen) == 99, "each place occurs, the whole picture among them"


def test_the_whole_photo_is_what_the_frame_shows(dataset: Dataset) -> None:
    """Parts that are all of a photo are the pixels that the device sees, or their mirror image."""
    photos = dataset.photos("train")
    place_of = {id: place for place, id in enumerate(photos.ids.tolist())}
    turned = 0
    for batch in loaded(dataset, epochs=1, crops=Crops(1.0, 0.0)):
        for id, frame in zip(batch.ids.tolist(), batch.frames, strict=True):
            seen = image.read_pixels(photos[place_of[id]], FRAME)
            other = image.resize(image.decode(photos[place_of[id]], FRAME), FRAME, mirror=True)
            away = [np.abs(frame.astype(int) - each).max() for each in (seen, other)]
            mirrored = away[0] > away[1]
            assert min(away) <= 2
            turned += mirrored
    assert 0.25 * len(photos) < turned < 0.75 * len(photos)


@pytest.mark.parametrize("size", [(90, 70), (500, 375), (1001, 751), (2000, 300)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 60}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_decoder_gives_pillows_bits(
    size: tuple[int, int], options: dict[str, int], mode: str
) -> None:
    data = encoded(draw(5, *size).convert(mode), **options)
    for frame in (Frame(224, 224), Frame(96, 64), Frame(16, 16), Frame(16, 16, decode="full")):
        fast = plain_rgb(data, frame)
        assert fast is not None
        assert np.array_equal(fast, image.decode(data, frame))


def test_the_fast_decoder_leaves_what_it_cannot_do() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    profile = Image.open(io.BytesIO(encoded(draw(1), icc_profile=b"profile"))).info["icc_profile"]
    odd = [
        encoded(draw(1), "PNG"), encoded(draw(1), exif=exif), encoded(draw(1), icc_profile=profile),
        encoded(draw(1).convert("CMYK")), encoded(draw(1), keep_rgb=True), b"", b"\xff\xd8", b"\xff\xd8\xff",
    ]  # fmt: skip
    assert [plain_rgb(data, FRAME) for data in odd] == [None] * len(odd)


def test_the_memory_map_holds_what_the_frame_shows_a_little_larger(dataset: Dataset) -> None:
    photos, pixels = dataset.photos("train"), dataset.train_pixels()
    assert pixels is not None
    assert pixels.shape == (len(photos), 37, 55, 3)
    for place in range(0, len(photos), 9):
        assert np.array_equal(pixels[place], image.read_pixels(photos[place], Frame(55, 37)))
    from_map, from_shards = loaded(dataset, epochs=1, pixels=pixels), loaded(dataset, epochs=1)
    for one, other in zip(from_map, from_shards, strict=True):
        assert np.array_equal(one.ids, other.ids)
        apart = np.abs(one.frames.astype(int) - other.frames).mean()
        assert 3 * apart < np.abs(one.frames.astype(int) - other.frames[::-1, :, ::-1]).mean()
    assert same(loaded(dataset, epochs=1, pixels=pixels, start=from_map[3].after), from_map[4:])


def test_a_memory_map_is_left_alone_where_it_does_not_serve(dataset: Dataset) -> None:
    assert replace(dataset, pixels=False).train_pixels() is None
    assert replace(dataset, frame=Frame(56, 32)).train_pixels() is None
    assert replace(dataset, frame=Frame(55, 37)).train_pixels() is not None
    assert replace(dataset, frame=Frame(49, 33, fit="crop")).train_pixels() is None, (
        "it shows the whole photo"
    )


def test_a_memory_map_of_cropped_photos_serves_their_shape_alone(manifest: Manifest, tmp_path: Path) -> None:
    cropped = prepare(manifest, tmp_path / "d", frame=Frame(48, 32, fit="crop"), pixels=True, profile=False)
    assert cropped.train_pixels() is not None
    for frame, serves in (
        (Frame(24, 16, fit="crop"), True),
        (Frame(32, 32, fit="crop"), False),
        (Frame(48, 32), False),
    ):
        assert (replace(cropped, frame=frame).train_pixels() is not None) == serves


def test_a_memory_map_of_other_photos_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    dataset = prepare(manifest, tmp_path / "d", frame=FRAME, pixels=True, profile=False)
    np.save(tmp_path / "d" / PIXELS, np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(BadArtifact, match="other photos"):
        dataset.train_pixels()
    np.save(tmp_path / "d" / PIXELS, np.array([{}] * 9, object), allow_pickle=True)
    with pytest.raises(BadArtifact, match="cannot be read"):
        dataset.train_pixels()
    (tmp_path / "d" / PIXELS).unlink()
    with pytest.raises(BadArtifact, match="--pixels"):
        dataset.train_pixels()


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"rank": 2, "world": 2},
        {"start": Place(0, 0, 999)},
        {"start": Place(-1)},
        {"rank": 0, "world": 500},
    ],
)
def test_what_cannot_be_loaded_is_refused(options: dict[str, int], dataset: Dataset) -> None:
    with pytest.raises(CatflapError):
        loaded(dataset, **options)


def test_only_train_photos_are_made_smaller(manifest: Manifest, tmp_path: Path) -> None:
    plain = prepare(manifest, tmp_path / "plain", frame=FRAME, profile=False)
    small = prepare(manifest, tmp_path / "small", frame=FRAME, shrink=64, profile=False)
    assert (small.shrink, small.roles, small.labels) == (64, plain.roles, plain.labels)
    assert small.sha256 != plain.sha256
    assert load_dataset(small.path) == small
    for role in small.roles:
        before, after = plain.photos(role), small.photos(role)
        assert np.array_equal(before.ids, after.ids)
        for place in range(len(after)):
            if role != "train":
                assert after[place] == before[place]
                continue
            stored = Image.open(io.BytesIO(after[place]))
            upright = image.decode(before[place], Frame(64, 64))
            assert min(stored.size) == 64
            assert stored.format == "JPEG"
            assert (stored.width > stored.height) == (upright.shape[1] > upright.shape[0])
            seen = image.read_pixels(after[place], FRAME).astype(int)
            assert np.abs(seen - image.read_pixels(before[place], FRAME)).mean() < 4
    assert small.bytes == sum(small.photos(role).lengths.sum() for role in small.roles) < plain.bytes


def test_small_and_narrow_photos_keep_their_bytes() -> None:
    for size in ((64, 50), (64, 300), (70, 500)):
        data = encoded(draw(2, *size))
        assert shrunk(data, 64) is data
    assert shrunk(encoded(draw(2, 200, 100)), 64) != encoded(draw(2, 200, 100))


@pytest.mark.parametrize("side", [8, 31, 513, -1])
def test_sides_that_photos_cannot_have(side: int, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(CatflapError, match="short side"):
        prepare(manifest, tmp_path / "d", shrink=side)


def test_a_stopped_shrink_goes_on(manifest: Manifest, tmp_path: Path) -> None:
    def stop(step: str, done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    options = {"frame": FRAME, "shrink": 64, "pixels": True}
    with pytest.raises(KeyboardInterrupt):
        prepare(manifest, tmp_path / "one", progress=stop, **options)  # type: ignore[arg-type]
    kept = {path.name for path in (tmp_path / ".one.prepare" / SHARDS).glob("*.tar")}
    assert kept
    prepare(manifest, tmp_path / "one", **options)  # type: ignore[arg-type]
    prepare(manifest, tmp_path / "two", **options)  # type: ignore[arg-type]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("one", "two")
    )
    assert one == two


def test_shards_are_read_by_webdataset_or_any_tar_reader(dataset: Dataset, manifest: Manifest) -> None:
    small = prepare(manifest, manifest.path.parent / "w", frame=FRAME, shrink=64, profile=False)
    for made in (dataset, small):
        photos = made.photos("train")
        expected = {
            id: (photos[place], int(photos.labels[place])) for place, id in enumerate(photos.ids.tolist())
        }
        names = sorted({str(made.path / SHARDS / shard) for shard in photos.shards.tolist()})
        try:
            import webdataset
        except ModuleNotFoundError:
            assert by_hand(names) == expected
            continue
        found = {}
        for sample in webdataset.WebDataset(names, shardshuffle=False):
            data = sample.get("jpg") or sample["png"]
            found[sample["__key__"].rpartition("/")[2]] = (data, int(sample["cls"]))
        assert found == expected


def by_hand(names: list[str]) -> dict[str, tuple[bytes, int]]:
    """What WebDataset does: neighbours with the same name before the first dot are one sample."""
    found = {}
    for name in names:
        with tarfile.open(name) as archive:
            members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
        for (first, label), (second, data) in zip(members[::2], members[1::2], strict=True):
            assert first.partition(".") == (second.partition(".")[0], ".", "cls")
            found[first.partition(".")[0]] = (data, int(label))
    return found


@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 48), (90, 90), (333, 200), (40, 300)])
@pytest.mark.parametrize("mirror", [False, True])
def test_torch_resizes_as_the_frame_says(filter: str, size: tuple[int, int], mirror: bool) -> None:
    """Within two grey levels."""
    frame = Frame(96, 64, "squash", filter)
    part = image.read_pixels(scene(3, 400, 300), Frame(*size))
    ours = resize(part, frame, mirror=mirror)
    assert (ours.shape, ours.dtype) == ((64, 96, 3), np.uint8)
    assert np.abs(ours.astype(int) - image.resize(part, frame, mirror=mirror)).max() <= 2


def test_parts_of_a_memory_map_are_left_as_they_are() -> None:
    part = image.read_pixels(scene(3, 400, 300), Frame(60, 50))[5:40, 7:50]
    part.flags.writeable = False
    before = part.copy()
    resize(part, Frame(32, 32))
    assert np.array_equal(part, before)


def test_photos_are_mirrored_unless_that_is_off(dataset: Dataset) -> None:
    photos, crops = dataset.photos("train"), Crops(1.0, 0.0)
    on, off = (
        next(load_batches(photos, FRAME, 16, crops=replace(crops, mirror=mirror))) for mirror in (True, False)
    )
    same = [np.array_equal(one, other) for one, other in zip(on.frames, off.frames, strict=True)]
    turned = [np.array_equal(one, other[:, ::-1]) for one, other in zip(on.frames, off.frames, strict=True)]
    assert 0 < sum(turned) < 16
    assert sum(same) + sum(turned) == 16
