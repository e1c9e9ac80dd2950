"""What reading a photo takes at its greatest, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 3000
READ = """
import re, sys
from catflap.image import Frame, read_pixels
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
small, large = (open(path, "rb").read() for path in sys.argv[1:])
read_pixels(small, Frame())
before = peak()
read_pixels(large, Frame())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak")
def test_a_turned_photo_with_transparency_takes_no_third_copy(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, side in (("small", 30), ("large", SIDE)):
        photo = Image.fromarray(np.full((side, side, 4), 200, np.uint8))
        photo.save(tmp_path / name, "PNG", exif=exif, compress_level=1)
    command = [sys.executable, "-c", READ, str(tmp_path / "small"), str(tmp_path / "large")]
    taken = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert taken < 10 * SIDE * SIDE, "bytes a pixel"
