"""`catflap sign`: a detached signature for a Bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.output import emit

HELP = "Sign a bundle with a key or a certificate, so that devices can refuse other bundles."
EXAMPLE = "catflap sign cat.catflap --key private.pem"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle and what signs it."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="a .catflap file")
    means = parser.add_mutually_exclusive_group(required=True)
    means.add_argument("--key", metavar="PRIVATE", type=Path, help="private key of an elliptic curve, PEM")
    means.add_argument(
        "--sigstore",
        action="store_true",
        help="sign through Sigstore with your identity from a browser or CI job",
    )
    parser.add_argument("--certificate", metavar="PEM", type=Path, help="certificate of that key")
    parser.add_argument(
        "--chain", metavar="PEM", type=Path, help="certificates between that certificate and the root"
    )
    parser.add_argument(
        "-o", "--out", metavar="SIGNATURE", type=Path, help="signature to write (default: BUNDLE.sig)"
    )


def answer(args: argparse.Namespace) -> int:
    """Sign and print the path of the signature."""
    from catflap.runtime.signature import sign_bundle

    fields = sign_bundle(args.bundle, args.key, args.out, certificate=args.certificate, chain=args.chain)
    emit(fields, args)
    return 0
