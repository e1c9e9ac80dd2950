"""`catflap trace`: an artefact's ancestors."""

from __future__ import annotations

import argparse

from catflap.cli.output import emit

HELP = "Print the ancestors of an artifact by their hashes: bundle, checkpoint, dataset, manifest."
EXAMPLE = "catflap trace cat.catflap"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The artefact."""
    parser.add_argument("artefact", metavar="ARTEFACT", help="a bundle, or the folder of a step before it")


def answer(args: argparse.Namespace) -> int:
    """Trace and print the chain."""
    from catflap.pipeline.trace import trace

    chain = trace(args.artefact)
    emit({"chain": chain}, args, "\n".join(f"{link['kind']:<11} {link['sha256']}" for link in chain))
    return 0
