"""`catflap serve`: Bundles to HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import (
    error_rate_argument,
    given_options,
    log_arguments,
    log_settings,
    point_argument,
    refuse_alone,
    short_help,
    signer_arguments,
    signer_of,
)
from catflap.cli.output import emit, note

HELP = "Answer over HTTP: /predict, the Open Inference Protocol at /v2, /metrics, and a page for people at /."
EXAMPLE = "catflap serve cat.catflap --port 8000"
SHOWN = (  # by --help; the rest by --help-all
    "--host", "--port", "--variant", "--error-rate", "--canary", "--shadow", "--keys", "--tls-cert", "--log",
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundles, the address, the limits and the keys."""
    add = parser.add_argument
    add("bundles", metavar="BUNDLE", nargs="+", help=".catflap files, or cat; the first answers /predict")
    add("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    add("--port", type=int, help="port to listen on; 0 picks a free one (default: 8000)")
    add(
        "--variant",
        metavar="NAME",
        help="variant to run: int8, fp32, … (default: the bundle's own, if it can run here)",
    )
    add(
        "--prior", action="append", default=[], metavar="LABEL=SHARE",
        help="how common a label is where the photos come from; may be repeated (default: as in training)",
    )  # fmt: skip
    error_rate_argument(parser)
    point_argument(parser)
    add(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the network for one photo (default: 1)",
    )
    second = parser.add_mutually_exclusive_group()
    second.add_argument(
        "--canary", metavar="BUNDLE", help="another version that answers a share of the requests"
    )
    second.add_argument(
        "--shadow", metavar="BUNDLE", help="another version that judges, too, and is only counted"
    )
    add(
        "--share",
        type=float,
        metavar="SHARE",
        help="share of the requests for the canary (default: 0.05)",
    )
    add(
        "--reload", type=float, metavar="SECONDS",
        help="seconds between two looks whether a bundle's file was replaced (default: 1)",
    )  # fmt: skip
    add("--keys", type=Path, metavar="FILE", help="ask for an API key; the file has one a line")
    add("--tls-cert", type=Path, metavar="PEM", help="serve https with this certificate")
    add("--tls-key", type=Path, metavar="PEM", help="the certificate's key (default: in its file)")
    _limits(parser)
    signer_arguments(parser)
    log_arguments(parser)
    short_help(parser, SHOWN)


def _limits(parser: argparse.ArgumentParser) -> None:
    """What a request, and all of them together, may cost."""
    add = parser.add_argument_group("limits").add_argument
    add(
        "--queue", type=int, metavar="N",
        help="photos that may wait for a core; an infer request at /v2 counts as one (default: 64)",
    )  # fmt: skip
    add(
        "--deadline", type=float, metavar="SECONDS",
        help="seconds from a whole request to its answer (default: 10)",
    )  # fmt: skip
    add(
        "--upload-timeout", type=float, metavar="SECONDS",
        help="seconds that the body of a request may take to come (default: 30)",
    )  # fmt: skip
    add("--max-mb", type=int, metavar="MB", help="megabytes of a request's body (default: 32)")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels of a photo (default: 50 million)",
    )
    add("--connections", type=int, metavar="N", help="connections open at once (default: 1000)")


def answer(args: argparse.Namespace) -> int:
    """Serve until a signal stops it; 1 when a Bundle fails its verification."""
    from catflap.runtime.decisions import parse_prior
    from catflap.serving.serve import serve
    from catflap.serving.serve_settings import ServeLimits, ServeSettings

    refuse_alone(args, "--canary next.catflap", "--share")
    limits = given_options(
        queue=args.queue,
        deadline=args.deadline,
        upload=args.upload_timeout,
        body=None if args.max_mb is None else args.max_mb * 1_000_000,
        pixels=args.max_pixels,
        connections=args.connections,
    )
    settings = ServeSettings(
        bundles=tuple(args.bundles),
        variant=args.variant,
        prior=parse_prior(args.prior),
        operating_point=args.operating_point,
        error_rate=args.error_rate,
        canary=args.canary,
        shadow=args.shadow,
        keys=args.keys,
        signer=signer_of(args),
        tls_certificate=args.tls_cert,
        tls_key=args.tls_key,
        log=log_settings(args),
        limits=ServeLimits(**limits),
        **given_options(
            host=args.host, port=args.port, threads=args.threads, share=args.share, reload=args.reload
        ),
    )
    serve(settings, lambda fields: emit(fields, args), note)
    return 0
