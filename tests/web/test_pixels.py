"""The golden vectors of the Frame in a real browser: its decoder, then our own resize."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from catflap.exporting.golden_cases import drawn_photos, scene
from catflap.image import Frame, Pixels, encode, read_pixels
from tests.image.make_golden import exif, ways, xmp
from tests.web.conftest import file_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow  # tests/web/test_page.py has the fast ones

GOLDEN = Path(__file__).parents[2] / "docs" / "reference" / "vectors"
VECTORS: list[dict[str, Any]] = json.loads((GOLDEN / "vectors.json").read_text())["vectors"]
UNREAD = ("tiff_cmyk.tiff", "tiff_orientation_6.tiff")  # Chromium reads no TIFF
READ = """async ([photo, frame]) => {
  const { readPhoto } = await import('/photo.js');
  const bytes = Uint8Array.from(atob(photo), (letter) => letter.charCodeAt(0));
  const pixels = await readPhoto(new Blob([bytes]), frame).catch((error) => error.why);
  if (typeof pixels === 'string') return { why: pixels };
  let letters = '';
  for (const byte of pixels) letters += String.fromCharCode(byte);
  return { pixels: btoa(letters) };
}"""
PICTURE = """async ([rgba, width, height, frame]) => {
  const { readPicture } = await import('/photo.js');
  const bytes = Uint8Array.from(atob(rgba), (letter) => letter.charCodeAt(0));
  const pictures = [
    new VideoFrame(bytes, { format: 'RGBX', codedWidth: width, codedHeight: height, timestamp: 0 }),
    await createImageBitmap(new ImageData(new Uint8ClampedArray(bytes), width, height)),
  ];
  const answers = [];
  for (const picture of pictures) answers.push(Array.from(await readPicture(picture, frame)));
  return answers;
}"""


@pytest.fixture(scope="module")
def reader(
    browser: Browser, npm: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """A page of a browser in which web/src/photo.ts can be called."""
    folder = tmp_path_factory.mktemp("reader")
    command = ["node_modules/.bin/vite", "build", "--config", "test/photo.vite.config.ts", "--outDir", folder]
    subprocess.run(command, cwd=repo / "web", check=True, capture_output=True)
    (folder / "index.html").write_text("<!doctype html>")
    with file_server(folder) as (url, _):
        page = browser.new_page()
        page.goto(url)
        yield page
        page.close()


def in_browser(page: Page, photo: bytes, frame: Frame) -> Pixels | str:
    answer = page.evaluate(READ, [base64.b64encode(photo).decode(), frame.to_json()])
    if "why" in answer:
        return str(answer["why"])
    return np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(frame.height, frame.width, 3)


@pytest.mark.parametrize(
    "vector", [one for one in VECTORS if "pixels" in one], ids=lambda vector: str(vector["photo"])
)
def test_the_browser_reaches_the_golden_pixels(reader: Page, vector: dict[str, Any]) -> None:
    photo, frame = (GOLDEN / vector["photo"]).read_bytes(), Frame.from_json(vector["frame"])
    got = in_browser(reader, photo, frame)
    if vector["photo"] in UNREAD:
        assert got == "unreadable"
        return
    assert not isinstance(got, str), got
    assert np.abs(got.astype(int) - read_pixels(photo, frame)).max() <= vector["tolerance"]


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_real_photos_give_the_same_pixels(reader: Page, photos_root: Path, fit: str) -> None:
    """At every decode scale: within 4 grey levels, as docs/concepts/frame.md allows for JPEG."""
    every = sorted(photos_root.rglob("*.jpg"))
    paths = every[:: len(every) // 4 + 1]
    for path in paths:
        for side in (288, 96, 40):
            frame = Frame(side, side, fit=fit)
            got = in_browser(reader, path.read_bytes(), frame)
            assert not isinstance(got, str), (path, got)
            difference = np.abs(got.astype(int) - read_pixels(path, frame))
            assert difference.max() <= 4, (path, side)
            assert difference.mean() <= 0.4, (path, side)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_way_to_tell_an_orientation(reader: Page, orientation: int) -> None:
    for width, height, fit in ((61, 47, "crop"), (211, 130, "squash")):  # the second is decoded at 1/2
        frame = Frame(41, 29, fit=fit)
        for way, photo in ways(scene(1, width, height), orientation).items():
            got = in_browser(reader, photo, frame)
            assert not isinstance(got, str), (way, got)
            difference = np.abs(got.astype(int) - read_pixels(photo, frame)).max()
            exact = way.startswith("png") or way in ("webp_exif", "webp_xmp")
            assert difference <= (0 if exact else 4), (way, width)


@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_a_large_photo_is_turned_strip_by_strip(reader: Page, orientation: int) -> None:
    pixels = scene(2, 90, 70).repeat(33, 0).repeat(33, 1)
    for photo in (
        encode(pixels, "PNG", exif=exif(orientation)[6:]),
        encode(pixels, "WEBP", xmp=xmp(orientation)),
    ):
        frame = Frame(288, 288, fit="crop")
        got = in_browser(reader, photo, frame)
        assert not isinstance(got, str), got
        assert np.abs(got.astype(int) - read_pixels(photo, frame)).max() <= (0 if photo[1:4] == b"PNG" else 4)


def test_boxes_of_an_avif_turn_it_and_its_xmp_does_not(reader: Page) -> None:
    frame = Frame(41, 29)
    for more in ({"exif": exif(8)}, {"xmp": xmp(3)}, {"exif": exif(6), "xmp": xmp(3)}):
        photo = encode(scene(3, 61, 47), "AVIF", quality=90, **more)
        got = in_browser(reader, photo, frame)
        assert not isinstance(got, str), (more, got)
        assert np.abs(got.astype(int) - read_pixels(photo, frame)).max() <= 4, more


def test_what_may_be_turned_unseen_is_refused(reader: Page) -> None:
    """TIFF, which some browsers read; and ICO, which Chromium reads and the Frame does not know."""
    pixels = scene(3, 32, 32)
    assert in_browser(reader, encode(pixels, "TIFF"), Frame(8, 8)) == "unreadable"
    assert in_browser(reader, encode(pixels, "ICO"), Frame(8, 8)) == "unreadable"


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 128), (224, 224), (320, 320), (320, 96)])
def test_the_large_golden_photo_gives_the_same_pixels(
    reader: Page, fit: str, width: int, height: int
) -> None:
    """At every decode scale: a bundle that is exported today passes in a browser."""
    frame = Frame(width, height, fit=fit)
    photo = drawn_photos(frame)[2]
    got = in_browser(reader, photo, frame)
    assert not isinstance(got, str), got
    assert np.abs(got.astype(int) - read_pixels(photo, frame)).max() <= 2


def test_what_is_too_large_or_no_photo_is_refused(reader: Page) -> None:
    photo = encode(np.zeros((40, 50, 3), np.uint8), "PNG")
    assert in_browser(reader, photo, Frame(8, 8, max_bytes=len(photo) - 1)) == "too_many_bytes"
    assert in_browser(reader, photo, Frame(8, 8, max_pixels=1999)) == "too_many_pixels"
    long = np.zeros((1, 70_000, 3), np.uint8)
    for pixels in (long, long.swapaxes(0, 1)):
        assert in_browser(reader, encode(pixels, "PNG"), Frame(8, 8)) == "too_many_pixels"
    huge = bytearray(photo)
    huge[16:24] = (60_000).to_bytes(4, "big") * 2  # a head whose pixels no browser decodes
    assert in_browser(reader, bytes(huge), Frame(8, 8)) == "too_many_pixels"
    assert in_browser(reader, b"", Frame(8, 8)) == "unreadable"
    assert in_browser(reader, b"<!doctype html>", Frame(8, 8)) == "unreadable"


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize(("width", "height"), [(61, 47), (40, 90), (7, 5)])
def test_pictures_of_the_camera_give_the_same_pixels(reader: Page, fit: str, width: int, height: int) -> None:
    """As a VideoFrame that is copied, and as the bitmap of a browser that has none."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    opaque = np.concatenate([pixels, np.full((height, width, 1), 255, np.uint8)], 2)
    frame = Frame(17, 13, fit=fit)
    given = [base64.b64encode(opaque.tobytes()).decode(), width, height, frame.to_json()]
    expected = read_pixels(pixels, frame).ravel().tolist()
    assert reader.evaluate(PICTURE, given) == [expected, expected]
