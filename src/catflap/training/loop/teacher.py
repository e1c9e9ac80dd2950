"""What larger networks say of the train photos, for a smaller one to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from catflap.artifacts.checkpoint import Checkpoint
from catflap.artifacts.dataset import Dataset
from catflap.errors import CatflapError
from catflap.progress import Progress
from catflap.runtime.decisions import softmax
from catflap.runtime.engines.onnx import open_model
from catflap.runtime.scoring import score
from catflap.training.networks.network import load_network
from catflap.training.networks.onnx_graph import to_onnx


def teach(
    teachers: Sequence[Checkpoint], dataset: Dataset, share: float, progress: Progress
) -> npt.NDArray[np.float32]:
    """Probabilities to learn, float32 (train photos, labels): `share` is the teachers', the rest the label's.

    Each teacher sees the whole photo through its own frame (Hinton et al. 2015); of several, an ensemble, the
    mean of their probabilities is learnt. Raises CatflapError when one knows other labels.
    """
    for teacher in teachers:
        if teacher.labels != dataset.labels:
            raise CatflapError(
                f"The teacher {teacher.path} knows other labels than {dataset.path}.",
                "Train a teacher on photos with the same labels.",
            )
    photos = dataset.photos("train")
    told = np.zeros((len(photos), len(dataset.labels)))
    for number, teacher in enumerate(teachers, 1):
        graph = to_onnx(load_network(teacher), teacher.frame.height, teacher.frame.width)
        step = "teacher" if len(teachers) == 1 else f"teacher {number} of {len(teachers)}"
        told += softmax(score(open_model(graph), photos, teacher.frame, step, progress), 1.0)
    given = np.eye(len(dataset.labels))[photos.labels]
    return (share * told / len(teachers) + (1 - share) * given).astype(np.float32)
