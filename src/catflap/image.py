"""Photo bytes to uint8 RGB at the frame size: the only file that decodes, orients, resizes or crops what a
model is judged on; data/jpeg.py and training/loop/resizing.py are faster stand-ins for scans and training.

The pixels are specified in docs/concepts/frame.md; Pillow is the reference implementation.
"""

from __future__ import annotations

import io
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from catflap.errors import BadPhoto, CatflapError, system_reason

Pixels: TypeAlias = npt.NDArray[np.uint8]
T = TypeVar("T")
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says of a bad photo, BadPhoto says
Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
Photo: TypeAlias = "Source | Image.Image | Pixels"

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
WHITE = (255, 255, 255)
MAX_SIDE = 65_535  # px; the resize tables of a longer side would need gigabytes
MAX_PROFILE = 4 << 20  # bytes of an ICC profile
MAX_SCANS = 256  # of a progressive JPEG; each costs a pass over all the pixels
SCANS = tuple(bytes((0xFF, 0xDA, 0, 6 + 2 * parts, parts)) for parts in range(1, 5))  # how one begins
SLOW_BYTES = 4 << 20  # of a photo that Pillow decodes in Python
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
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
        """The frame as it stands in dataset.json, checkpoint.json and bundle.json."""
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
    Raises BadPhoto when it is not a whole, allowed photo.
    """
    if isinstance(photo, np.ndarray):
        return _fit(_from_array(photo), frame)
    if isinstance(photo, Image.Image):
        return _guarded(lambda: _fit(_upright(_small_enough(photo, frame)), frame))
    data = photo if isinstance(photo, bytes) else read_file(photo, frame.max_bytes)
    return _guarded(lambda: _fit(_decode(data, frame), frame))


def decode(data: bytes, frame: Frame) -> Pixels:
    """The whole photo upright in sRGB, uint8 (H, W, 3), decoded as the frame decodes but not resized."""
    return _guarded(lambda: np.asarray(_decode(data, frame)))


def read_whole(data: bytes, frame: Frame) -> Pixels:
    """A whole photo, upright, at its own size and within the frame's limits: uint8 RGB (H, W, 3)."""
    return decode(data, replace(frame, decode="full"))


def resize(part: Pixels, frame: Frame, *, mirror: bool = False) -> Pixels:
    """A part of a decoded photo at the frame size; `mirror` swaps left and right."""
    image = _squash(_from_array(part), frame)
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else image)


def read_file(path: Source, max_bytes: int = Frame.max_bytes) -> bytes:
    """The bytes of a photo file, or an open one; BadPhoto when it is absent, no regular file or too large."""
    try:
        if isinstance(path, bytes | bytearray | memoryview) or hasattr(path, "read"):
            return bytes(path.read(max_bytes + 1) if hasattr(path, "read") else path)
        _check_regular(path, Path(path).stat(), max_bytes)  # before it is opened: a tape would wind
        with open(path, "rb", 1 << 16, opener=_open_at_once) as file:  # a stated buffer saves a system call
            _check_regular(path, os.fstat(file.fileno()), max_bytes)  # another may lie there by now
            data = file.read(max_bytes + 1) or b""  # some files are longer than their size says, or not ready
    except (OSError, ValueError) as error:
        why = system_reason(error)
        raise BadPhoto(
            "unreadable", f"{_shown(path)} cannot be read: {why}.", "Check its path and permissions."
        ) from error
    except TypeError as error:
        what = f"A {type(path).__name__} is not a photo."
        raise BadPhoto("unreadable", what, "Give a path, bytes, a PIL image or a uint8 array.") from error
    if len(data) > max_bytes:
        raise _too_many_bytes(len(data), max_bytes)
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for who writes


def _check_regular(path: str | os.PathLike[str], status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BadPhoto("unreadable", f"{_shown(path)} is not a file.", "Name a photo file.")
    if status.st_size > max_bytes:
        raise _too_many_bytes(status.st_size, max_bytes)


def inspect(data: bytes, frame: Frame | None = None) -> PhotoInfo:
    """What the header of a photo says, without decoding its pixels; BadPhoto when it is none."""
    return _guarded(lambda: _info(_open(data, frame or Frame())))


def small_grey(data: bytes, frame: Frame, width: int, height: int) -> Pixels:
    """The whole photo as luma, squashed to (height, width), decoded as the frame decodes."""

    def grey() -> Pixels:
        image = _decode(data, frame).convert("L")
        return np.asarray(image.resize((width, height), Image.Resampling.BOX))

    return _guarded(grey)


def thumbnail(photo: Photo, side: int = 160, quality: int = 80) -> bytes:
    """A small JPEG of a photo for a page that people look at; the aspect is kept."""
    reach = Frame(max(8, min(side, 2048)), max(8, min(side, 2048)))
    if isinstance(photo, np.ndarray):
        image = _from_array(photo)
    elif isinstance(photo, Image.Image):
        image = _guarded(lambda: _upright(_small_enough(photo, reach)).copy())
    else:
        data = photo if isinstance(photo, bytes) else read_file(photo)
        image = _guarded(lambda: _decode(data, reach))
    image.thumbnail((side, side))
    return encode(np.asarray(image), "JPEG", quality=quality)


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
    if not data:
        raise BadPhoto("empty", "The photo has no bytes.", "Copy the file again.")
    if len(data) > frame.max_bytes:
        raise _too_many_bytes(len(data), frame.max_bytes)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more than its limit of", frame.max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unknown_format(data) from error
    _refuse_slow(image, data)
    return _small_enough(image, frame)


def _small_enough(image: Image.Image, frame: Frame) -> Image.Image:
    if 0 in image.size:
        raise BadPhoto("empty", "The photo has no pixels.", "Copy the file again.")
    if image.width * image.height > frame.max_pixels:
        raise _too_many_pixels(f"{image.width * image.height}, more than", frame.max_pixels)
    if max(image.size) > MAX_SIDE:
        raise _too_many_pixels(f"{image.width} by {image.height} pixels, a side of more than", MAX_SIDE)
    return image


def _decode(data: bytes, frame: Frame) -> Image.Image:
    """Decode the first frame, convert it to sRGB and turn it upright."""
    image = _open(data, frame)
    if frame.decode == "scaled" and image.format in ("JPEG", "MPO"):
        width, height = 2 * frame.width, 2 * frame.height
        image.draft(None, (height, width) if _orientation(image) >= 5 else (width, height))
    image.load()
    return _upright(image, ours=True)


def _refuse_slow(image: Image.Image, data: bytes) -> None:
    """Refuse what would keep a decoder busy for minutes, though its pixels and bytes are within limits."""
    if image.format in ("JPEG", "MPO") and sum(map(data.count, SCANS)) > MAX_SCANS:
        raise BadPhoto("too_slow", f"The JPEG has more than {MAX_SCANS} scans.", "Save it again.")
    in_python = any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ()))
    if in_python and len(data) > SLOW_BYTES:
        raise BadPhoto(
            "too_slow", f"A {image.format} of this kind and size takes too long to decode.", "Save it as PNG."
        )


def _upright(image: Image.Image, *, ours: bool = False) -> Image.Image:
    """sRGB, turned as its EXIF orientation says; what is `ours` is let go before, for it may be large."""
    turn, rgb = _TURNS.get(_orientation(image)), _to_rgb(image)
    if ours and rgb is not image:
        image.close()
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """EXIF tag 0x0112, or else XMP's; 1 when it is absent, damaged, no whole number or out of range."""
    if image.format == "TIFF":
        return 1  # Pillow turns a TIFF itself
    try:
        exif = Image.Exif() if image.format == "AVIF" else image.getexif()
        if image.format == "AVIF":  # Pillow notes there what its boxes say; its XMP does not count
            exif.load(image.info.get("exif", b""))
        value = exif.get(0x0112, 1)
    except Exception:  # damaged EXIF comes as many types, and none of them spoils the pixels
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
    """The transform from an embedded profile to sRGB, or None when it is sRGB, damaged or unfit."""
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        target = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(source, target, mode, "RGB")  # perceptual intent
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _fit(image: Image.Image, frame: Frame) -> Pixels:
    """Crop with integer geometry, then resize."""
    if frame.fit == "crop":
        width = min(image.width, max(1, image.height * frame.width // frame.height))
        height = min(image.height, max(1, image.width * frame.height // frame.width))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(_squash(image, frame))


def _squash(image: Image.Image, frame: Frame) -> Image.Image:
    """Resize across and then down, for Pillow 13 varies the order."""
    for size in ((frame.width, image.height), (frame.width, frame.height)):
        if image.size != size:
            image = image.resize(size, FILTERS[frame.filter])
    return image


def _from_array(array: Pixels) -> Image.Image:
    has_colours = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not has_colours or 0 in array.shape:
        raise BadPhoto(
            "unsupported_mode",
            f"An array of {array.dtype} with shape {array.shape} is not a photo.",
            "Give uint8 with shape (height, width, 3), RGB.",
        )
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def _info(image: Image.Image) -> PhotoInfo:
    animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
    format = "JPEG" if image.format == "MPO" else str(image.format)
    image.info.setdefault("exif", b"")  # else Pillow decodes a whole PNG to look for EXIF after its pixels
    return PhotoInfo(image.width, image.height, format, image.mode, _orientation(image), animated)


def _guarded(step: Callable[[], T]) -> T:
    """Run a decoding step; whatever a hostile file makes Pillow raise becomes BadPhoto."""
    try:
        return step()
    except CatflapError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more than its limit of", Frame.max_pixels) from error
    except Exception as error:  # decoders fail in every type there is; the photo is at fault
        cut = "truncated" in str(error).lower() or isinstance(error, EOFError)
        reason = "truncated" if cut else "damaged"
        raise BadPhoto(
            reason, f"The photo is {reason}: {str(error) or type(error).__name__}.", "Copy the file again."
        ) from error


def _unknown_format(data: bytes) -> BadPhoto:
    head = data[:512].lstrip().lower()
    if data[4:8] == b"ftyp" and data[8:12] in HEIC:
        return BadPhoto("unsupported_format", "HEIC photos are not read here.", "Convert it to JPEG.")
    if head.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        return BadPhoto(
            "not_a_photo", "The file is a web page or XML, not a photo.", "Download the photo itself."
        )
    return BadPhoto(
        "unknown_format",
        "The bytes are no photo in a format that is read here.",
        f"Use one of: {', '.join(FORMATS)}.",
    )


def _too_many_bytes(count: int, limit: int) -> BadPhoto:
    return BadPhoto("too_many_bytes", f"The photo has {count} bytes, more than {limit}.", "Save it smaller.")


def _too_many_pixels(how_many: str, limit: int) -> BadPhoto:
    return BadPhoto("too_many_pixels", f"The photo has {how_many} {limit} pixels.", "Save a smaller copy.")


def _shown(path: Source) -> str:
    """A path that can be printed even when its name is not UTF-8; the kind of an open file."""
    name = os.fsdecode(path) if isinstance(path, str | os.PathLike) else f"The {type(path).__name__}"
    return name.encode("utf-8", "backslashreplace").decode()
