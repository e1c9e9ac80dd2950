"""What larger networks say of the train photos, for a smaller one to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.data.loader import reading_threads
from catflap.errors import CatflapError
from catflap.image import Pixels
from catflap.progress import Progress
from catflap.runtime.decisions import softmax
from catflap.runtime.engine import Logits, Model
from catflap.runtime.engine_onnx import open_model
from catflap.runtime.scoring import score
from catflap.training.networks.network import load_network
from catflap.training.networks.onnx_graph import to_onnx
from catflap.training.processes import all_rows, in_halves, share_of


def teach(
    teachers: Sequence[Checkpoint], dataset: Dataset, share: float, device: str, progress: Progress
) -> npt.NDArray[np.float32]:
    """Probabilities to learn, float32 (train photos, labels): `share` is the teachers', the rest the label's.

    Each teacher sees the whole photo through its own frame (Hinton et al. 2015); of several, an ensemble, the
    mean of their probabilities is learnt. Many processes share the photos. Raises CatflapError when one
    knows other labels.
    """
    for teacher in teachers:
        if teacher.labels != dataset.labels:
            raise CatflapError(
                f"The teacher {teacher.path} knows other labels than {dataset.path}.",
                "Train a teacher on photos with the same labels.",
            )
    photos = dataset.photos("train")
    mine = photos.take(share_of(len(photos)))
    told = np.zeros((len(mine), len(dataset.labels)))
    for number, teacher in enumerate(teachers, 1):
        step = "teacher" if len(teachers) == 1 else f"teacher {number} of {len(teachers)}"
        if len(mine):
            model, workers = _opened(teacher, device)
            told += softmax(score(model, mine, teacher.frame, step, progress, workers=workers), 1.0)
    given = np.eye(len(dataset.labels))[photos.labels]
    learnt = all_rows(told, len(photos), device) / len(teachers)
    return (share * learnt + (1 - share) * given).astype(np.float32)


def _opened(teacher: Checkpoint, device: str) -> tuple[Model, int]:
    """A teacher made ready for many photos, and how many threads read them: as for features."""
    network = load_network(teacher)
    if device == "cpu":
        return open_model(to_onnx(network, teacher.frame.height, teacher.frame.width)), 2
    place = next(network.to(device).parameters()).device

    @torch.inference_mode()
    def answer(frames: Pixels) -> Logits:
        return network(torch.from_numpy(frames).to(place)).cpu().numpy()  # type: ignore[no-any-return]

    return lambda frames: in_halves(answer, frames, place), reading_threads()
