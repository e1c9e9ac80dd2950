"""Photo bytes to uint8 RGB at the frame size: the only file that decodes, orients, resizes or crops what a
model is judged on; thumbnails; heat over a photo; image statistics (brightness, contrast, sharpness).

data/jpeg.py is a faster stand-in with the same pixels for scans and training. The pixels are specified in
docs/concepts/frame.md; Pillow is the reference implementation.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import logging
import math
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError, _imaging, features

from catflap.errors import BadPhoto, CatflapError, system_reason
from catflap.installing import install, install_extra

Pixels: TypeAlias = npt.NDArray[np.uint8]
logging.getLogger("PIL").addHandler(logging.NullHandler())  # BadPhoto carries what it would log
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
Photo: TypeAlias = "Source | Image.Image | Pixels"
ImageStatistics: TypeAlias = tuple[float, ...]

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE = (255, 255, 255)
MAX_SIDE = 65_535  # px; the resize tables of a longer side would need gigabytes
MAX_PROFILE = 4 << 20  # bytes of an ICC profile
MAX_SCANS = 256  # of a progressive JPEG; each costs a pass over all the pixels
SCANS = tuple(bytes((0xFF, 0xDA, 0, 6 + 2 * parts, parts)) for parts in range(1, 5))  # how one begins
SLOW_BYTES = 4 << 20  # of a photo that Pillow decodes in Python
NOISE = hashlib.shake_128(b"catflap").digest(256).replace(b"\xff", b"\x7f")  # entropy-coded data of no photo
CUT_SHORT = ("truncated", "end of file")  # in the words of decoders
ZEROED = bytes(24)  # entropy-coded JPEG data rarely holds so many zeros; Huffman tables hold fewer
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
STATISTICS = ("brightness", "contrast", "sharpness")
NO_STATISTICS = (math.nan,) * len(STATISTICS)
ROW_STEP = 4  # every fourth row is measured, so that it takes a hundredth of an answer's time
_ALPHA_MODES = ("RGBA", "RGBa", "LA", "PA")
_OPAQUE_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Frame:
    """How a photo becomes the pixels that the model sees; fixed once and carried into the Bundle.

    Sizes are pixels. `fit` is "squash" (the whole photo, aspect not kept) or "crop" (the
    largest centred part of the frame's aspect). `decode` is "scaled" (a JPEG is decoded at
    1/2, 1/4 or 1/8 while at least twice the frame remains) or "full".
    """

    width: int = 288
    height: int = 288
    fit: str = "squash"
    filter: str = "bilinear"
    decode: str = "scaled"
    max_pixels: int = 80_000_000
    max_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        sides = (self.width, self.height)
        if not all(type(side) is int and 8 <= side <= 2048 for side in sides):
            raise CatflapError(f"A frame of {sides} px is not possible.", "Use 8 to 2048 px.")
        choices = {"fit": ("squash", "crop"), "filter": tuple(FILTERS), "decode": ("scaled", "full")}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise CatflapError(
                    f"The frame's {field} is {getattr(self, field)!r}.",
                    f"Use one of: {', '.join(allowed)}.",
                )
        for field, most in (("max_pixels", 89_000_000), ("max_bytes", 1 << 30)):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= most:
                raise CatflapError(f"The frame's {field} is {value!r}.", f"Use 1 to {most}.")

    def to_json(self) -> dict[str, Any]:
        """The frame as written to dataset.json, checkpoint.json and bundle.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Frame:
        """The frame that an artefact carries; unknown or missing fields are refused."""
        if not isinstance(fields, dict) or set(fields) != set(cls.__dataclass_fields__):
            raise CatflapError("The artefact's frame has unknown or missing fields.", "Export it again.")
        return cls(**fields)


@dataclass(frozen=True)
class PhotoInfo:
    """What a photo's header says: stored size in px, format, mode, EXIF orientation (1 to 8), frames."""

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    animated: bool


def read_pixels(photo: Photo, frame: Frame) -> Pixels:
    """The pixels of a photo as the model sees them: uint8 RGB, shape (height, width, 3).

    Takes a path, bytes, an open binary file, a PIL image or a uint8 array (H, W, 3), (H, W, 4) or (H, W).
    Raises BadPhoto when it is not a whole photo in a supported format and within the frame's limits.
    """
    try:
        if isinstance(photo, np.ndarray):
            image = _from_array(photo)
        elif isinstance(photo, Image.Image):
            image = _upright(photo, frame)
        else:
            data = photo if isinstance(photo, bytes) else read_file(photo, frame.max_bytes)
            image = _decode(data, frame)
        if frame.fit == "crop":
            width = min(image.width, max(1, image.height * frame.width // frame.height))
            height = min(image.height, max(1, image.width * frame.height // frame.width))
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        across = image.resize((frame.width, image.height), FILTERS[frame.filter])
        return np.asarray(across.resize((frame.width, frame.height), FILTERS[frame.filter]))
    except CatflapError:
        raise
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        raise _bad_photo(error) from error


def decode(data: bytes, frame: Frame) -> Pixels:
    """The whole photo upright in sRGB, uint8 (H, W, 3), decoded as the frame decodes but not resized."""
    try:
        return np.asarray(_decode(data, frame))
    except CatflapError:
        raise
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        raise _bad_photo(error) from error


def read_whole(data: bytes, frame: Frame) -> Pixels:
    """A whole photo, upright, at its own size and within the frame's limits: uint8 RGB (H, W, 3)."""
    return decode(data, replace(frame, decode="full"))


def resize(part: Pixels, frame: Frame, *, mirror: bool = False) -> Pixels:
    """A part of a decoded photo at the frame size; `mirror` swaps left and right."""
    image = _from_array(part)
    across = image.resize((frame.width, image.height), FILTERS[frame.filter])
    image = across.resize((frame.width, frame.height), FILTERS[frame.filter])
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image)


def read_file(path: Source, max_bytes: int = Frame.max_bytes) -> bytes:
    """The bytes of a photo file, or an open one; BadPhoto when it is missing, not a file or too large."""
    try:
        if isinstance(path, bytes | bytearray | memoryview) or hasattr(path, "read"):
            data = bytes(path.read(max_bytes + 1) if hasattr(path, "read") else path)
            if len(data) > max_bytes:
                raise _too_many_bytes(len(data), max_bytes)
            return data
        status = os.stat(os.fspath(path))  # noqa: PTH116  before opening, which has side effects on a device
        if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes:
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
            with open(os.open(path, flags), "rb", 1 << 16) as file:  # non-blocking: it may be a pipe by now
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode):
                    data = file.read(max_bytes + 1) or b""
                    if len(data) > max_bytes:
                        raise _too_many_bytes(len(data), max_bytes)
                    return data
    except (OSError, ValueError) as error:
        why = system_reason(error)
        raise BadPhoto(
            "unreadable", f"{_printable(path)} cannot be read: {why}.", "Check its path and permissions."
        ) from error
    except TypeError as error:
        what = f"A {type(path).__name__} is not a photo."
        raise BadPhoto("unreadable", what, "Give a path, bytes, a PIL image or a uint8 array.") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadPhoto("unreadable", f"{_printable(path)} is not a file.", "Name a photo file.")
    raise _too_many_bytes(status.st_size, max_bytes)


def inspect(data: bytes, frame: Frame | None = None) -> PhotoInfo:
    """What the header of a photo says, without decoding its pixels; BadPhoto when it is not a photo."""
    try:
        image = _open(data, frame or Frame())
        try:
            animated = image.format not in ("MPO", "HEIF") and bool(getattr(image, "is_animated", False))
        except Exception:  # damage behind the first frame, which is the one that counts
            animated = True
        format = "JPEG" if image.format == "MPO" else str(image.format)
        image.info.setdefault(
            "exif", b""
        )  # else Pillow decodes a whole PNG to look for EXIF after its pixels
        return PhotoInfo(image.width, image.height, format, image.mode, _orientation(image), animated)
    except CatflapError:
        raise
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        raise _bad_photo(error) from error


def small_grey(data: bytes, frame: Frame, width: int, height: int) -> Pixels:
    """The whole photo as luma, squashed to (height, width), decoded as the frame decodes."""
    try:
        grey = _decode(data, frame).convert("L")
        return np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    except CatflapError:
        raise
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        raise _bad_photo(error) from error


def thumbnail(photo: Photo, side: int = 160, quality: int = 80) -> bytes:
    """A small JPEG of a photo for a page that people look at; the aspect ratio is kept."""
    half = max(8, min(side, 2048) // 2)  # a scaled decode keeps twice the frame: as much as is shown
    frame = Frame(half, half)
    try:
        if isinstance(photo, np.ndarray):
            image = _from_array(photo)
        elif isinstance(photo, Image.Image):
            image = _upright(photo, frame).copy()
        else:
            image = _decode(photo if isinstance(photo, bytes) else read_file(photo), frame)
        image.thumbnail((side, side))
    except CatflapError:
        raise
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        raise _bad_photo(error) from error
    return encode(np.asarray(image), "JPEG", quality=quality)


def highlight(data: bytes, heat: npt.NDArray[np.floating[Any]], frame: Frame, side: int = 640) -> Pixels:
    """A photo, at most `side` px, with heat (h, w) of 0 to 1 over it: cold parts dark, hot ones orange.

    It shows the part of the photo that the frame shows the model. uint8 RGB (H, W, 3).
    """
    if frame.fit == "squash":
        image = _from_array(decode(data, frame))
        image.thumbnail((side, side))
    else:
        image = _from_array(read_pixels(data, frame))
    warm = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    share = np.clip(np.asarray(warm), 0, 1)[:, :, None]
    pixels = np.asarray(image) * (0.45 + 0.55 * share)
    return np.asarray(np.rint(pixels + 0.45 * share * (np.array([255, 120, 0]) - pixels)), np.uint8)


def image_statistics(frame: Pixels) -> ImageStatistics:
    """Brightness, contrast and sharpness of a frame, uint8 (H ≥ 3, W ≥ 3, 3), in the order of STATISTICS.

    They are measured on the green channel, which carries most of the luminance, in every fourth row: mean and
    standard deviation as shares of 255, and ln(1 + v) for the variance v of the 4-neighbour Laplacian.
    """
    green = frame[:, :, 1]
    rows = green[1:-1:ROW_STEP].astype(np.float32)
    laplacian = green[:-2:ROW_STEP, 1:-1].astype(np.float32)
    laplacian += green[2::ROW_STEP, 1:-1]
    laplacian += rows[:, :-2]
    laplacian += rows[:, 2:]
    laplacian -= 4 * rows[:, 1:-1]
    moments = []
    for values in (rows.ravel(), laplacian.ravel()):
        mean = float(values.mean())  # the variance so takes a third of NumPy's time, exact enough for bytes
        moments.append((mean, max(0.0, float(values.dot(values)) / values.size - mean * mean)))
    (mean, variance), (_, roughness) = moments
    return mean / 255, math.sqrt(variance) / 255, math.log1p(roughness)


def encode(
    pixels: npt.NDArray[np.integer[Any]], format: str, mode: str | None = None, **options: Any
) -> bytes:
    """Pixels (H, W, 3 or 4) or (H, W), uint8 or grey uint16, as an image file, in another mode if named."""
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode, palette=Image.Palette.ADAPTIVE, colors=32)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _open(data: bytes, frame: Frame) -> Image.Image:
    """Open a photo, reading its header only; refuse what is over a limit or would take minutes to decode."""
    if not data:
        raise BadPhoto("empty", "The photo has no bytes.", "Copy the file again.")
    if len(data) > frame.max_bytes:
        raise _too_many_bytes(len(data), frame.max_bytes)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        image = _open_heif(data, error)
    may_be_slow = image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS
    if may_be_slow and _read_scans(data).several and sum(map(data.count, SCANS)) > MAX_SCANS:
        raise BadPhoto("too_slow", f"The JPEG has more than {MAX_SCANS} scans.", "Save it again.")
    if len(data) > SLOW_BYTES and any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ())):
        raise BadPhoto(
            "too_slow", f"A {image.format} of this kind and size takes too long to decode.", "Save it as PNG."
        )
    if not 0 < image.width * image.height <= frame.max_pixels or max(image.size) > MAX_SIDE:
        raise _wrong_size(image, frame)
    return image


def _open_heif(data: bytes, error: UnidentifiedImageError) -> Image.Image:
    """Open a HEIC photo with pi-heif; BadPhoto names what else the bytes are, or what to install."""
    head = data[:512].lstrip().lower()
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in HEIF_BRANDS:
        try:
            from pi_heif import HeifImageFile
        except ImportError as missing:
            raise BadPhoto(
                "unsupported_format",
                "HEIC photos need pi-heif, which is not installed.",
                f"Run: {install_extra('heif')}",
            ) from missing
        opened: Image.Image = HeifImageFile(io.BytesIO(data))
        return opened
    if brand in AVIF_BRANDS and not features.check("avif"):
        raise BadPhoto(
            "unsupported_format",
            "This build of Pillow does not read AVIF photos.",
            f"Run: {install('--force-reinstall', '--only-binary', ':all:', 'pillow')}",
        ) from error
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        raise BadPhoto(
            "not_a_photo", "The file is a web page or XML, not a photo.", "Download the photo itself."
        ) from error
    raise BadPhoto(
        "unknown_format",
        "The bytes are not a photo in a supported format.",
        f"Use one of: {', '.join(FORMATS)}.",
    ) from error


def _wrong_size(image: Image.Image, frame: Frame) -> BadPhoto:
    if 0 in image.size:
        return BadPhoto("empty", "The photo has no pixels.", "Copy the file again.")
    if image.width * image.height > frame.max_pixels:
        return _too_many_pixels(f"{image.width * image.height}, more than", frame.max_pixels)
    return _too_many_pixels(f"{image.width} by {image.height} pixels, a side of more than", MAX_SIDE)


def _decode(data: bytes, frame: Frame) -> Image.Image:
    """Decode the first frame, convert it to sRGB and turn it upright."""
    image = _open(data, frame)
    is_jpeg = image.format in ("JPEG", "MPO")
    orientation = _orientation(image) if is_jpeg else None  # a PNG is decoded for it, errors unseen
    if is_jpeg and frame.decode == "scaled":
        width, height = 2 * frame.width, 2 * frame.height
        image.draft(None, (height, width) if (orientation or 1) >= 5 else (width, height))
    image.load()
    if orientation is None:
        orientation = _orientation(image)
    if is_jpeg:
        last = image.crop((image.width - 1, image.height - 1, image.width, image.height)).convert("L")
        is_grey = abs(last.tobytes()[0] - 128) <= 1  # in luma, for its chroma mixes with the row above
        has_signs = is_grey or "progressive" in image.info or ZEROED in data
        if has_signs and _is_incomplete(data, is_grey):
            raise BadPhoto(
                "truncated",
                "The photo is truncated: part of its JPEG data is missing.",
                "Copy the file again.",
            )
    rgb = _to_rgb(image)
    if rgb is not image:
        image.close()  # it may be large
    return rgb if orientation == 1 else rgb.transpose(_TURNS[orientation])


@dataclass(frozen=True)
class _Scans:
    """What a JPEG's markers say about its entropy-coded data, which begins at `start`.

    `several`: it is decoded scan by scan; `codes_zeros`: long runs of zeros are codes of its Huffman tables,
    as in flat areas; `complete`: the scans reach the full precision of all coefficients.
    """

    start: int
    several: bool
    is_huffman: bool
    codes_zeros: bool
    complete: bool

    def find_hole(self, data: bytes) -> tuple[int, int]:
        """The place of the first long run of zeros, or -1, and of the end marker, or 0 if there is none."""
        hole = data.find(ZEROED, self.start)
        if hole < 0:
            return -1, 0
        stop = _end_of_data(data, self.start)
        return (hole if hole < stop else -1), stop


def may_lack_data(data: bytes) -> bool:
    """Whether the markers and bytes of a JPEG show signs of missing data, which decoding has to confirm."""
    scans = _read_scans(data)
    return scans.is_huffman and (not scans.complete or scans.find_hole(data)[0] >= 0)


def _is_incomplete(data: bytes, is_grey: bool) -> bool:
    """Whether a decoded JPEG lacks data, which libjpeg fills with grey or noise and reports nowhere.

    Three cheap signs of missing data are looked for: a run of zeros among the entropy-coded data, a last
    pixel of the grey that stands for missing blocks (`is_grey`), and progressive scans that end before full
    precision.
    Each also occurs in whole photos, so a sign is confirmed by decoding changed copies: whole data ends
    where the decoder needs it to, so bytes put after it change nothing, and other bytes in place of its last
    ones change pixels.
    """
    scans = _read_scans(data)
    if not scans.is_huffman:
        return False
    hole, stop = scans.find_hole(data)
    if hole < 0 and scans.complete and not is_grey:
        return False
    stop = stop or _end_of_data(data, scans.start)
    whole = _pixel_hash(data)
    if whole != _pixel_hash(data[:stop] + NOISE + data[stop:]):
        return True  # the decoder wanted more
    if hole < 0:
        return False
    after = hole
    while after < stop and data[after] == 0:
        after += 1
    end = _next_marker(data, after, stop)
    if after < end:  # the zeros are inside the data
        if not scans.codes_zeros or whole != _pixel_hash(data[:end] + NOISE + data[end:]):
            return True
        count = max(8, min(64, end - after))  # unused, if the zeros were decoded as too many pixels
        return whole == _pixel_hash(data[: end - count] + NOISE[:count] + data[end:])
    if whole == _pixel_hash(data[: hole + 1] + data[end:]):
        return False  # surplus zeros after the last pixel
    return whole == _pixel_hash(data[: (hole + end) // 2] + data[end:])  # part was decoded, part is surplus


def _end_of_data(data: bytes, start: int) -> int:
    stop = data.find(b"\xff\xd9", start)
    return len(data) if stop < 0 else stop


def _read_scans(data: bytes) -> _Scans:
    """Read the markers of a JPEG up to its first scan, and those of the others where there are several."""
    place, components, is_progressive, is_huffman = 2, 1, False, True
    precision: dict[int, list[int]] = {}  # of a progressive JPEG: bits of each coefficient still to come
    zero_symbols: dict[bool, set[int]] = {False: set(), True: set()}  # coded by zeros, in DC and AC tables
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data) and data[place + 1] != 0xDA:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        if marker == 0xFF:
            place += 1
            continue
        if marker == 0xC4:
            table, last = place + 4, min(place + 2 + length, len(data))
            while table + 17 < last:
                zero_symbols[data[table] >= 16].add(data[table + 17])
                table += 17 + sum(data[table + 1 : table + 17])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC8, 0xCC):  # start of frame
            ids = data[place + 10 : place + 2 + length : 3]
            components, is_progressive, is_huffman = len(ids), marker & 3 == 2, marker < 0xC8
            precision = {id: [13] * 64 for id in ids} if is_progressive else {}
        place += 2 + length
    start, in_first_scan = place, data[place + 4 : place + 5]
    while precision and (place := data.find(b"\xff\xda", place)) >= 0 and place + 5 < len(data):
        count = data[place + 4]
        header = data[place + 5 : place + 8 + 2 * count]
        if len(header) == 3 + 2 * count and 1 <= count <= 4:
            first, last, low = header[-3], header[-2], header[-1] & 15
            for id in header[: 2 * count : 2]:
                if id in precision:
                    precision[id][first : last + 1] = [low] * (last + 1 - first)
        place += 2
    symbols = zero_symbols.values()  # 0 is "no change" in a DC table, and "end of block" in an AC table
    codes_zeros = is_progressive or all(
        0 in found if in_first_scan == b"\x01" else found == {0} for found in symbols
    )
    several = is_progressive or in_first_scan != bytes([components & 255])
    return _Scans(start, several, is_huffman, codes_zeros, not any(map(any, precision.values())))


def _next_marker(data: bytes, place: int, stop: int) -> int:
    """The place of the next marker in entropy-coded data, where FF 00 is a byte and FF FF is padding."""
    while (place := data.find(b"\xff", place, stop)) >= 0:
        if data[place + 1 : place + 2] not in (b"\x00", b"\xff"):
            return place
        place += 1
    return stop


def _pixel_hash(data: bytes) -> bytes:
    """A hash of all pixels of a JPEG, or of the decoder's error."""
    found = hashlib.sha256()
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            for top in range(0, image.height, 512):
                found.update(image.crop((0, top, image.width, min(top + 512, image.height))).tobytes())
    except Exception as error:
        found.update(str(error).encode())
    return found.digest()


def _upright(image: Image.Image, frame: Frame) -> Image.Image:
    """An image of the caller's in sRGB, turned as its EXIF orientation says."""
    if not 0 < image.width * image.height <= frame.max_pixels or max(image.size) > MAX_SIDE:
        raise _wrong_size(image, frame)
    rgb, orientation = _to_rgb(image), _orientation(image)
    return rgb if orientation == 1 else rgb.transpose(_TURNS[orientation])


def silence_libtiff() -> None:
    """Stop libtiff from printing on stderr for each damaged photo; Pillow raises what matters."""
    with suppress(OSError, AttributeError):  # where Pillow does not link libtiff dynamically
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)  # Pillow itself switches the warnings off


def _orientation(image: Image.Image) -> int:
    """EXIF tag 0x0112, or else XMP's, 1 to 8; 1 when it is missing, damaged or out of range."""
    if image.format in ("TIFF", "HEIF"):
        return 1  # Pillow turns a TIFF itself; libheif turns by the file's own boxes, and EXIF does not count
    try:
        exif = Image.Exif() if image.format == "AVIF" else image.getexif()
        if image.format == "AVIF":  # there Pillow writes what the boxes say into the EXIF; XMP does not count
            exif.load(image.info.get("exif", b""))
        value = exif.get(0x0112, 1)
    except Exception:  # damaged EXIF raises many types, and none of them affects the pixels
        return 1
    return value if type(value) is int and value in _TURNS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """sRGB without alpha: ICC profile applied, transparency laid on white, 16 bits cut to 8."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in _OPAQUE_MODES + _ALPHA_MODES:
        raise BadPhoto(
            "unsupported_mode",
            f"Pixels of the type {image.mode!r} have no agreed colour.",
            "Save it as RGB or grey with 8 or 16 bits a channel.",
        )
    profile = image.info.get("icc_profile")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.new("RGB", rgba.size, WHITE)
        image.paste(rgba, mask=rgba)
    elif image.mode not in ("RGB", "L", "CMYK"):
        image = image.convert("RGB")
    if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE:
        transform = _to_srgb(profile, image.mode)
        if transform is not None:
            return transform.apply(image)  # type: ignore[no-any-return]
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """The transform from an embedded profile to sRGB, or None when it is sRGB, damaged or unsuitable."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        target = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, target, mode, "RGB")  # perceptual intent
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _from_array(array: Pixels) -> Image.Image:
    has_colours = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not has_colours or 0 in array.shape:
        raise BadPhoto(
            "unsupported_mode",
            f"An array of {array.dtype} with shape {array.shape} is not a photo.",
            "Give uint8 with shape (height, width, 3), RGB.",
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _bad_photo(error: Exception) -> BadPhoto:
    """Whatever a hostile file makes a decoder raise, as BadPhoto with the decoder's own words."""
    if isinstance(error, Image.DecompressionBombError):
        return _too_many_pixels("more than its limit of", Frame.max_pixels)
    cut = any(sign in str(error).lower() for sign in CUT_SHORT) or isinstance(error, EOFError)
    reason = "truncated" if cut else "damaged"
    words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return BadPhoto(reason, f"The photo is {reason}: {words}.", "Copy the file again.")


def _too_many_bytes(count: int, limit: int) -> BadPhoto:
    return BadPhoto("too_many_bytes", f"The photo has {count} bytes, more than {limit}.", "Save it smaller.")


def _too_many_pixels(how_many: str, limit: int) -> BadPhoto:
    return BadPhoto("too_many_pixels", f"The photo has {how_many} {limit} pixels.", "Save a smaller copy.")


def _printable(path: Source) -> str:
    """A path that can be printed even when its name is not UTF-8; the type of an open file."""
    name = os.fsdecode(path) if isinstance(path, str | os.PathLike) else f"The {type(path).__name__}"
    return name.encode("utf-8", "backslashreplace").decode()
