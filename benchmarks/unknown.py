"""Which score tells photos of other things best, at no extra network: AUROC, acceptance, share refused.

    python benchmarks/unknown.py --cifar cifar10.zip --photos photos --clones CLONES

A head is trained on frozen features (Lite0, 160 px) of seven tenths of the labels; the photos of the others
are left out. 60 % of the known labels' groups of photos are for the head and the score, 20 % calibrate its
threshold (5 % may be refused), 20 % judge it. Sets: CIFAR-10, scikit-learn's digits, and those of the league
with four labels and 150 groups or more (league_sets.py), at most 12 labels and 50 photos of each. Other
things: brick, grass and gravel of scikit-image, noise, drawn screenshots, digits and CIFAR-10. For cat and
not_cat, of which none is left out, CIFAR-10 is not among them. The shipped score is computed by the code of
`export` and the runtimes. --cache FILE.npz keeps the features.
"""

from __future__ import annotations

import argparse
import csv
import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from league_sets import SETS, extracted
from machine import header, need_photos
from PIL import Image, ImageDraw

Rows: TypeAlias = npt.NDArray[Any]
Score: TypeAlias = Callable[[Rows, Rows], Rows]  # features and logits to a number a photo, high if strange
Photo: TypeAlias = tuple[Any, str]  # its bytes or path, and its group
SIZE, RATE = 160, 0.05
LABELS, PHOTOS = 12, 50  # of a set of the league, at most
FEWEST = 150  # groups of a set: a fifth of them has to show that 5 % are refused
SHARED = ("rooms",)  # sets whose groups have photos of several labels
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DRAWN = "drawn"


def main() -> None:
    """Measure and print a table a task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path, default=Path("../shared/data/cifar10.zip"))
    parser.add_argument("--photos", type=Path, default=Path("../shared/data/photos"))
    parser.add_argument("--league", type=Path, default=Path("~/.cache/catflap-league").expanduser())
    parser.add_argument("--clones", type=Path, help="as in league.py")
    parser.add_argument("--no-league", action="store_true", help="only CIFAR-10, digits and the photos")
    parser.add_argument("--cache", type=Path, metavar="FILE.npz")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    need_photos(args.cifar)
    need_photos(args.photos)
    if args.cache and args.cache.is_file():
        kept = dict(np.load(args.cache))
    else:
        kept, photos = {}, sources(args.cifar, args.photos)
        if not args.no_league:
            photos |= league_photos(args.league, args.clones)
        for name, files in photos.items():
            kept[name] = extract([photo for photo, _ in files])
            kept[f"groups of {name}"] = np.array([group for _, group in files])
        if args.cache:
            np.savez(args.cache, **kept)
    features = {name: rows for name, rows in kept.items() if not name.startswith("groups of ")}
    groups = {name: kept[f"groups of {name}"] for name in features}
    header(photos=sum(map(len, features.values())), size=SIZE, rate=RATE, seeds=args.seeds)
    families = [name for name in dict.fromkeys(map(family, features)) if name != DRAWN]
    means: dict[str, list[Rows]] = {}
    for task in families:
        runs = []
        for seed in range(args.seeds):
            names = [name for name in features if family(name) == task]
            order = [names[number] for number in np.random.default_rng(seed).permutation(len(names))]
            left_out = 0 if task == "photos" else max(1, len(names) * 3 // 10)
            runs.append(measure(features, groups, order[left_out:], order[:left_out], seed))
        print(f"\n{task}: accepted; refused of left-out labels, AUROC; refused of other things")
        for name in runs[0]:
            values = np.mean([run[name] for run in runs], axis=0)
            means.setdefault(name, []).append(values)
            print(f"  {name:24}" + " ".join(f"{value:7.3f}" for value in values), flush=True)
    print(f"\nmean over {len(families)} sets (left-out labels: over {len(families) - 1})")
    for name, values in sorted(means.items(), key=lambda one: -np.nanmean(one[1], axis=0)[1]):
        print(f"  {name:24}" + " ".join(f"{value:7.3f}" for value in np.nanmean(values, axis=0)))


def family(name: str) -> str:
    """The set that a label is of."""
    return name.split(":")[0]


def league_photos(cache: Path, clones: Path | None) -> dict[str, list[Photo]]:
    """Photos with their groups of the league's sets that have four labels or more."""
    random, found = np.random.default_rng(0), dict[str, list[Photo]]()
    for photo_set in SETS:
        table = extracted(photo_set, cache, clones)
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        of: dict[str, list[Photo]] = {}
        for row in rows:
            of.setdefault(row["label"], []).append((table.parent / row["path"], row["group"] or row["path"]))
        labels = sorted(label for label, photos in of.items() if len(photos) >= 20)
        if len(labels) < 4:
            continue
        chosen = {
            label: [of[label][place] for place in random.permutation(len(of[label]))[:PHOTOS]]
            for label in sorted(random.permutation(labels)[:LABELS])
        }
        if len({group for photos in chosen.values() for _, group in photos}) < FEWEST:
            continue
        for label, photos in chosen.items():
            found[f"{photo_set.name}:{label}"] = [(path.read_bytes(), group) for path, group in photos]
    return found


def sources(cifar: Path, photos: Path) -> dict[str, list[Photo]]:
    """The photos of each label and of other things, as files, each a group of its own."""
    from skimage import data
    from sklearn.datasets import load_digits

    random = np.random.default_rng(0)
    found: dict[str, list[bytes]] = {}
    with zipfile.ZipFile(cifar) as archive:
        names = [name for name in archive.namelist() if name.endswith("jpg")]
        for label in dict.fromkeys(name.split("/")[2] for name in names):
            chosen = random.permutation([name for name in names if name.split("/")[2] == label])[:250]
            found[f"cifar:{label}"] = [archive.read(str(name)) for name in chosen]
    for label in ("cat", "not_cat"):
        files = sorted((photos / label).iterdir())
        found[f"photos:{label}"] = [
            files[place].read_bytes() for place in random.permutation(len(files))[:800]
        ]
    digits = load_digits()
    for digit in range(10):
        pictures = (255 - digits.images[digits.target == digit][:150] * 15.9).astype(np.uint8)
        found[f"digits:{digit}"] = [png(picture) for picture in pictures]
    found["drawn:textures"] = []
    for name in ("brick", "grass", "gravel"):
        texture = getattr(data, name)()
        for _ in range(50):
            side = random.integers(100, 300)
            top, left = random.integers(0, 512 - side, 2)
            found["drawn:textures"].append(png(texture[top : top + side, left : left + side]))
    found["drawn:noise"] = []
    for _ in range(100):
        width = int(random.integers(4, 224))
        noise = Image.fromarray(random.integers(0, 256, (width, width, 3), dtype=np.uint8))
        found["drawn:noise"].append(png(np.asarray(noise.resize((224, 224), Image.Resampling.BILINEAR))))
    found["drawn:screens"] = [png(screenshot(random)) for _ in range(100)]
    return {name: [(file, str(number)) for number, file in enumerate(files)] for name, files in found.items()}


def screenshot(random: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Boxes and lines of text on a light ground."""

    def numbers(low: int, high: int, count: int = 3) -> tuple[int, ...]:
        return tuple(int(number) for number in random.integers(low, high, count))

    picture = Image.new("RGB", (640, 400), numbers(180, 256))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(3, 9))):
        x, y = int(random.integers(0, 500)), int(random.integers(0, 300))
        far = (x + int(random.integers(30, 300)), y + int(random.integers(10, 150)))
        pen.rectangle([x, y, *far], fill=numbers(0, 256))
    for _ in range(25):
        place = (int(random.integers(0, 520)), int(random.integers(0, 380)))
        pen.text(place, "".join(map(chr, random.integers(97, 123, 20))), fill=numbers(0, 130))
    return np.asarray(picture)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def extract(photos: list[bytes]) -> Rows:
    """The features of photos."""
    from catflap.image import Frame, read_pixels
    from catflap.training.backbones import load_backbone
    from catflap.training.features import open_extractor

    frame = Frame(SIZE, SIZE)
    model = open_extractor(load_backbone("efficientnet_lite0"), frame).model
    frames = [read_pixels(photo, frame) for photo in photos]
    return np.concatenate([model(np.stack(frames[at : at + 4])) for at in range(0, len(frames), 4)])


def measure(
    features: Mapping[str, Rows], groups: Mapping[str, Rows], known: list[str], left_out: list[str], seed: int
) -> dict[str, Rows]:
    """Accepted, refused of left-out labels, AUROC, refused of other things, for each score."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    from catflap.evaluation.conformal import unknown_threshold
    from catflap.runtime.ood import are_unknown

    rows = np.concatenate([features[name] for name in known])
    labels = np.concatenate([[number] * len(features[name]) for number, name in enumerate(known)])
    owners = np.unique([f"{name} {group}" for name in known for group in groups[name]], return_inverse=True)[
        1
    ]
    if family(known[0]) in SHARED:  # a house is a group across labels
        owners = np.unique(np.concatenate([groups[name] for name in known]), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(owners.max() + 1)
    parts = np.split(order, [len(order) * 6 // 10, len(order) * 8 // 10])
    train, calibration, test = (np.flatnonzero(np.isin(owners, part)) for part in parts)
    scale = rms(rows[train])
    head = LogisticRegression(C=1.0, max_iter=300).fit(rows[train] / scale, labels[train])

    def logits(given: Rows) -> Rows:
        answers = head.decision_function(given / scale)
        return answers if answers.ndim == 2 else np.stack([-answers / 2, answers / 2], axis=1)

    mine = family(known[0])
    others = [name for name in features if family(name) in {DRAWN, "digits", "cifar"} - {mine}]
    if mine == "photos":
        others = [name for name in others if family(name) != "cifar"]  # it has cats and dogs, too
    things = np.concatenate([features[name] for name in others])
    strange = np.concatenate([features[name] for name in left_out]) if left_out else rows[:0]
    given = [rows[calibration], rows[test], strange, things]
    found = {}
    weights = head.coef_ if len(head.coef_) > 1 else np.concatenate([-head.coef_ / 2, head.coef_ / 2])
    learnt = (rows[train], labels[train])
    tried = {
        **shipped(*learnt, rows[calibration], owners[calibration], logits),
        **scores(*learnt, rows[calibration], logits),
        **edits(*learnt, logits, weights),
    }
    tried |= {
        f"{name}, {other}": joined([tried[name], tried[other]], rows[calibration], logits)
        for name in ("shipped", "Mahalanobis", "5 neighbours")
        for other in ("energy", "softmax")
    }
    for name, score in tried.items():
        ours, new, out, other = (score(one, logits(one)) if len(one) else np.zeros(0) for one in given)
        limit = unknown_threshold(ours, owners[calibration], RATE)
        assert limit is not None
        area = roc_auc_score(np.r_[0 * new, 0 * out + 1], np.r_[new, out]) if len(out) else np.nan
        refused = are_unknown(out, limit).mean() if len(out) else np.nan
        found[name] = np.array(
            [1 - are_unknown(new, limit).mean(), refused, area, are_unknown(other, limit).mean()]
        )
    return found


def shipped(
    train: Rows, labels: Rows, calibration: Rows, owners: Rows, logits: Callable[[Rows], Rows]
) -> dict[str, Score]:
    """The OOD score of bundles: distance from mean and 8 axes of the likeliest label, by their own scale."""
    from catflap.evaluation.drift_baseline import make_baseline
    from catflap.runtime.ood import embedding_models, ood_scores

    names = [str(number) for number in range(int(labels.max()) + 1)]
    fitted = {number: train[labels == number].astype(np.float32) for number in range(len(names))}
    given = softmax(logits(calibration))
    baseline = make_baseline(given, names, owners, None, calibration.astype(np.float32), fitted)
    models = embedding_models(baseline, names)

    def likeliest(limits: Rows) -> Score:
        def score(rows: Rows, answers: Rows) -> Rows:
            best = answers.argmax(axis=1)
            found = ood_scores(rows.astype(np.float32), best, models) * (drawn / limits)[best]
            return np.asarray(np.nan_to_num(found))

        return score

    def nearest(rows: Rows, answers: Rows) -> Rows:
        every = [
            ood_scores(rows.astype(np.float32), np.full(len(rows), n), models) for n in range(len(names))
        ]
        return np.asarray(np.nanmin(every, axis=0))

    drawn = np.array([np.nan if model is None else model.limit for model in models])
    middle = np.nanmedian(drawn)  # also of the labels' own limits, of which these are half-way to it
    ours, answered = likeliest(drawn), logits(calibration)
    strength = np.std(ours(calibration, answered)) / np.std(log_sum(answered))

    def summed(share: float) -> Score:
        return lambda rows, answers: np.asarray(ours(rows, answers) - share * strength * log_sum(answers))

    return {
        "shipped": ours,
        "shipped, own limits": likeliest(drawn**2 / middle),
        "shipped, one limit": likeliest(np.full(len(names), middle)),
        "shipped, nearest label": nearest,
        "shipped + energy": summed(1),
        "shipped + energy / 2": summed(0.5),
    }


def scores(train: Rows, labels: Rows, calibration: Rows, logits: Callable[[Rows], Rows]) -> dict[str, Score]:
    """Distances and confidences by name; without those of pytorch-ood that need gradients or inner layers."""
    bank, count = unit(train), int(labels.max()) + 1
    means = np.stack([bank[labels == number].mean(axis=0) for number in range(count)])
    whitening = whiten(bank - means[labels])
    centre = bank.mean(axis=0)
    main = np.linalg.eigh((bank - centre).T @ (bank - centre))[1][:, ::-1][:, :64]

    def mahalanobis(rows: Rows, _: Rows) -> Rows:
        here, there = unit(rows) @ whitening, means @ whitening
        return np.asarray(np.min([((here - mean) ** 2).sum(axis=1) for mean in there], axis=0))

    def unexplained(rows: Rows) -> Rows:
        away = unit(rows) - centre
        return np.asarray(np.linalg.norm(away - (away @ main) @ main.T, axis=1))

    weight = logits(train).max(axis=1).mean() / unexplained(train).mean()
    return {
        "softmax": lambda rows, answers: log_sum(answers) - answers.max(axis=1),
        "largest logit": lambda rows, answers: -answers.max(axis=1),
        "energy": lambda rows, answers: -log_sum(answers),
        "nearest mean": lambda rows, answers: -(unit(rows) @ unit(means).T).max(axis=1),
        "Mahalanobis": mahalanobis,
        "1 neighbour": lambda rows, answers: -(unit(rows) @ bank.T).max(axis=1),
        "5 neighbours": lambda rows, answers: -np.sort(unit(rows) @ bank.T, axis=1)[:, -5],
        "ViM": lambda rows, answers: weight * unexplained(rows) - log_sum(answers),
    }


def edits(train: Rows, labels: Rows, logits: Callable[[Rows], Rows], weights: Rows) -> dict[str, Score]:
    """Scores of pytorch-ood that edit the features or the head, or compare probabilities with templates."""
    answers = logits(train)
    top = np.quantile(train, 0.9)
    contribution = weights * train.mean(axis=0)
    kept = contribution >= np.quantile(contribution, 0.9)
    offset = (answers - train @ weights.T / rms(train)).mean(axis=0)
    templates = np.stack([softmax(answers)[labels == number].mean(axis=0) for number in np.unique(labels)])
    patterns = np.stack([train[labels == number].mean(axis=0) for number in np.unique(labels)])
    scale = rms(train)

    def pruned(rows: Rows, share: float) -> Rows:
        return np.asarray(np.where(rows >= np.quantile(rows, share, axis=1, keepdims=True), rows, 0))

    def ash_s(rows: Rows, _: Rows) -> Rows:
        left = pruned(rows, 0.65)
        grown = np.exp(np.minimum(rows.sum(axis=1) / np.maximum(left.sum(axis=1), 1e-9), 20))
        return -log_sum(logits(left * grown[:, None]))

    def kl_matching(_: Rows, given: Rows) -> Rows:
        shares = np.clip(softmax(given), 1e-12, 1)
        own = (shares * np.log(shares)).sum(axis=1, keepdims=True)
        return np.asarray((own - shares @ np.log(np.clip(templates, 1e-12, 1)).T).min(axis=1))

    def hopfield(rows: Rows, given: Rows) -> Rows:
        return np.asarray(-(rows * patterns[given.argmax(axis=1)]).sum(axis=1))

    def entropy(_: Rows, given: Rows) -> Rows:
        shares = np.clip(softmax(given), 1e-12, 1)
        return np.asarray(-(shares * np.log(shares)).sum(axis=1))

    def relative(rows: Rows, _: Rows) -> Rows:
        return np.asarray(near(rows, unit(patterns)) - near(rows, unit(train).mean(axis=0)[None], whole=True))

    bank = unit(train)
    within = bank - unit(patterns)[labels]
    whitenings = {False: whiten(within), True: whiten(bank - bank.mean(axis=0))}

    def near(rows: Rows, means: Rows, whole: bool = False) -> Rows:
        here, there = unit(rows) @ whitenings[whole], means @ whitenings[whole]
        return np.asarray(np.min([((here - mean) ** 2).sum(axis=1) for mean in there], axis=0))

    return {
        "entropy": entropy,
        "KL matching": kl_matching,
        "relative Mahalanobis": relative,
        "ReAct": lambda rows, _: -log_sum(logits(np.minimum(rows, top))),
        "ASH-P": lambda rows, _: -log_sum(logits(pruned(rows, 0.65))),
        "ASH-S": ash_s,
        "DICE": lambda rows, _: -log_sum(rows @ (weights * kept).T / scale + offset),
        "SHE": hopfield,
    }


def rms(rows: Rows) -> float:
    """The root mean square of features, by which the head scales them."""
    return float(np.sqrt((rows**2).mean()))


def whiten(away: Rows) -> Rows:
    """A matrix after which the covariance of rows, shrunk by a tenth, is 1 in every direction."""
    spread, directions = np.linalg.eigh(away.T @ away / len(away))
    return np.asarray(directions / np.sqrt(0.9 * spread + 0.1 * spread.mean()))


def softmax(answers: Rows) -> Rows:
    """Probabilities of logits."""
    powers = np.exp(answers - answers.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def joined(parts: list[Score], calibration: Rows, logits: Callable[[Rows], Rows]) -> Score:
    """Scores combined by the product of their p-values on the calibration photos (Fisher)."""
    known = [np.sort(part(calibration, logits(calibration))) for part in parts]

    def score(rows: Rows, answers: Rows) -> Rows:
        ranks = [
            np.searchsorted(sorted_, part(rows, answers)) / (len(sorted_) + 1)
            for part, sorted_ in zip(parts, known, strict=True)
        ]
        return np.asarray(
            -np.log(np.clip(1 - np.array(ranks), 1e-3, 1)).sum(axis=0) + 1e-6 * parts[0](rows, answers)
        )

    return score


def unit(rows: Rows) -> Rows:
    """Rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def log_sum(answers: Rows) -> Rows:
    """The logarithm of the sum of exponentials."""
    most = answers.max(axis=1, keepdims=True)
    return np.asarray((most + np.log(np.exp(answers - most).sum(axis=1, keepdims=True)))[:, 0])


if __name__ == "__main__":
    main()
