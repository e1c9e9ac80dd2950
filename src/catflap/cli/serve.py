"""`catflap serve`: Bundles to HTTP."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit, log_arguments, log_settings, note, signer_arguments, signer_of

HELP = "Answer over HTTP: /predict, the Open Inference Protocol at /v2, /metrics, and a page for people at /."
EXAMPLE = "catflap serve cat.catflap --port 8000"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundles, the address, the limits and the keys."""
    add = parser.add_argument
    add("bundles", metavar="BUNDLE", nargs="+", help=".catflap files, or cat; the first answers /predict")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8000, help="0 picks a free one (default: 8000)")
    add("--variant", metavar="NAME", help="int8, fp32, … (default: the bundle's)")
    add("--prior", action="append", default=[], metavar="LABEL=SHARE", help="as catflap predict takes it")
    add("--threads", type=int, default=1, metavar="N", help="of the network for one photo (default: 1)")
    rival = parser.add_mutually_exclusive_group()
    rival.add_argument("--canary", metavar="BUNDLE", help="a version that answers a share of the requests")
    rival.add_argument("--shadow", metavar="BUNDLE", help="a version that judges too and is only counted")
    add("--share", type=float, default=0.05, metavar="SHARE", help="of the canary (default: 0.05)")
    add("--reload", type=float, default=1.0, metavar="SECONDS", help="how often to look for new versions")
    add("--keys", type=Path, metavar="FILE", help="ask for an API key; the file has one a line")
    add("--tls-cert", type=Path, metavar="PEM", help="serve https with this certificate")
    add("--tls-key", type=Path, metavar="PEM", help="the certificate's key")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--queue", type=int, default=64, metavar="N", help="photos that may wait (64)")
    limits.add_argument("--deadline", type=float, default=10, metavar="SECONDS", help="for an answer (10)")
    limits.add_argument("--upload", type=float, default=30, metavar="SECONDS", help="for a body to come (30)")
    limits.add_argument("--max-mb", type=int, default=32, metavar="MB", help="of a body (32)")
    limits.add_argument(
        "--max-pixels", type=int, default=50_000_000, metavar="N", help="of a photo (50 million)"
    )
    limits.add_argument("--connections", type=int, default=1000, metavar="N", help="open at once (1000)")
    signer_arguments(parser)
    log_arguments(parser)


def answer(args: argparse.Namespace) -> int:
    """Serve until told to stop; 1 when a Bundle fails its verification."""
    from catflap.runtime.classifier import parse_prior
    from catflap.serving.serve import serve
    from catflap.serving.settings import Limits, Settings

    settings = Settings(
        bundles=tuple(args.bundles),
        host=args.host,
        port=args.port,
        variant=args.variant,
        prior=parse_prior(args.prior),
        threads=args.threads,
        canary=args.canary,
        shadow=args.shadow,
        share=args.share,
        reload=args.reload,
        keys=args.keys,
        signer=signer_of(args),
        tls_certificate=args.tls_cert,
        tls_key=args.tls_key,
        log=log_settings(args),
        limits=Limits(
            args.queue, args.deadline, args.upload, args.max_mb * 1_000_000, args.max_pixels, args.connections
        ),
    )
    serve(settings, lambda fields: emit(fields, args), note)
    return 0
