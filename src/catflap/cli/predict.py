"""`catflap predict`: photos to Predictions."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import (
    error_rate_argument,
    log_arguments,
    log_settings,
    point_argument,
    short_help,
    signer_arguments,
    signer_of,
)
from catflap.cli.output import emit, note

HELP = "Classify photos with a bundle, a line per photo."
EXAMPLE = "catflap predict cat some-photo.jpg"
SHOWN = (  # by --help; the rest by --help-all
    "--variant", "--threads", "--prior", "--explain", "--error-rate", "--operating-point", "--key", "--log",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle, the photos, and how to classify them."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="photos, or folders of photos")
    parser.add_argument(
        "--variant",
        metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (default: one a core)"
    )
    parser.add_argument(
        "--prior", action="append", default=[], metavar="LABEL=SHARE",
        help="how common a label is where the photos come from, such as cat=0.001; may be repeated (default: "
        "as in training)",
    )  # fmt: skip
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FOLDER",
        help="write a PNG of each photo that shows where the network found its label, into a new folder",
    )
    error_rate_argument(parser)
    point_argument(parser)
    signer_arguments(parser)
    log_arguments(parser)
    short_help(parser, SHOWN)


def answer(args: argparse.Namespace) -> int:
    """Classify and print; 1 when some photos could not be read."""
    from catflap.runtime.activation_maps import Explainer
    from catflap.runtime.classifier import Classifier, Prediction, predict
    from catflap.runtime.decisions import parse_prior
    from catflap.runtime.recording import recording
    from catflap.runtime.signature import read_signed

    bundle = read_signed(args.bundle, signer_of(args))
    log = log_settings(args)
    prior = parse_prior(args.prior)
    classifier = Classifier(
        bundle,
        args.variant,
        threads=args.threads,
        prior=prior,
        operating_point=args.operating_point,
        error_rate=args.error_rate,
        embed=log is not None,
    )
    if classifier.notice:
        note(classifier.notice)
    explainer = None if args.explain is None else Explainer(classifier, args.explain)
    unread = 0
    with recording(log, note) as recorder:
        for path, result in predict(classifier, args.paths, recorder):
            if isinstance(result, Prediction):
                fields = {"path": path, **result.to_json()}
                if explainer is not None:
                    fields["explanation"] = str(explainer.write(path, result.label))
                emit(fields, args, _text(path, result))
            else:
                unread += 1
                emit({"path": path, "error": result.to_json()}, args, f"{path}: {result.what} {result.fix}")
    return 1 if unread else 0


def _text(path: str, result: object) -> str:
    from catflap.runtime.classifier import Prediction

    assert isinstance(result, Prediction)
    decision = f"  ({result.decision})" if result.decision != result.label else ""
    return f"{path}: {result.label} {result.probability:.4f}{decision}  {result.ms:.1f} ms"
