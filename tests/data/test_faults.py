"""A hundred planted faults of fifteen kinds, every one reported with the right reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import simplejpeg
from PIL import Image

from catflap.artifacts.manifest import Manifest
from catflap.data.scan import scan
from catflap.errors import BadPhoto, CatflapError
from catflap.image import Frame, read_pixels
from tests.data.photos import class_folders, draw, encoded, rows

EACH = 7


def animated(image: Image.Image) -> bytes:
    return encoded(image, "GIF", save_all=True, append_images=[image.rotate(90), image.rotate(180)])


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif)


def bomb(image: Image.Image) -> bytes:
    """A PNG whose header states 900 megapixels."""
    data = encoded(image, "PNG")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def uniform(image: Image.Image) -> bytes:
    level = int(np.asarray(image).sum() % 200)
    return encoded(Image.new("RGB", image.size, (level, level + 1, level)))


FAULTS: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "truncated": ("jpg", lambda image: encoded(image, quality=95)[:-700]),
    "empty": ("jpg", lambda image: b""),
    "too_many_pixels": ("png", bomb),
    "tiny": ("jpg", lambda image: encoded(image.resize((6, 6)))),
    "near_uniform": ("jpg", uniform),
    "extreme_aspect": ("jpg", lambda image: encoded(image.resize((400, 60)))),
    "wrong_extension": ("jpg", lambda image: encoded(image, "PNG")),
    "animated": ("gif", animated),
    "colour_space": ("jpg", lambda image: encoded(image.convert("CMYK"))),
    "orientation": ("jpg", turned),
    "not_a_photo": ("jpg", lambda image: b"<!DOCTYPE html><html><body>404</body></html>"),
    "unreadable": ("jpg", lambda image: b"a link to nowhere"),
}
COPIES = ("exact_duplicate", "near_duplicate", "two_labels")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Good photos, and EACH photos with every fault, the kind in their names."""
    root = class_folders(tmp_path_factory.mktemp("planted") / "photos", 3 * EACH)
    for kind, (suffix, spoil) in FAULTS.items():
        for number in range(EACH):
            path = root / "cat" / f"{kind}-{number}.{suffix}"
            data = spoil(draw(hash_of(kind, number)))
            if kind == "unreadable":
                path.symlink_to(path.with_name("nowhere.jpg"))
            else:
                path.write_bytes(data)
    for number in range(EACH):
        original = root / "dog" / f"{number:03d}.jpg"
        (root / "dog" / f"exact_duplicate-{number}.jpg").write_bytes(original.read_bytes())
        other = root / "cat" / f"{number + EACH:03d}.jpg"
        (root / "dog" / f"two_labels-{number}.jpg").write_bytes(other.read_bytes())
        third = Image.open(root / "dog" / f"{number + EACH:03d}.jpg")
        copy = encoded(third.resize((100, 75)), quality=70)
        (root / "dog" / f"near_duplicate-{number}.jpg").write_bytes(copy)
    return scan(root, root.parent / "m", workers=1)


def hash_of(kind: str, number: int) -> int:
    return 100_000 + zlib.crc32(kind.encode()) % 1000 * 100 + number


@pytest.mark.parametrize("kind", [*FAULTS, *COPIES])
def test_every_planted_fault_is_reported(planted: Manifest, kind: str) -> None:
    mine = [row for row in rows(planted, "uri", "reason") if f"/{kind}-" in row["uri"]]
    assert len(mine) == EACH
    words = [{part.partition(":")[0] for part in row["reason"].split("; ")} for row in mine]
    assert [kind in found for found in words] == [True] * EACH


def test_good_photos_have_no_reason(planted: Manifest) -> None:
    good = [row for row in rows(planted, "uri", "reason", "status") if "-" not in Path(row["uri"]).stem]
    blamed = {Path(row["uri"]).stem: row["reason"] for row in good if row["reason"]}
    assert all(reason.startswith("two_labels:") for reason in blamed.values())
    assert len(blamed) == EACH


def test_what_can_be_learnt_from_stays_and_the_rest_does_not(planted: Manifest) -> None:
    table = rows(planted, "uri", "status")
    status = {Path(row["uri"]).stem.partition("-")[0]: row["status"] for row in table}
    kept = {
        "tiny",
        "near_uniform",
        "extreme_aspect",
        "wrong_extension",
        "animated",
        "colour_space",
        "orientation",
    }
    assert {kind for kind in FAULTS if status[kind] == "ok"} == kept
    assert (status["exact_duplicate"], status["two_labels"]) == ("dropped", "quarantined")
    assert planted.photos == planted.ok + planted.quarantined + planted.dropped == (6 + 15) * EACH


def test_a_reason_names_the_other_photo(planted: Manifest) -> None:
    reasons = {Path(row["uri"]).stem: row["reason"] for row in rows(planted, "uri", "reason")}
    assert reasons["exact_duplicate-3"].endswith("/dog/003.jpg")
    assert reasons["near_duplicate-3"].endswith(f"/dog/{3 + EACH:03d}.jpg shows")
    assert reasons["two_labels-3"].endswith(f"/cat/{3 + EACH:03d}.jpg, which is under 'cat'")


def test_turned_photos_are_copies_of_upright_ones(tmp_path: Path) -> None:
    """The hash is that of the photo as people see it, for JPEGs and all others."""
    root = class_folders(tmp_path / "photos", 3)
    image = draw(77)
    for orientation, method in ((3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for format in ("JPEG", "PNG"):
            stored = image.transpose(method)
            name = f"turned{orientation}.{format.lower()}"
            (root / "cat" / name).write_bytes(encoded(stored, format, exif=exif))
    (root / "cat" / "upright.png").write_bytes(encoded(image, "PNG"))
    manifest = scan(root, tmp_path / "m", workers=1)
    assert (manifest.near_duplicates, manifest.near_duplicate_groups) == (4, 1)


def test_flat_photos_are_no_copies_of_each_other(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 3)
    for number in range(30):
        pixels = np.full((60, 80, 3), 3 * number, np.uint8)
        pixels[number % 60, 0] = 255
        (root / "cat" / f"flat{number}.png").write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    manifest = scan(root, tmp_path / "m", workers=1)
    assert (manifest.ok, manifest.near_duplicates) == (36, 0)
    assert manifest.remarks["near_uniform"] == 30


@pytest.mark.parametrize("spoil", ["zeroed run", "cut in the middle", "no end"])
def test_damage_inside_a_jpeg_is_noticed(spoil: str, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 3)
    data = bytearray(encoded(draw(5, 400, 300), quality=95))
    if spoil == "zeroed run":
        data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    else:
        del data[len(data) // 2 if spoil == "cut in the middle" else -2 :]
    (root / "cat" / "spoilt.jpg").write_bytes(data)
    assert scan(root, tmp_path / "m", workers=1).quarantined == 1


@pytest.mark.parametrize("surplus", [16, 5000])
def test_surplus_bytes_in_jpegs_are_a_remark(surplus: int, tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 3)
    for number in range(10):
        data = encoded(draw(500 + number), quality=90)
        (root / "cat" / f"padded{number}.jpg").write_bytes(data[:-2] + bytes(surplus) + data[-2:])
    manifest = scan(root, tmp_path / "m", workers=1)
    assert (manifest.ok, manifest.quarantined) == (16, 0)
    assert manifest.remarks["surplus_bytes"] == 10
    padded = [row["reason"] for row in rows(manifest, "uri", "reason") if "padded" in row["uri"]]
    assert all("extraneous bytes before marker 0xd9" in reason for reason in padded)
    assert [check["photos"] for check in manifest.checks if check["check"] == "surplus_bytes"] == [10]


def test_a_jpeg_that_simplejpeg_does_not_know_is_kept(tmp_path: Path) -> None:
    """Four by one luma blocks beside chroma that is halved down only: valid, but in no list of samplings."""
    root = class_folders(tmp_path / "photos", 3)
    data = encoded(draw(9, 64, 64), quality=90, subsampling=0)
    sampling = data.index(b"\xff\xc0") + 11  # of the first component
    odd = data[:sampling] + b"\x11\x00\x02\x12" + data[sampling + 4 :]
    with pytest.raises(ValueError, match="subsampling"):
        simplejpeg.decode_jpeg(odd, strict=True)
    (root / "cat" / "odd.jpg").write_bytes(odd)
    manifest = scan(root, tmp_path / "m", workers=1)
    kept = next(row for row in rows(manifest, "uri", "status", "reason") if "odd" in row["uri"])
    try:
        read_pixels(odd, Frame())
        judged = True
    except BadPhoto:
        judged = False
    assert (kept["status"] == "ok") == judged


def test_the_manifest_keeps_the_sentence_of_the_decoder(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 3)
    (root / "cat" / "cut.png").write_bytes(encoded(draw(1), "PNG")[:-900])
    (root / "cat" / "cut.jpg").write_bytes(encoded(draw(2), quality=95)[:-900])
    manifest = scan(root, tmp_path / "m", workers=1)
    reasons = {Path(row["uri"]).name: row["reason"] for row in rows(manifest, "uri", "reason")}
    for name in ("cut.png", "cut.jpg"):
        with pytest.raises(BadPhoto) as error:
            read_pixels(root / "cat" / name, Frame())
        assert reasons[name] == f"truncated: {error.value.what.rstrip('.')}"


def test_photos_too_large_to_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 3)
    with open(root / "cat" / "large.jpg", "wb") as file:
        file.truncate(65 << 20)
    assert scan(root, tmp_path / "m", workers=1).reasons == {"too_many_bytes": 1}


def test_a_photo_that_vanishes_while_the_folder_is_read(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "photos", 20)

    def vanish(step: str, done: int, total: int) -> None:
        if (step, done) == ("scan", 0):
            (root / "dog" / "019.jpg").unlink()
            (root / "dog" / "018.jpg").write_bytes(encoded(draw(4711)))

    manifest = scan(root, tmp_path / "m", workers=1, progress=vanish)
    assert (manifest.ok, manifest.reasons) == (39, {"unreadable": 1})


def test_no_decoder_fails_on_noise_named_photo(tmp_path: Path) -> None:
    """Bytes of every format's beginning, then noise: a row with a reason each, and the run goes on."""
    root = class_folders(tmp_path / "photos", 3)
    dice = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"):
        head = encoded(draw(1), format)[:200]
        for number in range(5):
            noise = dice.integers(0, 256, 3000, dtype=np.uint8).tobytes()
            (root / "cat" / f"{format}-{number}.{format.lower()}").write_bytes(head + noise)
    manifest = scan(root, tmp_path / "m", workers=1)
    assert manifest.photos == 6 + 35
    assert "decoder_crashed" not in manifest.reasons


@pytest.mark.parametrize("year", [1600, 2400])
def test_a_photo_from_a_year_that_has_no_nanoseconds(tmp_path: Path, year: int) -> None:
    root = class_folders(tmp_path / "photos", 3)
    seconds = (year - 1970) * 31_556_952
    os.utime(root / "cat" / "000.jpg", (seconds, seconds))
    if (root / "cat" / "000.jpg").stat().st_mtime_ns != seconds * 10**9:
        pytest.skip("this file system has no such dates")
    assert scan(root, tmp_path / "m", workers=1, profile=False).ok == 6


@pytest.mark.parametrize("label", ["a\nb", "a\tb", "\x7f", "c" * 501], ids=ascii)
@pytest.mark.parametrize("kind", ["folder", "list", "mapping"])
def test_a_label_with_a_control_character_or_too_long_is_refused_at_once(
    tmp_path: Path, label: str, kind: str
) -> None:
    labels, source = None, class_folders(tmp_path / "photos", 2)
    if kind == "mapping":
        labels = {"cat": label}
    elif kind == "list":
        paths = [str(path) for path in sorted(source.glob("*/*.jpg"))]
        source = tmp_path / "list.parquet"
        table = {"path": paths, "label": [f"x{label}x", "dog"] * 2}
        pyarrow.parquet.write_table(pa.table(table), source)
    elif len(label) > 255:
        pytest.skip("no folder has such a long name")
    else:
        (source / "cat").rename(source / label)
    with pytest.raises(CatflapError, match=r"control character|more than 500 characters") as error:
        scan(source, tmp_path / "m", labels=labels, workers=1)
    assert error.value.what.isprintable()
    assert len(error.value.what) < 200
    assert not (tmp_path / "m").exists()


def test_a_folder_without_photos_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(CatflapError, match="holds no folders"):
        scan(tmp_path / "photos", tmp_path / "m", workers=1)
    assert not (tmp_path / "m").exists()
