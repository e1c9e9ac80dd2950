"""Peers of `train`: one of them fine-tunes the same backbone on the same photos, in a process of its own.

    python benchmarks/peers/trainers.py fastai|timm|torchvision TASK.json

TASK.json names `train` and `validation`, lists of path and label number, `labels`, their count, `weights`,
a file with the backbone, `epochs` and `cap`, seconds of the processor. Each peer does as its documentation
or its reference script says, at 224 px. Prints a line of JSON after each epoch: seconds and seconds of the
processor (of this process and its workers), without judging, and the accuracy on the validation photos.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

BACKBONE = "tf_efficientnet_lite0"
SIDE = 224
WORKERS = 2
Photos = list[tuple[str, int]]
Task = dict[str, Any]


class Clock:
    """Seconds, and seconds of the processor, that went into learning; `cap` ends it."""

    def __init__(self, cap: float) -> None:
        self.cap, self.judging = cap, [0.0, 0.0]
        self.start = (time.perf_counter(), spent())

    def now(self) -> tuple[float, float]:
        """Both, without judging."""
        taken = time.perf_counter() - self.start[0], spent() - self.start[1]
        return taken[0] - self.judging[0], taken[1] - self.judging[1]

    def over(self) -> bool:
        """Whether the cap is reached."""
        return self.now()[1] > self.cap

    @contextmanager
    def stopped(self) -> Any:
        """What happens here does not count."""
        before = self.now()
        yield
        after = self.now()
        self.judging = [j + a - b for j, a, b in zip(self.judging, after, before, strict=True)]

    def tell(self, epoch: int, accuracy: float, what: str = "weights") -> None:
        """Print a line."""
        seconds, cpu = self.now()
        about = {"epoch": epoch, "seconds": round(seconds, 1), "cpu_s": round(cpu, 1), "of": what}
        print(json.dumps({**about, "accuracy": accuracy}), flush=True)


def spent() -> float:
    """Seconds of the processor that this process and its children, past ones too, have taken."""
    here = psutil.Process()
    times = [here.cpu_times()]
    total = times[0].children_user + times[0].children_system
    for child in here.children(recursive=True):
        try:
            times.append(child.cpu_times())
        except psutil.NoSuchProcess:  # it is among the past ones next time
            continue
    return float(total + sum(one.user + one.system for one in times))


def fastai(task: Task) -> None:
    """The quick start: vision_learner, fine_tune; a frozen epoch first, then as many as were asked for."""
    import pandas
    from fastai.vision.all import (
        Callback,
        CancelFitException,
        ImageDataLoaders,
        Resize,
        accuracy,
        vision_learner,
    )

    rows = [
        (path.lstrip("/"), label, role == "validation")
        for role in ("train", "validation")
        for path, label in task[role]
    ]
    clock = Clock(task["cap"])
    loaders = ImageDataLoaders.from_df(
        pandas.DataFrame(rows, columns=["name", "label", "held_back"]),
        path="/", valid_col="held_back", item_tfms=Resize(SIDE), num_workers=WORKERS,
    )  # fmt: skip
    learner = vision_learner(
        loaders, BACKBONE, metrics=accuracy, pretrained_cfg_overlay={"file": task["weights"]}
    )
    epochs: list[int] = []

    class Judged(Callback):
        order = 60  # behind the recorder

        def after_batch(self) -> None:
            if self.training and clock.over():
                raise CancelFitException

        def before_validate(self) -> None:
            self.pause = clock.stopped()
            self.pause.__enter__()

        def after_validate(self) -> None:
            self.pause.__exit__(None, None, None)

        def after_epoch(self) -> None:
            epochs.append(1)
            clock.tell(len(epochs), float(self.recorder.values[-1][-1]))

    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"], cbs=[Judged()])


class Files:
    """Photos as files; `transform` makes each a tensor."""

    def __init__(self, photos: Photos, transform: Callable[[Any], Any] | None = None) -> None:
        self.photos, self.transform = photos, transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        path, label = self.photos[number]
        with Image.open(path) as photo:
            return self.transform(photo.convert("RGB")), label  # type: ignore[misc]


def pretrained(task: Task) -> Any:
    """Timm's model with the weights, and a new head."""
    import timm

    return timm.create_model(
        BACKBONE, pretrained=True, num_classes=task["labels"],
        pretrained_cfg_overlay={"file": task["weights"]},
    )  # fmt: skip


def accuracy_of(model: Any, batches: Iterable[Any]) -> float:
    import torch

    model.eval()
    right = total = 0
    with torch.inference_mode():
        for frames, labels in batches:
            right += int((model(frames).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def loop(
    task: Task, clock: Clock, parts: tuple[Any, Any, Any, Any], loaders: tuple[Any, Any], stepped: Any
) -> None:
    """Epochs of a reference script: the better of weights and their average; both are printed."""
    model, average, optimiser, lossy = parts
    for epoch in range(task["epochs"]):
        model.train()
        for number, (frames, labels) in enumerate(loaders[0]):
            loss = lossy(model(frames), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            stepped(epoch * len(loaders[0]) + number + 1, model)
            if clock.over():
                return
        with clock.stopped():
            scores = {
                "weights": accuracy_of(model, loaders[1]),
                "average": accuracy_of(average.module, loaders[1]),
            }
        for what, score in scores.items():
            clock.tell(epoch + 1, score, what)


def timm(task: Task) -> None:
    """The pieces of its train.py, for fine-tuning: AdamW, a cosine, an average of weights."""
    import torch
    from timm.data import create_loader, resolve_model_data_config
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    clock = Clock(task["cap"])
    model = pretrained(task)
    config = resolve_model_data_config(model)
    shared = {
        "input_size": (3, SIDE, SIDE), "batch_size": 64, "mean": config["mean"], "std": config["std"],
        "use_prefetcher": False, "num_workers": WORKERS, "device": torch.device("cpu"),
        "persistent_workers": True,
    }  # fmt: skip
    train = create_loader(Files(task["train"]), is_training=True, interpolation="random", **shared)
    held = create_loader(
        Files(task["validation"]), is_training=False, interpolation=config["interpolation"],
        crop_pct=config["crop_pct"], **shared,
    )  # fmt: skip
    optimiser = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
    total = task["epochs"] * len(train)
    schedule = CosineLRScheduler(
        optimiser, t_initial=total, lr_min=1e-6, warmup_t=total // 10, warmup_lr_init=1e-6, t_in_epochs=False
    )
    average = ModelEmaV3(model, decay=0.9998, use_warmup=True)

    def stepped(step: int, model: Any) -> None:
        average.update(model, step=step)
        schedule.step_update(step)

    lossy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    loop(task, clock, (model, average, optimiser, lossy), (train, held), stepped)


def torchvision(task: Task) -> None:
    """Its references/classification: SGD, a cosine, label smoothing, TrivialAugment, erasing, an average.

    The rate is a tenth of the reference's for 32 photos a step, because the weights are pretrained.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    from torchvision.transforms import v2

    clock = Clock(task["cap"])
    model = pretrained(task)
    scaled = [v2.ToImage(), v2.ToDtype(torch.float, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3)]
    augmented = v2.Compose(
        [v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(),
         *scaled, v2.RandomErasing(0.1)]
    )  # fmt: skip
    plain = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(SIDE), *scaled])
    batches = partial(
        torch.utils.data.DataLoader, batch_size=32, num_workers=WORKERS, persistent_workers=True
    )
    train = batches(Files(task["train"], augmented), shuffle=True)
    held = batches(Files(task["validation"], plain))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, task["epochs"] * len(train))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)

    def stepped(step: int, model: Any) -> None:
        average.update_parameters(model)
        schedule.step()

    lossy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    loop(task, clock, (model, average, optimiser, lossy), (train, held), stepped)


PEERS: dict[str, Callable[[Task], None]] = {"fastai": fastai, "timm": timm, "torchvision": torchvision}


def main() -> None:
    """Run one peer."""
    name, task = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    print(json.dumps({"version": version(name), "torch": str(torch.__version__)}), flush=True)
    PEERS[name](task)


if __name__ == "__main__":
    main()
