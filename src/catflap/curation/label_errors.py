"""Which labels are probably wrong: confident learning; the one file that owns cleanlab.

Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021,
with pruning by noise rate. Measured beside other rules by benchmarks/audit.py.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from cleanlab.count import compute_confident_joint
from cleanlab.filter import find_label_issues

from catflap.curation.out_of_fold import Probabilities
from catflap.training.heads.logistic import Labels


def wrong_labels(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.bool_]:
    """Which of the photos probably have a wrong label, (n,); `probabilities` are out of fold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: npt.NDArray[np.bool_] = find_label_issues(
            labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1
        )
    return found


def confusions(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.int64]:
    """How many photos of label i are estimated to show label j, (labels, labels): the confident joint."""
    joint: npt.NDArray[np.int64] = compute_confident_joint(labels, probabilities, calibrate=True)
    return joint
