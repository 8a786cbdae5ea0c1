"""Parses a command's own options, with one line for each mistake."""

import contextlib
import dataclasses
import difflib
import inspect
import io
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from rich.text import Text

from jaxmia.errors import UsageError


def parse_options(name: str, command: type, arguments: Sequence[str], elsewhere: Sequence[str]) -> Callable[..., None]:
    """Parses the options of a command.

    Args:
        name: Name of the command.
        command: Dataclass of the command.
        arguments: Arguments after the name, without fields of the configuration.
        elsewhere: Options that are parsed elsewhere, suggested if one of them is misspelled.

    Raises:
        UsageError: An option is unknown, one is missing, or a value cannot be read.
    """
    required = _options(command)
    given = [argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    for option in given:
        if option not in required:
            raise UsageError(f"{name}: {option}: unknown option{_suggestion(option, [*required, *elsewhere])}")
    missing = [option for option, needed in required.items() if needed and option not in given]
    example = f"; as in {match[1]}" if (match := re.search(r"Example: (.*)", inspect.getdoc(command) or "")) else ""
    if missing:
        raise UsageError(f"{name}: {' and '.join(missing)} missing{example}")
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed: Any
            parsed, rest = tyro.cli(command, args=list(arguments), prog=f"jaxmia {name}", return_unknown_args=True)
    except SystemExit as stop:
        raise UsageError(f"{name}: {_sentence(captured.getvalue())}{example}") from stop
    if rest:
        raise UsageError(f"{name}: {rest[0]!r}: one argument too many{example}")
    return parsed


def _options(command: type) -> dict[str, bool]:
    """Options of a command, without positional ones, and whether each is required."""
    kinds = typing.get_type_hints(command, include_extras=True)
    return {
        f"--{field.name.replace('_', '-')}": field.default is dataclasses.MISSING
        for field in dataclasses.fields(command)
        if tyro.conf.Positional not in getattr(kinds[field.name], "__metadata__", ())
    }


def _suggestion(option: str, options: Sequence[str]) -> str:
    close = difflib.get_close_matches(option, options, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; options are {', '.join(sorted(options))}"


def _sentence(box: str) -> str:
    """Text of tyro's framed message below its title, up to the next horizontal line."""
    body = Text.from_ansi(box).plain.partition("\n")[2].replace("│", " ")
    sections = (" ".join(section.split()) for section in re.split("[─-]{4,}", body))
    text = next(filter(None, sections), "wrong options")
    text = re.sub(r"^Missing from [^:]*: (\S+).*", r"\1 missing", text)
    text = re.sub(r"^Error parsing ", "", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: ", "not an integer: ", text)
    return text.removesuffix(".")
