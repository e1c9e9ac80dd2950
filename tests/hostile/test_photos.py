"""Files that want to break the decoder: each gives pixels or BadPhoto, nothing else, and never hangs."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image

from catflap.errors import BadPhoto
from catflap.exporting.golden_cases import drawn_photos, scene, wide_gamut_profile
from catflap.image import (
    MAX_SCANS,
    SCANS,
    SLOW_BYTES,
    Frame,
    encode,
    inspect,
    read_pixels,
    silence_libtiff,
    small_grey,
    thumbnail,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow warns of what the tests do on purpose
FRAME = Frame(32, 24)
KINDS = {
    "jpeg": encode(scene(1, 90, 70), "JPEG", quality=85),
    "progressive": encode(scene(1, 90, 70), "JPEG", quality=85, progressive=True),
    "cmyk": encode(scene(1, 90, 70), "JPEG", "CMYK", quality=85),
    "png": encode(scene(2, 50, 40), "PNG"),
    "palette": encode(scene(2, 50, 40), "PNG", "P", transparency=3),
    "webp": encode(scene(3, 50, 40), "WEBP", quality=80),
    "gif": encode(scene(4, 50, 40), "GIF", "P"),
    "bmp": encode(scene(5, 20, 30), "BMP"),
    "tiff": encode(scene(6, 50, 40), "TIFF", compression="tiff_lzw"),
    "avif": encode(scene(7, 50, 40), "AVIF", quality=70),
    "jpeg2000": encode(scene(8, 50, 40), "JPEG2000"),
    "ppm": encode(scene(9, 20, 20), "PPM"),
}


def outcome(photo: bytes | Path) -> str:
    """ "pixels", or the reason; the other readers of photos must not fail in any other way either."""
    if isinstance(photo, bytes):
        for reader in (
            inspect,
            lambda data: small_grey(data, FRAME, 16, 16),
            lambda data: thumbnail(data, 16),
        ):
            try:
                reader(photo)
            except BadPhoto as error:
                assert_speaks(error)
    try:
        pixels = read_pixels(photo, FRAME)
    except BadPhoto as error:
        assert_speaks(error)
        return error.reason
    assert pixels.shape == (24, 32, 3)
    assert pixels.dtype == np.uint8
    return "pixels"


def assert_speaks(error: BadPhoto) -> None:
    assert error.reason.replace("_", "").isalpha()
    assert error.what.endswith(".")
    assert error.fix.endswith(".")
    assert "0x" not in error.what, "an address in memory differs from run to run"


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_at_every_tenth(kind: str) -> None:
    photo = KINDS[kind]
    assert outcome(photo) == "pixels"
    for tenth in range(10):
        cut = photo[: len(photo) * tenth // 10]
        assert outcome(cut) in {"empty", "unknown_format", "truncated", "damaged"}, f"{tenth} tenths"


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_damage_gives_pixels_or_a_reason(kind: str, data: st.DataObject) -> None:
    photo = bytearray(KINDS[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        photo[data.draw(st.integers(0, len(photo) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(photo))


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0"]),
)
def test_noise_gives_pixels_or_a_reason(noise: bytes, start: bytes) -> None:
    outcome(start + noise)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 5000, "unknown_format"),
        (b"<!DOCTYPE html><html><body>404 not found</body></html>", "not_a_photo"),
        (b"\n  <HTML><head>", "not_a_photo"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not_a_photo"),
        (b"%PDF-1.7\n", "unknown_format"),
        (b"8BPS\0\1" + bytes(100), "unknown_format"),
        (b"PK\3\4" + bytes(100), "unknown_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_photo_says_so(photo: bytes, reason: str) -> None:
    assert outcome(photo) == reason


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevx"])
def test_a_heic_photo_without_content_says_so(brand: bytes) -> None:
    photo = b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(300)
    assert outcome(photo) == ("damaged" if find_spec("pi_heif") else "unsupported_format")


def png_head(width: int, height: int) -> bytes:
    """A PNG of one grey shade: many pixels in few bytes."""
    rows = zlib.compressobj(9)
    body = rows.compress(bytes(min(height * (width + 1), 1 << 20))) + rows.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", body),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    "size",
    [(9000, 9000), (20_000, 20_000), (65_536, 2), (2, 70_000), (80_000_001, 1), (2**31 - 1, 2**31 - 1)],
)
def test_a_bomb_of_pixels_is_refused_by_its_header(size: tuple[int, int]) -> None:
    assert outcome(png_head(*size)) == "too_many_pixels"


def test_a_bomb_of_pixels_costs_no_memory(tmp_path: Path) -> None:
    for name, width, height in (("square", 20_000, 20_000), ("thin", 80_000_000, 1)):
        (tmp_path / name).write_bytes(png_head(width, height))
        code = (
            "import re, sys; from catflap.image import Frame, read_pixels\n"
            "from catflap.errors import BadPhoto\n"
            "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
            "before = peak()\n"
            "try: read_pixels(sys.argv[1], Frame()); print('pixels')\n"
            "except BadPhoto as error: print(error.reason)\n"
            "print(peak() - before)"
        )
        words = in_process(code, str(tmp_path / name)).split()
        assert words[0] == "too_many_pixels"
        assert int(words[1]) < 64 << 10, "KiB"


def test_a_bomb_of_bytes_is_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with open(huge, "wb") as file:
        file.truncate(10 << 40)  # a hole: ten terabytes that take no room
    assert outcome(huge) == "too_many_bytes"
    assert outcome(KINDS["png"] + bytes(FRAME.max_bytes)) == "too_many_bytes"


def test_the_limits_are_those_of_the_frame() -> None:
    photo = encode(scene(1, 40, 30), "PNG")
    assert read_pixels(photo, Frame(32, 24, max_pixels=1200, max_bytes=len(photo))).shape == (24, 32, 3)
    for tight in (Frame(32, 24, max_pixels=1199), Frame(32, 24, max_bytes=len(photo) - 1)):
        with pytest.raises(BadPhoto, match="more than"):
            read_pixels(photo, tight)
    with pytest.raises(BadPhoto, match="more than"):
        read_pixels(Image.open(io.BytesIO(photo)), Frame(32, 24, max_pixels=1199))


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    """Each scan is a dozen bytes and costs a pass over all the pixels."""
    photo = encode(scene(1, 90, 70), "JPEG", progressive=True)
    start = photo.rindex(b"\xff\xda\x00\x08\x01")
    assert outcome(photo[:start] + photo[start:-2] * MAX_SCANS + photo[-2:]) == "too_slow"
    assert outcome(photo[:start] + photo[start:-2] * 9 + photo[-2:]) == "pixels"


def test_so_is_one_of_scans_of_all_colours() -> None:
    """A refinement of the first value of every block: of three components at once, and empty."""
    photo = encode(scene(1, 90, 70), "JPEG", progressive=True)
    scan = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x00\x10"
    assert outcome(photo[:-2] + scan * (MAX_SCANS + 1) + photo[-2:]) == "too_slow"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_what_looks_like_scans_inside_a_comment_is_none(mode: str) -> None:
    photo = encode(scene(1, 90, 70), "JPEG", mode)
    comment = b"".join(SCANS) * MAX_SCANS
    segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    assert outcome(photo[:2] + segment + photo[2:]) == "pixels"


def test_libtiff_prints_nothing_for_a_damaged_photo(capfd: pytest.CaptureFixture[str]) -> None:
    """In a server it would fill the log: a strip of the TIFF is said to end before its pixels do."""
    photo = encode(np.zeros((16, 16, 3), np.uint8), "TIFF", compression="tiff_lzw")
    size = photo.index(b"\x17\x01\x04\0\1\0\0\0") + 8  # of the strip
    silence_libtiff()
    assert outcome(photo[:size] + bytes([5, 0, 0, 0]) + photo[size + 4 :]) == "damaged"
    assert capfd.readouterr().err == ""


def test_an_image_without_pixels_is_refused() -> None:
    nothing = Image.new("RGB", (0, 5))
    for read in (lambda: read_pixels(nothing, FRAME), lambda: thumbnail(nothing)):
        with pytest.raises(BadPhoto, match="no pixels"):
            read()


@pytest.mark.parametrize(
    "photo",
    [
        b"P3 1200 1200 255\n" + b"1 " * (1200 * 1200 * 3),
        b"P1 2100 2100\n" + b"1" * (2100 * 2100),
        b"P6 1200 1200 254\n" + bytes(1200 * 1200 * 3),
    ],
    ids=["P3", "P1", "P6"],
)
def test_what_is_decoded_in_python_must_be_small(photo: bytes) -> None:
    assert len(photo) > SLOW_BYTES
    assert outcome(photo) == "too_slow"


def test_small_text_and_run_length_photos_are_fine() -> None:
    assert outcome(b"P3 2 2 255\n" + b"9 " * 12) == "pixels"
    assert outcome(b"P6 2 2 100\n" + bytes(12)) == "pixels"
    assert outcome(b"P5 2 2 65535\n" + bytes(8)) == "pixels"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_exif_does_not_spoil_the_pixels(format: str) -> None:
    pixels = scene(2, 32, 24)
    good = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    plain = read_pixels(encode(pixels, format), FRAME)
    for cut in range(0, len(good) - 4, 3):
        start = b"Exif\0\0" if format in ("JPEG", "WEBP") else b""
        try:
            photo = encode(pixels, format, exif=start + good[:cut] + b"\xff" * 9)
        except Exception:
            continue  # Pillow will not write this one
        assert read_pixels(photo, FRAME).shape == plain.shape


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_profile_gives_pixels(data: st.DataObject) -> None:
    profile = bytearray(wide_gamut_profile())
    for _ in range(data.draw(st.integers(1, 8))):
        profile[data.draw(st.integers(0, len(profile) - 1))] = data.draw(st.integers(0, 255))
    photo = encode(scene(2, 32, 24), "PNG", icc_profile=bytes(profile))
    assert outcome(photo) in {"pixels", "damaged"}


def test_an_animation_with_a_broken_second_frame_still_has_a_first() -> None:
    frames = [Image.fromarray(scene(seed, 40, 30)) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    whole = buffer.getvalue()
    second = whole.index(b"\x21\xf9\x04", whole.index(b"\x2c") + 1)
    assert outcome(whole[: second + 12]) == "pixels"


def test_ten_thousand_frames_are_not_counted_one_by_one() -> None:
    one = encode(scene(1, 8, 8), "GIF", "P")
    start = one.index(b"\x2c\0\0\0\0")
    assert inspect(one[:-1] + one[start:-1] * 10_000 + b";").animated
    assert not any(inspect(photo).animated for photo in [one, *KINDS.values()])


def test_avif_without_a_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in builds of Pillow that lack libavif."""
    monkeypatch.setattr(AvifImagePlugin, "SUPPORTED", False)
    monkeypatch.setitem(sys.modules, "PIL._avif", None)
    with pytest.raises(BadPhoto, match="does not read AVIF") as refused:
        read_pixels(KINDS["avif"], FRAME)
    assert refused.value.reason == "unsupported_format"
    assert "pillow" in refused.value.fix
    assert outcome(KINDS["png"]) == "pixels"
    assert outcome(b"nothing that Pillow knows") == "unknown_format"


def test_drawn_photos_of_every_kind_are_read() -> None:
    assert {outcome(photo) for photo in drawn_photos()} == {"pixels"}


def in_process(code: str, *words: str) -> str:
    """Run code in a process that is killed when it hangs."""
    answer = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stderr == ""
    return answer.stdout


READ = (
    "import sys; from catflap.image import Frame, read_pixels; from catflap.errors import BadPhoto\n"
    "try: read_pixels(sys.argv[1], Frame()); print('pixels')\n"
    "except BadPhoto as error: print(error.reason, error.what.encode('utf-8') and 'printable')"
)


def test_what_is_no_regular_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    names = ["pipe.jpg", "zero.jpg", "folder.jpg", "loop.jpg", "dangling.jpg", "absent.jpg", "a" * 5000]
    for name in names:
        assert in_process(READ, str(tmp_path / name)).split()[0] == "unreadable", name


SWAPPED = (
    "import os, sys; from catflap.image import read_file; from catflap.errors import BadPhoto\n"
    "class Swapped:\n"
    "    asked = 0\n"
    "    def __fspath__(self):\n"
    "        Swapped.asked += 1\n"
    "        if Swapped.asked == 2: os.unlink(sys.argv[1]); os.mkfifo(sys.argv[1])\n"
    "        return sys.argv[1]\n"
    "try: read_file(Swapped()); print('bytes')\n"
    "except BadPhoto as error: print(error.reason)"
)


def test_a_file_that_becomes_a_pipe_before_it_is_opened_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(KINDS["png"])
    assert in_process(SWAPPED, str(tmp_path / "photo.png")).split() == ["unreadable"]


def test_files_that_are_longer_than_they_say_are_not_read_for_ever() -> None:
    endless = Path("/proc/self/pagemap")
    if not endless.exists():
        pytest.skip("this system has no /proc/self/pagemap")
    assert outcome(endless) in {"too_many_bytes", "unreadable", "unknown_format"}


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9\n\x1b[2J.png"
    with open(name, "wb") as file:
        file.write(KINDS["png"])
    assert read_pixels(os.fsdecode(name), FRAME).shape == (24, 32, 3)
    assert in_process(READ, os.fsdecode(name) + "x").split() == ["unreadable", "printable"]


def test_a_name_with_a_zero_byte() -> None:
    assert outcome(Path("a\0b")) == "unreadable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    closed = tmp_path / "closed.png"
    closed.write_bytes(KINDS["png"])
    closed.chmod(0)
    assert outcome(closed) == "unreadable"


@pytest.mark.parametrize("photo", [None, 5, 0.5, [1], {"a": 1}, io.StringIO("x")], ids=type)
def test_what_is_no_photo_at_all(photo: object) -> None:
    with pytest.raises(BadPhoto, match="is not a photo"):
        read_pixels(photo, FRAME)  # type: ignore[arg-type]
