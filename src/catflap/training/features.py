"""Features of photos from a frozen backbone, cached by photo and frame."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from catflap.artifacts.dataset import Photos
from catflap.artifacts.folder import cache_folder, write_atomically
from catflap.artifacts.schema import digest
from catflap.errors import CatflapError, first_line
from catflap.image import Frame, Pixels
from catflap.machine import describe_machine, versions
from catflap.progress import Progress, prefetch, silent
from catflap.runtime.engine import Model
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import frames_of
from catflap.training.backbones import Backbone
from catflap.training.distributed import (
    autocast,
    barrier,
    fastest_precision,
    rank_and_world_size,
    retry_on_oom,
)
from catflap.training.network import FeatureNetwork
from catflap.training.onnx_graph import to_onnx

MEMORY_SHARE = 1 / 4  # at most, for the features of one role
GPU_BATCH = 64
Features: TypeAlias = npt.NDArray[np.float32]
LabelledFeatures: TypeAlias = tuple[Features, npt.NDArray[np.int64]]
_Bucket: TypeAlias = tuple[str, list[int]]  # the first digits of ids, and the positions of such photos


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone at one frame: `model` maps uint8 frames to features.

    `key` identifies everything that the features depend on: weights, frame, device and versions. Up to
    `workers` threads may call `model` at once, each with up to `batch` photos.
    """

    model: Model
    frame: Frame
    width: int
    key: str
    workers: int = 1
    batch: int = 4


def open_extractor(backbone: Backbone, frame: Frame, *, device: str = "cpu") -> Extractor:
    """Open a backbone for many photos: ONNX Runtime on a CPU, torch in its fastest precision on a GPU.

    On a CPU, ONNX Runtime in fp32 is faster than torch in bf16, and its features are those of the exported
    model. Each core works on its own photos: cores that share a photo wait for each other at every layer and
    take twice the processor's time. For a GPU they decode in parallel, and it takes their batches in turn.
    """
    if device == "cpu":
        key = _key(backbone, frame.to_json(), device)
        model = open_model(feature_graph(backbone, frame), threads=1)
        return Extractor(model, frame, backbone.features, key, describe_machine().cores)
    precision = fastest_precision(device)
    key = _key(backbone, [frame.to_json(), precision], device)
    copied = replace(backbone, network=deepcopy(backbone.network))  # the backbone itself stays on the CPU
    module, lock = FeatureNetwork(copied).eval().to(device), Lock()
    place = next(module.parameters()).device  # this process's GPU: other threads default to the first

    def compute(frames: Pixels) -> Features:
        return module(torch.from_numpy(frames).to(place)).float().cpu().numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def run(frames: Pixels) -> Features:
        with lock:
            with autocast(device, precision):
                rows = retry_on_oom(compute, frames, place)
            if np.isfinite(rows).all():
                return rows
            return retry_on_oom(compute, frames, place)  # fp16 overflows above 65,504

    return Extractor(run, frame, backbone.features, key, describe_machine().cores, GPU_BATCH)


def counting(extractor: Extractor) -> tuple[Extractor, list[int]]:
    """The extractor, and a list to which it appends the number of photos of each batch that it computes."""
    computed: list[int] = []  # appending is thread-safe

    def model(frames: Pixels) -> Features:
        computed.append(len(frames))
        return extractor.model(frames)

    return replace(extractor, model=model), computed


def feature_graph(backbone: Backbone, frame: Frame) -> bytes:
    """The ONNX bytes of a frozen backbone at a frame size; cached, because exporting takes seconds.

    The sha256 is part of the file name, so that a damaged file is written again.
    """
    folder, key = cache_folder("backbones"), _key(backbone, [frame.width, frame.height], "cpu")
    with suppress(OSError):
        for path in folder.glob(f"{key}-*.onnx"):
            if path.stem == f"{key}-{sha256(kept := path.read_bytes()).hexdigest()}":
                return kept
    graph = to_onnx(FeatureNetwork(backbone).eval(), frame.height, frame.width)
    _keep(folder / f"{key}-{sha256(graph).hexdigest()}.onnx", graph)
    return graph


def features(
    extractor: Extractor,
    photos: Photos,
    *,
    step: str = "features",
    progress: Progress = silent,
    shared: str | None = None,
) -> Features:
    """The features of photos, float32 (n, width); if they are many, in an unnamed temporary file.

    Cached features are not computed again. Each 256th of the photos (by the first two digits of their id; of
    many photos each 4,096th) is saved as soon as it is done, so a stopped run loses little. With `shared`,
    every process of a distributed run calls this: each computes a share, then reads the others' from the
    cache, or computes them if it has its own cache.
    """
    folder = cache_folder("features") / extractor.key
    rows = _allocate(len(photos), extractor.width)
    progress(step, 0, len(photos))
    done = 0
    names = _names(photos)

    def fill(item: _Bucket) -> list[int]:
        bucket, positions = item
        path = folder / f"{bucket}.npz"
        known = _load(path, extractor.width)
        unseen = [position for position in positions if names[position] not in known]
        if unseen:
            known |= _extract(extractor, photos.take(np.array(unseen)))
            _save(path, known)
        for position in positions:
            rows[position] = known[names[position]]
        return positions

    rank, world = rank_and_world_size() if shared else (0, 1)
    mine, others = list[_Bucket](), list[_Bucket]()
    for number, bucket in enumerate(_buckets(names)):
        (mine if number % world == rank else others).append(bucket)
    for share in (mine, others):
        for positions in prefetch(fill, share, extractor.workers):
            done += len(positions)
            progress(step, done, len(photos))
        if shared and share is mine:
            barrier(shared)
    return rows


def count_unseen(extractor: Extractor, photos: Photos) -> int:
    """How many photos have no features in the cache."""
    folder, names = cache_folder("features") / extractor.key, _names(photos)
    kept = ((_kept_names(folder / f"{bucket}.npz"), positions) for bucket, positions in _buckets(names))
    return sum(names[position] not in known for known, positions in kept for position in positions)


def labelled_features(
    extractor: Extractor, photos: Photos, step: str, device: str, progress: Progress
) -> LabelledFeatures:
    """The features and labels of photos; all processes call this and share the work."""
    return features(extractor, photos, step=step, progress=progress, shared=device), photos.labels


def _allocate(count: int, width: int) -> Features:
    """An array in memory or, if it would fill more than a quarter of it, in an unnamed temporary file.

    Raises CatflapError when the cache's disk has no room for it.
    """
    size, folder = 4 * count * width, cache_folder("features")
    if size <= MEMORY_SHARE * describe_machine().memory_mb * 1e6:
        return np.empty((count, width), np.float32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a full disk raises here instead of a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=(count, width))
    except OSError as error:
        raise CatflapError(
            f"The features of {count:,} photos take {size / 1e9:.1f} GB in {folder}: {first_line(error)}.",
            "Make room there, or let CATFLAP_CACHE name a folder on a larger disk.",
        ) from error


def _names(photos: Photos) -> list[str]:
    """Id and length of each photo: one that prepare shrank has the id of the original."""
    return [f"{id}-{length}" for id, length in zip(photos.ids, photos.lengths, strict=True)]


def _buckets(names: list[str]) -> Iterator[_Bucket]:
    digits = 2 if len(names) <= 1 << 19 else 3  # about 2,000 photos a file
    grouped: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        grouped.setdefault(name[:digits], []).append(position)
    yield from sorted(grouped.items())


def _extract(extractor: Extractor, photos: Photos) -> dict[str, Features]:
    batches = frames_of(photos, extractor.frame, batch=extractor.batch)
    rows = [extractor.model(frames) for frames in batches]
    return dict(zip(_names(photos), np.concatenate(rows).astype(np.float32), strict=True))


def _load(path: Path, width: int) -> dict[str, Features]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, rows = arrays["ids"], arrays["features"]
    except Exception:  # absent or damaged
        return {}
    return dict(zip(ids.tolist(), rows, strict=True)) if rows.shape == (len(ids), width) else {}


def _kept_names(path: Path) -> set[str]:
    """The names of the photos in a cache file; features are not read."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return set(arrays["ids"].tolist())
    except Exception:  # absent or damaged
        return set()


def _save(path: Path, known: dict[str, Features]) -> None:
    ids = sorted(known)
    buffer = io.BytesIO()
    np.savez(buffer, ids=np.array(ids), features=np.stack([known[photo] for photo in ids]))
    _keep(path, buffer.getvalue(), durable=False)


def _keep(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a cache file; if that fails, warn once and go on."""
    try:
        write_atomically(path, data, durable=durable)
    except CatflapError:
        _warn_once(cache_folder(""))


@cache
def _warn_once(folder: Path) -> None:
    """Warn that results are not cached."""
    logging.getLogger(__name__).warning(
        "The cache %s cannot be written, so results are not cached. Set CATFLAP_CACHE to another folder.",
        folder,
    )


def _key(backbone: Backbone, frame: object, device: str) -> str:
    parts = versions(("pillow", "timm", "torch", "onnxruntime"))
    named = [backbone.name, backbone.sha256, backbone.mean, backbone.std]
    return digest([*named, frame, device, parts])
