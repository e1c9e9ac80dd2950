"""The front of the command line: find the command, run it, and turn every error into a sentence.

Exit codes: 0 fine, 1 the answer is no, 2 usage or unusable input, 130 stopped by Ctrl-C, 143 by SIGTERM and
129 by SIGHUP.
A command's module is imported only when the command is used, so that `catflap --help` is instant.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from time import monotonic
from types import MappingProxyType
from typing import Any, NoReturn

from catflap.cli import options, output
from catflap.errors import CatflapError, Refused, missing_extra, system_reason
from catflap.version import VERSION

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "build": "walk the whole line, from photos to a verified bundle; resumable",
        "scan": "read labelled photos from folders, lists or archives into a manifest",
        "prepare": "give every photo of a manifest a role, without leaks, and pack a dataset",
        "audit": "find photos whose label may be wrong, for a person to decide",
        "review": "make pages of photos to decide on; carry out what was decided",
        "train": "train a classifier on a dataset",
        "evaluate": "measure a checkpoint or a bundle on photos it has not seen",
        "export": "turn a checkpoint into a bundle that a device can run",
        "bundle": "look into a bundle, unpack it, add variants to it or leave some out",
        "sign": "sign a bundle, so that devices can refuse what is not yours",
        "verify": "check that a bundle does on this machine what was tested",
        "predict": "judge photos with a bundle",
        "watch": "judge a camera, a stream, a video or a folder, frame by frame, and tell events",
        "serve": "answer over HTTP, with the Open Inference Protocol and a page for people",
        "drift": "say whether the field still looks like what a bundle was calibrated on",
        "web": "write the camera page with a bundle in it into a folder",
        "bench": "time a bundle on this machine",
        "compare": "set what learning needs beside what answering needs, measured",
        "trace": "print the ancestors of an artefact, back to the manifest of its photos",
        "demo": "show the whole line on small free data",
        "doctor": "say what is installed here and what to install",
    }
)
DESCRIPTION = "A folder of photos to a verified image classifier that decides on the device at the edge."
RESUMED = ("build", "scan", "prepare", "train", "evaluate", "demo")  # they go on where they were stopped
FOR_EVER = ("serve", "watch")  # they end by signals, and see to that themselves
STOPPED = 130
AGAIN = 2.0  # seconds in which a signal counts once: timeout(1) sends it to the process and to its group
BROKEN_PIPE = 141


def run() -> NoReturn:
    """The `catflap` program: answer the command line and leave with its exit code."""
    if not sys.warnoptions:  # warnings are for developers, who ask for them with PYTHONWARNINGS
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"  # in worker processes too
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that are not UTF-8 can be printed
    # under torchrun a process may wait for another in foreign code, where it would hear no signal
    if not {*sys.argv[1:3]} & {*FOR_EVER} and os.environ.get("WORLD_SIZE", "1") == "1":
        _end_in_order()
    code = main(sys.argv[1:])
    if code and os.environ.get("WORLD_SIZE", "1") != "1":
        # to part in order is to wait for the other processes (nccl), which wait for this one
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody may read it any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP, on which work is put away as on Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def _end_in_order() -> None:
    """Raise Ended on SIGTERM and on SIGHUP, unless whoever started this ignores them, as nohup does."""
    ours, last = os.getpid(), -AGAIN

    def end(number: int, frame: object) -> None:
        nonlocal last
        if os.getpid() != ours:  # a forked worker, for which nothing has changed
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif monotonic() - last >= AGAIN:
            last = monotonic()
            raise Ended(number)

    for name in ("SIGTERM", "SIGHUP"):  # Windows lacks the second
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)


def main(argv: Sequence[str]) -> int:
    """Answer one command line and return the exit code; no exception gets out."""
    as_json = "--json" in argv
    try:
        return _answer(list(argv))
    except CatflapError as error:
        return _fail(error, as_json)
    except ModuleNotFoundError as error:
        return _fail(missing_extra(error) or _bug(error), as_json)
    except KeyboardInterrupt as stop:
        kept = " What was finished is kept; run the same command again to go on."
        output.note(f"Stopped.{kept if {*argv[:2]} & {*RESUMED} else ''}")
        return stop.code if isinstance(stop, Ended) else STOPPED
    except BrokenPipeError:
        output.close_stdout()
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_refused_by_system(error), as_json)
    except MemoryError:
        return _fail(CatflapError("The memory of this machine is used up.", "Give it less at once."), as_json)
    except Exception as error:
        return _fail(_bug(error), as_json)


class _Parser(argparse.ArgumentParser):
    """A parser of a command or of a part of one; its usage errors are ours: what, then the fix."""

    def __init__(self, **given: Any) -> None:
        given = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **given}
        super().__init__(**given)

    def error(self, message: str) -> NoReturn:
        raise CatflapError(f"{message[:1].upper()}{message[1:]}.", f"Run: {self.prog} --help")


def _answer(argv: list[str]) -> int:
    if argv and argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv and argv[0] == "--version":
        print(f"catflap {VERSION}")
        return 0
    words = [word for word in argv if word != "--json"]
    if not words:
        raise CatflapError("No command was named.", "Run: catflap --help")
    if words[0] not in COMMANDS:
        raise _unknown(words[0])
    command = import_module(f"catflap.cli.{words[0]}")
    parser = _Parser(
        prog=f"catflap {words[0]}",
        description=command.HELP,
        epilog=options.example(command.EXAMPLE),
    )
    command.arguments(parser)
    options.json_argument(parser)
    argv.remove(words[0])
    args = parser.parse_args(argv)
    for named in (getattr(args, "bundle", None), getattr(args, "model", None), *getattr(args, "bundles", ())):
        _tell_shipped(named)
    return int(command.answer(args))


def _tell_shipped(named: str | os.PathLike[str] | None) -> None:
    """Say that a shipped bundle is meant where a person's own file is called almost so."""
    if named is None:
        return
    with suppress(OSError, ValueError):  # a name that no file can have: the command itself says so
        own = Path(f"{named}.catflap")
        if own.is_file() and not own.is_absolute() and not Path(named).is_file():
            from catflap.artifacts.bundle import SHIPPED

            if (SHIPPED / own).is_file():
                output.note(f"{named} is the shipped bundle; yours is {own}.")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    usage = "usage: catflap COMMAND ... [--json]\n       catflap COMMAND --help\n       catflap --version"
    start = "start:\n  catflap build PHOTOS -o mine.catflap\n  catflap predict mine.catflap new-photo.jpg"
    return "\n".join([usage, "", DESCRIPTION, "", *lines, "", start])


def _unknown(name: str) -> CatflapError:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    meant = f"Did you mean: catflap {near[0]}" if near else "Run: catflap --help"
    return CatflapError(f"There is no command {name!r}.", meant)


def _fail(error: CatflapError, as_json: bool) -> int:
    if os.environ.get("CATFLAP_TRACEBACK"):
        import traceback

        traceback.print_exc()
    output.report(error, as_json)
    return 1 if isinstance(error, Refused) else 2


def _refused_by_system(error: OSError) -> CatflapError:
    """No permission, no space, a name too long: nothing that we could have known before."""
    place = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
    return CatflapError(
        f"The system refuses{place}: {system_reason(error)}.",
        "Check the path, its permissions and the free space.",
    )


def _bug(error: Exception) -> CatflapError:
    """An exception that nobody foresaw, as one line with the place in our code where it passed."""
    place = ""
    step = error.__traceback__
    while step is not None:
        file = step.tb_frame.f_code.co_filename
        if f"{os.sep}catflap{os.sep}" in file and not file.endswith(f"cli{os.sep}main.py"):
            place = f" at {file.rpartition(f'{os.sep}catflap{os.sep}')[2]}:{step.tb_lineno}"
        step = step.tb_next
    said = " ".join(str(error).split())[:300]
    return CatflapError(
        f"This is a bug in Catflap: {type(error).__name__}{place}: {said or 'no message'}.",
        "Please report it; CATFLAP_TRACEBACK=1 before the command shows the traceback.",
    )
