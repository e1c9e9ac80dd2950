"""Peers of the loader: one of them, in a process of its own, over the same photos.

    python benchmarks/peers/loaders.py NAME FOLDER WORKERS EPOCHS [RANK WORLD]

FOLDER has `photos` (class folders of JPEGs), `small` and `large` (Datasets with and without --shrink 256).
Every contestant gives batches of 64 shuffled, mirrored, random parts (8 to 100 % of the area, aspect 3:4 to
4:3) as uint8 of 224 px. The first epoch warms up; the seconds of the processor in the others, of this process
and its workers, are counted. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from catflap.artifacts.dataset import Photos, load_dataset

BATCH = 64
SIDE = 224
ALONE = 0  # no workers, for peers whose own threads do not survive a fork


def catflap_loader(
    name: str, folder: Path, workers: int, rank: int, world: int
) -> tuple[str, Callable[[int], Iterator[Any]]]:
    """Ours: from shards or from the memory map."""
    from catflap.training.augment import Crops, Place, load_batches

    dataset = load_dataset(folder / ("large" if "originals" in name else "small"))
    import torch

    torch.set_num_threads(1)
    pixels = dataset.train_pixels() if "map" in name else None
    crops = Crops(0.08, float(np.log(4 / 3)))

    def epoch(number: int) -> Iterator[Any]:
        return load_batches(
            dataset.photos("train"), dataset.frame, BATCH, start=Place(0, number), epochs=number + 1,
            crops=crops, pixels=pixels, workers=workers, rank=rank, world=world,
        )  # fmt: skip

    return version("catflap"), epoch


def torch_loader(dataset: Any, workers: int, **options: Any) -> Iterable[Any]:
    """Torch's DataLoader over a map-style dataset, shuffled."""
    import torch

    more = {"shuffle": True, "batch_size": BATCH, **options}
    if workers:
        more |= {"persistent_workers": True}  # each has one thread, as OMP_NUM_THREADS says
    torch.set_num_threads(1)
    return torch.utils.data.DataLoader(dataset, num_workers=workers, **more)


def crops() -> Any:
    """Torchvision's random-resized crop, on uint8 tensors."""
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip()])


def decoded(data: bytes) -> Any:
    """Torchvision's decoder, on bytes."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


class Cropped:
    """Bytes to a random part, wherever a worker runs."""

    def __init__(self) -> None:
        self.crop = crops()

    def __call__(self, row: dict[str, Any]) -> tuple[Any, int]:
        return self.crop(decoded(row["data"])), row["label"]


class Rows:
    """Photos by number out of a file, which every worker opens anew."""

    def __init__(self, path: Path, count: int, opened: Callable[[str], Any]) -> None:
        self.path, self.count, self.opened = path, count, opened
        self.crop, self.file = crops(), None

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, rows: list[int]) -> list[tuple[Any, int]]:
        self.file = self.file or self.opened(str(self.path))
        return [(self.crop(decoded(data)), label) for data, label in self.taken(self.file, rows)]

    def taken(self, file: Any, rows: list[int]) -> Iterable[tuple[bytes, int]]:
        found = file.__getitems__(rows)
        return [(data[4:], int.from_bytes(data[:4], "little")) for data in found]


class LanceRows(Rows):
    """The same out of a Lance table."""

    def taken(self, file: Any, rows: list[int]) -> Iterable[tuple[bytes, int]]:
        table = file.take(rows)
        return zip(table["data"].to_pylist(), table["label"].to_pylist(), strict=True)


def image_folder_pillow(folder: Path, workers: int) -> Iterable[Any]:
    from torchvision import datasets
    from torchvision.transforms import v2

    return torch_loader(
        datasets.ImageFolder(folder / "photos", v2.Compose([crops(), v2.PILToTensor()])), workers
    )


def image_folder_io(folder: Path, workers: int) -> Iterable[Any]:
    from torchvision import datasets

    def read(path: str) -> Any:
        return decoded(Path(path).read_bytes())

    return torch_loader(datasets.ImageFolder(folder / "photos", crops(), loader=read), workers)


def web_dataset(folder: Path, _: int, which: str = "small") -> Iterable[Any]:
    import torch
    import webdataset

    shards = sorted(map(str, (folder / which / "shards").glob("train-*.tar")))
    crop = crops()
    samples = webdataset.WebDataset(shards, shardshuffle=False, nodesplitter=None, workersplitter=None)
    samples = samples.shuffle(2000).to_tuple("jpg", "cls")
    samples = samples.map_tuple(lambda data: crop(decoded(data)), int).batched(BATCH)
    torch.set_num_threads(1)
    return webdataset.WebLoader(samples, batch_size=None, num_workers=1, persistent_workers=True)


def litdata_chunks(folder: Path, workers: int) -> Iterable[Any]:
    import litdata
    import torch

    torch.set_num_threads(1)
    chunks, photos = folder / "litdata", load_dataset(folder / "small").photos("train")
    if not chunks.exists():
        litdata.optimize(
            partial(_lit_row, photos), list(range(len(photos))), str(chunks), num_workers=1,
            chunk_bytes="64MB", verbose=False,
        )  # fmt: skip
    stream = litdata.StreamingDataset(str(chunks), shuffle=True, transform=Cropped())
    return litdata.StreamingDataLoader(
        stream, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0
    )


def _lit_row(photos: Photos, number: int) -> dict[str, Any]:
    return {"data": photos[number], "label": int(photos.labels[number])}


def lance_table(folder: Path, _: int) -> Iterable[Any]:
    import lance
    import pyarrow as pa

    path, photos = folder / "lance", load_dataset(folder / "small").photos("train")
    if not path.exists():
        data = [photos[number] for number in range(len(photos))]
        lance.write_dataset(
            pa.table({"data": pa.array(data, pa.large_binary()), "label": photos.labels}), path
        )
    return torch_loader(LanceRows(path, len(photos), lance.dataset), ALONE)


def array_record(folder: Path, _: int) -> Iterable[Any]:
    from array_record.python import array_record_data_source, array_record_module

    path, photos = folder / "photos.array_record", load_dataset(folder / "small").photos("train")
    if not path.exists():
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for number in range(len(photos)):
            writer.write(int(photos.labels[number]).to_bytes(4, "little") + photos[number])
        writer.close()
    source = array_record_data_source.ArrayRecordDataSource
    return torch_loader(Rows(path, len(photos), source), ALONE)


def hugging_face(folder: Path, workers: int) -> Iterable[Any]:
    import datasets

    photos = load_dataset(folder / "small").photos("train")
    rows = datasets.Dataset.from_dict(
        {"data": [photos[number] for number in range(len(photos))], "label": photos.labels},
        features=datasets.Features({"data": datasets.Value("binary"), "label": datasets.Value("int64")}),
    )
    rows.save_to_disk(str(folder / "hf"))
    stored = datasets.load_from_disk(str(folder / "hf"))
    crop = crops()
    return torch_loader(
        stored.with_transform(
            lambda batch: {"x": [crop(decoded(data)) for data in batch["data"]], "label": batch["label"]}
        ),
        workers,
    )


PEERS: dict[str, tuple[str, Callable[[Path, int], Iterable[Any]]]] = {
    "ImageFolder, Pillow": ("torchvision", image_folder_pillow),
    "ImageFolder, torchvision.io": ("torchvision", image_folder_io),
    "WebDataset of originals": ("webdataset", partial(web_dataset, which="large")),
    "WebDataset, 256 px": ("webdataset", web_dataset),
    "LitData, 256 px": ("litdata", litdata_chunks),
    "Lance, 256 px": ("pylance", lance_table),
    "ArrayRecord, 256 px": ("array_record", array_record),
    "Hugging Face datasets, 256 px": ("datasets", hugging_face),
}
OURS = (
    "Catflap originals", "Catflap shards, 256 px", "Catflap memory map, 256 px",
)  # fmt: skip


def main() -> None:
    """Run one contestant and print what it took."""
    name, folder, workers, epochs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    rank, world = (int(sys.argv[5]), int(sys.argv[6])) if len(sys.argv) > 5 else (0, 1)
    if name in OURS:
        package, epoch = catflap_loader(name, folder, workers, rank, world)
    else:
        distribution, make = PEERS[name]
        package, loader = version(distribution), make(folder, workers)
        epoch = lambda _: iter(loader)  # noqa: E731
    _run(epoch(0))
    cpu, start = _spent(), time.perf_counter()
    photos = sum(_run(epoch(number)) for number in range(1, epochs + 1))
    seconds, cpu = time.perf_counter() - start, _spent() - cpu
    print(json.dumps({"photos": photos, "cpu_s": cpu, "seconds": seconds, "version": package}))
    sys.stdout.flush()
    os._exit(0)  # some peers' threads do not end


def _run(batches: Iterable[Any]) -> int:
    total = 0
    for batch in batches:
        frames = batch["x"] if isinstance(batch, dict) else batch[0]
        assert {SIDE, 3} <= set(frames.shape[1:])
        total += len(frames)
    return total


def _spent() -> float:
    """Seconds of the processor that this process and its children, past ones too, have taken."""
    here = psutil.Process()
    times = [here.cpu_times()]
    total = times[0].children_user + times[0].children_system
    times += [child.cpu_times() for child in here.children(recursive=True)]
    return float(total + sum(one.user + one.system for one in times))


if __name__ == "__main__":
    main()
