"""Where a training runs: on which device, in one process or in the many that torchrun started."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

from catflap.errors import CatflapError, first_line
from catflap.image import Pixels
from catflap.training.precision import Precision
from catflap.training.sharding import shard

STRATEGIES = ("ddp", "fsdp")
PATIENCE = timedelta(days=1)  # with a slower process, which may have millions of photos to go through
Said = TypeVar("Said")


def pick_device(device: str) -> str:
    """The torch device for "auto": the first GPU when there is one that this torch can use, else the CPU.

    From then on convolutions in fp32 are no TF32. Raises CatflapError for a device that is not here.
    """
    torch.backends.cudnn.allow_tf32 = False  # else convolutions in "fp32" take 10 bits of each number
    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    kind = "cuda" if device == "auto" else device
    place = f"{kind}:{_processes('LOCAL_RANK', 0)}" if kind == "cuda" else kind  # no process opens another's
    try:
        (torch.zeros(1, device=place) + 1).cpu()  # which a device that only describes tensors cannot
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device != "auto" or not is_single_process():
            fix = "Use --device cpu." if device == "auto" else "Use --device auto."
            raise CatflapError(f"There is no device {kind!r} here: {first_line(error)}.", fix) from error
        told = "The GPU is not used, for torch cannot: %s. Training is on the CPU."
        logging.getLogger(__name__).warning(told, first_line(error))
        return "cpu"
    return kind


def open_fabric(device: str, strategy: str = "ddp", *, precision: Precision = "32-true") -> Fabric:
    """The device, precision and processes of a training run.

    torchrun tells through its environment how many processes there are, on how many machines; they
    share every batch and average their gradients (DDP; gloo on CPUs, nccl on GPUs). With the strategy
    "fsdp" each keeps a share of the weights, gradients and momenta only.
    Raises CatflapError as `check_strategy` does, and for many processes on a numbered device.
    """
    check_strategy(strategy)
    everywhere, here = _processes("WORLD_SIZE"), _processes("LOCAL_WORLD_SIZE")
    many: Any = DDPStrategy(timeout=PATIENCE)
    if strategy == "fsdp":
        many = ModelParallelStrategy(
            partial(shard, patience=PATIENCE),
            data_parallel_size=everywhere,
            tensor_parallel_size=1,
            timeout=PATIENCE,
        )
    kind, _, number = device.partition(":")
    if everywhere > 1 and number:
        raise CatflapError(
            f"Each of {everywhere} processes takes a device of its own, and {device} is one.",
            f"Use --device {kind}.",
        )
    alone, scaled = kind == "cuda" and number, precision == "16-mixed"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells its precision on stderr
    fabric = Fabric(
        accelerator=kind,
        devices=[int(number)] if alone else here,
        num_nodes=max(1, everywhere // here),
        strategy=many if everywhere > 1 else "auto",
        precision=None if scaled else precision,
        plugins=[MixedPrecision("16-mixed", kind)] if scaled else None,  # on any device, for the tests' sake
    )
    fabric.launch()
    return fabric


def check_strategy(strategy: str) -> None:
    """Raise CatflapError for a strategy that is none, or one process that has nobody to share with."""
    if strategy not in STRATEGIES:
        raise CatflapError(f"There is no strategy {strategy!r}.", f"Use one of: {', '.join(STRATEGIES)}.")
    if strategy == "fsdp" and is_single_process():
        raise CatflapError("One process cannot share weights with others.", "Start it with torchrun.")


def in_halves(
    answer: Callable[[Pixels], npt.NDArray[np.float32]], frames: Pixels, device: torch.device
) -> npt.NDArray[np.float32]:
    """What a network answers to frames; where they are too many for a GPU's memory, half of them at a time.

    Raises CatflapError where one is too many.
    """
    with out_of_memory_forgiven():
        return answer(frames)
    if len(frames) == 1:
        raise too_little_memory(device, 1)
    return np.concatenate([in_halves(answer, half, device) for half in np.array_split(frames, 2)])


@contextmanager
def out_of_memory_forgiven() -> Iterator[None]:
    """Go on behind the block when a GPU's memory ends in it; what the failed call held is let go of."""
    try:
        yield
    except RuntimeError as error:  # Apple's GPUs raise nothing more special
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise


def too_little_memory(device: torch.device | str, photos: int) -> CatflapError:
    """The error of a device whose memory cannot hold so many photos."""
    return CatflapError(
        f"{device} has too little memory for {photos} photos at once.",
        "Use a smaller --size or --backbone, or --device cpu.",
    )


def refuse_other_steps(fabric: Fabric, done: int, resume: Path) -> None:
    """Raise CatflapError in every process when one of them would go on from another step than the rest."""
    steps = torch.as_tensor(fabric.all_gather(torch.tensor([done]))).flatten().tolist()
    if len(set(steps)) > 1:
        raise CatflapError(
            f"The processes would go on from the steps {', '.join(map(str, steps))}: not every machine "
            f"sees {resume}.",
            "Put the checkpoint on a disk that all machines share.",
        )


def broadcast(said: Said, device: str) -> Said:
    """The first process's answer, in every process: what each would find by a clock of its own may differ."""
    return said if is_single_process() else open_fabric(device).broadcast(said)


def found_once(find: Callable[[], Said], device: str) -> Said:
    """What the first process finds, in every process: to find it takes all cores of a machine."""
    if is_single_process():
        return find()
    return cast(Said, broadcast(find() if is_first_process() else None, device))


def sum_over_processes(number: int, device: str) -> int:
    """The sum of every process's number, in every process, when all have come here."""
    if is_single_process():
        return number
    told = torch.tensor([number], device=open_fabric(device).device)
    all_reduce(told)
    return int(told)


def all_reduce(told: torch.Tensor) -> None:
    """Add up a tensor over all processes, in place; returns when every process has called this."""
    if not is_single_process():
        torch.distributed.all_reduce(told)


def all_gather(some: list[str]) -> list[str]:
    """Every process's words, in every process, when all have come here."""
    if is_single_process():
        return some
    told: list[list[str]] = [[] for _ in range(rank_and_world_size()[1])]
    torch.distributed.all_gather_object(told, some)
    return [one for each in told for one in each]


def share_of(photos: int) -> npt.NDArray[np.int64]:
    """The positions of those photos that this process works on, of so many that all processes share."""
    rank, processes = rank_and_world_size()
    return np.arange(rank, photos, processes)


def all_rows(rows: npt.NDArray[Any], photos: int, device: torch.device | str) -> npt.NDArray[Any]:
    """What each process has worked out of its share, (share, k), as (photos, k) in every process."""
    if is_single_process():
        return rows
    whole = np.zeros((photos, rows.shape[1]), rows.dtype)
    whole[share_of(photos)] = rows
    told = torch.from_numpy(whole).to(device)
    all_reduce(told)
    return told.cpu().numpy()


def rank_and_world_size() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    return _processes("RANK", 0), _processes("WORLD_SIZE")


def is_single_process() -> bool:
    """Whether there is one process."""
    return _processes("WORLD_SIZE") == 1


def is_first_process() -> bool:
    """Whether this process writes and tells what all of them have trained."""
    return rank_and_world_size()[0] == 0


def barrier(device: str) -> None:
    """Return when every process has come here; at once when there is one."""
    sum_over_processes(0, device)


def _processes(where: str, alone: int = 1) -> int:
    return int(os.environ.get(where, alone))
