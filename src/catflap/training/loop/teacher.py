"""A larger network's opinion of the train photos, for a smaller one to learn from."""

from __future__ import annotations

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


def teach(teacher: Checkpoint, dataset: Dataset, share: float, progress: Progress) -> npt.NDArray[np.float32]:
    """Probabilities to learn, float32 (train photos, labels): `share` is the teacher's, the rest the label's.

    The teacher sees the whole photo through its own frame (Hinton et al. 2015).
    Raises CatflapError when it knows other labels.
    """
    if teacher.labels != dataset.labels:
        raise CatflapError(
            f"The teacher {teacher.path} knows other labels than {dataset.path}.",
            "Train a teacher on photos with the same labels.",
        )
    photos = dataset.photos("train")
    graph = to_onnx(load_network(teacher), teacher.frame.height, teacher.frame.width)
    logits = score(open_model(graph), photos, teacher.frame, "teacher", progress)
    given = np.eye(len(dataset.labels))[photos.labels]
    return (share * softmax(logits, 1.0) + (1 - share) * given).astype(np.float32)
