"""`catflap verify`: a Bundle's Verdict on this machine."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catflap.cli.options import refuse_alone, short_help, signer_arguments, signer_of, split_names
from catflap.cli.output import emit, note, progress_bar, table

HELP = "Check that a bundle works on this machine as tested: its bytes, pixels and answers."
EXAMPLE = "catflap verify cat.catflap"
UNITS = {"pixels": "grey levels", "golden": "logits", "decisions": "probability", "unknown": "OOD score"}
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
    checks = table([_row(check) for check in fields["checks"]])
    emit(fields, args, f"{checks}\nverdict: {fields['verdict']}")
    for name, why in fields["not_run"].items():
        note(f"{name} was not run here. {why}")
    return 0 if verdict.passed else 1


def _row(check: Mapping[str, Any]) -> dict[str, Any]:
    """A check for people: the limit with its unit, and the beginning of a hash."""
    value, limit, unit = check["value"], check["limit"], UNITS.get(check["name"].partition(":")[0])
    return {
        **check,
        "value": f"{value[:12]}…" if re.fullmatch("[0-9a-f]{64}", str(value)) else value,
        "limit": f"{limit:.4g} {unit}" if unit else limit,
    }
