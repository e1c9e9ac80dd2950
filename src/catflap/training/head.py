"""The linear head on frozen features: logistic regression, rare labels weighted up, logit scale, settings.

Fitting streams the features, which need not fit into memory. Owns SciPy and threadpoolctl.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from threadpoolctl import ThreadpoolController

from catflap.errors import CatflapError
from catflap.evaluation.calibration import MAX_TEMPERATURE, MIN_TEMPERATURE, fit_temperature, row_slices
from catflap.evaluation.intervals import group_weights, significantly_positive
from catflap.machine import describe_machine
from catflap.progress import Progress, silent
from catflap.runtime.decisions import softmax

if TYPE_CHECKING:  # importing it takes seconds, for torch, which fitting a head does not need
    from catflap.training.features import Features, LabelledFeatures

Labels: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

L2_CS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)  # scikit-learn's C
LEAST_DEVIATION = 0.3  # of that below which a quarter of the features stays: see fit_head
MAX_COMPARED = 10_000  # train photos on which settings are compared; the chosen one learns from all
MAX_LOGITS = 10_000_000  # validation photos × labels that judge heads; of more, a random part does
FEW = 15_000  # train and validation photos × labels up to which heads are cross-validated
MANY = 100_000  # compared photos × labels, from which a fit takes seconds: the Cs are a path then
MANY_LABELS = 300  # from which blocks of photos are computed in float32, and summed in float64
FOLDS = 5
NOISE_EVIDENCE = 6.6  # twice the log of the likelihood ratio: some labels are wrong, p < 0.01
ENOUGH_GROUPS = 10  # of a label whose photos may be doubted
DOUBTED = 0.8  # the probability that a label is wrong, from which the photo is not learnt from
ABSENT = 20.0  # nats by which the logit of a label without photos stays below all others

QUICK = 3_000_000  # photos × weights that one thread multiplies before others have started
ROWS = 256  # a block of features that stays in the processor's cache
SHARDS = 16  # of the photos: the limit of parallelism; fixed, so that the core count changes no bit
MAX_STEPS = 500
SPANNED = 2  # features a photo, at least, where the space that the photos span is taken
SINGULAR = 1e-12  # × the trace, on the diagonal of products of photos that have no inverse
GRADIENT = 1e-4  # the largest entry at convergence, as in scikit-learn
BINARY = np.array([[-0.5, 0.5]])  # from one score to the two logits of a binary problem
IMPOSSIBLE = -1e3  # the logit of a label that cannot occur


@dataclass(frozen=True)
class Head:
    """logits = features @ weights.T + bias; weights float32 (labels, width), bias float32 (labels,).

    `prior`, float32 (labels,), is the part of the bias that does not depend on the photo: the log share of
    each label if the fit was balanced, else zero; minus infinity for labels without photos.
    """

    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    prior: npt.NDArray[np.float32]

    def logits(self, features: Features) -> npt.NDArray[np.float32]:
        """Logits, float32 (n, labels)."""
        return features @ self.weights.T + self.bias

    def scaled(self, logit_scale: float, prior_scale: float) -> Head:
        """The head with its prior multiplied by one number and the rest of its logits by another."""
        occurs = np.isfinite(self.prior)
        prior = np.where(occurs, self.prior, 0)
        return _head(
            self.weights * logit_scale,
            (self.bias - prior) * logit_scale,
            np.where(occurs, prior * prior_scale, -np.inf),
        )


@dataclass(frozen=True)
class LabelNoise:
    """A share of the photos has a label at random; `wrong` (n,) are those whose own label probably is one.

    `targets`, float32 (n, labels), are what the photos probably show: their label and, where that is wrong,
    mostly out-of-fold probabilities. The photos are those of train, then those of validation.
    """

    share: float
    wrong: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Choice:
    """The chosen head, fitted on train photos only; `refitted` has learnt from validation, too.

    Both have the logit scale that held-out photos support. `validation_logits`, float32 (n, labels), are
    those of `head`. `tried` lists every setting; `chosen` is the entry of this one. With `noise` neither has
    learnt from photos whose label is probably wrong, and none of them chose.
    """

    head: Head
    refitted: Head
    validation_logits: npt.NDArray[np.float32]
    tried: list[dict[str, Any]]
    chosen: dict[str, Any]
    noise: LabelNoise | None = None


_Setting: TypeAlias = tuple[bool, float]  # standardise, C


@dataclass(frozen=True)
class _Split:
    """Photos to fit on, with the moments of their features, and held-out photos with their groups."""

    fit: LabelledFeatures
    moments: tuple[Floats, Floats]
    held_out: LabelledFeatures
    groups: Labels


@dataclass(frozen=True)
class _Score:
    """The held-out result of a setting with these scales: the loss of each photo, and the accuracy.

    `head` is that of the last split.
    """

    losses: Floats
    logit_scale: float
    prior_scale: float
    accuracy: float
    head: Head


def choose_head(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    groups: tuple[Labels, Labels],
    classes: int,
    progress: Progress = silent,
    *,
    cs: tuple[float, ...] = L2_CS,
) -> Choice:
    """Choose C and the scaling of features by log loss on photos that the head has not learnt from.

    Few photos (FEW) are cross-validated over train and validation, by whole groups of near-duplicates; else
    validation judges. Every label weighs the same in the fit. The logits of each setting are calibrated first
    (`fit_scales`). Of the Cs that are not significantly worse than the best, the middle one is taken;
    features are standardised one by one only if that is significantly better. Of MANY photos × labels each C
    starts from the solution of the one before, and the first that is significantly worse than the best is the
    last. `groups` are those of train and of validation photos, (n,) each; a group counts once. Settings are
    compared on at most MAX_COMPARED train photos and MAX_LOGITS validation logits.
    """
    splits = split_photos(train, validation, groups, classes)
    held_out = np.concatenate([split.groups for split in splits])
    is_path = len(splits) == 1 and len(splits[0].fit[1]) * classes >= MANY
    settings, scores = list[_Setting](), list[_Score]()
    for standardise in (False, True):
        path = list[_Score]()
        for number, c in enumerate(cs):
            progress("heads", standardise * len(cs) + number, 2 * len(cs))
            warm = path[-1].head if is_path and path else None
            path.append(_score((standardise, c), splits, classes, warm))
            if is_path and _is_past_best(path, held_out):
                break
        settings += [(standardise, c) for c in cs[: len(path)]]
        scores += path
    progress("heads", 2 * len(cs), 2 * len(cs))
    best = _best(scores, sum(not standardise for standardise, _ in settings), held_out)
    tried = [_entry(*pair, number == best) for number, pair in enumerate(zip(settings, scores, strict=True))]
    standardise, c = settings[best]
    head, refitted = (
        fit_head(
            parts, classes, c, standardise, balanced=True, warm=scores[best].head if is_path else None
        ).scaled(scores[best].logit_scale, scores[best].prior_scale)
        for parts in ([train], [train, validation])
    )
    return Choice(head, refitted, head.logits(validation[0]), tried, tried[best])


def choose_despite_noise(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    groups: tuple[Labels, Labels],
    classes: int,
    progress: Progress = silent,
    **options: Any,
) -> Choice:
    """`choose_head`, and once more without photos whose label is probably wrong (`find_noise`).

    For few photos (FEW), which are cross-validated; of more, every label is taken as it is.
    """
    choice = choose_head(train, validation, groups, classes, progress, **options)
    if (len(train[1]) + len(validation[1])) * classes > FEW:
        return choice
    pooled = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    noise = find_noise(choice, pooled, np.concatenate(groups), classes)
    if noise is None or not noise.wrong.any():
        return choice
    kept = np.split(np.flatnonzero(~noise.wrong), [np.count_nonzero(~noise.wrong[: len(train[1])])])
    rest = _take(train, kept[0]), _take(validation, kept[1] - len(train[1]))
    if not len(rest[1][1]):
        return choice
    kept_groups = groups[0][kept[0]], groups[1][kept[1] - len(train[1])]
    again = choose_head(*rest, kept_groups, classes, progress, **options)
    share = noise.share * (1 - 1 / classes)  # of labels at random some are right
    entry = {"step": "noise", "share": share, "wrong": int(noise.wrong.sum()), "photos": len(pooled[1])}
    logits = again.head.logits(validation[0])
    return replace(again, validation_logits=logits, tried=[entry, *again.tried], noise=noise)


def find_noise(choice: Choice, photos: LabelledFeatures, groups: Labels, classes: int) -> LabelNoise | None:
    """The share of labels that are random, if some surely are, and the photos whose label probably is.

    Heads of the chosen setting, each fitted without a fold, give logits of each photo. Their scale and the
    share of labels at random that explain the labels best are fitted together, and the share is taken for
    real if it explains them significantly better than none (a likelihood ratio, each group counted once).
    Hard photos need no such share: a head is not sure of them. By Bayes' rule the share gives the
    probability that a photo's label is wrong. A label with few groups is not doubted, because its next one
    may look like another label, and one that would lose half of its photos keeps all.
    """
    features, labels = photos
    chosen, fold = choice.chosen, fold_of(groups, labels)
    prior_scale = chosen["prior_scale"] / chosen["logit_scale"]
    weights = group_weights(groups)
    weights *= (np.bincount(labels, weights) >= ENOUGH_GROUPS)[labels]
    if not weights.any():
        return None
    logits = np.zeros((len(labels), classes))
    for number in np.unique(fold):
        mine = fold == number
        rest = features[~mine], labels[~mine]
        if len(np.unique(rest[1])) < 2:
            return None
        head = fit_head([rest], classes, chosen["c"], chosen["standardise"], balanced=True)
        logits[mine] = head.scaled(1, prior_scale).logits(features[mine])

    def loss(point: Floats, share: float | None = None) -> float:
        noise = 1 / (1 + np.exp(-point[1])) if share is None else share
        sure = np.exp(-losses_of(np.exp(point[0]) * logits, labels))
        return -float(weights @ np.log((1 - noise) * sure + noise / classes))

    scale = np.log(chosen["logit_scale"])
    none = minimize(lambda point: loss(point, 0.0), [scale], method="Nelder-Mead")
    some = min(
        (minimize(loss, [scale + more, -2.0], method="Nelder-Mead") for more in (0.0, 1.0)),
        key=lambda result: float(result.fun),
    )
    if 2 * (none.fun - some.fun) < NOISE_EVIDENCE:
        return None
    scale, share = float(np.exp(some.x[0])), float(1 / (1 + np.exp(-some.x[1])))
    doubt = np.where(weights > 0, _doubt(scale * logits, labels, share), 0)
    wrong = doubt > DOUBTED
    for label in np.unique(labels[wrong]):
        if wrong[labels == label].mean() >= 0.5:
            wrong &= labels != label
    doubt = np.where(wrong, doubt, 0)[:, None]
    targets = doubt * softmax(scale * logits, 1.0) + (1 - doubt) * np.eye(classes)[labels]
    return LabelNoise(share, wrong, targets.astype(np.float32))


def _doubt(logits: npt.NDArray[np.floating[Any]], labels: Labels, share: float) -> Floats:
    """The probability that each label, (n,), is random, by calibrated logits (n, labels) and Bayes' rule."""
    at_random = share / logits.shape[1]
    doubt: Floats = at_random / ((1 - share) * np.exp(-losses_of(logits, labels)) + at_random)
    return doubt


def cross_fit(
    choice: Choice,
    learnt: LabelledFeatures,
    calibration: LabelledFeatures,
    groups: Labels,
    classes: int,
) -> tuple[Head, npt.NDArray[np.float32]]:
    """A head of the chosen settings that has learnt from calibration photos, too, and what calibrates it.

    The second is float32 (n, labels): what to add to its logits of the n calibration photos to get those of a
    head that has learnt from all photos but the fifth, by whole `groups`, in which this photo is. If the
    choice has noise, no head learns from calibration photos whose label is probably wrong.
    """
    chosen = choice.chosen
    scales = chosen["logit_scale"], chosen["prior_scale"]

    def fit(parts: Sequence[LabelledFeatures]) -> Head:
        head = fit_head(parts, classes, chosen["c"], chosen["standardise"], balanced=True)
        return head.scaled(*scales)

    features, labels = calibration
    kept = np.ones(len(labels), bool)
    if choice.noise:
        kept = _doubt(choice.head.logits(features), labels, choice.noise.share) <= DOUBTED
    final = fit([learnt, (features[kept], labels[kept])])
    added = np.zeros((len(labels), classes), np.float32)
    fold = fold_of(groups, labels)
    for number in np.unique(fold):
        mine = fold == number
        without = fit([learnt, (features[kept & ~mine], labels[kept & ~mine])])
        added[mine] = without.logits(features[mine]) - final.logits(features[mine])
    return final, added


def fold_of(groups: Labels, labels: Labels) -> Labels:
    """The fold of each photo, (n,), of FOLDS: whole groups, stratified by label."""
    _, firsts, owners = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(0).permutation(len(firsts))
    fold = np.empty(len(firsts), np.int64)
    fold[np.lexsort((shuffled, labels[firsts]))] = np.arange(len(firsts)) % FOLDS
    return fold[owners]


def split_photos(
    train: LabelledFeatures, validation: LabelledFeatures, groups: tuple[Labels, Labels], classes: int
) -> list[_Split]:
    """One split, held out is validation; of few photos one for each fold of all of them."""
    if (len(train[1]) + len(validation[1])) * classes <= FEW:
        pooled = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
        splits = list(_folds(pooled, np.concatenate(groups)))
        if splits:
            return splits
    fit = _take(train, _sample(train[1], MAX_COMPARED))
    held_out = _sample(validation[1], MAX_LOGITS // classes)
    known = np.isin(validation[1][held_out], fit[1])  # no head can name a label that it has not seen
    held_out = held_out[known] if known.any() else held_out
    return [_Split(fit, moments([fit]), _take(validation, held_out), groups[1][held_out])]


def _folds(photos: LabelledFeatures, groups: Labels) -> Iterator[_Split]:
    """Folds of whole groups, stratified by label; photos whose label the others lack are not judged."""
    features, labels = photos
    fold = fold_of(groups, labels)
    for number in range(FOLDS):
        fitted = fold != number
        held_out = ~fitted & np.isin(labels, labels[fitted])
        if held_out.any() and len(np.unique(labels[fitted])) > 1:
            fit = features[fitted], labels[fitted]
            yield _Split(fit, moments([fit]), (features[held_out], labels[held_out]), groups[held_out])


def _sample(labels: Labels, most: int) -> Labels:
    """Positions of a random sample of at most `most` photos, the same every time, with each label in it."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    firsts = np.unique(labels[order], return_index=True)[1]
    rest = np.setdiff1d(np.arange(most), firsts)[: max(0, most - len(firsts))]
    return np.sort(order[np.concatenate([firsts, rest])])


def _take(photos: LabelledFeatures, positions: Labels) -> LabelledFeatures:
    features, labels = photos
    return photos if len(positions) == len(labels) else (features[positions], labels[positions])


def _is_past_best(path: list[_Score], groups: Labels) -> bool:
    """Whether the last of the scores, of growing C, is significantly worse than the best."""
    best = min(path, key=lambda score: float(score.losses.mean()))
    return significantly_positive(path[-1].losses - best.losses, groups)


def _score(setting: _Setting, splits: list[_Split], classes: int, warm: Head | None = None) -> _Score:
    standardise, c = setting
    heads = [
        fit_head([split.fit], classes, c, standardise, balanced=True, measured=split.moments, warm=warm)
        for split in splits
    ]
    pairs = list(zip(heads, splits, strict=True))
    raw = np.concatenate([head.scaled(1, 0).logits(split.held_out[0]) for head, split in pairs])
    priors = np.concatenate(
        [np.broadcast_to(head.prior, (len(split.groups), classes)) for head, split in pairs]
    )
    labels = np.concatenate([split.held_out[1] for split in splits])
    groups = np.concatenate([split.groups for split in splits])
    scale, prior_scale = fit_scales(
        raw, priors, labels, (1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE), group_weights(groups)
    )
    logits = scale * raw + prior_scale * np.where(np.isfinite(priors), priors, 0)
    temperature = fit_temperature(logits, labels, groups)
    losses = losses_of(logits / temperature, labels)
    accuracy = float((logits.argmax(1) == labels).mean())
    return _Score(losses, scale / temperature, prior_scale / temperature, accuracy, heads[-1])


def _best(scores: list[_Score], cs: int, groups: Labels) -> int:
    """The position of the setting to take; the first `cs` scale all features by one number."""
    losses = np.stack([score.losses for score in scores])
    means = losses.mean(1)
    plain, standardised = int(means[:cs].argmin()), cs + int(means[cs:].argmin())
    as_good = [n for n in range(cs) if not significantly_positive(losses[n] - losses[plain], groups)]
    middle = as_good[(len(as_good) - 1) // 2]
    return standardised if significantly_positive(losses[middle] - losses[standardised], groups) else middle


def _entry(setting: _Setting, score: _Score, chosen: bool) -> dict[str, Any]:
    standardise, c = setting
    return {
        "step": "head",
        "c": c,
        "standardise": standardise,
        "judged_by": len(score.losses),
        "logit_scale": score.logit_scale,
        "prior_scale": score.prior_scale,
        "validation_log_loss": float(score.losses.mean()),
        "validation_accuracy": score.accuracy,
        "chosen": chosen,
    }


def fit_head(
    parts: Sequence[LabelledFeatures],
    classes: int,
    c: float,
    standardise: bool,
    balanced: bool = False,
    measured: tuple[Floats, Floats] | None = None,
    warm: Head | None = None,
) -> Head:
    """The head that minimises log loss with an L2 penalty; `c` is scikit-learn's C.

    `parts` are features and labels of train photos. `standardise` scales each feature to unit variance, else
    all are scaled by one number; the scaling is folded into the weights. One that hardly changes is scaled
    less, for its weight would be so large that in 8 bits the others would have no room. `balanced` gives
    every label the same weight, and moves the biases back to the labels' shares afterwards (Menon et al.
    2021, logit adjustment), so the prior of the predictions is that of the photos either way. Labels without
    photos get a bias that never wins. `measured` are the moments of the parts, if known. `warm` is a head to
    start from.
    """
    counts = np.sum([np.bincount(labels, minlength=classes) for _, labels in parts], axis=0)
    occurring = np.flatnonzero(counts)
    if len(occurring) < 2:
        raise CatflapError("The train photos have one label only.", "Add photos of another label.")
    centre, variance = measured or moments(parts)
    deviation = np.sqrt(variance)
    overall = np.full_like(deviation, np.sqrt(variance.mean() + centre.var()))
    least = LEAST_DEVIATION * np.quantile(deviation, 0.25, method="lower")
    each = np.maximum(deviation + 1e-3 * deviation.max(), least)
    scale = np.maximum(each if standardise else overall, 1e-12)
    shares = counts[occurring] / counts.sum()
    class_weights = 1 / (len(occurring) * shares) if balanced else np.ones(len(occurring))
    numbered = [(features, np.searchsorted(occurring, labels)) for features, labels in parts]
    scaling = Scaling(centre, scale)
    start = None
    if warm is not None and len(occurring) > 2:
        known = warm.weights[occurring].astype(np.float64)
        offsets = warm.bias[occurring] - np.where(np.isfinite(warm.prior), warm.prior, 0)[occurring]
        start = np.column_stack([known * scale, offsets + known @ centre])
    fitted, offset = fit_weights(numbered, scaling, class_weights, c, start)
    weights, bias = np.zeros((classes, len(centre))), np.zeros(classes)
    weights[occurring], bias[occurring] = scaling.folded(fitted, offset)
    prior = np.full(classes, -np.inf)
    prior[occurring] = np.log(shares) - np.log(shares).mean() if balanced else np.zeros(len(occurring))
    return _head(weights, bias, prior)


def _head(weights: npt.NDArray[Any], bias: npt.NDArray[Any], prior: npt.NDArray[Any]) -> Head:
    """A head from weights, the bias without the prior, and the prior."""
    occurs = np.isfinite(prior)
    total = bias + np.where(occurs, prior, 0)
    total[~occurs] = total[occurs].min() - ABSENT
    return Head(*(part.astype(np.float32) for part in (weights, total, prior)))


def log_loss(logits: npt.NDArray[np.float32], labels: Labels) -> float:
    """The mean negative log-likelihood of the labels, in nats."""
    return float(losses_of(logits, labels).mean())


def losses_of(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> npt.NDArray[np.float64]:
    """The negative log-likelihood of each photo's label, in nats, float64 (n,)."""
    losses = np.empty(len(labels))
    for rows in row_slices(logits):
        shifted = logits[rows].astype(np.float64) - logits[rows].max(1, keepdims=True)
        of_label = shifted[np.arange(len(shifted)), labels[rows]]
        losses[rows] = np.log(np.exp(shifted).sum(1)) - of_label
    return losses


@dataclass(frozen=True)
class Scaling:
    """(features - centre) / scale, float64 (width,) each; folded into weights, not applied to features."""

    centre: Floats
    scale: Floats

    def folded(self, weights: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Weights (scores, width) and bias for unscaled features, from those for scaled ones."""
        plain = weights / self.scale
        return plain, bias - plain @ self.centre


def moments(parts: Sequence[LabelledFeatures]) -> tuple[Floats, Floats]:
    """Mean and variance of each feature, float64 (width,)."""
    total = _total(parts)
    mean = sum(features.sum(0, dtype=np.float64) for features, _ in _blocks(parts)) / total
    return mean, sum(np.square(features - mean).sum(0) for features, _ in _blocks(parts)) / total


def fit_weights(
    parts: Sequence[LabelledFeatures],
    scaling: Scaling,
    class_weights: Floats,
    c: float,
    start: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Weights, float64 (labels, width), and biases, float64 (labels,), for scaled features.

    They minimise the mean log loss, weighted by `class_weights` (labels,), with an L2 penalty on the weights;
    `c` and the convergence criterion are those of scikit-learn's LogisticRegression. Each step reads all
    features once, in parallel, and the number of cores changes no bit. `start`, (labels, width + 1), are
    weights and biases of three labels or more to start from; else zeros. Of few photos the weights are found
    in the space that the photos span, where the solution lies, in a fraction of the time.
    """
    if SPANNED * _total(parts) <= len(scaling.scale):
        return _fit_in_span(parts, scaling, class_weights, c, start)
    problem = _Problem(parts, scaling, class_weights, 1 / (c * _total(parts)))
    if start is None:
        start = np.zeros((1 if len(class_weights) == 2 else len(class_weights), len(scaling.scale) + 1))
    options: Any = {"maxiter": MAX_STEPS, "gtol": GRADIENT, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
    with (
        _blas().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(describe_machine().cores) as pool,
    ):

        def loss(point: Floats) -> tuple[float, Floats]:
            value, gradient = _loss(problem, pool, point.reshape(start.shape))
            return value, gradient.ravel()

        result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    weights = result.x.reshape(start.shape)
    if len(weights) == 1:
        weights = BINARY.T @ weights
    return weights[:, :-1], weights[:, -1]


def _fit_in_span(
    parts: Sequence[LabelledFeatures],
    scaling: Scaling,
    class_weights: Floats,
    c: float,
    start: Floats | None,
) -> tuple[Floats, Floats]:
    """`fit_weights` in coordinates of the space that the scaled features span.

    With the Cholesky factor L of the products Z Z', (n, n), of the scaled features, the rows of L are the
    photos' coordinates in the orthonormal basis inv(L) Z; lengths, and so the penalty, stay as they are.
    """
    with _blas().limit(limits=1, user_api="blas"):
        scaled = np.concatenate(
            [(np.asarray(features) - scaling.centre) / scaling.scale for features, _ in parts]
        )
        products = scaled @ scaled.T
        products[np.diag_indices_from(products)] += SINGULAR * max(np.trace(products), 1.0)
        coordinates = np.linalg.cholesky(products)
        if start is not None:
            known = solve_triangular(coordinates, scaled @ start[:, :-1].T, lower=True).T
            start = np.column_stack([known, start[:, -1]])
        photos = coordinates, np.concatenate([labels for _, labels in parts])
        unscaled = Scaling(np.zeros(len(scaled)), np.ones(len(scaled)))
        weights, bias = fit_weights([photos], unscaled, class_weights, c, start)
        return solve_triangular(coordinates, weights.T, trans="T", lower=True).T @ scaled, bias


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of NumPy and SciPy; finding them takes 4 ms, and a choice fits a hundred heads."""
    return ThreadpoolController()


def fit_scales(
    logits: Floats,
    priors: Floats,
    labels: Labels,
    bounds: tuple[float, float],
    weights: Floats | None = None,
) -> tuple[float, float]:
    """The factors of logits and priors (n, labels) whose sum has the least log loss for labels (n,).

    Platt's scaling (1999) with the log shares of the labels as a second feature. Targets leave 1 / (n + 2) to
    the other labels, so that photos without a mistake do not ask for certainty. With `weights` (n,) a photo
    counts that often, and n is their sum. The first factor stays within the bounds; the second is 0 or more,
    with a normal prior around 1 of variance 1. A prior of minus infinity marks an impossible label.
    """
    counts = np.ones(len(labels)) if weights is None else weights
    rest = 1 / (counts.sum() + 2)

    def block(point: Floats, at: slice) -> tuple[float, Floats]:
        possible, each = np.isfinite(priors[at]), counts[at, None]
        features = np.stack([np.where(possible, logits[at], IMPOSSIBLE), np.where(possible, priors[at], 0)])
        targets = possible * (rest / np.maximum(possible.sum(1, keepdims=True) - 1, 1))
        targets[np.arange(len(possible)), labels[at]] = 1 - rest
        scores = np.tensordot(point, features, 1)
        scores -= scores.max(1, keepdims=True)
        log_probabilities = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        gradient = (features * (each * (np.exp(log_probabilities) - targets))).sum((1, 2))
        return -float((each * targets * log_probabilities).sum()), gradient

    def loss(point: Floats) -> tuple[float, Floats]:
        values, gradients = zip(*(block(point, at) for at in row_slices(logits)), strict=True)
        offset = point[1] - 1
        return float(offset**2 / 2 + sum(values)), sum(gradients) + np.array([0, offset])

    result = minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=[bounds, (0, None)])
    return float(result.x[0]), float(result.x[1])


@dataclass(frozen=True)
class _Problem:
    """What is minimised: one score for each label, but a single one for two labels (BINARY)."""

    parts: Sequence[LabelledFeatures]
    scaling: Scaling
    class_weights: Floats
    penalty: float


def _loss(problem: _Problem, pool: ThreadPoolExecutor, point: Floats) -> tuple[float, Floats]:
    """The objective at weights and bias of each score, (scores, width + 1), and its gradient."""
    weights, scaling = point[:, :-1], problem.scaling
    plain = np.column_stack(scaling.folded(weights, point[:, -1]))
    shards = min(SHARDS, -(-_total(problem.parts) // ROWS))

    def of_shard(shard: int) -> tuple[float, Floats]:
        return _shard_loss(problem, plain, shard, shards)

    spread = pool.map if _total(problem.parts) * plain.size > QUICK else map  # threads cost time, too
    results = spread(of_shard, range(shards))
    value, gradient = (sum(each) / _total(problem.parts) for each in zip(*results, strict=True))
    gradient[:, :-1] = (gradient[:, :-1] - np.outer(gradient[:, -1], scaling.centre)) / scaling.scale
    gradient[:, :-1] += problem.penalty * weights
    return value + problem.penalty / 2 * float(np.square(weights).sum()), gradient


def _shard_loss(problem: _Problem, plain: Floats, shard: int, shards: int) -> tuple[float, Floats]:
    """The summed loss of a shard of the photos, and its gradient for unscaled features."""
    value, gradient = 0.0, np.zeros_like(plain)
    dtype: Any = np.float32 if len(plain) >= MANY_LABELS else np.float64
    weights, bias = plain[:, :-1].astype(dtype), plain[:, -1].astype(dtype)
    buffer = np.empty((ROWS, weights.shape[1]), dtype)
    for features, labels in _blocks(problem.parts, shard, shards):
        rows = features
        if features.dtype != dtype:
            rows = buffer[: len(labels)]
            rows[:] = features
        scores = rows @ weights.T + bias
        logits = scores @ BINARY if len(plain) == 1 else scores
        each, by_logits = _cross_entropy(logits, labels, problem.class_weights)
        by_scores = by_logits @ BINARY.T if len(plain) == 1 else by_logits
        value += each
        gradient[:, :-1] += by_scores.T @ rows
        gradient[:, -1] += by_scores.sum(0, dtype=np.float64)
    return value, gradient


def _cross_entropy(logits: Floats, labels: Labels, class_weights: Floats) -> tuple[float, Floats]:
    """The summed loss of logits (n, labels), and its gradient."""
    rows, weights = np.arange(len(labels)), class_weights[labels].astype(logits.dtype)
    logits = logits - logits.max(1, keepdims=True)
    exponentials = np.exp(logits)
    sums = exponentials.sum(1)
    value = float(weights.astype(np.float64) @ (np.log(sums) - logits[rows, labels]))
    gradient = exponentials / sums[:, None]
    gradient[rows, labels] -= 1
    return value, gradient * weights[:, None]


def _blocks(parts: Sequence[LabelledFeatures], shard: int = 0, shards: int = 1) -> Iterator[LabelledFeatures]:
    """The photos of a shard of each part, ROWS at a time, in order."""
    for features, labels in parts:
        array = np.asarray(features)  # slicing a memory map itself is slower
        start, end = (len(labels) * one // shards for one in (shard, shard + 1))
        for begin in range(start, end, ROWS):
            rows = slice(begin, min(end, begin + ROWS))
            yield array[rows], labels[rows]


def _total(parts: Sequence[LabelledFeatures]) -> int:
    return sum(len(labels) for _, labels in parts)
