"""The front of the command line: find the command, run it, and turn every error into a sentence.

Exit codes: 0 fine, 1 the answer is no, 2 usage or unusable input, 130 stopped by Ctrl-C, 143 by SIGTERM and
129 by SIGHUP.
A command's module is imported only when the command is used, so that `catflap --help` is instant.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from catflap.cli import options, output
from catflap.cli.settings_file import with_settings
from catflap.errors import CatflapError, Refused, missing_extra, nearest, system_reason
from catflap.machine import share_memory
from catflap.stopping import Ended, answered_at_once, end_in_order
from catflap.version import VERSION

GROUPS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "make": {
            "build": "photos to a verified bundle: all the steps below; resumable",
            "scan": "read labelled photos into a manifest",
            "prepare": "assign roles without leaks and pack a dataset",
            "audit": "find photos whose label may be wrong",
            "review": "pages of photos to decide on; apply the decisions",
            "train": "train a classifier on a dataset",
            "export": "turn a checkpoint into a bundle for devices",
        },
        "look": {
            "evaluate": "measure a checkpoint or a bundle on unseen photos",
            "verify": "check that a bundle works on this machine as tested",
            "bench": "time a bundle on this machine",
            "compare": "the cost of training beside the cost of inference",
            "diff": "may a new bundle replace the one in use?",
            "explain": "one training step and one prediction of a photo, drawn",
            "plan": "what millions of photos take: time, memory, disk, cost",
            "drift": "does the field still look like the calibration photos?",
            "trace": "print the ancestors of an artifact",
        },
        "run": {
            "predict": "classify photos",
            "watch": "classify a camera, stream, video or folder live",
            "serve": "HTTP server: REST, Open Inference Protocol, camera page",
            "web": "write the camera page with a bundle into a folder",
            "studio": "all of it in a page: collect, label, train, judge, deliver",
        },
        "tools": {
            "bundle": "inspect, unpack, add to, strip or list a bundle",
            "sign": "sign a bundle, so that devices can refuse others",
            "demo": "the whole line on small free data",
            "doctor": "what a project falls short of; else what is installed",
            "completion": "completion of commands for bash, zsh or fish",
        },
    }
)
COMMANDS: Mapping[str, str] = MappingProxyType(
    {name: what for commands in GROUPS.values() for name, what in commands.items()}
)
# What other tools call our commands
ELSEWHERE = MappingProxyType({"report": "evaluate", "val": "evaluate", "classify": "predict"})
RESUMED = ("build", "scan", "prepare", "train", "evaluate", "demo")  # they continue where they were stopped
TRAINING = ("build", "train", "demo")  # their threads share memory
ENDLESS = ("serve", "watch", "studio")  # they handle signals themselves
PACKAGE = Path(__file__).parent.parent
STOPPED = 130
BROKEN_PIPE = 141


def run() -> NoReturn:
    """The `catflap` program: answer the command line and exit with its code."""
    if not sys.warnoptions:  # warnings are for developers, who ask for them with PYTHONWARNINGS
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"  # in worker processes too
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that are not UTF-8 can be printed
    distributed = os.environ.get("WORLD_SIZE", "1") != "1"  # started by torchrun
    if command_of(sys.argv[1:]) in TRAINING:
        share_memory()
    # A distributed process may wait for another one in foreign code, where Python handles no signal.
    if command_of(sys.argv[1:]) not in ENDLESS and not distributed:
        end_in_order()
    code = main(sys.argv[1:])
    if code and distributed:
        # An orderly exit would wait for the other processes (NCCL), which wait for this one.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the reader may have gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str]) -> int:
    """Answer one command line and return the exit code; no exception gets out."""
    as_json = "--json" in argv
    try:
        if command_of(argv) in RESUMED:
            with answered_at_once(lambda: output.note("Stopping; what is done is kept.")):
                return _answer(list(argv))
        return _answer(list(argv))
    except CatflapError as error:
        return _fail(error, as_json)
    except ModuleNotFoundError as error:
        return _fail(missing_extra(error) or _bug(error), as_json)
    except KeyboardInterrupt as stop:
        kept = " Run the same command again to continue."
        output.note(f"Stopped.{kept if command_of(argv) in RESUMED else ''}")
        return stop.code if isinstance(stop, Ended) else STOPPED
    except BrokenPipeError:
        output.close_stdout()
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_refused_by_system(error), as_json)
    except MemoryError:
        return _fail(
            CatflapError("This machine is out of memory.", "Use fewer or smaller photos at once."), as_json
        )
    except Exception as error:
        return _fail(_bug(error), as_json)


def command_of(argv: Sequence[str]) -> str:
    """The command that a command line names; "" where it names none."""
    return next((word for word in argv if word != "--json"), "")


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command, with its description and its example."""
    module = import_module(f"catflap.cli.{command}")
    parser = _Parser(
        prog=f"catflap {command}", description=module.HELP, epilog=options.example(module.EXAMPLE)
    )
    module.arguments(parser)
    options.json_argument(parser)
    return parser


def _answer(argv: list[str]) -> int:
    name = command_of(argv)
    if name == "--version":
        print(f"catflap {VERSION}")
        return 0
    if name == "help" and len(argv) > 1:  # catflap help scan
        argv, name = [*argv[1:], "--help"], argv[1]
    if not argv or name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if not name:
        raise CatflapError("No command was named.", "Run: catflap --help")
    if name not in COMMANDS:
        meant = ELSEWHERE.get(name) or nearest(name, COMMANDS)
        raise CatflapError(
            f"There is no command {name!r}.",
            f"Did you mean: catflap {meant}" if meant else "Run: catflap --help",
        )
    parser = parser_of(name)
    argv.remove(name)
    args = parser.parse_args(with_settings(parser, name, argv, list(COMMANDS)))
    for named in (getattr(args, "bundle", None), getattr(args, "model", None), *getattr(args, "bundles", ())):
        _note_shipped(named)
    return int(import_module(f"catflap.cli.{name}").answer(args))


class _Parser(argparse.ArgumentParser):
    """A parser of a command or of a part of one; its usage errors are CatflapErrors with a suggestion."""

    def __init__(self, **given: Any) -> None:
        given = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **given}
        super().__init__(**given)

    def error(self, message: str) -> NoReturn:
        raise CatflapError(f"{message[:1].upper()}{message[1:]}.", self._fix(message))

    def _fix(self, message: str) -> str:
        unknown = re.match(r"unrecognized arguments: .*?(--[\w-]+)", message)
        if unknown and (meant := nearest(unknown[1], _option_strings(self))):
            return f"Did you mean: {meant}"
        if unknown and (others := _commands_with(unknown[1])):
            return f"{unknown[1]} is an option of: {', '.join(others)}."
        percent = re.search(r"invalid \w+ value: '([\d.]+) ?%'", message)
        if percent:
            return f"Use {float(percent[1]) / 100:g}."
        choice = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        if choice and (meant := nearest(choice[1], re.findall(r"[\w.:-]+", choice[2]))):
            return f"Did you mean: {meant}"
        if message.startswith("the following arguments are required") and "example:" in (self.epilog or ""):
            return f"For example: {' '.join((self.epilog or '').partition('example:')[2].split())}"
        return f"Run: {self.prog} --help"


def _commands_with(option: str) -> list[str]:
    """The commands that have an option."""
    found = []
    for name in COMMANDS:
        with suppress(ModuleNotFoundError):
            if option in _option_strings(parser_of(name)):
                found.append(f"catflap {name}")
    return found


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The long options of a parser and of its parts."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for part in action.choices.values():
                yield from _option_strings(part)


def _note_shipped(named: str | os.PathLike[str] | None) -> None:
    """Tell the user that a shipped bundle is meant where one of their own files has almost its name."""
    if named is None:
        return
    with suppress(OSError, ValueError):  # a name that no file can have: the command itself says so
        own = Path(f"{named}.catflap")
        if own.is_file() and not own.is_absolute() and not Path(named).is_file():
            from catflap.artifacts.bundle import SHIPPED

            if (SHIPPED / own).is_file():
                output.note(f"{named} is the shipped bundle; yours is {own}.")


def _help() -> str:
    """One screen: the commands by group, and how to begin."""
    lines = ["usage: catflap COMMAND ... [--json]   catflap COMMAND --help   catflap --version"]
    for group, commands in GROUPS.items():
        for name, what in commands.items():
            lines.append(f"{group:<6}  {name:<10}  {what}")
            group = ""
    return "\n".join([*lines, "start:  catflap build PHOTOS -o mine.catflap"])


def _fail(error: CatflapError, as_json: bool) -> int:
    if os.environ.get("CATFLAP_TRACEBACK"):
        import traceback

        traceback.print_exc()
    output.report(error, as_json)
    return 1 if isinstance(error, Refused) else 2


def _refused_by_system(error: OSError) -> CatflapError:
    """The operating system refused: no permission, no space, a name too long."""
    place = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
    return CatflapError(
        f"The system refuses{place}: {system_reason(error)}.",
        "Check the path, its permissions and the free space.",
    )


def _bug(error: Exception) -> CatflapError:
    """An unexpected exception as one line, with the innermost line of Catflap in its traceback."""
    place = ""
    step = error.__traceback__
    while step is not None:
        file = Path(step.tb_frame.f_code.co_filename)
        if file.is_relative_to(PACKAGE) and file != Path(__file__):
            place = f" at {file.relative_to(PACKAGE).as_posix()}:{step.tb_lineno}"
        step = step.tb_next
    message = " ".join(str(error).split())[:300]
    return CatflapError(
        f"This is a bug in Catflap: {type(error).__name__}{place}: {message or 'no message'}.",
        "Please report it; CATFLAP_TRACEBACK=1 before the command shows the traceback.",
    )
