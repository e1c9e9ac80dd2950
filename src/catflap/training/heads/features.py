"""Frozen features of photos, kept by photo and frame so that no photo is looked at twice."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
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
from catflap.training.heads.logistic import LabelledFeatures
from catflap.training.networks.backbone import Backbone
from catflap.training.networks.network import FeatureNetwork
from catflap.training.networks.onnx_graph import to_onnx
from catflap.training.precision import autocast, precision_on
from catflap.training.processes import barrier, in_halves, rank_and_world_size

IN_MEMORY = 1 / 4  # of it, at most, for the features of one role
GPU_BATCH = 64
Features: TypeAlias = npt.NDArray[np.float32]
_Bucket: TypeAlias = tuple[str, list[int]]  # the first digits of ids, and where such photos are


@dataclass(frozen=True)
class Extractor:
    """A frozen backbone at one frame: `model` maps uint8 frames to features.

    `key` names everything that the features depend on: weights, frame, device and versions.
    `workers` threads may call `model` at a time, each with up to `batch` photos.
    """

    model: Model
    frame: Frame
    width: int
    key: str
    workers: int = 1
    batch: int = 4


def open_extractor(backbone: Backbone, frame: Frame, *, device: str = "cpu") -> Extractor:
    """A backbone made ready for many photos: ONNX Runtime on the CPU, torch in quick numbers on a GPU.

    On a CPU ONNX Runtime in fp32 is faster than torch in bf16 (docs/concepts/recipes.md), and the
    features are then those that the exported model computes. Every core works on photos of its own:
    cores that share one photo wait for each other at every layer, and take twice the processor's time.
    Before a GPU they only decode side by side; it takes their batches one after the other.
    """
    if device == "cpu":
        key = _key(backbone, frame.to_json(), device)
        model = open_model(feature_graph(backbone, frame), threads=1)
        return Extractor(model, frame, backbone.features, key, describe_machine().cores)
    precision = precision_on(device)
    key = _key(backbone, [frame.to_json(), precision], device)
    copied = replace(backbone, network=deepcopy(backbone.network))  # the backbone itself stays where it is
    module, turn = FeatureNetwork(copied).eval().to(device), Lock()
    place = next(module.parameters()).device  # of several GPUs this process's, which its threads do not know

    def answer(frames: Pixels) -> Features:
        return module(torch.from_numpy(frames).to(place)).float().cpu().numpy()  # type: ignore[no-any-return]

    @torch.inference_mode()
    def run(frames: Pixels) -> Features:
        with turn:
            with autocast(device, precision):
                found = in_halves(answer, frames, place)
            if np.isfinite(found).all():
                return found
            return in_halves(answer, frames, place)  # fp16 has no number above 65,504

    return Extractor(run, frame, backbone.features, key, describe_machine().cores, GPU_BATCH)


def counting(extractor: Extractor) -> tuple[Extractor, list[int]]:
    """The extractor, and a list that gets the number of photos each time it looks at some."""
    looked_at: list[int] = []  # threads may add to it

    def model(frames: Pixels) -> Features:
        looked_at.append(len(frames))
        return extractor.model(frames)

    return replace(extractor, model=model), looked_at


def feature_graph(backbone: Backbone, frame: Frame) -> bytes:
    """The ONNX bytes of a frozen backbone at a frame; kept, because writing them takes seconds.

    They know the size of a frame, and nothing of how a photo is made to fit it. Their sha256 stands in the
    name of the file: one that was damaged is written again.
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
    meet: Callable[[], object] | None = None,
) -> Features:
    """The features of photos, float32 (n, width); where they are many, in a file that is gone with them.

    What was worked out before is read from the cache; each 256th of the photos (by the first two
    digits of their id; where they are many, each 4,096th) is kept as soon as it is done, so that a
    stopped run loses little. Many processes that want the same photos give `meet`, which waits for all
    of them: each works out a share, and then reads the others' from the cache, or works them out where
    it has a cache of its own.
    """
    folder = cache_folder("features") / extractor.key
    answer = _room(len(photos), extractor.width)
    progress(step, 0, len(photos))
    done = 0
    names = _names(photos)

    def one(part: _Bucket) -> list[int]:
        bucket, positions = part
        path = folder / f"{bucket}.npz"
        known = _load(path, extractor.width)
        unseen = [position for position in positions if names[position] not in known]
        if unseen:
            known |= _extract(extractor, photos.take(np.array(unseen)))
            _save(path, known)
        for position in positions:
            answer[position] = known[names[position]]
        return positions

    number, count = rank_and_world_size() if meet else (0, 1)
    mine, others = list[_Bucket](), list[_Bucket]()
    for place, bucket in enumerate(_buckets(names)):
        (mine if place % count == number else others).append(bucket)
    for share in (mine, others):
        for positions in prefetch(one, share, extractor.workers):
            done += len(positions)
            progress(step, done, len(photos))
        if meet and share is mine:
            meet()
    return answer


def count_unseen(extractor: Extractor, photos: Photos) -> int:
    """Of how many photos the cache has no features."""
    folder, names = cache_folder("features") / extractor.key, _names(photos)
    kept = ((_kept_names(folder / f"{bucket}.npz"), positions) for bucket, positions in _buckets(names))
    return sum(names[position] not in known for known, positions in kept for position in positions)


def labelled_features(
    extractor: Extractor, photos: Photos, step: str, device: str, progress: Progress
) -> LabelledFeatures:
    """The features and labels of photos that all processes want, each of which works out a share."""
    meet = partial(barrier, device)
    return features(extractor, photos, step=step, progress=progress, meet=meet), photos.labels


def _room(count: int, width: int) -> Features:
    """Where features go: into memory or, were they to fill more than a quarter of it, into a nameless file.

    Raises CatflapError when the cache's disk has no room for it.
    """
    size, folder = 4 * count * width, cache_folder("features")
    if size <= IN_MEMORY * describe_machine().memory_mb * 1e6:
        return np.empty((count, width), np.float32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # a full disk is told here, not by a signal later
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.float32, "r+", shape=(count, width))
    except OSError as error:
        raise CatflapError(
            f"The features of {count:,} photos take {size / 1e9:.1f} GB in {folder}: {first_line(error)}.",
            "Make room there, or let CATFLAP_CACHE name a folder on a larger disk.",
        ) from error


def _names(photos: Photos) -> list[str]:
    """Id and length of each photo: one that prepare made smaller has the id of the original."""
    return [f"{id}-{length}" for id, length in zip(photos.ids, photos.lengths, strict=True)]


def _buckets(names: list[str]) -> Iterator[_Bucket]:
    digits = 2 if len(names) <= 1 << 19 else 3  # some 2,000 photos: what a stopped run loses on each core
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
    except Exception:  # absent or damaged: it is worked out again
        return {}
    return dict(zip(ids.tolist(), rows, strict=True)) if rows.shape == (len(ids), width) else {}


def _kept_names(path: Path) -> set[str]:
    """The names of the photos in a file of the cache, whose features are not read."""
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
    """Write a file into the cache; where it cannot be written, work goes on without."""
    try:
        write_atomically(path, data, durable=durable)
    except CatflapError:
        _tell_once(cache_folder(""))


@cache
def _tell_once(folder: Path) -> None:
    """Say on stderr, where nobody handles logs otherwise, that nothing more is kept."""
    logging.getLogger(__name__).warning(
        "The cache %s cannot be written, so that work is not kept there; CATFLAP_CACHE can name another.",
        folder,
    )


def _key(backbone: Backbone, seen: object, device: str) -> str:
    parts = versions(("pillow", "timm", "torch", "onnxruntime"))
    named = [backbone.name, backbone.sha256, backbone.mean, backbone.std]
    return digest([*named, seen, device, parts])
