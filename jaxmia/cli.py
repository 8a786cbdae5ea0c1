"""The command line: parse, call, print."""

import dataclasses
import difflib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from jaxmia import __version__
from jaxmia.commands.cluster import Cluster
from jaxmia.commands.judge import Evaluate, Validate
from jaxmia.commands.make import Demo, Query, Run, Score, Train
from jaxmia.commands.report import Report
from jaxmia.commands.share import Leaderboard, Submit
from jaxmia.errors import InputError, UsageError
from jaxmia.overrides import split_overrides

COMMANDS: dict[str, type] = {
    "demo": Demo,
    "run": Run,
    "train": Train,
    "query": Query,
    "score": Score,
    "report": Report,
    "evaluate": Evaluate,
    "validate": Validate,
    "submit": Submit,
    "leaderboard": Leaderboard,
    "cluster": Cluster,
}

_CONFIGURED = (Demo, Run, Train, Query, Score, Report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 done, 1 bad input, 2 wrong usage, 130 interrupted."""
    try:
        _main(list(sys.argv[1:] if arguments is None else arguments))
    except (InputError, UsageError) as error:
        for line in str(error).splitlines():
            print(f"jaxmia: {line}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("jaxmia: interrupted; the same command goes on from the last finished chunk", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; flushing at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _main(arguments: list[str]) -> None:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return
    if name == "--version":
        print(__version__)
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"{name!r} is no command; {hint}")
    command = COMMANDS[name]
    own, overrides = split_overrides(arguments[1:])
    if {"-h", "--help"} & set(own) and command in _CONFIGURED:
        own, command_class = ["--help"], _with_settings(command)
    else:
        command_class = command
    parsed = tyro.cli(command_class, args=own, prog=f"jaxmia {name}", description=inspect.getdoc(command))
    parsed(overrides)


def _overview() -> str:
    lines = ["usage: jaxmia COMMAND [OPTIONS]", "", "Membership inference with ensembles of shadow models.", ""]
    lines += [f"  {name:<12} {_first_line(command)}" for name, command in COMMANDS.items()]
    lines += [
        "",
        "First: `jaxmia demo` shows the whole way in three minutes.",
        "Then:  `jaxmia run --config configs/mini.yaml --out runs/mini`, with your own files in the configuration.",
        "`jaxmia COMMAND --help` says more, with an example.",
    ]
    return "\n".join(lines)


def _first_line(command: type) -> str:
    return (inspect.getdoc(command) or "").splitlines()[0]


def _with_settings(command: type) -> type:
    """The command with every field of the configuration, for its help."""
    from jaxmia.config import Config

    settings = Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    return dataclasses.make_dataclass(
        command.__name__, [("settings", settings, dataclasses.field(default=Config()))], bases=(command,)
    )
