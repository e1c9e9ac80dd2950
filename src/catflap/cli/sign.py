"""`catflap sign`: a detached signature for a Bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit

HELP = "Sign a Bundle with a private key, so that devices can refuse what is not yours."
EXAMPLE = "catflap sign cat.catflap --key private.pem"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and the key."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a .catflap file")
    parser.add_argument("--key", metavar="PRIVATE", type=Path, required=True, help="private key, PEM")
    parser.add_argument(
        "-o", "--out", metavar="SIGNATURE", type=Path, help="what to write (default: BUNDLE.sig)"
    )


def answer(args: argparse.Namespace) -> int:
    """Sign and print where the signature lies."""
    from catflap.runtime.signature import sign_bundle

    emit(sign_bundle(args.bundle, args.key, args.out), args)
    return 0
