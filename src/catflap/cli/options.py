"""Options that several commands take, and what they mean."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catflap.errors import CatflapError

if TYPE_CHECKING:
    from catflap.runtime.recording import LogSettings
    from catflap.runtime.signature import Signer


def example(words: str) -> str:
    """The example at the end of a help page."""
    return f"example:\n  {words}"


def bundle_out(text: str) -> Path:
    """The bundle that -o names; the suffix is added to a name without any."""
    path = Path(text)
    return path if path.suffix or not path.name else path.with_name(f"{path.name}.catflap")


def json_argument(parser: argparse.ArgumentParser, default: bool | str = False) -> None:
    """The option that every command has."""
    parser.add_argument("--json", action="store_true", default=default, help="print the answer as JSON")


def short_help(parser: argparse.ArgumentParser, shown: Collection[str]) -> None:
    """Let --help list only the options in `shown`, and add --help-all, which lists all. Call it last."""
    listing = parser.add_argument("--help-all", action=_HelpAll, nargs=0, help="list every option")
    assert isinstance(listing, _HelpAll)
    for action in parser._actions:
        if action.option_strings and not {"-h", "--help-all", *shown} & {*action.option_strings}:
            listing.hidden[action] = action.help
            action.help = argparse.SUPPRESS


def list_all_options(parser: argparse.ArgumentParser) -> None:
    """Undo `short_help`: let --help list every option again."""
    for listing in parser._actions:
        if isinstance(listing, _HelpAll):
            for action, text in listing.hidden.items():
                action.help = text


class _HelpAll(argparse.Action):
    """Prints the help of every option; `hidden` is the help that --help leaves out."""

    def __init__(self, *args: Any, **rest: Any) -> None:
        super().__init__(*args, **rest)
        self.hidden: dict[argparse.Action, str | None] = {}

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        list_all_options(parser)
        parser.print_help()
        parser.exit()


def part_of(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, words: str
) -> argparse.ArgumentParser:
    """The parser of a subcommand such as `review apply`, with its description and example."""
    about = f"{what[0].upper()}{what[1:]}."
    parser = verbs.add_parser(name, help=what, description=about, epilog=example(words))
    json_argument(parser, argparse.SUPPRESS)  # else it would reset a --json before the subcommand
    return parser


def megabytes(text: str) -> float:
    """The value of an option in megabytes; ValueError unless it is a finite number."""
    size = float(text)
    if not math.isfinite(size):
        raise ValueError(text)
    return size


def log_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of predict, watch and serve for the field log."""
    log = parser.add_argument_group("field log")
    log.add_argument("--log", type=Path, metavar="FILE", help="record each answer in this file")
    log.add_argument("--log-photos", action="store_true", help="keep a picture of each photo in the log, too")
    log.add_argument(
        "--log-mb", type=megabytes, metavar="MB",
        help="megabytes that the log may take; the oldest rows go first (default: 1000)",
    )  # fmt: skip


def log_settings(args: argparse.Namespace) -> LogSettings | None:
    """The settings of --log; None without it."""
    from catflap.runtime.recording import LogSettings

    refuse_alone(args, "--log field.log", "--log-photos", "--log-mb")
    if args.log is None:
        return None
    limit = None if args.log_mb is None else int(args.log_mb * 1e6)
    return LogSettings(args.log, args.log_photos, **given_options(limit=limit))


def refuse_alone(args: argparse.Namespace, owner: str, *options: str) -> None:
    """Raise CatflapError for options that need `owner` where it was not given: they would do nothing.

    `owner` is an option with an example of its value, such as "--log field.log".
    """
    name = owner.split()[0]
    if _given(args, name):
        return
    for option in options:
        if _given(args, option):
            raise CatflapError(f"{option} needs {name}, which was not given.", f"Add {owner}.")


def _given(args: argparse.Namespace, option: str) -> bool:
    value = getattr(args, option[2:].replace("-", "_"))
    return value is not None and value is not False and value != []


def given_options(**options: Any) -> dict[str, Any]:
    """The options that were given; the others keep the default of the function that takes them."""
    return {name: value for name, value in options.items() if value is not None}


def error_rate_argument(parser: argparse.ArgumentParser) -> None:
    """The option of the verbs that can decide at another error rate of the bundle."""
    parser.add_argument(
        "--error-rate", type=float, metavar="RATE",
        help="decide so that at most this share of photos gets a wrong label, such as 0.02: a rate of the "
        "bundle's curve (default: the bundle's own rate)",
    )  # fmt: skip


def point_argument(parser: argparse.ArgumentParser) -> None:
    """The option --operating-point."""
    parser.add_argument(
        "--operating-point", metavar="POINT",
        help="decide at this operating point of the bundle, such as cat:max_fpr=0.001 (default: by the "
        "threshold with a promise, or unsure)",
    )  # fmt: skip


def signer_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verbs that can require a signature."""
    group = parser.add_argument_group("refuse a bundle unless it was signed")
    group.add_argument(
        "--key", metavar="PUBLIC", type=Path, help="signed by the owner of this public key, PEM"
    )
    group.add_argument(
        "--root", metavar="ROOT", type=Path, help="signed with a certificate of this authority, PEM"
    )
    group.add_argument("--identity", metavar="WHO", help="signed by WHO through Sigstore, such as an address")
    group.add_argument("--issuer", metavar="URL", help="the OpenID provider that confirmed WHO to Sigstore")


def signer_of(args: argparse.Namespace) -> Signer | None:
    """Who must have signed; None without such an option. An empty value is an error, not None."""
    from catflap.runtime.signature import Signer

    if all(option is None for option in (args.key, args.root, args.identity, args.issuer)):
        return None
    return Signer(args.key, args.root, args.identity or "", args.issuer or "")


def split_names(names: str) -> tuple[str, ...]:
    """The names in a list that was written with commas, in order."""
    return tuple(name.strip() for name in names.split(",") if name.strip())
