"""`catflap verify`: a Bundle's Verdict on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from catflap.cli.options import refuse_alone, short_help, signer_arguments, signer_of, split_names
from catflap.cli.output import emit, note, progress_bar, table

HELP = "Check that a bundle works on this machine as tested: its bytes, pixels and answers."
EXAMPLE = "catflap verify cat.catflap"
SHOWN = ("--variants", "--threads", "--key", "--root")  # by --help; the rest by --help-all


def arguments(parser: argparse.ArgumentParser) -> None:
    """The Bundle, and what of it."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a .catflap file, or the name of a shipped one: cat")
    parser.add_argument(
        "--variants",
        default="",
        metavar="LIST",
        help="check only these variants (default: all whose runtime is here)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of the network (default: one a core)"
    )
    signer_arguments(parser)
    parser.add_argument("--signature", metavar="FILE", type=Path, help="signature file (default: BUNDLE.sig)")
    short_help(parser, SHOWN)


def answer(args: argparse.Namespace) -> int:
    """Verify and print the checks; 1 when the Verdict is fail."""
    from catflap.verification.verify import verify

    signer = signer_of(args)
    if signer is None:
        refuse_alone(args, "--key public.pem", "--signature")
    with progress_bar(args) as progress:
        verdict = verify(
            args.bundle,
            variants=split_names(args.variants),
            signer=signer,
            signature=args.signature,
            threads=args.threads,
            progress=progress,
        )
    fields = verdict.to_json()
    emit(fields, args, f"{table(fields['checks'])}\nverdict: {fields['verdict']}")
    for name, why in fields["not_run"].items():
        note(f"{name} was not run here. {why}")
    return 0 if verdict.passed else 1
