"""Devices, precision and processes: Fabric, rank, all_gather, broadcast, retries when memory runs out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.strategies.ddp import DDPStrategy

from catflap.errors import CatflapError, first_line
from catflap.image import Pixels
from catflap.machine import describe_machine

TIMEOUT = timedelta(days=1)  # a slower process may have millions of photos to read
Precision: TypeAlias = Literal["32-true", "16-mixed", "bf16-mixed"]  # the fastest last
Value = TypeVar("Value")

_DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_BF16_CAPABILITY = (8, 0)  # from which NVIDIA GPUs compute bf16 natively
_TENSOR_CORES = (7, 0)  # from which they have tensor cores, except the following
_NO_TENSOR_CORES = ("GTX 16", "MX450", "MX550", "T400", "T500", "T550", "T600", "T1000", "T1200", "T2000")


def pick_device(device: str) -> str:
    """The torch device; "auto" is the first GPU that this torch can use, else the CPU.

    Turns TF32 off. Raises CatflapError for a device that does not exist here.
    """
    torch.backends.cudnn.allow_tf32 = False  # else convolutions in fp32 use 10 bits of each mantissa
    if device == "auto" and not torch.cuda.is_available():
        return "cpu"
    kind = "cuda" if device == "auto" else device
    place = f"{kind}:{_environment('LOCAL_RANK', 0)}" if kind == "cuda" else kind  # this process's GPU
    try:
        (torch.zeros(1, device=place) + 1).cpu()  # fails on "meta"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        if device != "auto" or not is_single_process():
            fix = "Use --device cpu." if device == "auto" else "Use --device auto."
            raise CatflapError(f"There is no device {kind!r} here: {first_line(error)}.", fix) from error
        message = "torch cannot use the GPU: %s. Training uses the CPU."
        logging.getLogger(__name__).warning(message, first_line(error))
        return "cpu"
    return kind


def open_fabric(device: str, *, precision: Precision = "32-true") -> Fabric:
    """The device, precision and processes of a training run.

    The environment, set by torchrun, says how many processes there are, on how many machines. They share
    every batch and average their gradients (DDP; gloo on CPUs, nccl on GPUs). Raises CatflapError for several
    processes on one numbered device.
    """
    world, local = _environment("WORLD_SIZE"), _environment("LOCAL_WORLD_SIZE")
    kind, _, number = device.partition(":")
    if world > 1 and number:
        raise CatflapError(
            f"Each of {world} processes takes a device of its own, and {device} is one.",
            f"Use --device {kind}.",
        )
    strategy: Any = DDPStrategy(timeout=TIMEOUT) if world > 1 else "auto"
    fp16 = precision == "16-mixed"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces its precision on stderr
    fabric = Fabric(
        accelerator=kind,
        devices=[int(number)] if kind == "cuda" and number else local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=None if fp16 else precision,
        plugins=[MixedPrecision("16-mixed", kind)]
        if fp16
        else None,  # Fabric itself allows fp16 on GPUs only
    )
    fabric.launch()
    return fabric


def fastest_precision(device: str) -> Precision:
    """bf16 on GPUs that compute it natively, CPUs with AMX, and AMD's with bf16; fp16 on older tensor cores.

    Intel's CPUs that have bf16 without AMX gain next to nothing or lose.
    """
    if device.startswith("cuda"):
        capability, name = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
        if torch.version.hip or capability >= _BF16_CAPABILITY:
            return "bf16-mixed"
        has_cores = capability >= _TENSOR_CORES and not any(each in name for each in _NO_TENSOR_CORES)
        return "16-mixed" if has_cores else "32-true"
    machine = describe_machine()
    required = "bf16" if machine.processor.startswith("AMD") else "amx"
    return "bf16-mixed" if device.startswith("cpu") and required in machine.instructions else "32-true"


def common_precision(device: str) -> Precision:
    """The fastest precision that suits the devices of all processes."""
    gathered = all_gather([fastest_precision(device)])
    return next(each for each in get_args(Precision) if each in gathered)


def autocast(device: str, precision: Precision) -> torch.autocast:
    """A context in which a network computes in this precision."""
    return torch.autocast(device.partition(":")[0], _DTYPES[precision], enabled=precision != "32-true")


def retry_on_oom(
    compute: Callable[[Pixels], npt.NDArray[np.float32]], frames: Pixels, device: torch.device
) -> npt.NDArray[np.float32]:
    """compute(frames); if the device runs out of memory, half of the frames at a time.

    Raises CatflapError if one frame is too many.
    """
    with ignore_oom():
        return compute(frames)
    if len(frames) == 1:
        raise out_of_memory(device, 1)
    return np.concatenate([retry_on_oom(compute, half, device) for half in np.array_split(frames, 2)])


@contextmanager
def ignore_oom() -> Iterator[None]:
    """Leave the block if the device runs out of memory in it; what the failed call held is freed."""
    try:
        yield
    except RuntimeError as error:  # Apple's GPUs raise no subclass
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise


def out_of_memory(device: torch.device | str, photos: int) -> CatflapError:
    """The error for a device whose memory cannot hold this many photos."""
    return CatflapError(
        f"{device} has too little memory for {photos} photos at once.",
        "Use a smaller --size or --backbone, or --device cpu.",
    )


def check_same_step(fabric: Fabric, done: int, resume: Path) -> None:
    """Raise CatflapError in every process if they would resume from different steps."""
    steps = torch.as_tensor(fabric.all_gather(torch.tensor([done]))).flatten().tolist()
    if len(set(steps)) > 1:
        raise CatflapError(
            f"The processes would resume from different steps ({', '.join(map(str, steps))}): not every "
            f"machine sees {resume}.",
            "Put the checkpoint on a disk that all machines share.",
        )


def broadcast(value: Value, device: str) -> Value:
    """The first process's value, in every process."""
    return value if is_single_process() else open_fabric(device).broadcast(value)


def compute_on_rank0(compute: Callable[[], Value], device: str) -> Value:
    """What the first process computes, in every process: for work that uses all cores of a machine."""
    if is_single_process():
        return compute()
    return cast(Value, broadcast(compute() if is_first_process() else None, device))


def sum_over_processes(number: int, device: str) -> int:
    """The sum of every process's number, in every process."""
    if is_single_process():
        return number
    total = torch.tensor([number], device=open_fabric(device).device)
    all_reduce(total)
    return int(total)


def all_reduce(tensor: torch.Tensor) -> None:
    """Sum a tensor over all processes, in place."""
    if not is_single_process():
        torch.distributed.all_reduce(tensor)


def all_gather(values: list[str]) -> list[str]:
    """The strings of every process, in every process."""
    if is_single_process():
        return values
    gathered: list[list[str]] = [[] for _ in range(rank_and_world_size()[1])]
    torch.distributed.all_gather_object(gathered, values)
    return [value for each in gathered for value in each]


def share_of(photos: int) -> npt.NDArray[np.int64]:
    """The positions of the photos that this process works on, of a number that all processes share."""
    rank, world = rank_and_world_size()
    return np.arange(rank, photos, world)


def gather_rows(rows: npt.NDArray[Any], photos: int, device: torch.device | str) -> npt.NDArray[Any]:
    """The rows (share, k) of every process's `share_of` the photos as (photos, k), in every process."""
    if is_single_process():
        return rows
    total = np.zeros((photos, rows.shape[1]), rows.dtype)
    total[share_of(photos)] = rows
    tensor = torch.from_numpy(total).to(device)
    all_reduce(tensor)
    return tensor.cpu().numpy()


def barrier(device: str) -> None:
    """Wait until every process has called this."""
    sum_over_processes(0, device)


def rank_and_world_size() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are."""
    return _environment("RANK", 0), _environment("WORLD_SIZE")


def is_single_process() -> bool:
    """Whether this process is the only one."""
    return _environment("WORLD_SIZE") == 1


def is_first_process() -> bool:
    """Whether this is the process that writes and prints."""
    return rank_and_world_size()[0] == 0


def _environment(name: str, default: int = 1) -> int:
    return int(os.environ.get(name, default))
