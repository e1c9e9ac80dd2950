"""The rates of a machine, measured on some photos: what `catflap plan` computes with, as a file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from catflap.artifacts.folder import write_atomically
from catflap.artifacts.schema import read_json
from catflap.data.duplicates import NEAR, near_hashes
from catflap.data.examine import examine_photo
from catflap.data.packing import Member, write_shard
from catflap.data.phash import MIRROR
from catflap.errors import BadArtifact, BadPhoto, CatflapError
from catflap.exporting.golden_cases import scene
from catflap.image import Frame, encode, read_file, read_pixels
from catflap.machine import describe_machine, versions
from catflap.progress import Progress, silent
from catflap.runtime.classifier import Classifier, list_photos

KIND = "machine-rates"
SAMPLE = 64  # photos
DRAWN = 12  # where none are given
HASHES = 500_000
SECONDS = 2.0
RATES = ("scan", "duplicates", "pack", "decode", "features", "head", "finetune", "predict")


@dataclass(frozen=True)
class MachineRates:
    """What a machine does in a second; of a processor of its work, whatever else ran.

    `rates` maps RATES to photos a second, None where it was not measured: "scan", "pack", "decode" and
    "predict" of one core, the others of the whole `device` ("cpu", or a GPU's name). `photo_bytes` is the
    mean of the photos that were measured with; `backbone` and `frame_px` belong to features and fine-tuning;
    `width` is that of the features. `ddp_efficiency` is the share of n-fold speed that n GPUs reach.
    """

    machine: dict[str, Any]
    device: str
    rates: dict[str, float | None]
    photo_bytes: float
    backbone: str
    frame_px: int
    width: int
    disk_free_mb: float
    photos: int
    versions: dict[str, str]
    ddp_efficiency: float | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The machine in words."""
        device = "" if self.device == "cpu" else f", {self.device}"
        return f"{self.machine['processor']}, {self.machine['cores']} cores{device}"


def measure_rates(
    sample: Path | None = None,
    *,
    backbone: str = "efficientnet_lite0",
    frame: Frame | None = None,
    progress: Progress = silent,
) -> MachineRates:
    """Measure this machine's processor on photos of a folder, or on drawn ones of 500 × 375 px.

    About half a minute on two cores. Raises CatflapError when the folder has no readable photo.
    """
    from catflap.training.throughput import measure_features, measure_head, measure_learning

    frame = frame or Frame()
    photos = _sample(sample)
    size = sum(map(len, photos)) / len(photos)
    width = 1280
    classifier = Classifier("cat", threads=1)
    measured: dict[str, float | None] = {}

    def note(name: str, rate: float) -> None:
        measured[name] = rate
        progress("measure", len(measured), len(RATES))

    with tempfile.TemporaryDirectory() as folder:
        note("scan", _scan_rate(photos, Path(folder)))
        note("duplicates", _duplicate_rate())
        note("pack", _pack_rate(photos, Path(folder)))
        free = shutil.disk_usage(Path.cwd()).free / 1e6
    note("decode", _per_second(lambda: [read_pixels(photo, frame) for photo in photos], len(photos)))
    note("features", measure_features(backbone, frame, seconds=SECONDS).per_second)
    note("head", measure_head(width))
    core = measure_learning(backbone, frame, seconds=SECONDS, batch=16, threads=1)  # 2 threads would wait
    note("finetune", core.per_second * describe_machine().cores)
    note("predict", _per_second(lambda: [classifier(photo) for photo in photos], len(photos)))
    parts = ("catflap", "numpy", "onnxruntime", "torch", "timm")
    return MachineRates(
        describe_machine().to_json(), "cpu", measured, size, backbone, frame.width, width, free, len(photos),
        versions(parts),
    )  # fmt: skip


def write_rates(path: Path, rates: MachineRates) -> None:
    """Write the rates for `catflap plan --machine`; CatflapError over another file."""
    if path.exists():
        load_rates(path)
    fields = {"catflap": KIND, "version": 1, **asdict(rates)}
    write_atomically(path, (json.dumps(fields, indent=2, sort_keys=True) + "\n").encode("utf-8"))


def load_rates(path: Path) -> MachineRates:
    """The rates that `catflap plan -o` or benchmarks/gpu.py wrote; BadArtifact when the file is not one."""
    fields = read_json(path, KIND)
    names = set(MachineRates.__dataclass_fields__)
    fix = "Write it with: catflap plan --photos 1e6 -o rates.json"
    try:
        found = MachineRates(**{name: value for name, value in fields.items() if name in names})
        rates = [found.rates.get(name) for name in RATES]
        numbers = [*(rate for rate in rates if rate is not None), found.photo_bytes, found.disk_free_mb]
        memory, cores = found.machine["memory_mb"], found.machine["cores"]
        good = all(0 < float(number) < 1e15 for number in (*numbers, memory, cores, found.width))
        good = good and isinstance(found.name, str)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadArtifact(f"{path} is not a file of rates.", fix) from error
    if not good:
        raise BadArtifact(f"{path} has a rate that is not above 0.", fix)
    return found


def _sample(folder: Path | None) -> list[bytes]:
    """The bytes of some photos of a folder, spread over it, or drawn ones."""
    if folder is None:
        return [encode(scene(seed, 500, 375), "JPEG", quality=90) for seed in range(DRAWN)]
    paths = [path for path, fault in list_photos(str(folder)) if fault is None]
    photos = []
    for path in paths[:: max(1, len(paths) // SAMPLE)][:SAMPLE]:
        try:
            data = read_file(path)
            read_pixels(data, Frame())
            photos.append(data)
        except BadPhoto:
            continue
    if not photos:
        raise CatflapError(f"{folder} has no photo that can be read.", "Name a folder with photos.")
    return photos


def _scan_rate(photos: list[bytes], folder: Path) -> float:
    references = []
    for number, photo in enumerate(photos):
        path = folder / f"{number}.jpg"
        path.write_bytes(photo)
        about = {"label": "a", "role": "", "user_group": "", "fault": "", "modified": 0}
        references.append({**about, "uri": str(path), "offset": -1, "bytes": len(photo)})
    return _per_second(lambda: [examine_photo(each) for each in references], len(photos))


def _duplicate_rate() -> float:
    """Hashes a second of the search for near-duplicates, among random ones."""
    hashes = np.random.default_rng(0).integers(0, 1 << 64, HASHES, np.uint64)
    start = process_time()
    near_hashes(hashes, NEAR, mirror=MIRROR)
    return HASHES / (process_time() - start)


def _pack_rate(photos: list[bytes], folder: Path) -> float:
    members = [Member(f"{number:064x}", ".jpg", 0, photo) for number, photo in enumerate(photos)]

    def pack() -> None:
        write_shard(folder / "shard.tar", members, folder / "note.npy")

    return _per_second(pack, len(photos))


def _per_second(step: Callable[[], object], photos: int) -> float:
    """Photos a processor-second of a step, over a quarter of SECONDS, after one that does not count."""
    step()
    start, rounds = process_time(), 0
    while process_time() - start < SECONDS / 4:
        step()
        rounds += 1
    return rounds * photos / (process_time() - start)
