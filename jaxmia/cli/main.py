"""The command line: parse, call, print."""

import dataclasses
import difflib
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro

from jaxmia._version import __version__
from jaxmia.cli.commands.audit import Audit
from jaxmia.cli.commands.bench import Bench
from jaxmia.cli.commands.cluster import Cluster
from jaxmia.cli.commands.doctor import Doctor
from jaxmia.cli.commands.evaluate import Evaluate, Validate
from jaxmia.cli.commands.fuse import Fuse
from jaxmia.cli.commands.init import Init
from jaxmia.cli.commands.leaderboard import Leaderboard, Submit
from jaxmia.cli.commands.match import Match
from jaxmia.cli.commands.report import Report
from jaxmia.cli.commands.run import Demo, Query, Run, Score, Train
from jaxmia.cli.commands.status import ShowStatus
from jaxmia.cli.options import parse_options
from jaxmia.cli.overrides import refuse_overrides, split_overrides
from jaxmia.errors import InputError, UsageError, visible
from jaxmia.runs.signals import Interrupted, interruptible


@dataclasses.dataclass
class Completion:
    """Prints a script that completes commands and options, those of the configuration too.

    Example: jaxmia completion bash > ~/.local/share/bash-completion/completions/jaxmia
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Which shell."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Prints."""
        refuse_overrides(overrides)
        commands: Any = Union[  # noqa: UP007  made of a list
            tuple(Annotated[with_all_options(name), tyro.conf.subcommand(name)] for name in COMMANDS)
        ]
        tyro.cli(commands, prog="jaxmia", args=["--tyro-print-completion", self.shell])


COMMANDS: dict[str, type] = {
    "demo": Demo,
    "init": Init,
    "run": Run,
    "train": Train,
    "query": Query,
    "score": Score,
    "match": Match,
    "audit": Audit,
    "fuse": Fuse,
    "report": Report,
    "status": ShowStatus,
    "evaluate": Evaluate,
    "validate": Validate,
    "submit": Submit,
    "leaderboard": Leaderboard,
    "cluster": Cluster,
    "bench": Bench,
    "doctor": Doctor,
    "completion": Completion,
}

_CONFIGURED = (Demo, Init, Run, Train, Query, Score, Match, Audit, Report, Bench, Doctor)


_SUMMARIES = {
    "demo": "the whole way on a small challenge that it makes",
    "init": "write a configuration to begin with",
    "run": "everything from the three files to a submission and a report",
    "train": "train shadow models, or one share of them",
    "query": "query the target",
    "score": "score the samples, write the submission",
    "match": "find the training recipe that looks most like the target's",
    "audit": "score each sample with the memberships of all others known",
    "fuse": "several runs of one challenge to one submission",
    "report": "a page that says how good the attack is expected to be",
    "status": "how far a run is",
    "evaluate": "AUC and TPR at FPR against a known truth",
    "validate": "check a submission by the rules of the server",
    "submit": "check a submission, then upload it",
    "leaderboard": "a practice leaderboard on this machine",
    "cluster": "job files for HTCondor or Slurm",
    "bench": "how fast this machine trains",
    "doctor": "is this machine fit: GPU, versions, memory, files",
    "completion": "completion of commands and options for your shell",
}


@dataclasses.dataclass
class _Everywhere:
    """What every command takes."""

    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print results, warnings and errors only."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; exits with 0 done, 1 bad input, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what the terminal cannot show
    try:
        with interruptible():
            _main(list(sys.argv[1:] if arguments is None else arguments))
            _flush_results()
    except (InputError, UsageError) as error:
        for line in str(error).split("\n"):
            print(f"jaxmia: {visible(line)}", file=sys.stderr)
        _drop_results()
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except Interrupted as stop:
        print(f"jaxmia: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        print("jaxmia: interrupted; the same command goes on from what is finished", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output is gone; flushing at exit must not complain again.
        _drop_results()
        sys.exit(1)


def _flush_results() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"standard output: cannot be written: {error.strerror}") from error


def _drop_results() -> None:
    """What is not printed by now stays so."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: Sequence[str]) -> tuple[Callable[[Sequence[str]], None], list[str]]:
    """The command that a command line (without `jaxmia`, `--help` and `--quiet`) names, and fields that it sets.

    Raises:
        UsageError: There is no such command, or its options are wrong.
        SystemExit: Its help was asked for, and printed.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(COMMANDS)}"
        raise UsageError(f"{name!r} is no command; {hint}")
    own, overrides = split_overrides(rest)
    if {"-h", "--help"} & set(own):
        description = inspect.getdoc(COMMANDS[name])
        tyro.cli(with_all_options(name), args=["--help"], prog=f"jaxmia {name}", description=description)
    elsewhere = ["--help", "--quiet", *(["--seed"] if COMMANDS[name] in _CONFIGURED else [])]
    return parse_options(name, COMMANDS[name], own, elsewhere), overrides


def with_all_options(name: str) -> type:
    """The command with the options that every command takes and, where it is configured, every field."""
    command = COMMANDS[name]
    fields: list = []
    if command in _CONFIGURED:
        from jaxmia.config import Config, load_config, template

        settings = Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
        defaults = load_config(template("demo")) if command is Demo else Config()
        fields = [("settings", settings, dataclasses.field(default=defaults))]
    made = dataclasses.make_dataclass(command.__name__, fields, bases=(_Everywhere, command), kw_only=True)
    made.__doc__ = command.__doc__
    return made


def _main(arguments: list[str]) -> None:
    from jaxmia.cli.display import output, show_messages

    show_messages(logging.WARNING if "--quiet" in arguments else logging.INFO)
    arguments = [argument for argument in arguments if argument != "--quiet"]
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        output(_overview())
    elif name == "--version":
        output(__version__)
    else:
        _refuse_nowhere()
        command, overrides = parse(arguments)
        command(overrides)


def _refuse_nowhere() -> None:
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise InputError("the working directory is gone; change to one that exists") from error


def _overview() -> str:
    lines = ["usage: jaxmia COMMAND [OPTIONS]; --help says more, --quiet: results only", ""]
    lines += [f"  {name:<12} {_SUMMARIES[name]}" for name in COMMANDS]
    lines += [
        "",
        "First: `jaxmia demo` shows the whole way; `jaxmia doctor` looks at this machine.",
        "Then: `jaxmia init own.yaml`, edit it, `jaxmia run --config own.yaml --out DIR`.",
    ]
    return "\n".join(lines)
