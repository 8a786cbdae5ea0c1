"""Entry point of the command line: parses arguments, runs the command, prints errors."""

import dataclasses
import difflib
import functools
import gc
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

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

if TYPE_CHECKING:
    from jaxmia.config import Config


@dataclasses.dataclass
class Completion:
    """Prints a script that completes commands, options and configuration fields in your shell.

    Example: jaxmia completion bash > ~/.local/share/bash-completion/completions/jaxmia
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """Shell for which the script is printed."""

    def __call__(self, overrides: Sequence[str]) -> None:
        """Prints the script."""
        refuse_overrides(overrides)
        commands: Any = Union[  # noqa: UP007  built from a list
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

_CONFIGURED = (Demo, Init, Run, Train, Query, Score, Match, Audit, Report, Cluster, Bench, Doctor)


_SUMMARIES = {
    "demo": "run a complete attack on a small challenge that it builds",
    "init": "write a configuration to start from",
    "run": "go from the challenge's three files to a submission and a report",
    "train": "train the shadow models, or one shard of them",
    "query": "query the target",
    "score": "score the samples and write the submission",
    "match": "search for the target's training recipe",
    "audit": "score each sample with the memberships of all others known",
    "fuse": "combine several runs on one challenge into one submission",
    "report": "write an HTML report on the attack and its expected TPR",
    "status": "show the progress of a run",
    "evaluate": "compute AUC and TPR at FPR from the true memberships",
    "validate": "check a submission by the rules of the course's server",
    "submit": "check and upload a submission",
    "leaderboard": "run a practice leaderboard on this machine",
    "cluster": "write job files for HTCondor or Slurm",
    "bench": "measure how fast this machine trains",
    "doctor": "check this machine: GPU, versions, memory, files",
    "completion": "print a script for shell completion",
}


@dataclasses.dataclass
class _Everywhere:
    """Options that every command takes."""

    quiet: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print only results, warnings and errors."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 0 for success, 1 for bad input, 2 for wrong usage, 130 after an interruption."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may be unable to encode a path
    # Imports and JAX's tracing make many objects that stay; looking for cycles among them takes a tenth of the time.
    gc.set_threshold(20_000)
    try:
        with interruptible():
            _main(given)
            _flush_results()
    except (InputError, UsageError) as error:
        for line in str(error).split("\n"):
            print(f"jaxmia: {visible(line)}", file=sys.stderr)
        _drop_results()
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt as stop:
        named = isinstance(stop, Interrupted)
        line = str(stop) if named else "interrupted; the same command resumes"
        # a dry run stores nothing from which it could resume
        print(f"jaxmia: {line.partition(';')[0] if '--dry-run' in given else line}", file=sys.stderr)
        sys.exit(stop.exit_code if named else 130)
    except BrokenPipeError:
        # The reader of the output is gone; flushing at exit must not raise again.
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
    """Discards output that has not been written yet."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(arguments: Sequence[str]) -> tuple[Callable[[Sequence[str]], None], list[str]]:
    """Parses a command line without `jaxmia` and `--quiet` into a command and the fields that it sets.

    Raises:
        UsageError: There is no such command, or its options are wrong.
        SystemExit: Help was requested and has been printed.
    """
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"commands are {', '.join(COMMANDS)}"
        raise UsageError(f"{name!r} is not a command; {hint}")
    own, overrides = split_overrides(rest)
    if {"-h", "--help"} & set(own):
        description = inspect.getdoc(COMMANDS[name])
        tyro.cli(with_all_options(name), args=["--help"], prog=f"jaxmia {name}", description=description)
    elsewhere = ["--help", "--quiet", *(["--seed", "--section.field"] if COMMANDS[name] in _CONFIGURED else [])]
    return parse_options(name, COMMANDS[name], own, elsewhere), overrides


def with_all_options(name: str) -> type:
    """Adds to a command the common options and, if it takes a configuration, every field of it."""
    command = COMMANDS[name]
    fields: list = []
    if command in _CONFIGURED:
        from jaxmia.config import Config, load_config, template

        shown = _shown_config()
        settings: Any = Annotated[shown, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
        defaults = load_config(template("demo")) if command is Demo else Config()
        fields = [("settings", settings, dataclasses.field(default=shown.model_validate(defaults.model_dump())))]
    made = dataclasses.make_dataclass(command.__name__, fields, bases=(_Everywhere, command), kw_only=True)
    made.__doc__ = command.__doc__
    return made


@functools.cache
def _shown_config() -> type["Config"]:
    """The configuration with `match.augment` as texts of YAML, since tyro omits an empty list of sections."""
    from pydantic import BaseModel, Field, create_model

    from jaxmia.config import Config, MatchConfig

    def described(section: type[BaseModel], name: str, default: Any) -> Any:
        return Field(default=default, description=section.model_fields[name].description)

    augment = (tuple[str, ...], described(MatchConfig, "augment", ()))
    match = create_model("MatchConfig", __base__=MatchConfig, augment=augment)
    return create_model("Config", __base__=Config, match=(match, described(Config, "match", match())))


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
        raise InputError("the working directory no longer exists; change to another one") from error


def _overview() -> str:
    lines = ["usage: jaxmia COMMAND [OPTIONS]    (jaxmia COMMAND --help explains the options)", ""]
    lines += [f"  {name:<12} {_SUMMARIES[name]}" for name in COMMANDS]
    lines += [
        "",
        "First: `jaxmia demo` runs an example; `jaxmia doctor` checks this machine.",
        "Then: `jaxmia init own.yaml`, edit it, `jaxmia run --config own.yaml --out DIR`.",
    ]
    return "\n".join(lines)
