"""Peers of `build`: one of them learns from a class folder, and answers the photos of another.

    python benchmarks/peers/classifiers.py scikit-learn|fastai|timm|torchvision|autogluon TASK.json OUT.npz

TASK.json names `learn` and `judge`, lists of path and label number, `labels`, their count, `weights`, a
file with the backbone (safetensors), `groups`, a name for each photo to learn from, `epochs` and `threads`.
Writes `probabilities`, (photos, labels) float in the order of `judge`. Each peer does as its documentation or
its reference script says, at 224 px.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BACKBONE = "tf_efficientnet_lite0"
SIDE = 224
Task = dict[str, Any]


def pretrained(task: Task, classes: int) -> Any:
    """Timm's model with the weights, and a new head; without one for 0 classes."""
    import timm

    return timm.create_model(
        BACKBONE, pretrained=True, num_classes=classes, pretrained_cfg_overlay={"file": task["weights"]}
    )


class Files:
    """Photos as files; `transform` makes each a tensor."""

    def __init__(self, photos: list[tuple[str, int]], transform: Callable[[Any], Any]) -> None:
        self.photos, self.transform = photos, transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        from PIL import Image

        path, label = self.photos[number]
        with Image.open(path) as photo:
            return self.transform(photo.convert("RGB")), label


def plain() -> Any:
    """The usual transform of evaluation: the short side to 256 px, the centre of 224 px."""
    import torch
    from torchvision.transforms import v2

    return v2.Compose(
        [v2.Resize(256, antialias=True), v2.CenterCrop(SIDE), v2.ToImage(),
         v2.ToDtype(torch.float, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3)]
    )  # fmt: skip


def answers(model: Any, photos: list[tuple[str, int]]) -> Any:
    """What the network says of each photo, before any softmax."""
    import torch

    model.eval()
    loader = torch.utils.data.DataLoader(Files(photos, plain()), batch_size=32)
    with torch.inference_mode():
        return torch.cat([model(frames) for frames, _ in loader]).numpy()


def scikit_learn(task: Task) -> Any:
    """Twenty lines that anyone would write: frozen features, standardised, and a logistic regression."""
    network = pretrained(task, 0)
    labels = np.array([label for _, label in task["learn"]])
    search = fitted(answers(network, task["learn"]), labels, task["groups"])
    return of_all_labels(task, search.predict_proba(answers(network, task["judge"])), search.classes_)


def of_all_labels(task: Task, found: Any, numbers: Any) -> Any:
    """Probabilities of every label from those of the labels that a peer knows: 0 for the others."""
    probabilities = np.zeros((len(found), task["labels"]))
    probabilities[:, np.array(list(numbers), int)] = found
    return probabilities


def fitted(features: Any, labels: Any, groups: list[str]) -> Any:
    """A logistic regression on standardised features; C by five folds of whole groups."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    rarest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedGroupKFold(max(2, min(5, rarest)), shuffle=True, random_state=0)
    strengths = {"logisticregression__C": [0.0003, 0.001, 0.003, 0.01, 0.1, 1.0]}
    return GridSearchCV(model, strengths, cv=folds, scoring="accuracy").fit(features, labels, groups=groups)


def fastai(task: Task) -> Any:
    """The quick start: vision_learner, fine_tune."""
    import pandas
    from fastai.vision.all import (
        CategoryBlock,
        ImageDataLoaders,
        Resize,
        accuracy,
        aug_transforms,
        vision_learner,
    )

    rows = [(path.lstrip("/"), label) for path, label in task["learn"]]
    loaders = ImageDataLoaders.from_df(
        pandas.DataFrame(rows, columns=["name", "label"]), path="/", valid_pct=0.2, seed=0,
        item_tfms=Resize(SIDE), batch_tfms=aug_transforms(), num_workers=0,
        y_block=CategoryBlock(vocab=sorted({label for _, label in rows})),  # of validation photos alone, too
    )  # fmt: skip
    learner = vision_learner(
        loaders, BACKBONE, metrics=accuracy, pretrained_cfg_overlay={"file": task["weights"]}
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task["epochs"])
        items = [path for path, _ in task["judge"]]
        found = learner.get_preds(dl=learner.dls.test_dl(items))[0].numpy()  # files, not rows of the table
    return of_all_labels(task, found, loaders.vocab)


def fine_tuned(task: Task, transform: Any, batch: int, optimiser_of: Callable[[Any], Any]) -> Any:
    """The epochs of a reference script: warm-up, a cosine, label smoothing."""
    import torch

    model = pretrained(task, task["labels"])
    loader = torch.utils.data.DataLoader(
        Files(task["learn"], transform), batch_size=batch, shuffle=True, drop_last=len(task["learn"]) > batch
    )
    optimiser = optimiser_of(model)
    total = task["epochs"] * len(loader)
    warm = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimiser,
        [
            torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, total - warm)),
        ],
        [warm],
    )
    lossy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for _ in range(task["epochs"]):
        for frames, labels in loader:
            loss = lossy(model(frames), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return softmax(answers(model, task["judge"]))


def timm(task: Task) -> Any:
    """The pieces of its train.py for fine-tuning: its augmentation, AdamW, a cosine."""
    from PIL import ImageOps
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2

    posterize = ImageOps.posterize  # timm 1.0 asks for 0 bits at times, which Pillow 13 refuses
    ImageOps.posterize = lambda image, bits: posterize(image, max(bits, 1))
    transform = create_transform(
        (3, SIDE, SIDE), is_training=True, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="random",
        auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25,
    )  # fmt: skip
    return fine_tuned(
        task, transform, 64, lambda model: create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05)
    )


def torchvision(task: Task) -> Any:
    """Its references/classification: SGD, TrivialAugment, erasing; a tenth of its rate, being pretrained."""
    import torch
    from torchvision.transforms import v2

    transform = v2.Compose(
        [v2.RandomResizedCrop(SIDE, antialias=True), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(),
         v2.ToImage(), v2.ToDtype(torch.float, scale=True), v2.Normalize((0.5,) * 3, (0.5,) * 3),
         v2.RandomErasing(0.1)]
    )  # fmt: skip
    return fine_tuned(
        task, transform, 32,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4),
    )  # fmt: skip


def autogluon(task: Task) -> Any:
    """Its quick start for photos, with the small network of `medium_quality` replaced by the same weights.

    Version 1.6 asks for torch below 2.14, and ran with 2.14 when installed without its dependencies and then
    with them by hand (pandas < 2.4, transformers < 5.15, tokenizers 0.22, huggingface-hub < 2, timm < 1.0.7).
    """
    import pandas
    import torch
    from autogluon.multimodal import MultiModalPredictor

    network = pretrained(task, 0)
    names = ("input_size", "interpolation", "mean", "std", "crop_pct")
    config = {name: network.pretrained_cfg[name] for name in names}
    config |= {"architecture": BACKBONE, "num_features": network.num_features}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        torch.save(network.state_dict(), Path(folder) / "pytorch_model.bin")
        predictor = MultiModalPredictor(
            label="label", presets="medium_quality", path=f"{folder}/model", verbosity=1
        )
        rows = [(path, str(number)) for path, number in task["learn"]]
        predictor.fit(
            pandas.DataFrame(rows, columns=["image", "label"]), seed=0,
            hyperparameters={"model.timm_image.checkpoint_name": folder, "env.num_workers": 0,
                             "env.num_workers_inference": 0},
        )  # fmt: skip
        found = predictor.predict_proba(pandas.DataFrame({"image": [path for path, _ in task["judge"]]}))
    return of_all_labels(task, found.to_numpy(), found.columns)


def softmax(logits: Any) -> Any:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


PEERS: dict[str, Callable[[Task], Any]] = {
    "scikit-learn": scikit_learn, "fastai": fastai, "timm": timm, "torchvision": torchvision,
    "autogluon": autogluon,
}  # fmt: skip


def main() -> None:
    """Run one peer."""
    name, task, out = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    import torch

    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    np.savez(out, probabilities=PEERS[name](task))


if __name__ == "__main__":
    main()
